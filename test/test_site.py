"""The bundle: what is whole opens, what is not is refused with a sentence, and nothing is ever half there."""

import json
import os
import pickle

import numpy as np
import pytest

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.files import exclusive, write_atomically
from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.core.images import write_image
from omniad_ros.site import STAGES, PosedImages, Site, write_transforms


def write_site(path, source="a survey"):
    site = Site.create(path, source)
    for stage in STAGES:
        if site.has(stage):
            continue
        with site.stage(stage, {"note": stage}) as work:
            (work / "data.json").write_text("{}")
            (work / ".scratch").write_text("gone")
            if stage == "survey":
                (work / "images").mkdir()
                write_image(work / "images" / "0.png", np.zeros((24, 32, 3), np.uint8))
                images = PosedImages(Camera.from_fov(32, 24, 1.0), work, ("images/0.png",), (Pose.identity(),))
                write_transforms(work / "transforms.json", images)
    return site


def test_a_finished_site_opens_with_its_camera_and_poses(tmp_path):
    write_site(tmp_path / "site")
    site = Site.open(tmp_path / "site")
    assert site.camera == Camera.from_fov(32, 24, 1.0)
    assert site.survey.image(0).shape == (24, 32, 3)
    assert max(site.survey.poses[0].distance(Pose.identity())) < 1e-6
    assert site.info("map") == {"note": "map"}
    assert not list((tmp_path / "site").rglob(".*"))


def edit_manifest(path, **changes):
    manifest = json.loads((path / "site.json").read_text())
    (path / "site.json").write_text(json.dumps(manifest | changes))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda p: (p / "map" / "data.json").unlink(), "misses map/data.json"),
        (lambda p: (p / "map" / "data.json").write_text("{ }"), "was altered"),
        (lambda p: (p / "site.json").unlink(), "is not a site"),
        (lambda p: (p / "site.json").write_text("{"), "cannot be read as JSON"),
        (lambda p: edit_manifest(p, version=99), "newer omniad_ros"),
        (lambda p: edit_manifest(p, format="zip"), "does not describe a site"),
        (lambda p: edit_manifest(p, files={"../secret": "0"}), "outside the site"),
        (lambda p: edit_manifest(p, stages={}), "unfinished"),
        (lambda p: (p / "detector" / "weights.safetensors").write_bytes(pickle.dumps(os.getpid)), "not listed"),
    ],
)
def test_a_damaged_site_is_refused_with_one_sentence(tmp_path, damage, sentence):
    write_site(tmp_path / "site")
    damage(tmp_path / "site")
    with pytest.raises(OmniadError, match=sentence) as caught:
        Site.open(tmp_path / "site")
    assert "\n" not in str(caught.value)


def test_an_interrupted_stage_goes_on_where_it_stopped(tmp_path):
    site = Site.create(tmp_path / "site", "a survey")
    with pytest.raises(KeyboardInterrupt), site.stage("survey") as work:
        (work / ".checkpoint").write_text("half")
        raise KeyboardInterrupt
    assert not Site.create(tmp_path / "site", "a survey").has("survey")
    with Site.create(tmp_path / "site", "a survey").stage("map") as work:
        assert not list(work.iterdir())
    again = Site.create(tmp_path / "site", "a survey")
    assert again.has("map")
    with pytest.raises(KeyboardInterrupt), again.stage("survey") as work:
        assert (work / ".checkpoint").read_text() == "half"
        raise KeyboardInterrupt


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OmniadError, match="not empty"):
        Site.create(tmp_path, "a survey")
    write_site(tmp_path / "site")
    with pytest.raises(OmniadError, match="another survey"):
        Site.create(tmp_path / "site", "another survey")
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_full_disk_keeps_the_old_stage(tmp_path, monkeypatch):
    """`omniad adapt` replaces the detector of a site that may be the robot's only one."""
    site = write_site(tmp_path / "site")
    site = Site.open(tmp_path / "site")

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("omniad_ros.site.write_json", full)
    with pytest.raises(OmniadError, match="no space"), site.stage("detector") as work:
        (work / "data.json").write_text("new")
    assert (Site.open(tmp_path / "site").detector_dir / "data.json").read_text() == "{}"


def test_two_processes_do_not_work_on_one_folder(tmp_path):
    with exclusive(tmp_path), pytest.raises(OmniadError, match="another process"), exclusive(tmp_path):
        pass
    with exclusive(tmp_path):
        pass


def test_a_failed_write_leaves_the_old_file_whole(tmp_path, monkeypatch):
    file = tmp_path / "metrics.json"
    write_atomically(file, "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_atomically(file, "new")
    assert file.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.json"]
