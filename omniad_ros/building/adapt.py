"""`omniad adapt`: brings a site's detector to the poses of the images that are to be inspected (QANV)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from omniad_ros.building.build import adapt_site
from omniad_ros.core.feedback import OmniadError, Progress, part, quiet
from omniad_ros.core.geometry import Pose, Rectifier
from omniad_ros.mapping import Localizer
from omniad_ros.recordings import open_frames
from omniad_ros.recordings.bag import BagOptions
from omniad_ros.site import Site

MOST_VIEWS = 120
"""Aligned views that are drawn; of more images every n-th."""


def adapt(site_path: Path, images: Path, options: BagOptions | None = None, progress: Progress = quiet) -> int:
    """Adapt a site to where these images (a folder, a video or a bag) were taken; returns how many views that were.

    options: which topics of a bag are read. The site's detector is replaced when the new one is whole. Raises OmniadError where the site or the images cannot be used
    or none of them can be localized; the site then stays as it was.
    """
    site = Site.open(site_path)
    source = open_frames(images, options, part(progress, 0.0, 0.05)).taken_by(site.mapped.camera)
    localizer, rectify = Localizer.load(site.map_dir), Rectifier(source.camera)
    poses: list[Pose] = []
    for index, frame in enumerate(source.open_frames()):
        progress(0.05 + 0.2 * min(1.0, index / max(source.count, 1)), f"localizing {frame.name}")
        prior = poses[-1] if source.timed and poses else None
        pose = localizer.localize(rectify(frame.image), rectify.camera, prior).pose
        if pose is not None:
            poses.append(pose)
    if not poses:
        raise OmniadError(
            f"none of the images in {images} could be localized in the site's map, so there is nothing to adapt to"
        )
    chosen = np.unique(np.linspace(0, len(poses) - 1, min(len(poses), MOST_VIEWS)).round().astype(int))
    adapt_site(site, [poses[i] for i in chosen], part(progress, 0.25, 1.0))
    return len(chosen)
