"""Shipments for adapters under test: in this process, or in one that is killed."""

import asyncio
import hashlib
import importlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from domain.ports import Arrived, DeliveryFailed, Shipment, Target, TargetContext

SPACE = UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")


class Dock:
    """One delivery, as the core sees it through: attempts with the checkpoint that the last one kept."""

    def __init__(self, path: Path | None, key: str = "", options: Mapping[str, Any] | None = None) -> None:
        self.reports: list[tuple[float, str]] = []
        self.kept: list[dict[str, Any]] = []
        data = path.read_bytes() if path is not None and path.stat().st_size < 1 << 28 else b""
        self.shipment = Shipment(
            delivery_id=uuid5(SPACE, f"{path}{key}{json.dumps(options or {}, sort_keys=True)}"),
            attempt=0,
            key=key,
            path=path,
            sha256=hashlib.sha256(data).hexdigest() if data or path is not None else None,
            size=path.stat().st_size if path is not None else 0,
            media_type="image/png",
            file_name=path.name if path is not None else "",
            options=options or {},
            checkpoint=None,
            report=lambda percent, note: self.reports.append((percent, note)),
            keep=self._keep,
        )

    async def _keep(self, checkpoint: Mapping[str, Any]) -> None:
        self.kept.append(json.loads(json.dumps(checkpoint)))

    def next(self) -> Shipment:
        checkpoint = self.kept[-1] if self.kept else None
        self.shipment = replace(self.shipment, attempt=self.shipment.attempt + 1, checkpoint=checkpoint)
        return self.shipment

    async def attempt(self, target: Target) -> Arrived:
        return await target.deliver(self.next())

    async def failing(self, target: Target) -> DeliveryFailed:
        """An attempt that must fail, and its failure."""
        try:
            arrived = await target.deliver(self.next())
        except DeliveryFailed as error:
            return error
        raise AssertionError(f"it arrived: {arrived}")


async def no_nats() -> Any:
    raise AssertionError("this adapter needs no NATS")


def make(
    adapter: str, options: Mapping[str, Any], environ: Mapping[str, str] | None = None, nats: Any = no_nats
) -> Any:
    """The target of an adapter, as the core makes it."""
    cls = importlib.import_module(f"adapters.{adapter}").Target
    return cls("test", cls.Options.model_validate(options), TargetContext(environ=environ or {}, nats=nats))


# -- a process that ships what lies in a folder, and may be killed at any moment ---------------------------------------


async def ship(folder: Path) -> None:
    """`target.json` says where to, `N.json` what; `N.checkpoint` and `N.receipt` are what is kept of each."""
    said = json.loads((folder / "target.json").read_text())
    nats = no_nats
    if said.get("nats"):
        from bus.connection import Credentials, connect

        login = said["nats"]
        nats_bus = await connect(login.pop("url"), "shipper", Credentials(**login))

        async def nats() -> Any:
            return nats_bus

    target = make(said["adapter"], said["options"], said["environ"], nats)
    at_once = asyncio.Semaphore(int(said.get("at_once", 4)))

    async def see_through(order: Path) -> None:
        told = json.loads(order.read_text())
        dock = Dock(Path(told["path"]) if told["path"] else None, told["key"], told["options"])
        checkpoint, attempts = order.with_suffix(".checkpoint"), order.with_suffix(".attempts")

        async def keep(state: Mapping[str, Any]) -> None:
            _write(checkpoint, state)

        async with at_once:
            while True:
                attempt = json.loads(attempts.read_text()) + 1 if attempts.exists() else 1
                _write(attempts, attempt)  # before the outside call, as the core does
                state = json.loads(checkpoint.read_text()) if checkpoint.exists() else None
                try:
                    arrived = await target.deliver(replace(dock.shipment, attempt=attempt, checkpoint=state, keep=keep))
                    break
                except DeliveryFailed as error:
                    print(order.name, attempt, error.kind, error, flush=True)
                    await asyncio.sleep(min(error.retry_after_s or 0.05, 1.0))
        _write(order.with_suffix(".receipt"), asdict(arrived))

    orders = [one for one in sorted(folder.glob("[0-9]*.json")) if not one.with_suffix(".receipt").exists()]
    await asyncio.gather(*(see_through(order) for order in orders))


def _write(path: Path, state: Any) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(state))
    os.replace(part, path)


def main() -> None:
    """The program: its one argument is the folder."""
    asyncio.run(ship(Path(sys.argv[1])))
