"""Picks, part by part, the package of a ROS installation or its counterpart from PyPI.

cv_bridge, tf_transformations, tf2_ros and vision_msgs come with a ROS distribution and are absent from a pip-only
environment. Nothing else in the package asks which of the two it runs in.
"""

from __future__ import annotations

import importlib

import numpy as np

try:
    from cv_bridge import CvBridge

    _bridge = CvBridge()

    def raw_to_rgb(message) -> np.ndarray:
        """uint8 RGB (H, W, 3) of a valid sensor_msgs/Image whose rows are not padded."""
        return _bridge.imgmsg_to_cv2(message, "rgb8")

except ImportError:
    from rosbags.image import image_to_cvimage

    def raw_to_rgb(message) -> np.ndarray:
        """uint8 RGB (H, W, 3) of a valid sensor_msgs/Image whose rows are not padded."""
        return image_to_cvimage(message, "rgb8")


try:
    from tf_transformations import quaternion_from_euler
except ImportError:
    from transforms3d.euler import euler2quat

    def quaternion_from_euler(roll: float, pitch: float, yaw: float) -> np.ndarray:
        """(4,) quaternion x, y, z, w of rotations about the fixed axes x, then y, then z, in radians."""
        return np.roll(euler2quat(roll, pitch, yaw), -1)


def optional(module: str):
    """A module that only a ROS distribution has, or None."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None
