"""COLMAP at arm's length: its database, its matching and its mappers, driven by our features, pairs and prior poses.

COLMAP's own conventions (``cam_from_world``, one-based ids) end in this module: image ``i`` of the survey has id i + 1.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap

from omniad_ros.core.feedback import Progress
from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.mapping.features import Features, FeatureSource, Tolerances, is_sift, quantised

SEED = 1
PAIRS_A_STEP = 500  # so that progress is seen during long matching

pycolmap.logging.minloglevel = 2  # what matters is raised or reported


def threads() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Project:
    """What COLMAP works on, in COLMAP's word for it.

    folder: for its own files, all with names that begin with '.'; root, names: the images; cameras: one for all images, or one an
    image; known: their focal lengths are given and no guess.
    """

    folder: Path
    root: Path
    names: Sequence[str]
    cameras: Sequence[Camera]
    known: bool

    @property
    def database(self) -> Path:
        return self.folder / ".database.db"

    @property
    def tolerances(self) -> Tolerances:
        return Tolerances.for_size(max(c.width for c in self.cameras), max(c.height for c in self.cameras))

    def camera(self, index: int) -> Camera:
        """Of an image."""
        return self.cameras[index if len(self.cameras) > 1 else 0]

    def write_pairs(self, pairs: np.ndarray) -> Path:
        """A file that lists pairs (M, 2) of image indices by their names."""
        listing = self.folder / ".pairs.txt"
        listing.write_text("".join(f"{self.names[i]} {self.names[j]}\n" for i, j in pairs))
        return listing


def colmap_camera(camera: Camera, camera_id: int = 1, known: bool = True) -> pycolmap.Camera:
    """COLMAP's pinhole camera (its pixel centres are at half-integers, as ours); known: the focal length is no guess."""
    square = camera.fx == camera.fy
    return pycolmap.Camera(
        camera_id=camera_id, model="SIMPLE_PINHOLE" if square else "PINHOLE", width=camera.width, height=camera.height,
        params=[camera.fx, camera.cx, camera.cy] if square else [camera.fx, camera.fy, camera.cx, camera.cy],
        has_prior_focal_length=known,
    )  # fmt: skip


def camera_of(camera: pycolmap.Camera) -> Camera:
    k = camera.calibration_matrix()
    return Camera(camera.width, camera.height, float(k[0, 0]), float(k[1, 1]), float(k[0, 2]), float(k[1, 2]))


def cam_from_world(pose: Pose) -> pycolmap.Rigid3d:
    return pycolmap.Rigid3d(pose.inverse().matrix()[:3])


def pose_of(image: pycolmap.Image) -> Pose:
    return Pose.from_matrix(image.cam_from_world().matrix()).inverse()


def empty_model(project: Project, poses: Sequence[Pose | None]) -> pycolmap.Reconstruction:
    """A model without points; images without pose are absent."""
    model = pycolmap.Reconstruction()
    for index, camera in enumerate(project.cameras):
        model.add_camera_with_trivial_rig(colmap_camera(camera, index + 1, project.known))
    for index, (name, pose) in enumerate(zip(project.names, poses)):
        if pose is not None:
            camera_id = 1 if len(project.cameras) == 1 else index + 1
            image = pycolmap.Image(name=name, camera_id=camera_id, image_id=index + 1)
            model.add_image_with_trivial_frame(image, cam_from_world(pose))
    return model


def write_database(project: Project, features: Sequence[Features]) -> None:
    """A new COLMAP database with the images and their features (descriptors only where they are SIFT's)."""
    model = empty_model(project, [Pose.identity()] * len(project.names))
    with pycolmap.Database.open(project.database) as database, pycolmap.DatabaseTransaction(database):
        for camera in model.cameras.values():
            database.write_camera(camera, use_camera_id=True)
        for rig in model.rigs.values():
            database.write_rig(rig, use_rig_id=True)
        for frame in model.frames.values():
            frame.reset_pose()
            database.write_frame(frame, use_frame_id=True)
        for image_id in sorted(model.images):
            found = features[image_id - 1]
            database.write_image(model.images[image_id], use_image_id=True)
            database.write_keypoints(image_id, found.keypoints.astype(np.float32))
            if is_sift(found):
                data = pycolmap.FeatureDescriptors(pycolmap.FeatureExtractorType.SIFT, quantised(found.descriptors))
                database.write_descriptors(image_id, data)


def match_sift(project: Project, pairs: np.ndarray, progress: Progress) -> None:
    """Match pairs (M, 2) of image indices by their SIFT descriptors, and keep what agrees with one relative pose."""
    matching = pycolmap.FeatureMatchingOptions(num_threads=threads(), use_gpu=False)
    verification = verification_options(project.tolerances)
    for start in range(0, len(pairs), PAIRS_A_STEP):
        progress(start / len(pairs), f"matching {len(pairs)} image pairs")
        listing = project.write_pairs(pairs[start : start + PAIRS_A_STEP])
        pairing = pycolmap.ImportedPairingOptions(match_list_path=listing)
        pycolmap.match_image_pairs(project.database, matching, pairing, verification, pycolmap.Device.cpu)


