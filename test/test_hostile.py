"""Sites and surveys from strangers: whatever is wrong with them is refused at once, with one sentence that names the cause."""

import errno
import json
import os
import random
import shutil
import struct
import time
import zlib

import h5py
import numpy as np
import pytest
from test_site import write_site

from omniad_ros.core.feedback import NoSpaceError, OmniadError, printable, short_of_memory
from omniad_ros.core.files import disk_errors, read_json
from omniad_ros.core.images import check_picture, read_image, read_picture, write_image
from omniad_ros.mapping.features import open_features
from omniad_ros.recordings import read_survey
from omniad_ros.reference.grid_field import VERSION, GridField
from omniad_ros.site import Site


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda p: (p / "map" / "numpy.py").write_text("raise SystemExit"), "numpy.py is not listed"),
        (lambda p: os.mkfifo(p / "map" / "pipe"), "a named pipe"),
        (lambda p: os.mkfifo(p / "pipe"), "a named pipe"),
        (lambda p: replaced(p / "map" / "data.json", os.mkfifo), "a named pipe"),
        (lambda p: replaced(p / "site.json", os.mkfifo), "is not a site"),
        (lambda p: replaced(p / "map" / "data.json", lambda f: f.symlink_to("/dev/zero")), "leads out of"),
        (lambda p: (p / "map" / "more").symlink_to(p.parent), "leads out of"),
    ],
)
def test_what_is_no_regular_file_of_the_site_is_refused_before_it_is_opened(tmp_path, damage, sentence):
    site = tmp_path / "site"
    write_site(site)
    damage(site)
    with pytest.raises(OmniadError, match=sentence):
        Site.open(site)


def replaced(file, make):
    file.unlink()
    make(file)


def test_a_pipe_is_no_json(tmp_path):
    os.mkfifo(tmp_path / "transforms.json")
    with pytest.raises(OmniadError, match="named pipe"):
        read_json(tmp_path / "transforms.json")


def bomb(path, side):
    """A PNG of a few bytes whose header says side x side pixels."""
    chunk = lambda kind, data: (  # noqa: E731
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    )
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


@pytest.mark.parametrize("side", [9000, 13_266, 32_000])
@pytest.mark.parametrize("read", [check_picture, read_picture, read_image])
def test_an_image_with_more_pixels_than_a_camera_is_not_decoded(tmp_path, side, read):
    bomb(tmp_path / "0.png", side)
    with pytest.raises(OmniadError, match="any camera has"):
        read(tmp_path / "0.png")


@pytest.mark.parametrize("kind", ["external link", "soft link", "external storage"])
def test_features_outside_their_file_are_refused(tmp_path, kind):
    path = tmp_path / "features.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("0.png")
        if kind == "external storage":
            group.create_dataset("scores", (4,), "f4", external=[(str(tmp_path / "pipe"), 0, 16)])
        else:
            group["scores"] = (
                h5py.ExternalLink("other.h5", "/x") if kind == "external link" else h5py.SoftLink("/elsewhere")
            )
    (tmp_path / "pipe").unlink(missing_ok=True)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OmniadError, match="nothing outside it is read"):
        open_features(path)


FIELD = {
    "method": "grid-field", "version": VERSION, "center": [0.0, 0.0, 0.0], "half": [1.0, 1.0, 1.0], "voxel": 0.1, "scale": 10.0,
    "table": [9, 9, 9], "near": 0.1,
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [{"voxel": 1e-12}, {"voxel": 0}, {"voxel": 1e-4}, {"near": -1}, {"table": [10**6] * 3}, {"half": [1e300, 1, 1]},
     {"center": {}}, {"scale": 1e5}],
)  # fmt: skip
def test_a_field_with_absurd_numbers_is_refused(tmp_path, changes):
    from safetensors.numpy import save_file

    (tmp_path / "field.json").write_text(json.dumps(FIELD | changes))
    save_file({"positions": np.zeros((1, 3), np.int16)}, tmp_path / "weights.safetensors")
    with pytest.raises(OmniadError, match=r"field\.json is"):
        GridField.load(tmp_path)


def write_survey_folder(path):
    path.mkdir()
    write_image(path / "0.png", np.zeros((24, 32, 3), np.uint8))
    frame = {"file_path": "0.png", "transform_matrix": np.eye(4).tolist()}
    data = {"w": 32, "h": 24, "fl_x": 30.0, "fl_y": 30.0, "cx": 16.0, "cy": 12.0, "frames": [frame]}
    (path / "transforms.json").write_text(json.dumps(data))
    return data


@pytest.mark.parametrize("changes", ['"w": 1e400', '"w": 1e9, "h": 7.5e8', '"k1": 1e9', '"w": NaN', '"h": -1e300'])
def test_numbers_that_no_camera_has_are_refused(tmp_path, changes):
    data = write_survey_folder(tmp_path / "survey")
    (tmp_path / "survey" / "transforms.json").write_text(json.dumps(data)[:-1] + f", {changes}}}")
    with pytest.raises(OmniadError):
        read_survey(tmp_path / "survey")


