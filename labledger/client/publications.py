"""What can be done with publications: files on IPFS that a key points to."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from bus.ids import uuid7
from bus.outcomes import Outcome
from domain.publication import Publication, pin_of, pointer_of
from labledger.client.errors import LabError, NotFound
from labledger.client.kinds import Kind


class Publications(Kind):
    async def request(
        self,
        thing: str | Path,
        *,
        ipfs: str | None = None,
        kv: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        clean_up: bool = False,
        publication_id: str | UUID | None = None,
        **more: Any,
    ) -> UUID:
        """Publish a file, or an artifact by its SHA-256; answers the publication's id.

        `ipfs` and `kv` name the targets; where the lab has only one of a kind it need not be named. `more`: `key`, `template`,
        `order`, `priority`, `title`. `clean_up`: the file is removed at the end. The same `publication_id` again is the same one.
        """
        path = Path(thing)
        local = path.is_file()
        if clean_up and not local:
            raise LabError(f"{thing} is no file here, so none can be cleaned up")
        ipfs, kv = await self._target("ipfs", ipfs), await self._target("kv", kv)
        artifact = await self._lab.artifacts.add(path) if local else str(thing)
        id_ = UUID(str(publication_id or uuid7()))
        await self._send(
            "publication.request",
            publication_id=str(id_),
            artifact=artifact,
            ipfs_target=ipfs,
            kv_target=kv,
            metadata=dict(metadata or {}),
            clean_up=str(path.absolute()) if clean_up else "",
            **more,
        )
        return id_

    async def _target(self, system: str, named: str | None) -> str:
        if named is not None:
            return named
        opened = [one for one in await self._lab.targets.list() if one["opened"]]
        found = [one["target_id"] for one in opened if one["opened"]["system"] == system]
        if len(found) == 1:
            return found[0]
        known = (
            f"name one of {', '.join(found)}"
            if found
            else f"add one to the settings ([targets.NAME], storage.{system})"
        )
        raise LabError(f"the lab has {len(found)} targets of the kind {system}: {known}")

    async def get(self, publication_id: str | UUID) -> dict[str, Any]:
        """The publication as it stands, from its events. Raises `NotFound`."""
        history = await self._lab.history("publication", publication_id)
        if not history:
            raise NotFound(f"there is no publication {publication_id}: `labledger publications list` shows them")
        state: Publication = await self._lab.state("publication", publication_id)
        assert state.requested is not None
        id_ = state.requested.publication_id
        return state.requested.model_dump(mode="json") | {
            "state": state.state,
            "step": state.step,
            "stalled": state.stalled,
            "cid": state.cid,
            "location": state.location,
            "superseded": state.superseded,
            "pin_delivery_id": str(pin_of(id_)),
            "pointer_delivery_id": str(pointer_of(id_)) if state.cid else None,
            "requested_at": history[0].time,
            "updated_at": history[-1].time,
        }

    async def list(
        self, *, state: str | None = None, stalled: bool = False, key: str | None = None, limit: int = 50
    ) -> "list[dict[str, Any]]":
        """The newest first, from the read model. Raises `NotReachable` where there is none."""
        lab = self._lab
        await lab.wait_for(await lab.last_sequence(), ["publications"], timeout_s=5.0)
        return await lab.query(
            "select * from labledger.publications where (%s::text is null or state = %s) and (not %s or stalled)"
            " and (%s::text is null or key = %s) order by requested_at desc, publication_id desc limit %s",
            [state, state, stalled, key, key, min(limit, 1000)],
        )

    async def retry(self, publication_id: str | UUID) -> Outcome:
        """Go on with one that stalled, or was cancelled, where it stands."""
        return await self._send("publication.retry", publication_id=str(publication_id))

    async def cancel(self, publication_id: str | UUID, reason: str = "") -> Outcome:
        """Make no further step; what is pinned stays."""
        return await self._send("publication.cancel", publication_id=str(publication_id), reason=reason)

    async def wait(self, publication_id: str | UUID, timeout_s: float = 600.0) -> dict[str, Any]:
        """Until it is completed, cancelled, or has stalled. Raises `TimeoutError`."""
        async with asyncio.timeout(timeout_s):
            while True:
                told = await self.get(publication_id)
                if told["state"] in ("completed", "cancelled") or told["stalled"] is not None:
                    return told
                await asyncio.sleep(0.1)
