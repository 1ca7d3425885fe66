"""MaskHub as the reference says it is: authorisation, validation, and no idempotency key.

What is stored can be counted by our delivery key, which MaskHub itself does not look at. Switches: `lookups` False takes the questions away that
a real one may not have; `hide_meta` answers them without `meta`; `pages` answers with the first item of a longer list; `takes_s` is how long it
takes to store a measurement, and `most_at_once` says how many it stored at once.
"""

import asyncio
import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.doubles.server import Double

TOKEN = "hub-token-1"
FORM = (
    "mask_id",
    "run_name",
    "lot_name",
    "wafer_name",
    "die_x",
    "die_y",
    "device_name",
    "type",
    "test_station_name",
    "test_meta",
    "meta",
)
RUN = ("name", "project_id", "test_software_name", "test_software_version", "expected_measurement_count")


def no(status: int, message: str) -> web.Response:
    return web.json_response({"message": message}, status=status)


class MaskHub(Double):
    """Stores in memory. Run it as a process of its own where its clients are killed."""

    def __init__(self, state: Path | None = None) -> None:
        super().__init__(state)
        self.token = TOKEN
        self.lookups = True
        self.hide_meta = False
        self.pages = False
        self.takes_s = 0.0
        self.under_way = self.most_at_once = 0
        self.masks: dict[int, int] = {42: 7}
        self.stations: list[dict[str, Any]] = []
        self.heartbeats: list[dict[str, Any]] = []
        self.runs: list[dict[str, Any]] = []
        self.measurements: list[dict[str, Any]] = []
        self.attachments: list[dict[str, Any]] = []
        self.analyses: list[str] = []

    @property
    def environ(self) -> dict[str, str]:
        """What a lab's environment would say to reach it."""
        return environ(self.url)

    def routes(self, app: web.Application) -> None:
        app.middlewares.append(self._authorised)
        app.router.add_get("/api/teststations/", self.find_stations)
        app.router.add_post("/api/teststations/", self.add_station)
        app.router.add_post("/api/heartbeats/", self.beat)
        app.router.add_get("/api/masks/{mask_id}", self.mask)
        app.router.add_get("/api/runs/", self.find_runs)
        app.router.add_post("/api/runs/", self.add_run)
        app.router.add_post("/api/runs/{run_name}/trigger_die_analysis", self.analyse)
        app.router.add_get("/api/attachments/", self.find_attachments)
        app.router.add_post("/api/attachments/", self.attach)
        app.router.add_get("/api/v3/measurements", self.find_measurements)
        app.router.add_post("/api/v3/measurements", self.measure)
        app.router.add_get("/_double/sha256/{id}", self.sha256)

    @web.middleware
    async def _authorised(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if request.path.startswith("/api/") and request.headers.get("X-API-KEY") != self.token:
            return no(401, "the API key is missing or wrong")
        return await handler(request)

    def per_key(self) -> Counter[str]:
        """How many measurements are stored under each of our keys."""
        return Counter(json.loads(one["meta"]).get("x_delivery_key", "") for one in self.measurements)

    def contents(self) -> Any:
        return {
            "stations": self.stations,
            "heartbeats": self.heartbeats,
            "runs": self.runs,
            "measurements": self.measurements,
            "per_key": self.per_key(),
            "attachments": self.attachments,
            "analyses": self.analyses,
        }

    # -- stations, masks, runs -----------------------------------------------------------------------------------------

    async def find_stations(self, request: web.Request) -> web.Response:
        return web.json_response([one for one in self.stations if one["name"] == request.query.get("name")])

    async def add_station(self, request: web.Request) -> web.Response:
        name = (await self.json(request)).get("name")
        if not name:
            return no(422, "missing: name")
        self.stations.append({"id": len(self.stations) + 1, "name": name})
        return web.json_response(self.stations[-1])

    async def beat(self, request: web.Request) -> web.Response:
        body = await self.json(request)
        if lacks := [name for name in ("teststation_id", "status", "code") if name not in body]:
            return no(422, f"missing: {', '.join(lacks)}")
        if body["teststation_id"] not in [one["id"] for one in self.stations]:
            return no(404, "there is no such test station")
        self.heartbeats.append(body)
        return web.json_response({"id": len(self.heartbeats)})

    async def mask(self, request: web.Request) -> web.Response:
        mask_id = request.match_info["mask_id"]
        if not mask_id.isdigit() or int(mask_id) not in self.masks:
            return no(404, f"there is no mask {mask_id}")
        return web.json_response({"id": int(mask_id), "project_id": self.masks[int(mask_id)]})

    async def find_runs(self, request: web.Request) -> web.Response:
        found = [
            {"id": one["id"], "name": one["name"], "die_analysis_triggered": one["name"] in self.analyses}
            for one in self.runs
            if one["name"] == request.query.get("name")
        ]
        return self.found(found)

    async def add_run(self, request: web.Request) -> web.Response:
        body = await self.json(request)
        if lacks := [name for name in RUN if name not in body]:
            return no(422, f"missing: {', '.join(lacks)}")
        if body["project_id"] not in self.masks.values():
            return no(422, "there is no such project")
        for name in ("config", "calibration", "expected_material_counts"):
            if name in body:
                try:
                    json.loads(body[name])
                except (TypeError, ValueError):
                    return no(422, f"{name} is no text of JSON")
        there = next((one for one in self.runs if one["name"] == body["name"]), None)
        if there is not None:
            return web.json_response({"message": "the run exists", "id": there["id"]}, status=409)
        self.runs.append({"id": len(self.runs) + 101, **body})
        return web.json_response({"id": self.runs[-1]["id"]})

    async def analyse(self, request: web.Request) -> web.Response:
        name = request.match_info["run_name"]
        if name not in [one["name"] for one in self.runs]:
            return no(404, f"there is no run {name!r}")
        self.analyses.append(name)
        return web.json_response({})

    # -- measurements and attachments ----------------------------------------------------------------------------------

    async def measure(self, request: web.Request) -> web.Response:
        fields, files = await self.form(request)
        if lacks := [name for name in (*FORM, "raw_data") if name not in fields and name not in files]:
            return no(422, f"missing: {', '.join(lacks)}")
        if fields["run_name"] not in [one["name"] for one in self.runs]:
            return no(422, f"there is no run {fields['run_name']!r}")
        for name in ("test_meta", "meta"):
            try:
                json.loads(fields[name])
            except ValueError:
                return no(422, f"{name} is no JSON")
        self.under_way += 1
        self.most_at_once = max(self.most_at_once, self.under_way)
        await asyncio.sleep(self.takes_s)
        self.under_way -= 1
        told = {"id": len(self.measurements) + 1001, **fields, **files["raw_data"]}
        self.measurements.append(told)
        return web.json_response({"id": told["id"]})

    async def find_measurements(self, request: web.Request) -> web.Response:
        names = ("run_name", "device_name", "die_x", "die_y")
        found = [
            {"id": one["id"], **{name: one[name] for name in names}} | ({} if self.hide_meta else {"meta": one["meta"]})
            for one in self.measurements
            if all(one[name] == request.query.get(name, one[name]) for name in names)
        ]
        return self.found(found)

    async def attach(self, request: web.Request) -> web.Response:
        fields, files = await self.form(request)
        needed = ("target_model_name", "target_model_id", "name", "files")
        if lacks := [name for name in needed if name not in fields and name not in files]:
            return no(422, f"missing: {', '.join(lacks)}")
        if fields["target_model_id"] not in [str(one["id"]) for one in self.runs]:
            return no(404, "there is no such run")
        told = {"id": len(self.attachments) + 501, **fields, **files["files"]}
        self.attachments.append(told)
        return web.Response(status=201, text="stored")  # what it answers is not known

    async def find_attachments(self, request: web.Request) -> web.Response:
        found = [
            {"id": one["id"], "name": one["name"]}
            for one in self.attachments
            if one["target_model_id"] == request.query.get("target_model_id")
        ]
        return self.found(found)

    async def sha256(self, request: web.Request) -> web.Response:
        wanted = request.match_info["id"]
        found = next(one for one in [*self.measurements, *self.attachments] if str(one["id"]) == wanted)
        return web.json_response({"sha256": found["sha256"]})

    # -- helpers -------------------------------------------------------------------------------------------------------

    def found(self, items: list[dict[str, Any]]) -> web.Response:
        if not self.lookups:
            return web.Response(status=405, headers={"Allow": "POST"}, text="GET is not allowed")
        if self.pages:
            return web.json_response({"results": items[:1], "next": "?page=2"})
        return web.json_response(items)

    async def json(self, request: web.Request) -> dict[str, Any]:
        try:
            body = json.loads(await self.body(request))
        except ValueError:
            raise web.HTTPUnprocessableEntity(
                text=json.dumps({"message": "the body is no JSON"}), content_type="application/json"
            ) from None
        assert isinstance(body, dict)
        return body

    async def form(self, request: web.Request) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
        """The fields, and of each file its name, type, size and SHA-256. A form that breaks off is none."""
        boundary = re.search(r"boundary=([\w-]+)", request.headers.get("Content-Type", ""))
        data = await self.body(request)
        if boundary is None or not data.endswith(f"--{boundary[1]}--\r\n".encode()):
            raise web.HTTPBadRequest(text=json.dumps({"message": "no complete form"}), content_type="application/json")
        fields: dict[str, str] = {}
        files: dict[str, dict[str, Any]] = {}
        for part in (b"\r\n" + data).split(f"\r\n--{boundary[1]}".encode())[1:-1]:
            head, _, body = part.partition(b"\r\n\r\n")
            told = dict(re.findall(r'(\w+)="([^"]*)"', head.decode()))
            if "filename" in told:
                kind = re.search(r"(?i)content-type: (\S+)", head.decode())
                about = {"file_name": told["filename"], "media_type": kind[1] if kind else "", "size": len(body)}
                files[told["name"]] = about | {"sha256": hashlib.sha256(body).hexdigest()}
            else:
                fields[told["name"]] = body.decode()
        return fields, files


def environ(url: str, token: str = TOKEN) -> dict[str, str]:
    """What a lab's environment says to reach a MaskHub at `url`."""
    return {"MASKHUB_API": f"{url}/api", "MASKHUB_API_V3": f"{url}/api/v3", "MASKHUB_API_TOKEN": token}


DOUBLE = MaskHub

if __name__ == "__main__":
    from tests.doubles.server import main

    main("maskhub")
