"""A positioner with a meter, on a real socket: it outlives the stations that talk to it, and remembers who told it what."""

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

TABLE = """
[identity]
pattern = "ACME"
[line]
timeout_s = 20.0
[channels.position]
doc = "Where it is told to be."
unit = "mm"
get = "POS?"
set = "POS {value!r}"
limits = [-10, 10]
[channels.a]
doc = "The position."
unit = "V"
get = "A?"
[instrument]
name = "positioner"
stop = ["STOP"]
safe = ["SAFE"]
"""


@dataclass(frozen=True)
class Line:
    """What was said to it, when (monotonic), and by which process."""

    at: float
    pid: int
    text: str

    @property
    def moves(self) -> bool:
        return not self.text.endswith("?")


class Device:
    def __init__(self, folder: Path, *, delay_s: float = 0.002) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.position = 0.0
        self.lines: list[Line] = []
        #: Called once, before the next reading is answered.
        self.before_answer: Callable[[], None] | None = None
        self._delay_s = delay_s
        self._table = folder / "positioner.toml"
        self._table.write_text(TABLE)
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def config(self) -> dict[str, Any]:
        address = f"TCPIP0::127.0.0.1::{self.listener.getsockname()[1]}::SOCKET"
        return {
            "driver": "scpi",
            "address": address,
            "options": {"table": str(self._table)},
            "call_timeout_s": 3.0,
        }

    def close(self) -> None:
        self.listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, (_, port) = self.listener.accept()
            except OSError:
                return
            owners = [it.pid for it in psutil.net_connections("tcp") if it.laddr and it.laddr.port == port and it.pid]
            pid = next((pid for pid in owners if pid != psutil.Process().pid), 0)
            threading.Thread(target=self._talk, args=(connection, pid), daemon=True).start()

    def _talk(self, connection: socket.socket, pid: int) -> None:
        with connection, connection.makefile("r") as lines:
            for line in lines:
                text = line.strip()
                self.lines.append(Line(time.monotonic(), pid, text))
                time.sleep(self._delay_s)
                answer = None
                if text == "*IDN?":
                    answer = "ACME,POSITIONER,1,1"
                elif text in ("POS?", "A?"):
                    hook, self.before_answer = (
                        (self.before_answer, None) if text == "A?" else (None, self.before_answer)
                    )
                    if hook is not None:
                        hook()
                    answer = repr(self.position)
                elif text.startswith("POS "):
                    self.position = float(text.split()[1])
                if answer is not None:
                    try:
                        connection.sendall(f"{answer}\n".encode())
                    except OSError:
                        return
