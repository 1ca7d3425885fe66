"""ngspice as a program: the netlist of a model is run along the measured curves, and what comes back is compared with them.

No compatibility mode is set: a library of ours must read as it stands. A process of the simulator lives for one deck, is
killed with its whole group after `timeout_s`, and does not outlive us, even when we are killed with `kill -9`.
"""

import ctypes
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from domain.spice_curves import CAPACITANCES, Floats, Measured
from domain.spice_grade import Errors, errors

SWEEP_STEPS = 400
CAP_POINTS = 25
#: The tail of what the simulator said that goes into an error.
LOG_CHARACTERS = 1500


class SimulationFailed(Exception):
    """ngspice ran and did not finish, or gave no numbers; the text has the end of its log."""


@dataclass(frozen=True, eq=False)
class Simulated:
    """The simulated values at the places of each measured curve, and what they are worth."""

    errors: Errors
    values: tuple[Floats, ...]
    #: (v, c) of c_iss, c_oss, c_rss
    capacitances: dict[str, tuple[Floats, Floats]]
    version: str


@lru_cache(maxsize=1)
def ngspice_path() -> str | None:
    """The program, or None when this machine has none. `LABLEDGER_NGSPICE` is not read: put it on the PATH."""
    return shutil.which("ngspice")


@lru_cache(maxsize=4)
def ngspice_version(program: str) -> str:
    """Such as `ngspice-39.3`; `ngspice` when it does not say."""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20, check=False)
    found = re.search(r"ngspice-[\w.+]+", done.stdout + done.stderr)
    return found.group(0) if found else "ngspice"


def subcircuits(text: str) -> dict[str, list[str]]:
    """Name -> pins of every `.subckt`, in order of appearance."""
    joined = re.sub(r"\n[ \t]*\+", " ", text)
    out: dict[str, list[str]] = {}
    for match in re.finditer(r"^[ \t]*\.subckt[ \t]+(\S+)([^\n]*)$", joined, re.IGNORECASE | re.MULTILINE):
        pins: list[str] = []
        for word in match.group(2).split():
            if "=" in word or word.lower() == "params:":
                break
            pins.append(word)
        out[match.group(1)] = pins
    return out


def _cap_voltages(measured: Measured) -> list[float]:
    places: set[float] = set()
    for key in CAPACITANCES:
        if cv := measured.capacitances.get(key):
            spread = np.interp(np.linspace(0, 1, CAP_POINTS), np.linspace(0, 1, len(cv.v)), cv.v)
            places |= {float(v) for v in spread}
    return sorted(places)


def _deck(name: str, pins: str, measured: Measured) -> str:
    fet = {"d", "g", "s"} <= set(pins.split())
    node = {"d": "d", "g": "g", "s": "0", "a": "d", "k": "0"}
    lines = [
        "* measured curves of one device",
        ".include model.lib",
        f".temp {measured.tj_c:g}",
        ".options reltol=1e-4 abstol=1e-12 gmin=1e-13 itl1=500 itl2=200",
        f"X1 {' '.join(node.get(p, '0') for p in pins.split())} {name}",
        "VD d 0 0",
        *(["VG g 0 0"] if fet else []),
        ".control",
        "set wr_singlescale",
        "set numdgt=9",
    ]
    for index, c in enumerate(measured.curves):
        low, high = (
            (float(c.x[0]), float(c.x[-1])) if c.kind == "transfer" else (min(0.0, float(c.x[0])), float(c.x[-1]))
        )
        step = (high - low) / SWEEP_STEPS
        match c.kind:
            case "output":
                lines += [f"alter VG dc = {c.at:.9g}", f"dc VD {low:.9g} {high:.9g} {step:.9g}"]
                lines += [f"wrdata c{index}.txt -i(VD)"]
            case "transfer":
                lines += [f"alter VD dc = {c.at:.9g}", f"dc VG {low:.9g} {high:.9g} {step:.9g}"]
                lines += [f"wrdata c{index}.txt -i(VD)"]
            case "diode" if fet:
                lines += ["alter VG dc = 0", f"dc VD 0 {-high:.9g} {-high / SWEEP_STEPS:.9g}"]
                lines += [f"wrdata c{index}.txt i(VD)"]
            case "diode":
                lines += [f"dc VD 0 {high:.9g} {high / SWEEP_STEPS:.9g}", f"wrdata c{index}.txt -i(VD)"]
    if fet and measured.capacitances:
        f, omega = f"{measured.f_hz:.9g}", f"{2 * math.pi * measured.f_hz:.9g}"
        lines.append("alter VG dc = 0")
        for v in _cap_voltages(measured):
            lines += [
                f"alter VD dc = {v:.9g}",
                "alter @VD[acmag] = 1",
                "alter @VG[acmag] = 0",
                f"ac lin 1 {f} {f}",
                f"let co = abs(imag(i(VD)))/{omega}",
                f"let cr = abs(imag(i(VG)))/{omega}",
                f"echo CAP {v:.9g} $&co $&cr",
                "alter @VD[acmag] = 0",
                "alter @VG[acmag] = 1",
                f"ac lin 1 {f} {f}",
                f"let ci = abs(imag(i(VG)))/{omega}",
                f"echo CIS {v:.9g} $&ci",
            ]
    return "\n".join([*lines, "quit", ".endc", ".end", ""])


_PR_SET_PDEATHSIG = 1


def _ending_with_us() -> Callable[[], None] | None:
    """What the new process does before it becomes the simulator: it asks to be killed when the thread that started it, which waits
    for it, is gone. None where the kernel knows no such thing: then an orphan runs until its deck is done."""
    if not sys.platform.startswith("linux"):
        return None
    # Loaded here: between fork and exec nothing may be looked for.
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # killed before it was asked
            os._exit(1)

    return ask


