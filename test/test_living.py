"""Findings over several patrols, verdicts and zones, in a real database; and what happens when that cannot be used."""

import json
import os
import shutil
import sqlite3
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import postgres
import pytest
from test_tracking import CAMERA, patrol, seen

from omniad_ros import cli
from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.geometry import Pose
from omniad_ros.living import PatrolStore
from omniad_ros.living.keeping import PatrolKeeper
from omniad_ros.living.schema import Finding, KeptFrame, Patrol, Sighting
from omniad_ros.living.settled import Settled
from omniad_ros.mapping import Localization
from omniad_ros.patrol.pipeline import ANOMALOUS, SETTLED, Inspection
from omniad_ros.patrol.tracks import Tracker
from omniad_ros.reference import ReferenceView
from omniad_ros.site import Site

CRATE = (1.2, 0.3, 0.15), (0.3, 0.3, 0.3), "added"
LABEL = (-0.62, 0.2, 0.7), (0.1, 0.15, 0.15), "changed"
SPILL = (-0.2, -1.1, 0.01), (0.5, 0.5, 0.02), "changed"
RED, GREEN = (200, 40, 30), (30, 180, 60)


@pytest.fixture
def site(tiny_site, tmp_path):
    """The session's site beside a database of its own."""
    shutil.copytree(tiny_site, tmp_path / "plant")
    return Site.open(tmp_path / "plant")


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request):
    """What `PatrolStore.of_site` is given: nothing for SQLite, else the URL of a server."""
    if request.param == "sqlite":
        yield ""
        return
    pytest.importorskip("psycopg", reason="PostgreSQL needs psycopg")
    if postgres.programs() is None:
        pytest.skip("PostgreSQL is not installed (Debian: postgresql)")
    with postgres.server() as url:
        yield url


def inspected(things, rng):
    """The frames of a patrol around a block with these things (place, colour): as the pipeline gives them, tracked by the real tracker."""
    tracker = Tracker()
    for step, pose, depth in patrol(60):
        image, heat = np.full((240, 320, 3), 120, np.uint8), np.zeros((240, 320), np.float32)
        found = []
        for thing, colour in things:
            detection = seen(*thing, pose, depth, rng)
            if detection is not None:
                x0, y0, x1, y1 = np.round(detection.box).astype(int)
                image[y0:y1, x0:x1], heat[y0:y1, x0:x1] = colour, detection.score
                found.append(detection)
        tracks = tracker.update(found, CAMERA, pose, depth, float(step), (image, image, heat))
        mask = np.where(heat > 0.5, ANOMALOUS, 0).astype(np.uint8)
        reference = ReferenceView(image, depth)
        yield (
            float(step),
            Inspection(pose, Localization(pose, np.eye(6), 100, "tracked"), reference, heat, heat, mask, [], tracks),
        )


def drive(store, site, things, seed=0, robot="one"):
    keeper = PatrolKeeper(store, site, robot, f"round {seed}")
    for stamp, inspection in inspected(things, np.random.default_rng(seed)):
        keeper.add(stamp, CAMERA, inspection)
    keeper.end()
    return keeper


def by_place(store, thing):
    near = [f for f in store.findings() if np.linalg.norm(np.subtract(f.center, thing[0])) < 0.3]
    assert len(near) == 1, [(f.name, f.center) for f in store.findings()]
    return near[0]


