"""Drives the simulated robot and writes what it sees: a survey of the normal room, and patrols past anomalies with their truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from omniad_ros.core.feedback import OmniadError, Progress, quiet
from omniad_ros.core.files import write_json
from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.core.images import write_image
from omniad_ros.lab.plantroom import CAMERA, PlantRoom
from omniad_ros.lab.robot import RobotOptions, Route, Simulation
from omniad_ros.site import PosedImages, write_transforms

VISIBLE_PIXELS = 40
"""A frame with fewer anomalous pixels counts as good."""


@dataclass(frozen=True)
class SurveyRoundOptions:
    """camera: that the robot carries; keyframe_metres, keyframe_degrees: an image is taken once the robot has moved or turned by
    more. The defaults give about a hundred images, what a good site has."""

    camera: Camera = CAMERA
    keyframe_metres: float = 0.24
    keyframe_degrees: float = 9.0


def record_survey(
    seed: int, out: Path | str, options: SurveyRoundOptions = SurveyRoundOptions(), progress: Progress = quiet
) -> Path:
    """Drive the survey round in the normal room of ``seed`` and return ``out``.

    Writes ``images/000.jpg``…, ``transforms.json`` (nerfstudio's format; the poses are odometry's) and
    ``true_poses.json`` (the same images with their true poses in the simulator's world). Keyframes are chosen by
    motion. Raises OmniadError where ``out`` holds something already.
    """
    out = _empty(out)
    world = PlantRoom(seed, camera=options.camera)
    robot = Simulation(world, Route.survey(seed), RobotOptions(speed=0.4))
    (out / "images").mkdir(parents=True)
    names, odometry, truth = [], [], []
    length = np.linalg.norm(np.diff(robot.route.points, axis=0), axis=1).sum()
    while not robot.finished:
        robot.step(0.05)
        pose = robot.odometry_camera_pose()
        if odometry and not _moved(odometry[-1], pose, options):
            continue
        names.append(f"images/{len(names):03d}.jpg")
        odometry.append(pose)
        truth.append(robot.true_camera_pose())
        write_image(out / names[-1], robot.image())
        progress(min(1.0, robot.time * robot.options.speed / length), "driving the survey round")
    write_transforms(out / "transforms.json", PosedImages(world.camera, out, tuple(names), tuple(odometry)))
    write_json(out / "true_poses.json", _frames(names, truth))
    world.close()
    return out


def record_patrol(
    seed: int, out: Path | str, count: int = 60, light: float = 0.0, progress: Progress = quiet, camera: Camera = CAMERA
) -> Path:
    """Drive one lap of the patrol past the anomalies of ``seed`` and return ``out``; frames are evenly spaced in time.

    Writes ``test/good/000.png`` and ``test/anomalous/001.png``… (numbered in the order driven, together),
    ``ground_truth/anomalous/001_mask.png``… (255 anomalous), ``test_poses.json`` (true poses in the simulator's world),
    ``odometry_poses.json`` (the camera by odometry, in the patrol's own odometry frame), ``anomalies.json`` ([{id, kind,
    center, size, places}], world frame, metres) and ``camera.json``. Raises OmniadError where ``out`` holds something already.
    """
    out = _empty(out)
    world = PlantRoom(seed, anomalies=True, light=light, camera=camera)
    robot = Simulation(world, Route.patrol(seed))
    for folder in ("test/good", "test/anomalous", "ground_truth/anomalous"):
        (out / folder).mkdir(parents=True)
    points = robot.route.points
    lap = np.linalg.norm(points - np.roll(points, 1, axis=0), axis=1).sum() / robot.options.speed
    names, truth, odometry = [], [], []
    for index in range(count):
        robot.step(lap / count)
        mask = np.where(robot.ground_truth(), 255, 0).astype(np.uint8)
        kind = "anomalous" if np.count_nonzero(mask) >= VISIBLE_PIXELS else "good"
        names.append(f"test/{kind}/{index:03d}.png")
        truth.append(robot.true_camera_pose())
        odometry.append(robot.odometry_camera_pose())
        write_image(out / names[-1], robot.image())
        if kind == "anomalous":
            write_image(out / f"ground_truth/anomalous/{index:03d}_mask.png", mask)
        progress((index + 1) / count, "driving the patrol")
    write_json(out / "test_poses.json", _frames(names, truth))
    write_json(out / "odometry_poses.json", _frames(names, odometry))
    write_json(out / "anomalies.json", [anomaly.to_dict() for anomaly in world.anomalies])
    write_json(out / "camera.json", world.camera.to_dict())
    world.close()
    return out


def render_labels(seed: int, planted: bool, light: float, poses: list[Pose]) -> list[np.ndarray]:
    """What is anomalous in the views of ``poses``: uint8 (H, W) each, as `PlantRoom.labels` says."""
    world = PlantRoom(seed, anomalies=planted, light=light)
    labels = [world.labels(pose) for pose in poses]
    world.close()
    return labels


def _empty(out: Path | str) -> Path:
    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise OmniadError(f"{out} is not empty; choose an empty output folder")
    return out


def _moved(last: Pose, pose: Pose, options: SurveyRoundOptions) -> bool:
    metres, degrees = last.distance(pose)
    return metres > options.keyframe_metres or degrees > options.keyframe_degrees


def _frames(names: list[str], poses: list[Pose]) -> dict:
    frames = [{"file_path": n, "transform_matrix": p.opengl().tolist()} for n, p in zip(names, poses, strict=True)]
    return {"frames": frames}
