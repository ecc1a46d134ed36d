"""Takes photographs with known poses into a map: what they saw of its points, and new points where the place has changed."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap
from scipy.spatial import cKDTree

from omniad_ros.core.feedback import Progress, part, quiet
from omniad_ros.core.files import disk_errors
from omniad_ros.core.geometry import Box, Camera, Pose
from omniad_ros.core.images import read_image
from omniad_ros.mapping import colmap
from omniad_ros.mapping.build import write_model
from omniad_ros.mapping.features import (
    FEATURES,
    LOOKS,
    MODEL,
    Features,
    open_features,
    read_features,
    read_vocabulary,
    write_features,
)
from omniad_ros.mapping.localize import Localizer
from omniad_ros.mapping.pairs import pose_embedding, survey_scale
from omniad_ros.mapping.retrieval import vlad
from omniad_ros.site import PosedImages, read_transforms

NEIGHBOURS = 8
"""Photographs that each is matched with for new points."""
MOST_ADDED = 192
"""Photographs that a map has besides the survey's: of more the oldest leave it, so that it does not grow with the years."""
ADDED = "photographs-"
"""How the names of the folders begin in which a site's later photographs are."""
LEAST_POINTS = 20
"""A photograph comes into the map from so many of its points on that it shows."""


@dataclass(frozen=True)
class Added:
    """A photograph for a map: file, as large as the survey's images; pose: ``map_from_camera``; known: bool (H, W), where it shows what
    is normal; fresh: bool (H, W), where it shows what the map does not have yet."""

    file: Path
    pose: Pose
    known: np.ndarray
    fresh: np.ndarray


