"""The parameters of the node ``inspector``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.geometry import Pose
from omniad_ros.ros import counterparts
from omniad_ros.ros.parameters import SITE, parameter
from omniad_ros.site import DETAIL_SIDE, MAP_FRAME

REFERENCES = ("renderer", "inspector", "none")
SMALLEST = 32
"""Pixels: a heatmap of a smaller frame shows nothing."""


@dataclass(frozen=True)
class CameraParameters:
    """Of one camera; of a rig of several they stand below the camera's name."""

    rectified: bool = parameter(False, "The images are already rectified: use camera_info's P instead of K and D.")
    camera_frame: str = parameter("", "Optical frame of the camera; empty for whatever the images say.")
    camera_xyz: tuple = parameter(
        (0.0, 0.0, 0.0), "Place of the camera on the robot in metres, where /tf does not say.", length=3
    )
    camera_rpy: tuple = parameter(
        (0.0, 0.0, 0.0), "Roll, pitch and yaw in radians of the camera's body (x forward, z up) on the robot.", length=3
    )


@dataclass(frozen=True)
class InspectorParameters(CameraParameters):
    """What stands in config/inspect.yaml; the descriptions are what ``ros2 param describe`` shows."""

    site: str = parameter("", SITE, runtime=True)
    autostart: bool = parameter(True, "Configure and activate at the start; false where a lifecycle manager does it.")
    enabled: bool = parameter(True, "Inspect frames; false lets them pass unseen.", runtime=True)
    threshold: float = parameter(
        0.0, "Probability from which a pixel is anomalous; 0 for the site's calibrated one.", minimum=0.0, maximum=1.0,
        runtime=True,
    )  # fmt: skip
    false_alarm_rate: float = parameter(
        0.0, "Share of normal frames with a false region for which the threshold is set; 0 for the site's own. "
        "'threshold' goes first.", minimum=0.0, maximum=0.99, runtime=True,
    )  # fmt: skip
    evidence: bool = parameter(
        True, "Weigh each frame with what earlier frames showed of the same place; false judges each frame alone."
    )
    max_rate: float = parameter(
        0.0, "Frames inspected a second at most; 0 for as many as possible.", minimum=0.0, maximum=1000.0, runtime=True
    )
    reference: str = parameter(
        "renderer",
        f"Who renders the reference view: {', '.join(REFERENCES)} (the node nerf_renderer, this process, nobody).",
    )
    reference_timeout: float = parameter(
        2.0, "Seconds to wait for the renderer's answer; then the frame is judged without.", minimum=0.01, maximum=60.0,
        runtime=True,
    )  # fmt: skip
    longest_side: int = parameter(
        0, "Pixels of the longer side at which frames are compared; 0 for the site's.", minimum=0, maximum=4096
    )
    detail_side: int = parameter(
        DETAIL_SIDE, "Pixels of the longer side at which frames are looked at a second time, where they and the survey are "
        "as large; 0 for never. As nerf_renderer has it.", minimum=0, maximum=4096,
    )  # fmt: skip
    whole_frame: bool = parameter(
        False, "Look a second time at the whole frame, at several times the cost; false: where it pays.", runtime=True
    )
    smallest_thing: float = parameter(
        0.0, "Pixels across, of the second look, under which a region is left out; 0 for the site's.", minimum=0.0,
        maximum=1000.0, runtime=True,
    )  # fmt: skip
    smallest_extent: float = parameter(
        0.0, "Metres across under which a region is left out, by the reference's depth.", minimum=0.0, maximum=100.0,
        runtime=True,
    )  # fmt: skip
    cameras: str = parameter(
        "", "Names of the robot's cameras, with spaces between; each has its topics in a namespace of its own (NAME/image, NAME/heatmap "
        "...). Empty for one camera, without a name. As nerf_renderer has it.",
    )  # fmt: skip
    compressed: bool = parameter(
        False, "Subscribe image/compressed instead of image; the latter may be remapped to either of the two names."
    )
    map_frame: str = parameter(MAP_FRAME, "Name of the map's frame in all that is published; as nerf_renderer has it.")
    odom_frame: str = parameter("", "Frame of the odometry; empty for whatever the odometry says.")
    base_frame: str = parameter(
        "", "Frame of the robot; empty for the odometry's child_frame_id, base_link where that is empty too."
    )
    extrinsics_from_tf: bool = parameter(
        True, "Take the camera's place on the robot from /tf where tf2_ros is installed."
    )
    use_initial_pose: bool = parameter(False, "Begin at initial_pose; false finds the first frame from the map alone.")
    initial_pose: tuple = parameter(
        (0.0, 0.0, 0.0), "x, y in metres and yaw in radians of the robot in the map.", length=3
    )
    publish_tf: bool = parameter(True, "Publish map -> odom on /tf where tf2_ros is installed and no other node does.")
    transform_tolerance: float = parameter(
        0.5, "Seconds by which map -> odom is stamped ahead of the newest odometry, for who asks between two of them.",
        minimum=0.0, maximum=10.0,
    )  # fmt: skip
    stale_after: float = parameter(
        1.0,
        "Seconds without image or odometry after which the state is stale.",
        minimum=0.1,
        maximum=3600.0,
        runtime=True,
    )
    patrols: str = parameter(
        "",
        "Database that keeps the patrols: empty for patrols.db beside the site, a URL as SQLAlchemy has it, or 'none'.",
    )
    state_file: str = parameter("", "File in which tracks survive a restart; empty to start clean.")
    report_directory: str = parameter("omniad_report", "Folder in which ~/save_report writes.")

    def check(self) -> None:
        """Raises OmniadError where the values contradict each other."""
        if not self.site:
            raise OmniadError("parameter site is empty; give it the folder of a site built by 'omniad build'")
        if self.reference not in REFERENCES:
            raise OmniadError(f"parameter reference is '{self.reference}', must be one of {', '.join(REFERENCES)}")
        if not self.map_frame:
            raise OmniadError("parameter map_frame is empty; it names the map in what is published, as 'map'")
        camera_names(self.cameras)
        if 0 < self.longest_side < SMALLEST:
            raise OmniadError(
                f"parameter longest_side is {self.longest_side}, must be 0 (the site's) or at least {SMALLEST}"
            )

    def initial_map_from_base(self) -> Pose | None:
        if not self.use_initial_pose:
            return None
        x, y, yaw = self.initial_pose
        return Pose.from_quaternion((x, y, 0.0), counterparts.quaternion_from_euler(0.0, 0.0, yaw))

    def least_period(self) -> float:
        """Seconds from one inspected frame to the next, at least."""
        return 1.0 / self.max_rate if self.max_rate > 0 else 0.0

    def effective_threshold(self, detector) -> float:
        """The threshold these parameters ask for. Raises OmniadError for a rate that the detector does not know."""
        if self.threshold > 0:
            return self.threshold
        return detector.threshold_at(self.false_alarm_rate) if self.false_alarm_rate > 0 else detector.threshold


def camera_names(cameras: str) -> list[str]:
    """The names in a parameter ``cameras``; one empty name for the one camera of a robot that has one.

    Raises OmniadError where one can be no part of a topic's name, or stands twice.
    """
    names = cameras.replace(",", " ").split()
    for name in names:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            raise OmniadError(f"parameter cameras names a camera '{name}'; names are letters, digits and underscores")
        if names.count(name) > 1:
            raise OmniadError(f"parameter cameras names the camera {name} twice")
    return names or [""]
