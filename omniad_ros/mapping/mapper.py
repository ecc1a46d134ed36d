"""From verified matches to a model in the map frame: the ways to poses and points, and the choice between them.

Two ways lead to a map. Prior poses that already agree with the images (rendered, surveyed, or from an earlier
reconstruction) are kept and points are triangulated at them; this also works for objects with little texture. Otherwise
(odometry drifts, or there is none) poses come from structure from motion and are aligned with the priors afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pycolmap

from omniad_ros.core.feedback import OmniadError, Progress, part
from omniad_ros.core.geometry import Pose
from omniad_ros.mapping import colmap
from omniad_ros.mapping.alignment import upright
from omniad_ros.mapping.priors import PriorLimits, fit_priors

MIN_IMAGES = 3
MIN_SHARE, MIN_POINTS = 0.25, 20
"""A survey is refused of which a smaller share can be registered; an image counts from so many points on that it sees."""
TRIES, ENOUGH = 5, 0.5
"""Structure from motion with guessed focal lengths is tried so often at most, until it has placed such a share of the images."""
TYPICAL = 0.8
"""Prior poses agree with the images where this share of the matches lies in image pairs that do: a few matches of a pair may all be
wrong, and a matcher that always finds some has many such pairs."""
NEARLY_ALL = 0.9
"""With so many images placed by structure from motion, the prior poses have nothing to add."""
TIGHTER, MORE = 0.85, 1.1
"""Adjusted poses are taken in place of prior ones where the reprojection error falls below this share, or observations rise above."""
STRAY = 0.2
"""An image with points for a smaller share of its best pair's matches lies elsewhere than its prior pose says."""


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