def extend_map(
    directory: Path, photographs: Sequence[Added], changed: Sequence[Box], out: Path, progress: Progress = quiet
) -> dict:
    """Write the map of ``directory`` with the photographs into the directory ``out``; its points in the boxes ``changed`` give way.

    Photographs that were added long ago leave the map (MOST_ADDED). A photograph's name in the map is that of its file with the folder's. Returns what site.json notes: registered, points,
    observations. Raises OmniadError where the map is damaged.
    """
    out.mkdir(parents=True, exist_ok=True)
    localizer = Localizer.load(directory)
    images = read_transforms(directory / "transforms.json")
    model = pycolmap.Reconstruction(directory / MODEL)
    ids, point_ids = sorted(model.reg_image_ids()), sorted(model.points3D)
    files = {i: images.path(n) for n, i in enumerate(ids)}
    with disk_errors(out):
        for name in (FEATURES, LOOKS):
            shutil.copyfile(directory / name, out / name)
        with open_features(directory / FEATURES) as file:
            keypoints = {i: read_features(file, model.images[i].name).keypoints for i in ids}
        for point in point_ids:
            if any(box.holds(model.points3D[point].xyz) for box in changed):
                model.delete_point3D(point)
        features = []
        for index, added in enumerate(photographs):
            progress(0.6 * index / len(photographs), f"features of {index + 1} of {len(photographs)} photographs")
            features.append(_register(model, localizer, added, images.camera, point_ids))
        older = [i for i in ids if files[i].parent.name.startswith(ADDED)]
        for image_id in older[: max(0, len(older) + len(photographs) - MOST_ADDED)]:
            model.deregister_frame(model.images[image_id].frame_id)
        new = range(max(ids) + 1, max(ids) + 1 + len(photographs))
        _add_points(model, new, photographs, features, images, out, localizer, part(progress, 0.6, 0.95))
        for image_id in new:
            if model.images[image_id].num_points3D < LEAST_POINTS:
                model.deregister_frame(model.images[image_id].frame_id)
        with open_features(out / FEATURES, "a") as file, open_features(out / LOOKS, "a") as looks:
            vocabulary = read_vocabulary(looks)
            for image_id, added, found in zip(new, photographs, features, strict=True):
                if model.images[image_id].has_pose:
                    files[image_id], keypoints[image_id] = added.file, found.keypoints
                    write_features(file, _name(added), found)
                    look = (
                        vlad(found.descriptors, vocabulary)
                        if vocabulary is not None
                        else localizer.source.look(read_image(added.file))
                    )
                    looks.create_group(_name(added))["global_descriptor"] = look.astype(np.float16)
        progress(0.95, "writing the map")
        observations = write_model(model, files, keypoints, out)
        for leftover in out.glob(".*"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    return {"registered": len(model.reg_image_ids()), "points": len(model.points3D), "observations": observations}


def _name(added: Added) -> str:
    return f"{added.file.parent.name}/{added.file.name}"


def _register(
    model: pycolmap.Reconstruction, localizer: Localizer, added: Added, camera: Camera, point_ids: list[int]
) -> Features:
    """Add a photograph with what it saw of the model's points; returns its features. point_ids: of the map's points by their indices."""
    found, keypoint, point = localizer.observed(read_image(added.file), camera, added.pose)
    image_id = max(model.images) + 1
    image = pycolmap.Image(
        name=_name(added), keypoints=found.keypoints.astype(float), camera_id=min(model.cameras), image_id=image_id
    )
    model.add_image_with_trivial_frame(image, colmap.cam_from_world(added.pose))
    known = _at(added.known, found.keypoints[keypoint])
    for k, p in zip(keypoint[known], point[known], strict=True):
        if point_ids[p] in model.points3D:
            model.add_observation(point_ids[p], pycolmap.TrackElement(image_id, int(k)))
    return found


def _at(mask: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """bool (N,): what a mask (H, W) says at pixels (N, 2)."""
    column, row = pixels.astype(int).T
    return mask[row.clip(0, mask.shape[0] - 1), column.clip(0, mask.shape[1] - 1)]


def _add_points(
    model: pycolmap.Reconstruction, ids: range, photographs: Sequence[Added], features: list[Features], images: PosedImages, out: Path,
    localizer: Localizer, progress: Progress,
) -> None:  # fmt: skip
    """Triangulate what the photographs show of what the map does not have, and add it to the model."""
    kept = [np.flatnonzero(_at(p.fresh, f.keypoints)) for p, f in zip(photographs, features, strict=True)]
    few = [_chosen(f, k) for f, k in zip(features, kept, strict=True)]
    poses = [p.pose for p in photographs]
    if len(poses) < 2 or sum(len(k) > 0 for k in kept) < 2:
        return
    embedding = pose_embedding(poses, survey_scale(poses))
    nearest = np.atleast_2d(cKDTree(embedding).query(embedding, k=min(NEIGHBOURS + 1, len(poses)))[1])
    pairs = {(min(i, int(j)), max(i, int(j))) for i, row in enumerate(nearest) for j in row if i != j}
    pairs = np.array(sorted((i, j) for i, j in pairs if len(kept[i]) and len(kept[j]))).reshape(-1, 2)
    project = colmap.Project(out, out, [f"{i:06d}" for i in range(len(poses))], [images.camera], known=True)
    colmap.write_database(project, few)
    if localizer.source.pairwise:
        colmap.match_pairwise(project, pairs, progress, source=localizer.source, features=few)
    else:
        colmap.match_sift(project, pairs, progress)
    colours = [_at(read_image(p.file), f.keypoints) for p, f in zip(photographs, features, strict=True)]
    for point in colmap.triangulate(project, poses).points3D.values():
        track = [(e.image_id - 1, int(kept[e.image_id - 1][e.point2D_idx])) for e in point.track.elements]
        track = [(i, k) for i, k in track if not model.images[ids[i]].points2D[k].has_point3D()]
        if len(track) >= 2:
            colour = np.mean([colours[i][k] for i, k in track], axis=0).round().astype(np.uint8)
            elements = [pycolmap.TrackElement(ids[i], k) for i, k in track]
            model.add_point3D(point.xyz, pycolmap.Track(elements), colour)


def _chosen(features: Features, rows: np.ndarray) -> Features:
    extra = {key: values[rows] for key, values in features.extra.items()}
    return Features(features.keypoints[rows], features.descriptors[rows], features.scores[rows], features.size, extra)
