"""MaskHub's API, as far as it is known, behind the port `Target`.

There is no public description of it. What is marked [assume] is ours: a real contract replaces it here, and nowhere else.
The rest is what a public client sends.

    GET  {api}/teststations/?name=N                     a list; POST {api}/teststations/ makes one
    POST {api}/heartbeats/                              only for people to see; a failed one fails nothing
    GET  {api}/masks/{mask_id}                          has the project_id
    POST {api}/runs/                                    200, or 409 for one that there is, with its id [assume]
    GET  {api}/runs/?name=N                             [assume] a list, with `die_analysis_triggered`
    POST {v3}/measurements                              a form with the raw data, linked to its run by the run's name
    GET  {v3}/measurements?run_name=&device_name=&...   [assume] a list, whose items have `id` and `meta` as it was sent
    POST {api}/attachments/                             a form; GET [assume] lists those of a run, by name
    POST {api}/runs/{run_name}/trigger_die_analysis     by name, not by id

**Nothing is stored twice, though MaskHub knows no idempotency key.** Before the first byte leaves, the delivery notes durably that it may
arrive (`keep`), and takes that back only when it certainly did not. Each attempt first asks whether the thing is there: a
measurement by the key in its `meta`, an attachment by its name, the analysis by its run. What may have arrived is sent again when it was looked
for in vain twice, with `settle_s` in between. Where MaskHub does not answer that question
and an earlier attempt may have arrived, nothing is sent again: `unknown`, for a person.
"""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, cast
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from adapters.maskhub.config import Options as MaskHubOptions
from adapters.maskhub.config import find
from adapters.web.client import BadStatus, FilePart, NoAnswer, Reply, Web, multipart, tally
from domain.ports import Arrived, Check, DeliveryFailed, Shipment, TargetContext

log = logging.getLogger("labledger.maskhub")

#: Where our key and the hash of the file stand in a measurement's `meta`.
KEY, HASH = "x_delivery_key", "sha256"
#: A look-up that MaskHub does not have is answered like this [assume].
NO_SUCH_ROUTE = frozenset({404, 405, 501})


class _Step(BaseModel):
    """Options of a shipment. They are the same in every attempt."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class OpenRun(_Step):
    """Make the run, or find the one of this name."""

    step: Literal["run"]
    mask_id: int
    run_name: str
    project_id: int | None = None
    station: str = ""
    test_software_name: str
    test_software_version: str
    guid: str | None = None
    config: dict[str, JsonValue] | None = None
    calibration: dict[str, JsonValue] | None = None
    expected_measurement_count: int = 0
    expected_material_counts: list[list[JsonValue]] | None = None


class StoreMeasurement(_Step):
    """One measurement, with its raw data."""

    step: Literal["measurement"]
    key: str
    mask_id: int
    run_name: str
    lot_name: str
    wafer_name: str
    die_x: int
    die_y: int
    device_name: str
    measurement_type: str
    test_station_name: str
    test_meta: dict[str, JsonValue] = {}
    extra_meta: dict[str, JsonValue] = {}
    nas_path: str = ""
    file_name: str
    media_type: str


class StoreAttachment(_Step):
    """A file of a run; `run_id` is MaskHub's."""

    step: Literal["attachment"]
    run_id: str
    file_name: str
    media_type: str


class StartAnalysis(_Step):
    """The analysis of a run's dies, once."""

    step: Literal["analysis"]
    run_name: str
    station: str = ""


_AnyStep = OpenRun | StoreMeasurement | StoreAttachment | StartAnalysis
_STEPS: TypeAdapter[_AnyStep] = TypeAdapter(Annotated[_AnyStep, Field(discriminator="step")])

#: A thing that was looked for: what MaskHub says of it, None for what is not there.
Found = Mapping[str, Any] | None


class CannotTell(Exception):
    """MaskHub does not say whether a thing is there."""


