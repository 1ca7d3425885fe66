"""Points per second of QCoDeS' dataset writer on a grid: measurement context with its defaults, 4 channels, zero delay.

The values are handed to `add_result` as plain floats (no `Parameter.get`, which would cost QCoDeS more). The clock
stops after the context has been left, that is when the rows are in SQLite, and the rows are counted.

    qcodes_grid.py SIDE DIR      prints {"value": points/s, ...}; the database and QCoDeS' home are in DIR
"""

import json
import os
import sys
import time
from pathlib import Path

CHANNELS = 4


def main(side: int, folder: Path) -> None:
    os.environ["HOME"] = os.environ["USERPROFILE"] = str(folder)  # before the import: QCoDeS reads and writes ~/.qcodes
    import qcodes
    from qcodes.dataset import Measurement, initialise_or_create_database_at, load_or_create_experiment
    from qcodes.parameters import ManualParameter

    initialise_or_create_database_at(str(folder / "bench.db"))
    experiment = load_or_create_experiment("bench", sample_name="sample")
    x, y = ManualParameter("x", unit="m"), ManualParameter("y", unit="m")
    channels = [ManualParameter(f"ch{k}", unit="V") for k in range(CHANNELS)]
    measurement = Measurement(exp=experiment)
    for axis in (x, y):
        measurement.register_parameter(axis)
    for channel in channels:
        measurement.register_parameter(channel, setpoints=(y, x))
    values = [k * 0.123 for k in range(CHANNELS)]
    started = time.perf_counter()
    with measurement.run() as datasaver:
        for j in range(side):
            for i in range(side):
                datasaver.add_result(
                    (y, j / side), (x, i / side), *((c, v) for c, v in zip(channels, values, strict=True))
                )
        dataset = datasaver.dataset
    took_s = time.perf_counter() - started
    for channel in channels:
        stored = dataset.get_parameter_data(channel)[channel.name][channel.name].size
        if stored != side * side:
            raise SystemExit(f"{channel.name} holds {stored} values of {side * side}")
    print(json.dumps({"value": side * side / took_s, "version": qcodes.__version__, "points": side * side}))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
