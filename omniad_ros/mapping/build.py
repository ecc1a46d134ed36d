"""From a survey to a metric map: features, matches, structure from motion, alignment with the prior poses, files.

Two ways lead to a map. Prior poses that already agree with the images (rendered, surveyed, or from an earlier
reconstruction) are kept and points are triangulated at them; this also works for objects with little texture. Otherwise
(odometry drifts, or there is none) poses come from structure from motion and are aligned with the priors afterwards.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pycolmap
from safetensors.numpy import save_file

from omniad_ros.core.feedback import OmniadError, Progress, part, quiet
from omniad_ros.core.files import read_json, write_json
from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.mapping import colmap
from omniad_ros.mapping.alignment import upright
from omniad_ros.mapping.features import (
    FEATURES,
    LOOKS,
    MODEL,
    FeatureSource,
    StoredFeatures,
    open_features,
    write_description,
    write_features,
)
from omniad_ros.mapping.known_distance import KnownDistance, check_distance, scale_to
from omniad_ros.mapping.pairs import choose_pairs
from omniad_ros.mapping.priors import PriorLimits, doubtful_unit, fit_priors
from omniad_ros.mapping.retrieval import VOCABULARY_SAMPLE, learn_vocabulary, vlad
from omniad_ros.mapping.sift import SiftSource
from omniad_ros.site import PosedImages, write_transforms

logger = logging.getLogger(__name__)

MIN_IMAGES = 3
MIN_SHARE, MIN_POINTS = 0.25, 20
"""A survey is refused of which a smaller share can be registered; an image counts from so many points on that it sees."""
TRIES, ENOUGH = 5, 0.5
"""Structure from motion with guessed focal lengths is tried so often at most, until it has placed such a share of the images."""


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


@dataclass(frozen=True)
class Mapped:
    """A model in the map frame, how its scale was found, how well it fits the prior poses (medians, None: these were not used),
    and in ``doubt`` a sentence where they were refused.
    """

    model: pycolmap.Reconstruction
    scale: str
    position_error: float | None = None
    rotation_error: float | None = None
    doubt: str = ""


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
    database, looks = out / ".database.db", np.stack(looks)
    colmap.write_database(database, cameras, names, features, known=not options.refine_focal)
    tolerances = colmap.Tolerances.for_size(max(c.width for c in cameras), max(c.height for c in cameras))
    pairs, matching = choose_pairs(looks, survey.poses), part(progress, 0.35, 0.7)
    if source.pairwise:
        colmap.match_pairwise(database, names, features, pairs, source, tolerances, matching)
    else:
        colmap.match_sift(database, names, pairs, tolerances, matching)

    verified = colmap.verified_pairs(database)
    workshop = _Workshop(survey, options, cameras, seen.keypoints, verified, database, out, tolerances)
    mapped = workshop.map(part(progress, 0.7, 0.95))
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


class _Workshop:
    """The choice between the ways to a map, and each of them."""

    def __init__(
        self, survey: PosedImages, options: MapOptions, cameras: list[Camera], keypoints: list[np.ndarray],
        verified: list[colmap.VerifiedPair], database: Path, out: Path, tolerances: colmap.Tolerances,
    ):  # fmt: skip
        self.survey, self.cameras, self.known, self.priors = survey, cameras, not options.refine_focal, options.priors
        self.keypoints, self.verified, self.database, self.out, self.tolerances = (
            keypoints,
            verified,
            database,
            out,
            tolerances,
        )
        self.with_prior = [i for i, pose in enumerate(survey.poses) if pose is not None]

    def map(self, progress: Progress) -> Mapped:
        if not self.verified:
            raise OmniadError(
                "the survey cannot be registered: no two images share enough texture; survey again with more overlap and light"
            )
        candidates = self._candidates(progress)
        count, best = max(((_borne_out(c.model), -i) for i, c in enumerate(candidates)), default=(0, 0))
        if count < max(MIN_IMAGES, MIN_SHARE * len(self.survey)):
            raise OmniadError(
                f"the survey cannot be registered: only {count} of {len(self.survey)} images fit together; survey again with more overlap and light"
            )
        return candidates[-best]

    def _candidates(self, progress: Progress) -> list[Mapped]:
        """Maps, the likelier first: one where the prior poses fit the images."""
        if self.known and len(self.with_prior) == len(self.survey):
            typical = float(
                np.quantile(prior_errors(self.cameras, self.survey.poses, self.keypoints, self.verified), 0.8)
            )
            if typical < self.tolerances.match:
                progress(0.1, "triangulating at the survey's poses")
                return [self._from_priors(exact=typical < self.tolerances.exact)]
        model = self._from_motion(part(progress, 0.1, 0.9))
        progress(0.9, "adjusting the map")
        candidates = [self._aligned(self._completed(model))] if model is not None else []
        enough = candidates and candidates[0].model.num_reg_images() >= 0.9 * len(self.survey)
        if not enough and len(self.with_prior) > MIN_IMAGES:
            progress(0.95, "triangulating at the survey's poses")
            candidates.append(self._from_priors(exact=False))
        return candidates

    def _from_motion(self, progress: Progress) -> pycolmap.Reconstruction | None:
        """The largest model that structure from motion makes of the survey; None where it makes none.

        With focal lengths to be found, a few images may agree on impossible ones, and it depends on the first pair of
        images whether the mapper is led there. So it is tried from several ones.
        """
        best, tries = None, 1 if self.known else TRIES
        for number in range(tries):
            models = colmap.map_incrementally(
                self.database, self.survey.root, self.out / f".models-{number}", len(self.survey), self.tolerances, self.known,
                part(progress, number / tries, (number + 1) / tries), colmap.SEED + number,
            )  # fmt: skip
            best = max([m for m in (best, *models) if m is not None], key=self._sound_images, default=None)
            if best is not None and self._sound_images(best) >= ENOUGH * len(self.survey):
                break
        return best

    def _sound_images(self, model: pycolmap.Reconstruction) -> int:
        """How many images a model has, without those of impossible focal lengths."""
        return sum(self.known or _possible(model.cameras[model.images[i].camera_id]) for i in model.reg_image_ids())

    def _from_priors(self, exact: bool) -> Mapped:
        """Triangulate at the prior poses; where they are not ``exact``, adjust them if the points then fit clearly better."""
        fixed = self._triangulated(self.survey.poses)
        if not exact:
            free = pycolmap.Reconstruction(fixed)
            colmap.adjust(free, self.tolerances)
            free = self._completed(free)
            tighter = free.compute_mean_reprojection_error() < 0.85 * fixed.compute_mean_reprojection_error()
            if tighter or free.compute_num_observations() > 1.1 * fixed.compute_num_observations():
                return self._aligned(self._without_strays(free))
        return Mapped(self._without_strays(fixed), "prior poses", 0.0, 0.0)

    def _completed(self, model: pycolmap.Reconstruction) -> pycolmap.Reconstruction:
        """Triangulate again at a model's poses, now with points that only two images saw, and adjust all together."""
        if not self.known:
            # few matches may send a focal length anywhere, even below zero: the guess is better then
            found = {i: c for i, c in model.cameras.items() if _possible(c)}
            self.cameras = [colmap.camera_of(found[i]) if i in found else c for i, c in enumerate(self.cameras, 1)]
        poses = [
            colmap.pose_of(model.images[i + 1]) if i + 1 in model.reg_image_ids() else None
            for i in range(len(self.survey))
        ]
        model = self._triangulated(poses)
        colmap.adjust(model, self.tolerances, self.known)
        if not self.known:
            self._drop_impossible(model)
        return model

    def _drop_impossible(self, model: pycolmap.Reconstruction) -> None:
        """Images whose focal length went below zero or beyond all lenses are no part of the map."""
        for image_id in list(model.reg_image_ids()):
            camera = model.cameras[model.images[image_id].camera_id]
            if not _possible(camera):
                model.deregister_frame(model.images[image_id].frame_id)

    def _triangulated(self, poses: Sequence[Pose | None]) -> pycolmap.Reconstruction:
        model = colmap.empty_model(self.cameras, self.survey.names, poses)
        return colmap.triangulate(model, self.database, self.survey.root, self.out / ".triangulated", self.tolerances)

    def _without_strays(self, model: pycolmap.Reconstruction) -> pycolmap.Reconstruction:
        """Drop images that match others, but of which hardly a match holds at their pose: their prior is wrong."""
        matches = np.zeros(len(self.survey))
        for pair in self.verified:
            for index in (pair.first, pair.second):
                matches[index] = max(matches[index], len(pair.matches))
        for image_id in list(model.reg_image_ids()):
            if model.images[image_id].num_points3D < 0.2 * matches[image_id - 1]:
                model.deregister_frame(model.images[image_id].frame_id)
        return model

    def _aligned(self, model: pycolmap.Reconstruction) -> Mapped:
        """Move a model into the map frame by the prior poses, or upright where there are none."""
        registered = sorted(model.reg_image_ids())
        if not registered:
            return Mapped(model, "unknown")
        known = [i for i in registered if self.survey.poses[i - 1] is not None]
        poses = {i: colmap.pose_of(model.images[i]) for i in registered}
        priors = fit_priors([poses[i] for i in known], [self.survey.poses[i - 1] for i in known], self.priors)
        if (fit := priors.alignment) is not None:
            mapped = Mapped(model, "prior poses", fit.position_error, fit.rotation_error)
        else:
            fit = upright(list(poses.values()), np.array([p.xyz for p in model.points3D.values()]))
            mapped = Mapped(model, "unknown", doubt=priors.doubt)
        colmap.transform(model, fit.scale, fit.rotation, fit.translation)
        return mapped


