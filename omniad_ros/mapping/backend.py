"""Who finds keypoints and solves for poses: pycolmap, or OpenCV on machines that pycolmap has no package for."""

from __future__ import annotations

try:
    from omniad_ros.mapping import by_pycolmap as backend
except ModuleNotFoundError as error:
    if error.name != "pycolmap":
        raise
    from omniad_ros.mapping import by_opencv as backend

__all__ = ["ABSENT", "backend"]

ABSENT = "which is not installed here: build the site on a machine that has it ('pip install -r requirements.txt')"
