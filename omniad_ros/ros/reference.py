"""Asks the renderer node for reference views: publishes a request, waits for all parts of the answer with the same stamp.

After an unanswered request the next ones hardly wait, so a dead renderer costs no time; any answer, even a late one,
restores the full patience. Just after the activation the two may not have found each other yet: then the request is
repeated, and waited for somewhat longer.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from functools import partial

import numpy as np
from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.core.images import resized
from omniad_ros.recordings import messages as decoding
from omniad_ros.reference import ReferenceView
from omniad_ros.reference.photographs import PHOTOGRAPHS, has_photographs
from omniad_ros.ros import messages
from omniad_ros.ros.inspector_parameters import SMALLEST
from omniad_ros.ros.managed import INSTANCE, OUTPUT, ManagedNode
from omniad_ros.ros.speakers import Speakers
from omniad_ros.site import Site

ANSWERS_ON, REFERENCE = "answers on", "reference"
"""What the renderer says of itself in /diagnostics."""
TOPICS = {
    "image": "reference/image", "depth": "reference/depth", "support": "reference/support",
    "false_alarm": "reference/false_alarm", "detail": "reference/detail",
}  # fmt: skip
"""By the parts of a `ReferenceView`."""
DETAIL, ONE_CHANNEL = "detail", ("support", "false_alarm")


class ReferenceClient:
    """Makes reference views for an `Inspector`: asks the node ``nerf_renderer``. Call it from one thread, not the executor's.

    A view whose detail does not come in time is given without, and the next ones do not wait for theirs until one has come.
    """

    IMPATIENT = 0.1
    DISCOVERY = 3.0
    """Seconds after `open` in which a renderer that has not answered yet may simply not have been found yet."""
    REPEAT = 0.5

    def __init__(self, node: ManagedNode, site: Site, timeout: float, detailed: bool = True, prefix: str = ""):
        """prefix: before the topics' names, of one of several cameras."""
        self.node, self.timeout = node, timeout
        self.foreign = False
        """The renderer that answers has another site's field or photographs."""
        self.refusal = ""
        """Why the newest answer was not used; empty where it was."""
        self._renderers = Speakers()
        self._digest, self._topics = reference_digest(site), reference_topics(site, prefix)
        if not detailed:
            self._topics.pop(DETAIL, None)
        self.stamp = 0
        """Nanoseconds; the stamp of the next request."""
        self.answered = self.unanswered = 0
        self.patient = self._detail_comes = True
        self._met = self._cancelled = False
        self._opened = -self.DISCOVERY
        self._arrived = threading.Condition()
        self._parts: dict[str, object] = {}
        self._request = node.create_lifecycle_publisher(PoseStamped, f"{prefix}reference/request", OUTPUT)
        self._answers = [
            node.create_subscription(Image, topic, partial(self._take, part), OUTPUT)
            for part, topic in self._topics.items()
        ]

    @property
    def renderer_found(self) -> bool:
        return self._request.get_subscription_count() > 0

    @property
    def discovering(self) -> bool:
        return not self._met and time.monotonic() - self._opened < self.DISCOVERY

    def destroy(self) -> None:
        self.cancel()
        self.node.destroy_all(self._request, *self._answers)

    def open(self) -> None:
        """Undo `cancel`; the renderer is to be found anew."""
        self._opened = time.monotonic()
        self._met = self._cancelled = False
        self.patient = self._detail_comes = True

    def cancel(self) -> None:
        """Let a waiting call, and all to come, return at once without a view."""
        with self._arrived:
            self._cancelled = True
            self._arrived.notify_all()

    def __call__(self, camera: Camera, pose: Pose, detail: Camera | None = None) -> ReferenceView | None:
        """The reference view at the camera's size, with its detail at that of ``detail`` where that is given and has come too; or
        None where no answer came in time."""
        with self._arrived:
            self._parts = {}
        if self._cancelled or self.foreign or not (self.renderer_found or self.discovering):
            self.unanswered += 1
            self.refusal = ""
            return None
        request = messages.pose_stamped(
            pose, Header(stamp=messages.to_stamp(self.stamp), frame_id=self.node.values.map_frame)
        )
        needed = self._topics.keys() - {DETAIL}
        with_detail = detail is not None and DETAIL in self._topics and self._detail_comes
        parts = self._ask(request, needed | {DETAIL} if with_detail else needed)
        if not needed <= parts.keys():
            self.unanswered += 1
            self.patient, self.refusal = False, ""
            return None
        self.refusal = _refusal(parts, camera)
        if self.refusal:
            self.node.warn("reference shape", self.refusal)
            self.unanswered += 1
            return None
        self.answered += 1
        if with_detail:
            self._detail_comes = DETAIL in parts
        if detail is None:
            parts.pop(DETAIL, None)
        elif DETAIL in parts:
            parts[DETAIL] = resized(parts[DETAIL], detail.width, detail.height)
        return ReferenceView(**parts).resized(camera.width, camera.height)

    def _ask(self, request: PoseStamped, wanted: set[str]) -> dict:
        """Publish the request and wait for the ``wanted`` parts; what has been answered in time, by part."""
        deadline = time.monotonic() + (self.timeout if self.patient else self.IMPATIENT)
        if not self._met:
            deadline = max(deadline, self._opened + self.DISCOVERY)
        ask_at = 0.0
        with self._arrived:
            while not wanted <= self._parts.keys() and not self._cancelled and (now := time.monotonic()) < deadline:
                if now >= ask_at and self.renderer_found:
                    self._request.publish(request)
                    ask_at = now + self.REPEAT if not self._met else deadline
                self._arrived.wait(min(deadline, max(ask_at, now + 0.05)) - now)
            return dict(self._parts)

    def _take(self, part: str, message: Image) -> None:
        try:
            stamp = decoding.check_stamp(message.header)
            array = decoding.depth_from_image(message) if part == "depth" else decoding.image_to_rgb(message)
        except decoding.MessageDefect as defect:
            self.node.warn(f"reference/{part} {defect.field}", f"reference/{part} is ignored: {defect}")
            return
        with self._arrived:
            self.patient = self._met = True
            self._detail_comes |= part == DETAIL
            if stamp == self.stamp:
                self._parts[part] = np.ascontiguousarray(array[..., 0]) if part in ONE_CHANNEL else array
                self._arrived.notify_all()

    def hear(self, values: dict) -> None:
        """What a node says of itself in /diagnostics."""
        if self._answers[0].topic_name in values.get(ANSWERS_ON, "").split() and values.get(REFERENCE):
            self.foreign = values[REFERENCE] != self._digest
            self._renderers.heard(values.get(INSTANCE))

    @property
    def complaint(self) -> str:
        """One sentence where the renderer's views are not used; else empty."""
        if self.foreign:
            return "nerf_renderer has another site than this inspector; its views are not used"
        return self.refusal

    def doubt(self) -> str:
        """One sentence where more than one renderer answers; else empty."""
        if self._renderers.several:
            return f"more than one nerf_renderer answers on {self._answers[0].topic_name}; end all but one"
        return ""


