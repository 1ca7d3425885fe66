"""The SCPI driver against pyvisa-sim, and what it says about a table that is wrong."""

import math
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.instruments.careful import Careful
from adapters.instruments.line import Line
from adapters.instruments.scpi import DATA, Driver, TableError, load_table
from domain.errors import Gone, InstrumentRefused, LeaseLost, NoAnswer, WrongAnswer

EXAMPLES = Path(__file__).parents[4] / "examples" / "instruments"
SCOPE = "TCPIP0::localhost::5025::SOCKET"

HEAD = """
[identity]
pattern = "SCOPE"
[line]
timeout_s = 0.05
[instrument]
stop = ["STOP"]
"""

CURVE = """
[channels.curve]
doc = "A curve."
type = "array"
unit = "V"
shape = [5]
get = "CURV?"
scale = 2.0
"""


@pytest.fixture
def scope(tmp_path: Path) -> Callable[[str], Driver]:
    def make(channels: str, head: str = HEAD, line: Line | None = None) -> Driver:
        table = tmp_path / "scope.toml"
        table.write_text(head + channels)
        driver = Driver(SCOPE, {"table": str(table), "sim": "demo"}, line)
        driver.open()
        return driver

    return make


def channel(text: str) -> str:
    return f'[channels.it]\ndoc = "It."\nunit = "V"\n{text}\n'


@pytest.mark.parametrize("path", sorted([*DATA.glob("*.toml"), *EXAMPLES.glob("*.toml")]), ids=lambda path: path.name)
def test_every_table_that_is_shipped_is_right(path: Path) -> None:
    if path.name == "station.toml":
        import tomllib

        from adapters.instruments.rack import InstrumentConfig, Rack

        configs = tomllib.loads(path.read_text())["stations"]["bench"]["instruments"]
        Rack({name: InstrumentConfig.model_validate(config) for name, config in configs.items()}).close()
        return
    assert load_table(str(path)).channels


def test_importing_the_driver_does_not_import_pyvisa() -> None:
    code = "import sys, adapters.instruments.scpi; print('pyvisa' in sys.modules)"
    root = Path(__file__).parents[4]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    "text, key, why",
    [
        ('unit = "V"', "channels.it", "needs `get`, `set` or both"),
        ('get = "A?"\nlimit = [0, 1]', "channels.it.limit", "Extra inputs"),
        ('set = "A 5"', "channels.it.set", "needs {value}"),
        ('set = "A {values}"', "channels.it.set", "no other braces"),
        ('set = "A {value:d}"', "channels.it", "does not fit a float"),
        ('get = "A?"\nlimits = [1, 0]', "channels.it", r"\[low, high\]"),
        ('get = "A?"\nscale = 0', "channels.it", "scale"),
        ('get = "A?"\ntype = "array"', "channels.it", "shape"),
        ('get = "A?"\nsettled_when = "("', "channels.it.settled_when", "regular expression"),
        ('get = "A?"\ntype = "double"', "channels.it.type", "'float'"),
    ],
)
def test_a_wrong_table_is_refused_with_its_path_and_key(tmp_path: Path, text: str, key: str, why: str) -> None:
    table = tmp_path / "wrong.toml"
    unit = "" if text.startswith("unit") else 'unit = "V"\n'
    table.write_text(f'[channels.it]\ndoc = "It."\n{unit}{text}\n')
    with pytest.raises(TableError, match=why) as raised:
        load_table(str(table))
    assert f"{table}: {key}: " in str(raised.value)


def test_a_table_that_is_no_toml_or_is_not_there_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "wrong.toml"
    table.write_text("[channels")
    with pytest.raises(TableError, match=r"wrong\.toml"):
        load_table(str(table))
    with pytest.raises(TableError, match="source_meter"):
        load_table("nothing_of_that_name")


def test_a_float_without_a_unit_and_a_channel_without_a_doc_are_refused(tmp_path: Path) -> None:
    table = tmp_path / "wrong.toml"
    table.write_text('[channels.it]\ndoc = "It."\nget = "A?"\n')
    with pytest.raises(TableError, match="unit"):
        load_table(str(table))
    table.write_text('[channels.it]\nunit = "V"\nget = "A?"\n')
    with pytest.raises(TableError, match=r"channels\.it\.doc"):
        load_table(str(table))


def test_a_comma_list_is_an_array_with_the_words_of_scpi_for_nan_and_overflow(scope: Callable[..., Driver]) -> None:
    curve = scope(CURVE).read(["curve"])["curve"]
    assert np.array_equal(curve, [2.0, 5.0, -6.0, math.nan, math.inf], equal_nan=True)


