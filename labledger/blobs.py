"""The store of blobs that the settings name. The one place that knows which there are.

Processes of a pool are handed a *spec*, plain JSON, and open the same store from it.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from adapters.storage.local import LocalBlobs
from bus.connection import Credentials, connect
from bus.roles import Role
from domain.ports import Blobs
from labledger.settings import Settings, SettingsError

#: Where files lie that are on their way to or from a store elsewhere.
SPOOL = ".spool"


def blobs_of(settings: Settings, role: Role | str) -> Blobs:
    """The store as this role reaches it. Connects at the first use. Raises `SettingsError`."""
    return open_blobs(spec_of(settings, role))


def spec_of(settings: Settings, role: Role | str) -> dict[str, Any]:
    """All that `open_blobs` needs, in plain JSON. It may hold secrets: not for command lines, logs or events."""
    found: dict[str, Any] = {"store": settings.blobs.store, "dir": str(settings.blob_dir.absolute())}
    match settings.blobs.store:
        case "local":
            return found
        case "s3":
            return found | {"options": settings.blobs.options}
        case "nats":
            to = settings.connection(role)
            login = to.credentials
            return found | {
                "urls": list(to.nats_urls),
                "user": login.user,
                "password": login.password,
                "inbox_prefix": login.inbox_prefix,
                "inside": role in (Role.STATION, Role.EXTRACT, Role.DELIVER),
            }


def open_blobs(spec: Mapping[str, Any]) -> Blobs:
    folder = Path(spec["dir"])
    match spec["store"]:
        case "s3":
            from adapters.storage.s3_blobs import BlobOptions, S3Blobs

            try:
                options = BlobOptions.model_validate(spec["options"])
            except ValidationError as error:
                wrong = "; ".join(
                    f"blobs.options.{'.'.join(map(str, one['loc']))}: {one['msg']}"
                    for one in error.errors(include_url=False, include_input=False)
                )
                raise SettingsError(wrong) from None
            return S3Blobs(options, os.environ, folder / SPOOL)
        case "nats":
            from adapters.storage.nats_blobs import NatsBlobs

            login = Credentials(spec["user"], spec["password"], spec["inbox_prefix"])
            urls = list(spec["urls"])
            return NatsBlobs(lambda: connect(urls, "labledger-blobs", login), folder / SPOOL, inside=spec["inside"])
        case _:
            return LocalBlobs(folder)
