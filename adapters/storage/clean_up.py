"""Local files that are no longer needed are removed: only what lies in a folder that the settings open for it, and only while its bytes
are those that were published, so that nothing is lost that is not kept elsewhere."""

import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from domain.errors import Refused


class Folders:
    """Removes files from these folders, and below them."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = [folder.expanduser() for folder in folders]

    def remove(self, path: str, sha256: str) -> bool:
        """True when it was removed, False when it was gone already. Blocking. Raises `Refused`."""
        whole = Path(path)
        # Links are followed in the folder's name and its parents', never in the file's own.
        place = whole.parent.resolve() / whole.name
        if not any(place.is_relative_to(folder.resolve()) for folder in self._folders):
            opened = ", ".join(map(str, self._folders)) or "none"
            raise Refused(f"{path} is in no folder that may be cleaned up; there are: {opened} (clean_up.folders)")
        try:
            fd = os.open(place, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise Refused(f"{path} cannot be read, so it is not removed: {error.strerror}") from None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise Refused(f"{path} is no file")
        with open(fd, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise Refused(f"{path} has other contents now than what was published, so it is not removed")
            try:
                place.unlink()
            except FileNotFoundError:
                return False
            except OSError as error:
                raise Refused(f"{path} cannot be removed: {error.strerror}") from None
        return True
