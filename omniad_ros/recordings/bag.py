"""Surveys and patrols out of a rosbag2 (SQLite or MCAP), without a ROS installation.

Topics are found by type and name; odometry is interpolated at each image's stamp; the camera's place on the robot comes from
/tf and /tf_static, or is given. What had to be assumed, or is left out, is said once.
"""

from __future__ import annotations

import heapq
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from omniad_ros.core.feedback import OmniadError, Progress, quiet
from omniad_ros.core.geometry import BODY_FROM_OPTICAL, Camera, Pose
from omniad_ros.recordings import messages
from omniad_ros.recordings.frames import PoseTrack, TransformTree
from omniad_ros.recordings.keyframes import KeyframeOptions, KeyframeSelector
from omniad_ros.recordings.messages import MessageDefect
from omniad_ros.recordings.source import Frame, FrameSource, SurveySource, UniqueNames
from omniad_ros.recordings.storage import Bag, Topic, is_storage, storage_files
from omniad_ros.recordings.topics import IMAGE_TYPES, camera_of, choose, decoded, look

ODOMETRY_TYPE = "nav_msgs/msg/Odometry"
POSE_TYPES = (
    "geometry_msgs/msg/PoseStamped", "geometry_msgs/msg/PoseWithCovarianceStamped", "geometry_msgs/msg/TransformStamped",
)  # fmt: skip
"""Read as odometry only where their topic is named: a goal has this type, too."""
TF_TYPE, TF, TF_STATIC = "tf2_msgs/msg/TFMessage", "/tf", "/tf_static"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BagOptions:
    """Which topics are read, None for the ones that fit. rig: topics of the images of several cameras, for a patrol of all of them;
    base_from_camera: the optical frame on the robot, None for /tf's."""

    image: str | None = None
    rig: tuple[str, ...] = ()
    camera_info: str | None = None
    odometry: str | None = None
    base_from_camera: Pose | None = None
    keyframes: KeyframeOptions = field(default_factory=KeyframeOptions)


@dataclass(frozen=True)
class Recording:
    """What a bag holds: the images of one topic, their camera, and where the camera was.

    base_from_camera: of an image's stamp (nanoseconds) and frame; count: of images.
    """

    path: Path
    topic: Topic
    camera: Camera
    camera_from: str
    odometry: PoseTrack
    base_from_camera: Callable[[int, str], Pose]

    def frames(self) -> Iterator[Frame]:
        """Every image that can be read, in the order of recording."""
        names, left_out = UniqueNames(), Counter()
        with Bag(self.path) as bag:
            for received, message in decoded(bag, self.topic):
                try:
                    size = messages.image_size(message)
                    if size != (self.camera.width, self.camera.height):
                        left_out[size] += 1
                        if left_out[size] == 1:
                            self._say_size(size)
                        continue
                    image = messages.image_to_rgb(message)
                except MessageDefect as defect:  # one broken message must not end a patrol
                    logger.warning("an image of %s cannot be read and is left out: %s", self.topic.name, defect)
                    continue
                stamp = stamp_of(message.header, received)
                mount = self.base_from_camera(stamp, message.header.frame_id)
                yield Frame(stamp, names(stamp), image, self.camera, mount)

    def _say_size(self, size: tuple[int, int]) -> None:
        own = f"{self.camera.width}x{self.camera.height}"
        said = "%s has images of another size, %dx%d instead of %s: they are left out"
        logger.warning(said, self.topic.name, *size, own)


def mounted(xyz: Sequence[float], rpy: Sequence[float]) -> Pose:
    """base_from_camera (optical) of a camera at ``xyz`` (metres) whose body is turned by roll, pitch and yaw (radians)."""
    return Pose(Rotation.from_euler("xyz", rpy).as_matrix() @ BODY_FROM_OPTICAL, np.asarray(xyz, float))


def is_bag(path: Path) -> bool:
    """Whether a path is a rosbag2: its folder, or its .mcap or .db3 file."""
    return is_storage(path) if path.is_file() else path.is_dir() and any(map(is_storage, path.iterdir()))


