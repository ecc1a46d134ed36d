"""The bundle: what is whole opens, what is not is refused with a sentence, and nothing is ever half there."""

import json
import os
import pickle

import numpy as np
import pytest

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.files import exclusive, read_json, write_atomically
from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.core.images import write_image
from omniad_ros.site import STAGES, PosedImages, Site, read_points, write_transforms


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
        (lambda p: edit_manifest(p, files={str(p / "map" / "data.json"): "0"}), "outside the site"),
        (lambda p: edit_manifest(p, files=["map/data.json"]), "files: expected object, got array"),
        (lambda p: edit_manifest(p, stages={"survey": 1}), "stages"),
        (lambda p: edit_manifest(p, camera={"width": 160}), "camera: object missing required field height"),
        (lambda p: edit_manifest(p, camera=None), "no camera"),
        (lambda p: edit_manifest(p, longest_side=float("nan")), "cannot be read as JSON"),
        (lambda p: edit_manifest(p, longest_side="320"), "longest_side: expected int"),
        (lambda p: edit_manifest(p, longest_side=2), "longest_side: expected int >= 64"),
        (lambda p: (p / "site.json").write_text("[]"), "expected object, got array"),
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


def edit_transforms(path, **changes):
    """Change the survey's transforms.json and note it as if it had been built so."""
    file = path / "survey" / "transforms.json"
    data = json.loads(file.read_text()) | changes
    file.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"fl_x": None}, "fl_x: expected float, got null"),
        ({"fl_x": -1.0}, "focal length"),
        ({"frames": {}}, "frames: expected array, got object"),
        ({"frames": []}, "frames"),
        (
            {"frames": [{"transform_matrix": np.eye(4).tolist()}]},
            r"frames\[0\]: object missing required field file_path",
        ),
        ({"frames": [{"file_path": "a.png", "transform_matrix": np.eye(3).tolist()}]}, r"frames\[0\].transform_matrix"),
        ({"frames": [{"file_path": "a.png", "transform_matrix": np.zeros((4, 4)).tolist()}]}, "rotation"),
        ({"frames": [{"file_path": "a.png", "transform_matrix": (np.nan * np.eye(4)).tolist()}]}, "as JSON"),
        ({"frames": [{"file_path": "../../secret.png"}]}, "outside the site"),
        ({"frames": [{"file_path": "/secret.png"}]}, "outside the site"),
    ],
)
def test_damaged_poses_are_refused_with_one_sentence(tmp_path, changes, sentence):
    site = write_site(tmp_path / "site")
    edit_transforms(tmp_path / "site", **changes)
    with pytest.raises(OmniadError, match=sentence) as caught:
        len(site.survey)
    assert "\n" not in str(caught.value) and "transforms.json" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rgb": np.zeros((3, 4), np.uint8)}, "rgb"),
        ({"xyz": np.full((3, 3), np.inf, np.float32)}, "finite"),
        ({"image": np.array([0, 1], np.int32)}, "point nowhere"),
        ({"point": np.array([0, 3], np.int32)}, "point nowhere"),
        ({"pixel": None}, "pixel is missing"),
    ],
)
def test_damaged_points_are_refused_with_one_sentence(tmp_path, changes, sentence):
    from safetensors.numpy import save_file

    sound = {
        "xyz": np.zeros((3, 3), np.float32), "rgb": np.zeros((3, 3), np.uint8), "image": np.zeros(2, np.int32),
        "point": np.zeros(2, np.int32), "pixel": np.zeros((2, 2), np.float32),
    }  # fmt: skip
    save_file(sound, tmp_path / "sound.safetensors")
    assert len(read_points(tmp_path / "sound.safetensors", 1).xyz) == 3
    save_file({k: v for k, v in (sound | changes).items() if v is not None}, tmp_path / "points.safetensors")
    (tmp_path / "bytes.safetensors").write_bytes(b"{}")
    for file, words in (("points", sentence), ("bytes", "cannot be read"), ("none", "cannot be read")):
        with pytest.raises(OmniadError, match=words):
            read_points(tmp_path / f"{file}.safetensors", 1)


def test_the_working_size_is_what_the_site_was_built_with(tmp_path):
    """Sites from before it was noted say it in their detector's options."""
    assert Site.create(tmp_path / "new", "a survey", 640).longest_side == 640
    write_site(tmp_path / "old")
    manifest = json.loads((tmp_path / "old" / "site.json").read_text())
    del manifest["longest_side"]
    (tmp_path / "old" / "site.json").write_text(json.dumps(manifest))
    assert Site.open(tmp_path / "old").longest_side == 320
    detector = tmp_path / "old" / "detector" / "detector.json"
    detector.write_text(json.dumps({"version": 1, "options": {"longest_side": 480, "seed": 0}}))
    old = Site.open(tmp_path / "old", verify=False)
    assert old.longest_side == 480 and old.working_camera(Camera.from_fov(960, 720, 1.0)).width == 480


def test_json_is_read_by_its_schema(tmp_path):
    file = tmp_path / "data.json"
    file.write_text('\ufeff{"a": [1, 2.5]}', "utf-8")
    assert read_json(file, dict[str, list[float]]) == {"a": [1.0, 2.5]}
    for text, sentence in (
        ('{"a": [1, "2"]}', "expected float, got str"),
        ('{"a": [1e400]}', "out of range"),
        ('{"a": [Infinity]}', "cannot be read as JSON"),
        ('{"a": ' + "[" * 100_000, "expected float|cannot be read as JSON"),
        ('{"a"', "cannot be read as JSON"),
    ):
        file.write_text(text)
        with pytest.raises(OmniadError, match=sentence):
            read_json(file, dict[str, list[float]])
    with file.open("wb") as large:
        large.truncate(1 << 29)
    with pytest.raises(OmniadError, match="too large"):
        read_json(file)
    with pytest.raises(OmniadError, match="cannot be read"):
        read_json(tmp_path)


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