def match_pairwise(
    project: Project, pairs: np.ndarray, progress: Progress, *, source: FeatureSource, features: Sequence[Features]
) -> None:
    """Match pairs (M, 2) of image indices by the source's own matcher, and keep what agrees with one relative pose."""
    with pycolmap.Database.open(project.database) as database:
        for number, (i, j) in enumerate(pairs):
            progress(0.95 * number / len(pairs), f"matching {len(pairs)} image pairs")
            database.write_matches(i + 1, j + 1, source.match(features[i], features[j]).astype(np.uint32))
    progress(0.95, "verifying the matches")
    pycolmap.verify_matches(project.database, project.write_pairs(pairs), verification_options(project.tolerances))


def verification_options(tolerances: Tolerances) -> pycolmap.TwoViewGeometryOptions:
    options = pycolmap.TwoViewGeometryOptions()
    options.ransac.max_error = tolerances.match
    options.ransac.random_seed = SEED
    options.detect_watermark = False
    return options


@dataclass(frozen=True)
class VerifiedPair:
    """Matches (M, 2) of keypoint indices between images ``first`` and ``second`` that agree with one relative pose."""

    first: int
    second: int
    matches: np.ndarray


def verified_pairs(project: Project) -> list[VerifiedPair]:
    with pycolmap.Database.open(project.database) as database:
        ids, geometries = database.read_two_view_geometries()
    pairs = []
    for pair_id, geometry in zip(ids, geometries):
        if len(geometry.inlier_matches):
            first, second = pycolmap.pair_id_to_image_pair(pair_id)
            pairs.append(VerifiedPair(first - 1, second - 1, np.asarray(geometry.inlier_matches, dtype=int)))
    return pairs


def mapping_options(
    tolerances: Tolerances, known: bool = True, seed: int = SEED
) -> pycolmap.IncrementalPipelineOptions:
    options = pycolmap.IncrementalPipelineOptions()
    options.random_seed = seed
    options.num_threads = threads()
    options.extract_colors = False
    # where the intrinsics are given, refining them would bend a map of few or planar points
    options.ba_refine_focal_length = not known
    options.ba_refine_principal_point = False
    options.ba_refine_extra_params = False
    options.mapper.abs_pose_refine_focal_length = not known
    options.mapper.abs_pose_refine_extra_params = False
    options.mapper.filter_max_reproj_error = tolerances.reprojection
    options.mapper.init_min_num_inliers = 50
    options.mapper.abs_pose_min_num_inliers = 20
    options.min_model_size = 3
    # adjust less often and less far on the way: the finished model is adjusted as a whole, and this takes a fifth of the time
    options.ba_global_frames_ratio = options.ba_global_points_ratio = 1.4
    options.ba_global_max_refinements = 2
    options.ba_local_max_refinements = 1
    options.ba_global_function_tolerance, options.ba_local_function_tolerance = 1e-5, 1e-4
    # two views alone agree with many a wrong pose: such an image is better left out
    options.structure_less_registration_fallback = False
    return options


def map_incrementally(project: Project, progress: Progress, seed: int = SEED) -> list[pycolmap.Reconstruction]:
    """Structure from motion (Schönberger and Frahm, 2016) on verified pairs; models in their own frames.

    Given focal lengths stay; seed: of the choices that the mapper leaves to chance.
    """
    count, out = len(project.names), project.folder / f".models-{seed}"
    registered = [1]

    def next_image():
        registered[0] += 1
        progress(min(registered[0] / count, 1.0), f"registered {min(registered[0], count)} of {count} images")

    out.mkdir(exist_ok=True)
    models = pycolmap.incremental_mapping(
        project.database,
        project.root,
        out,
        mapping_options(project.tolerances, project.known, seed),
        next_image_callback=next_image,
    )
    return list(models.values())


def triangulate(project: Project, poses: Sequence[Pose | None]) -> pycolmap.Reconstruction:
    """A model with points triangulated from the database's verified pairs at given poses, which stay."""
    model, out = empty_model(project, poses), project.folder / ".triangulated"
    out.mkdir(exist_ok=True)
    options = mapping_options(project.tolerances)
    options.triangulation.ignore_two_view_tracks = False  # the poses are settled, so two views do tell a point
    return pycolmap.triangulate_points(model, project.database, project.root, out, True, options, False)


def adjust(model: pycolmap.Reconstruction, tolerances: Tolerances, known: bool = True) -> None:
    """Bundle adjustment of poses and points (and of focal lengths that are not ``known``), in place, with a robust loss.

    Points that the robust loss gave up are dropped: they may end anywhere, even in a camera's centre.
    """
    options = pycolmap.BundleAdjustmentOptions(
        refine_focal_length=not known, refine_principal_point=False, refine_extra_params=False, print_summary=False
    )
    options.ceres.loss_function_type = pycolmap.LossFunctionType.CAUCHY
    options.ceres.loss_function_scale = 1.0
    options.ceres.solver_options.num_threads = threads()
    options.ceres.solver_options.max_num_iterations = 30
    options.ceres.solver_options.function_tolerance = 1e-5
    config = pycolmap.BundleAdjustmentConfig()
    for image_id in model.reg_image_ids():
        config.add_image(image_id)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    # pycolmap.bundle_adjustment would do the same, but it sets the log level back and prints
    pycolmap.create_default_bundle_adjuster(options, config, model).solve()
    pycolmap.ObservationManager(model).filter_all_points3D(tolerances.reprojection, 0.0)
    model.update_point_3d_errors()


def transform(model: pycolmap.Reconstruction, scale: float, rotation: np.ndarray, translation: np.ndarray) -> None:
    """Move a model into another frame, in place: ``x_new = scale * rotation @ x + translation``."""
    model.transform(pycolmap.Sim3d(scale, pycolmap.Rotation3d(rotation), translation))