def test_a_thing_is_one_finding_over_all_patrols(site, database):
    store = PatrolStore.of_site(site.path, database)
    drive(store, site, [(CRATE, RED), (LABEL, GREEN)], 1)
    crate, label = by_place(store, CRATE), by_place(store, LABEL)
    assert {crate.state, label.state} == {"new"} and len(store.findings()) == 2

    drive(store, site, [(CRATE, RED), (SPILL, GREEN)], 2, "two")
    assert by_place(store, CRATE).id == crate.id and by_place(store, CRATE).state == "still there"
    assert by_place(store, LABEL).state == "gone" and by_place(store, SPILL).state == "new"

    store.close()  # as after a restart
    store = PatrolStore.of_site(site.path, database)
    drive(store, site, [(CRATE, GREEN), (LABEL, GREEN), (SPILL, GREEN)], 3)
    assert by_place(store, CRATE).state == "changed"
    assert by_place(store, LABEL).id == label.id and by_place(store, LABEL).state == "new"
    assert by_place(store, SPILL).state == "still there" and len(store.findings()) == 3
    history = store.finding(crate.name).sightings
    assert [s.state for s in history] == ["new", "still there", "changed"]
    assert [s.patrol.robot for s in history] == ["one", "two", "one"]
    picture = cv2.imread(str(store.crop(history[0].frame)))
    assert picture is not None and picture[picture.shape[0] // 2, picture.shape[1] // 2, 2] > 150
    with store.reading() as session:
        assert (
            session.query(KeptFrame).count() == 180
            and session.query(Patrol).filter(Patrol.ended.is_(None)).count() == 0
        )


def test_a_patrol_that_was_killed_keeps_what_it_had_and_goes_on(site):
    store = PatrolStore.of_site(site.path)
    frames = list(inspected([(CRATE, RED)], np.random.default_rng(0)))
    keeper = PatrolKeeper(store, site, "one", "bag", key="the bag")
    for stamp, inspection in frames[:40]:
        keeper.add(stamp, CAMERA, inspection)
    store._engine.dispose()  # nothing more is said: as if the process were gone
    again = PatrolStore.of_site(site.path)
    assert len(again.findings()) == 1 and len(again.patrols()) == 1
    keeper = PatrolKeeper(again, site, "one", "bag", key="the bag")
    for stamp, inspection in frames[35:]:
        keeper.add(stamp, CAMERA, inspection)
    keeper.end()
    assert len(again.patrols()) == 1 and len(again.findings()) == 1 and again.findings()[0].state == "new"
    with again.reading() as session:
        assert session.query(KeptFrame).count() == 60


def test_two_robots_that_see_the_same_at_once_make_one_finding_of_it(site, database):
    PatrolStore.of_site(site.path, database).close()

    def round_of(seed):
        store = PatrolStore.of_site(site.path, database)
        drive(store, site, [(CRATE, RED), (LABEL, GREEN)], seed, str(seed))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(round_of, (1, 2)))
    store = PatrolStore.of_site(site.path, database)
    assert len(store.findings()) == 2 and len(store.patrols()) == 2
    assert all(len(store.finding(f.id).sightings) == 2 for f in store.findings())


def test_a_verdict_silences_its_place_until_it_is_taken_back(site):
    store = PatrolStore.of_site(site.path)
    drive(store, site, [(CRATE, RED), (LABEL, GREEN)], 1)
    crate, label = by_place(store, CRATE), by_place(store, LABEL)
    before = store.changes()
    store.give(crate.name, "accepted", "anna", "it stays")
    assert store.changes() != before
    store.give(label.name, "false alarm")
    settled = Settled.of(store)
    assert settled.covers(np.array(CRATE[0])) and not settled.covers(np.array(LABEL[0]))
    eye = np.array([2.6, 0.4, 0.5])
    pose = Pose.look_at(eye, np.array(CRATE[0]))
    levels = settled(CAMERA, pose, np.full((240, 320), 4.0, np.float32))
    u, v = CAMERA.project(pose.inverse().apply(np.array([CRATE[0]])))[0].astype(int)
    assert np.isinf(levels[v, u]) and levels[v, 5] == 0 and np.isinf(levels).mean() < 0.3
    near = settled(CAMERA, pose, np.full((240, 320), 0.5, np.float32))  # something stands before it
    assert near is not None and not np.isinf(near).any()
    pose = Pose.look_at(np.array([-2.6, 0.2, 0.5]), np.array(LABEL[0]))
    u, v = CAMERA.project(pose.inverse().apply(np.array([LABEL[0]])))[0].astype(int)
    level = settled(CAMERA, pose, np.full((240, 320), 2.0, np.float32))[v, u]
    assert label.score <= label.peak < level < 1  # what is stronger than the false alarm is raised

    keeper = drive(store, site, [(CRATE, RED)], 2)
    assert {known.verdict for known in keeper.known.values()} == {"accepted"}
    assert store.take_back(crate.id).verdict == "" and not Settled.of(store).covers(np.array(CRATE[0]))
    verdicts = store.finding(crate.id).verdicts
    assert [(v.verdict, v.who, v.comment, v.undone) for v in verdicts] == [("accepted", "anna", "it stays", True)]
    for wrong in (("F99", "accepted"), ("1; drop table findings", "accepted"), (crate.name, "fine")):
        with pytest.raises(OmniadError):
            store.give(*wrong)


