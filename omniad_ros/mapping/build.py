"""From a survey to a metric map: features, matches, poses and points (see `omniad_ros.mapping.mapper`), files."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pycolmap
from safetensors.numpy import save_file

from omniad_ros.core.feedback import OmniadError, Progress, part, quiet
from omniad_ros.core.geometry import Camera
from omniad_ros.mapping import colmap
from omniad_ros.mapping.features import (
    FEATURES,
    LOOKS,
    MODEL,
    FeatureSource,
    StoredFeatures,
    check_room,
    open_features,
    write_description,
    write_features,
)
from omniad_ros.mapping.known_distance import KnownDistance, check_distance, scale_to
from omniad_ros.mapping.mapper import MIN_IMAGES, Mapped, Mapper
from omniad_ros.mapping.pairs import choose_pairs
from omniad_ros.mapping.priors import PriorLimits, doubtful_unit
from omniad_ros.mapping.retrieval import VOCABULARY_SAMPLE, learn_vocabulary, vlad
from omniad_ros.mapping.sift import SiftSource
from omniad_ros.site import PosedImages, write_transforms

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MapOptions:
    """source: the kind of local features; refine_focal: the survey's focal length is a guess, find the true one;
    cameras: one an image, where they differ (the survey's camera is not looked at then); distance: a length that gives the
    scale, whatever the prior poses say; priors: up to where prior poses are believed.
    """

    source: FeatureSource = field(default_factory=SiftSource)
    refine_focal: bool = False
    cameras: tuple[Camera, ...] = ()
    distance: KnownDistance | None = None
    priors: PriorLimits = field(default_factory=PriorLimits)


def build_map(survey: PosedImages, out: Path, progress: Progress = quiet, options: MapOptions | None = None) -> dict:
    """Build the map of a survey and write it into the directory ``out``.

    survey: images of one pinhole camera with prior poses (`map_from_camera`, metres; None where there is no odometry).
    Writes ``sfm/`` (COLMAP's binary model), ``features.h5`` and ``global-features.h5`` (hloc's layout),
    ``transforms.json`` (registered images with refined poses) and ``points.safetensors`` (`SparsePoints`).
    Returns what site.json notes: counts, reprojection error in pixels, where the scale came from. Prior poses that do not
    belong to the images are left aside with a warning: the scale is "unknown" then.
    Raises OmniadError where the survey cannot be registered.
    """
    options = options or MapOptions()
    source, cameras, names = options.source, list(options.cameras) or [survey.camera], list(survey.names)
    if len(survey) < MIN_IMAGES:
        raise OmniadError(f"a survey needs at least {MIN_IMAGES} images, this one has {len(survey)}")
    if options.distance is not None:
        check_distance(options.distance, names)
    if len(cameras) not in (1, len(survey)):
        raise ValueError(f"{len(survey)} images need one camera or as many, not {len(cameras)}")
    out.mkdir(parents=True, exist_ok=True)
    for leftover in out.iterdir():
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

    seen = _extract(survey, source, out / FEATURES, part(progress, 0.0, 0.35))
    if np.median([len(k) for k in seen.keypoints]) < 10:
        raise OmniadError(
            "the survey cannot be registered: its images show too little texture (are they dark, blank or blurred?)"
        )
    features, looks, vocabulary = StoredFeatures(out / FEATURES, names), seen.looks, None
    if looks[0] is None:
        vocabulary = learn_vocabulary(seen.samples)
        looks = [vlad(f.descriptors, vocabulary) for f in features]
    looks = np.stack(looks)
    project = colmap.Project(out, survey.root, names, cameras, known=not options.refine_focal)
    colmap.write_database(project, features)
    pairs, matching = choose_pairs(looks, survey.poses), part(progress, 0.35, 0.7)
    if source.pairwise:
        colmap.match_pairwise(project, pairs, matching, source=source, features=features)
    else:
        colmap.match_sift(project, pairs, matching)

    mapper = Mapper(project, survey.poses, seen.keypoints, options.priors)
    mapped = mapper.map(part(progress, 0.7, 0.95))
    if options.distance is not None:
        scale_to(mapped.model, options.distance, names)
        mapped = replace(mapped, scale=options.distance.kind)
    doubt = mapped.doubt or (doubtful_unit(mapped.model, options.priors) if mapped.scale == "prior poses" else "")
    if doubt:
        logger.warning(doubt)
    progress(0.95, "writing the map")
    info = _write(mapped, survey, seen, out)
    with open_features(out / LOOKS, "w") as file:
        if vocabulary is not None:
            file.attrs["vocabulary"] = vocabulary.astype(np.float16)
        check_room(file, sum(look.nbytes for look in looks))
        for name, look in zip(names, looks):
            file.create_group(name)["global_descriptor"] = look.astype(np.float16)
    for leftover in out.glob(".*"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    progress(1.0, f"map of {info['registered']} images and {info['points']} points")
    return {**source.describe(), **info}


@dataclass(frozen=True)
class _Seen:
    """What stays in memory of each image, beside its features in the file: keypoints (N, 2), the colours there (N, 3)
    uint8, a sample of the descriptors (M, D), and the source's global descriptor or None.
    """

    keypoints: list[np.ndarray]
    colors: list[np.ndarray]
    samples: list[np.ndarray]
    looks: list[np.ndarray | None]


def _extract(survey: PosedImages, source: FeatureSource, path: Path, progress: Progress) -> _Seen:
    """Write the features of every image into a new file."""
    sample = -(-VOCABULARY_SAMPLE // len(survey))

    def one(index):
        image = survey.image(index)
        found = source.extract(image)
        column, row = found.keypoints.astype(int).T
        return found, image[row.clip(0, image.shape[0] - 1), column.clip(0, image.shape[1] - 1)], source.look(image)

    seen = _Seen([], [], [], [])
    with ThreadPoolExecutor(source.workers or colmap.threads()) as pool, open_features(path, "w") as file:
        write_description(file, source)
        for index, (found, colors, look) in enumerate(pool.map(one, range(len(survey)))):
            write_features(file, survey.names[index], found)
            seen.keypoints.append(found.keypoints)
            seen.colors.append(colors)
            seen.samples.append(found.descriptors[:: max(1, len(found) // sample)])
            seen.looks.append(look)
            progress((index + 1) / len(survey), f"features of {index + 1} of {len(survey)} images")
    return seen


def _write(mapped: Mapped, survey: PosedImages, seen: _Seen, out: Path) -> dict:
    """Write model, transforms.json and points.safetensors; returns the map's figures."""
    model = mapped.model
    registered = set(model.reg_image_ids())
    for point in model.points3D.values():
        track = [e for e in point.track.elements if e.image_id in registered]
        shades = np.array([seen.colors[e.image_id - 1][e.point2D_idx] for e in track])
        point.color = np.round(shades.mean(0)).astype(np.uint8)
    files = {i: survey.root / survey.names[i - 1] for i in registered}
    observations = write_model(model, files, {i: seen.keypoints[i - 1] for i in registered}, out)
    left_out = [survey.names[i] for i in range(len(survey)) if i + 1 not in registered]
    camera = colmap.camera_of(model.cameras[model.images[min(registered)].camera_id])
    return {
        "images": len(survey), "registered": len(registered), "left_out": left_out[:20], "points": len(model.points3D), "observations": observations,
        "camera": camera.to_dict(), "reprojection_px": round(model.compute_mean_reprojection_error(), 3), "scale": mapped.scale,
        "prior_fit": None if mapped.position_error is None else {
            "median_m": round(mapped.position_error, 4), "median_deg": round(mapped.rotation_error, 3)},
    }  # fmt: skip


def write_model(
    model: pycolmap.Reconstruction, files: Mapping[int, Path], keypoints: Mapping[int, np.ndarray], out: Path
) -> int:
    """Write a model with its colours into a map's directory, and what is read without COLMAP: transforms.json, points.safetensors.

    files, keypoints (N, 2): of each registered image, by its id. Returns the number of observations.
    """
    ids = sorted(model.reg_image_ids())
    index_of = {image_id: index for index, image_id in enumerate(ids)}
    point_ids = sorted(model.points3D)
    image, point, pixel = [], [], []
    for number, point_id in enumerate(point_ids):
        for e in model.points3D[point_id].track.elements:
            if e.image_id in index_of:
                image.append(index_of[e.image_id])
                point.append(number)
                pixel.append(keypoints[e.image_id][e.point2D_idx])
    save_file({
        "xyz": np.array([model.points3D[i].xyz for i in point_ids], np.float32).reshape(-1, 3),
        "rgb": np.array([model.points3D[i].color for i in point_ids], np.uint8).reshape(-1, 3),
        "image": np.array(image, np.int32), "point": np.array(point, np.int32),
        "pixel": np.array(pixel, np.float32).reshape(-1, 2),
    }, out / "points.safetensors")  # fmt: skip
    (out / MODEL).mkdir()
    model.write_binary(out / MODEL)
    poses = tuple(colmap.pose_of(model.images[i]) for i in ids)
    cameras = [colmap.camera_of(model.cameras[model.images[i].camera_id]) for i in ids]
    different = cameras if len(model.cameras) > 1 else ()
    names = tuple(str(files[i].absolute()) for i in ids)
    write_transforms(out / "transforms.json", PosedImages(cameras[0], out, names, poses), cameras=different)
    return len(image)
