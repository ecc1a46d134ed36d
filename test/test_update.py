"""A site that follows its place: accepted changes become normal, others do not, and each version can be gone back to."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from omniad_ros import cli
from omniad_ros.core.feedback import OmniadError, quiet
from omniad_ros.core.geometry import Box, Pose
from omniad_ros.core.images import read_image, write_image
from omniad_ros.lab.planted import Thing, View, plant
from omniad_ros.living import PatrolStore, photographs
from omniad_ros.living.gathering import Gathering
from omniad_ros.living.photographs import PhotographKeeper, image_of, kept_photographs, photographs_of
from omniad_ros.living.schema import Finding, Patrol
from omniad_ros.living.updating import update_site
from omniad_ros.mapping import Localizer, extend
from omniad_ros.patrol.pipeline import Inspector
from omniad_ros.patrol.session import PatrolSession
from omniad_ros.recordings import open_frames
from omniad_ros.reference import ReferenceRenderer
from omniad_ros.reference.photographs import Photographs
from omniad_ros.site import PosedImages, Site, read_transforms, write_transforms
from omniad_ros.versions import forget, history, next_version, roll_back

WHERE, HALF = np.array([0.02, -0.05, 0.0]), np.array([0.07, 0.07, 0.09])
ELSEWHERE = np.array([-0.3, 0.28, 0.0])
"""On the table: where something is put that is accepted, and where something is put that is not."""


@pytest.fixture(scope="module")
def changed(tiny_site, tmp_path_factory):
    """A copy of the tiny site, a recording of a patrol in which two boxes stand on the table, and which of them was accepted; the site
    is then updated once."""
    root = tmp_path_factory.mktemp("living")
    site = Site.open(shutil.copytree(tiny_site, root / "site"))
    images, renderer = site.mapped, ReferenceRenderer.of_site(site)
    rng = np.random.default_rng(0)
    textures = [np.uint8(rng.uniform(40, 220, 3) + rng.normal(0, 30, (32, 32, 3))) for _ in range(2)]
    boxes = [
        Thing("box", Pose(np.eye(3), place), HALF, np.kron(t, np.ones((4, 4, 1), np.uint8)))
        for place, t in zip((WHERE, ELSEWHERE), textures, strict=True)
    ]
    names, light = [], np.array([0.3, 0.2, 0.93])
    for index, pose in enumerate(images.poses):
        depth = renderer.render(images.camera, pose).depth
        image = images.image(index)
        for box in boxes:
            image = plant(box, View(image, images.camera, pose, depth, 0.6), light, 1.0)[0]
        names.append(f"{index:03d}.png")
        (root / "patrol").mkdir(exist_ok=True)
        write_image(root / "patrol" / names[-1], image)
    write_transforms(
        root / "patrol" / "transforms.json", PosedImages(images.camera, root / "patrol", tuple(names), images.poses)
    )
    store = PatrolStore.of_site(site.path)
    with store.writing() as session:
        patrol = Patrol(site="site", key="first", robot="one", source="", version="", began=0.0, ended=1.0)
        session.add(patrol)
        session.flush()
        for thing in boxes:
            x, y, z = map(float, thing.middle)
            session.add(
                Finding(
                    site="site", kind="added", state="new", score=0.9, peak=0.9, farthest=2.0, looks=b"", last_patrol=patrol.id,
                    x=x, y=y, z=z, width=0.14, depth=0.14, height=0.18,
                )
            )  # fmt: skip
    store.give("F1", "accepted")
    before = Inspector(Site.open(site.path))
    update = update_site(site, store, [open_frames(root / "patrol").taken_by(images.camera)])
    yield root, store, boxes, before, update
    store.close()


def raised(inspector, root, thing):
    """Share of a box's pixels above the threshold, over some frames of the patrol."""
    images, shares = inspector.site.mapped, []
    for index in range(0, 36, 5):
        image = images.image(index)
        frame = read_image(root / "patrol" / f"{index:03d}.png")
        inspector.reset()
        found = inspector.inspect(frame, images.camera, images.poses[index], alone=True)
        mask = plant(
            thing,
            View(image, images.camera, images.poses[index], np.full(image.shape[:2], 9.0, np.float32), 0.6),
            np.array([0, 0, 1.0]),
            1.0,
        )[1]
        if mask.sum() > 50:
            shares.append((found.heatmap >= inspector.threshold)[mask].mean())
    return float(np.mean(shares))


