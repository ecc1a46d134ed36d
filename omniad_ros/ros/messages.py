"""Arrays and poses → messages. What comes in is decoded by `omniad_ros.recordings.messages`."""

from __future__ import annotations

import array

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from geometry_msgs.msg import Point, PoseStamped, PoseWithCovarianceStamped, Quaternion, TransformStamped, Vector3
from geometry_msgs.msg import Pose as PoseMessage
from nav_msgs.msg import OccupancyGrid
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from std_msgs.msg import Header

from omniad_ros.core.geometry import BODY_FROM_OPTICAL, Camera, Pose
from omniad_ros.patrol.inspected import FloorGrid
from omniad_ros.ros import counterparts


def to_stamp(nanoseconds: int) -> Time:
    return Time(sec=nanoseconds // 1_000_000_000, nanosec=nanoseconds % 1_000_000_000)


def image_message(image: np.ndarray, header: Header) -> Image:
    """sensor_msgs/Image of uint8 (H, W, 3) as rgb8, uint8 (H, W) as mono8, or float32 (H, W) as 32FC1."""
    encoding = "32FC1" if image.dtype == np.float32 else "rgb8" if image.ndim == 3 else "mono8"
    message = counterparts.to_image(image, encoding)
    message.header = header
    return message


def camera_info_message(camera: Camera, header: Header) -> CameraInfo:
    """camera_info of a camera without distortion."""
    k = camera.opencv_matrix()
    p = np.hstack([k, np.zeros((3, 1))])
    return CameraInfo(
        header=header, height=camera.height, width=camera.width, distortion_model="plumb_bob", d=[0.0] * 5,
        k=k.reshape(-1), r=np.eye(3).reshape(-1), p=p.reshape(-1),
    )  # fmt: skip


def pose_message(pose: Pose) -> PoseMessage:
    x, y, z, w = pose.quaternion()
    tx, ty, tz = pose.translation
    position = Point(x=float(tx), y=float(ty), z=float(tz))
    return PoseMessage(position=position, orientation=Quaternion(x=float(x), y=float(y), z=float(z), w=float(w)))


def pose_stamped(pose: Pose, header: Header) -> PoseStamped:
    return PoseStamped(header=header, pose=pose_message(pose))


def pose_with_covariance(pose: Pose, covariance: np.ndarray, header: Header) -> PoseWithCovarianceStamped:
    """covariance: (6, 6), order x y z and rotations about x y z."""
    message = PoseWithCovarianceStamped(header=header)
    message.pose.pose = pose_message(pose)
    message.pose.covariance = np.ascontiguousarray(covariance, dtype=np.float64).reshape(36)
    return message


def transform_message(pose: Pose, header: Header, child_frame_id: str) -> TransformStamped:
    """parent_from_child, for /tf."""
    message = TransformStamped(header=header, child_frame_id=child_frame_id)
    x, y, z = map(float, pose.translation)
    message.transform.translation = Vector3(x=x, y=y, z=z)
    message.transform.rotation = pose_message(pose).orientation
    return message


def extrinsics(xyz, rpy) -> Pose:
    """``base_from_camera`` (optical) of a camera at ``xyz`` whose body (x forward, z up) is turned by ``rpy`` radians."""
    body = Pose.from_quaternion(xyz, counterparts.quaternion_from_euler(*rpy))
    return body @ Pose(BODY_FROM_OPTICAL, np.zeros(3))


# ---- the rest


def points_message(xyz: np.ndarray, rgb: np.ndarray, header: Header) -> PointCloud2:
    """PointCloud2 of points (P, 3) with colours (P, 3) uint8, as RViz draws them."""
    cloud = np.zeros(len(xyz), dtype=[("xyz", "<f4", 3), ("rgb", "<u4")])
    red, green, blue = rgb.astype(np.uint32).T
    cloud["xyz"], cloud["rgb"] = xyz, red << 16 | green << 8 | blue
    fields = [PointField(name=n, offset=4 * i, datatype=PointField.FLOAT32, count=1) for i, n in enumerate("xyz")]
    fields.append(PointField(name="rgb", offset=12, datatype=PointField.UINT32, count=1))
    return PointCloud2(
        header=header, height=1, width=len(cloud), fields=fields, is_bigendian=False, point_step=16,
        row_step=16 * len(cloud), data=array.array("B", cloud.tobytes()), is_dense=bool(np.isfinite(xyz).all()),
    )  # fmt: skip


def grid_message(grid: FloorGrid, header: Header) -> OccupancyGrid:
    """nav_msgs/OccupancyGrid of percent, -1 where nothing is known."""
    message = OccupancyGrid(header=header)
    message.info.map_load_time = header.stamp
    message.info.resolution = float(grid.cell)
    message.info.height, message.info.width = grid.values.shape
    message.info.origin = pose_message(Pose(np.eye(3), np.array([*grid.low, 0.0])))
    message.data = array.array("b", grid.values.tobytes())
    return message


def status_message(name: str, hardware: str, level: int, message: str, values: dict) -> DiagnosticStatus:
    """One line of /diagnostics; level 0 ok, 1 warning, 2 error, 3 stale."""
    pairs = [
        KeyValue(key=key, value=f"{value:.1f}" if isinstance(value, float) else str(value))
        for key, value in values.items()
    ]
    return DiagnosticStatus(level=bytes([level]), name=name, message=message, hardware_id=hardware, values=pairs)
