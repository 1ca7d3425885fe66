"""The embedded servers, really started, killed and restarted; and what each NATS role may do on them."""

import asyncio
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import nats
import psycopg
import pytest
import pytest_asyncio
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeout

from bus.roles import STREAMS, Role, User, server_config
from labledger.embedded import nats_server
from labledger.embedded.cluster import Cluster
from labledger.embedded.errors import EmbeddedError
from labledger.embedded.guarded import free_port
from labledger.embedded.nats_server import NatsServer
from labledger.embedded.postgres import Postgres
from labledger.embedded.servers import Servers

REPOSITORY = Path(__file__).resolve().parents[2]


async def connect(server: NatsServer | Cluster, user: str) -> Client:
    async def ignore(_: Exception) -> None: ...  # refusals are told to this callback; the tests look at what happened

    return await nats.connect(**server.options(user), error_cb=ignore, reconnect_time_wait=0.05)  # type: ignore[arg-type]


async def settle(connection: Client) -> None:
    """Return when the server has seen all that was sent. Twice, because nats-py writes the first PING past what still
    waits in its own buffer, so that one `flush` after `subscribe` proves nothing."""
    await connection.flush()
    await connection.flush()


async def api(connection: Client, verb: str, body: dict[str, Any] | None = None, timeout: float = 2) -> dict[str, Any]:
    answer = await connection.request(f"$JS.API.{verb}", json.dumps(body or {}).encode(), timeout=timeout)
    return json.loads(answer.data)


async def make_streams(server: NatsServer) -> Client:
    provisioner = await connect(server, "provisioner")
    for name in STREAMS:
        config: dict[str, Any] = {"name": name, "subjects": [f"{name.lower()}.>"], "allow_direct": True}
        if name == "EVT":
            config["republish"] = {"src": "evt.>", "dest": "live.evt.>"}
        if name == "TIM":
            config["subjects"] = ["sched.>", "timer.>"]
        assert "error" not in await api(provisioner, f"STREAM.CREATE.{name}", config)
    return provisioner


@pytest_asyncio.fixture
async def lab(make_nats: Callable[..., NatsServer]) -> AsyncIterator[tuple[NatsServer, Client]]:
    """A server with all streams, and two dashboards."""
    server = make_nats(users={"dashboard-2": Role.DASHBOARD})
    provisioner = await make_streams(server)
    yield server, provisioner
    await provisioner.close()


async def stored(provisioner: Client, stream: str) -> int:
    return (await api(provisioner, f"STREAM.INFO.{stream}"))["state"]["messages"]


# --- what the roles may do -----------------------------------------------------------------------------------------------


async def test_a_publisher_sends_a_command_and_hears_that_it_is_stored(lab: tuple[NatsServer, Client]) -> None:
    server, provisioner = lab
    publisher = await connect(server, "publisher")
    ack = await publisher.request("cmd.scan.pause", b"{}", timeout=2, headers={"Nats-Msg-Id": "7"})
    assert json.loads(ack.data) == {"stream": "CMD", "seq": 1}
    again = await publisher.request("cmd.scan.pause", b"{}", timeout=2, headers={"Nats-Msg-Id": "7"})
    assert json.loads(again.data)["duplicate"] is True
    assert await stored(provisioner, "CMD") == 1
    await publisher.close()


@pytest.mark.parametrize("role", ["publisher", "dashboard", "auditor", "projections"])
async def test_whoever_does_not_decide_cannot_write_an_event(lab: tuple[NatsServer, Client], role: str) -> None:
    server, provisioner = lab
    client = await connect(server, role)
    with pytest.raises((NatsTimeout, NoRespondersError)):
        await client.request("evt.scan.1", b"{}", timeout=0.3)
    assert await stored(provisioner, "EVT") == 0
    await client.close()


@pytest.mark.parametrize("role", ["commands", "station"])
async def test_whoever_decides_writes_events(lab: tuple[NatsServer, Client], role: str) -> None:
    server, provisioner = lab
    client = await connect(server, role)
    assert json.loads((await client.request("evt.scan.1", b"{}", timeout=2)).data)["seq"] == 1
    assert await stored(provisioner, "EVT") == 1
    await client.close()