def reference_topics(site: Site, prefix: str = "") -> dict[str, str]:
    """The topics, with this before their names, on which the parts of a `ReferenceView` of this site are published, the image first: without photographs it is
    not redrawn, and nothing bears it out; without the camera's size there is no detail."""
    lacking = set() if has_photographs(site) else {*ONE_CHANNEL, DETAIL}
    if site.detail_camera(site.mapped.camera) is None:
        lacking.add(DETAIL)
    return {part: prefix + topic for part, topic in TOPICS.items() if part not in lacking}


def reference_digest(site: Site) -> str:
    """Names what a site's reference views are made of: renderer and inspector must have the same, wherever their copies lie."""
    made_of = (f"{site.folder('radiance')}/", f"{site.folder('detector')}/{PHOTOGRAPHS}")
    files = {name: digest for name, digest in site.manifest["files"].items() if name.startswith(made_of)}
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:16]


def _refusal(parts: dict[str, np.ndarray], camera: Camera) -> str:
    """One sentence where the parts of an answer cannot be views of this camera: they may be smaller, but not of another shape, nor
    tiny, and all but the detail are of one size."""
    sizes = {part: array.shape[:2] for part, array in parts.items()}
    least = min(SMALLEST, max(camera.width, camera.height))
    alike = len({size for part, size in sizes.items() if part != DETAIL}) == 1
    if alike and all(_of_shape(array, camera) and max(array.shape[:2]) >= least for array in parts.values()):
        return ""
    said = " and ".join(dict.fromkeys(f"{width}x{height}" for height, width in sizes.values()))
    return f"reference views are refused: {said} is no view of a camera of {camera.width}x{camera.height}"


def _of_shape(array: np.ndarray, camera: Camera) -> bool:
    height, width = array.shape[:2]
    return abs(height - width * camera.height / camera.width) <= max(1.5, 0.02 * height)