def test_a_zone_is_a_polygon_with_a_height(site):
    store = PatrolStore.of_site(site.path)
    triangle = store.add_zone("pallets", [(1.0, 0.0), (2.0, 0.0), (1.0, 1.0)], (0.0, 1.0))
    settled = Settled.of(store)
    assert settled.covers(np.array([1.1, 0.1, 0.5]))
    assert not settled.covers(np.array([1.9, 0.9, 0.5])) and not settled.covers(np.array([1.1, 0.1, 1.5]))
    for outline, heights in (
        ([(0, 0), (1, 1)], (0, 1)), ([(0, 0), (1, 0), (0, 1)], (1, 0)), ([(0, 0), (1, 0), (0, float("nan"))], (0, 1)),
    ):  # fmt: skip
        with pytest.raises(OmniadError):
            store.add_zone("wrong", outline, heights)
    store.remove_zone(triangle.id)
    assert not store.zones() and not Settled.of(store).places


def test_the_command_line_keeps_patrols_and_settles_places(site, tiny_dataset, tmp_path, capsys):
    def omniad(*words) -> tuple[int, str, str]:
        capsys.readouterr()
        status = cli.main(list(map(str, words)))
        return status, *capsys.readouterr()

    pictures = tiny_dataset / "test" / "missing"
    store = PatrolStore.of_site(site.path)
    drive(store, site, [(CRATE, RED)], 1)  # two pictures confirm no track
    status, listed, _ = omniad("findings", site.path, "--new")
    assert status == 0 and "F1" in listed and "new" in listed
    assert omniad("verdict", site.path, "F1", "confirmed", "-m", "<b>broken</b>")[:2] == (0, "F1: confirmed\n")
    (row,) = json.loads(omniad("findings", site.path, "--json")[1])
    assert row["verdicts"][0]["comment"] == "<b>broken</b>" and row["sightings"][0]["views"] > 8
    assert "no new findings" in omniad("findings", site.path, "--new")[1]

    everywhere = ("--add", "all", "--box", -9, -9, 9, 9, "--height", -9, 9)
    assert "all" in omniad("zones", site.path, *everywhere)[1]
    assert omniad("inspect", site.path, pictures, "--out", tmp_path / "kept")[0] == 0
    masks = [cv2.imread(str(p), -1) for p in sorted((tmp_path / "kept" / "masks").glob("*.png"))]
    assert masks and all((mask == SETTLED).mean() > 0.5 and not (mask == ANOMALOUS).any() for mask in masks)
    assert [p.source for p in store.patrols()] == ["missing", "round 1"] and store.patrols()[0].ended
    wrong = (
        ("verdict", site.path, "F7", "accepted"),
        ("verdict", site.path, "F1", "fine"),
        ("zones", site.path, "--remove", 9),
    )
    for words in wrong:
        status, _, said = omniad(*words)
        assert status == 1 and said.startswith("omniad: ") and said.count("\n") == 1, said


