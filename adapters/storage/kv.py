"""Pointers in a key-value store, Cloudflare's or NATS' own. A pointer moves forward only, whatever the order in which deliveries end.

A shipment says what is to stand there: `options` = {"value": {...}, "metadata": {...}, "order": 417}, under its `key`, or under the key
that the target's template makes of the words in the value's metadata. `order` is the sequence of the event that began it; it stands
in the value and in the metadata, so that a reader can see which of two is the newer.

Safe to repeat: what stands there is read first, and one that is as new is left alone.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from adapters.storage.cloudflare import PACE, Cloudflare, CloudflareOptions
from adapters.storage.nats_kv import NatsOptions, NatsStore
from adapters.storage.pointers import ORDER, Entry, Store
from adapters.web.client import HttpOptions, tally
from domain.errors import Refused
from domain.pointer import TEMPLATE, checked_key, key_of
from domain.ports import Arrived, Check, DeliveryFailed, Shipment, TargetContext


class KvOptions(BaseModel):
    """Either Cloudflare or NATS; with neither, the lab's own NATS."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cloudflare: CloudflareOptions | None = Field(default=None, description="A namespace of Cloudflare Workers KV.")
    nats: NatsOptions | None = Field(default=None, description="A bucket of the lab's NATS.")
    key: str = Field(default=TEMPLATE, description="The key of a delivery that names none, from its metadata.")
    http: HttpOptions = Field(default=PACE, description="Time-outs and pace.")

    @model_validator(mode="after")
    def _one(self) -> "KvOptions":
        if self.cloudflare is not None and self.nats is not None:
            raise ValueError("give cloudflare or nats, not both: two stores are two targets")
        return self


class Pointer(BaseModel):
    """What a shipment's options say."""

    model_config = ConfigDict(extra="forbid")

    value: dict[str, JsonValue]
    metadata: dict[str, JsonValue] = {}
    order: int = Field(ge=0)


class Target:
    """One store."""

    kind = "kv"
    Options = KvOptions

    def __init__(self, name: str, options: KvOptions, context: TargetContext) -> None:
        self._store: Store
        if options.cloudflare is not None:
            self._store = Cloudflare(name, options.cloudflare, options.http, context.environ, context.nats)
        else:
            self._store = NatsStore(options.nats or NatsOptions(), context.nats)
        self._name, self._template = name, options.key

    def missing(self) -> Sequence[str]:
        return self._store.missing()

    def describe(self) -> Mapping[str, Any]:
        return {**self._store.describe(), "key": self._template}

    async def close(self) -> None:
        await self._store.close()

    async def deliver(self, shipment: Shipment) -> Arrived:
        if shipment.path is not None:
            text = f"{self._name} takes pointers, and this delivery has a file: deliver that elsewhere, and point to it"
            raise DeliveryFailed("misconfigured", text)
        key, entry = self._entry(shipment)
        self._store.check(key, entry)
        with tally() as made:
            shipment.report(0, f"moving {key}")
            written = await self._store.advance(key, entry)
        stands = written.entry
        if stands.order > entry.order or stands.value != entry.value:
            outcome = "superseded"
        else:
            outcome = "stored" if written.sent else "existed"
        proof = {
            **self._store.describe(),
            **written.details,
            "key": key,
            "order": entry.order,
            "value_sha256": hashlib.sha256(entry.value).hexdigest(),
        }
        if outcome == "superseded":
            proof["standing"] = stands.order
        return Arrived(outcome, self._location(key), proof, made.bytes_sent, made.requests)

    def _location(self, key: str) -> str:
        told = self._store.describe()
        return "/".join(str(told[name]) for name in ("service", "namespace", "bucket") if name in told) + f"/{key}"

    def _entry(self, shipment: Shipment) -> tuple[str, Entry]:
        try:
            pointer = Pointer.model_validate(dict(shipment.options))
            words = pointer.value.get("metadata")
            key = checked_key(
                shipment.key or key_of(self._template, words if isinstance(words, dict) else pointer.metadata)
            )
        except ValidationError as error:
            told = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise DeliveryFailed("misconfigured", f"the delivery's options are no pointer: {told}") from None
        except Refused as error:
            raise DeliveryFailed("refused", str(error)) from None
        value = json.dumps({**pointer.value, ORDER: pointer.order}, ensure_ascii=False).encode()
        return key, Entry(value, {**pointer.metadata, ORDER: pointer.order}, pointer.order)

    async def verify(self, proof: Mapping[str, Any], sha256: str | None, size: int) -> Sequence[Check]:
        key, order = str(proof["key"]), int(proof["order"])
        standing = await self._store.read(key)
        if standing is None:
            return [Check("key", False, f"nothing stands under {key}")]
        if standing.order > order:
            return [Check("key", True, f"{key} has moved on: {standing.order} stands there, this was {order}")]
        if standing.order < order:
            text = f"{key} is behind: {standing.order} stands there, {order} was written (a store may tell old news for a minute)"
            return [Check("key", False, text)]
        digest = hashlib.sha256(standing.value).hexdigest()
        told = f"what stands there has the SHA-256 {digest}, the receipt {proof['value_sha256']}"
        return [
            Check("key", True, f"{order} stands under {key}"),
            Check("value", digest == proof["value_sha256"], told),
        ]

    async def test(self) -> Sequence[Check]:
        return await self._store.test()
