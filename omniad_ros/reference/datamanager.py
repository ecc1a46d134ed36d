"""Training rays for the grid field: all pixels of all photographs in memory as bytes, sampled without a data loader."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.configs.dataparser_configs import AnnotatedDataParserUnion
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager, VanillaDataManagerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from omniad_ros.reference.space import OBSERVATIONS, Cameras


@dataclass
class GridFieldDataManagerConfig(VanillaDataManagerConfig):
    """All pixels in memory, and rays through triangulated points where the data has them."""

    _target: type = field(default_factory=lambda: GridFieldDataManager)
    dataparser: AnnotatedDataParserUnion = field(
        default_factory=lambda: NerfstudioDataParserConfig(load_3D_points=True)
    )
    train_num_rays_per_batch: int = 8192
    point_rays: float = 0.1
    """Share of the rays that go through triangulated points."""
    growing_steps: int = 1500
    """The number of rays grows from an eighth over so many steps: the first, coarse grids have few voxels and no empty space."""
    seed: int | None = None
    """Of the rays; None: nerfstudio's --machine.seed in a build, 0 in ns-train."""


class GridFieldDataManager(VanillaDataManager):
    """Gives the model its cameras and points as metadata of the training dataset."""

    config: GridFieldDataManagerConfig

    def create_train_dataset(self):
        dataset = super().create_train_dataset()
        self.random = np.random.default_rng(self.config.seed or 0)
        self.views = view_cameras(dataset.cameras)
        outputs = self.train_dataparser_outputs
        self.points = _observations(Path(self.config.dataparser.data), outputs.image_filenames, self.views)
        xyz = self.points["xyz"]
        if not len(xyz) and "points3D_xyz" in outputs.metadata:
            xyz = outputs.metadata["points3D_xyz"].numpy().astype(np.float64)
            rgb = outputs.metadata["points3D_rgb"].numpy() / 255
            few = self.random.choice(len(xyz), min(len(xyz), 5000), replace=False)
            xyz, rgb = xyz[few], rgb[few]
            image, point = _nearest_views(xyz, self.views)
            self.points = {"xyz": xyz, "image": image, "point": point, "pixel": np.zeros((0, 2), np.float32),
                           "rgb": rgb}  # fmt: skip
        dataset.metadata["space_cameras"] = self.views
        dataset.metadata["space_points"] = {key: self.points[key] for key in ("xyz", "rgb", "image", "point")}
        # only a photograph that is known to see a point tells that there is nothing before it
        dataset.metadata["sight_lines"] = len(self.points["pixel"]) > 0
        return dataset

    def setup_train(self):
        dataset = self.train_dataset
        images = [(dataset.get_numpy_image(i)[..., :3]) for i in range(len(dataset))]
        self.sizes = np.array([image.shape[:2] for image in images])
        self.starts = np.concatenate([[0], np.cumsum(self.sizes.prod(1))])
        self.pixels = np.concatenate([image.reshape(-1, 3) for image in images])
        # cameras with lens distortion go through nerfstudio's ray generator
        cameras = dataset.cameras
        distorted = cameras.distortion_params is not None and bool(cameras.distortion_params.any())
        self.pinhole = not distorted and bool((cameras.camera_type == CameraType.PERSPECTIVE.value).all())

    def next_train(self, step: int):
        self.train_count += 1
        self.random = np.random.default_rng((self.config.seed or 0, step))  # the same rays after an interruption
        rays = int(self.config.train_num_rays_per_batch * 2 ** (3 * min(0.0, step / self.config.growing_steps - 1)))
        pointed = int(rays * self.config.point_rays) if len(self.points["pixel"]) else 0
        flat = self.random.integers(0, self.starts[-1], rays - pointed)
        image = np.searchsorted(self.starts, flat, side="right") - 1
        inside = flat - self.starts[image]
        u, v = inside % self.sizes[image, 1] + 0.5, inside // self.sizes[image, 1] + 0.5
        colour = self.pixels[flat].astype(np.float32) / 255
        target = np.zeros((rays, 2), np.float32)
        if pointed:
            chosen = self.random.integers(0, len(self.points["pixel"]), pointed)
            seen = self.points["image"][chosen]
            pixel = self.points["pixel"][chosen]
            target[rays - pointed :] = self.points["distance"][chosen]
            image = np.concatenate([image, seen])
            u, v = np.concatenate([u, pixel[:, 0]]), np.concatenate([v, pixel[:, 1]])
            colour = np.concatenate([colour, self._bilinear(seen, pixel)])
        bundle = self._rays(image, u, v)
        bundle.metadata["target"] = torch.from_numpy(target)
        return bundle, {"image": torch.from_numpy(colour)}

    def _bilinear(self, image: np.ndarray, pixel: np.ndarray) -> np.ndarray:
        height, width = self.sizes[image].T
        u, v = np.clip(pixel[:, 0] - 0.5, 0, width - 1.001), np.clip(pixel[:, 1] - 0.5, 0, height - 1.001)
        u0, v0 = u.astype(int), v.astype(int)
        colour = np.zeros((len(image), 3), np.float32)
        for du in (0, 1):
            for dv in (0, 1):
                weight = (u - u0 if du else 1 - u + u0) * (v - v0 if dv else 1 - v + v0)
                colour += weight[:, None] * self.pixels[self.starts[image] + (v0 + dv) * width + u0 + du] / 255
        return colour.astype(np.float32)

    def _rays(self, image: np.ndarray, u: np.ndarray, v: np.ndarray) -> RayBundle:
        indices = torch.from_numpy(image)[:, None]
        if not self.pinhole:
            coords = torch.from_numpy(np.stack([v, u], 1).astype(np.float32))
            return self.train_dataset.cameras.generate_rays(camera_indices=indices, coords=coords)
        fx, fy, cx, cy = self.views.intrinsics[image].T
        local = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones(len(u))], 1)
        directions = np.einsum("nij,nj->ni", self.views.rotation[image], local)
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        return RayBundle(
            origins=torch.from_numpy(self.views.position[image].astype(np.float32)),
            directions=torch.from_numpy(directions.astype(np.float32)),
            pixel_area=torch.ones(len(u), 1), camera_indices=indices,
        )  # fmt: skip


