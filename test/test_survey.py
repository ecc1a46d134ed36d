"""Surveys as they come: nerfstudio's format in its variants, MAD's layout, plain folders, video; and what is refused."""

import json

import cv2
import numpy as np
import pytest

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.core.images import write_image
from omniad_ros.recordings import export_survey, fingerprint, read_survey, write_survey


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


def test_frames_of_a_lens_that_was_focused_are_brought_to_one_camera(tmp_path):
    """As Polycam and others write them: each frame with its own focal length and principal point."""
    (tmp_path / "in").mkdir()
    own = [
        {"fl_x": 60.0, "fl_y": 60.0, "cx": 32.0, "cy": 24.0},
        {"fl_x": 62.0, "fl_y": 62.0, "cx": 33.0, "cy": 24.5, "k1": 0.05},
    ]
    root = make(tmp_path / "in", [], [{**frame(f"{i}.png", i), **own[i]} for i in (0, 1)])
    point = np.array([0.3, -0.2, 2.0])
    for i, values in enumerate(own):
        camera = Camera(64, 48, values["fl_x"], values["fl_y"], values["cx"], values["cy"])
        u, v = camera.project(point[None])[0]
        if i:  # what the lens makes of it
            x, y = point[:2] / point[2]
            u, v = (np.array([x, y]) * (1 + 0.05 * (x * x + y * y))) * 62.0 + [33.0, 24.5]
        image = np.zeros((48, 64, 3), np.uint8)
        rows, columns = np.mgrid[:48, :64] + 0.5
        image[...] = (255 * np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / 8))[..., None]
        write_image(root / f"{i}.png", image)
    (tmp_path / "out").mkdir()
    survey = write_survey(read_survey(root), tmp_path / "out")
    assert survey.camera.fx == 62.0 and survey.camera.distortion_model == "none"
    for i in (0, 1):
        weights = survey.image(i)[..., 0].astype(float)
        rows, columns = np.mgrid[:48, :64] + 0.5
        seen = np.array([(columns * weights).sum(), (rows * weights).sum()]) / weights.sum()
        np.testing.assert_allclose(seen, survey.camera.project(point[None])[0], atol=0.1)


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


def test_a_few_missing_images_are_left_out(tmp_path, caplog):
    """As in instant-ngp's own example set, which names more images than it has."""
    from omniad_ros.evaluation.layouts import read_dataset

    names = [f"images/{i}.png" for i in range(9)]
    make(tmp_path, names[:7], [frame(name, i) for i, name in enumerate(names)])
    assert len(read_survey(tmp_path)) == 7
    assert [r.getMessage().split(": ", 1)[1] for r in caplog.records] == ["left out (the first is images/7.png)"]
    dataset = read_dataset(tmp_path)
    assert len(read_survey(dataset.survey_without_tests(tmp_path / "out"))) + len(dataset.frames) == 7


def test_transparent_and_grey_pictures(tmp_path):
    root = make(tmp_path / "in", ["a.png", "b.png"], [frame("a.png", 0), frame("b.png", 1)])
    cv2.imwrite(str(root / "a.png"), np.full((48, 64, 4), (0, 0, 200, 0), np.uint8))
    cv2.imwrite(str(root / "b.png"), np.full((48, 64), 7, np.uint8))
    (tmp_path / "out").mkdir()
    survey = write_survey(read_survey(root), tmp_path / "out")
    assert (survey.image(0) == 255).all() and (survey.image(1) == 7).all()


def test_orientation_marks_turn_photographs_but_not_pixels_that_have_poses(tmp_path):
    """COLMAP and nerfstudio take a photograph as it is stored, so their poses and intrinsics are of the pixels as stored."""
    from PIL import Image

    mark = Image.Exif()
    mark[274] = 6  # turn clockwise to see it upright
    stored = picture(3)
    root = make(tmp_path / "in", ["a.png", "b.png"], [frame("a.png", 0), frame("b.png", 1)], fl_x=60.0, w=64, h=48)
    for name in "ab":
        Image.fromarray(stored).save(root / f"{name}.png", exif=mark)
    (tmp_path / "out").mkdir()
    survey = write_survey(read_survey(root), tmp_path / "out")
    assert np.array_equal(survey.image(0), stored)
    data = json.loads((root / "transforms.json").read_text())
    (root / "transforms.json").write_text(json.dumps({**data, "w": 48, "h": 64}))  # a tool that turned them itself
    assert read_survey(root).camera.width == 48
    (root / "transforms.json").unlink()
    (tmp_path / "turned").mkdir()
    assert np.array_equal(write_survey(read_survey(root), tmp_path / "turned").image(0), np.rot90(stored, -1))


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
    bends = [
        np.ptp(((i[..., 0] * rows).sum(0) / i[..., 0].sum(0, dtype=float).clip(1))[30:290]) for i in (image, rectified)
    ]
    assert bends[0] > 4.0 and bends[1] < 1.0, bends
    fisheye = make(tmp_path / "fish", ["a.png"], [frame("a.png", 0)], fl_x=60, camera_model="OPENCV_FISHEYE", k1=0.01)
    assert read_survey(fisheye).camera.distortion_model == "equidistant"


