"""Files of a lab's folder that only their owner may read, and the lock that keeps the folder to one process."""

import errno
import fcntl
import json
import os
import tempfile
from pathlib import Path
from typing import IO, Any

from labledger.embedded.errors import EmbeddedError


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp makes it 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise EmbeddedError(f"{path} is damaged ({error}); restore it from a backup of the lab's folder") from error


class FolderLock:
    """One process per lab folder. The lock goes with the process, however it ends.

    A record lock, and not flock(2): a child that was forked from us (a worker of a pool) would hold that one on.
    """

    _ours: set[Path] = set()  # the system does not refuse a second record lock to the same process

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Raises `EmbeddedError` when the folder is in use, naming the process."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.path in self._ours:
            raise EmbeddedError(f"{self.path.parent} is in use by this very process (pid {os.getpid()})")
        file = open(self.path, "a+", encoding="ascii")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            file.close()
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise EmbeddedError(f"cannot lock {self.path}: {error}") from error
            raise EmbeddedError(
                f"{self.path.parent} is in use: labledger runs on it as process {holder}. Stop that one first, or give "
                f"this one another folder (LABLEDGER_DATA_DIR)."
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        self._file = file
        self._ours.add(self.path)

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            self._ours.discard(self.path)