@pytest.mark.parametrize("role", ["dashboard", "auditor", "projections"])
async def test_whoever_only_reads_cannot_send_a_command(lab: tuple[NatsServer, Client], role: str) -> None:
    server, provisioner = lab
    client = await connect(server, role)
    with pytest.raises((NatsTimeout, NoRespondersError)):
        await client.request("cmd.scan.abort", b"{}", timeout=0.3)
    assert await stored(provisioner, "CMD") == 0
    await client.close()


async def test_permissions_alone_would_let_a_publisher_write_an_event_by_the_reply_of_a_command(tmp_path: Path) -> None:
    """Why the outside has accounts of its own. When this fails the server has mended it: simplify bus/roles.py."""
    inside = [User("provisioner", Role.PROVISIONER, "p"), User("projections", Role.PROJECTIONS, "p")]
    server = NatsServer(tmp_path)
    server.start()
    server.stop()
    (tmp_path / "plain.conf").write_text(
        f'listen: "127.0.0.1:{server.port}"\njetstream {{ store_dir: "{tmp_path}/js" }}\n' + server_config(inside)
    )
    from labledger.embedded.nats_server import nats_binary

    process = subprocess.Popen([nats_binary(), "-c", tmp_path / "plain.conf"], stderr=subprocess.DEVNULL)
    try:
        while socket.socket().connect_ex(("127.0.0.1", server.port)):
            await asyncio.sleep(0.01)
        server.users = {user.name: user for user in inside}
        provisioner = await make_streams(server)
        # projections may write to park.> and not to evt.>; it lives in the account of the streams.
        projections = await connect(server, "projections")
        await projections.publish("park.note", b"{}", reply="evt.scan.1")
        await settle(projections)
        await asyncio.sleep(0.1)
        assert await stored(provisioner, "EVT") == 1
        await projections.close()
        await provisioner.close()
    finally:
        process.terminate()
        process.wait()


async def test_a_reply_of_a_command_cannot_become_an_event(lab: tuple[NatsServer, Client]) -> None:
    server, provisioner = lab
    publisher = await connect(server, "publisher")
    await publisher.publish("cmd.scan.pause", b"{}", reply="evt.scan.1")
    await settle(publisher)
    await asyncio.sleep(0.2)
    assert await stored(provisioner, "CMD") == 1
    assert await stored(provisioner, "EVT") == 0
    await publisher.close()


@pytest.mark.parametrize("role", ["dashboard", "auditor", "publisher"])
async def test_what_is_read_cannot_be_sent_on_as_an_event_or_a_command(
    lab: tuple[NatsServer, Client], role: str
) -> None:
    server, provisioner = lab
    await provisioner.request("evt.scan.1", b"{}", timeout=2)
    reader = await connect(server, role)
    targets = ["evt.scan.2", "snap.scan.2", "park.x"] + ([] if role == "publisher" else ["cmd.scan.abort"])
    for target in targets:
        await reader.publish("$JS.API.DIRECT.GET.EVT.evt.scan.1", b"", reply=target)
        await reader.publish("$JS.API.STREAM.INFO.EVT", b"", reply=target)
    config = {"name": "c", "deliver_subject": "cmd.scan.abort", "ack_policy": "none"}
    await reader.publish("$JS.API.CONSUMER.CREATE.EVT.c", json.dumps({"stream_name": "EVT", "config": config}).encode())
    await settle(reader)
    await asyncio.sleep(0.3)
    assert [await stored(provisioner, name) for name in ("EVT", "CMD", "SNAP", "PARK")] == [1, 0, 0, 0]
    assert (await api(provisioner, "CONSUMER.NAMES.EVT"))["total"] == 0
    await reader.close()


@pytest.mark.parametrize("header", ["Nats-Trace-Dest"])
async def test_a_trace_of_a_command_cannot_become_an_event(lab: tuple[NatsServer, Client], header: str) -> None:
    server, provisioner = lab
    publisher = await connect(server, "publisher")
    await publisher.publish("cmd.scan.pause", b"{}", headers={header: "evt.scan.1"})
    await settle(publisher)
    await asyncio.sleep(0.2)
    assert await stored(provisioner, "EVT") == 0
    await publisher.close()


