"""The database of a site's patrols: SQLite beside the site, or any that SQLAlchemy opens by URL (PostgreSQL is tested).

Whoever writes commits after each frame, so a crash loses at most the frame in work, and takes the site's lock before it decides
which finding a sighting is of, so that two robots that see the same thing at once make one finding of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Engine, create_engine, event, func, select, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.orm import Session, selectinload

from omniad_ros.core.feedback import NoSpaceError, OmniadError
from omniad_ros.core.files import disk_errors, write_atomically
from omniad_ros.living.schema import VERDICTS, Finding, KeptFrame, Patrol, Sighting, Verdict, Zone

DATABASE, CROPS = "patrols.db", "patrols_crops"
WAIT = 10.0
"""Seconds for which another writer is waited for."""
FURTHEST = 1e6
"""Metres in the map: a corner of a zone beyond that is a mistake."""


class UnknownError(OmniadError):
    """There is no such finding, patrol or zone."""


class RefusedError(OmniadError):
    """What is asked for cannot be: a mistake of who asks."""


class PatrolStore:
    """Patrols, findings, sightings, verdicts and zones of one site.

    ``url`` names the database; crops are JPEG files in ``crops``, named by their SHA-256. Every method raises OmniadError where the
    database cannot be used, in one sentence that says why; what was committed before stays.
    """

    def __init__(self, site: str, url: str, crops: Path):
        self.site, self.url, self.crops = site, url, crops
        self._engine = _engine(url)
        with self._said(), self._engine.begin() as connection:
            _migrate(connection, url)

    @staticmethod
    def of_site(site: Path, url: str = "") -> PatrolStore:
        """Of the site in a folder: in the database at ``url``, else in patrols.db beside that folder, where the sites there share it."""
        place = Path(site).resolve()
        beside = URL.create("sqlite", database=str(place.parent / DATABASE)).render_as_string()
        return PatrolStore(place.name, url or beside, place.parent / CROPS)

    @staticmethod
    def exists(site: Path, url: str = "") -> bool:
        """Whether anything was ever kept of a site; a database by URL is taken to be there."""
        return bool(url) or (Path(site).resolve().parent / DATABASE).is_file()

    def close(self) -> None:
        self._engine.dispose()

    @contextlib.contextmanager
    def writing(self) -> Iterator[Session]:
        """A session whose changes are committed together, while nobody else changes findings."""
        with self._said(), Session(self._engine, expire_on_commit=False) as session, session.begin():
            if self._engine.dialect.name == "sqlite":
                session.execute(text("BEGIN IMMEDIATE"))
            else:
                key = int.from_bytes(hashlib.sha256(self.site.encode()).digest()[:8], "big", signed=True)
                session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
            yield session

    @contextlib.contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that changes nothing."""
        with self._said(), Session(self._engine, expire_on_commit=False) as session:
            yield session

    def keep_crop(self, data: bytes) -> str:
        """Write a picture where it is not there yet; returns its name."""
        name = hashlib.sha256(data).hexdigest()
        path = self.crop(name)
        if not path.is_file():
            with disk_errors(self.crops):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, data)
        return name

    def crop(self, name: str) -> Path:
        """The file of a picture."""
        return self.crops / name[:2] / f"{name}.jpg"

    # ---- what is known

    def patrols(self, limit: int = 100, before: int | None = None) -> list[Patrol]:
        """The latest patrols, newest first; before: an id, for those that are older."""
        chosen = select(Patrol).where(Patrol.site == self.site).order_by(Patrol.id.desc()).limit(limit)
        with self.reading() as session:
            return list(session.scalars(chosen if before is None else chosen.where(Patrol.id < before)))

    def findings(
        self, states: Sequence[str] = (), limit: int | None = None, *, verdicts: Sequence[str] | None = None,
        before: int | None = None, after: int | None = None,
    ) -> list[Finding]:  # fmt: skip
        """Findings by their ids, newest first; of some states, with some verdicts ("" for none), older or newer than an id, only
        where these are given. The oldest first where ``after`` is given."""
        chosen = select(Finding).where(Finding.site == self.site)
        if states:
            chosen = chosen.where(Finding.state.in_(states))
        if verdicts is not None:
            chosen = chosen.where(Finding.verdict.in_(verdicts))
        if before is not None:
            chosen = chosen.where(Finding.id < before)
        if after is not None:
            chosen = chosen.where(Finding.id > after)
        order = Finding.id.desc() if after is None else Finding.id
        with self.reading() as session:
            return list(session.scalars(chosen.order_by(order).limit(limit)))

    def newest(self) -> int:
        """The id of the newest finding, 0 where there is none."""
        with self.reading() as session:
            return session.scalar(select(func.max(Finding.id)).where(Finding.site == self.site)) or 0

    def counts(self) -> dict[tuple[str, str], int]:
        """How many findings there are, by state and verdict."""
        chosen = select(Finding.state, Finding.verdict, func.count()).where(Finding.site == self.site)
        with self.reading() as session:
            rows = session.execute(chosen.group_by(Finding.state, Finding.verdict)).all()
        return {(state, verdict): count for state, verdict, count in rows}

    def patrol(self, number: int) -> Patrol:
        """A patrol with its frames. Raises OmniadError where there is none."""
        chosen = (
            select(Patrol).where(Patrol.site == self.site, Patrol.id == number).options(selectinload(Patrol.frames))
        )
        with self.reading() as session:
            patrol = session.scalars(chosen).first() if abs(number) < 2**31 else None
        if patrol is None:
            raise UnknownError(f"there is no patrol {number} of {self.site}")
        return patrol

    def finding(self, name: str | int) -> Finding:
        """A finding with its sightings, their patrols, and all verdicts. name: as ``F12`` or ``12``. Raises OmniadError where there is none."""
        with self.reading() as session:
            found = self._found(session, name)
            return session.scalars(select(Finding).where(Finding.id == found.id).options(*_whole())).one()

    def histories(self) -> list[Finding]:
        """All findings with their sightings, the patrols of these, and all verdicts, newest first."""
        chosen = select(Finding).where(Finding.site == self.site).options(*_whole())
        with self.reading() as session:
            return list(session.scalars(chosen.order_by(Finding.id.desc())))

    def sightings(self, patrol: int) -> list[Sighting]:
        """What a patrol saw, with the findings."""
        chosen = select(Sighting).where(Sighting.patrol_id == patrol).options(selectinload(Sighting.finding))
        with self.reading() as session:
            return list(session.scalars(chosen.order_by(Sighting.id)))

    def zones(self) -> list[Zone]:
        """The zones that hold."""
        with self.reading() as session:
            return list(session.scalars(select(Zone).where(Zone.site == self.site, Zone.active).order_by(Zone.id)))

    def progress(self) -> tuple[int, int, int]:
        """(newest patrol, its frames, all sightings' views): tells whether anything was seen since."""
        with self.reading() as session:
            newest = session.scalar(select(func.max(Patrol.id)).where(Patrol.site == self.site)) or 0
            frames = session.scalar(select(func.count()).where(KeptFrame.patrol_id == newest))
            views = session.scalar(
                select(func.coalesce(func.sum(Sighting.views), 0)).where(Sighting.patrol_id == newest)
            )
        return newest, int(frames or 0), int(views or 0)

    def changes(self) -> tuple[int, int, int]:
        """Tells one state of verdicts and zones from another, at the cost of two queries."""
        undone = func.coalesce(func.sum(func.cast(Verdict.undone, Verdict.id.type)), 0)
        with self.reading() as session:
            given = session.execute(
                select(func.count(Verdict.id), undone).join(Finding).where(Finding.site == self.site)
            ).one()
            zones = session.scalar(
                select(func.count(Zone.id) + 1000003 * func.coalesce(func.sum(func.cast(Zone.active, Zone.id.type)), 0))
                .where(Zone.site == self.site)
            )  # fmt: skip
        return int(given[0]), int(given[1]), int(zones or 0)

    # ---- what people say

    def give(self, name: str | int, verdict: str, who: str = "", comment: str = "") -> Finding:
        """Say what a finding is; returns it. Raises OmniadError for a finding or a verdict that does not exist."""
        if verdict not in VERDICTS:
            raise RefusedError(f"there is no verdict '{verdict}': choose of {', '.join(VERDICTS)}")
        with self.writing() as session:
            finding = self._found(session, name)
            finding.verdict = verdict
            session.add(Verdict(finding_id=finding.id, verdict=verdict, who=who, at=time.time(), comment=comment))
        return finding

    def take_back(self, name: str | int) -> Finding:
        """Undo the last verdict of a finding that holds; the one before it holds again. Raises OmniadError where there is none."""
        with self.writing() as session:
            finding = self._found(session, name)
            given = select(Verdict).where(Verdict.finding_id == finding.id, ~Verdict.undone).order_by(Verdict.id.desc())
            latest = list(session.scalars(given.limit(2)))
            if not latest:
                raise RefusedError(f"{finding.name} has no verdict to be taken back")
            latest[0].undone = True
            finding.verdict = latest[1].verdict if len(latest) > 1 else ""
        return finding

    def add_zone(
        self, name: str, outline: Sequence[tuple[float, float]], heights: tuple[float, float], who: str = ""
    ) -> Zone:
        """Ignore a part of the map: within a polygon of corners (x, y), between two heights, all in metres."""
        corners = [[float(x), float(y)] for x, y in outline]
        values = [v for corner in corners for v in corner] + list(heights)
        if len(corners) < 3:
            raise RefusedError("a zone needs at least three corners")
        if not all(abs(v) < FURTHEST for v in values):
            raise RefusedError("a zone's corners and heights must be numbers of metres in the map")
        if heights[0] >= heights[1]:
            raise RefusedError("a zone's lower height must be below its upper one")
        zone = Zone(
            site=self.site, name=name, outline=json.dumps(corners), low=heights[0], high=heights[1], who=who, at=time.time(),
        )  # fmt: skip
        with self.writing() as session:
            session.add(zone)
        return zone

    def remove_zone(self, number: int) -> Zone:
        """Take a zone away. Raises OmniadError where there is no such zone."""
        with self.writing() as session:
            zone = session.scalars(select(Zone).where(Zone.site == self.site, Zone.id == number, Zone.active)).first()
            if zone is None:
                raise UnknownError(f"there is no zone {number}; 'omniad zones' lists them")
            zone.active = False
        return zone

    def _found(self, session: Session, name: str | int) -> Finding:
        number = str(name).upper().removeprefix("F")
        chosen = select(Finding).where(Finding.site == self.site)
        found = (
            session.scalars(chosen.where(Finding.id == int(number))).first()
            if number.isdecimal() and len(number) < 10
            else None
        )
        if found is None:
            raise UnknownError(f"there is no finding '{name}' of {self.site}; 'omniad findings' lists them")
        return found

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise _sentence(self.url, error) from error


