"""As whom Postgres runs when we are root, which it refuses to be."""

import grp
import logging
import os
import pwd
import stat
from pathlib import Path

from labledger.embedded.errors import EmbeddedError
from labledger.embedded.guarded import Account

log = logging.getLogger("labledger.embedded")

_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2


def _reaches(path: Path, account: Account) -> bool:
    """Whether a user may pass through all folders above `path` (mode bits; access lists are not looked at)."""
    groups = {account.gid, *(group.gr_gid for group in grp.getgrall() if account.name in group.gr_mem)}
    for folder in path.resolve().parents:
        info = folder.stat()
        if info.st_uid == account.uid:
            needed = stat.S_IXUSR
        elif info.st_gid in groups:
            needed = stat.S_IXGRP
        else:
            needed = stat.S_IXOTH
        if not info.st_mode & needed:
            return False
    return True


def _our_capabilities() -> int:
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
    except OSError:
        pass
    return 0


def account_for_postgres(*places: Path) -> Account | None:
    """Postgres refuses to run as root. So as root we run it as an existing user without rights: `labledger` where the
    administrator made one, else `postgres`, else `nobody`. No user is created, and no folder of others is opened up: where
    that user cannot pass through the folders above the data (/root, say), the process is given the one capability to do so.
    """
    if os.geteuid() != 0:
        return None
    for name in ("labledger", "postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid == 0:
            continue
        account = Account(name, entry.pw_uid, entry.pw_gid)
        barred = [place for place in places if not _reaches(place, account)]
        if not barred:
            return account
        ours = _our_capabilities()
        for capability in (_CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE):
            if ours >> capability & 1:
                log.info(
                    "the user %s cannot reach %s by itself: Postgres gets capability %d", name, barred[0], capability
                )
                return Account(name, entry.pw_uid, entry.pw_gid, capability)
        raise EmbeddedError(
            f"Postgres cannot run as root, and the user {name} cannot reach {barred[0]}: run labledger as an ordinary "
            f"user, or allow passing through the folders above it (chmod o+x)"
        )
    raise EmbeddedError("Postgres cannot run as root, and there is no user `labledger`, `postgres` or `nobody`")
