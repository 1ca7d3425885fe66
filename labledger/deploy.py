"""The secrets of a lab on given servers: `python -m labledger.deploy secrets` before `docker compose up`.

    secrets/nats.conf          the NATS server's configuration: the accounts and users of bus/roles.py
    secrets/postgres-password  of the database's owner
    secrets/connection.json    addresses and credentials for our own processes (LABLEDGER_CONNECTION_FILE)

Files that are there are kept: a second run changes nothing. The connection file has the passwords of all roles; a service of
others gets only its own user from it.
"""

import json
import secrets
import sys
from pathlib import Path
from urllib.parse import quote

from bus.roles import server_config
from labledger.embedded.files import write_private
from labledger.embedded.nats_server import default_users
from labledger.embedded.postgres import DATABASE, OWNER


def write_secrets(folder: Path, nats_host: str = "nats", postgres_host: str = "postgres") -> bool:
    """Write the files; False when they were there already. Raises `FileExistsError` when only some are."""
    paths = [folder / name for name in ("nats.conf", "postgres-password", "connection.json")]
    there = [path.name for path in paths if path.exists()]
    if len(there) == len(paths):
        return False
    if there:
        raise FileExistsError(f"{folder} has {', '.join(there)} and not the others: restore these, or remove all three")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    users, password = default_users(), secrets.token_urlsafe(24)
    # The ports are published on the host's loopback only (compose.yaml); inside, the containers reach each other.
    head = 'listen: "0.0.0.0:4222"\nhttp: "0.0.0.0:8222"\njetstream { store_dir: "/data", sync_interval: always }\n'
    write_private(paths[0], head + server_config(users))
    write_private(paths[1], password)
    people = {u.name: {"user": u.name, "password": u.password, "inbox_prefix": u.inbox_prefix} for u in users}
    told = {
        "version": 1,
        "nats": {"url": f"nats://{nats_host}:4222", "users": people},
        "postgres": {"url": f"postgresql://{OWNER}:{quote(password)}@{postgres_host}:5432/{DATABASE}"},
    }
    write_private(paths[2], json.dumps(told, indent=2) + "\n")
    return True


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python -m labledger.deploy FOLDER", file=sys.stderr)
        return 2
    folder = Path(sys.argv[1])
    try:
        print(f"{folder}: {'written' if write_secrets(folder) else 'there already, kept'}")
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
