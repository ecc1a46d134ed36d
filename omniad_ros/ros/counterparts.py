"""Picks, part by part, the package of a ROS installation or its counterpart from PyPI.

cv_bridge, tf_transformations, tf2_ros and vision_msgs come with a ROS distribution and are absent from a pip-only
environment. Nothing else in the package asks which of the two it runs in. Messages are made here only: what comes in is read
by one decoder, `omniad_ros.recordings.messages`, with either.
"""

from __future__ import annotations

import array
import importlib
import sys

import numpy as np
from sensor_msgs.msg import Image

try:
    from cv_bridge import CvBridge

    _bridge = CvBridge()

    def to_image(pixels: np.ndarray, encoding: str) -> Image:
        """sensor_msgs/Image of pixels (H, W[, C]), without a header."""
        return _bridge.cv2_to_imgmsg(pixels, encoding)

except ImportError:

    def to_image(pixels: np.ndarray, encoding: str) -> Image:
        """sensor_msgs/Image of pixels (H, W[, C]), without a header."""
        height, width = pixels.shape[:2]
        # an array.array is taken as it is; any other sequence would be checked byte by byte
        data = array.array("B", np.ascontiguousarray(pixels).tobytes())
        return Image(
            height=height, width=width, encoding=encoding, is_bigendian=int(sys.byteorder == "big"),
            step=len(data) // height, data=data,
        )  # fmt: skip


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
