"""Sites and surveys from strangers: whatever is wrong with them is refused at once, with one sentence that names the cause."""

import errno
import json
import os
import shutil
import sqlite3
import struct
import zlib

import h5py
import numpy as np
import pytest
import zstandard
from bags import drive
from safetensors.numpy import load_file, save_file
from test_site import write_site

from omniad_ros.commands.terminal import ProgressBar, show
from omniad_ros.core.feedback import NoSpaceError, OmniadError, printable, short_of_memory
from omniad_ros.core.files import disk_errors, read_json
from omniad_ros.core.images import check_picture, read_image, read_picture, write_image
from omniad_ros.evaluation import evaluate_dataset
from omniad_ros.mapping import Localizer
from omniad_ros.mapping.features import Features, open_features, write_features
from omniad_ros.patrol.pipeline import Inspector
from omniad_ros.recordings import open_frames, read_survey
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


def edited(path, key, change):
    """Change an array of a safetensors file; None takes it away."""
    arrays = load_file(path)
    array = change(arrays.pop(key))
    save_file(arrays if array is None else arrays | {key: np.ascontiguousarray(array)}, path)


@pytest.mark.parametrize(
    ("file", "key", "change"),
    [
        ("radiance/weights.safetensors", "views", lambda a: a[:8]),
        ("radiance/weights.safetensors", "along", lambda a: a[:, :1]),
        ("radiance/weights.safetensors", "sky", lambda a: a.astype(np.int64)),
        ("radiance/weights.safetensors", "positions", lambda a: np.repeat(a[:1], len(a), 0)),
        ("radiance/weights.safetensors", "kept", lambda a: a[: len(a) // 2]),
        ("radiance/weights.safetensors", "shader.2.bias", lambda a: None),
        ("detector/views.safetensors", "images", lambda a: a[:1]),
        ("detector/views.safetensors", "depths", lambda a: a[:, :5, :5]),
        ("detector/views.safetensors", "poses", lambda a: a * 1e30),
        ("detector/views.safetensors", "camera", lambda a: 2 * a),
        ("detector/weights.safetensors", "comparison.", lambda a: a * 1e12),
        ("detector/weights.safetensors", "running_var", lambda a: -a),
        ("map/points.safetensors", "xyz", lambda a: a * 1e30),
    ],
)
def test_arrays_that_do_not_fit_each_other_are_refused_on_open(tiny_site, tmp_path, file, key, change):
    """Compiled kernels would read beyond them, and networks give NaN, which no threshold finds."""
    site = shutil.copytree(tiny_site, tmp_path / "site")
    named = next(name for name in load_file(site / file) if key in name and not name.endswith("num_batches_tracked"))
    edited(site / file, named, change)
    with pytest.raises(OmniadError, match=file.split("/")[1]) as caught:
        Inspector(Site.open(site, verify=False))
    assert "\n" not in str(caught.value)


def _first_image(group):
    while "descriptors" not in group:
        group = group[next(iter(group))]
    return group


def features(change):
    def damage(site):
        with h5py.File(site / "map" / "features.h5", "r+") as file:
            change(_first_image(file))

    return damage


def described(values):
    def change(group):
        del group["descriptors"]
        group.create_dataset("descriptors", **values)

    return change


def without_a_frame(site):
    file = site / "map" / "transforms.json"
    data = json.loads(file.read_text())
    file.write_text(json.dumps(data | {"frames": data["frames"][1:]}))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (features(described({"data": np.zeros((128, 3), np.uint8)})), "lacks keypoints"),
        (features(described({"data": np.full((128, 4000), np.nan, np.float16)})), "no 128xN array of numbers"),
        (features(described({"data": [b"text"]})), "no 128xN array of numbers"),
        (features(described({"shape": (128, 10**9), "dtype": "u1", "chunks": (128, 1024), "compression": "gzip"})), "unpacks to more"),
        (without_a_frame, "not of one map"),
        (lambda site: (site / "map" / "sfm" / "images.bin").write_bytes(struct.pack("<Q", 2**40) + bytes(999)), "cannot be read"),
    ],
)  # fmt: skip
def test_a_map_whose_files_do_not_fit_is_refused(tiny_site, tmp_path, damage, sentence):
    shutil.copytree(tiny_site / "map", tmp_path / "site" / "map")
    damage(tmp_path / "site")
    with pytest.raises(OmniadError, match=sentence):
        Localizer.load(tmp_path / "site" / "map")


def computed_messages(bag):
    file = bag / f"{bag.name}.db3"
    file.unlink()
    with sqlite3.connect(file) as database:
        database.execute("CREATE TABLE topics (id, name, type, serialization_format)")
        endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x AS topic_id, x AS timestamp, x AS data FROM n"
        database.execute(f"CREATE VIEW messages AS {endless}")


def nested_names(bag):
    """Nine aliases of nine aliases, and so on: as text it has no end."""
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    head = ["a0: &a0 x", *levels, "rosbag2_bagfile_information: {relative_file_paths: *a11, compression_mode: *a11}"]
    (bag / "metadata.yaml").write_text("\n".join(head))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda bag: replaced(bag / f"{bag.name}.db3", os.mkfifo), "a named pipe"),
        (computed_messages, "no plain table of messages"),
        (nested_names, None),
        (lambda bag: replaced(bag / f"{bag.name}.db3", lambda file: packed(file.with_suffix(".db3.zstd"))), "unpacks to more"),
    ],
)  # fmt: skip
def test_a_bag_that_would_hang_its_reader_or_fill_the_disk_is_refused(tmp_path, damage, sentence):
    bag = drive(tmp_path / "bag", range(3), storage="sqlite3")
    damage(bag)
    if sentence is None:  # what cannot be believed of metadata.yaml is said, and the rest is read
        assert len(list(open_frames(bag).open_frames())) == 3
        return
    with pytest.raises(OmniadError, match=sentence):
        open_frames(bag)