def test_a_binary_block_is_an_array(scope: Callable[..., Driver]) -> None:
    block = CURVE.replace('"CURV?"', '"CURV:BIN?"\narray = "block"\ndatatype = "B"')
    assert np.array_equal(scope(block).read(["curve"])["curve"], 2.0 * np.array([65.0, 66.0, 67.0, 68.0, 69.0]))


def test_an_array_of_another_length_is_a_wrong_answer(scope: Callable[..., Driver]) -> None:
    with pytest.raises(WrongAnswer, match="2 values"):
        scope(CURVE.replace("CURV?", "CURV:SHORT?")).read(["curve"])


def test_a_setter_that_answers_leaves_no_answer_behind(scope: Callable[..., Driver]) -> None:
    rate = channel('type = "int"\nget = "RATE?"\nset = "RATE {value}"\nset_answers = true')
    driver = scope(rate)
    assert driver.write("it", 7) == 7
    assert driver.read(["it"])["it"] == 7
    assert driver.identify() == "LABLEDGER,SCOPE,1,1.0"


def test_a_late_answer_is_not_taken_for_the_next_one(scope: Callable[..., Driver]) -> None:
    """The table forgot `set_answers`: everything that follows would be one answer behind."""
    driver = scope(channel('type = "int"\nget = "RATE?"\nset = "RATE {value}"'))
    driver.write("it", 8)
    with pytest.raises(WrongAnswer, match="OK"):
        driver.read(["it"])
    assert driver.read(["it"])["it"] == 8


def test_what_is_no_number_is_a_wrong_answer(scope: Callable[..., Driver]) -> None:
    with pytest.raises(WrongAnswer, match=r"1\.2E#3"):
        scope(channel('get = "BAD?"')).read(["it"])


def test_silence_is_no_answer_and_the_line_works_afterwards(scope: Callable[..., Driver]) -> None:
    driver = scope(channel('get = "STOP"\n[channels.rate]\ndoc = "R"\ntype = "int"\nget = "RATE?"'))
    with pytest.raises(NoAnswer):
        driver.read(["it"])
    assert isinstance(driver.read(["rate"])["rate"], int)


def test_another_device_or_none_at_the_address_is_gone(scope: Callable[..., Driver], tmp_path: Path) -> None:
    with pytest.raises(Gone, match="expected 'OTHER'"):
        scope(CURVE, head=HEAD.replace("SCOPE", "OTHER"))
    driver = Driver("GPIB0::30::INSTR", {"table": "multimeter", "sim": "demo"})
    with pytest.raises(Gone):
        driver.open()
    with pytest.raises(Gone, match="not open"):
        driver.identify()


def test_a_closed_session_is_gone(scope: Callable[..., Driver]) -> None:
    driver = scope(CURVE)
    driver.cut()
    with pytest.raises(Gone):
        driver.identify()


def test_an_error_in_the_queue_of_the_device_is_a_refusal() -> None:
    driver = Driver("GPIB0::24::INSTR", {"table": "source_meter", "sim": "demo"})
    driver.open()
    driver.write("voltage", 1.0)
    with pytest.raises(InstrumentRefused, match="-222"):
        driver.write("voltage", 99.0)
    assert driver.read(["voltage"])["voltage"] == 1.0


def test_safe_sends_what_the_table_says() -> None:
    driver = Driver("GPIB0::24::INSTR", {"table": "source_meter", "sim": "demo"})
    driver.open()
    driver.write("voltage", 2.0)
    driver.write("output", True)
    assert driver.read(["output"])["output"] is True
    driver.safe()
    assert driver.snapshot(["voltage", "output"]) == {"voltage": 0.0, "output": False}


def test_a_number_is_mapped_to_the_word_of_the_device() -> None:
    driver = Driver("GPIB0::8::INSTR", {"table": "lock_in", "sim": "demo"})
    driver.open()
    assert driver.write("time_constant", 0.3) == 0.3
    assert driver.read(["time_constant"])["time_constant"] == 0.3
    with pytest.raises(InstrumentRefused):
        driver.write("time_constant", 0.2)


def test_a_write_answers_the_value_as_it_was_formatted() -> None:
    driver = Driver("GPIB0::16::INSTR", {"table": "multimeter", "sim": "demo"})
    driver.open()
    assert driver.write("integration", 1.234) == 1.23
    assert driver.read(["integration"])["integration"] == 1.23


def test_init_is_not_sent_without_the_lease() -> None:
    def lost() -> None:
        raise LeaseLost("ran out")

    driver = Driver("GPIB0::16::INSTR", {"table": "multimeter", "sim": "demo"}, Line("it", lost))
    with pytest.raises(LeaseLost):
        driver.open()