def test_plain_folder_and_video(tmp_path, caplog):
    (tmp_path / "photos").mkdir()
    for i in (10, 2):
        write_image(tmp_path / "photos" / f"shot{i}.jpg", picture(i))
    source = read_survey(tmp_path / "photos")
    assert source.names == ("shot2.jpg", "shot10.jpg") and source.poses == (None, None)
    assert source.camera_from == "guess" and not caplog.records
    (tmp_path / "site").mkdir()
    write_survey(source, tmp_path / "site")
    assert [r.getMessage() for r in caplog.records] == [
        "the survey says nothing of its camera: assuming a field of view of 60 degrees, to be refined"
    ]
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
    elif name == "last row":
        good[1]["transform_matrix"][3] = [0, 0, 1, 1]
        make(tmp_path, files, good)
    elif name == "without a file_path":
        make(tmp_path, files, [*good, {"transform_matrix": good[0]["transform_matrix"]}])
    elif name == "no intrinsics":
        make(tmp_path, files, good, w=64, h=48)
    elif name == "first is c.png":
        make(tmp_path, files, [*good, frame("c.png", 2), frame("d.png", 3)])
    elif name == "differ in size":
        make(tmp_path, files, good)
        write_image(tmp_path / "b.png", picture(1, 60, 48))
    elif name == "cannot|can be read":
        make(tmp_path, files, good)
        (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:200])
    elif name == "different intrinsics":
        make(tmp_path, files, [{**good[0], "fl_x": 60}, {**good[1], "fl_x": 75}])
    elif name == "twice, with different poses":
        make(tmp_path, files, [*good, {**frame("./a.png", 5)}])
    elif name == "GIF image":
        from PIL import Image

        make(tmp_path, files, good)
        Image.fromarray(picture(0)).save(tmp_path / "b.png", format="GIF")
    elif name == "names 2 image":
        make(tmp_path, files, [frame("a" * 5000, 0), frame("b" * 5000, 1)])
    elif name == "no images":
        tmp_path.mkdir(exist_ok=True)


