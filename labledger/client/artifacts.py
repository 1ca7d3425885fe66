"""What can be done with artifacts: files that the lab made, or was given."""

import asyncio
import mimetypes
from pathlib import Path
from typing import Any
from uuid import UUID

from domain.artifact import Artifact
from labledger.client.errors import LabError
from labledger.client.kinds import Kind, plain


class Artifacts(Kind):
    async def add(
        self, file: str | Path, *, media_type: str | None = None, scan_id: str | UUID | None = None, role: str = "file"
    ) -> str:
        """Store a file and register it; answers its id, which is its SHA-256. Nothing happens twice."""
        path = Path(file)
        with path.open("rb") as opened:
            sha256, size = await asyncio.to_thread(self._lab.put_file, opened)
        if not size:
            raise LabError(f"{path} is empty: there is nothing to keep")
        known = media_type or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        await self._send(
            "artifact.register",
            artifact_id=sha256,
            size=size,
            media_type=known,
            file_name=path.name,
            role=role,
            scan_id=None if scan_id is None else str(scan_id),
        )
        return sha256

    async def get(self, artifact_id: str) -> dict[str, Any]:
        """What is known of it, from its events. Raises `NotFound`."""
        state: Artifact = await self._lab.state("artifact", artifact_id)
        return {"artifact_id": artifact_id} | plain(state)

    async def save(self, artifact_id: str, to: str | Path) -> Path:
        """Write its bytes, verified, to a file, or into a folder under its own name; answers where they are.

        Raises `domain.errors.NotFound` for bytes that are not here, `ValueError` for damaged ones.
        """
        known = await self.get(artifact_id)
        path = Path(to)
        if path.is_dir():
            path /= known["file_name"]
        await asyncio.to_thread(self._copy, artifact_id, path)
        return path

    def _copy(self, artifact_id: str, path: Path) -> None:
        part = path.with_name(f".{path.name}.part")
        try:
            with self._lab.blobs.local(artifact_id) as source, source.open("rb") as read, part.open("wb") as written:
                while chunk := read.read(1 << 20):
                    written.write(chunk)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    async def list(
        self, *, scan: str | UUID | None = None, role: str | None = None, limit: int = 50
    ) -> "list[dict[str, Any]]":
        """The newest first, from the read model. Raises `NotReachable` where there is none."""
        lab = self._lab
        await lab.wait_for(await lab.last_sequence(), ["artifacts"], timeout_s=5.0)
        asked = None if scan is None else str(scan)
        return await lab.query(
            "select * from labledger.artifacts where (%s::uuid is null or scan_id = %s::uuid)"
            " and (%s::text is null or role = %s) order by sequence desc limit %s",
            [asked, asked, role, role, limit],
        )