@pytest.mark.parametrize("role", [role.value for role in Role if role is not Role.PROVISIONER])
async def test_nobody_but_the_provisioner_changes_a_stream(lab: tuple[NatsServer, Client], role: str) -> None:
    server, provisioner = lab
    await provisioner.request("evt.scan.1", b"{}", timeout=2)
    before = await api(provisioner, "STREAM.INFO.EVT")
    client = await connect(server, role)
    config = {"name": "EVT", "subjects": ["evt.>"], "max_msgs": 1, "discard": "old"}
    for verb, body in (
        ("STREAM.CREATE.MINE", {"name": "MINE", "subjects": ["mine.>"]}),
        ("STREAM.UPDATE.EVT", config),
        ("STREAM.PURGE.EVT", {}),
        ("STREAM.MSG.DELETE.EVT", {"seq": 1}),
        ("STREAM.DELETE.EVT", {}),
    ):
        with pytest.raises((NatsTimeout, NoRespondersError)):
            await api(client, verb, body, timeout=0.15)
    after = await api(provisioner, "STREAM.INFO.EVT")
    assert (after["config"], after["state"]) == (before["config"], before["state"])
    assert (await api(provisioner, "STREAM.NAMES"))["total"] == len(STREAMS)
    await client.close()


@pytest.mark.parametrize("role", ["publisher", "dashboard", "auditor"])
async def test_the_outside_reads_events_in_batches_and_live(lab: tuple[NatsServer, Client], role: str) -> None:
    server, provisioner = lab
    for i in range(5):
        await provisioner.request("evt.scan.1", str(i).encode(), timeout=2)
    reader = await connect(server, role)
    inbox = reader.new_inbox()
    answers = await reader.subscribe(inbox)
    live = await reader.subscribe("live.evt.>")
    await settle(reader)
    ask = {"seq": 2, "batch": 3, "next_by_subj": "evt.>"}
    await reader.publish("$JS.API.DIRECT.GET.EVT", json.dumps(ask).encode(), reply=inbox)
    batch = [await answers.next_msg(timeout=2) for _ in range(3)]
    assert [(m.data, (m.headers or {})["Nats-Sequence"]) for m in batch] == [(b"1", "2"), (b"2", "3"), (b"3", "4")]
    await provisioner.request("evt.scan.9", b"new", timeout=2)
    heard = await live.next_msg(timeout=2)
    assert (heard.subject, heard.data, (heard.headers or {})["Nats-Sequence"]) == ("live.evt.scan.9", b"new", "6")
    await reader.close()


async def test_an_event_that_was_refused_is_not_heard_live(lab: tuple[NatsServer, Client]) -> None:
    server, provisioner = lab
    dashboard = await connect(server, "dashboard")
    live = await dashboard.subscribe("live.evt.>")
    raw = await dashboard.subscribe("evt.>")
    await settle(dashboard)
    stale = {"Nats-Expected-Last-Subject-Sequence": "9"}
    refused = await provisioner.request("evt.scan.1", b"{}", timeout=2, headers=stale)
    assert json.loads(refused.data)["error"]["err_code"] == 10071
    for listening in (live, raw):
        with pytest.raises(NatsTimeout):
            await listening.next_msg(timeout=0.2)
    await dashboard.close()


async def test_one_dashboard_cannot_listen_to_another_ones_answers(lab: tuple[NatsServer, Client]) -> None:
    server, provisioner = lab
    await provisioner.request("evt.scan.1", b"{}", timeout=2)
    first, second = await connect(server, "dashboard"), await connect(server, "dashboard-2")
    for subject in ("_INBOX_dashboard.>", "_INBOX_dashboard.*", "_INBOX.>", ">"):
        await second.subscribe(subject, cb=_fail)
    await settle(second)
    assert (await first.request("$JS.API.DIRECT.GET.EVT.evt.scan.1", b"", timeout=2)).data == b"{}"
    await asyncio.sleep(0.1)
    assert second.stats["in_msgs"] == 0
    await first.close()
    await second.close()


async def _fail(message: Any) -> None:
    raise AssertionError(f"heard {message.subject}")


