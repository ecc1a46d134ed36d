"""The report page: whole, self-contained, and written so that an old one is never lost."""

import errno
import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.geometry import Pose
from omniad_ros.core.images import encode_jpeg, write_image
from omniad_ros.mapping import Localization
from omniad_ros.patrol.tracks import Track, Tracker
from omniad_ros.report import GalleryFrame, PatrolRecorder, PatrolReport, PlantedMark, RouteStep, write_report
from omniad_ros.report.recorded import inspect_images
from omniad_ros.site import Site, SparsePoints, write_transforms

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (60, 80, 3), np.uint8)
POSES = [Pose.look_at((2 * np.cos(a), 2 * np.sin(a), 0.5), (0, 0, 0.3)) for a in np.linspace(0, 6, 20)]
METRICS = {
    "planted": 2, "found": 1, "false_tracks": 0, "place_error_m": 0.08, "pixel": {"auroc": 0.99, "max_f1": 0.7, "f1": 0.6},
    "localization": {"success": 1.0, "median_m": 0.01, "median_deg": 0.1},
}  # fmt: skip


def track(number, **changes):
    snapshot = (PICTURE, PICTURE, PICTURE[..., 0])
    values = dict(
        id=number, center=np.array([0.5, 0.1 * number, 0.3]), size=np.full(3, 0.2), score=0.8, kind="added", views=5,
        first_seen=3.0, last_seen=9.0, confirmed=True, snapshot=snapshot, snapshot_box=(10, 10, 30, 40),
    )  # fmt: skip
    return Track(**{**values, **changes})


def points(count=500):
    nothing = np.zeros(0, np.int32)
    xyz = RNG.normal(0, 1, (count, 3)).astype(np.float32)
    return SparsePoints(xyz, RNG.integers(0, 256, (count, 3), np.uint8), nothing, nothing, np.zeros((0, 2), np.float32))


def full_report():
    steps = [
        RouteStep(float(i), pose, "lost" if i == 7 else "ok", "why <so>" if i == 7 else "")
        for i, pose in enumerate(POSES)
    ]
    return PatrolReport(
        "Patrol <script>alert(1)</script>", "seed 0", [track(1), track(2, kind="missing"), track(-3, confirmed=False)], [track(9)],
        points(), steps, POSES, [GalleryFrame(2.0, encode_jpeg(PICTURE), "ok", 1)],
        [PlantedMark("drum & lid", "moved", np.zeros(3), True, 1), PlantedMark("cone", "added", np.ones(3), False)],
        METRICS, {"localize": 100.0, "render": 300.0, "total": 400.0},
        {"map": {"registered": 90, "heldout": ["a.png"]}, "radiance": {"psnr": 25.123}},
    )  # fmt: skip


class Page(HTMLParser):
    """Collects links and ids, and checks that elements are closed."""

    EMPTY = ("meta", "img", "path", "circle", "rect", "image", "polyline", "link", "br")

    def __init__(self, text):
        super().__init__()
        self.sources, self.ids, self.open = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.sources += [attributes[k] for k in ("src", "href") if k in attributes]
        self.ids.add(attributes.get("id"))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.EMPTY:
            assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else(tmp_path):
    text = write_report(tmp_path / "new" / "folder", full_report()).read_text()
    page = Page(text)
    assert page.open == []
    assert all(source.startswith(("data:", "#")) for source in page.sources)
    assert all(source[1:] in page.ids for source in page.sources if source.startswith("#"))
    assert "<script" not in text and "http" not in re.sub("http://www.w3.org", "", text)
    assert "2 anomalies found" in text and "1 of 2" in text and "drum &amp; lid" in text and "25.12" in text
    assert {"track-1", "track-2", "gone-9"} <= page.ids and "track--3" not in page.ids
    assert "why &lt;so&gt;" in text


def test_a_bare_report_says_what_it_knows(tmp_path):
    assert "No frame could be inspected" in write_report(tmp_path, PatrolReport("Patrol")).read_text()
    calm = PatrolReport("Patrol", steps=[RouteStep(0.0, POSES[0], "ok"), RouteStep(1.0, None, "ok")])
    assert "Nothing differs" in write_report(tmp_path, calm).read_text()
    blind = PatrolReport(
        "Patrol", steps=[RouteStep(0.0, None, "lost"), RouteStep(1.0, None, "ok"), RouteStep(2.0, None, "lost")]
    )
    assert "could not be inspected" in write_report(tmp_path, blind).read_text()
    doubtful = PatrolReport(
        "Pictures", steps=[RouteStep(0.0, POSES[0], "ok", "", 1), RouteStep(1.0, None, "ok")], timed=False
    )
    assert "no other view confirms" in write_report(tmp_path, doubtful).read_text()


def test_a_full_disk_keeps_the_old_report(tmp_path, monkeypatch):
    old = write_report(tmp_path, full_report()).read_text()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OmniadError, match="No space left"):
        write_report(tmp_path, PatrolReport("another"))
    assert (tmp_path / "index.html").read_text() == old
    assert [p.name for p in tmp_path.iterdir()] == ["index.html"]


@dataclass
class Inspected:
    pose: Pose
    localization: Localization
    state: str = "ok"
    message: str = ""
    heatmap: np.ndarray = field(default_factory=lambda: np.zeros((60, 80), np.float32))
    mask: np.ndarray = field(default_factory=lambda: np.zeros((60, 80), np.uint8))
    detections: list = field(default_factory=list)
    ms: dict = field(default_factory=lambda: {"localize": 10.0, "total": 20.0})