def packed(file):
    file.write_bytes(zstandard.compress(bytes(1 << 26)))


def test_a_dataset_that_names_images_elsewhere_is_not_evaluated(tmp_path):
    """Its site, which may be handed on, would hold them."""
    write_image(tmp_path / "private.png", np.ones((24, 32, 3), np.uint8))
    data = write_survey_folder(tmp_path / "dataset")
    for index in range(1, 20):
        write_image(tmp_path / "dataset" / f"{index}.png", np.ones((24, 32, 3), np.uint8))
        data["frames"].append({"file_path": f"{index}.png", "transform_matrix": np.eye(4).tolist()})
    data["frames"][0]["file_path"] = "../private.png"
    (tmp_path / "dataset" / "transforms.json").write_text(json.dumps(data))
    with pytest.raises(OmniadError, match="outside its folder"):
        evaluate_dataset(tmp_path / "dataset", None, tmp_path / "out")


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


@pytest.mark.parametrize(
    "changes",
    [
        '"w": 1e400',
        '"w": 1e9, "h": 7.5e8',
        '"k1": 1e9',
        '"k1": 1e5',
        '"k1": -0.3, "p2": -2e4',
        '"w": NaN',
        '"h": -1e300',
    ],
)
def test_numbers_that_no_camera_has_are_refused(tmp_path, changes):
    data = write_survey_folder(tmp_path / "survey")
    (tmp_path / "survey" / "transforms.json").write_text(json.dumps(data)[:-1] + f", {changes}}}")
    with pytest.raises(OmniadError):
        read_survey(tmp_path / "survey")


def test_a_picture_that_is_a_program_or_has_no_readable_name_is_refused(tmp_path):
    """PIL would hand PostScript to Ghostscript, and OpenCV crashes with a name that is no text."""
    write_survey_folder(tmp_path / "survey")
    (tmp_path / "survey" / "transforms.json").unlink()
    replaced(
        tmp_path / "survey" / "0.png",
        lambda file: file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    )
    with pytest.raises(OmniadError, match="cannot identify"):
        read_survey(tmp_path / "survey")
    os.rename(tmp_path / "survey" / "0.png", os.fsencode(tmp_path / "survey") + b"/\xff.png")
    with pytest.raises(OmniadError, match="not UTF-8"):
        read_survey(tmp_path / "survey")


def test_features_do_not_fill_a_disk_to_the_last_byte(tmp_path, monkeypatch):
    """HDF5 ends in a segmentation fault where it cannot write what it holds in memory."""
    found = Features(np.zeros((9, 2), np.float32), np.zeros((9, 128), np.float32), np.ones(9, np.float32), (32, 24))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(NoSpaceError), disk_errors(tmp_path), open_features(tmp_path / "features.h5", "w") as file:
        write_features(file, "0.png", found)


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


def test_control_characters_of_names_do_not_reach_the_terminal(capsys):
    assert printable("a\x1b[2Jé\n\x9b\udc80") == "a\\x1b[2Jé\\n\\x9b\\udc80"
    with ProgressBar() as progress:
        progress(0.5, "checking \x1b[2J.png")
    show("kind \x1b[2J  0.9\nall  0.9")
    said = capsys.readouterr()
    assert (
        "\x1b" not in said.out + said.err
        and "\\x1b[2J.png" in said.err
        and said.out.endswith("\\x1b[2J  0.9\nall  0.9\n")
    )


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


@pytest.mark.parametrize(
    "shortage",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("database or disk is full"), MemoryError()],
)
@pytest.mark.parametrize("hidden", [False, True])
def test_want_of_disk_or_memory_leaves_the_stages_that_are_finished(tmp_path, monkeypatch, shortage, hidden):
    """hidden: a reader took it for damage."""
    from omniad_ros.building import build

    def survey_only(site, *_):
        with site.stage("survey") as work:
            write_survey_folder(work / "images")
            shutil.move(work / "images" / "transforms.json", work)

    def full(site, *_):
        with site.stage("map"):
            if hidden:
                raise OmniadError("map cannot be read") from shortage
            raise shortage

    monkeypatch.setattr(build, "_check_count", lambda *_: None)
    monkeypatch.setattr(build, "_survey_stage", survey_only)
    monkeypatch.setattr(build, "_map_stage", full)
    write_survey_folder(tmp_path / "survey")
    with pytest.raises((NoSpaceError, MemoryError, OmniadError)) as caught:
        build.build_site(tmp_path / "survey", tmp_path / "site")
    assert isinstance(caught.value, NoSpaceError) or short_of_memory(caught.value)
    assert Site.open(tmp_path / "site", complete=False).has("survey")


def test_what_lies_beside_the_stages_is_said_and_let_be(tiny_site, tmp_path, caplog):
    """Somebody stood in the site's folder when a report was written."""
    site = shutil.copytree(tiny_site, tmp_path / "site")
    (site / "omniad_report").mkdir()
    (site / "omniad_report" / "index.html").write_text("a report")
    Site.open(site)
    assert "index.html is not a part of the site" in caplog.text