async def test_the_outcome_of_a_command_reaches_the_inbox_of_its_sender(lab: tuple[NatsServer, Client]) -> None:
    server, _ = lab
    publisher, commands = await connect(server, "publisher"), await connect(server, "commands")
    inbox = publisher.new_inbox()
    outcomes = await publisher.subscribe(inbox)
    await settle(publisher)
    await commands.publish(inbox, b"accepted")
    assert (await outcomes.next_msg(timeout=2)).data == b"accepted"
    await publisher.close()
    await commands.close()


async def test_a_worker_consumes_and_acknowledges(lab: tuple[NatsServer, Client]) -> None:
    server, provisioner = lab
    await provisioner.request("cmd.scan.pause", b"{}", timeout=2)
    commands = await connect(server, "commands")
    consumer = await commands.jetstream().pull_subscribe("cmd.scan.>", durable="scan", stream="CMD")
    (message,) = await consumer.fetch(1, timeout=2)
    await message.ack_sync(timeout=2)
    assert (await api(provisioner, "CONSUMER.INFO.CMD.scan"))["num_ack_pending"] == 0
    await commands.close()


async def test_a_wrong_password_and_no_password_are_refused(make_nats: Callable[..., NatsServer]) -> None:
    server = make_nats()
    for secret in ({"user": "commands", "password": "guess"}, {}):
        with pytest.raises(NatsError):
            await nats.connect(server.url, allow_reconnect=False, connect_timeout=1, error_cb=_quiet, **secret)


async def _quiet(_: Exception) -> None: ...


# --- NATS: life and death ---------------------------------------------------------------------------------------------------


async def test_an_acknowledged_message_survives_kill_9_of_nats_on_the_same_port(
    make_nats: Callable[..., NatsServer],
) -> None:
    server = make_nats()
    provisioner = await make_streams(server)
    await provisioner.request("evt.scan.1", b"kept", timeout=2)
    port, pid = server.port, server.pid
    os.kill(pid, signal.SIGKILL)
    while server.running:
        await asyncio.sleep(0.01)
    server.start()
    assert (server.port, server.pid == pid) == (port, False)
    while not provisioner.is_connected:
        await asyncio.sleep(0.05)
    assert (await provisioner.request("$JS.API.DIRECT.GET.EVT.evt.scan.1", b"", timeout=2)).data == b"kept"
    await provisioner.close()


def test_port_and_passwords_are_remembered(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as first:
        told = (first.url, first.users)
    with NatsServer(tmp_path) as again:
        assert (again.url, again.users) == told


def test_files_with_passwords_are_private(tmp_path: Path) -> None:
    with Servers(tmp_path / "lab"):
        for name in ("connection.json", "nats/server.json", "nats/nats.conf", "postgres/server.json"):
            assert (tmp_path / "lab" / name).stat().st_mode & 0o777 == 0o600, name


def test_a_port_that_somebody_took_is_told_with_its_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NatsServer, "port_patience_s", 0.2)
    port = free_port()
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(EmbeddedError, match=f"port {port} .* another program .* LABLEDGER_NATS_PORT"):
            NatsServer(tmp_path, port).start()


async def test_a_stranger_on_the_port_that_was_found_is_not_taken_for_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with NatsServer(tmp_path / "stranger") as stranger:
        found = iter((stranger.port, free_port()))
        monkeypatch.setattr(nats_server, "free_port", lambda: next(found))
        with NatsServer(tmp_path / "ours") as ours:
            assert ours.port != stranger.port
            await (await connect(ours, "commands")).close()


def test_why_a_server_does_not_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedError, match=r"ended while starting(.|\n)*sync_interval"):
        NatsServer(tmp_path, sync_interval="never").start()


