"""Recordings as other people make them: each of these was read wrongly, or not at all, somewhere; each stands for its kind."""

import itertools
import json
import shutil

import bags
import cv2
import numpy as np
import pytest
from bags import HEIGHT, WIDTH, drive, make, transform
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.geometry import Pose
from omniad_ros.core.images import write_image
from omniad_ros.recordings import open_frames, read_survey, write_survey
from omniad_ros.recordings.bag import BagOptions, read_bag


def said(caplog, *words) -> bool:
    return any(all(word in record.getMessage() for word in words) for record in caplog.records)


def first(source):
    return next(iter(source.open_images())).astype(int)


def shown(source) -> bool:
    """Whether the first picture is the wall, not something sheared, mirrored or of other colours."""
    return np.abs(first(source) - bags.picture(0)).mean() < 12


def nv12(padding=0):
    def message(i, time):
        planes = cv2.cvtColor(bags.picture(i), cv2.COLOR_RGB2YUV_I420).reshape(-1)
        y, (u, v) = planes[: WIDTH * HEIGHT], planes[WIDTH * HEIGHT :].reshape(2, -1)
        rows = np.concatenate([y, np.stack([u, v], 1).ravel()]).reshape(-1, WIDTH)
        rows = np.pad(rows, ((0, 0), (0, padding)))
        size = HEIGHT, WIDTH, "nv12", 0, WIDTH + padding
        return make("Image", bags.header(time, "optical"), *size, rows.reshape(-1).copy())

    return message


def padded(i, time):
    rows = np.pad(bags.picture(i).reshape(HEIGHT, -1), ((0, 0), (0, 32)), constant_values=255)
    return make("Image", bags.header(time, "optical"), HEIGHT, WIDTH, "rgb8", 0, rows.shape[1], rows.reshape(-1).copy())


@pytest.mark.parametrize(
    "images", [bags.image, padded, nv12(), nv12(32)], ids=["plain", "padded", "nv12", "nv12 padded"]
)
def test_raw_pictures_are_decoded_as_the_live_node_decodes_them(tmp_path, images):
    assert shown(read_survey(drive(tmp_path / "bag", range(6), images=images)))


def test_grey_and_turned_jpegs_are_the_cameras_pixels(tmp_path):
    import io

    from PIL import Image

    def grey(i, time):
        data = cv2.imencode(".jpg", cv2.cvtColor(bags.picture(i), cv2.COLOR_RGB2GRAY))[1].ravel()
        return make("CompressedImage", bags.header(time, "optical"), "mono8; jpeg compressed ", data)

    def turned(i, time):
        mark, file = Image.Exif(), io.BytesIO()
        mark[274] = 6
        Image.fromarray(bags.picture(i)).save(file, "JPEG", exif=mark)
        data = np.frombuffer(file.getvalue(), np.uint8).copy()
        return make("CompressedImage", bags.header(time, "optical"), "jpeg", data)

    topic = "/camera/image_raw/compressed"
    picture = first(read_survey(drive(tmp_path / "grey", range(6), images=grey, topic=topic)))
    expected = cv2.cvtColor(bags.picture(0), cv2.COLOR_RGB2GRAY)[..., None]
    assert np.abs(picture - expected).mean() < 8
    assert shown(read_survey(drive(tmp_path / "turned", range(6), images=turned, topic=topic)))


def test_an_encoding_that_nobody_knows_is_one_sentence(tmp_path):
    def odd(i, time):
        return bags.image(i, time, encoding="nv24")

    with pytest.raises(OmniadError, match="encoding 'nv24' is not known") as error:
        read_survey(drive(tmp_path / "bag", range(6), images=odd))
    assert "\n" not in str(error.value)