def view_cameras(cameras) -> Cameras:
    """nerfstudio's cameras (OpenGL convention) as ours."""
    poses = cameras.camera_to_worlds.double().numpy()
    columns = [
        getattr(cameras, name).reshape(-1).double().numpy() for name in ("fx", "fy", "cx", "cy", "width", "height")
    ]
    return Cameras(
        poses[:, :, :3] * np.array([1.0, -1.0, -1.0]),
        poses[:, :, 3],
        np.stack(columns[:4], 1),
        np.stack(columns[4:], 1),
    )


def _observations(data: Path, filenames: list[Path], views: Cameras) -> dict[str, np.ndarray]:
    """xyz (P, 3); image, point (K,); pixel (K, 2); distance (K, 2) along the ray, and its tolerance."""
    from safetensors import safe_open

    path = (data if data.is_dir() else data.parent) / OBSERVATIONS
    empty = np.zeros(0, np.int64)
    if not path.is_file():
        return {
            "xyz": np.zeros((0, 3)),
            "rgb": np.zeros((0, 3)),
            "image": empty,
            "point": empty,
            "pixel": np.zeros((0, 2)),
            "distance": np.zeros((0, 2)),
        }
    with safe_open(path, "np") as stored:
        names = json.loads(stored.metadata()["names"])
        xyz, rgb, image, point, pixel = (stored.get_tensor(key) for key in ("xyz", "rgb", "image", "point", "pixel"))
    order = {name.name: index for index, name in enumerate(filenames)}
    index = np.array([order.get(name, -1) for name in names], np.int64)[image]
    kept = index >= 0
    index, point, pixel = index[kept], point[kept].astype(np.int64), pixel[kept]
    gap = xyz[point] - views.position[index]
    distance = np.linalg.norm(gap, axis=1)
    tolerance = np.maximum(0.01 * distance, 3 * distance / views.intrinsics[index, 0])
    return {"xyz": xyz.astype(np.float64), "rgb": rgb / 255, "image": index, "point": point, "pixel": pixel,
            "distance": np.stack([distance, tolerance], 1).astype(np.float32)}  # fmt: skip


def _nearest_views(xyz: np.ndarray, views: Cameras) -> tuple[np.ndarray, np.ndarray]:
    """For points without observations: every camera that has a point in front within 30 degrees of its axis."""
    gap = xyz[None] - views.position[:, None]
    along = np.einsum("npi,ni->np", gap, views.forward)
    image, point = np.nonzero(along > 0.87 * np.linalg.norm(gap, axis=2))
    return image, point