def test_a_database_that_cannot_be_used_is_told_in_a_sentence_and_loses_nothing(site, tmp_path, monkeypatch):
    store = PatrolStore.of_site(site.path)
    drive(store, site, [(CRATE, RED)], 1)
    database = tmp_path / "patrols.db"
    with sqlite3.connect(database) as other:
        other.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr("omniad_ros.living.store.WAIT", 0.1)
        impatient = PatrolStore.of_site(site.path)
        with pytest.raises(OmniadError, match="in use by another program"):
            impatient.give("F1", "accepted")
    assert impatient.give("F1", "accepted").verdict == "accepted" and len(store.findings()) == 1

    damaged = tmp_path / "elsewhere"
    damaged.mkdir()
    (damaged / "patrols.db").write_bytes(b"no database " * 1000)
    with pytest.raises(OmniadError, match="damaged"):
        PatrolStore.of_site(damaged / "site")
    later = sqlite3.connect(database)
    later.execute("UPDATE alembic_version SET version_num = '9999'")
    later.commit()
    with pytest.raises(OmniadError, match="newer version"):
        PatrolStore.of_site(site.path)
    with pytest.raises(OmniadError, match="no database"):
        PatrolStore.of_site(site.path, "nonsense://x")


@pytest.mark.skipif(
    not os.path.exists("/dev/full") or os.geteuid() != 0, reason="a full disk needs a file system of its own"
)
def test_on_a_full_disk_what_was_kept_stays(site, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        store = PatrolStore("plant", f"sqlite:///{disk / 'patrols.db'}", tmp_path / "crops")
        drive(store, site, [(CRATE, RED)], 1)
        kept = len(store.patrols())
        with open(disk / "filler", "wb", buffering=0) as filler, pytest.raises(OSError):
            while True:
                filler.write(b"x" * 4096)
        with pytest.raises(OmniadError, match="no space"):
            for _ in range(20):
                drive(store, site, [(CRATE, RED)], 2)
        (disk / "filler").unlink()
        assert len(store.findings()) == 1 and len(store.patrols()) >= kept
        drive(store, site, [(CRATE, RED)], 3)
    finally:
        store.close()
        subprocess.run(["umount", disk], check=True)


def test_ten_thousand_sightings_are_looked_through_at_once(site):
    store = PatrolStore.of_site(site.path)
    place = dict(z=0.5, width=0.2, depth=0.2, height=0.2)
    with store.writing() as session:
        for number in range(1, 501):
            session.add(
                Patrol(
                    id=number,
                    site="plant",
                    key=str(number),
                    robot="",
                    source="",
                    version="",
                    began=number,
                    ended=number,
                )
            )
        session.flush()
        for number in range(1, 2001):
            x, y = divmod(number, 50)
            session.add(Finding(
                id=number, site="plant", kind="added", state="still there", score=0.9, peak=0.9, farthest=3.0, looks=b"", last_patrol=1,
                x=float(x), y=float(y), **place,
            ))  # fmt: skip
        session.flush()
        for number in range(10_000):
            session.add(Sighting(
                patrol_id=number % 500 + 1, finding_id=number % 2000 + 1, track=number, kind="added", state="still there",
                score=0.9, views=9, first_seen=0.0, last_seen=1.0, x=0.0, y=0.0, **place,
            ))  # fmt: skip
    started = time.monotonic()
    assert len(store.patrols()) == 100 and len(store.findings(limit=100)) == 100
    assert len(store.finding(7).sightings) == 5 and len(store.sightings(3)) == 20
    assert store.changes() == (0, 0, 0)
    assert time.monotonic() - started < 3  # a scan of all without an index takes longer than that
    keeper = PatrolKeeper(store, site, "one", "")
    started = time.monotonic()
    for stamp, inspection in list(inspected([(CRATE, RED)], np.random.default_rng(0)))[:10]:
        keeper.add(stamp, CAMERA, inspection)
    print(f"{100 * (time.monotonic() - started):.0f} ms a frame")
