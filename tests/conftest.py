"""Servers for the tests: embedded ones by default, given ones by address, or containers.

    pytest                                       nats-server and Postgres from the wheels, in temporary folders
    pytest --nats-url nats://user:pw@host:4222   a given NATS; its labledger streams are DELETED before each test
    pytest --postgres-url postgresql://admin@h/  a given Postgres; a database is made and dropped for each test
    pytest --containers                          both by testcontainers (needs a container engine)

A test that kills or restarts its server makes one of its own with `make_nats`, `make_cluster` or `make_postgres`.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

import nats
import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg import sql

from bus.roles import STREAMS
from labledger.embedded.cluster import Cluster
from labledger.embedded.nats_server import NatsServer
from labledger.embedded.postgres import OWNER, READER, Postgres
from tests.doubles.s3_servers import RcloneS3, SeaweedFS, make_bucket

# How long an example takes says how busy the machine is, and nothing about the code.
settings.register_profile("labledger", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("labledger")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("labledger")
    group.addoption("--nats-url", help="use this NATS server; its labledger streams are deleted before each test")
    group.addoption("--postgres-url", help="use this Postgres server, as a user who may create databases and roles")
    group.addoption("--containers", action="store_true", help="start NATS and Postgres with testcontainers")


class NatsLike(Protocol):
    """What tests use of a NATS server, ours or a given one."""

    @property
    def url(self) -> str: ...

    def options(self, user: str) -> dict[str, Any]:
        """The arguments of `nats.connect` for this user (role)."""
        ...


@dataclass(frozen=True)
class GivenNats:
    """A server that knows one user; all roles are that user."""

    url: str

    def options(self, user: str) -> dict[str, Any]:
        return {"servers": [self.url], "inbox_prefix": f"_INBOX_{user}"}


@pytest.fixture(autouse=True)
def _heard() -> None:
    """What earlier tests of this process told the loggers (a command line that ran here sets levels) is forgotten."""
    logging.getLogger().setLevel(logging.WARNING)
    for name in ["labledger", *(name for name in logging.root.manager.loggerDict if name.startswith("labledger."))]:
        logger = logging.getLogger(name)
        logger.setLevel(logging.NOTSET)
        logger.disabled, logger.propagate = False, True


@pytest.fixture
def make_nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., NatsServer]]:
    """Private nats-servers, started; arguments as of `NatsServer`."""
    made: list[NatsServer] = []

    def make(data_dir: Path | None = None, **options: Any) -> NatsServer:
        server = NatsServer(data_dir or tmp_path_factory.mktemp("nats"), **options)
        made.append(server)
        server.start()
        return server

    yield make
    for server in made:
        server.kill()  # nobody starts it again, and to write down all its consumers would take it half a second


@pytest.fixture
def make_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Cluster]]:
    """Private clusters of nats-servers (three unless told), started and healthy."""
    made: list[Cluster] = []

    def make(n: int = 3, **options: Any) -> Cluster:
        cluster = Cluster(tmp_path_factory.mktemp("cluster"), n, **options)
        made.append(cluster)
        cluster.start()
        return cluster

    yield make
    for cluster in made:
        cluster.stop()


@pytest.fixture
def make_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Postgres]]:
    """Private Postgres servers, started; arguments as of `Postgres`."""
    made: list[Postgres] = []

    def make(data_dir: Path | None = None, **options: Any) -> Postgres:
        server = Postgres(data_dir or tmp_path_factory.mktemp("postgres"), **options)
        made.append(server)
        server.start()
        return server

    yield make
    for server in made:
        server.stop()


@pytest.fixture(scope="session")
def _given_nats(request: pytest.FixtureRequest) -> Iterator[GivenNats | None]:
    if url := request.config.getoption("--nats-url"):
        yield GivenNats(url)
    elif request.config.getoption("--containers"):
        container = _container("nats:2.15-alpine", 4222).with_command("-js")
        with container:
            yield GivenNats(f"nats://{container.get_container_host_ip()}:{container.get_exposed_port(4222)}")
    else:
        yield None


def _container(image: str, port: int) -> Any:
    try:
        from testcontainers.core.container import DockerContainer  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise pytest.UsageError("--containers needs `pip install testcontainers` and a container engine") from error
    return DockerContainer(image).with_exposed_ports(port)


@pytest.fixture
def nats_server(_given_nats: GivenNats | None, make_nats: Callable[..., NatsServer]) -> NatsLike:
    """A NATS server without any stream, for this test alone (a fresh one takes about 50 ms)."""
    if _given_nats is None:
        return make_nats()
    asyncio.run(_delete_streams(_given_nats))
    return _given_nats


async def _delete_streams(server: GivenNats) -> None:
    connection = await nats.connect(**server.options("provisioner"))
    for stream in STREAMS:
        await connection.request(f"$JS.API.STREAM.DELETE.{stream}", b"", timeout=5)
    await connection.close()


@pytest.fixture(scope="session")
def postgres_admin_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Postgres server for the whole session, as one who may create databases."""
    if url := request.config.getoption("--postgres-url"):
        yield url
    elif request.config.getoption("--containers"):
        password = secrets.token_hex(8)
        container = _container("postgres:18-alpine", 5432).with_env("POSTGRES_PASSWORD", password)
        with container:
            host, port = container.get_container_host_ip(), container.get_exposed_port(5432)
            url = f"postgresql://postgres:{password}@{host}:{port}/postgres"
            for attempt in range(60):
                try:
                    psycopg.connect(url).close()
                    break
                except psycopg.OperationalError:
                    if attempt == 59:
                        raise
                    import time

                    time.sleep(0.5)
            yield url
    else:
        # Not durable against a crash of this machine; tests that kill Postgres make their own.
        server = Postgres(tmp_path_factory.mktemp("postgres"), durable=False)
        server.start()
        yield server.admin_url
        server.stop()