def _run(program: str, folder: Path, timeout_s: float) -> str:
    # The working directory is fresh, so that no .spiceinit of a user changes how the deck is read.
    quiet = "* no compatibility mode\n"
    (folder / ".spiceinit").write_text(quiet)
    process = subprocess.Popen(
        [program, "-b", "deck.cir"],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=_ending_with_us(),
    )
    try:
        log, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise SimulationFailed(f"ngspice did not finish within {timeout_s:g} s") from error
    return log


def simulate(
    library: str,
    measured: Measured,
    *,
    subcircuit: str | None = None,
    pins: str | None = None,
    program: str | None = None,
    timeout_s: float = 60.0,
) -> Simulated:
    """Run the text of a `.lib` along the measured curves.

    `subcircuit` is its last one unless named; `pins` their order (`d g s`; `a k` of two pins). Raises SimulationFailed, and
    FileNotFoundError when there is no ngspice.
    """
    program = program or ngspice_path()
    if program is None:
        raise FileNotFoundError("ngspice is not installed (Debian: apt install ngspice)")
    found = subcircuits(library)
    name = subcircuit or (list(found)[-1] if found else None)
    real = next((k for k in found if name and k.lower() == name.lower()), None)
    if real is None:
        raise SimulationFailed(f"the library has no .subckt {name or ''}".rstrip())
    order = pins or ("d g s" if len(found[real]) >= 3 else "a k")
    with tempfile.TemporaryDirectory(prefix="labledger-spice-") as folder_name:
        folder = Path(folder_name)
        (folder / "model.lib").write_text(library)
        (folder / "deck.cir").write_text(_deck(real, order, measured))
        log = _run(program, folder, timeout_s)
        values: list[Floats] = []
        for index, curve in enumerate(measured.curves):
            try:
                table = np.loadtxt(folder / f"c{index}.txt", ndmin=2)
                x, y = table[:, 0], table[:, 1]
            except (OSError, ValueError, IndexError) as error:
                raise SimulationFailed(f"no result for {curve.label}: {log[-LOG_CHARACTERS:]}") from error
            if not np.isfinite(y).all() or len(y) < 2:
                raise SimulationFailed(f"no finite result for {curve.label}: {log[-LOG_CHARACTERS:]}")
            if curve.kind == "diode" and x[-1] < 0:
                x = -x
            rank = np.argsort(x)
            values.append(np.interp(curve.x, x[rank], y[rank]))
    simulated: dict[str, tuple[Floats, Floats]] = {}
    rows: dict[str, list[tuple[float, float]]] = {k: [] for k in CAPACITANCES}
    for line in log.splitlines():
        words = line.split()
        if words[:1] == ["CAP"] and len(words) == 4:
            rows["c_oss"].append((float(words[1]), float(words[2])))
            rows["c_rss"].append((float(words[1]), float(words[3])))
        if words[:1] == ["CIS"] and len(words) == 3:
            rows["c_iss"].append((float(words[1]), float(words[2])))
    decades: dict[str, float] = {}
    for key, cv in measured.capacitances.items():
        if "g" not in order.split():
            continue
        if not rows[key]:
            raise SimulationFailed(f"no result for {key}: {log[-LOG_CHARACTERS:]}")
        table = np.array(sorted(rows[key]), dtype=np.float64)
        v, c = table[:, 0], np.maximum(table[:, 1], 1e-18)
        away = np.log10(c) - np.interp(v, cv.v, np.log10(cv.c))
        decades[key] = float(np.sqrt(np.mean(away**2)))
        simulated[key] = (v, c)
    return Simulated(errors(measured, values, decades), tuple(values), simulated, ngspice_version(program))


def switches(library: str, measured: Measured, *, program: str | None = None, timeout_s: float = 30.0) -> bool:
    """Whether a transistor's library gets through a turn-on and a turn-off into a resistor: static curves do not tell whether
    its capacitances converge."""
    program = program or ngspice_path()
    if program is None:
        raise FileNotFoundError("ngspice is not installed (Debian: apt install ngspice)")
    name = list(subcircuits(library))[-1]
    top = max((c.top for c in measured.curves if c.kind != "diode"), default=10.0)
    gate = max((c.at for c in measured.of("output")), default=10.0)
    supply = 0.6 * max((float(cv.v[-1]) for cv in measured.capacitances.values()), default=50.0)
    deck = f"""* a turn-on and a turn-off
.include model.lib
.temp {measured.tj_c:g}
X1 d g 0 {name}
VS s 0 {supply:.6g}
RL s d {supply / max(0.3 * top, 1e-3):.6g}
VP p 0 pulse(0 {gate:.6g} 200n 10n 10n 1u 5u)
RG p g 10
.control
tran 2n 3u
meas tran on find v(d) at=1.1u
let last = time[length(time)-1]
echo TRAN $&last $&on
quit
.endc
.end
"""
    with tempfile.TemporaryDirectory(prefix="labledger-spice-") as folder_name:
        folder = Path(folder_name)
        (folder / "model.lib").write_text(library)
        (folder / "deck.cir").write_text(deck)
        try:
            log = _run(program, folder, timeout_s)
        except SimulationFailed:
            return False
    for line in log.splitlines():
        words = line.split()
        if words[:1] == ["TRAN"] and len(words) == 3:
            return float(words[1]) >= 2.99e-6 and float(words[2]) < 0.8 * supply
    return False
