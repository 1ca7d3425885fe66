"""The frame itself: verdicts, interleaving, what a failure becomes. No server is started."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bench.__main__ import main
from bench.frame import Bench, Measured, PeerMissing, Row, judge, measure, rows, run_row, summary
from bench.load import Latencies, stream_sequence
from bench.machine import peak_rss_mb


def a_row(**changes: Any) -> Row:
    module = ModuleType("bench.rows.made_up")
    vars(module).update(name="made up", unit="x/s", floor=0.5, aim=0.8, reference_name="bare", higher_is_better=True)
    vars(module).update(reference=lambda bench: 100.0, ours=lambda bench: 60.0)  # pyright: ignore[reportUnknownLambdaType]
    vars(module).update(changes)
    return Row.of(module)


@pytest.mark.parametrize(
    ("value", "floor", "aim", "higher_is_better", "verdict"),
    [
        (0.8, 0.5, 0.8, True, "aim met"),
        (0.79, 0.5, 0.8, True, "floor met"),
        (0.49, 0.5, 0.8, True, "below floor"),
        (1.02, 1.05, 1.02, False, "aim met"),
        (1.04, 1.05, 1.02, False, "floor met"),
        (1.06, 1.05, 1.02, False, "below floor"),
        (7.9, None, 8.0, True, "below aim"),
        (9.9, 10.0, None, True, "below floor"),
        (10.0, 10.0, None, True, "floor met"),
        (1.0, None, None, True, "told"),
    ],
)
def test_a_value_is_judged_by_the_best_bound_it_meets(
    value: float, floor: float | None, aim: float | None, higher_is_better: bool, verdict: str
) -> None:
    assert judge(value, floor, aim, higher_is_better) == verdict


def test_a_ratio_is_that_of_the_medians_and_its_range_that_of_the_pairs() -> None:
    found = summary(a_row(), Measured(reference=[100.0, 200.0, 110.0], ours=[60.0, 100.0, 99.0]))
    assert (found["reference"], found["ours"], found["ratio"]) == (110.0, 99.0, 0.9)
    assert found["ranges"]["ratio"] == [0.5, 0.9]
    assert found["verdict"] == "aim met"


def test_an_absolute_row_is_judged_by_its_own_value() -> None:
    row = a_row(absolute=True, floor=100.0, aim=20.0, higher_is_better=False)
    found = summary(row, Measured(reference=[1.0], ours=[30.0]))
    assert (found["verdict"], found["ratio"]) == ("floor met", 30.0)


async def test_reference_and_ours_are_measured_in_turn(tmp_path: Path) -> None:
    calls: list[str] = []

    async def reference(bench: Bench) -> float:
        calls.append("A")
        return 1.0

    def ours(bench: Bench) -> float:
        calls.append("B")
        return 1.0

    await measure(a_row(reference=reference, ours=ours), Bench(tmp_path), 3, with_ours=True)
    assert "".join(calls) == "ABABAB"


async def test_only_the_first_server_mode_of_a_row_is_judged(tmp_path: Path) -> None:
    modes: list[str] = []

    def ours(bench: Bench) -> float:
        modes.append(bench.sync)
        return 10.0

    found = await run_row(a_row(ours=ours, syncs=("always", "default"), repeat=1), Bench(tmp_path), with_ours=True)
    assert modes == ["always", "default"]
    assert [result["verdict"] for result in found] == ["below floor", "told"]


async def test_a_row_that_breaks_or_lacks_its_peer_says_so_and_closes_what_it_opened(tmp_path: Path) -> None:
    closed: list[str] = []

    async def breaks(bench: Bench) -> float:
        async def make() -> str:
            return "server"

        await bench.once("server", make, closed.append)
        raise OSError("disk full")

    async def lacks(bench: Bench) -> float:
        raise PeerMissing("pip install it")

    bench = Bench(tmp_path)
    [broken] = await run_row(a_row(reference=breaks), bench, with_ours=True)
    [missing] = await run_row(a_row(reference=lacks), bench, with_ours=True)
    assert (broken["verdict"], broken["why"], closed) == ("failed", "OSError: disk full", ["server"])
    assert (missing["verdict"], missing["why"]) == ("missing", "pip install it")


async def test_a_peer_that_no_interpreter_has_is_missing(tmp_path: Path) -> None:
    with pytest.raises(PeerMissing, match="--peers-python"):
        await Bench(tmp_path).peer("bluesky_grid", ("no_such_package_here",), 3)


def test_every_row_of_the_folder_is_a_row_and_asks_for_something() -> None:
    found = rows()
    assert len(found) >= 12
    assert [row.key for row in found if row.floor is None and row.aim is None] == []


def test_an_unknown_row_is_refused_with_the_names_of_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--only", "replai"])
    assert stopped.value.code == 2
    assert "replay" in capsys.readouterr().err


def test_the_peak_memory_of_a_process_outlives_the_peak() -> None:
    code = "b = bytearray(120_000_000); b[:] = b'x' * len(b); del b; print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        peak_mb = peak_rss_mb(child.pid)
        child.communicate(b"\n")
    assert 120 < peak_mb < 400


def test_a_quantile_is_the_least_latency_that_covers_the_share() -> None:
    assert Latencies([float(k) for k in range(100, 0, -1)]).quantile(0.99) == 99.0
    assert Latencies([5.0]).quantile(0.5) == 5.0


def test_the_stream_sequence_is_read_from_both_forms_of_an_ack_subject() -> None:
    assert stream_sequence("$JS.ACK.EVT.rows.1.4711.3.1700000000.0") == 4711
    assert stream_sequence("$JS.ACK.hub.acc.EVT.rows.1.4711.3.1700000000.0.token") == 4711