class Target:
    """MaskHub, by both of its addresses."""

    kind = "maskhub"
    Options = MaskHubOptions

    def __init__(self, name: str, options: MaskHubOptions, context: TargetContext) -> None:
        self.name = name
        self._options = options
        #: Addresses and token are looked for here, and nowhere later; that a file is read for it is all that is done.
        self._config = find(options, context.environ)
        self._web: Web | None = None
        self._stations = asyncio.Lock()

    @property
    def retry(self) -> Mapping[str, float]:
        """What a maskhub_config.json says of retries."""
        return self._config.settings.retry

    def missing(self) -> Sequence[str]:
        return self._config.missing

    def describe(self) -> Mapping[str, Any]:
        config = self._config
        told: dict[str, Any] = {"api": config.api_url, "api_v3": config.api_v3_url, "configured_by": config.source}
        if config.notes:
            told["notes"] = list(config.notes)
        return told

    async def close(self) -> None:
        if self._web is not None:
            await self._web.close()
            self._web = None

    # -- delivering ------------------------------------------------------------------------------------------------

    async def deliver(self, shipment: Shipment) -> Arrived:
        step = _step(shipment)
        if self.missing():
            raise DeliveryFailed("unauthorized", f"{' and '.join(self.missing())} is not set: nothing can be sent yet")
        with tally() as made:
            outcome, location, proof = await self._do(step, shipment)
        proof = {"step": step.step, **proof}
        return Arrived(outcome, location, proof, bytes_sent=made.bytes_sent, requests=made.requests)

    async def _do(self, step: _AnyStep, shipment: Shipment) -> "_Done":
        match step:
            case OpenRun():
                return await self._open(step)
            case StoreMeasurement():
                return await self._store(step, shipment)
            case StoreAttachment():
                return await self._attach(step, shipment)
            case StartAnalysis():
                return await self._analyse(step, shipment)

    async def _open(self, step: OpenRun) -> "_Done":
        """Twice is harmless: MaskHub knows a run by its name, and answers a repeat with the one that it has."""
        station_id = await self._station(step.station) if step.station else None
        await self._beat(station_id, "running", "run_started")
        project_id = step.project_id
        if project_id is None:
            project_id = await self._project_of(step.mask_id)
        body: dict[str, Any] = {
            "name": step.run_name,
            "project_id": project_id,
            "test_software_name": step.test_software_name,
            "test_software_version": step.test_software_version,
            "expected_measurement_count": step.expected_measurement_count,
        }
        # These are texts of JSON inside the JSON.
        body |= {
            name: json.dumps(value, ensure_ascii=False)
            for name in ("config", "calibration", "expected_material_counts")
            if (value := getattr(step, name)) is not None
        }
        if step.guid is not None:
            body["test_software_guid"] = step.guid
        reply = await self._ask("POST", self._api("/runs/"), json_body=body, accept=(200, 201, 409))
        # [assume] A 409 has the id of the run that there is.
        repeat = reply.status == 409
        run_id = _id(reply.fields(), "conflict" if repeat else "server_error", f"run {step.run_name!r}")
        proof = {"remote_id": run_id, "run_name": step.run_name, "project_id": project_id, "teststation_id": station_id}
        return "existed" if repeat else "stored", self._api(f"/runs/{run_id}"), proof

    async def _project_of(self, mask_id: int) -> int:
        try:
            return int((await self._ask("GET", self._api(f"/masks/{mask_id}"))).fields()["project_id"])
        except BadStatus as error:
            if error.status == 404:
                text = f"MaskHub has no mask {mask_id}; correct it, or enter the mask there and retry"
                raise DeliveryFailed("refused", text) from None
            raise
        except (KeyError, TypeError, ValueError):
            text = f"MaskHub does not say which project mask {mask_id} belongs to; give project_id with the run"
            raise DeliveryFailed("refused", text) from None

    async def _station(self, name: str) -> int:
        """The id of a test station, which is made if there is none. Deliveries that open runs on one station take turns
        (their claims), and here the tasks of one process do, so that it is made once."""
        async with self._stations:
            try:
                there = await self._list(self._api("/teststations/"), {"name": name})
            except CannotTell as error:
                raise DeliveryFailed("server_error", f"test station {name!r} cannot be looked up: {error}") from None
            there = [one for one in there if one.get("name", name) == name]
            if len(there) > 1:
                ids = ", ".join(str(one.get("id")) for one in there)
                text = f"MaskHub has {len(there)} test stations called {name!r} ({ids}); leave one of them, and retry"
                raise DeliveryFailed("conflict", text)
            if not there:
                reply = await self._ask("POST", self._api("/teststations/"), json_body={"name": name})
                return _id(reply.fields(), "server_error", f"test station {name!r}")
            return _id(there[0], "server_error", f"test station {name!r}")

    async def _beat(self, station_id: int | None, status: str, code: str) -> None:
        """Liveness for people to see. Lost or twice it does no harm, so its failure fails nothing."""
        if station_id is None or not self._options.heartbeats:
            return
        body = {"teststation_id": station_id, "status": status, "code": code}
        try:
            await self._ask("POST", self._api("/heartbeats/"), json_body=body)
        except DeliveryFailed as error:
            log.info("%s: heartbeat of station %s: %s", self.name, station_id, error)

    async def _store(self, step: StoreMeasurement, shipment: Shipment) -> "_Done":
        file = _file(shipment, step.file_name, step.media_type)
        meta = {**step.extra_meta, **({"path": step.nas_path} if step.nas_path else {})}
        meta |= {KEY: step.key, HASH: shipment.sha256}
        fields = {
            "mask_id": str(step.mask_id),
            "run_name": step.run_name,
            "lot_name": step.lot_name,
            "wafer_name": step.wafer_name,
            "die_x": str(step.die_x),
            "die_y": str(step.die_y),
            "device_name": step.device_name,
            "type": step.measurement_type,
            "test_station_name": step.test_station_name,
            "test_meta": json.dumps(step.test_meta, ensure_ascii=False),
            "meta": json.dumps(meta, ensure_ascii=False),
        }
        asked = {name: fields[name] for name in ("run_name", "device_name", "die_x", "die_y")}

        async def send() -> Mapping[str, Any]:
            body = multipart(fields, file, "raw_data")
            body.progress = _progress(shipment, step.file_name)
            reply = await self._ask("POST", self._v3("/measurements"), body=body, accept=(200, 201))
            return {"id": _id(reply.fields(), "server_error", f"measurement of {step.device_name!r}")}

        outcome, said = await self._once(shipment, lambda: self._measurement(asked, step.key), send)
        if outcome == "existed" and _meta(said).get(HASH) != shipment.sha256:
            text = f"MaskHub has measurement {said.get('id')} under our key with another file; look at it there"
            raise DeliveryFailed("mismatch", text)
        id_ = said.get("id")
        proof = {"remote_id": id_, "key": step.key, "sha256": shipment.sha256, "asked": asked}
        return outcome, self._v3(f"/measurements/{id_}"), proof

    async def _measurement(self, asked: Mapping[str, str], key: str) -> Found:
        """[assume] The measurements of a device on a die of a run; ours has our key in its `meta`."""
        there = await self._list(self._v3("/measurements"), asked)
        found = next((one for one in there if _meta(one).get(KEY) == key), None)
        if found is None and any("meta" not in one for one in there):
            raise CannotTell("MaskHub lists measurements without their `meta`")
        return found

    async def _attach(self, step: StoreAttachment, shipment: Shipment) -> "_Done":
        file = _file(shipment, step.file_name, step.media_type)
        fields = {"target_model_name": "run", "target_model_id": step.run_id, "name": step.file_name}

        async def send() -> Mapping[str, Any]:
            body = multipart(fields, file, "files")
            body.progress = _progress(shipment, step.file_name)
            reply = await self._ask("POST", self._api("/attachments/"), body=body, accept=range(200, 300))
            return _object(reply)

        outcome, said = await self._once(shipment, lambda: self._attachment(step.run_id, step.file_name), send)
        proof = {"remote_id": said.get("id"), "run_id": step.run_id, "name": step.file_name}
        return outcome, self._api(f"/runs/{step.run_id}"), proof

    async def _attachment(self, run_id: str, name: str) -> Found:
        """[assume] The attachments of a run, which are told apart by their names."""
        asked = {"target_model_name": "run", "target_model_id": run_id, "name": name}
        there = await self._list(self._api("/attachments/"), asked)
        return next((one for one in there if one.get("name") == name), None)

    async def _analyse(self, step: StartAnalysis, shipment: Shipment) -> "_Done":
        path = f"/runs/{quote(step.run_name, safe='')}/trigger_die_analysis"

        async def send() -> Mapping[str, Any]:
            return _object(await self._ask("POST", self._api(path), body=b""))

        outcome, _ = await self._once(shipment, lambda: self._analysis(step.run_name), send)
        if step.station:
            try:
                await self._beat(await self._station(step.station), "idle", "run_finished")
            except DeliveryFailed as error:  # the analysis is what matters, and it has been started
                log.info("%s: no heartbeat of %s: %s", self.name, step.station, error)
        return outcome, self._api(path), {"run_name": step.run_name}

    async def _analysis(self, run_name: str) -> Found:
        """[assume] A run says whether its analysis was started."""
        found = await self._run(run_name)
        if found is None or "die_analysis_triggered" not in found:
            raise CannotTell("MaskHub does not say whether an analysis was started")
        return found if found["die_analysis_triggered"] else None

    async def _run(self, run_name: str) -> Found:
        there = await self._list(self._api("/runs/"), {"name": run_name})
        return next((one for one in there if one.get("name") == run_name), None)

    async def _once(
        self,
        shipment: Shipment,
        look: Callable[[], Awaitable[Found]],
        send: Callable[[], Awaitable[Mapping[str, Any]]],
    ) -> tuple[Literal["stored", "existed"], Mapping[str, Any]]:
        """Send what is not there. Safe to call again after any end of an earlier call, also of another process."""
        try:
            found = await look()
        except CannotTell as error:
            if (shipment.checkpoint or {}).get("may_have_arrived"):
                text = (
                    f"an earlier attempt may have arrived, and it cannot be found out ({error}); look for it in MaskHub: if it is "
                    f"there, cancel this delivery; if not, cancel it and add it anew"
                )
                raise DeliveryFailed("unknown", text) from None
            found = None
        if found is not None:
            return "existed", found
        await self._settled(shipment)
        await shipment.keep({"may_have_arrived": True})
        try:
            said = await send()
        except DeliveryFailed as error:
            if not _may_have_arrived(error):
                await shipment.keep({"may_have_arrived": False})
            raise
        return "stored", said

    async def _settled(self, shipment: Shipment) -> None:
        """What may have arrived and is not found counts as lost only when it is still not found `settle_s` later: a proxy that gave
        up, or the death of a worker, does not keep MaskHub from storing what it got."""
        checkpoint = shipment.checkpoint or {}
        if not checkpoint.get("may_have_arrived"):
            return
        now, missed_at = time.time(), checkpoint.get("missed_at")
        if missed_at is None:
            missed_at = now
            await shipment.keep({"may_have_arrived": True, "missed_at": now})
        left_s = min(missed_at + self._options.settle_s - now, self._options.settle_s)
        if left_s > 0:
            text = f"an earlier attempt may still show up in MaskHub; it is looked for again in {left_s:.0f} s"
            raise DeliveryFailed("waiting", text, retry_after_s=left_s)

    # -- asking ----------------------------------------------------------------------------------------------------

    def _api(self, path: str) -> str:
        return self._config.api_url + path

    def _v3(self, path: str) -> str:
        return self._config.api_v3_url + path

    async def _ask(self, method: str, url: str, **more: Any) -> Reply:
        if self._web is None:
            self._web = self._connect()
        try:
            return await self._web.request(method, url, **more)
        except BadStatus as error:
            if error.status == 413:
                # Their client retries it: the limit is that of a proxy in front, which goes down with its load.
                raise _Passing("full", str(error), error.reply) from None
            raise

    def _connect(self) -> Web:
        config, http = self._config, self._options.http
        if config.settings.timeout is not None and "idle_s" not in http.model_fields_set:
            http = http.model_copy(update={"idle_s": config.settings.timeout})
        token = config.token.get_secret_value()
        bases = (config.api_url, config.api_v3_url)
        return Web(self.name, *bases, options=http, credentials={"X-API-KEY": token}, secrets=[token])

    async def _list(self, url: str, asked: Mapping[str, str]) -> list[dict[str, Any]]:
        """[assume] Look something up. Raises `CannotTell` where MaskHub has no such question, or answers it in part only."""
        try:
            reply = await self._ask("GET", url, params=asked, accept=(200,))
        except BadStatus as error:
            if error.status in NO_SUCH_ROUTE:
                raise CannotTell(f"GET {url.partition('?')[0]} is answered {error.status}") from None
            raise
        return _items(reply)

    # -- afterwards ------------------------------------------------------------------------------------------------

    async def verify(self, proof: Mapping[str, Any], sha256: str | None, size: int) -> Sequence[Check]:
        if self.missing():
            raise DeliveryFailed("unauthorized", f"{' and '.join(self.missing())} is not set: MaskHub cannot be asked")
        try:
            return await self._verify(proof, sha256)
        except CannotTell as error:
            raise DeliveryFailed("unknown", f"MaskHub does not answer this: {error}") from None
        except (KeyError, TypeError) as error:
            raise DeliveryFailed("misconfigured", f"the receipt is not one of MaskHub: {error}") from None

    async def _verify(self, proof: Mapping[str, Any], sha256: str | None) -> list[Check]:
        match proof["step"]:
            case "run" | "analysis":
                found = await self._run(str(proof["run_name"]))
                checks = [_there(found, f"run {proof['run_name']!r}")]
                if found is not None and proof["step"] == "run":
                    checks.append(_same("id", str(proof["remote_id"]), str(found.get("id"))))
                if found is not None and proof["step"] == "analysis":
                    checks.append(_same("analysis started", "True", str(found.get("die_analysis_triggered"))))
                return checks
            case "attachment":
                found = await self._attachment(str(proof["run_id"]), str(proof["name"]))
                return [_there(found, f"attachment {proof['name']!r}")]
            case _:
                found = await self._measurement(proof["asked"], str(proof["key"]))
                checks = [_there(found, f"measurement {proof['remote_id']}")]
                if found is not None:
                    checks.append(_same("id", str(proof["remote_id"]), str(found.get("id"))))
                    checks.append(_same("sha256", str(sha256), str(_meta(found).get(HASH))))
                return checks

    async def test(self) -> Sequence[Check]:
        """Nothing can be removed from MaskHub, so nothing is put there: both addresses and the token are tried by asking."""
        config = self._config
        notes = "; ".join(config.notes)
        if config.missing:
            missing = f"{' and '.join(config.missing)} is not set: set all three in the environment, a maskhub_config.json or the settings"
            return [Check("credentials", False, "; ".join(filter(None, (missing, notes))))]
        checks = [Check("credentials", True, "; ".join(filter(None, (f"from {config.source}", notes))))]
        try:
            await self._ask("GET", self._api("/teststations/"), params={"name": "labledger-test"})
            checks.append(Check("base API", True, f"{config.api_url} takes the token"))
        except DeliveryFailed as error:
            checks.append(Check("base API", False, _advice(error, "MASKHUB_API")))
        asked = {"run_name": "labledger-test", "device_name": "labledger-test", "die_x": "0", "die_y": "0"}
        try:
            await self._measurement(asked, "labledger-test")
            checks.append(Check("v3 API", True, "measurements can be looked up: a lost answer is cleared up by asking"))
        except CannotTell as error:
            detail = f"{error}: after a lost answer a person must look; everything else works"
            checks.append(Check("v3 API", True, detail))
        except DeliveryFailed as error:
            checks.append(Check("v3 API", False, _advice(error, "MASKHUB_API_V3")))
        return checks