class Mapper:
    """The choice between the ways to a map, and each of them; `map` does it once."""

    def __init__(
        self, project: colmap.Project, poses: Sequence[Pose | None], keypoints: list[np.ndarray], limits: PriorLimits
    ):
        """project: with the matches in its database; poses: the prior ones; keypoints: (N, 2) of each image."""
        self.project, self.poses, self.limits = project, poses, limits
        self.keypoints, self.verified = keypoints, colmap.verified_pairs(project)
        self.count = len(project.names)

    def map(self, progress: Progress) -> Mapped:
        if not self.verified:
            raise OmniadError(
                "the survey cannot be registered: no two images share enough texture; survey again with more overlap and light"
            )
        candidates = self._candidates(progress)
        count, best = max(((_borne_out(c.model), -i) for i, c in enumerate(candidates)), default=(0, 0))
        if count < max(MIN_IMAGES, MIN_SHARE * self.count):
            raise OmniadError(
                f"the survey cannot be registered: only {count} of {self.count} images fit together; survey again with more overlap and light"
            )
        return candidates[-best]

    def _candidates(self, progress: Progress) -> list[Mapped]:
        """Maps, the likelier first: one where the prior poses fit the images."""
        with_prior = sum(pose is not None for pose in self.poses)
        if self.project.known and with_prior == self.count:
            errors = prior_errors(self.project, self.poses, self.keypoints, self.verified)
            typical = weighted_quantile(errors, [len(pair.matches) for pair in self.verified], TYPICAL)
            if typical < self.project.tolerances.match:
                progress(0.1, "triangulating at the survey's poses")
                return [self._from_priors(exact=typical < self.project.tolerances.exact)]
        model = self._from_motion(part(progress, 0.1, 0.9))
        progress(0.9, "adjusting the map")
        candidates = [self._aligned(self._completed(model))] if model is not None else []
        enough = candidates and candidates[0].model.num_reg_images() >= NEARLY_ALL * self.count
        if not enough and with_prior > MIN_IMAGES:
            progress(0.95, "triangulating at the survey's poses")
            candidates.append(self._from_priors(exact=False))
        return candidates

    def _from_motion(self, progress: Progress) -> pycolmap.Reconstruction | None:
        """The largest model that structure from motion makes of the survey; None where it makes none.

        With focal lengths to be found, a few images may agree on impossible ones, and it depends on the first pair of
        images whether the mapper is led there. So it is tried from several ones.
        """
        best, tries = None, 1 if self.project.known else TRIES
        for number in range(tries):
            progress_here = part(progress, number / tries, (number + 1) / tries)
            models = colmap.map_incrementally(self.project, progress_here, colmap.SEED + number)
            best = max([m for m in (best, *models) if m is not None], key=self._sound_images, default=None)
            if best is not None and self._sound_images(best) >= ENOUGH * self.count:
                break
        return best

    def _sound_images(self, model: pycolmap.Reconstruction) -> int:
        """How many images a model has, without those of impossible focal lengths."""
        return sum(
            self.project.known or _possible(model.cameras[model.images[i].camera_id]) for i in model.reg_image_ids()
        )

    def _from_priors(self, exact: bool) -> Mapped:
        """Triangulate at the prior poses; where they are not ``exact``, adjust them if the points then fit clearly better."""
        fixed = colmap.triangulate(self.project, self.poses)
        if not exact:
            free = pycolmap.Reconstruction(fixed)
            colmap.adjust(free, self.project.tolerances)
            free = self._completed(free)
            tighter = free.compute_mean_reprojection_error() < TIGHTER * fixed.compute_mean_reprojection_error()
            if tighter or free.compute_num_observations() > MORE * fixed.compute_num_observations():
                return self._aligned(self._without_strays(free))
        return Mapped(self._without_strays(fixed), "prior poses", 0.0, 0.0)

    def _completed(self, model: pycolmap.Reconstruction) -> pycolmap.Reconstruction:
        """Triangulate again at a model's poses, now with points that only two images saw, and adjust all together."""
        if not self.project.known:
            # few matches may send a focal length anywhere, even below zero: the guess is better then
            found = {i: c for i, c in model.cameras.items() if _possible(c)}
            cameras = [colmap.camera_of(found[i]) if i in found else c for i, c in enumerate(self.project.cameras, 1)]
            self.project = replace(self.project, cameras=cameras)
        poses = [
            colmap.pose_of(model.images[i + 1]) if i + 1 in model.reg_image_ids() else None for i in range(self.count)
        ]
        model = colmap.triangulate(self.project, poses)
        colmap.adjust(model, self.project.tolerances, self.project.known)
        if not self.project.known:
            self._drop_impossible(model)
        return model

    def _drop_impossible(self, model: pycolmap.Reconstruction) -> None:
        """Images whose focal length went below zero or beyond all lenses are no part of the map."""
        for image_id in list(model.reg_image_ids()):
            camera = model.cameras[model.images[image_id].camera_id]
            if not _possible(camera):
                model.deregister_frame(model.images[image_id].frame_id)

    def _without_strays(self, model: pycolmap.Reconstruction) -> pycolmap.Reconstruction:
        """Drop images that match others, but of which hardly a match holds at their pose: their prior is wrong."""
        matches = np.zeros(self.count)
        for pair in self.verified:
            for index in (pair.first, pair.second):
                matches[index] = max(matches[index], len(pair.matches))
        for image_id in list(model.reg_image_ids()):
            if model.images[image_id].num_points3D < STRAY * matches[image_id - 1]:
                model.deregister_frame(model.images[image_id].frame_id)
        return model

    def _aligned(self, model: pycolmap.Reconstruction) -> Mapped:
        """Move a model into the map frame by the prior poses, or upright where there are none."""
        registered = sorted(model.reg_image_ids())
        if not registered:
            return Mapped(model, "unknown")
        known = [i for i in registered if self.poses[i - 1] is not None]
        poses = {i: colmap.pose_of(model.images[i]) for i in registered}
        priors = fit_priors([poses[i] for i in known], [self.poses[i - 1] for i in known], self.limits)
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


def weighted_quantile(values: np.ndarray, weights: Sequence[float], share: float) -> float:
    """The smallest of the values up to which lies such a share of the weights."""
    order = np.argsort(values)
    reached = np.cumsum(np.asarray(weights, float)[order])
    return float(values[order][np.searchsorted(reached, share * reached[-1])])


def prior_errors(
    project: colmap.Project,
    poses: Sequence[Pose],
    keypoints: Sequence[np.ndarray],
    verified: Sequence[colmap.VerifiedPair],
) -> np.ndarray:
    """For each verified pair, the median Sampson error in pixels of its matches under the images' prior poses."""
    cameras = [project.camera(index) for index in range(len(poses))]
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