def open_bag(path: Path, options: BagOptions | None = None) -> FrameSource:
    """All frames of a bag, with its odometry. Raises OmniadError where the bag cannot be read or has no images."""
    if options is not None and options.rig:
        return _open_rig(path, options)
    recording = open_recording(path, options)
    odometry = tuple(zip(recording.odometry.stamps, recording.odometry.poses))
    return FrameSource(
        path, "bag", recording.camera, recording.camera_from, odometry, recording.topic.count, True, recording.frames
    )


def _open_rig(path: Path, options: BagOptions) -> FrameSource:
    """The frames of several cameras of one robot, by their stamps."""
    if len(set(options.rig)) < len(options.rig):
        raise OmniadError("two cameras have one topic of images")
    if options.camera_info is not None or options.base_from_camera is not None:
        raise OmniadError(
            "of several cameras, camera_info is found by the names of their images, and their places by /tf_static; leave the options out"
        )
    sources = [open_bag(path, replace(options, image=topic, rig=())) for topic in options.rig]
    for topic, source in zip(options.rig, sources, strict=True):
        if source.camera_from != "file":
            raise OmniadError(f"{path} has no camera_info for {topic}, so its camera is not known")

    def frames_of(eye: str, source: FrameSource) -> Iterator[Frame]:
        for frame in source.open_frames():
            yield replace(frame, eye=eye, name=f"{frame.name}_{eye}")

    def frames() -> Iterator[Frame]:
        rows = (frames_of(*pair) for pair in zip(_eyes(options.rig), sources, strict=True))
        return heapq.merge(*rows, key=lambda frame: frame.stamp)

    return replace(sources[0], count=sum(source.count for source in sources), open_frames=frames)


def _eyes(topics: Sequence[str]) -> list[str]:
    """Names of cameras by their topics: the part in which these differ, as ``front`` of ``/front/image_raw``."""
    rows = [topic.strip("/").split("/") for topic in topics]
    if len({len(row) for row in rows}) == 1:
        for parts in zip(*rows, strict=True):
            if len(set(parts)) == len(topics):
                return list(parts)
    return ["_".join(row) for row in rows]


def read_bag(path: Path, options: BagOptions | None = None, progress: Progress = quiet) -> SurveySource:
    """A survey of a bag's keyframes, with odometry's poses where the bag has odometry.

    Raises OmniadError where the bag cannot be read or has no images.
    """
    options = options or BagOptions()
    if options.rig:
        raise OmniadError("a survey is of one camera: give one topic of images")
    recording = open_recording(path, options)
    selector, chosen, facts = KeyframeSelector(options.keyframes), [], []
    for index, frame in enumerate(recording.frames()):
        facts.append((frame.stamp, frame.name, frame.base_from_camera))
        if (keyframe := selector.add(index, frame.image)) is not None:
            chosen.append(keyframe)
        share = min(1.0, (index + 1) / max(recording.topic.count, 1))
        progress(share, f"choosing keyframes of {path.name}: {len(chosen)}")
    if (keyframe := selector.finish()) is not None:
        chosen.append(keyframe)
    if not chosen:
        raise OmniadError(f"{path} has no image on {recording.topic.name} that can be read")
    chosen = options.keyframes.thinned(chosen)
    poses = []
    for index in chosen:
        stamp, _, mount = facts[index]
        odom_from_base = recording.odometry.at(stamp)
        poses.append(None if odom_from_base is None else odom_from_base @ mount)
    if len(recording.odometry) and not any(poses):
        said = "the odometry of %s has no pose at the stamp of any image: are both by the same clock? It is not used"
        logger.warning(said, path)
    keep, names = frozenset(chosen), tuple(f"{facts[i][1]}.jpg" for i in chosen)
    return SurveySource(
        path, "bag", recording.camera, recording.camera_from, names, tuple(poses), tuple(storage_files(path)[0]),
        lambda: (frame.image for index, frame in enumerate(recording.frames()) if index in keep),
    )  # fmt: skip


def open_recording(path: Path, options: BagOptions | None = None) -> Recording:
    """Look through a bag: camera, odometry, extrinsics; only the first images are decoded.

    Raises OmniadError where the bag cannot be read, a topic is missing, or no image can be read.
    """
    options = options or BagOptions()
    with Bag(path) as bag:
        image = choose(bag, options.image, IMAGE_TYPES, "images")
        (width, height), camera_frame = look(bag, image)
        camera, camera_from = camera_of(bag, options.camera_info, image, (width, height))
        tree = _transforms(bag)
        odometry, base = _odometry(bag, options.odometry, tree, camera_frame)
    mount = options.base_from_camera
    extrinsics = _Extrinsics(tree, base) if mount is None else lambda stamp, frame: mount
    return Recording(path, image, camera, camera_from, odometry, extrinsics)


