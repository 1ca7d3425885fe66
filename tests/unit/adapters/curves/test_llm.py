"""The adviser proposes, the picture decides. The endpoint is a small double of our own on this machine."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from adapters.curves.extract import Options, extract
from adapters.curves.llm import Adviser, AdviserOff, AdviserWrong, ask, confirmed
from adapters.curves.shapes import Box
from adapters.curves.ticks import Label, meanings

from .conftest import Drawing


class Double(BaseHTTPRequestHandler):
    """Answers every chat completion with `reply`."""

    reply = "{}"
    seen: list[dict[str, object]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Double.seen.append({"path": self.path, "key": self.headers["Authorization"], "model": body["model"]})
        answer = json.dumps({"choices": [{"message": {"content": Double.reply}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def adviser() -> Iterator[Adviser]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Double)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    Double.seen = []
    yield Adviser(f"http://127.0.0.1:{server.server_port}/v1", "double", "secret", timeout_s=5)
    server.shutdown()
    server.server_close()


LABELS = [Label(t, meanings(t, None), Box(0, 0, 1, 1), 1.0) for t in ("0", "5", "10")]


def test_without_a_key_the_method_is_off_and_says_what_to_set(drawing: Drawing) -> None:
    with pytest.raises(AdviserOff, match="OpenAI-compatible"):
        extract(drawing([(lambda x: x**2, (0, 0, 0))]), Options(method="llm"))


def test_the_key_and_the_model_are_sent(adviser: Adviser) -> None:
    Double.reply = 'Here it is: {"names": []}'
    assert ask(adviser, np.full((60, 60, 3), 255, np.uint8)) == {"names": []}
    assert Double.seen == [{"path": "/v1/chat/completions", "key": "Bearer secret", "model": "double"}]


def test_an_answer_without_json_is_refused(adviser: Adviser) -> None:
    Double.reply = "I cannot see a plot."
    with pytest.raises(AdviserWrong):
        ask(adviser, np.full((60, 60, 3), 255, np.uint8))


def test_an_axis_that_the_labels_confirm_is_taken() -> None:
    axis = confirmed({"scale": "linear", "min": 0, "max": 10}, LABELS, [0.0, 50.0, 100.0], 0, 100)
    assert (axis.v0, axis.v1) == (0, 10)


def test_an_axis_that_the_labels_contradict_is_refused() -> None:
    with pytest.raises(AdviserWrong, match="agree"):
        confirmed({"scale": "linear", "min": 0, "max": 20}, LABELS, [0.0, 50.0, 100.0], 0, 100)


def test_a_name_goes_to_the_curve_under_its_pixel(adviser: Adviser, drawing: Drawing) -> None:
    picture = drawing([(lambda x: x**2, (0, 0, 0))])
    at = extract(picture).curves[0].pixels[50].tolist()
    Double.reply = json.dumps({"names": [{"name": "Ciss", "at": at}]})
    assert extract(picture, Options(method="llm", adviser=adviser)).curves[0].name == "Ciss"
