"""The client for code without `await`: notebooks and scripts."""

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Self

from labledger.client.kinds import Kind

if TYPE_CHECKING:
    from labledger.client.lab import Lab


class SyncLab:
    """A `Lab` for code without `await`. It runs on a loop and a thread of its own; `close()` ends them.

    Every coroutine of `Lab` and of its kinds is a plain method here, every async iterator a plain one.
    """

    def __init__(self, lab: "Lab") -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="labledger-client", daemon=True)
        self._thread.start()
        self._lab = lab
        try:
            self._run(lab.open())
        except BaseException:
            self._end()
            raise

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def close(self) -> None:
        if not self._loop.is_closed():
            self._run(self._lab.close())
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        return _plain(getattr(self._lab, name), self._run)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(name for name in dir(self._lab) if not name.startswith("_"))]


class _SyncKind:
    def __init__(self, kind: Kind, run: Callable[[Any], Any]) -> None:
        self._kind = kind
        self._run = run

    def __getattr__(self, name: str) -> Any:
        return _plain(getattr(self._kind, name), self._run)

    def __dir__(self) -> list[str]:
        return [name for name in dir(self._kind) if not name.startswith("_")]


def _plain(thing: Any, run: Callable[[Any], Any]) -> Any:
    """The same thing without `await`."""
    if isinstance(thing, Kind):
        return _SyncKind(thing, run)
    if inspect.iscoroutinefunction(thing):
        called: Any = thing

        def call(*args: Any, **kwargs: Any) -> Any:
            return run(called(*args, **kwargs))

        return call
    if inspect.isasyncgenfunction(thing):
        made: Any = thing

        def iterate(*args: Any, **kwargs: Any) -> Any:
            return _iterate(made(*args, **kwargs), run)

        return iterate
    return thing


def _iterate(events: Any, run: Callable[[Any], Any]) -> Iterator[Any]:
    async def following() -> tuple[bool, Any]:
        try:
            return True, await anext(events)
        except StopAsyncIteration:
            return False, None

    async def close() -> None:
        await events.aclose()

    try:
        while True:
            there, value = run(following())
            if not there:
                return
            yield value
    finally:
        run(close())
