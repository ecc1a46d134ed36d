"""Which survey images are worth matching with each other.

Small surveys are matched exhaustively. In larger ones each image is matched with its neighbours in time, in space
(where prior poses are known) and in looks, so that the number of pairs grows linearly with the survey.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial import cKDTree

from omniad_ros.core.geometry import Pose

EXHAUSTIVE_LIMIT = 60
IN_TIME, IN_SPACE, IN_LOOKS = 6, 20, 12


def choose_pairs(looks: np.ndarray, priors: Sequence[Pose | None]) -> np.ndarray:
    """Pairs (M, 2) of image indices, first < second, in ascending order.

    looks: (N, K) global descriptors; priors: N prior poses or None.
    """
    count = len(looks)
    first, second = np.triu_indices(count, 1)
    if count <= EXHAUSTIVE_LIMIT:
        return np.stack([first, second], axis=1)
    pairs = [np.stack([np.arange(count - step), np.arange(step, count)], axis=1) for step in range(1, IN_TIME + 1)]
    pairs += [_nearest_in_looks(looks)]
    known = np.array([i for i, pose in enumerate(priors) if pose is not None], dtype=int)
    if len(known) > IN_SPACE:
        pairs.append(known[_nearest_in_space([priors[i] for i in known])])
    pairs = np.sort(np.concatenate(pairs), axis=1)
    return np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)


def _nearest_in_looks(looks: np.ndarray, block: int = 512) -> np.ndarray:
    rows, columns = [], []
    for start in range(0, len(looks), block):
        similarity = looks[start : start + block] @ looks.T
        similarity[np.arange(len(similarity)), start + np.arange(len(similarity))] = -np.inf
        nearest = np.argpartition(-similarity, IN_LOOKS, axis=1)[:, :IN_LOOKS]
        rows.append(np.repeat(start + np.arange(len(similarity)), IN_LOOKS))
        columns.append(nearest.ravel())
    return np.stack([np.concatenate(rows), np.concatenate(columns)], axis=1)


def _nearest_in_space(priors: Sequence[Pose]) -> np.ndarray:
    embedding = pose_embedding(priors, survey_scale(priors))
    _, nearest = cKDTree(embedding).query(embedding, k=IN_SPACE + 1)
    return np.stack([np.repeat(np.arange(len(priors)), IN_SPACE), nearest[:, 1:].ravel()], axis=1)


def survey_scale(poses: Sequence[Pose]) -> float:
    """A length in metres over which a view changes, where nothing but camera poses is known."""
    centres = np.array([p.translation for p in poses])
    return max(0.3 * float(np.linalg.norm(centres - np.median(centres, axis=0), axis=1).mean()), 1e-6)


def pose_embedding(poses: Sequence[Pose], scale: float) -> np.ndarray:
    """(N, 6) points whose Euclidean distance says how little two views share.

    One ``scale`` (metres) sideways weighs as much as turning the view by about 45 degrees.
    """
    centres = np.array([p.translation for p in poses])
    directions = np.array([p.rotation[:, 2] for p in poses])
    return np.concatenate([centres / scale, directions * 1.3], axis=1)