async def test_a_cluster_of_three_goes_on_when_the_leader_is_killed(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(3, sync_interval="2m")
    provisioner = await connect(cluster, "provisioner")
    made = await api(
        provisioner, "STREAM.CREATE.EVT", {"name": "EVT", "subjects": ["evt.>"], "num_replicas": 3}, timeout=10
    )
    assert "error" not in made
    await provisioner.request("evt.scan.1", b"1", timeout=5)
    leader = cluster.leader("EVT")
    assert leader is not None
    cluster.kill(leader)
    end = time.monotonic() + 30
    while cluster.leader("EVT") in (None, leader):
        assert time.monotonic() < end
        await asyncio.sleep(0.1)
    while True:
        try:
            ack = json.loads((await provisioner.request("evt.scan.1", b"2", timeout=1)).data)
            break
        except (NatsTimeout, NoRespondersError, NatsError):
            assert time.monotonic() < end
            await asyncio.sleep(0.1)
    assert ack["seq"] >= 2
    cluster.start()
    assert all(server.running for server in cluster.servers)
    await provisioner.close()


# --- Postgres -------------------------------------------------------------------------------------------------------------------


def test_committed_rows_survive_kill_9_of_all_of_postgres(make_postgres: Callable[..., Postgres]) -> None:
    server = make_postgres()
    with psycopg.connect(server.url) as connection:
        connection.execute("create table point (n int)")
        connection.execute("insert into point values (7)")
    held = psycopg.connect(server.url)
    port = server.port
    server.kill()
    assert not server.running
    with pytest.raises(psycopg.OperationalError):
        held.execute("select 1")
    server.start()
    assert server.port == port
    with psycopg.connect(server.url) as connection:
        assert connection.execute("select n from point").fetchall() == [(7,)]


def test_a_killed_postmaster_leaves_no_backend_behind(make_postgres: Callable[..., Postgres]) -> None:
    server = make_postgres(durable=False)
    with psycopg.connect(server.url) as held:
        backend = held.info.backend_pid
        os.kill(server.pid, signal.SIGKILL)
        end = time.monotonic() + 10
        while server.running or _runs(backend):
            assert time.monotonic() < end
            time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_pid_file_whose_number_somebody_else_has_by_now_does_not_stop_postgres(tmp_path: Path) -> None:
    server = Postgres(tmp_path, durable=False)
    server.start()
    server.kill()
    pid_file = tmp_path / "data" / "postmaster.pid"
    bystander = subprocess.Popen(
        ["sleep", "60"], user=pid_file.stat().st_uid if os.geteuid() == 0 else None, start_new_session=True
    )
    try:
        lines = pid_file.read_text().splitlines()
        pid_file.write_text("\n".join([str(bystander.pid), *lines[1:]]) + "\n")
        server.start()
        server.stop()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_crash_in_the_middle_of_making_the_database_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "data.new" / "base").mkdir(parents=True)
    (tmp_path / "data.new" / "PG_VERSION").write_text("18\n")
    with Postgres(tmp_path, durable=False) as server:
        with psycopg.connect(server.url) as connection:
            assert connection.execute("select current_database()").fetchone() == ("labledger",)