@pytest.mark.parametrize("name", [
    "json", "not finite", "carries a scale of 2", "no intrinsics", "first is c.png", "differ in size", "cannot|can be read",
    "different intrinsics", "no images", "last row", "without a file_path",
    "twice, with different poses", "GIF image", "names 2 image",
])  # fmt: skip
def test_bad_surveys_get_one_sentence(tmp_path, name):
    broken(tmp_path, name)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OmniadError, match=f"(?i){name}") as error:
        read_survey(tmp_path)
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def write_bag(
    path, storage, stamps=range(40), broken=(), topic="/camera/image_raw", odometry_late=0.0, focal=150.0, jpeg=False
):
    """A robot that drives along a wall: images, camera_info, odometry at twice the rate, and /tf_static."""
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    types = {name.split("/")[-1]: kind for name, kind in store.types.items()}
    wall = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (120, 900, 3), np.uint8), (0, 0), 2)

    def header(time, frame):
        return types["Header"](types["Time"](int(time), round(time % 1 * 1e9)), frame)

    def transform(parent, child, translation, rotation):
        t = types["Transform"](types["Vector3"](*map(float, translation)), types["Quaternion"](*map(float, rotation)))
        return types["TransformStamped"](header(1, parent), child, t)

    with Writer(
        path, version=9, storage_plugin=StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
    ) as writer:

        def send(topic, kind, time, message):
            known = [c for c in writer.connections if c.topic == topic]
            connection = known[0] if known else writer.add_connection(topic, kind, typestore=store)
            writer.write(connection, round(time * 1e9), store.serialize_cdr(message, kind))

        edges = [
            transform("base_link", "mast", (0.1, 0, 0.5), (0, 0, 0, 1)),
            transform("mast", "optical", (0, 0, 0.2), (-0.5, 0.5, -0.5, 0.5)),
        ]
        send("/tf_static", "tf2_msgs/msg/TFMessage", 1, types["TFMessage"](edges))
        roi = types["RegionOfInterest"](0, 0, 0, 0, False)
        for i in stamps:
            time = 100 + 0.1 * i
            k = np.array([focal, 0, 79.5, 0, focal, 59.5, 0, 0, 1])
            info = types["CameraInfo"](
                header(time, "optical"),
                120,
                160,
                "plumb_bob",
                np.array([-0.1, 0, 0, 0, 0.0]),
                k,
                np.eye(3).ravel(),
                np.zeros(12),
                0,
                0,
                roi,
            )
            send("/camera/camera_info", "sensor_msgs/msg/CameraInfo", time, info)
            picture = np.ascontiguousarray(wall[:, 5 * i : 5 * i + 160])
            data = cv2.imencode(".jpg", picture)[1].ravel() if jpeg else picture.ravel()
            data = data[: len(data) // 2] if i in broken else data
            if jpeg:
                send(
                    topic,
                    "sensor_msgs/msg/CompressedImage",
                    time,
                    types["CompressedImage"](header(time, "optical"), "jpeg", data),
                )
            else:
                send(
                    topic,
                    "sensor_msgs/msg/Image",
                    time,
                    types["Image"](header(time, "optical"), 120, 160, "bgr8", 0, 480, data),
                )
            for at in (time - 0.05, time + 0.02):
                pose = types["Pose"](types["Point"](0.0, at - 100, 0.0), types["Quaternion"](0.0, 0.0, 0.0, 1.0))
                twist = types["Twist"](types["Vector3"](0.0, 0.0, 0.0), types["Vector3"](0.0, 0.0, 0.0))
                odometry = types["Odometry"](
                    header(at + odometry_late, "odom"),
                    "base_link",
                    types["PoseWithCovariance"](pose, np.zeros(36)),
                    types["TwistWithCovariance"](twist, np.zeros(36)),
                )
                send("/odom", "nav_msgs/msg/Odometry", at, odometry)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_bag_becomes_a_survey(tmp_path, storage):
    write_bag(tmp_path / "bag", storage, broken=range(1, 40, 2), jpeg=storage == "sqlite3")
    source = read_survey(tmp_path / "bag")
    assert all(int(name[:19]) // 100_000_000 % 2 == 0 for name in source.names)  # what is broken is left out
    assert 10 <= len(source) <= 25 and source.camera_from == "file"
    assert source.camera == Camera(160, 120, 150, 150, 80, 60, "plumb_bob", (-0.1, 0, 0, 0, 0))
    index = len(source) // 2
    stamp = int(source.names[index][:19]) / 1e9
    assert np.allclose(
        source.poses[index].translation, (0.1, stamp - 100, 0.7), atol=1e-6
    )  # interpolated, and seen from the mast
    assert np.allclose(source.poses[index].rotation[:, 2], (1, 0, 0))  # the optical axis points ahead
    (tmp_path / "out").mkdir()
    survey = write_survey(source, tmp_path / "out")
    assert len(list((tmp_path / "out/images").iterdir())) == len(survey) and survey.camera.distortion_model == "none"
    export_survey(source, tmp_path / "exported")
    assert read_survey(tmp_path / "exported").names == source.names
    with pytest.raises(OmniadError, match="not empty"):
        export_survey(source, tmp_path / "exported")
    file = next((tmp_path / "bag").glob("*.mcap" if storage == "mcap" else "*.db3"))
    if storage == "mcap":
        assert read_survey(file).names == source.names


def test_a_bag_says_what_is_wrong_with_its_clock_and_camera(tmp_path, caplog):
    from omniad_ros.recordings.bag import BagOptions, mounted, read_bag

    write_bag(tmp_path / "bag", "mcap", range(8), odometry_late=1e4, focal=0.0)
    source = read_bag(tmp_path / "bag")
    said = " ".join(record.getMessage() for record in caplog.records)
    assert not any(source.poses) and "same clock" in said
    assert source.camera_from == "guess" and "uncalibrated" in said
    write_bag(tmp_path / "other", "mcap", range(8))
    turned = read_bag(tmp_path / "other", BagOptions(base_from_camera=mounted((0.3, 0, 1.0), (0, 0, np.pi / 2))))
    assert np.allclose(turned.poses[-1].rotation[:, 2], (0, 1, 0), atol=1e-9)  # looks to the left
    assert np.isclose(turned.poses[-1].translation[2], 1.0)


def test_bad_bags(tmp_path):
    write_bag(tmp_path / "other", "mcap", range(3), topic="/camera/mask")
    assert len(read_survey(tmp_path / "other")) >= 1  # the only images there are, whatever their topic is called
    write_bag(tmp_path / "none", "mcap", range(0))
    with pytest.raises(OmniadError, match="no images"):
        read_survey(tmp_path / "none")
    file = next((tmp_path / "other").glob("*.mcap"))
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(OmniadError, match=r"cannot be read|damaged"):
        read_survey(tmp_path / "other")
