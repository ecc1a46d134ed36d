"""The grid field on a small scene whose photographs are computed exactly: a textured ball in a textured box."""

import json
import shutil

import numpy as np
import pytest

from omniad_ros.feedback import OmniadError
from omniad_ros.geometry import Camera, Pose
from omniad_ros.rendering import load_field, novel_poses, train_field
from omniad_ros.site import PosedImages, SparsePoints, write_image

CAMERA = Camera.from_fov(96, 72, np.radians(60))
OPTIONS = ("--max-num-iterations", "1500", "--pipeline.datamanager.train-num-rays-per-batch", "2048")
NO_POINTS = SparsePoints(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8), *[np.zeros(0, np.int32)] * 2, np.zeros((0, 2), np.float32))


def texture(points):
    wave = np.sin(points @ np.array([[9.0, 2, 4], [-3, 8, 5], [4, -5, 9]]).T)
    return np.clip(0.5 + 0.3 * wave, 0, 1)


def intersect(origin, directions):
    """Distance to the ball of radius 0.4 at the origin, or to the walls of the box of half-size 2."""
    b, c = directions @ origin, origin @ origin - 0.4**2
    root = b**2 - c
    ball = np.where(root > 0, -b - np.sqrt(np.maximum(root, 0)), np.inf)
    with np.errstate(divide="ignore"):
        wall = ((np.sign(directions) * 2 - origin) / directions).min(1)
    return np.minimum(np.where(ball > 0, ball, np.inf), wall)


def photograph(pose):
    local = CAMERA.directions().reshape(-1, 3)
    length = np.linalg.norm(local, axis=1)
    directions = local / length[:, None] @ pose.rotation.T
    distance = intersect(pose.translation, directions)
    image = texture(pose.translation + distance[:, None] * directions)
    return (255 * image).astype(np.uint8).reshape(72, 96, 3), (distance / length).reshape(72, 96)


def pose_at(angle, height=0.5, distance=1.4):
    return Pose.look_at((distance * np.cos(angle), distance * np.sin(angle), height), (0, 0, 0))


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    root = tmp_path_factory.mktemp("survey")
    poses = [pose_at(a, h) for h in (0.2, 0.8) for a in np.linspace(0, 2 * np.pi, 16, endpoint=False)]
    names = tuple(f"{i:03d}.png" for i in range(len(poses)))
    for name, pose in zip(names, poses, strict=True):
        write_image(root / name, photograph(pose)[0])
    return PosedImages(CAMERA, root, names, tuple(poses))


@pytest.fixture(scope="module")
def points(survey):
    """Exact points on a grid of pixels, each observed by the photograph it comes from."""
    xyz, image, pixel = [], [], []
    for index, pose in enumerate(survey.poses):
        depth = photograph(pose)[1]
        for v in range(4, 72, 12):
            for u in range(4, 96, 12):
                xyz.append(pose.apply(CAMERA.directions()[v, u] * depth[v, u]))
                image.append(index)
                pixel.append((u + 0.5, v + 0.5))
    xyz = np.array(xyz, np.float32)
    rgb = (255 * texture(xyz)).astype(np.uint8)
    return SparsePoints(xyz, rgb, np.array(image, np.int32), np.arange(len(xyz), dtype=np.int32), np.array(pixel, np.float32))


@pytest.fixture(scope="module")
def trained(survey, points, tmp_path_factory):
    out = tmp_path_factory.mktemp("radiance")
    seen = []
    info = train_field(survey, points, range(len(survey)), out, options=OPTIONS, progress=lambda f, m: seen.append(f))
    return out, info, seen


def psnr(a, b):
    return -10 * np.log10(np.mean((a.astype(float) - b) ** 2) / 255**2)


def test_unseen_view(trained):
    out, info, seen = trained
    field = load_field(out)
    pose = pose_at(0.3, 0.5)
    truth, depth = photograph(pose)
    rendering = field.render(CAMERA, pose)
    assert rendering.image.dtype == np.uint8 and rendering.depth.dtype == np.float32
    assert psnr(rendering.image, truth) > 23
    covered = np.isfinite(rendering.depth)
    assert covered.mean() > 0.3
    assert np.median(np.abs(rendering.depth - depth)[covered] / depth[covered]) < 0.03
    assert info["method"] == "grid-field" and seen == sorted(seen) and seen[-1] == 1.0


def test_not_covered_where_the_survey_saw_nothing(trained):
    """The ceiling above every photograph."""
    field = load_field(trained[0])
    up = field.render(CAMERA, Pose.look_at((0.5, 0, 1.4), (0.5, 0, 3), up=(1, 0, 0)))
    assert up.image.shape == (72, 96, 3)
    assert np.isfinite(up.depth).mean() < 0.1


def test_files_are_plain_data(trained):
    names = sorted(path.name for path in trained[0].rglob("*"))
    assert names == ["field.json", "weights.safetensors"]


@pytest.mark.xfail(strict=True, reason="without triangulated points the field stays far below 20 dB; a site always has them")
def test_without_points(survey, tmp_path):
    train = [i for i in range(len(survey)) if i % 8]
    train_field(survey, NO_POINTS, train, tmp_path, options=OPTIONS)
    field = load_field(tmp_path)
    assert psnr(field.render(CAMERA, survey.poses[8]).image, survey.image(8)) > 20


def test_bad_input(survey, points, trained, tmp_path):
    with pytest.raises(OmniadError, match="at least three"):
        train_field(survey, points, [0, 1], tmp_path)
    with pytest.raises(OmniadError, match="no option"):
        train_field(survey, points, range(9), tmp_path, options=("--no-such-thing", "1"))
    with pytest.raises(OmniadError, match="missing"):
        load_field(tmp_path / "nothing")
    broken = tmp_path / "broken"
    shutil.copytree(trained[0], broken)
    (broken / "weights.safetensors").write_bytes(b"no tensors")
    with pytest.raises(OmniadError, match="build the site again"):
        load_field(broken)
    shutil.copy(trained[0] / "weights.safetensors", broken)
    (broken / "field.json").write_text(json.dumps(json.loads((broken / "field.json").read_text()) | {"version": 0}))
    with pytest.raises(OmniadError, match="another version"):
        load_field(broken)
    (broken / "field.json").write_text(json.dumps({"method": "unheard-of"}))
    with pytest.raises(OmniadError, match="unheard-of"):
        load_field(broken)


def test_novel_poses_lie_between_and_around(survey):
    poses = novel_poses(survey, 50, seed=3)
    positions = np.array([pose.translation for pose in survey.poses])
    gaps = [np.linalg.norm(positions - pose.translation, axis=1).min() for pose in poses]
    assert len(poses) == 50 and max(gaps) < 0.8 and max(gaps) > 0
    again = novel_poses(survey, 50, seed=3)
    assert all(np.array_equal(a.matrix(), b.matrix()) for a, b in zip(poses, again, strict=True))
