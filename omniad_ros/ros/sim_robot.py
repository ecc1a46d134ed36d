"""The simulated patrol robot as a ROS node: drives its route past planted anomalies, publishes camera and odometry.

Stamps are the time at the start plus the simulator's, the same on all topics. The truth of the patrol is written where
it is wanted, so that what the inspector says can be scored.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.files import write_json
from omniad_ros.recordings import messages as decoding
from omniad_ros.ros import messages
from omniad_ros.ros.managed import NAMESPACE, OK, OUTPUT, STEADY, STREAM
from omniad_ros.ros.managed import main as run_node
from omniad_ros.ros.parameters import declare, parameter
from omniad_ros.ros.transforms import tf2_ros

ODOM, BASE, CAMERA = "odom", "base_link", "camera_optical_frame"
PATHS = ("patrol", "survey")
TRUTH = "truth.json"


@dataclass(frozen=True)
class RobotParameters:
    """Parameters of the node ``sim_robot``."""

    seed: int = parameter(0, "Which simulated site.", minimum=0, maximum=2**31 - 1)
    path: str = parameter("patrol", f"Which path is driven: {', '.join(PATHS)}.")
    anomalies: bool = parameter(True, "Plant the seed's anomalies.")
    light: float = parameter(0.0, "How far the light differs from the survey's.", minimum=0.0, maximum=1.0)
    laps: float = parameter(1.0, "How often a closed path is driven.", minimum=0.01, maximum=1e6)
    speed: float = parameter(0.25, "Metres a second.", minimum=0.01, maximum=1.0)
    image_rate: float = parameter(3.0, "Images a second of simulated time.", minimum=0.1, maximum=60.0)
    odom_rate: float = parameter(20.0, "Odometry messages a second of simulated time.", minimum=1.0, maximum=100.0)
    real_time_factor: float = parameter(1.0, "Simulated seconds a second, at most.", minimum=0.01, maximum=100.0)
    wait_for_listeners: int = parameter(
        0, "Subscribers of camera_info for which the robot waits before it drives off.", minimum=0, maximum=100
    )
    patience: float = parameter(
        0.0, "Seconds that the robot drives on past the last frame that the inspector has answered; then it stands. "
        "0: it does not wait.", minimum=0.0, maximum=3600.0,
    )  # fmt: skip
    ground_truth_dir: str = parameter("", "Folder for the patrol's truth (true poses, anomalies); empty for none.")
    exit_when_finished: bool = parameter(True, "End the process at the end of the path; false: the node stays, silent.")


def camera_parameters() -> dict:
    """The inspector's parameters for this robot's camera, for where /tf does not tell."""
    from omniad_ros.lab.robot import RobotOptions

    options = RobotOptions()
    return {
        "camera_xyz": [0.0, 0.06, options.camera_height],
        "camera_rpy": [0.0, float(options.camera_down), float(options.camera_yaw)],
    }


class SimRobot(Node):
    """Publishes image, camera_info, odom, and on /diagnostics how far along its path it is."""

    TICK = 0.02

    def __init__(self):
        super().__init__("sim_robot", namespace=NAMESPACE)
        self.values = declare(self, RobotParameters(), lambda values: None, lambda values: None)
        self.finished = self._told = False
        self._make_simulation()
        self._image = self.create_publisher(Image, "image", OUTPUT)
        self._info = self.create_publisher(CameraInfo, "camera_info", OUTPUT)
        self._odometry = self.create_publisher(Odometry, "odom", STREAM)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", OUTPUT)
        self._clock_publisher = self.create_publisher(Clock, "/clock", STREAM)
        self._transforms = None
        if tf2_ros is not None:
            self._transforms = tf2_ros.TransformBroadcaster(self)
            mount = messages.transform_message(self._robot.base_from_camera, self._header(BASE), CAMERA)
            self._mount = tf2_ros.StaticTransformBroadcaster(self)
            self._mount.sendTransform(mount)
        self._truth: list[dict] = []
        self._started: float | None = None
        self._images = 0
        self._standing = 0.0
        self._answered = 0.0
        self._driven_at: dict[str, float] = {}
        """Seconds driven when each image was taken, by its stamp."""
        if self.values.patience:
            self.create_subscription(DiagnosticArray, "/diagnostics", self._hear, OUTPUT)
        self.create_timer(self.TICK, self._tick, clock=STEADY)
        self.create_timer(0.5, self._say, clock=STEADY)

    def _make_simulation(self) -> None:
        from omniad_ros.lab.plantroom import PlantRoom
        from omniad_ros.lab.robot import RobotOptions, Route, Simulation

        values = self.values
        if values.path not in PATHS:
            raise OmniadError(f"parameter path is '{values.path}', must be one of {', '.join(PATHS)}")
        if values.ground_truth_dir:
            Path(values.ground_truth_dir).mkdir(parents=True, exist_ok=True)
        route = Route.patrol(values.seed) if values.path == "patrol" else Route.survey(values.seed)
        self._world = PlantRoom(values.seed, anomalies=values.anomalies, light=values.light)
        self._robot = Simulation(self._world, route, RobotOptions(speed=values.speed))
        steps = np.linalg.norm(
            np.diff(route.points, axis=0, append=route.points[:1] if route.closed else route.points[-1:]), axis=1
        )
        self._duration = float(steps.sum()) / values.speed * (values.laps if route.closed else 1.0)

    @property
    def _arrived(self) -> bool:
        return self._robot.finished or self._robot.time >= self._duration

    @property
    def _seconds(self) -> float:
        """Seconds since the start: driven, and stood still to wait for the inspector."""
        return self._robot.time + self._standing

    def _advance(self, seconds: float) -> None:
        if self.values.patience and self._robot.time - self._answered > self.values.patience:
            self._standing += seconds
        else:
            self._robot.step(seconds)

    def _hear(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if not status.hardware_id.startswith(self.get_namespace().rstrip("/") + "/"):
                continue  # of another robot's inspector
            for pair in status.values:
                if pair.key == "stamp":
                    self._answered = max(self._answered, self._driven_at.pop(pair.value, 0.0))

    def _tick(self) -> None:
        """Catch up with the time, by at most one image a call, so that the node stays responsive."""
        if self._started is None:
            if self._info.get_subscription_count() < self.values.wait_for_listeners:
                self._info.publish(messages.camera_info_message(self._robot.camera, self._header(CAMERA)))
                return
            self._started, self._epoch = time.monotonic(), time.time_ns()
        due = (time.monotonic() - self._started) * self.values.real_time_factor
        while self._seconds < due and not self._arrived:
            self._advance(1 / self.values.odom_rate)
            self._publish_odometry()
            if self._seconds * self.values.image_rate >= self._images:
                self._publish_image()
                break
        if due - self._seconds > 1.0:  # too slow to keep up: simulated time goes slower rather than in bursts
            self._started += (due - self._seconds - 1.0) / self.values.real_time_factor
        if self._arrived and not self._told:
            self._told = True
            self._arrive()

    def _header(self, frame_id: str) -> Header:
        since = 0 if self._started is None else round(self._seconds * 1e9)
        epoch = time.time_ns() if self._started is None else self._epoch
        return Header(stamp=messages.to_stamp(epoch + since), frame_id=frame_id)

    def _publish_odometry(self) -> None:
        pose, forward, turn = self._robot.odometry()
        message = Odometry(header=self._header(ODOM), child_frame_id=BASE)
        message.pose.pose = messages.pose_message(pose)
        message.twist.twist.linear.x, message.twist.twist.angular.z = forward, turn
        self._clock_publisher.publish(Clock(clock=message.header.stamp))
        self._odometry.publish(message)
        if self._transforms is not None:
            self._transforms.sendTransform(messages.transform_message(pose, message.header, BASE))

    def _publish_image(self) -> None:
        self._images = int(self._seconds * self.values.image_rate) + 1
        header = self._header(CAMERA)
        self._info.publish(messages.camera_info_message(self._robot.camera, header))
        self._image.publish(messages.image_message(self._robot.image(), header))
        if self.values.patience:
            self._driven_at[str(decoding.nanoseconds(header.stamp))] = self._robot.time
        if self.values.ground_truth_dir:
            pose = self._robot.true_camera_pose().matrix().tolist()
            self._truth.append({"stamp": decoding.nanoseconds(header.stamp), "world_from_camera": pose})

    def _arrive(self) -> None:
        values = self.values
        if values.ground_truth_dir:
            write_json(Path(values.ground_truth_dir) / TRUTH, {
                "seed": values.seed, "light": values.light, "planted": values.anomalies, "frames": self._truth,
                "anomalies": [anomaly.to_dict() for anomaly in self._world.anomalies],
            })  # fmt: skip
        self._say()
        self.get_logger().info("the path is driven")
        self.finished = values.exit_when_finished

    def _say(self) -> None:
        share = min(1.0, self._robot.time / self._duration)
        words = "waits" if self._started is None else "drives" if share < 1 else "has arrived"
        array = DiagnosticArray(header=self._header(""))
        array.status = [
            messages.status_message("omniad: sim_robot", "sim_robot", OK, words, {"progress": f"{share:.4f}"})
        ]
        self._diagnostics.publish(array)


def main() -> int:
    return run_node(SimRobot)