def _possible(camera: pycolmap.Camera) -> bool:
    return 0.1 < camera.mean_focal_length() / max(camera.width, camera.height) < 10.0


def _borne_out(model: pycolmap.Reconstruction) -> int:
    """How many images see points of the model: a prior pose alone puts an image into it, but not on the map."""
    return sum(model.images[i].num_points3D >= MIN_POINTS for i in model.reg_image_ids())


def prior_errors(
    cameras: Sequence[Camera],
    poses: Sequence[Pose],
    keypoints: Sequence[np.ndarray],
    verified: Sequence[colmap.VerifiedPair],
) -> np.ndarray:
    """For each verified pair, the median Sampson error in pixels of its matches under the images' prior poses."""
    cameras = list(cameras) * (len(poses) if len(cameras) == 1 else 1)
    rays = [np.c_[(k - [c.cx, c.cy]) / [c.fx, c.fy], np.ones(len(k))] for k, c in zip(keypoints, cameras)]
    errors = []
    for pair in verified:
        second_from_first = poses[pair.second].inverse() @ poses[pair.first]
        x, y, z = second_from_first.translation
        essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ second_from_first.rotation
        a, b = rays[pair.first][pair.matches[:, 0]], rays[pair.second][pair.matches[:, 1]]
        if (
            np.linalg.norm(second_from_first.translation) < 1e-9
        ):  # no baseline, no epipolar lines: the rays must be the same
            turned = a @ second_from_first.rotation.T
            gap = np.linalg.norm(turned[:, :2] / np.maximum(turned[:, 2:], 1e-9) - b[:, :2], axis=1)
            errors.append(cameras[pair.first].fx * np.median(gap))
            continue
        forth, back = a @ essential.T, b @ essential
        norm = (forth[:, :2] ** 2).sum(1) + (back[:, :2] ** 2).sum(1)
        errors.append(cameras[pair.first].fx * np.median(np.abs((b * forth).sum(1)) / np.sqrt(np.maximum(norm, 1e-18))))
    return np.array(errors)