def test_what_was_accepted_is_normal_and_nothing_else(changed):
    root, _, boxes, before, update = changed
    assert update.taken_in == ("F1",)
    after = Inspector(Site.open(root / "site"))
    was, now = ([raised(inspector, root, box) for box in boxes] for inspector in (before, after))
    assert now[0] < 0.35 * was[0] and now[1] > 0.8 * was[1]


def test_what_did_not_change_stays_as_it_was(changed):
    root, _, boxes, before, _ = changed
    site = Site.open(root / "site")
    renderer, camera = ReferenceRenderer.of_site(site), site.working_camera(site.mapped.camera)
    corners, losses = boxes[0].corners(2.5), []
    for index in range(1, 36, 7):
        pose, photograph = site.mapped.poses[index], site.mapped.image(index).astype(float)
        views = [r.field.render(camera, pose).image for r in (before.renderer, renderer)]
        seen = camera.project(pose.inverse().apply(corners))
        away = np.ones(photograph.shape[:2], bool)
        low, high = np.floor(seen.min(0)).astype(int).clip(0), np.ceil(seen.max(0)).astype(int).clip(0)
        away[low[1] : high[1], low[0] : high[0]] = False
        assert away.mean() > 0.3
        old, new = (10 * np.log10(((view[away] - photograph[away]) ** 2).mean()) for view in views)
        losses.append(new - old)
    assert max(losses) < 0.1  # dB


def test_versions_are_gone_back_to(changed, capsys):
    root, _, _, before, _ = changed
    site = Site.open(root / "site")
    assert [(v.number, v.current) for v in history(site)] == [(1, False), (2, True)]
    files = dict(site.manifest["files"])
    roll_back(site, 1)
    assert Site.open(root / "site").manifest["files"] == before.site.manifest["files"]
    assert cli.main(["rollback", str(root / "site"), "2"]) == 0
    assert Site.open(root / "site").manifest["files"] == files
    assert cli.main(["history", str(root / "site")]) == 0
    assert "took in F1" in capsys.readouterr().out
    assert cli.main(["rollback", str(root / "site"), "9"]) == 1


def test_an_interrupted_update_changes_nothing(changed):
    root, *_ = changed
    path = root / "site"
    before = (path / "site.json").read_bytes()
    script = (
        "import os, signal; from omniad_ros.site import Site; from omniad_ros.versions import next_version\n"
        f"with next_version(Site.open({str(path)!r})) as (number, work, notes):\n"
        "    (work / 'radiance').mkdir(); (work / 'radiance' / 'field.json').write_text('{}'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-P", "-c", script]).returncode == -signal.SIGKILL
    assert (path / "site.json").read_bytes() == before
    site = Site.open(path)
    with pytest.raises(RuntimeError), next_version(site):
        raise RuntimeError("in the middle")
    assert (path / "site.json").read_bytes() == before and not (path / "versions" / ".draft").exists()


def test_what_a_patrol_does_not_show_is_not_taken_in(changed, tmp_path):
    root, store, *_ = changed
    site = Site.open(root / "site")
    with pytest.raises(OmniadError, match="no finding is accepted"):
        update_site(site, store, [])
    store.give("F2", "accepted")
    try:
        source = open_frames(root / "site" / "survey").taken_by(site.mapped.camera)
        with pytest.raises(OmniadError, match="F2"):
            update_site(site, store, [source])
    finally:
        store.take_back("F2")
    assert len(history(site)) == 2


