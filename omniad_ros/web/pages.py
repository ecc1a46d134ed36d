"""The pages: sites, a site with its plan, a finding with its history, a patrol while it runs and afterwards."""

from __future__ import annotations

import datetime

import numpy as np
from fastapi import APIRouter, FastAPI, HTTPException
from fastapi.responses import FileResponse, HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from omniad_ros import __version__
from omniad_ros.living.schema import STATES, VERDICTS
from omniad_ros.report.data import RouteStep
from omniad_ros.report.floorplan import clock, timeline_svg
from omniad_ros.report.writing import KIND_WORDS, LOOK
from omniad_ros.web.places import Places
from omniad_ros.web.plan import SETTLED, plan_svg, tone

PAGE = 60
"""Findings of a page."""
ON_PLAN = 300
FILTERS = {
    "open": "To be judged", "confirmed": "Confirmed", "settled": "Settled", "gone": "Gone", "all": "All",
}  # fmt: skip
"""Of a site's findings, by the words of the address."""
OPEN_STATES = tuple(state for state in STATES if state != "gone")


class Pages:
    """Renders and answers."""

    def __init__(self, places: Places, app: FastAPI):
        self.places, self.app, self.router = places, app, APIRouter(include_in_schema=False)
        self._templates = Environment(
            loader=PackageLoader("omniad_ros.web"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        self._templates.globals.update(version=__version__, verdicts=VERDICTS, when=when, tone=tone, kinds=KIND_WORDS)
        for path, answer in (
            ("/", self.sites), ("/sites/{site}", self.site), ("/sites/{site}/findings/{finding}", self.finding),
            ("/sites/{site}/patrols/{patrol}", self.patrol), ("/api", self.programs),
        ):  # fmt: skip
            self.router.add_api_route(path, answer, methods=["GET"], response_class=HTMLResponse)
        self.router.add_api_route("/look.css", lambda: FileResponse(LOOK), methods=["GET"])

    def error(self, status: int, sentence: str) -> str:
        return self._page("error.html", status=status, sentence=sentence)

    def sites(self) -> str:
        rows = []
        for place in self.places.by_name.values():
            counts, patrols = place.store.counts(), place.store.patrols(1)
            rows.append({
                "name": place.name, "to_judge": _sum(counts, OPEN_STATES, ("",)), "fresh": _sum(counts, ("new", "changed"), ("",)),
                "confirmed": _sum(counts, OPEN_STATES, ("confirmed",)), "patrol": patrols[0] if patrols else None,
            })  # fmt: skip
        return self._page("sites.html", sites=rows)

    def site(self, site: str, show: str = "open", before: int | None = None) -> str:
        place = self.places.named(site)
        if show not in FILTERS:
            raise HTTPException(404, f"there is nothing called '{show}' to be shown; it is one of {', '.join(FILTERS)}")
        store, counts = place.store, place.store.counts()
        states, given = _chosen(show)
        found = store.findings(states, PAGE + 1, verdicts=given, before=before)
        more = len(found) > PAGE
        found = found[:PAGE]
        on_plan = found if before is not None or more else store.findings(states, ON_PLAN, verdicts=given)
        zones = store.zones()
        return self._page(
            "site.html", site=site, show=show, findings=found, more=found[-1].id if more else None, zones=zones,
            filters={name: (words, _count(counts, name)) for name, words in FILTERS.items()}, patrols=store.patrols(12),
            plan=plan_svg(place, on_plan, zones), versions=place.versions(),
        )  # fmt: skip

    def finding(self, site: str, finding: str, show: str = "open") -> str:
        place = self.places.named(site)
        found = place.store.finding(finding)
        states, given = _chosen(show if show in FILTERS else "open")
        older = place.store.findings(states, 1, verdicts=given, before=found.id)
        newer = place.store.findings(states, 1, verdicts=given, after=found.id)
        seen = [s for s in reversed(found.sightings) if s.frame]
        versions = place.versions()
        current = next(v for v in versions if v.current)
        since = (
            min((v.number for v in versions if found.id in v.taken_in), default=None)
            if found.id in current.taken_in
            else None
        )
        return self._page(
            "finding.html", since=since, site=site, finding=found, latest=seen[0] if seen else None, sightings=list(reversed(found.sightings)),
            given=list(reversed(found.verdicts)), show=show, following=older[0].name if older else None,
            previous=newer[0].name if newer else None, plan=plan_svg(place, [found], place.store.zones()),
        )  # fmt: skip

    def patrol(self, site: str, patrol: int) -> str:
        place = self.places.named(site)
        found = place.store.patrol(patrol)
        seen = place.store.sightings(patrol)
        route = np.array([(f.x, f.y, f.z) for f in found.frames if f.x is not None]).reshape(-1, 3)
        steps = [RouteStep(f.stamp, None, f.state) for f in found.frames]
        states = {s: sum(f.state == s for f in found.frames) for s in ("ok", "degraded", "lost")}
        length = steps[-1].stamp - steps[0].stamp if steps else 0.0
        driven = float(np.linalg.norm(np.diff(route, axis=0), axis=1).sum()) if len(route) > 1 else 0.0
        return self._page(
            "patrol.html", site=site, patrol=found, sightings=seen, states=states, length=clock(length), driven=driven,
            timeline=timeline_svg(steps), plan=plan_svg(place, [s.finding for s in seen], place.store.zones(), route),
        )  # fmt: skip

    def programs(self) -> str:
        """What programs may ask, without a script of somebody else's."""
        schema, rows = self.app.openapi(), []
        for path, methods in schema["paths"].items():
            for method, about in methods.items():
                body = about.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
                fields = schema["components"]["schemas"].get(body.get("$ref", "").rpartition("/")[2], {})
                rows.append({
                    "method": method.upper(), "path": path, "words": about.get("description", ""),
                    "body": list(fields.get("properties", {})),
                    "query": [p["name"] for p in about.get("parameters", []) if p["in"] == "query"],
                })  # fmt: skip
        return self._page("programs.html", rows=rows)

    def _page(self, template: str, **values) -> str:
        return self._templates.get_template(template).render(**values)


def _chosen(show: str) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """States and verdicts of a filter."""
    return {
        "open": (OPEN_STATES, ("",)), "confirmed": (OPEN_STATES, ("confirmed",)),
        "settled": (OPEN_STATES, SETTLED), "gone": (("gone",), None), "all": ((), None),
    }[show]  # fmt: skip


def _count(counts: dict[tuple[str, str], int], show: str) -> int:
    states, given = _chosen(show)
    return _sum(counts, states or STATES, given if given is not None else ("", *VERDICTS))


def _sum(counts: dict[tuple[str, str], int], states: tuple[str, ...], verdicts: tuple[str, ...]) -> int:
    return sum(n for (state, verdict), n in counts.items() if state in states and verdict in verdicts)


def when(seconds: float | None) -> str:
    """A moment in this computer's time."""
    return "" if seconds is None else datetime.datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
