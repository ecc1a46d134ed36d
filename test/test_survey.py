"""Surveys as they come: nerfstudio's format in its variants, MAD's layout, plain folders, video; and what is refused."""

import json

import cv2
import numpy as np
import pytest

from omniad_ros.feedback import OmniadError
from omniad_ros.geometry import Camera, Pose
from omniad_ros.site import write_image
from omniad_ros.survey import fingerprint, read_survey, write_survey


def picture(seed, width=64, height=48):
    return cv2.resize(np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8), (width, height))


def frame(name, seed):
    return {"file_path": name, "transform_matrix": Pose.look_at((3, seed, 2), (0, 0, 0)).opengl().tolist()}


def make(root, files, frames, **intrinsics):
    for seed, name in enumerate(files):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(root / name, picture(seed))
    (root / "transforms.json").write_text(json.dumps({**(intrinsics or {"fl_x": 60.0}), "frames": frames}))
    return root


def test_nerfstudio_round_trip(tmp_path):
    root = make(tmp_path / "in", ["images/a.png", "images/b.png"], [frame("images/a.png", 0), frame("./images/b.png", 1)],
                fl_x=60.0, fl_y=61.0, cx=31.0, cy=25.0, w=64, h=48, applied_transform=np.eye(4)[:3].tolist())  # fmt: skip
    source = read_survey(root)
    out = tmp_path / "out"
    out.mkdir()
    survey = write_survey(source, out)
    assert survey.camera == Camera(64, 48, 60.0, 61.0, 31.0, 25.0)
    assert np.array_equal(survey.image(1), picture(1))
    assert np.allclose(survey.poses[1].translation, (3, 1, 2))
    assert np.allclose(survey.poses[1].rotation, Pose.look_at((3, 1, 2), (0, 0, 0)).rotation)
    before = fingerprint(source)
    assert fingerprint(read_survey(out)) == before  # a survey's digest does not depend on where it lies
    write_image(root / "images/b.png", picture(9))
    assert fingerprint(read_survey(root)) != before


@pytest.mark.parametrize(
    "path", ["train/good/000", "./train/good/000.png", "good/000.png", "000.png", "C:\\x\\000.png"]
)
def test_mad_layout_leaves_test_images_out(tmp_path, path):
    make(
        tmp_path,
        ["train/good/000.png", "test/missing/000.png"],
        [frame(path, 0), frame("test/missing/000.png", 1)],
        camera_angle_x=0.9,
    )
    if "/" not in path.lstrip("./"):
        (tmp_path / "test/missing/000.png").unlink()  # a frame of the test set may be listed without being there
    source = read_survey(tmp_path)
    assert source.names == ("000.png",)
    assert source.camera.fx == pytest.approx(32 / np.tan(0.45))
    assert source.camera.cy == 24


def test_transparent_and_grey_pictures(tmp_path):
    root = make(tmp_path / "in", ["a.png", "b.png"], [frame("a.png", 0), frame("b.png", 1)])
    cv2.imwrite(str(root / "a.png"), np.full((48, 64, 4), (0, 0, 200, 0), np.uint8))
    cv2.imwrite(str(root / "b.png"), np.full((48, 64), 7, np.uint8))
    (tmp_path / "out").mkdir()
    survey = write_survey(read_survey(root), tmp_path / "out")
    assert (survey.image(0) == 255).all() and (survey.image(1) == 7).all()


