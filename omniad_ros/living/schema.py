"""The tables of patrols.db, as SQLAlchemy maps them. `migrations` brings a database of an earlier version to them.

Places and sizes are metres in the site's map, along its axes; times are seconds since 1970, stamps seconds of the recording's clock.
"""

from __future__ import annotations

import numpy as np
from sqlalchemy import ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from omniad_ros.core.geometry import Box

STATES = ("new", "still there", "changed", "gone")
"""Of a finding, by the latest patrol that could tell. A finding that was gone and is there again is new."""

CONFIRMED, ACCEPTED, IGNORED, FALSE_ALARM = "confirmed", "accepted", "ignored", "false alarm"
VERDICTS = {
    CONFIRMED: "a fault: it stays until it is seen repaired",
    ACCEPTED: "this is normal now: it raises nothing",
    IGNORED: "here things always change: the place raises nothing",
    FALSE_ALARM: "there is nothing: the place raises nothing that is no stronger",
}


class Base(DeclarativeBase):
    """All tables."""


class Patrol(Base):
    """One round of one robot. site: the site's name; key: tells it from all others; version: of the site, the SHA-256 that its build
    gave it; ended: None while it runs, or where it was cut off."""

    __tablename__ = "patrols"
    id: Mapped[int] = mapped_column(primary_key=True)
    site: Mapped[str] = mapped_column(index=True)
    key: Mapped[str] = mapped_column(unique=True)
    robot: Mapped[str]
    source: Mapped[str]
    version: Mapped[str]
    began: Mapped[float]
    ended: Mapped[float | None]
    frames: Mapped[list[KeptFrame]] = relationship(order_by="KeptFrame.stamp", cascade="all, delete-orphan")
    sightings: Mapped[list[Sighting]] = relationship(back_populates="patrol", order_by="Sighting.id")


class KeptFrame(Base):
    """A frame of a patrol: what was made of it, and where its camera was, None where that is not known."""

    __tablename__ = "frames"
    patrol_id: Mapped[int] = mapped_column(ForeignKey("patrols.id"), primary_key=True)
    stamp: Mapped[float] = mapped_column(primary_key=True)
    state: Mapped[str]
    x: Mapped[float | None]
    y: Mapped[float | None]
    z: Mapped[float | None]


class Extent:
    """The columns of an extent in the map."""

    x: Mapped[float]
    y: Mapped[float]
    z: Mapped[float]
    width: Mapped[float]
    depth: Mapped[float]
    height: Mapped[float]

    @property
    def center(self) -> tuple[float, float, float]:
        return self.x, self.y, self.z

    @property
    def size(self) -> tuple[float, float, float]:
        return self.width, self.depth, self.height

    @property
    def box(self) -> Box:
        half = np.array(self.size) / 2
        return Box(np.array(self.center) - half, np.array(self.center) + half)


class Finding(Extent, Base):
    """The same thing at the same place over all patrols. state: of `STATES`; verdict: the one that holds, of `VERDICTS`, or empty;
    score: the highest of its sightings; peak: the highest probability in their pictures; farthest: metres from which it was seen at most; looks: see `recognition.looks_of`."""

    __tablename__ = "findings"
    id: Mapped[int] = mapped_column(primary_key=True)
    site: Mapped[str]
    kind: Mapped[str]
    state: Mapped[str]
    verdict: Mapped[str] = mapped_column(default="")
    score: Mapped[float]
    peak: Mapped[float]
    farthest: Mapped[float]
    looks: Mapped[bytes]
    last_patrol: Mapped[int] = mapped_column(ForeignKey("patrols.id"))
    sightings: Mapped[list[Sighting]] = relationship(back_populates="finding", order_by="Sighting.id")
    verdicts: Mapped[list[Verdict]] = relationship(back_populates="finding", order_by="Verdict.id")
    __table_args__ = (Index("findings_of_site", "site", "state"),)

    @property
    def name(self) -> str:
        return f"F{self.id}"


class Sighting(Extent, Base):
    """What one patrol saw of a finding: one of its tracks. state: what the finding then was; frame, reference, heatmap: SHA-256 of the
    crops' files, None without one."""

    __tablename__ = "sightings"
    id: Mapped[int] = mapped_column(primary_key=True)
    patrol_id: Mapped[int] = mapped_column(ForeignKey("patrols.id"))
    finding_id: Mapped[int] = mapped_column(ForeignKey("findings.id"), index=True)
    track: Mapped[int]
    kind: Mapped[str]
    state: Mapped[str]
    score: Mapped[float]
    views: Mapped[int]
    first_seen: Mapped[float]
    last_seen: Mapped[float]
    frame: Mapped[str | None]
    reference: Mapped[str | None]
    heatmap: Mapped[str | None]
    patrol: Mapped[Patrol] = relationship(back_populates="sightings")
    finding: Mapped[Finding] = relationship(back_populates="sightings")
    __table_args__ = (UniqueConstraint("patrol_id", "track"),)


class Verdict(Base):
    """What somebody said of a finding, and whether that was taken back."""

    __tablename__ = "verdicts"
    id: Mapped[int] = mapped_column(primary_key=True)
    finding_id: Mapped[int] = mapped_column(ForeignKey("findings.id"), index=True)
    verdict: Mapped[str]
    who: Mapped[str]
    at: Mapped[float]
    comment: Mapped[str]
    undone: Mapped[bool] = mapped_column(default=False)
    finding: Mapped[Finding] = relationship(back_populates="verdicts")


class Zone(Base):
    """A part of the map in which things always change. outline: JSON, [[x, y], ...] of its corners seen from above; low, high: metres
    between which it stands; a zone that was taken away is not active."""

    __tablename__ = "zones"
    id: Mapped[int] = mapped_column(primary_key=True)
    site: Mapped[str] = mapped_column(index=True)
    name: Mapped[str]
    outline: Mapped[str]
    low: Mapped[float]
    high: Mapped[float]
    who: Mapped[str]
    at: Mapped[float]
    active: Mapped[bool] = mapped_column(default=True)
