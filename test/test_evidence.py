"""Evidence over frames: what all views mark stays, what one view marks is lowered, and it neither grows nor lasts for ever."""

import numpy as np
import pytest
from test_tracking import CAMERA, patrol

from omniad_ros.core.geometry import Pose
from omniad_ros.patrol.evidence import EvidenceVolume

THRESHOLD = 0.5
PLACE, RADIUS = np.array([1.3, 0.4, 0.2]), 0.15
"""A ball in front of the block, so that each view shows it before another part of room and block."""


def ball(pose, depth):
    """Pixels that show the ball, bool (H, W)."""
    rays = CAMERA.directions() @ pose.rotation.T
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    towards = PLACE - pose.translation
    along = rays @ towards
    inside = np.linalg.norm(along[..., None] * rays - towards, axis=-1) < RADIUS
    return inside & (along < depth * np.linalg.norm(CAMERA.directions(), axis=-1))


def heatmap(mask, rng):
    """Found, more or less surely; and a false region elsewhere in each view."""
    odds = np.where(mask, 2.5, -4.0) + np.repeat(np.repeat(rng.normal(0, 1, (30, 40)), 8, 0), 8, 1)
    x, y = rng.integers(0, 300), rng.integers(0, 220)
    odds[y : y + 20, x : x + 20] = 1.5
    return (1 / (1 + np.exp(-odds))).astype(np.float32)


def f1(heat, mask):
    said = heat >= THRESHOLD
    return 2 * (said & mask).sum() / max(1, said.sum() + mask.sum())


def drive(volume, rng, planted=True, offset=(0.0, 0.0, 0.0)):
    """(mask, heatmap alone, heatmap with evidence) of each step of a lap, somewhere in the map; steps that show little are left out."""
    seen = []
    for _, pose, depth in patrol():
        mask = ball(pose, depth)
        alone = heatmap(mask & planted, rng)
        there = Pose(pose.rotation, pose.translation + offset)
        seen.append((mask, alone, volume.fuse(alone, THRESHOLD, depth, CAMERA, there)))
    return [step for step in seen[5:] if step[0].sum() > 50]


def test_views_together_mark_better_than_each_alone():
    seen = drive(EvidenceVolume(5.0), np.random.default_rng(0))
    alone = np.mean([f1(alone, mask) for mask, alone, _ in seen])
    together = np.mean([f1(fused, mask) for mask, _, fused in seen])
    kept = np.mean([(fused[mask & (alone >= THRESHOLD)] >= THRESHOLD).mean() for mask, alone, fused in seen])
    assert len(seen) > 10 and together > 1.1 * alone and kept > 0.95
    assert all((fused <= alone + 1e-6).all() for _, alone, fused in seen)


@pytest.mark.parametrize("offset", [(0.0, 0.0, 0.0), (400.0, -300.0, 20.0)])
def test_what_is_gone_is_let_go_wherever_in_the_map_it_was(offset):
    volume, rng = EvidenceVolume(5.0), np.random.default_rng(1)
    there = drive(volume, rng, True, offset)
    gone = drive(volume, rng, False, offset)
    marked = [[(fused[mask] >= THRESHOLD).mean() for mask, _, fused in lap[-10:]] for lap in (there, gone)]
    assert np.mean(marked[0]) > 0.7 and np.mean(marked[1]) < 0.1


def test_standing_still_proves_nothing_and_uncovered_stays_as_it_is():
    volume, rng = EvidenceVolume(5.0), np.random.default_rng(2)
    _, pose, depth = patrol()[0]
    depth = depth.copy()
    depth[:60] = np.nan
    alone = heatmap(ball(pose, depth), rng)
    first = volume.fuse(alone, THRESHOLD, depth, CAMERA, pose)
    fused = [volume.fuse(alone, THRESHOLD, depth, CAMERA, pose) for _ in range(20)]
    np.testing.assert_allclose(first, alone, atol=1e-6)
    np.testing.assert_array_equal(fused[0], fused[-1])
    np.testing.assert_array_equal(fused[-1][:60], alone[:60])
