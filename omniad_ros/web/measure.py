"""How long the operator's pages take with many findings: ``python -m omniad_ros.web.measure SITE``.

A copy of the site gets 500 patrols of 200 frames, 1,000 findings and 10,000 sightings in SQLite; the site itself stays as it is.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import uvicorn

from omniad_ros.living import Finding, Patrol, PatrolStore, Sighting
from omniad_ros.living.schema import KeptFrame
from omniad_ros.web.app import create_app
from omniad_ros.web.places import Places

PATROLS, FRAMES, FINDINGS, SIGHTINGS, TIMES = 500, 200, 1000, 10_000, 7
PAGES = ("/", "/sites/many", "/sites/many/findings/F500", "/sites/many/patrols/100", "/api/sites/many/export.json")


def fill(store: PatrolStore) -> None:
    box = dict(x=0.0, y=0.0, z=0.0, width=0.1, depth=0.1, height=0.1)
    thing = dict(kind="added", state="new", score=0.9, **box)
    with store.writing() as session:
        for p in range(1, PATROLS + 1):
            session.add(Patrol(id=p, site=store.site, key=str(p), robot="", source="", version="", began=float(p)))
        session.flush()
        for f in range(1, FINDINGS + 1):
            session.add(
                Finding(id=f, site=store.site, verdict="", peak=0.9, farthest=1.0, looks=b"", last_patrol=1, **thing)
            )
        session.flush()
        for s in range(SIGHTINGS):
            of = dict(patrol_id=s * PATROLS // SIGHTINGS + 1, finding_id=s % FINDINGS + 1, track=s)
            session.add(Sighting(**of, views=9, first_seen=0.0, last_seen=1.0, **thing))
        for p in range(1, PATROLS + 1):
            session.add_all(
                KeptFrame(patrol_id=p, stamp=float(k), state="ok", x=k / 50, y=0.0, z=0.0) for k in range(FRAMES)
            )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder) / "many"
        shutil.copytree(sys.argv[1], site)
        places = Places.open([site])
        fill(places.by_name["many"].store)
        server = uvicorn.Server(uvicorn.Config(create_app(places), port=0, log_level="warning"))
        threading.Thread(target=server.run, daemon=True).start()
        while not server.started:
            time.sleep(0.05)
        port = server.servers[0].sockets[0].getsockname()[1]
        for page in PAGES:
            took = []
            for _ in range(TIMES):
                began = time.perf_counter()
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{page}") as answer:
                    answer.read()
                took.append(1e3 * (time.perf_counter() - began))
            print(f"{page:30} median {statistics.median(took):6.0f} ms, first {took[0]:6.0f} ms")
        server.should_exit = True


if __name__ == "__main__":
    main()
