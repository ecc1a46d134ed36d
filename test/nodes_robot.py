"""A robot for tests: publishes camera and odometry over DDS on a domain of its own, and hears what the nodes answer."""

import time
from collections import defaultdict

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseWithCovarianceStamped
from lifecycle_msgs.srv import ChangeState, GetState
from nav_msgs.msg import OccupancyGrid, Odometry, Path
from rcl_interfaces.srv import DescribeParameters, GetParameters, SetParameters
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header, String
from std_srvs.srv import Trigger
from visualization_msgs.msg import Marker, MarkerArray

from omniad_ros.core.geometry import Pose
from omniad_ros.recordings import messages as decoding
from omniad_ros.ros import messages
from omniad_ros.ros.managed import LATCHED, NAMESPACE, OUTPUT, STREAM
from omniad_ros.ros.participant import Participant

PATIENCE = 180.0
"""Seconds for anything to happen: torch's import alone takes seconds, on a busy machine a minute."""
OUTPUTS = {
    "heatmap": (Image, OUTPUT), "heatmap_independent": (Image, OUTPUT), "overlay": (Image, OUTPUT), "mask": (Image, OUTPUT), "markers": (MarkerArray, OUTPUT),
    "heatmap/camera_info": (CameraInfo, OUTPUT), "pose": (PoseWithCovarianceStamped, OUTPUT), "map_points": (PointCloud2, LATCHED), "route": (Path, LATCHED),
    "coverage": (OccupancyGrid, LATCHED), "findings": (OccupancyGrid, LATCHED),
    **{f"reference/{part}": (Image, OUTPUT) for part in ("image", "depth", "support", "false_alarm", "detail")},
}  # fmt: skip


def displayed(arrays, shown=()) -> set:
    """(namespace, id) of the markers that a display shows after these arrays, as RViz would; shown: before them."""
    shown = set(shown)
    for marker in (marker for array in arrays for marker in array.markers):
        if marker.action == Marker.DELETEALL:
            shown.clear()
        elif marker.action == Marker.DELETE:
            shown.discard((marker.ns, marker.id))
        else:
            assert marker.header.frame_id == "map" and marker.scale.z > 0
            shown.add((marker.ns, marker.id))
    return shown