def test_equal_stamps_do_not_overwrite_each_other(tmp_path):
    source = read_survey(drive(tmp_path / "bag", images=lambda i, time: bags.image(i, 100.0 + i // 4 * 0.4)))
    assert len(set(source.names)) == len(source.names) > 10
    (tmp_path / "out").mkdir()
    assert len(list((write_survey(source, tmp_path / "out").root / "images").iterdir())) == len(source)
    names = [frame.name for frame in open_frames(tmp_path / "bag").open_frames()]
    assert len(set(names)) == len(names) == 40


def test_pictures_of_one_name_do_not_overwrite_each_other_either(tmp_path):
    for name in ("a.png", "a.jpg", "b.png"):
        write_image(tmp_path / name, bags.picture(0))
    assert sorted(frame.name for frame in open_frames(tmp_path).open_frames()) == ["a_jpg", "a_png", "b_png"]


# ---- files


def pieces(tmp_path, storage="mcap"):
    """Three files of one recording, without a metadata.yaml."""
    folder = tmp_path / "split"
    folder.mkdir()
    for number in (0, 1, 10):
        steps = {0: range(14), 1: range(14, 28), 10: range(28, 42)}[number]
        drive(tmp_path / "part", steps, storage=storage)
        file = next((tmp_path / "part").glob("*.mcap" if storage == "mcap" else "*.db3"))
        shutil.copy(file, folder / f"rec_{number}{file.suffix}")
    return folder


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_all_files_of_a_recording_are_read_and_what_is_broken_is_said(tmp_path, caplog, storage):
    folder = pieces(tmp_path, storage)
    stamps = [frame.stamp for frame in open_frames(folder).open_frames()]
    assert len(stamps) == 42 and stamps == sorted(stamps)
    broken = next(folder.glob("rec_1.*"))
    broken.write_bytes(broken.read_bytes()[:50])
    assert len(list(open_frames(folder).open_frames())) == 28 and said(caplog, "rec_1")


def mcap_file(path, index_types=None):
    """As recorders without ROS write it: no profile, small chunks, perhaps without the message index, the chunk index, or any."""
    from mcap.writer import IndexType, Writer

    with path.open("wb") as stream:
        writer = Writer(stream, chunk_size=100_000, index_types=IndexType.ALL if index_types is None else index_types)
        writer.start("", "test")
        channels = {}
        for i in range(12):
            time = 100 + 0.1 * i
            for topic, kind, message in (
                ("/camera/camera_info", "sensor_msgs/msg/CameraInfo", bags.camera_info(time)),
                ("/camera/image_raw", "sensor_msgs/msg/Image", bags.image(i, time)),
            ):
                if topic not in channels:
                    channels[topic] = writer.register_channel(
                        topic, "cdr", writer.register_schema(kind, "ros2msg", b"")
                    )
                raw = bytes(bags.STORE.serialize_cdr(message, kind))
                writer.add_message(channels[topic], round(time * 1e9), raw, round(time * 1e9))
        writer.finish()
    return path


@pytest.mark.parametrize("without", ["MESSAGE", "CHUNK", "ALL"])
def test_an_mcap_without_its_index_is_read(tmp_path, without):
    from mcap.writer import IndexType

    path = mcap_file(tmp_path / "odd.mcap", IndexType.ALL & ~IndexType[without])
    source = read_survey(path)
    assert shown(source) and source.camera_from == "file" and len(list(open_frames(path).open_frames())) == 12


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("mode", ["FILE", "MESSAGE"])
def test_compressed_recordings(tmp_path, storage, mode):
    plugin = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}[storage]
    writer = Writer(tmp_path / "bag", version=9, storage_plugin=plugin)
    writer.set_compression(CompressionMode[mode], CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection("/camera/image_raw", "sensor_msgs/msg/Image", typestore=bags.STORE)
        for i in range(6):
            raw = bags.STORE.serialize_cdr(bags.image(i, 100 + 0.1 * i), "sensor_msgs/msg/Image")
            writer.write(connection, 100_000_000_000 + 100_000_000 * i, raw)
    assert shown(read_survey(tmp_path / "bag"))


def test_a_recording_that_was_cut_off_is_read_up_to_there(tmp_path, caplog):
    path = mcap_file(tmp_path / "cut.mcap")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    assert 4 <= len(list(open_frames(path).open_frames())) < 12 and said(caplog, "cut off")
    path.write_bytes(whole[:100])
    with pytest.raises(OmniadError, match="cannot be read"):
        open_frames(path)


def test_topics_that_nobody_understands_do_not_matter(tmp_path):
    def odd(writer):
        writer = writer.writer
        event = writer.add_connection(
            "/add/_service_event", "example_interfaces/srv/Add_Event", msgdef="int64 a\n---\nint64 sum\n", rihs01="RIHS01_" + "0" * 64
        )  # fmt: skip
        writer.write(event, 99_900_000_000, b"\0\1\0\0" + b"\0" * 32)

    assert shown(read_survey(drive(tmp_path / "bag", range(6), further=odd)))


# ---- which topic, which camera


def test_the_topic_with_messages_is_taken(tmp_path):
    def silent(writer):
        writer.topic("/camera/image_raw", "Image")

    topic = "/camera/image_raw/compressed"
    assert len(read_survey(drive(tmp_path / "bag", images=bags.compressed, topic=topic, further=silent))) > 10

    def hardly(writer):
        writer.put("/camera/image_raw", bags.image(0, 99.0), 99.0)

    assert len(read_survey(drive(tmp_path / "bag", images=bags.compressed, topic=topic, further=hardly))) > 10


@pytest.mark.parametrize(
    "topic, info",
    [
        ("/front/rgb/image_rect_color/compressed", "/front/rgb/camera_info"), ("/zed/rgb/color/rect/image", "/zed/rgb/color/rect/camera_info"),
        ("/infra1/image_rect_raw", "/infra1/camera_info"),
    ],
)  # fmt: skip
def test_rectified_images_have_the_camera_of_p(tmp_path, topic, info):
    images = bags.compressed if topic.endswith("compressed") else bags.image
    path = drive(
        tmp_path / "bag",
        range(6),
        images=images,
        topic=topic,
        info_topic=info,
        infos=lambda time: bags.camera_info(time, p=120.0),
    )
    camera = read_survey(path).camera
    assert camera.distortion_model == "none" and camera.fx == 120
    bare = drive(tmp_path / "bare", range(6), images=images, topic=topic, info_topic=info)  # drivers that leave P out
    assert read_survey(bare).camera.distortion_model == "none" and read_survey(bare).camera.fx == 150


@pytest.mark.parametrize("size", [(848, 480), (320, 240)])
def test_the_calibration_of_another_camera_is_not_taken(tmp_path, caplog, size):
    path = drive(
        tmp_path / "bag", range(6), topic="/front/image_raw", info_topic="/rear/camera_info",
        infos=lambda time: bags.camera_info(time, 600.0, size),
    )  # fmt: skip
    source = read_survey(path)
    assert source.camera_from == "guess" and said(caplog, "/rear/camera_info")
    with (
        pytest.raises(OmniadError) if size[0] == 848 else caplog.at_level("INFO")
    ):  # named, it is taken where it can be
        assert read_bag(path, BagOptions(camera_info="/rear/camera_info")).camera.fx == 300


def test_the_only_calibration_of_the_images_size_is_taken_and_said(tmp_path, caplog):
    source = read_survey(drive(tmp_path / "bag", range(6), topic="/image_raw", info_topic="/calibration/left"))
    assert source.camera.fx == 150 and said(caplog, "/calibration/left")


def test_a_calibration_that_comes_later_is_used(tmp_path):
    def early(writer):
        writer.put("/camera/camera_info", bags.camera_info(99.0, focal=0.0), 99.0)

    source = read_survey(drive(tmp_path / "bag", range(6), further=early))
    assert source.camera_from == "file" and source.camera.fx == 150


def test_binning_and_a_region_of_interest_are_applied(tmp_path):
    def infos(time):
        return bags.camera_info(
            time, 300.0, (2 * WIDTH + 40, 2 * HEIGHT + 20), binning=2, roi=(40, 20, 2 * HEIGHT, 2 * WIDTH)
        )

    camera = read_survey(drive(tmp_path / "bag", range(6), infos=infos)).camera
    assert (camera.width, camera.height, camera.fx) == (WIDTH, HEIGHT, 150)
    assert np.allclose((camera.cx, camera.cy), ((2 * WIDTH + 40) / 4 - 20, (2 * HEIGHT + 20) / 4 - 10))


def test_the_size_that_most_images_have_is_the_cameras(tmp_path, caplog):
    small = (WIDTH // 2, HEIGHT // 2)
    path = drive(tmp_path / "bag", images=lambda i, time: bags.image(i, time, size=small if i < 3 else (WIDTH, HEIGHT)))
    source = read_survey(path)
    assert source.camera.width == WIDTH and len(source) > 10 and said(caplog, "80x60", "left out")


# ---- where the camera was


def test_odometry_that_cannot_be_used_is_said(tmp_path, caplog):
    source = read_survey(drive(tmp_path / "bag", odometries=lambda time: bags.odometry(time, xyzw=(0, 0, 0, 0))))
    assert not any(source.poses) and said(caplog, "odometry", "length 0")


def test_odometry_without_a_frame_is_the_robots(tmp_path, caplog):
    source = read_survey(drive(tmp_path / "bag", odometries=lambda time: bags.odometry(time, child="")))
    assert np.allclose(source.poses[3].translation[[0, 2]], (0.1, 0.7)) and said(caplog, "child_frame_id", "base_link")


@pytest.mark.parametrize("chain", ["plain", "with map and footprint"])
def test_odometry_that_is_only_in_tf_is_used(tmp_path, caplog, chain):
    def moving(writer):
        base = "base_link" if chain == "plain" else "base_footprint"
        for step in range(-2, 90):
            time = 100 + 0.05 * step
            edges = [transform("odom", base, (0, time - 100, 0), (0, 0, 0, 1), time)]
            if chain != "plain":
                edges.append(transform("map", "odom", (5, 5, 0), (0, 0, 0, 1), time))
            writer.put("/tf", make("TFMessage", edges), time)
        if chain != "plain":
            writer.put(
                "/tf_static",
                make("TFMessage", [transform("base_footprint", "base_link", (0, 0, 0.3), (0, 0, 0, 1))]),
                99.0,
            )

    source = read_survey(drive(tmp_path / "bag", odometries=None, further=moving))
    index = len(source) // 2
    stamp = int(source.names[index][:19]) / 1e9
    height = 0.7 if chain == "plain" else 1.0
    assert np.allclose(source.poses[index].translation, (0.1, stamp - 100, height), atol=1e-6) and said(caplog, "/tf")


def test_a_camera_that_turns_on_the_robot_is_followed(tmp_path):
    def turning(writer):
        writer.put("/tf_static", make("TFMessage", [transform("head", "optical", (0, 0, 0), bags.LOOKS_AHEAD)]), 99.0)
        for step in range(90):
            yaw = 0.01 * step
            turn = (0, 0, np.sin(yaw / 2), np.cos(yaw / 2))
            writer.put(
                "/tf",
                make("TFMessage", [transform("base_link", "head", (0, 0, 1), turn, 100 + 0.05 * step)]),
                100 + 0.05 * step,
            )

    frames = list(open_frames(drive(tmp_path / "bag", range(20), static=None, further=turning)).open_frames())
    axis = frames[10].base_from_camera.rotation[:, 2]
    assert np.allclose(axis, (np.cos(0.2), np.sin(0.2), 0), atol=1e-6)


def test_poses_on_a_topic_that_is_named_are_odometry(tmp_path, caplog):
    def posed(writer):
        for step in range(90):
            time = 99.9 + 0.05 * step
            writer.put("/zed/pose", make("PoseStamped", bags.header(time, "odom"), bags.pose(time - 100)), time)

    path = drive(tmp_path / "bag", odometries=None, further=posed)
    assert not any(read_survey(path).poses) and said(caplog, "/zed/pose", "--odom")
    assert all(read_bag(path, BagOptions(odometry="/zed/pose")).poses[1:])


# ---- folders


def folder(tmp_path, count=12, **extra):
    (tmp_path / "images").mkdir(parents=True)
    frames = []
    for i in range(count):
        write_image(tmp_path / f"images/{i:03d}.png", bags.picture(i))
        pose = Pose.look_at((3, i, 2), (0, 0, 0)).opengl().tolist()
        frames.append({"file_path": f"images/{i:03d}.png", "transform_matrix": pose, **extra})
    return frames


def test_each_frame_of_its_own_focal_length_is_brought_to_the_camera_that_is_written(tmp_path):
    frames = folder(tmp_path)
    for i, frame in enumerate(frames):
        focal = 144 * (1 + 0.02 * (i % 5))
        frame |= {"fl_x": focal, "fl_y": focal, "cx": 80.0, "cy": 60.0, "w": WIDTH, "h": HEIGHT}
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": frames}))
    source = read_survey(tmp_path)
    assert source.camera.fx == pytest.approx(144 * 1.08)
    pictures = list(source.open_images())
    assert np.abs(pictures[0].astype(int) - bags.picture(0)).mean() > 2  # enlarged
    assert np.abs(pictures[4].astype(int) - bags.picture(4)).mean() < 2  # it was that camera's


@pytest.mark.parametrize(
    "given", [{"fl_x": 577.0, "cx": 320.0, "cy": 240.0}, {"fl_x": 577.0, "cx": -3.0}, {"fl_x": 0.9}]
)
def test_intrinsics_of_other_images_or_units_are_refused(tmp_path, given):
    (tmp_path / "transforms.json").write_text(json.dumps({**given, "frames": folder(tmp_path)}))
    with pytest.raises(OmniadError, match=r"cx|focal length"):
        read_survey(tmp_path)


def test_masks_beside_images_and_pictures_of_a_phone_are_said(tmp_path, caplog):
    frames = folder(tmp_path / "posed", mask_path="masks/m.png")
    (tmp_path / "posed" / "transforms.json").write_text(json.dumps({"fl_x": 144.0, "frames": frames}))
    assert len(read_survey(tmp_path / "posed")) == 12 and said(caplog, "masks")
    caplog.clear()
    folder(tmp_path / "plain")
    for i in range(12):
        write_image(tmp_path / f"plain/images/{i:03d}_mask.png", np.zeros((HEIGHT, WIDTH), np.uint8))
        write_image(tmp_path / f"plain/images/{i:03d}.depth.png", np.zeros((HEIGHT, WIDTH), np.uint16))
    (tmp_path / "plain/images/100.HEIC").write_bytes(b"ftypheic")
    (tmp_path / "plain/sparse/0").mkdir(parents=True)
    (tmp_path / "plain/sparse/0/images.bin").write_bytes(b"")
    assert len(read_survey(tmp_path / "plain")) == 12
    assert (
        said(caplog, "12 masks") and said(caplog, "12 depth maps") and said(caplog, "HEIC") and said(caplog, "COLMAP")
    )


# ---- several cameras


def rig(path, second="/rear/camera_info"):
    """A bag of a robot with a camera ahead and one behind, which takes its pictures half a step later."""

    def behind(writer):
        edges = [transform("base_link", "rear_optical", (-0.2, 0, 0.6), (0.5, 0.5, 0.5, 0.5))]
        writer.put("/tf_static", bags.make("TFMessage", edges), 99.4)
        for i in range(12):
            time = 100.05 + 0.1 * i
            writer.put("/rear/image_raw", bags.image(i, time, frame="rear_optical"), time)
            writer.put(second, bags.camera_info(time, 170.0), time)

    return drive(
        path, range(12), topic="/front/image_raw", info_topic="/front/camera_info", further=behind,
    )  # fmt: skip


def test_a_patrol_of_several_cameras_is_read_by_stamps(tmp_path):
    options = BagOptions(rig=("/front/image_raw", "/rear/image_raw"))
    source = open_frames(rig(tmp_path / "bag"), options)
    frames = list(source.open_frames())
    assert source.count == len(frames) == 24 and len({frame.name for frame in frames}) == 24
    assert [frame.eye for frame in frames[:4]] == ["front", "rear", "front", "rear"]
    assert all(a.stamp < b.stamp for a, b in itertools.pairwise(frames))
    front, rear = frames[:2]
    assert (front.camera.fx, rear.camera.fx) == (150, 170)
    assert np.allclose(front.base_from_camera.translation, (0.1, 0, 0.7))
    assert np.allclose(rear.base_from_camera.translation, (-0.2, 0, 0.6))


def test_what_cannot_be_read_of_several_cameras_is_said(tmp_path):
    topics = "/front/image_raw", "/rear/image_raw"
    path = rig(tmp_path / "bag")
    with pytest.raises(OmniadError, match="one camera"):
        read_bag(path, BagOptions(rig=topics))
    with pytest.raises(OmniadError, match="leave the options out"):
        open_frames(path, BagOptions(rig=topics, camera_info="/front/camera_info"))
    with pytest.raises(OmniadError, match="one topic"):
        open_frames(path, BagOptions(rig=(topics[0], topics[0])))
    with pytest.raises(OmniadError, match="/up/image_raw"):
        open_frames(path, BagOptions(rig=(topics[0], "/up/image_raw")))
