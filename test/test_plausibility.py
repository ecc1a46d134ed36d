"""What a frame seems to show is not said of the place where it is the camera's, the odometry's or the map's fault."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from omniad_ros.core.geometry import Pose
from omniad_ros.core.images import list_images, read_image
from omniad_ros.patrol.pipeline import ANOMALOUS, UNCOVERED, InspectionOptions, Inspector
from omniad_ros.patrol.session import PatrolSession
from omniad_ros.recordings.source import SECOND, Frame
from omniad_ros.site import Site


@pytest.fixture(scope="module")
def place(tiny_site):
    """The site, and an inspector of its frames one by one."""
    site = Site.open(tiny_site)
    return site, Inspector(site, options=InspectionOptions(evidence=False, tracking=False))


def grey(image):
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def hand(image, share=0.5):
    covered = image.copy()
    width = round(share * image.shape[1])
    covered[:, :width] = np.clip(np.random.default_rng(0).normal((150, 110, 90), 4, (len(image), width, 3)), 0, 255)
    return covered


def torn(image, before):
    half = len(image) // 2
    return np.vstack([before[:half], image[half:]])


FAULTS = {
    "red and blue swapped": (lambda now, before, camera: (now[..., ::-1].copy(), camera), "swapped"),
    "focal length": (lambda now, before, c: (now, replace(c, fx=1.08 * c.fx, fy=1.08 * c.fy)), "camera_info"),
    "fx alone": (lambda now, before, c: (now, replace(c, fx=0.92 * c.fx)), "camera_info: fx|camera_info is not"),
    "optical centre": (lambda now, before, c: (now, replace(c, cx=c.cx + 0.08 * c.width)), "camera_info"),
    "torn": (lambda now, before, camera: (torn(now, before), camera), "torn"),
    "hand": (lambda now, before, camera: (hand(now), camera), "lens"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_camera_is_said_and_nothing_of_the_place(place, fault):
    (site, inspector), (spoil, words) = place, FAULTS[fault]
    said = []
    for index in range(0, len(site.mapped), 6):
        image, camera = spoil(site.mapped.image(index), site.mapped.image(index - 5), site.mapped.camera)
        inspection = inspector.inspect(image, camera, site.mapped.poses[index], float(index))
        said.append(inspection.message)
        if inspection.state == "ok":
            assert (inspection.mask == ANOMALOUS).sum() <= 0.05 * (inspection.mask != UNCOVERED).sum(), index
        else:
            assert (inspection.mask == UNCOVERED).all() and not inspection.detections and not inspection.heatmap.any()
    assert sum(any(word in message for word in words.split("|")) for message in said) >= 0.6 * len(said), said


def test_another_place_is_not_an_anomalous_one(place, tmp_path):
    from omniad_ros.lab import apart
    from omniad_ros.lab.tabletop import TabletopOptions

    site, inspector = place
    options = TabletopOptions(width=160, height=120, views=8, per_kind=0)
    other = apart("tabletop", "write_tabletop", tmp_path / "other", 8, options)
    for path in list_images(other / "train"):
        for prior in (None, site.mapped.poses[0]):
            inspection = inspector.inspect(read_image(path), site.mapped.camera, prior)
            assert inspection.state != "ok" and not inspection.detections, inspection.localization


def test_true_anomalies_are_believed_also_of_a_monochrome_camera(place, tiny_dataset):
    site, inspector = place
    found = {"colour": [], "monochrome": []}
    for path in sorted((tiny_dataset / "test").glob("*/*.png")):
        mask = tiny_dataset / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
        planted = cv2.imread(str(mask), 0) > 0 if mask.is_file() else np.zeros((120, 160), bool)
        for kind, image in (("colour", read_image(path)), ("monochrome", grey(read_image(path)))):
            inspection = inspector.inspect(image, site.mapped.camera, None)
            assert inspection.state == "ok", (path, kind, inspection.message)
            marked = inspection.mask == ANOMALOUS
            found[kind].append(((marked & planted).sum(), marked.sum(), planted.sum()))
    f1 = {
        kind: 2 * hit / (marked + planted)
        for kind, (hit, marked, planted) in ((k, np.sum(v, axis=0)) for k, v in found.items())
    }
    assert f1["monochrome"] > 0.4 * f1["colour"] > 0.2, f1


def drive(site, spoil=lambda image: image, odometry=lambda index: index, shown=lambda index: index, count=10):
    """The states and messages of a session that is driven along a line of its own: past survey images in order of nearness."""
    session = PatrolSession(Inspector(site), site.survey)
    order, poses = [0], site.mapped.poses
    while len(order) < count:
        left = set(range(len(poses))) - set(order)
        order.append(min(left, key=lambda i: poses[order[-1]].distance(poses[i])[0]))
    said = []
    for number in range(count):
        stamp = number * SECOND
        session.add_odometry(stamp, poses[order[odometry(number)]])
        frame = Frame(
            stamp, f"{number}", spoil(site.mapped.image(order[shown(number)])), site.mapped.camera, Pose.identity()
        )
        said.append(session.inspect(frame, wait=False).inspection)
    return said


def test_odometry_that_stands_while_the_camera_moves_is_said(tiny_site):
    site = Site.open(tiny_site)
    said = drive(site, odometry=lambda number: 0)
    assert "odometry stands" in said[-1].message and said[-1].state == "degraded"
    assert (said[-1].mask != UNCOVERED).any(), "the picture is sound"
    assert all(inspection.state == "ok" for inspection in drive(site))


def test_a_picture_that_stays_while_odometry_moves_tells_nothing(tiny_site):
    rng = np.random.default_rng(0)

    def noisy(image):
        return np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)

    said = drive(Site.open(tiny_site), noisy, shown=lambda number: min(number, 2))
    assert all("stays" in inspection.message and (inspection.mask == UNCOVERED).all() for inspection in said[-3:])


def test_a_drop_on_the_lens_is_told_from_the_place(tiny_site):
    def dropped(image):
        image = image.copy()
        cv2.circle(image, (70, 60), 14, (40, 60, 200), -1)
        return image

    said = drive(Site.open(tiny_site), dropped)
    assert "lens" in said[-1].message and said[-1].state == "degraded", said[-1].message
    assert (said[-1].mask[55:65, 65:75] != ANOMALOUS).all()


def test_a_night_is_not_a_dirty_lens(tiny_site):
    said = drive(Site.open(tiny_site), lambda image: (0.1 * image).astype(np.uint8), count=2)
    assert all("dark" in inspection.message or "black" in inspection.message for inspection in said)