class Robot:
    """Its base is its camera's body, so that a pose of the camera is the odometry."""

    def __init__(self, environment: dict, camera, namespace: str = NAMESPACE):
        self.environment, self.camera, self.others = environment, camera, set()
        """others: namespaces of other robots, whose diagnostics are not this one's."""
        self.participant = Participant("robot", environment, namespace)
        self.node, self.executor = self.participant.node, self.participant.executor
        self.heard = defaultdict(list)
        self.status = {}
        """The newest diagnostics by node: (level, message, values)."""
        self.told_at = {}
        """The stamp of the newest diagnostics by node, in nanoseconds."""
        for topic, (kind, qos) in OUTPUTS.items():
            self.node.create_subscription(kind, topic, self.heard[topic].append, qos)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._take_diagnostics, OUTPUT)
        self.publishers = {
            "image": self.node.create_publisher(Image, "image", OUTPUT),
            "image/compressed": self.node.create_publisher(CompressedImage, "image/compressed", OUTPUT),
            "camera_info": self.node.create_publisher(CameraInfo, "camera_info", OUTPUT),
            "/initialpose": self.node.create_publisher(PoseWithCovarianceStamped, "/initialpose", OUTPUT),
            "inspector/verdict": self.node.create_publisher(String, "inspector/verdict", 10),
            "odom": self.node.create_publisher(Odometry, "odom", STREAM),
        }
        self.base_from_camera = messages.extrinsics((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
        self._stamp = time.time_ns()

    def close(self) -> None:
        self.participant.close()

    def _take_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {pair.key: pair.value for pair in status.values}
            node = status.name.split(": ")[-1]
            if status.hardware_id.rpartition("/")[0] in self.others:
                continue  # another robot's
            self.status[node] = (status.level[0], status.message, values)
            self.told_at[node] = decoding.nanoseconds(message.header.stamp)

    # saying

    def next_stamp(self, seconds: float = 0.3) -> int:
        self._stamp = max(self._stamp + int(seconds * 1e9), time.time_ns())
        return self._stamp

    def header(self, stamp: int, frame_id: str) -> Header:
        return Header(stamp=messages.to_stamp(stamp), frame_id=frame_id)

    def say_odometry(self, stamp: int, map_from_camera: Pose, **changes) -> None:
        message = Odometry(header=self.header(stamp, "odom"), child_frame_id="base_link")
        message.pose.pose = messages.pose_message(map_from_camera @ self.base_from_camera.inverse())
        self._say("odom", message, changes)

    def say_info(self, stamp: int, **changes) -> None:
        self._say("camera_info", messages.camera_info_message(self.camera, self.header(stamp, "camera")), changes)

    def say_image(self, stamp: int, image: np.ndarray, **changes) -> None:
        self._say("image", messages.image_message(image, self.header(stamp, "camera")), changes)

    def _say(self, topic: str, message, changes: dict) -> None:
        for name, value in changes.items():
            *path, field = name.split("__")
            target = message
            for part in path:
                target = getattr(target, part)
            setattr(target, field, value)
        self.publishers[topic].publish(message)

    def show(self, image: np.ndarray, map_from_camera: Pose | None, stamp: int | None = None, **changes) -> int:
        """One frame, with its odometry and camera_info; returns its stamp."""
        stamp = self.next_stamp() if stamp is None else stamp
        if map_from_camera is not None:
            self.say_odometry(stamp, map_from_camera)
        self.say_info(stamp)
        self.say_image(stamp, image, **changes)
        return stamp

    # hearing

    def spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.executor.spin_once(timeout_sec=left)

    def until(self, condition, timeout: float = PATIENCE, what: str = "it"):
        """Spin until the condition gives something true, and return that."""
        end = time.monotonic() + timeout
        while not (result := condition()):
            assert time.monotonic() < end, f"{what} did not come within {timeout} s; diagnostics: {self.status}"
            self.executor.spin_once(timeout_sec=0.05)
        return result

    def has(self, topic: str, stamp: int) -> bool:
        """Whether a topic's message with a frame's stamp was heard."""
        return any(m.header.stamp == messages.to_stamp(stamp) for m in self.heard[topic])

    def answer(self, topic: str, stamp: int, timeout: float = PATIENCE):
        """The message of a topic that carries a frame's stamp."""
        wanted = messages.to_stamp(stamp)
        return self.until(
            lambda: next((m for m in self.heard[topic] if m.header.stamp == wanted), None),
            timeout,
            f"{topic} of the frame",
        )

    def state_of(self, stamp: int, timeout: float = PATIENCE) -> tuple[str, str]:
        """(state, why) that /diagnostics gives for a frame."""

        def told():
            _, _, values = self.status.get("inspector", (0, "", {}))
            return (values["state"], values["why"]) if values.get("stamp") == str(stamp) else None

        return self.until(told, timeout, "the frame's state")

    def inspect(self, image, map_from_camera, stamp: int | None = None) -> tuple[int, str, str]:
        """Show a frame until its state is told: (stamp, state, why). It may pass unseen: discovery takes a moment."""
        end, unseen = time.monotonic() + PATIENCE, 5.0
        while time.monotonic() < end:
            stamp = self.show(image, map_from_camera, stamp)
            again, unseen = time.monotonic() + unseen, 2 * unseen
            while time.monotonic() < again:
                self.executor.spin_once(timeout_sec=0.05)
                values = self.status.get("inspector", (0, "", {}))[2]
                if values.get("stamp") == str(stamp):
                    return stamp, values["state"], values["why"]
        raise AssertionError(f"the frame's state did not come within {PATIENCE} s; diagnostics: {self.status}")

    # services

    def call(self, kind, name: str, request, again_after: float = 20.0):
        """Call a service; asked again where no answer comes, for one may be lost while the two discover each other."""
        client = self.node.create_client(kind, name)
        end = time.monotonic() + PATIENCE
        try:
            self.until(client.service_is_ready, PATIENCE, name)
            while time.monotonic() < end:
                future = client.call_async(request)
                again = time.monotonic() + again_after
                while not future.done() and time.monotonic() < again:
                    self.executor.spin_once(timeout_sec=0.05)
                if future.done():
                    return future.result()
            raise AssertionError(f"{name} did not answer; diagnostics: {self.status}")
        finally:
            self.node.destroy_client(client)

    def trigger(self, name: str) -> Trigger.Response:
        return self.call(Trigger, name, Trigger.Request())

    def lifecycle(self, node: str) -> str:
        return self.call(GetState, f"{node}/get_state", GetState.Request()).current_state.label

    def change(self, node: str, transition: str) -> bool:
        request = ChangeState.Request()
        request.transition.label = transition
        return self.call(ChangeState, f"{node}/change_state", request, PATIENCE).success

    def set(self, node: str, name: str, value):
        """(accepted, reason)"""
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        result = self.call(SetParameters, f"{node}/set_parameters", request).results[0]
        return result.successful, result.reason

    def get(self, node: str, name: str):
        request = GetParameters.Request(names=[name])
        return Parameter.from_parameter_msg(
            rclpy.parameter.ParameterMsg(
                name=name, value=self.call(GetParameters, f"{node}/get_parameters", request).values[0]
            )
        ).value

    def describe(self, node: str, name: str):
        request = DescribeParameters.Request(names=[name])
        return self.call(DescribeParameters, f"{node}/describe_parameters", request).descriptors[0]
