"""What programs ask: JSON, described at /api/openapi.json. What changes something needs the header X-Omniad."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator
from typing import Annotated, Literal

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import FileResponse, Response, StreamingResponse
from pydantic import BaseModel, Field

from omniad_ros.living.export import finding_row, finding_summary, own
from omniad_ros.living.schema import VERDICTS, Patrol, Zone
from omniad_ros.web.places import Places

PAGE = 200
LOOK_EVERY = 1.0
"""Seconds after which a page that watches is told that something is new."""
KEEP_ALIVE = 15.0


class Judgement(BaseModel):
    """What somebody says of a finding."""

    verdict: Literal[tuple(VERDICTS)]
    comment: Annotated[str, Field(max_length=2000)] = ""
    who: Annotated[str, Field(max_length=200)] = "operator"


class ZoneRequest(BaseModel):
    """A part of the map in which things always change: corners (x, y) seen from above, and the heights between which it stands, metres."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    outline: Annotated[list[tuple[float, float]], Field(min_length=3, max_length=500)]
    low: float = -1.0
    high: float = 5.0
    who: Annotated[str, Field(max_length=200)] = "operator"


def router(places: Places) -> APIRouter:
    api = APIRouter(prefix="/api", tags=["omniad"])

    @api.get("/sites")
    def sites() -> list[dict]:
        """The sites, and how many findings they have, by state and verdict."""
        return [
            {
                "name": name,
                "findings": [{"state": s, "verdict": v, "count": n} for (s, v), n in p.store.counts().items()],
            }
            for name, p in places.by_name.items()
        ]

    @api.get("/sites/{site}/findings")
    def findings(
        site: str, state: Annotated[list[str], Query()] = [], before: int | None = None, limit: Annotated[int, Query(le=1000, ge=1)] = PAGE  # noqa: B006
    ) -> list[dict]:  # fmt: skip
        """Findings, newest first. before: the number of the last one of the page before."""
        return [finding_summary(finding) for finding in places.named(site).store.findings(state, limit, before=before)]

    @api.get("/sites/{site}/findings/{finding}")
    def finding(site: str, finding: str) -> dict:
        """A finding with its sightings and verdicts."""
        return finding_row(places.named(site).store.finding(finding))

    @api.get("/sites/{site}/findings/{finding}/points")
    def points(site: str, finding: str) -> dict:
        """The sparse map around a finding: metres relative to its centre, and colours."""
        place = places.named(site)
        found = place.store.finding(finding)
        xyz, rgb = place.points_near(found.center)
        return {"xyz": xyz.round(3).ravel().tolist(), "rgb": rgb.ravel().tolist(), "size": found.size}

    @api.post("/sites/{site}/findings/{finding}/verdict")
    def give(site: str, finding: str, said: Judgement) -> dict:
        """Say what a finding is."""
        return finding_summary(places.named(site).store.give(finding, said.verdict, said.who, said.comment))

    @api.delete("/sites/{site}/findings/{finding}/verdict")
    def take_back(site: str, finding: str) -> dict:
        """Take the last verdict back."""
        return finding_summary(places.named(site).store.take_back(finding))

    @api.get("/sites/{site}/patrols")
    def patrols(site: str, before: int | None = None, limit: Annotated[int, Query(le=1000, ge=1)] = PAGE) -> list[dict]:
        """Patrols, newest first."""
        return [patrol_row(patrol) for patrol in places.named(site).store.patrols(limit, before)]

    @api.get("/sites/{site}/patrols/{patrol}")
    def patrol(site: str, patrol: int) -> dict:
        """A patrol with its frames and sightings."""
        store = places.named(site).store
        found = store.patrol(patrol)
        return patrol_row(found) | {
            "frames": [own(f, "stamp", "state", "x", "y", "z") for f in found.frames],
            "sightings": [
                {"finding": s.finding.name} | own(s, "state", "kind", "score", "views", "center", "size")
                for s in store.sightings(patrol)
            ],
        }  # fmt: skip

    @api.get("/sites/{site}/zones")
    def zones(site: str) -> list[dict]:
        """The zones that hold."""
        return [zone_row(zone) for zone in places.named(site).store.zones()]

    @api.post("/sites/{site}/zones", status_code=201)
    def add_zone(site: str, zone: ZoneRequest) -> dict:
        """Add a zone."""
        return zone_row(places.named(site).store.add_zone(zone.name, zone.outline, (zone.low, zone.high), zone.who))

    @api.delete("/sites/{site}/zones/{zone}")
    def remove_zone(site: str, zone: int) -> dict:
        """Take a zone away."""
        return zone_row(places.named(site).store.remove_zone(zone))

    @api.get("/sites/{site}/export.json")
    def export_json(site: str) -> Response:
        """All findings with their sightings and verdicts."""
        rows = [finding_row(found) for found in places.named(site).store.histories()]
        return _file(json.dumps(rows, indent=1), "application/json", f"{site}.json")

    @api.get("/sites/{site}/export.csv")
    def export_csv(site: str) -> Response:
        """All findings, a line each."""
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow(
            ("finding", "state", "verdict", "kind", "score", "x_m", "y_m", "z_m", "width_m", "depth_m", "height_m")
        )
        for f in places.named(site).store.findings():
            numbers = (f"{v:.3f}" for v in (f.score, *f.center, *f.size))
            writer.writerow((f.name, f.state, f.verdict, f.kind, *numbers))
        return _file(out.getvalue(), "text/csv; charset=utf-8", f"{site}.csv")

    @api.get("/sites/{site}/crops/{name}.jpg")
    def crop(site: str, name: str) -> FileResponse:
        """A picture of a sighting, by its SHA-256."""
        place = places.named(site)
        if len(name) != 64 or not set(name) <= set("0123456789abcdef") or not place.store.crop(name).is_file():
            raise HTTPException(404, "there is no such picture")
        headers = {"Cache-Control": "private, max-age=31536000, immutable"}
        return FileResponse(place.store.crop(name), media_type="image/jpeg", headers=headers)

    @api.get("/sites/{site}/events")
    async def events(site: str, request: Request) -> StreamingResponse:
        """Server-sent events: one "changed" whenever something was seen or said."""
        place = places.named(site)

        async def stream() -> AsyncIterator[str]:
            loop, last, silent = asyncio.get_running_loop(), None, 0.0
            while not await request.is_disconnected():
                now = await loop.run_in_executor(None, lambda: (place.store.progress(), place.store.changes()))
                if now != last or silent >= KEEP_ALIVE:
                    yield ": alive\n\n" if now == last else f"event: changed\ndata: {json.dumps(now)}\n\n"
                    last, silent = now, 0.0
                await asyncio.sleep(LOOK_EVERY)
                silent += LOOK_EVERY

        return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    return api


def patrol_row(patrol: Patrol) -> dict:
    return own(patrol, "id", "robot", "source", "version", "began", "ended")


def zone_row(zone: Zone) -> dict:
    return own(zone, "id", "name", "low", "high", "who", "at") | {"outline": json.loads(zone.outline)}


def _file(text: str, kind: str, name: str) -> Response:
    quoted = "".join(c if c.isalnum() or c in "-_." else "_" for c in name if c.isascii())
    return Response(text, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{quoted}"'})