@dataclass(frozen=True)
class Database:
    url: str
    readonly_url: str


@pytest.fixture(scope="session")
def _test_passwords(postgres_admin_url: str) -> dict[str, str]:
    """The two roles, which belong to the server and not to a database."""
    passwords = {role: secrets.token_urlsafe(16) for role in (OWNER, READER)}
    with psycopg.connect(postgres_admin_url, autocommit=True) as connection:
        there = {row[0] for row in connection.execute("select rolname from pg_roles").fetchall()}
        for role, password in passwords.items():
            verb = sql.SQL("alter" if role in there else "create")
            connection.execute(
                sql.SQL("{} role {} login password {}").format(verb, sql.Identifier(role), sql.Literal(password))
            )
        connection.execute(f"alter role {READER} set default_transaction_read_only = on")
    return passwords


@pytest.fixture
def database(postgres_admin_url: str, _test_passwords: dict[str, str]) -> Iterator[Database]:
    """An empty database for this test, with the roles of a real one."""
    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(postgres_admin_url, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {} owner {}").format(sql.Identifier(name), sql.Identifier(OWNER)))
        connection.execute(sql.SQL("revoke all on database {} from public").format(sql.Identifier(name)))
        connection.execute(
            sql.SQL("grant connect on database {} to {}").format(sql.Identifier(name), sql.Identifier(READER))
        )

    def url(role: str) -> str:
        parts = urlsplit(postgres_admin_url)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=f"{role}:{_test_passwords[role]}@{host}", path=f"/{name}"))

    yield Database(url(OWNER), url(READER))
    with psycopg.connect(postgres_admin_url, autocommit=True) as connection:
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def postgres_url(database: Database) -> str:
    """An empty database for this test, as its owner."""
    return database.url


@pytest.fixture
def postgres_readonly_url(database: Database) -> str:
    """The same database as `postgres_url`, as the read-only role."""
    return database.readonly_url


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """A SeaweedFS with a bucket, for the whole session: started by the first test that wants it."""
    server = SeaweedFS(tmp_path_factory.mktemp("seaweedfs"))
    server.start()
    try:
        make_bucket(server)
        yield server
    finally:
        server.kill()  # nothing of it is needed any more, and in good order it would take 10 s


@pytest.fixture(scope="session")
def rclone_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RcloneS3]:
    """`rclone serve s3` with a bucket, for the whole session: a store that checks little."""
    server = RcloneS3(tmp_path_factory.mktemp("rclone"))
    server.start()
    try:
        make_bucket(server)
        yield server
    finally:
        server.kill()  # nothing of it is needed any more, and in good order it would take 10 s
