"""A double of an endpoint with a vision model, on this machine: it answers every chat completion with `reply`."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np

from tests.plots import BLACK, draw

KEY = "sk-of-the-tests"


@dataclass
class Vision:
    url: str = ""
    reply: str = "{}"
    status: int = 200
    seen: list[dict[str, object]] = field(default_factory=list[dict[str, object]])


@contextmanager
def vision() -> Iterator[Vision]:
    """The endpoint, until the block ends."""
    it = Vision()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            it.seen.append({"path": self.path, "key": self.headers["Authorization"], "model": body["model"]})
            answer = json.dumps({"choices": [{"message": {"content": it.reply}}]}).encode()
            self.send_response(it.status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    it.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield it
    finally:
        server.shutdown()
        server.server_close()


def half_read() -> bytes:
    """A plot of x squared whose y axis has only two labels left, too few for us alone to trust it."""
    image = cv2.imdecode(np.frombuffer(draw([(lambda x: x**2, BLACK)]), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    for top, bottom in ((110, 260), (330, 400)):
        image[top:bottom, :80] = 255
    good, png = cv2.imencode(".png", image)
    assert good
    return png.tobytes()


def advice(low: float, high: float, scale: str = "linear") -> str:
    """What a model says of its axes."""
    axis = {"scale": scale, "min": low, "max": high}
    return json.dumps({"x": {"scale": "linear", "min": 0, "max": 10}, "y": axis, "names": []})
