"""Things planted into photographs stand at one place, are hidden by what is before them, and leave the other pictures alone; the
suite that measures on them keeps what is held out apart."""

import subprocess
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.files import read_json, write_json
from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.core.images import read_image, write_image
from omniad_ros.detection.pictures import texture
from omniad_ros.evaluation import read_dataset
from omniad_ros.evaluation.metrics import SIZES
from omniad_ros.lab import suite
from omniad_ros.lab.composite import CompositeOptions, write_composite
from omniad_ros.lab.planted import Thing, View, plant
from omniad_ros.site import PosedImages, write_transforms

CAMERA = Camera.from_fov(160, 120, 1.0)
UP = np.array([0.0, 0.0, 1.0])
FLOOR = np.zeros(3)


def depth_of_floor(pose: Pose) -> np.ndarray:
    """Depth (H, W) of the plane z = 0."""
    return (-pose.translation[2] / (CAMERA.directions() @ pose.rotation.T)[..., 2]).astype(np.float32)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """A patterned floor of 2 m, photographed from 27 poses, with depth."""
    folder = tmp_path_factory.mktemp("floor")
    for name in ("images", "depth"):
        (folder / name).mkdir()
    floor, poses, names = cv2.GaussianBlur(texture(np.random.default_rng(1), 500, 500), (0, 0), 4), [], []
    for index, angle in enumerate(np.linspace(0, 4, 27)):
        pose = Pose.look_at((0.9 * np.cos(angle), 0.9 * np.sin(angle), 1.0), (0, 0, 0))
        depth = depth_of_floor(pose)
        place = pose.apply(CAMERA.directions() * depth[..., None]) * 250 + 250
        image = cv2.remap(floor, *np.moveaxis(place[..., :2].astype(np.float32), -1, 0), cv2.INTER_LINEAR)
        poses.append(pose)
        names.append(f"images/{index:03d}.png")
        write_image(folder / names[-1], image)
        cv2.imwrite(str(folder / f"depth/{index:03d}.png"), np.uint16(depth * 1000))
    write_transforms(folder / "transforms.json", PosedImages(CAMERA, folder, tuple(names), tuple(poses)))
    return folder


def test_composites_are_a_dataset_and_stand_still(photographs: Path, tmp_path: Path):
    options = CompositeOptions(views=17, patrol=10, places=1, pixels=(60.0, 80.0), least_seen=5, visible=10)
    out = write_composite(tmp_path / "made", photographs, 0, options)
    dataset = read_dataset(out)
    assert {frame.kind for frame in dataset.frames} == {"good", "thing", "picture", "stain"}
    assert len(read_json(out / "transforms.json")["frames"]) == 17 and len(dataset.frames) == 10
    places: dict[str, list] = {}
    for frame in dataset.frames:
        image = read_image(frame.image).astype(int)
        others = [read_image(p).astype(int) for p in (photographs / "images").iterdir()]
        difference = min((np.abs(image - other).max(-1) for other in others), key=np.mean)
        if frame.normal:
            assert difference.mean() < 6  # JPEG
            continue
        mask = read_image(frame.mask)[..., 0] > 0
        assert difference[mask].mean() > 3 * difference[~mask].mean()
        whole = not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())
        if whole and frame.kind != "thing":  # what stands up is not where the floor behind it is
            points = frame.pose.apply(CAMERA.directions() * depth_of_floor(frame.pose)[..., None])
            places.setdefault(frame.kind, []).append(points[mask].mean(0))
    assert max(map(len, places.values())) > 1
    for of_kind in places.values():
        assert np.ptp(of_kind, axis=0).max() < 0.05


def test_what_stands_before_a_thing_hides_it():
    pose = Pose.look_at((0.9, 0.0, 1.0), (0, 0, 0))
    paint = np.full((8, 8, 3), (200, 30, 30), np.uint8)
    for shape in ("box", "ellipsoid"):
        thing = Thing(shape, Pose(np.eye(3), FLOOR), np.full(3, 0.06), paint)
        view = View(np.full((120, 160, 3), 150, np.uint8), CAMERA, pose, depth_of_floor(pose), 0.5)
        image, mask = plant(thing, view, UP, 1.0)
        middle = CAMERA.project(pose.inverse().apply(thing.middle)).astype(int)
        assert mask[middle[1], middle[0]] and 100 < mask.sum() < 900
        assert image[mask][:, 0].mean() > 2 * image[mask][:, 1].mean()
        shadow = ~cv2.dilate(mask.astype(np.uint8), np.ones((5, 5))).astype(bool) & (image.max(-1) < 140)
        assert shadow.any() and (image[:20] == 150).all()
        before = view.depth.copy()
        before[:, middle[0] :] = 0.5
        hidden = plant(thing, View(view.image, CAMERA, pose, before, 0.5), UP, 1.0)[1]
        assert hidden.any() and not hidden[:, middle[0] + 1 :].any()


def test_photographs_that_cannot_be_used(photographs: Path, tmp_path: Path):
    with pytest.raises(OmniadError, match="nothing can be planted"):
        write_composite(tmp_path / "none", photographs, 0, CompositeOptions(least_seen=100))
    unposed = tmp_path / "unposed"
    unposed.mkdir()
    for path in sorted((photographs / "images").iterdir())[:4]:
        write_image(unposed / path.name, read_image(path))
    with pytest.raises(OmniadError, match="without poses"):
        write_composite(tmp_path / "out", unposed, 0)


def test_the_suite_measures_each_dataset_once_and_keeps_seeds_apart(photographs: Path, tmp_path: Path, monkeypatch):
    options = suite.SuiteOptions(tmp_path, ("table", "composite"), (photographs,))
    tuned, held_out = (suite.datasets(replace(options, held_out=h)) for h in (False, True))
    seeds = [{int(name.split("-")[-1]) % 2 for name in names} for names in (tuned, held_out)]
    assert seeds == [{0}, {1}] and len(tuned) == len(held_out) == 4
    with pytest.raises(OmniadError, match="no kind 'cellar'"):
        suite.datasets(replace(options, kinds=("cellar",)))
    pixel = {"auroc": 0.99, "aupro": 0.9, "max_f1": 0.8, "f1": 0.4}
    by_size = {size: {"things": 4, "recall": 0.25} for size in SIZES}
    figures = {
        "frames": 40,
        "pixel": pixel,
        "image": {"auroc": None},
        "by_size": by_size,
        "false_regions": 1.5,
        "ms": {"total": 300},
    }
    commands = []

    def evaluate(command, check, env):
        commands.append(command)
        write_json(Path(command[command.index("--out") + 1]) / "metrics.json", figures)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(suite.subprocess, "run", evaluate)
    monkeypatch.setattr(suite, "apart", lambda module, function, out, *_, progress: out.mkdir())
    for _ in range(2):
        (tmp_path / "runs/run").mkdir(parents=True, exist_ok=True)
        for name in tuned:
            (tmp_path / "runs/run" / name).mkdir(exist_ok=True)
        text = suite.measure(options, ["--longest-side", "640"])
    assert len(commands) == 4 and commands[0][-1] == "640"
    mean = next(line for line in text.splitlines() if line.startswith("table: mean")).split()
    assert mean[2:7] == ["0.9900", "0.900", "0.800", "0.400", "0.50"] and mean[8:10] == ["0.25", "0.25"]
    assert (tmp_path / "runs/run/tune.txt").read_text() == text + "\n"
