"""A process of ours starts quickly: it loads and makes only what it uses. Looked at in a process that is fresh."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]


def in_a_fresh_process(code: str) -> Any:
    words = [sys.executable, "-c", textwrap.dedent(code)]
    return json.loads(subprocess.run(words, cwd=ROOT, capture_output=True, check=True, text=True).stdout)


def test_a_role_starts_without_web_sockets_and_makes_validators_when_it_needs_them() -> None:
    found = in_a_fresh_process(
        """
        import json, sys
        from domain.events import COMMANDS, EVENTS
        from labledger import wiring

        wiring.consumers()
        every = [*EVENTS.values(), *COMMANDS.values()]
        web, made = "aiohttp" in sys.modules, sum(it.__pydantic_complete__ for it in every)
        import adapters.web.client as client

        print(json.dumps([web, made, len(every), client.aiohttp.ClientSession.__name__]))
        """
    )
    web, made, every, session = found
    assert not web and session == "ClientSession"
    assert made < 10 and every > 150  # some are values of others: the main queue begins with a command


def test_threads_that_meet_the_same_event_first_all_read_it() -> None:
    """A station's recorder writes on a thread of its own, while its loop reads the same kinds of events."""
    found = in_a_fresh_process(
        """
        import json, sys, threading
        from concurrent.futures import ThreadPoolExecutor
        from domain.events import decode
        import domain.parked

        sys.setswitchinterval(1e-6)
        together = threading.Barrier(8)

        def read(number):
            together.wait()
            body = json.dumps({"parked_id": "p", "park_seq": number}).encode()
            return decode("parked.retried.v1", body).park_seq

        with ThreadPoolExecutor(8) as pool:
            print(json.dumps(list(pool.map(read, range(8)))))
        """
    )
    assert found == list(range(8))
