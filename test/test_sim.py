"""The simulated places: what they write can be read, masks are where pictures differ, and seeds decide everything."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.files import read_json
from omniad_ros.core.geometry import Camera
from omniad_ros.core.images import read_image
from omniad_ros.lab.conditions import Conditions, exposed, linear
from omniad_ros.lab.looks import PATTERNED, drawn_look
from omniad_ros.lab.plantroom import PlantRoom
from omniad_ros.lab.recording import SurveyRoundOptions, record_survey
from omniad_ros.lab.robot import RobotOptions, Route, Simulation
from omniad_ros.lab.tabletop import KINDS, SMALL_THINGS, Tabletop, TabletopOptions, seen, write_tabletop
from omniad_ros.recordings import read_survey

SMALL = Camera.from_fov(160, 120, np.radians(75))
FEW = TabletopOptions(width=120, height=90, views=4, per_kind=1, conditions=Conditions(noise=0.0))


@pytest.fixture(scope="module")
def room():
    world = PlantRoom(3, anomalies=True, camera=SMALL)
    yield world
    world.close()


def patrol_poses(world: PlantRoom, count: int, seconds: float):
    robot = Simulation(world, Route.patrol(world.seed))
    for _ in range(count):
        robot.step(seconds / count)
        yield robot.true_camera_pose()


def test_table_top_dataset_follows_the_layout(tmp_path: Path):
    out = write_tabletop(tmp_path / "scene", 5, FEW)
    assert len(list((out / "train/good").iterdir())) == 4
    for kind in KINDS[1:]:
        mask = read_image(out / f"ground_truth/{kind}/000_mask.png")
        assert set(np.unique(mask)) == {0, 255} and mask[..., 0].mean() < 128
        assert read_image(out / f"test/{kind}/000.png").shape == (90, 120, 3)
    assert len(read_json(out / "test_poses.json")["frames"]) == len(KINDS)
    assert len(read_survey(out)) == 4
    with pytest.raises(OmniadError, match="not empty"):
        write_tabletop(out, 5, FEW)


def test_a_seed_decides_the_table_top_scene(tmp_path: Path):
    first, again, other = (write_tabletop(tmp_path / n, s, FEW, ("moved",)) for n, s in (("a", 5), ("b", 5), ("c", 6)))
    for name in ("train/good/003.png", "ground_truth/moved/000_mask.png", "transforms.json"):
        assert (first / name).read_bytes() == (again / name).read_bytes()
        assert (first / name).read_bytes() != (other / name).read_bytes()


def test_conditions_are_in_the_pictures_and_not_in_the_truth(tmp_path: Path):
    passing = replace(FEW, views=8, conditions=Conditions(transients=0.5, noise=0.0))
    plain = write_tabletop(tmp_path / "plain", 5, replace(FEW, views=8), ("added",))
    passed = write_tabletop(tmp_path / "passed", 5, passing, ("added",))
    said = read_json(passed / "conditions.json")
    for image in (plain / "train/good").iterdir():
        name = f"train/good/{image.name}"
        changed = (np.abs(read_image(image).astype(int) - read_image(passed / name)).max(-1) > 20).mean()
        assert (changed > 0.003) == (name in said)
    assert 1 <= len(said) < 8 and all(name.startswith("train") for name in said)
    for name in ("test/added/000.png", "ground_truth/added/000_mask.png", "transforms.json"):
        assert (plain / name).read_bytes() == (passed / name).read_bytes()


def test_a_patrol_has_other_lamps_and_moves():
    scene = Tabletop(5, replace(FEW, conditions=Conditions(lamps=1.0, noise=0.0)))
    pose = scene.pose()
    lit = np.array([scene.patrol(pose).image.reshape(-1, 3).mean(0) for _ in range(6)])
    assert lit.mean(1).std() > 3 and (lit[:, 0] / lit[:, 2]).std() > 0.02  # brightness and colour
    assert np.array_equal(scene.survey(pose).image, scene.survey(pose).image)  # the survey's lamps are the same
    scene.close()
    moving = Tabletop(5, replace(FEW, conditions=Conditions(blurred=1.0, motion=(0.03, 0.05), noise=0.0)))
    sharp, blurred = moving.survey(pose).image, moving.patrol(pose).image
    assert linear(blurred).mean() == pytest.approx(linear(sharp).mean(), rel=0.03)  # light is moved, not lost
    assert sharpness(blurred) < 0.6 * sharpness(sharp)
    moving.close()


def sharpness(image: np.ndarray) -> float:
    return float(cv2.Laplacian(image, cv2.CV_32F).var())


def test_automatic_exposure_brings_pictures_to_one_brightness():
    rng = np.random.default_rng(0)
    dark, bright = (np.uint8(rng.integers(0, top, (40, 60, 3)) * [1, 0.8, 0.6]) for top in (60, 255))
    (a, b), (c, d) = ([exposed(rng, p, s).mean((0, 1)) for p in (dark, bright)] for s in (0.0, 1.0))
    assert np.abs(c - d).max() < 0.5 * np.abs(a - b).max() and c[2] / c[0] > a[2] / a[0]


def test_small_things_are_small():
    options = replace(SMALL_THINGS, width=320, height=240, seen=(0.0002, 0.0012), conditions=Conditions(noise=0.0))
    scene = Tabletop(5, options)
    for kind in ("missing", "stained"):
        picture = seen(scene, kind)[0]
        assert 15 <= np.count_nonzero(picture.mask) <= 93
    scene.close()


def test_half_of_the_seeds_have_another_look():
    looks = {seed: drawn_look(seed) == PATTERNED for seed in range(8)}
    assert [looks[s] for s in range(0, 8, 2)] == [looks[s] for s in range(1, 8, 2)] == [True, False, True, False]
    first, second = (Tabletop(5, replace(FEW, look=look)) for look in (PATTERNED, drawn_look(3)))
    assert np.abs(first.survey(first.pose()).image.astype(int) - second.survey(second.pose()).image).mean() > 20
    first.close()
    second.close()


def test_plant_room_masks_are_where_the_pictures_differ(room: PlantRoom):
    normal = PlantRoom(3, camera=SMALL)
    seen = set()
    for pose in patrol_poses(room, 8, 70.0):
        labels = room.labels(pose)
        difference = np.abs(normal.image(pose).astype(int) - room.image(pose)).max(-1)
        seen |= set(np.unique(labels)) - {0}
        if (labels > 0).any():
            assert (difference[labels > 0] > 0).mean() > 0.9
        assert (difference[labels == 0] > 40).mean() < 0.03  # shadows of what changed, and antialiased rims
    normal.close()
    assert len(seen) == len(room.anomalies) == 5
    assert not normal.anomalies


def test_anomalies_are_of_different_kinds_and_apart(room: PlantRoom):
    assert len({anomaly.kind for anomaly in room.anomalies}) == 5
    for anomaly in room.anomalies:
        for place in anomaly.places:
            assert np.abs(place.center[:2]).max() < 2.2 and 0 <= place.center[2] < 1.6
            assert max(place.size) > 0.12 and place.distance(place.center) == 0.0
            others = [p.center for a in room.anomalies if a is not anomaly for p in a.places]
            assert np.linalg.norm(np.subtract(others, place.center), axis=1).min() > 0.7


def test_odometry_drifts_as_wheels_do(room: PlantRoom):
    errors = []
    for seed in range(3):
        robot = Simulation(room, Route.survey(seed), RobotOptions(speed=0.4), seed=seed)
        start, length, last = robot.true_base_pose(), 0.0, robot.true_base_pose()
        while not robot.finished:
            robot.step(0.1)
            now = robot.true_base_pose()
            length, last = length + last.distance(now)[0], now
            assert np.linalg.norm(robot.route.points - now.translation[:2], axis=1).min() < 0.1
        errors.append((start @ robot.odometry()[0]).distance(now)[0] / length)
    assert max(errors) < 0.04
    assert min(errors) > 0.0005


def test_survey_can_be_read_and_knows_the_truth(tmp_path: Path):
    out = record_survey(3, tmp_path / "survey", SurveyRoundOptions(Camera.from_fov(64, 48, np.radians(75))))
    survey = read_survey(out)
    truth = read_json(out / "true_poses.json")["frames"]
    assert 80 <= len(survey) == len(truth) <= 125
    transforms = read_json(out / "transforms.json")
    assert [f["file_path"] for f in transforms["frames"]] == [f["file_path"] for f in truth]
    places = np.array([f["transform_matrix"] for f in truth])[:, :3, 3]
    assert np.linalg.norm(np.diff(places, axis=0), axis=1).max() < 0.5
    assert np.linalg.norm(places[-20:, None] - places[None, :60], axis=-1).min(1).max() < 0.7  # the loop is closed