def stamp_of(header, received: int) -> int:
    """Nanoseconds of a message: its header's stamp, or when it was recorded where the header has none."""
    return messages.nanoseconds(header.stamp) or received


# ---- where the camera was


def _transforms(bag: Bag) -> TransformTree:
    tree = TransformTree()
    for name in (TF, TF_STATIC):
        topic = bag.topics.get(name)
        for received, message in decoded(bag, topic if topic and topic.type == TF_TYPE else None):
            for transform in message.transforms:
                try:
                    pose = messages.pose_from_transform(transform.transform)
                except MessageDefect:
                    continue
                stamp = None if name == TF_STATIC else stamp_of(transform.header, received)
                tree.add(transform.header.frame_id, transform.child_frame_id, pose, stamp)
    return tree


def _odometry(bag: Bag, wanted: str | None, tree: TransformTree, camera_frame: str) -> tuple[PoseTrack, str]:
    """odom_from_base by stamp, and the name of the base frame; empty where nothing says how the robot moved."""
    spoken = any(topic.type == ODOMETRY_TYPE and topic.count for topic in bag.topics.values())
    if wanted is not None or spoken:
        topic = choose(bag, wanted, [ODOMETRY_TYPE, *(POSE_TYPES if wanted else ())], "odometry")
        track, base = _odometry_of(bag, topic)
        if len(track):
            return track, base if base else _assumed_base(topic, tree, camera_frame)
    found = tree.odometry(camera_frame) if tree.knows(camera_frame) else None
    if found is not None:
        parent, base, track = found
        said = "%s has no odometry that can be used but %s -> %s on /tf: that is taken"
        logger.warning(said, bag.path, parent, base)
        return track, base
    if wanted is None and (posed := sorted(t.name for t in bag.topics.values() if t.type in POSE_TYPES and t.count)):
        said = "%s has no odometry; if %s says where the robot is, name it by --odom"
        logger.warning(said, bag.path, " or ".join(posed))
    return PoseTrack(), tree.robot_frame(camera_frame) if tree.knows(camera_frame) else ""


def _odometry_of(bag: Bag, topic: Topic) -> tuple[PoseTrack, str]:
    samples: dict[int, Pose] = {}
    base, refused, reason = "", 0, ""
    for received, message in decoded(bag, topic):
        try:
            samples[stamp_of(message.header, received)] = messages.odometry_pose(message)
        except MessageDefect as defect:
            refused, reason = refused + 1, reason or str(defect)
            continue
        base = base or getattr(message, "child_frame_id", "")
    if refused:
        said = (
            "%d messages of odometry on %s are not used: %s"
            if samples
            else "none of the %d messages of odometry on %s can be used: %s"
        )
        logger.warning(said, refused, topic.name, reason)
    return PoseTrack.of(samples), base


def _assumed_base(topic: Topic, tree: TransformTree, camera_frame: str) -> str:
    base = tree.robot_frame(camera_frame) if tree.knows(camera_frame) else ""
    said = "the odometry on %s names no child_frame_id: assuming that it is of %s"
    logger.warning(said, topic.name, base or "the robot's middle")
    return base


class _Extrinsics:
    """base_from_camera along /tf and /tf_static; without them the camera is taken to look ahead from the middle of the robot."""

    def __init__(self, tree: TransformTree, base: str):
        self.tree, self.base = tree, base
        self._said: set[str] = set()

    def __call__(self, stamp: int, camera: str) -> Pose:
        if not self.base:
            return Pose(BODY_FROM_OPTICAL, np.zeros(3))
        found = self.tree.lookup(self.base, camera, stamp)
        if found is not None:
            return found
        if camera not in self._said:
            self._said.add(camera)
            said = "/tf_static does not say where %s is on %s: assuming that it looks ahead from there"
            logger.warning(said, camera or "the camera", self.base)
        return Pose(BODY_FROM_OPTICAL, np.zeros(3))
