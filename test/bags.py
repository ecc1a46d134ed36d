"""Small rosbag2 recordings of a robot that drives along a wall, and of what other people's robots record instead."""

import shutil
from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

WIDTH, HEIGHT = 160, 120
STORE = get_typestore(Stores.ROS2_JAZZY)
TYPES = {name.split("/")[-1]: kind for name, kind in STORE.types.items()}
WALL = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (HEIGHT, 900, 3), np.uint8), (0, 0), 2)
LOOKS_AHEAD = (-0.5, 0.5, -0.5, 0.5)
"""Rotation (x, y, z, w) of an optical frame whose camera looks along the robot's x axis."""
PACKAGES = {
    "Image": "sensor_msgs", "CompressedImage": "sensor_msgs", "CameraInfo": "sensor_msgs", "Odometry": "nav_msgs",
    "TFMessage": "tf2_msgs", "PoseStamped": "geometry_msgs", "String": "std_msgs",
}  # fmt: skip


def picture(index: int) -> np.ndarray:
    """RGB."""
    return np.ascontiguousarray(WALL[:, 5 * index : 5 * index + WIDTH])


def make(kind: str, *values):
    return TYPES[kind](*values)


def header(time: float, frame: str):
    return make("Header", make("Time", int(time), round(time % 1 * 1e9)), frame)


def transform(parent, child, xyz, xyzw, time=1.0):
    place = make("Vector3", *map(float, xyz)), make("Quaternion", *map(float, xyzw))
    return make("TransformStamped", header(time, parent), child, make("Transform", *place))


def image(index: int, time: float, encoding="rgb8", size=(WIDTH, HEIGHT), frame="optical"):
    pixels = cv2.resize(picture(index), size)
    return make("Image", header(time, frame), size[1], size[0], encoding, 0, 3 * size[0], pixels.reshape(-1).copy())


def compressed(index: int, time: float, frame="optical"):
    data = cv2.imencode(".jpg", picture(index)[..., ::-1])[1].ravel()
    return make("CompressedImage", header(time, frame), "rgb8; jpeg compressed bgr8", data)


def camera_info(
    time: float, focal=150.0, size=(WIDTH, HEIGHT), d=(-0.1, 0, 0, 0, 0), p=None, binning=0, roi=(0, 0, 0, 0)
):
    k = np.array([focal, 0, size[0] / 2 - 0.5, 0, focal, size[1] / 2 - 0.5, 0, 0, 1])
    projection = np.zeros(12)
    if p is not None:
        projection[[0, 2, 5, 6, 10]] = p, size[0] / 2 - 0.5, p, size[1] / 2 - 0.5, 1
    region = make("RegionOfInterest", *roi, False)
    return make(
        "CameraInfo", header(time, "optical"), size[1], size[0], "plumb_bob", np.array(d, float), k, np.eye(3).ravel(), projection,
        binning, binning, region,
    )  # fmt: skip


def pose(y: float, xyzw=(0, 0, 0, 1)):
    return make("Pose", make("Point", 0.0, float(y), 0.0), make("Quaternion", *map(float, xyzw)))


def odometry(time: float, child="base_link", xyzw=(0, 0, 0, 1)):
    still = make("Twist", make("Vector3", 0.0, 0.0, 0.0), make("Vector3", 0.0, 0.0, 0.0))
    posed = make("PoseWithCovariance", pose(time - 100, xyzw), np.zeros(36))
    return make("Odometry", header(time, "odom"), child, posed, make("TwistWithCovariance", still, np.zeros(36)))


def mount():
    """The camera on a mast of the robot."""
    edges = [
        transform("base_link", "mast", (0.1, 0, 0.5), (0, 0, 0, 1)), transform("mast", "optical", (0, 0, 0.2), LOOKS_AHEAD),
    ]  # fmt: skip
    return make("TFMessage", edges)


class BagWriter:
    """A bag at ``path``, which is replaced; ``put`` messages by topic and time in seconds."""

    def __init__(self, path: Path, storage="mcap"):
        shutil.rmtree(path, ignore_errors=True)
        plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
        self.writer = Writer(path, version=9, storage_plugin=plugin)
        self.topics = {}

    def topic(self, name: str, kind: str):
        if name not in self.topics:
            full = f"{PACKAGES[kind]}/msg/{kind}"
            self.topics[name] = self.writer.add_connection(name, full, typestore=STORE), full
        return self.topics[name]

    def put(self, name: str, message, time: float) -> None:
        connection, full = self.topic(name, type(message).__name__.split("__")[-1])
        self.writer.write(connection, round(time * 1e9), STORE.serialize_cdr(message, full))

    def __enter__(self):
        self.writer.open()
        return self

    def __exit__(self, *_):
        self.writer.close()


def drive(
    path: Path, steps=range(40), images=image, infos=camera_info, odometries=odometry, static=mount, storage="mcap",
    topic="/camera/image_raw", info_topic="/camera/camera_info", further=None,
) -> Path:  # fmt: skip
    """Images at 10 Hz, camera_info, odometry at twice the rate and /tf_static; None leaves a part out, ``further(writer)`` adds."""
    with BagWriter(path, storage) as writer:
        if further:
            further(writer)
        if static:
            writer.put("/tf_static", static(), 99.5)
        for i in steps:
            time = 100 + 0.1 * i
            if infos:
                writer.put(info_topic, infos(time), time)
            writer.put(topic, images(i, time), time)
            for at in (time - 0.05, time + 0.02) if odometries else ():
                writer.put("/odom", odometries(at), at)
    return path