def test_a_pose_beyond_the_earth_is_refused(tmp_path):
    data = write_survey_folder(tmp_path / "survey")
    data["frames"][0]["transform_matrix"][0][3] = 1e300
    (tmp_path / "survey" / "transforms.json").write_text(json.dumps(data))
    with pytest.raises(OmniadError, match="farther away than any place on earth"):
        read_survey(tmp_path / "survey")


def test_a_full_disk_and_short_memory_are_told_apart_from_damage(tmp_path):
    for error in (OSError(errno.ENOSPC, "x"), RuntimeError("I/O error: No space left on device (os error 28)")):
        with pytest.raises(NoSpaceError, match="no space left"), disk_errors(tmp_path):
            raise error
    assert short_of_memory(MemoryError())
    assert short_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    assert not short_of_memory(OmniadError("features are out of place"))


def test_control_characters_of_names_do_not_reach_the_terminal():
    assert printable("a\x1b[2Jé\n\x9b\udc80") == "a\\x1b[2Jé\\n\\x9b\\udc80"


ODD = (None, True, -1, 0, 1e308, 10**30, "", "../../x", "\0", "\x1b[2J", [], {}, [[]], {"a": []})


def altered(data, dice):
    """Parsed JSON with one value, at any depth, made odd or taken away."""
    if isinstance(data, dict | list) and data and dice.random() < 0.8:
        keys = list(data) if isinstance(data, dict) else range(len(data))
        key, copy = dice.choice(keys), data.copy()
        if dice.random() < 0.15:
            del copy[key]
        else:
            copy[key] = altered(copy[key], dice)
        return copy
    return dice.choice(ODD)


def outcome(read):
    """Runs a reader of what may be damaged: it returns or refuses, in one line and at once."""
    start = time.monotonic()
    try:
        read()
    except OmniadError as error:
        assert "\n" not in str(error)
    assert time.monotonic() - start < 5


def test_altered_descriptions_open_or_are_refused(tmp_path):
    dice = random.Random(0)
    site, survey = tmp_path / "site", tmp_path / "survey"
    write_site(site)
    data = write_survey_folder(survey)
    shutil.copytree(site, tmp_path / "whole")
    manifest = json.loads((site / "site.json").read_text())
    transforms = json.loads((site / "survey" / "transforms.json").read_text())
    for _ in range(150):
        (survey / "transforms.json").write_text(json.dumps(altered(data, dice)))
        outcome(lambda: read_survey(survey))
        (tmp_path / "whole" / "site.json").write_text(json.dumps(altered(manifest, dice)))
        outcome(lambda: Site.open(tmp_path / "whole").longest_side)
        (site / "survey" / "transforms.json").write_text(json.dumps(altered(transforms, dice)))
        outcome(lambda: Site.open(site, verify=False).survey)


@pytest.mark.parametrize("way", ["..", "absolute", "link"])
def test_images_outside_the_surveys_folder_stay_out_of_a_site(tmp_path, way, monkeypatch):
    from omniad_ros.building import build

    monkeypatch.setattr(build, "_check_count", lambda *_: None)
    data = write_survey_folder(tmp_path / "survey")
    private = tmp_path / "private.png"
    write_image(private, np.ones((24, 32, 3), np.uint8))
    if way == "link":
        replaced(tmp_path / "survey" / "0.png", lambda file: file.symlink_to(private))
    else:
        data["frames"][0]["file_path"] = "../private.png" if way == ".." else str(private)
        (tmp_path / "survey" / "transforms.json").write_text(json.dumps(data))
    with pytest.raises(OmniadError, match="outside its folder"):
        build.build_site(tmp_path / "survey", tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_a_full_disk_leaves_the_stages_that_are_finished(tmp_path, monkeypatch):
    from omniad_ros.building import build

    def survey_only(site, *_):
        with site.stage("survey") as work:
            write_survey_folder(work / "images")
            shutil.move(work / "images" / "transforms.json", work)

    def full(site, *_):
        with site.stage("map"):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(build, "_check_count", lambda *_: None)
    monkeypatch.setattr(build, "_survey_stage", survey_only)
    monkeypatch.setattr(build, "_map_stage", full)
    write_survey_folder(tmp_path / "survey")
    with pytest.raises(NoSpaceError):
        build.build_site(tmp_path / "survey", tmp_path / "site")
    assert Site.open(tmp_path / "site", complete=False).has("survey")


def test_what_lies_beside_the_stages_is_said_and_let_be(tiny_site, tmp_path, caplog):
    """Somebody stood in the site's folder when a report was written."""
    site = shutil.copytree(tiny_site, tmp_path / "site")
    (site / "omniad_report").mkdir()
    (site / "omniad_report" / "index.html").write_text("a report")
    Site.open(site)
    assert "index.html is not a part of the site" in caplog.text
