"""Models for a circuit simulator: fitted by SciPy, judged by ngspice, drawn by Matplotlib.

Importing this package needs none of them; the extra `labledger[spice]` brings SciPy and Matplotlib, the system's package manager
ngspice (Debian: `apt install ngspice`).
"""