def test_settled_and_readback_ask_what_the_table_says(scope: Callable[..., Driver]) -> None:
    text = (
        'type = "int"\nget = "RATE?"\nset = "RATE {value}"\nset_answers = true\nsettled = "RATE?"\nsettled_when = "^9$"'
    )
    driver = scope(channel(text + '\nreadback = "CURV?"'))
    driver.write("it", 5)
    assert not driver.settled("it")
    driver.write("it", 9)
    assert driver.settled("it")
    with pytest.raises(WrongAnswer):
        driver.readback("it")


def test_a_driver_without_a_read_back_query_has_no_read_back(scope: Callable[..., Any]) -> None:
    assert not hasattr(scope(CURVE), "readback")


class Server:
    """A SCPI device on a real socket, with pyvisa-py in between. It can be silent, and it can hang up."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"TCPIP0::127.0.0.1::{self.listener.getsockname()[1]}::SOCKET"
        self.voltage = 0.0
        self.writes = 0
        self.late_s: list[float] = []
        self.hang_up = False
        threading.Thread(target=self._serve, daemon=True).start()

    def hangs_up_after(self, writes: int) -> None:
        """At the next line. A write has no answer, so it may still be on its way when the caller goes on."""
        deadline = time.monotonic() + 5.0
        while self.writes < writes:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        self.hang_up = True

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection, connection.makefile("r") as lines:
            for line in lines:
                if self.hang_up:
                    self.hang_up = False
                    return
                answer = None
                if line.strip() == "*IDN?":
                    answer = "ACME,SOURCE,1,1"
                elif line.strip() == "ERR?":
                    answer = "0"
                elif line.strip() == "VOLT?":
                    answer = f"{self.voltage:.3f}"
                else:
                    self.voltage, self.writes = float(line.split()[1]), self.writes + 1
                if answer is not None:
                    time.sleep(self.late_s.pop() if self.late_s else 0.0)
                    connection.sendall(f"{answer}\n".encode())


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.listener.close()


@pytest.fixture
def source(server: Server, tmp_path: Path) -> Iterator[Careful]:
    table = tmp_path / "source.toml"
    table.write_text(
        '[identity]\npattern = "ACME"\n[line]\ntimeout_s = 0.15\n'
        '[channels.voltage]\ndoc = "V"\nunit = "V"\nget = "VOLT?"\nset = "VOLT {value:.3f}"\nlimits = [-5, 5]\n'
    )
    careful = Careful("source", Driver(server.address, {"table": str(table)}), Line())
    careful.open()
    yield careful
    careful.close()


def test_over_a_socket_an_answer_that_comes_too_late_is_thrown_away(server: Server, source: Careful) -> None:
    source.write("voltage", 1.25)
    server.late_s = [0.2]
    assert source.read(("voltage",))["voltage"] == 1.25
    source.write("voltage", 2.5)
    assert source.read(("voltage",))["voltage"] == 2.5


def test_over_a_socket_a_device_that_hung_up_is_opened_again(server: Server, source: Careful) -> None:
    source.write("voltage", 1.25)
    server.hangs_up_after(writes=1)
    assert source.read(("voltage",))["voltage"] == 1.25
    assert server.writes == 1


def test_over_a_socket_a_write_that_went_into_the_void_is_found_out(server: Server, source: Careful) -> None:
    """A socket does not notice; with a read-back at the next point, or an error query after the write, the rack does."""
    source.write("voltage", 1.25)
    server.hangs_up_after(writes=1)
    source.write("voltage", 2.5)
    assert source.read(("voltage",))["voltage"] == 1.25


def test_over_a_socket_a_device_that_checks_errors_notices_that_a_write_was_lost(
    server: Server, tmp_path: Path
) -> None:
    table = tmp_path / "checked.toml"
    table.write_text(
        '[identity]\npattern = "ACME"\n[line]\ntimeout_s = 0.15\n[instrument]\ncheck_errors = "ERR?"\n'
        '[channels.voltage]\ndoc = "V"\nunit = "V"\nget = "VOLT?"\nset = "VOLT {value:.3f}"\nlimits = [-5, 5]\n'
    )
    careful = Careful("source", Driver(server.address, {"table": str(table)}), Line())
    careful.open()
    careful.write("voltage", 1.25)
    server.hangs_up_after(writes=1)
    assert careful.write("voltage", 2.5) == 2.5
    assert server.voltage == 2.5 and server.writes == 2
    careful.close()


def test_over_a_socket_nobody_listening_is_gone(source: Careful) -> None:
    free = socket.create_server(("127.0.0.1", 0))
    port = free.getsockname()[1]
    free.close()
    driver = Driver(f"TCPIP0::127.0.0.1::{port}::SOCKET", {"table": "source_meter"})
    with pytest.raises(Gone):
        driver.open()