_Done = tuple[Literal["stored", "existed"], str, dict[str, Any]]


class _Passing(BadStatus):
    """A status that means something else here than elsewhere."""

    def __init__(self, kind: Any, text: str, reply: Reply) -> None:
        super().__init__(kind, text, reply)


def _may_have_arrived(error: DeliveryFailed) -> bool:
    """Whether a request that failed so may have been carried out. Those who say no (4xx, 503) have not done it; behind another
    5xx a proxy may stand that lost the answer."""
    if isinstance(error, NoAnswer):
        return error.maybe_done
    if isinstance(error, BadStatus):
        return error.status >= 500 and error.status != 503
    # An answer that is none (no JSON, no id) came after it was done; a file that changed under way broke its form off.
    return error.kind == "server_error"


def _step(shipment: Shipment) -> _AnyStep:
    try:
        return _STEPS.validate_python(dict(shipment.options))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors()[:5])
        text = f"MaskHub takes the parts of a run (labledger runs), and this is none: {wrong}"
        raise DeliveryFailed("misconfigured", text) from None


def _file(shipment: Shipment, name: str, media_type: str) -> FilePart:
    """Never an empty one: a measurement that says nothing would stand there as if it had been made."""
    if shipment.path is None or shipment.size == 0:
        raise DeliveryFailed("missing", f"{name} has no data: nothing empty is sent")
    return FilePart(shipment.path, name, media_type)


