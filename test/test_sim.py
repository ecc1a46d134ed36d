"""The simulated places: what they write can be read, masks are where pictures differ, and seeds decide everything."""

from pathlib import Path

import numpy as np
import pytest

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.files import read_json
from omniad_ros.core.geometry import Camera
from omniad_ros.core.images import read_image
from omniad_ros.lab.plantroom import PlantRoom
from omniad_ros.lab.recording import SurveyRoundOptions, record_survey
from omniad_ros.lab.robot import RobotOptions, Route, Simulation
from omniad_ros.lab.tabletop import KINDS, TabletopOptions, write_tabletop
from omniad_ros.recordings import read_survey

SMALL = Camera.from_fov(160, 120, np.radians(75))
FEW = TabletopOptions(width=120, height=90, views=4, per_kind=1, noise=0.0)


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
