"""The text of a model for a circuit simulator: a library of one subcircuit."""

import re
from collections.abc import Sequence

from domain.spice import Capacitances, Model
from domain.spice_forms import DRIVE_FLOOR_V, softplus_text

#: Version of the text that `netlist` writes; it stands in the header of each library.
NETLIST_VERSION = 1


def spice_name(name: str) -> str:
    """A name that a simulator takes: letters, digits and _, not beginning with a digit."""
    word = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_")[:48] or "DEVICE"
    return word if word[0].isalpha() else f"X_{word}"


def _capacitance_lines(tag: str, a: str, b: str, c: str) -> list[str]:
    """i = C(v) dv/dt: a copy of the voltage lies on a constant 1 pF, and its current, times C/1 pF, flows between the two nodes.

    A copy of the *charge* on a constant capacitor conserves charge exactly, but its steps make ngspice shorten the time step until it
    gives up, for two of eight real devices before anything was switched; this got through with all of them.
    """
    return [
        f"E{tag} q{tag} 0 {a} {b} 1",
        f"C{tag} q{tag} w{tag} 1p",
        f"V{tag} w{tag} 0 0",
        f"B{tag} {a} {b} I = I(V{tag})*1e12*({c})",
    ]


def netlist(model: Model, name: str, header: Sequence[str] = ()) -> str:
    """The text of a `.lib` with one subcircuit: pins `d g s`, or `a k` of a diode. `header` becomes comment lines."""
    lines = ["* " + re.sub(r"[^\x20-\x7e]", "?", line) for line in header]
    name = spice_name(name)
    pairs = model.parameters()
    lines += ["*", "* parameters"]
    lines += [f"*   {p.name:<10} = {v:<16.9g} {p.unit:<8} {p.text}" for p, v in pairs]
    lines.append(f".subckt {name} {'a k' if model.form is None else 'd g s'}")
    # Names of ours may be words of the simulator (`is`, `lambda`, `c`), so values stand in the text and not in .param lines.
    known = {p.name: f"{v:.12g}" for p, v in pairs} | {"tnom": f"{model.tj_c:g}"}

    def filled(line: str) -> str:
        def value(match: re.Match[str]) -> str:
            word, _, factor = match.group(1).partition("*")
            return f"{float(known[word]) * float(factor):.12g}" if factor else f"({known[word]})"

        # Values go into parentheses, for signs, except in .model and R lines, which take plain numbers.
        text = re.sub(r"\{([^}]+)\}", value, line)
        return re.sub(r"\(([-+0-9.e]+)\)", r"\1", text) if line[0] in ".R" else text

    if model.form is not None:
        form = model.form
        if not form.primitive:
            a, b = ("di", "si") if form.name == "ekv" else ("d", "s")
            lines.append(filled(f"Bge ge 0 V = V(g,{b})+{{beta}}*max(-V({a},{b}),0)"))
            lines.append(filled(f"Bx x 0 V = V({a},{b})>=0?V({a},{b}):V({a},{b})/{{kappa}}"))
        lines += [filled(line) for line in form.lines]
        lines.append("Rleak g s 1e12")
    a, b = ("a", "k") if model.form is None else ("s", "d")
    if model.diode_power is not None:
        lines.append(filled(f"Bdu du 0 V = (V({a},{b})-{{v0}})/{{nv}}"))
        power = f"{{kd}}*pow({{nv}}*{softplus_text('V(du)')}+{DRIVE_FLOOR_V:g},{{ad}})"
        lines.append(filled(f"Bd1 {a} {b} I = V({a},{b})>0?{power}:0"))
    elif model.diode is not None:
        lines.append(f"D1 {a} {b} body")
        lines.append(filled(".model body d(is={is} n={nd} rs={rsd} tnom={tnom})"))
    caps = model.capacitances
    if model.form is not None or caps != Capacitances():
        if caps.cgd:
            lines += _capacitance_lines("gd", "d", "g", caps.cgd.expression("V(d,g)"))
        if caps.cds:
            lines += _capacitance_lines("ds", "d", "s", caps.cds.expression("V(d,s)"))
        if caps.cgs0 is not None:
            vary = f"+{caps.cgs1:.9g}*max(V(d,s),0)/(max(V(d,s),0)+{caps.cgs_v:.9g})" if caps.cgs1 else ""
            lines += (
                _capacitance_lines("gs", "g", "s", f"{caps.cgs0:.9g}{vary}") if vary else [f"Cgs g s {caps.cgs0:.9g}"]
            )
    lines.append(f".ends {name}")
    return "\n".join(lines) + "\n"
