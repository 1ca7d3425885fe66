"""Points per second of PyMeasure's Worker on a grid with 4 channels, zero delay, each row flushed to its CSV file.

The clock runs inside the procedure, from the first point to the last (starting a Worker and stopping its recorder cost
a fixed time that a longer scan would not notice). The rows in the file are counted afterwards.

    pymeasure_csv.py SIDE DIR      prints {"value": points/s, ...}; the file is in DIR
"""

import json
import sys
import time
from pathlib import Path

import pymeasure
from pymeasure.experiment import IntegerParameter, Procedure, Results, Worker

CHANNELS = 4


class Grid(Procedure):
    side = IntegerParameter("Side", default=10)
    took_s = 0.0

    DATA_COLUMNS = ["y", "x", *(f"ch{k}" for k in range(CHANNELS))]

    def execute(self) -> None:
        side = int(self.side)
        emit, values = self.emit, {f"ch{k}": k * 0.123 for k in range(CHANNELS)}
        started = time.perf_counter()
        for j in range(side):
            for i in range(side):
                emit("results", {"y": j / side, "x": i / side, **values})
                if self.should_stop():
                    return
        self.took_s = time.perf_counter() - started


def main(side: int, folder: Path) -> None:
    path = folder / f"grid-{time.time_ns()}.csv"
    procedure = Grid(side=side)
    worker = Worker(Results(procedure, str(path)))
    worker.start()
    worker.join(timeout=300)
    if worker.is_alive() or procedure.status != Procedure.FINISHED:
        raise SystemExit(f"the procedure ended with status {procedure.status}")
    with path.open() as file:
        rows = sum(1 for line in file if line.strip() and not line.startswith("#")) - 1  # less the line of names
    if rows != side * side:
        raise SystemExit(f"the file holds {rows} rows of {side * side}")
    print(json.dumps({"value": rows / procedure.took_s, "version": pymeasure.__version__, "points": rows}))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