def _whole() -> tuple:
    """What loads a finding's history with it."""
    return selectinload(Finding.sightings).selectinload(Sighting.patrol), selectinload(Finding.verdicts)


def _engine(url: str) -> Engine:
    try:
        engine = create_engine(url, connect_args={"timeout": WAIT} if url.startswith("sqlite") else {})
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise OmniadError(f"'{without_password(url)}' names no database that can be opened here: {error}") from None
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare)
    return engine


def _prepare(connection, record) -> None:
    connection.isolation_level = None  # transactions begin where `writing` says so
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _migrate(connection, url: str) -> None:
    """Bring the tables to this version. Raises OmniadError for a database of a later one, or of something else."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    has = MigrationContext.configure(connection).get_current_revision()
    if has == scripts.get_current_head():
        return
    if has is not None and has not in {script.revision for script in scripts.walk_revisions()}:
        raise OmniadError(f"{without_password(url)} was written by a newer version of omniad_ros; update it")
    if connection.dialect.name == "sqlite":
        connection.execute(text("BEGIN IMMEDIATE"))
    command.upgrade(config, "head")


def _sentence(url: str, error: DBAPIError) -> OmniadError:
    """What a database's error means to the user."""
    said, where = str(error.orig), without_password(url).removeprefix("sqlite:///")
    if "full" in said:
        return NoSpaceError(f"no space left on the disk of {where}; free some, what was kept is still there")
    if "locked" in said:
        return OmniadError(f"{where} is in use by another program that does not let go of it; close that")
    if "malformed" in said or "not a database" in said or "disk image" in said:
        return OmniadError(f"{where} is damaged ({said}); put a copy back, or move it away to begin anew")
    if "readonly" in said or "unable to open" in said or "read-only" in said:
        return OmniadError(f"{where} cannot be written ({said}); name another database by --patrols")
    return OmniadError(f"{where} cannot be used: {said.splitlines()[0] if said else type(error).__name__}")


def without_password(url: str) -> str:
    """An address as it may be shown."""
    head, at, tail = url.rpartition("@")
    return f"{head.split('//')[0]}//...@{tail}" if at else url
