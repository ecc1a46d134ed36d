"""A patrol that is kept while it is inspected, and inspected by what people have said of earlier ones."""

from __future__ import annotations

import time

from omniad_ros.core.feedback import OmniadError
from omniad_ros.living.keeping import Known, PatrolKeeper
from omniad_ros.living.photographs import PhotographKeeper
from omniad_ros.living.settled import Settled
from omniad_ros.living.store import PatrolStore
from omniad_ros.patrol.session import PatrolFrame, PatrolSession
from omniad_ros.patrol.tracks import Track
from omniad_ros.recordings.source import SECOND
from omniad_ros.site import Site

NOT_KEPT = "none"
"""In place of a database: nothing is kept, and no verdict is known."""


class KeptPatrol:
    """One patrol of a session in a site's database. Used from one thread, but for `known` and `silent`.

    Nothing raises here after the beginning: an inspection goes on where its database does not, and ``trouble`` says why.
    """

    LOOK_EVERY = 1.0
    """Seconds after which new verdicts and zones are asked for."""

    def __init__(self, site: Site, session: PatrolSession, database: str, *, robot: str, source: str, key: str = ""):
        self.store = PatrolStore.of_site(site.path, database)
        self.session, self.trouble = session, ""
        self._taken_in = site.manifest.get("taken_in", [])
        self.keeper = PatrolKeeper(self.store, site, robot, source, key)
        self.photographs = PhotographKeeper(site.path, self.keeper.patrol.id)
        self.settled = Settled([])
        self._changes, self._looked_at = None, 0.0
        self.look(at_once=True)
        if self.trouble:
            raise OmniadError(self.trouble)

    @staticmethod
    def begin(site: Site, session: PatrolSession, database: str, **facts: str) -> KeptPatrol | None:
        """None where nothing is to be kept. Raises OmniadError where the database cannot be used."""
        return None if database == NOT_KEPT else KeptPatrol(site, session, database, **facts)

    def add(self, frame: PatrolFrame) -> None:
        """Keep an inspected frame."""
        self._try(lambda: self._add(frame))
        self.look()

    def _add(self, frame: PatrolFrame) -> None:
        self.keeper.add(frame.stamp / SECOND, frame.camera, frame.inspection)
        self.photographs.add(frame)

    def look(self, at_once: bool = False) -> None:
        """Take in what people have said meanwhile: it counts from the next frame on."""
        if not at_once and time.monotonic() - self._looked_at < self.LOOK_EVERY:
            return
        self._looked_at = time.monotonic()
        self._try(self._take_in)

    def _take_in(self) -> None:
        changes = self.store.changes()
        if changes == self._changes:
            return
        self.settled = Settled.of(self.store, self._taken_in)
        self.keeper.refresh()
        self.session.inspector.settle = self.settled
        self._changes = changes

    def end(self) -> None:
        """The patrol is over."""
        self._try(self.keeper.end)
        self.session.inspector.settle = None
        self.store.close()

    def known(self, track: Track) -> Known | None:
        """What is known of a track over all patrols; None where it is not kept yet."""
        return self.keeper.known.get(track.id)

    def silent(self, track: Track) -> bool:
        """Whether nothing is to be said of a track."""
        known = self.known(track)
        return (known is not None and track.score <= known.level) or self.settled.covers(track.center)

    def _try(self, work) -> None:
        try:
            work()
            self.trouble = ""
        except OmniadError as error:
            self.trouble = f"the patrol is not kept: {error}"
