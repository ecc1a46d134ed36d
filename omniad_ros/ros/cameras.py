"""The robot's cameras as the inspector has them: what comes in from each, and who renders for it."""

from __future__ import annotations

from rclpy.node import Node

from omniad_ros.core.feedback import OmniadError
from omniad_ros.ros.inputs import Input
from omniad_ros.ros.inspector_parameters import CameraParameters, InspectorParameters, camera_names
from omniad_ros.ros.live import LiveFrames
from omniad_ros.ros.parameters import declare
from omniad_ros.ros.reference import ReferenceClient


class NodeCamera:
    """One camera. name: empty where the robot has one; prefix: before the names of its topics; live: while the node is active;
    reference: from its configuration to its cleanup, None where nobody is asked."""

    def __init__(self, name: str, values: CameraParameters):
        self.name, self.values = name, values
        self.prefix = f"{name}/" if name else ""
        self.inputs = {part: Input(f"{name} {part}".lstrip()) for part in ("image", "camera_info")}
        self.live: LiveFrames | None = None
        self.reference: ReferenceClient | None = None

    def complaint(self, patience: float) -> str:
        """One phrase where nothing usable comes from it; else empty."""
        waits = {"image": patience}
        if self.live.camera is None:
            waits["camera_info"] = 0.0
        return next(filter(None, (self.inputs[part].complaint(seconds) for part, seconds in waits.items())), "")


def cameras_of(node: Node, values: InspectorParameters) -> list[NodeCamera]:
    """The cameras that the parameters name; those of a rig have parameters of their own, below their names. Raises OmniadError."""
    names = camera_names(values.cameras)
    if names == [""]:
        return [NodeCamera("", values)]
    if values.camera_frame or any(values.camera_xyz) or any(values.camera_rpy):
        raise OmniadError(
            f"with several cameras, give {names[0]}.camera_frame, {names[0]}.camera_xyz and so on in place of camera_frame, camera_xyz"
        )
    own = CameraParameters(rectified=values.rectified)
    return [NodeCamera(name, declare(node, own, prefix=f"{name}.")) for name in names]
