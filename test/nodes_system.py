"""Inspector and renderer of the tiny site as processes, and a robot that shows them the survey's own pictures."""

import time

import cv2
import numpy as np
from nodes_robot import PATIENCE, Robot

from omniad_ros.core.geometry import Pose
from omniad_ros.ros import processes
from omniad_ros.site import Site

TIMEOUT = 15.0
"""Seconds that the inspector waits for the renderer here; a busy machine must not look like a dead renderer."""
REFERENCE = ("reference/image", "reference/depth", "reference/support", "reference/false_alarm")
EVERY_FRAME = ("heatmap", "heatmap/camera_info", "mask", "overlay", "pose", *REFERENCE)
"""What is published of each frame that is fully inspected."""


class System:
    """Nothing here is judged by a count of frames or by seconds: how many pass until two nodes know each other is the
    machine's affair."""

    def __init__(self, site: str, folder, environment: dict | None = None, namespace: str = processes.NAMESPACE):
        self.site, self.folder, self.namespace = site, folder, namespace
        self.environment = environment or processes.private_environment()
        self.survey = Site.open(site, verify=False).mapped
        self.robot = Robot(self.environment, self.survey.camera, namespace)
        self.nodes: dict[str, processes.NodeProcess] = {}

    def start(self, node: str, wait: bool = True, **parameters) -> None:
        if node == "inspector":
            parameters = {
                "reference_timeout": TIMEOUT, "report_directory": str(self.folder / "report"),
                "state_file": str(self.folder / "state.json"), "patrols": f"sqlite:///{self.folder / 'patrols.db'}",
                **parameters,
            }  # fmt: skip
        self.robot.spin(0.1)  # what the last process of that name said is heard before it is forgotten
        self.robot.status.pop(node, None)
        self.nodes[node] = processes.start(
            node, {"site": self.site, **parameters}, namespace=self.namespace, environment=self.environment
        )
        if wait:
            self.wait_active(node)

    def start_both(self) -> None:
        """Side by side, as each loads the site for a while."""
        for node in ("nerf_renderer", "inspector"):
            self.start(node, wait=False)
        for node in ("nerf_renderer", "inspector"):
            self.wait_active(node)

    def wait_active(self, node: str) -> None:
        def told() -> bool:
            level, _, values = self.level(node)
            return values.get("lifecycle") == "active" or level == 2 or self.nodes[node].returncode is not None

        self.robot.until(told, PATIENCE, f"{node} active")
        assert self.level(node)[2].get("lifecycle") == "active", (self.level(node), list(self.nodes[node].lines))

    def stop(self, node: str) -> int | None:
        return self.nodes[node].stop(PATIENCE)

    def level(self, node: str = "inspector"):
        return self.robot.status.get(node, (None, "", {}))

    def frame(self, index: int) -> tuple[np.ndarray, Pose]:
        index %= len(self.survey)
        return self.survey.image(index), self.survey.poses[index]

    def planted(self, index: int) -> tuple[np.ndarray, Pose]:
        """A frame that shows a ball where there is none."""
        image, pose = self.frame(index)
        place = np.median(Site.open(self.site, verify=False).sparse_points.xyz, axis=0).astype(float)
        u, v = self.survey.camera.project(pose.inverse().apply(place))
        radius = 0.12 * self.survey.camera.fx / np.linalg.norm(pose.translation - place)
        return cv2.circle(image, (round(float(u)), round(float(v))), round(radius), (255, 0, 255), -1), pose

    def track(self) -> int:
        """Show something that was added until it is a track; returns how many tracks there are then."""
        assert self.robot.trigger("inspector/reset").success
        assert self.robot.set("inspector", "threshold", 0.3)[0]
        for index in range(3 * len(self.survey)):
            self.robot.inspect(*self.planted(index))
            if int(self.level()[2]["tracks"]) > 0:
                return int(self.level()[2]["tracks"])
        raise AssertionError("no track")

    def healthy(self, start: int = 0) -> None:
        """Show good frames until one is fully inspected and everything said of it is heard."""
        states, end = [], time.monotonic() + PATIENCE
        while time.monotonic() < end:
            stamp, *state = self.robot.inspect(*self.frame(start + len(states)))
            states.append(state)
            moment = time.monotonic() + 3.0
            while state[0] == "ok" and time.monotonic() < moment:
                if all(self.robot.has(topic, stamp) for topic in EVERY_FRAME):
                    return
                self.robot.spin(0.05)
            self.robot.spin(0.2)
        raise AssertionError(f"no frame is fully inspected: {states[-12:]}, {self.robot.status}")

    def seconds(self, index: int) -> float:
        """What one frame takes now, from its image to its heatmap: the measure for what is judged by time."""
        began = time.monotonic()
        stamp = self.robot.inspect(*self.frame(index))[0]
        self.robot.answer("heatmap", stamp)
        return time.monotonic() - began

    def said(self, node: str, text: str, since: int = 0) -> list[str]:
        return [line for line in list(self.nodes[node].lines)[since:] if text in line]

    def close(self) -> None:
        processes.stop_all(list(self.nodes.values()))
        self.robot.close()