@dataclass
class BareSite:
    sparse_points: SparsePoints
    manifest: dict


def test_the_recorder_stays_small_and_spans_the_patrol(tmp_path):
    recorder = PatrolRecorder(steps=100, pictures=10)
    for i in range(1000):
        pose = POSES[i % 20]
        recorder.add(float(i), PICTURE, Inspected(pose, Localization(pose, None, 50, "tracked")), pose)
    report = recorder.report("Patrol", BareSite(points(), {"stages": {}}), Tracker(), subtitle="long")
    assert 50 <= len(report.steps) <= 100 and len(report.gallery) <= 10
    assert report.steps[0].stamp == 0 and report.gallery[0].stamp == 0 and report.gallery[-1].stamp > 700
    assert report.ms == {"localize": 10, "total": 20}
    assert "long" in write_report(tmp_path, report).read_text()


def test_pictures_are_inspected_offline(tiny_site, tiny_dataset, tmp_path):
    out = tmp_path / "patrol"
    inspect_images(tiny_site, tiny_dataset / "test" / "missing", out)
    found = json.loads((out / "inspection.json").read_text())
    assert [frame["name"] for frame in found["frames"]] == ["000", "001"]
    assert all(frame["state"] in ("ok", "degraded", "lost") and "total" in frame["ms"] for frame in found["frames"])
    heatmap = cv2.imread(str(out / "heatmaps/000.png"), cv2.IMREAD_UNCHANGED)
    assert heatmap.dtype == np.uint16 and heatmap.shape == (120, 160)
    assert set(np.unique(cv2.imread(str(out / "masks/001.png"), 0))) <= {0, 128, 255}
    assert (out / "index.html").is_file() and len(list((out / "overlays").iterdir())) == 2
    with pytest.raises(OmniadError, match="not empty"):
        inspect_images(tiny_site, tiny_dataset / "test" / "missing", out)
    with pytest.raises(OmniadError, match="no images"):
        inspect_images(tiny_site, tmp_path / "patrol" / "..", tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_pictures_of_another_camera_are_refused(tiny_site, tmp_path):
    (tmp_path / "square").mkdir()
    for i in range(2):
        write_image(tmp_path / "square" / f"{i}.png", np.zeros((120, 120, 3), np.uint8))
    with pytest.raises(OmniadError, match="another camera"):
        inspect_images(tiny_site, tmp_path / "square", tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["square"]


def test_a_bag_gives_the_same_as_its_pictures(tiny_site, tiny_dataset, tmp_path):
    """Frames with odometry from a rosbag2 and the same frames in a folder with poses: one inspection."""
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    survey = Site.open(tiny_site).survey
    frames = survey.subset(range(0, 36, 9))
    (tmp_path / "folder").mkdir()
    write_transforms(tmp_path / "folder" / "transforms.json", frames)
    store = get_typestore(Stores.ROS2_JAZZY)
    t = {name.split("/")[-1]: kind for name, kind in store.types.items()}
    camera, still = frames.camera, t["Vector3"](0.0, 0.0, 0.0)
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        topics = {}

        def send(topic, kind, second, message):
            if topic not in topics:
                topics[topic] = writer.add_connection(topic, kind, typestore=store)
            writer.write(topics[topic], second * 10**9, store.serialize_cdr(message, kind))

        turn = t["Transform"](still, t["Quaternion"](0.0, 0.0, 0.0, 1.0))
        edge = t["TransformStamped"](t["Header"](t["Time"](0, 0), "base_link"), "optical", turn)
        send("/tf_static", "tf2_msgs/msg/TFMessage", 0, t["TFMessage"]([edge]))
        for i, pose in enumerate(frames.poses):
            header = t["Header"](t["Time"](i + 1, 0), "optical")
            k = camera.opencv_matrix().ravel()
            roi = t["RegionOfInterest"](0, 0, 0, 0, False)
            info = t["CameraInfo"](
                header,
                camera.height,
                camera.width,
                "plumb_bob",
                np.zeros(5),
                k,
                np.eye(3).ravel(),
                np.zeros(12),
                0,
                0,
                roi,
            )
            send("/camera_info", "sensor_msgs/msg/CameraInfo", i + 1, info)
            at = t["Pose"](t["Point"](*pose.translation), t["Quaternion"](*pose.quaternion()))
            twist = t["TwistWithCovariance"](t["Twist"](still, still), np.zeros(36))
            odometry = t["Odometry"](header, "base_link", t["PoseWithCovariance"](at, np.zeros(36)), twist)
            send("/odom", "nav_msgs/msg/Odometry", i + 1, odometry)
            image = t["Image"](
                header, camera.height, camera.width, "rgb8", 0, 3 * camera.width, frames.image(i).ravel()
            )
            send("/image", "sensor_msgs/msg/Image", i + 1, image)
    inspect_images(tiny_site, tmp_path / "folder", tmp_path / "a")
    inspect_images(tiny_site, tmp_path / "bag", tmp_path / "b")
    a, b = (json.loads((tmp_path / name / "inspection.json").read_text())["frames"] for name in "ab")
    assert len(a) == len(b) == 4 and all(x["state"] == y["state"] == "ok" for x, y in zip(a, b))
    assert all(np.allclose(x["map_from_camera"], y["map_from_camera"], atol=1e-4) for x, y in zip(a, b))
    assert [x["detections"] for x in a] == [y["detections"] for y in b]