def test_photographs_of_the_latest_patrols_are_kept_and_learnt_from(changed, monkeypatch):
    root, _, boxes, before, _ = changed
    site, inspector = Site.open(root / "site"), Inspector(before.site)
    images, source = site.mapped, open_frames(root / "patrol").taken_by(site.mapped.camera)
    frames = [frame for number, frame in enumerate(PatrolSession(inspector, images).run(source)) if number < 12]
    sound = [frame for frame in frames if frame.inspection.state == "ok"]
    assert len(sound) >= 8
    for patrol in (101, 102, 103, 104):
        for folder in photographs_of(site.path, 0).parent.glob("*"):
            os.utime(folder, (0, 0) if folder.name != "102" else None)  # another robot's patrol is under way
        keeper = PhotographKeeper(site.path, patrol)
        for frame in sound:
            keeper.add(frame)
    PhotographKeeper(site.path, 104)
    folder = photographs_of(site.path, 104)
    assert sorted(int(f.name) for f in folder.parent.iterdir()) == [102, 103, 104]
    kept = list(kept_photographs(folder))
    assert len(kept) == len(sound)
    for one, frame in zip(kept, sound, strict=True):
        assert one.pose.distance(frame.inspection.pose)[0] < 1e-9 and image_of(one).shape == frame.image.shape
    gathering = Gathering(before.site, [Box(boxes[0].middle - HALF, boxes[0].middle + HALF)], [], root)
    gathering.go_through_kept(folder, quiet)
    assert gathering.localized == len(kept) and gathering.there.all() and len(gathering.taken) >= 3
    for taken in gathering.taken:
        taken.file.unlink()

    monkeypatch.setattr(photographs, "MOST", 4)
    keeper = PhotographKeeper(site.path, 105)
    for frame in sound:
        keeper.add(frame)
    assert 2 <= len(list(kept_photographs(photographs_of(site.path, 105)))) <= 4
    files = list(photographs_of(site.path, 105).glob("*.jpg"))
    assert len(files) == len(list(kept_photographs(photographs_of(site.path, 105))))
    (photographs_of(site.path, 105) / "frames.jsonl").write_text('{"name": "../x"}\n')
    with pytest.raises(OmniadError, match="line 1"):
        list(kept_photographs(photographs_of(site.path, 105)))


def test_a_map_does_not_grow_with_the_years(changed, monkeypatch, tmp_path):
    root, *_ = changed
    site = Site.open(root / "site")
    before = site.mapped
    added = [n for n, name in enumerate(before.names) if "photographs-2" in name]
    monkeypatch.setattr(extend, "MOST_ADDED", 3)
    extend.extend_map(site.map_dir, [], [], tmp_path / "map")
    after = read_transforms(tmp_path / "map" / "transforms.json")
    kept = [before.path(n).resolve() for n in range(len(before)) if n not in added[:-3]]
    assert len(added) > 3 and [after.path(n).resolve() for n in range(len(after))] == kept
    pose = before.poses[added[0]]
    found = Localizer.load(tmp_path / "map").localize(before.image(added[0]), before.camera, pose)
    assert found.pose is not None and found.pose.distance(pose)[0] < 0.02
    known = Photographs.load(site.detector_dir / "views.safetensors")
    numbers = np.array(
        [kept.index(p) if p in kept else -1 for p in map(Path.resolve, map(before.path, range(len(before))))]
    )
    new = known.renumbered(numbers)
    assert len(new.poses) == len(known.poses) - np.isin(known.sources, added[:-3]).sum() and new.sources.max() < len(
        kept
    )


def test_a_version_that_others_rest_on_keeps_what_they_need(changed):
    root, *_ = changed
    site = Site.open(root / "site")
    with next_version(site) as (number, _, notes):
        notes["changes"] = "nothing"
    assert cli.main(["history", str(site.path), "--forget", "2"]) == 0
    site = Site.open(site.path)  # all of its files are there, and as they were
    assert [v.number for v in history(site)] == [1, number] and site.radiance_dir.parent.name == "2"
    for needed in (1, number):
        with pytest.raises(OmniadError, match="cannot be removed"):
            forget(site, needed)