def _progress(shipment: Shipment, name: str) -> Callable[[int, int], None]:
    return lambda sent, size: shipment.report(100 * sent / max(size, 1), f"sending {name}")


def _id(said: Mapping[str, Any], kind: Literal["server_error", "conflict"], what: str) -> int:
    """The `id` that MaskHub gave a thing."""
    id_ = said.get("id")
    if not isinstance(id_, int):
        raise DeliveryFailed(kind, f"MaskHub does not say the id of {what}")
    return id_


def _object(reply: Reply) -> dict[str, Any]:
    """What an answer says that need not say anything."""
    try:
        said = json.loads(reply.body)
    except ValueError:
        return {}
    return cast("dict[str, Any]", said) if isinstance(said, dict) else {}


def _items(reply: Reply) -> list[dict[str, Any]]:
    """The objects of a list. Raises `CannotTell` for a page of a longer one: what is not on it may be on the next."""
    said = reply.json()
    if isinstance(said, dict) and "results" in said:  # [assume] how a paged list would look
        said = cast("dict[str, Any]", said)
        if said.get("next"):
            raise CannotTell("MaskHub answers with a page of a longer list")
        said = said["results"]
    if not isinstance(said, list):
        raise CannotTell("MaskHub answers with what is no list")
    return [cast("dict[str, Any]", one) for one in cast("list[Any]", said) if isinstance(one, dict)]


def _meta(found: Mapping[str, Any]) -> dict[str, Any]:
    """The `meta` of a measurement, as a text or as an object [assume]."""
    said: Any = found.get("meta")
    if isinstance(said, str):
        try:
            said = json.loads(said)
        except ValueError:
            return {}
    return cast("dict[str, Any]", said) if isinstance(said, dict) else {}


def _there(found: Found, what: str) -> Check:
    return Check("there", found is not None, f"MaskHub has {'' if found is not None else 'no '}{what}")


def _same(name: str, expected: str, found: str) -> Check:
    same = expected == found
    return Check(name, same, found if same else f"MaskHub says {found}, the receipt {expected}")


def _advice(error: DeliveryFailed, variable: str) -> str:
    text = str(error)
    if error.kind == "unauthorized":
        return f"{text}; check MASKHUB_API_TOKEN, and that it may do this"
    if error.kind in ("unreachable", "timed_out", "misconfigured"):
        return f"{text}; check {variable}"
    return text