def test_distortion_is_removed(tmp_path):
    """A straight line, bent by the lens, is straight again."""
    k, d = np.array([[300.0, 0, 159.5], [0, 300.0, 119.5], [0, 0, 1]]), np.array([-0.3, 0.1, 0, 0])
    line = np.stack([np.linspace(-0.5, 0.5, 200), np.full(200, -0.25), np.ones(200)], -1)
    bent, _ = cv2.projectPoints(line, np.zeros(3), np.zeros(3), k, d)
    image = np.zeros((240, 320, 3), np.uint8)
    cv2.polylines(image, [np.round(bent * 16).astype(np.int32)], False, (255, 255, 255), 2, cv2.LINE_AA, 4)
    lens = {"fl_x": 300, "cx": 160, "cy": 120, "k1": -0.3, "k2": 0.1, "camera_model": "OPENCV"}
    root = make(tmp_path / "in", ["a.png"], [frame("a.png", 0)], **lens)
    write_image(root / "a.png", image)
    (tmp_path / "out").mkdir()
    rectified = write_survey(read_survey(root), tmp_path / "out").image(0)
    rows = np.arange(240.0)[:, None]
    bends = [np.ptp(((i[..., 0] * rows).sum(0) / i[..., 0].sum(0, dtype=float).clip(1))[30:290]) for i in (image, rectified)]
    assert bends[0] > 4.0 and bends[1] < 1.0, bends
    fisheye = make(tmp_path / "fish", ["a.png"], [frame("a.png", 0)], fl_x=60, camera_model="OPENCV_FISHEYE", k1=0.01)
    assert read_survey(fisheye).camera.distortion_model == "equidistant"


def test_plain_folder_and_video(tmp_path, caplog):
    (tmp_path / "photos").mkdir()
    for i in (10, 2):
        write_image(tmp_path / "photos" / f"shot{i}.jpg", picture(i))
    source = read_survey(tmp_path / "photos")
    assert source.names == ("shot2.jpg", "shot10.jpg") and source.poses == (None, None)
    assert source.camera_from == "guess" and len(caplog.records) == 1
    wide = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (120, 800, 3), np.uint8), (0, 0), 2)
    writer = cv2.VideoWriter(str(tmp_path / "drive.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (160, 120))
    for step in range(60):  # stands still, then moves 4 pixels a frame
        start = 4 * max(0, step - 30)
        writer.write(np.ascontiguousarray(wide[:, start : start + 160]))
    writer.release()
    video = read_survey(tmp_path / "drive.avi")
    assert 8 <= len(video) <= 16 and sum(int(name[:6]) < 30 for name in video.names) == 1
    (tmp_path / "out").mkdir()
    assert write_survey(video, tmp_path / "out").image(3).shape == (120, 160, 3)


def broken(tmp_path, name):
    good = [frame("a.png", 0), frame("b.png", 1)]
    files = ["a.png", "b.png"]
    if name == "json":
        make(tmp_path, files, good)
        (tmp_path / "transforms.json").write_text('{"frames": [')
    elif name == "not finite":
        good[1]["transform_matrix"][0][3] = float("nan")
        make(tmp_path, files, good)
    elif name == "carries a scale of 2":
        good[1]["transform_matrix"] = (np.array(good[1]["transform_matrix"]) * 2).tolist()
        make(tmp_path, files, good)
    elif name == "no intrinsics":
        make(tmp_path, files, good, w=64, h=48)
    elif name == "first is c.png":
        make(tmp_path, files, [*good, frame("c.png", 2)])
    elif name == "differ in size":
        make(tmp_path, files, good)
        write_image(tmp_path / "b.png", picture(1, 60, 48))
    elif name == "cannot|can be read":
        make(tmp_path, files, good)
        (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:200])
    elif name == "different intrinsics":
        make(tmp_path, files, [{**good[0], "fl_x": 60}, {**good[1], "fl_x": 70}])
    elif name == "no images":
        tmp_path.mkdir(exist_ok=True)


@pytest.mark.parametrize("name", [
    "json", "not finite", "carries a scale of 2", "no intrinsics", "first is c.png", "differ in size", "cannot|can be read",
    "different intrinsics", "no images",
])  # fmt: skip
def test_bad_surveys_get_one_sentence(tmp_path, name):
    broken(tmp_path, name)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OmniadError, match=f"(?i){name}") as error:
        read_survey(tmp_path)
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before
