"""Hears a patrol over DDS, as any other program could, and writes down what is said of each frame."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
from sensor_msgs.msg import Image

from omniad_ros.lab.recorded import HEATMAPS, INDEPENDENT, PICTURES
from omniad_ros.recordings import messages as decoding
from omniad_ros.ros import messages
from omniad_ros.ros.managed import ERROR, OUTPUT, STREAM
from omniad_ros.ros.participant import Participant
from omniad_ros.ros.sim_robot import camera_parameters


class PatrolListener:
    """Subscribes to the inspector and the robot while the ``with`` block lasts; `spin` from one thread.

    Heatmaps go to ``out/heatmaps/<stamp>.png`` and ``out/heatmaps_independent/<stamp>.png`` (16 bits), overlays to
    ``out/pictures/<stamp>.jpg``, no side longer than given.
    """

    def __init__(self, environment: Mapping[str, str], out: Path, heatmap_side: int, picture_side: int):
        self._environment, self._out = environment, out
        self._heatmap_side, self._picture_side = heatmap_side, picture_side
        self.progress = 0.0
        self.trouble = ""
        """Why a node could not be configured; empty where all could."""
        self._frames: dict[int, dict] = {}
        self._heatmaps: set[int] = set()
        self._poses: dict[int, list] = {}
        self._odometry: dict[int, list] = {}
        camera = camera_parameters()
        self._base_from_camera = messages.extrinsics(camera["camera_xyz"], camera["camera_rpy"])

    def __enter__(self) -> PatrolListener:
        self._participant = Participant("patrol_listener", self._environment)
        for kind, topic, take, qos in (
            (Image, "heatmap", partial(self._take_heatmap, HEATMAPS), OUTPUT),
            (Image, "heatmap_independent", partial(self._take_heatmap, INDEPENDENT), OUTPUT),
            (Image, "overlay", self._take_overlay, OUTPUT),
            (PoseWithCovarianceStamped, "pose", self._take_pose, OUTPUT), (Odometry, "odom", self._take_odometry, STREAM),
            (DiagnosticArray, "/diagnostics", self._take_diagnostics, OUTPUT),
        ):  # fmt: skip
            self._participant.node.create_subscription(kind, topic, take, qos)
        return self

    def __exit__(self, *_) -> None:
        self._participant.close()

    def spin(self, seconds: float) -> None:
        self._participant.spin(seconds)

    @property
    def count(self) -> int:
        """Frames inspected so far."""
        return len(self._frames)

    def frames(self) -> list[dict]:
        """By stamp: stamp (ns), pose (4x4 map_from_camera, refined) or None, state, message, verdict, ms."""
        frames = []
        for stamp, frame in sorted(self._frames.items()):
            refined = frame["verdict"] != "lost"
            frames.append({"stamp": stamp, "pose": self._poses.get(stamp) if refined else None, **frame})
        return frames

    def odometry(self) -> list[dict]:
        """Of the inspected frames: stamp (ns), odom_from_camera (4x4)."""
        return [
            {"stamp": stamp, "odom_from_camera": self._odometry[stamp]}
            for stamp in sorted(self._frames)
            if stamp in self._odometry
        ]

    def _take_heatmap(self, folder: str, message: Image) -> None:
        heatmap = decoding.depth_from_image(message)
        data = np.round(np.clip(shrunk(heatmap, self._heatmap_side), 0, 1) * 65535).astype(np.uint16)
        cv2.imwrite(str(self._out / folder / f"{decoding.check_stamp(message.header)}.png"), data)

    def _take_overlay(self, message: Image) -> None:
        picture = shrunk(decoding.image_to_rgb(message), self._picture_side)
        path = self._out / PICTURES / f"{decoding.check_stamp(message.header)}.jpg"
        cv2.imwrite(str(path), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])

    def _take_pose(self, message: PoseWithCovarianceStamped) -> None:
        pose = decoding.pose_from_message(message.pose.pose)
        self._poses[decoding.check_stamp(message.header)] = pose.matrix().tolist()

    def _take_odometry(self, message: Odometry) -> None:
        pose = decoding.pose_from_message(message.pose.pose) @ self._base_from_camera
        self._odometry[decoding.check_stamp(message.header)] = pose.matrix().tolist()

    def _take_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {pair.key: pair.value for pair in status.values}
            if values.get("lifecycle") == "unconfigured" and status.level == bytes([ERROR]):
                self.trouble = f"{status.hardware_id.rpartition('/')[2]} is {status.message}"
            if "progress" in values:
                self.progress = float(values["progress"])
            if "stamp" in values:
                ms = {key[3:]: float(value) for key, value in values.items() if key.startswith("ms ")}
                frame = {"state": values["state"], "verdict": values["verdict"], "message": values["why"], "ms": ms}
                self._frames.setdefault(int(values["stamp"]), frame)


def shrunk(image: np.ndarray, longest: int) -> np.ndarray:
    """An image (H, W) or (H, W, 3) whose longer side is at most so many pixels."""
    scale = longest / max(image.shape[:2])
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    return image if scale >= 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