def _write(mapped: Mapped, survey: PosedImages, seen: _Seen, out: Path) -> dict:
    """Write model, transforms.json and points.safetensors; returns the map's figures."""
    model = mapped.model
    ids = sorted(model.reg_image_ids())
    index_of = {image_id: index for index, image_id in enumerate(ids)}
    point_ids = sorted(model.points3D)
    image, point, pixel, rgb = [], [], [], []
    for number, point_id in enumerate(point_ids):
        track = [e for e in model.points3D[point_id].track.elements if e.image_id in index_of]
        shades = np.array([seen.colors[e.image_id - 1][e.point2D_idx] for e in track])
        rgb.append(shades.mean(0))
        model.points3D[point_id].color = np.round(shades.mean(0)).astype(np.uint8)
        for e in track:
            image.append(index_of[e.image_id])
            point.append(number)
            pixel.append(seen.keypoints[e.image_id - 1][e.point2D_idx])
    save_file({
        "xyz": np.array([model.points3D[i].xyz for i in point_ids], np.float32).reshape(-1, 3),
        "rgb": np.array(rgb).reshape(-1, 3).round().astype(np.uint8),
        "image": np.array(image, np.int32), "point": np.array(point, np.int32),
        "pixel": np.array(pixel, np.float32).reshape(-1, 2),
    }, out / "points.safetensors")  # fmt: skip
    (out / MODEL).mkdir()
    model.write_binary(out / MODEL)
    poses = tuple(colmap.pose_of(model.images[i]) for i in ids)
    names = tuple(survey.names[i - 1] for i in ids)
    cameras = [colmap.camera_of(model.cameras[model.images[i].camera_id]) for i in ids]
    write_transforms(out / "transforms.json", PosedImages(cameras[0], survey.root, names, poses))
    if len(model.cameras) > 1:
        transforms = read_json(out / "transforms.json")
        for frame, camera in zip(transforms["frames"], cameras):
            frame |= {
                "w": camera.width,
                "h": camera.height,
                "fl_x": camera.fx,
                "fl_y": camera.fy,
                "cx": camera.cx,
                "cy": camera.cy,
            }
        write_json(out / "transforms.json", transforms)
    left_out = [survey.names[i] for i in range(len(survey)) if i + 1 not in index_of]
    return {
        "images": len(survey), "registered": len(ids), "left_out": left_out[:20], "points": len(point_ids), "observations": len(image),
        "camera": cameras[0].to_dict(), "reprojection_px": round(model.compute_mean_reprojection_error(), 3), "scale": mapped.scale,
        "prior_fit": None if mapped.position_error is None else {
            "median_m": round(mapped.position_error, 4), "median_deg": round(mapped.rotation_error, 3)},
    }  # fmt: skip