def test_the_reader_writes_nothing_and_postgres_listens_on_loopback_only(
    make_postgres: Callable[..., Postgres],
) -> None:
    server = make_postgres(durable=False)
    with psycopg.connect(server.url) as owner:
        owner.execute("create table point (n int)")
    with psycopg.connect(server.readonly_url, autocommit=True) as reader:
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            reader.execute("create temp table mine (n int)")
        reader.execute("set default_transaction_read_only = off")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute("insert into point values (1)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute("create table mine (n int)")
    with psycopg.connect(server.admin_url) as admin:
        shown = admin.execute(
            "select current_setting('listen_addresses'), current_setting('unix_socket_directories')"
        ).fetchone()
        assert shown == ("127.0.0.1", "")
    with pytest.raises(psycopg.OperationalError, match=r"password authentication failed|no password supplied"):
        psycopg.connect(f"postgresql://labledger:wrong@127.0.0.1:{server.port}/labledger")


@pytest.mark.skipif(os.geteuid() != 0, reason="about being root")
def test_as_root_postgres_runs_as_somebody_else_and_opens_no_folder(tmp_path: Path) -> None:
    barred = tmp_path / "barred"
    barred.mkdir(mode=0o700)
    with Servers(barred / ("long-" * 30) / "lab", which="postgres") as servers:
        assert servers.postgres is not None
        assert Path(f"/proc/{servers.postgres.pid}").stat().st_uid != 0
    assert barred.stat().st_mode & 0o777 == 0o700


WITHOUT_ROOT = """
import sys
from pathlib import Path
from labledger.guard import become

# The tests may lie in a folder of root; the capability to read it is all that is kept of being root.
become((int(sys.argv[2]), int(sys.argv[3])), 2 if sys.platform == "linux" else None)
from labledger.embedded.servers import Servers

with Servers(Path(sys.argv[1])) as servers:
    print(servers.postgres.pid, servers.nats.pid, flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else; else all tests run without root")
def test_without_root_all_runs_as_that_user(tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    words = [sys.executable, "-c", WITHOUT_ROOT, str(home / "lab"), str(nobody.pw_uid), str(nobody.pw_gid)]
    process = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY, env={"PYTHONDONTWRITEBYTECODE": "1"}
    )
    assert process.stdout is not None
    pids = [int(word) for word in process.stdout.readline().split()]
    assert [Path(f"/proc/{pid}").stat().st_uid for pid in pids] == [nobody.pw_uid] * 2
    process.communicate(timeout=20)
    assert process.returncode == 0


# --- the whole folder -------------------------------------------------------------------------------------------------------------

PROGRAM = """
import sys, threading
from pathlib import Path
from labledger.embedded.servers import Servers

servers = Servers(Path(sys.argv[1]))
# On a thread that ends: the servers must not end with it.
thread = threading.Thread(target=servers.start)
thread.start()
thread.join()
print(servers.nats.pid, servers.postgres.pid, flush=True)
sys.stdin.read()
"""


def _start_program(folder: Path) -> tuple["subprocess.Popen[str]", list[int]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=REPOSITORY, env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert process.stdout is not None
    return process, [int(word) for word in process.stdout.readline().split()]


def test_servers_end_when_their_process_is_killed_and_start_again_on_the_same_folder(tmp_path: Path) -> None:
    process, pids = _start_program(tmp_path)
    connection = (tmp_path / "connection.json").read_text()
    time.sleep(0.7)  # beyond the guard's own interval, so that a server that was tied to a thread would be gone
    assert all(_runs(pid) for pid in pids)
    process.kill()
    process.wait()
    # At once: the old servers may still be on their way out.
    with Servers(tmp_path) as servers:
        assert not any(_runs(pid) for pid in pids)
        assert json.loads(connection) == servers.connection


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other kernels have no death signal")
def test_servers_end_when_their_guards_are_killed(tmp_path: Path) -> None:
    process, pids = _start_program(tmp_path)
    guards = [int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in pids]
    for guard in guards:
        os.kill(guard, signal.SIGKILL)
    end = time.monotonic() + 10
    while any(_runs(pid) for pid in pids):
        assert time.monotonic() < end
        time.sleep(0.02)
    process.communicate()


def test_one_folder_is_run_by_one_process(tmp_path: Path) -> None:
    process, _ = _start_program(tmp_path)
    with pytest.raises(EmbeddedError, match=f"in use: labledger runs on it as process {process.pid}"):
        Servers(tmp_path).start()
    process.communicate()


def test_nor_twice_by_the_same_process(tmp_path: Path) -> None:
    with Servers(tmp_path, which="nats"):
        with pytest.raises(EmbeddedError, match="in use by this very process"):
            Servers(tmp_path, which="nats").start()
    with Servers(tmp_path, which="nats"):
        pass


def test_connection_json_lets_every_role_in(tmp_path: Path) -> None:
    with Servers(tmp_path):
        told = json.loads((tmp_path / "connection.json").read_text())
        assert told["version"] == 1
        assert sorted(told["nats"]["users"]) == sorted(role.value for role in Role)

        async def sign_in() -> None:
            for user in told["nats"]["users"].values():
                client = await nats.connect(
                    told["nats"]["url"],
                    user=user["user"],
                    password=user["password"],
                    inbox_prefix=user["inbox_prefix"],
                    allow_reconnect=False,
                )
                await settle(client)
                await client.close()

        asyncio.run(sign_in())
        for url in (told["postgres"]["url"], told["postgres"]["readonly_url"]):
            psycopg.connect(url).close()
