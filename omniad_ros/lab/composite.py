"""Composites in 3D on real photographs: ``python -m omniad_ros.lab.composite PICTURES --out DIR --seed 0``.

Posed photographs (any folder with a transforms.json) are split into a survey and a patrol, and things are planted in the
patrol's: each at one place of the room in all pictures that see it. Where a folder ``depth`` lies beside the transforms.json
(16-bit PNG in millimetres, named as the images, in the poses' metres), it says what hides what; else a map is built, whose points
do. What is missing cannot be made that way. The dataset is in the MAD layout.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from scipy.interpolate import LinearNDInterpolator
from scipy.spatial import QhullError, cKDTree

from omniad_ros.core.feedback import OmniadError, Progress, part, quiet
from omniad_ros.core.geometry import Camera, Pose, Rectifier
from omniad_ros.core.images import resized, resized_map, write_image
from omniad_ros.detection.pictures import picture
from omniad_ros.lab.mad import MadWriter, Picture
from omniad_ros.lab.planted import HIDDEN_BEHIND, Thing, View, plant, surroundings
from omniad_ros.lab.textures import blotch, stain_color
from omniad_ros.recordings import SurveySource, read_survey
from omniad_ros.site import PosedImages, read_points, read_transforms

KINDS = ("good", "thing", "picture", "stain")
NORMAL_EACH = 3
"""Every third frame of the patrol is normal, whatever could be seen in it."""
MILLIMETRE = 0.001
COARSE = 4
"""Pixels between the places at which depth is interpolated between the map's points."""


@dataclass(frozen=True)
class CompositeOptions:
    """views, patrol: at most so many photographs of each; longest_side: pixels to which they are reduced; places: things of each
    kind; pixels: across, of the smallest and the largest thing as the median photograph sees it, at 640 pixels; least_seen: patrol
    frames that must see a place; flat: residual of the surface there, as a share of the thing's size; visible: pixels from which an anomaly counts as seen;
    jpeg: quality of the files."""

    views: int = 60
    patrol: int = 40
    longest_side: int = 640
    places: int = 8
    pixels: tuple[float, float] = (12.0, 90.0)
    least_seen: int = 4
    flat: float = 0.12
    visible: int = 30
    jpeg: int = 95


@dataclass(frozen=True)
class Place:
    """Photographs with what is known of the place: points (N, 3) in the map, and a depth map (H, W) of each photograph."""

    photographs: PosedImages
    depths: list[np.ndarray]
    points: np.ndarray

    def view(self, index: int, softness: float = 0.5) -> View:
        images = self.photographs
        return View(images.image(index), images.camera, images.poses[index], self.depths[index], softness)


def write_composite(
    out: Path, pictures: Path, seed: int, options: CompositeOptions = CompositeOptions(), progress: Progress = quiet
) -> Path:
    """Write a dataset of composites and return its folder.

    pictures: a folder with a transforms.json. Raises OmniadError where its photographs have no poses, cannot be mapped, or show
    no surface on which anything could be planted.
    """
    source = read_survey(pictures)
    if any(pose is None for pose in source.poses):
        raise OmniadError(f"{pictures} has photographs without poses; things can only be planted where all have one")
    with tempfile.TemporaryDirectory() as work:
        photographs, names = _prepared(source, Path(work), options, part(progress, 0.0, 0.2))
        if (pictures / "depth").is_dir():
            place = _with_depth(photographs, pictures / "depth", names, source.camera)
        else:
            place = _with_map(photographs, Path(work) / "map", part(progress, 0.2, 0.7))
        return _compose(out, place, np.random.default_rng([seed, 3]), options, part(progress, 0.7, 1.0))


def _prepared(
    source: SurveySource, work: Path, options: CompositeOptions, progress: Progress
) -> tuple[PosedImages, list[str]]:
    """Evenly chosen photographs, undistorted and reduced, and their names in the source."""
    count = min(len(source), options.views + options.patrol)
    chosen = set(np.linspace(0, len(source) - 1, count).round().astype(int).tolist())
    rectify = Rectifier(source.camera)
    camera = rectify.camera.fitted(options.longest_side)
    (work / "images").mkdir()
    names, poses, kept = [], [], []
    for index, (name, image) in enumerate(zip(source.names, source.open_images())):
        if index in chosen:
            kept.append(Path(name).stem)
            names.append(f"images/{len(names):04d}.png")
            poses.append(source.poses[index])
            write_image(work / names[-1], resized(rectify(image), camera.width, camera.height))
            progress(len(names) / count, "preparing the photographs")
    return PosedImages(camera, work, tuple(names), tuple(poses)), kept


def _with_depth(photographs: PosedImages, folder: Path, names: list[str], distorted: Camera) -> Place:
    camera, depths, points = photographs.camera, [], []
    rectify = Rectifier(distorted)
    for name, pose in zip(names, photographs.poses, strict=True):
        depth = cv2.imread(str(folder / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        if depth is None or depth.ndim != 2:
            raise OmniadError(f"{folder} has no depth map {name}.png of one channel")
        depth = np.where(depth > 0, depth * np.float32(MILLIMETRE), np.nan).astype(np.float32)
        depth = rectify(resized_map(depth, distorted.width, distorted.height))
        depths.append(resized_map(depth, camera.width, camera.height))
        sparse = depths[-1][::16, ::16], camera.directions()[::16, ::16]
        known = np.isfinite(sparse[0])
        points.append(pose.apply(sparse[0][known][:, None] * sparse[1][known]))
    return Place(photographs, depths, np.concatenate(points))


def _with_map(photographs: PosedImages, folder: Path, progress: Progress) -> Place:
    """The place as the map's points show it; photographs that it could not register are left out."""
    from omniad_ros.mapping import build_map

    build_map(photographs, folder, progress)
    mapped = read_transforms(folder / "transforms.json")
    sparse = read_points(folder / "points.safetensors", len(mapped))
    depths = []
    for index, pose in enumerate(mapped.poses):
        own = sparse.image == index
        z = pose.inverse().apply(sparse.xyz[sparse.point[own]].astype(float))[:, 2]
        depths.append(_interpolated(mapped.camera, sparse.pixel[own], z))
    mapped = replace(mapped, root=folder)
    return Place(mapped, depths, sparse.xyz.astype(float))


def _interpolated(camera: Camera, pixels: np.ndarray, z: np.ndarray) -> np.ndarray:
    """A depth map (H, W) between points at pixels (K, 2); NaN outside of them."""
    y, x = np.mgrid[COARSE / 2 : camera.height : COARSE, COARSE / 2 : camera.width : COARSE]
    try:
        depth = LinearNDInterpolator(pixels, z)(x, y)
    except (QhullError, ValueError):  # hardly any points
        depth = np.full(x.shape, np.nan)
    return resized_map(depth.astype(np.float32), camera.width, camera.height)


def _compose(out: Path, place: Place, rng: np.random.Generator, options: CompositeOptions, progress: Progress) -> Path:
    count = len(place.photographs)
    patrol = np.unique(np.linspace(0, count - 1, min(options.patrol, int(0.4 * count)) + 2).round().astype(int)[1:-1])
    survey = np.setdiff1d(np.arange(count), patrol)
    things = {kind: _things(place, kind, patrol, rng, options) for kind in KINDS[1:]}
    if not any(things.values()):
        raise OmniadError("nothing can be planted: no flat surface is seen by enough of the photographs")
    sharpness = {i: cv2.Laplacian(place.photographs.image(i), cv2.CV_32F).var() for i in patrol}
    softness = {
        i: float(np.clip(0.6 * np.sqrt(np.median(list(sharpness.values())) / s), 0.4, 2.5))
        for i, s in sharpness.items()
    }
    light = _light(place.photographs, rng)
    usual = _usual_light(place, [t for own in things.values() for t in own], patrol)
    writer = MadWriter(out, place.photographs.camera, options.jpeg)
    for index in survey:
        writer.survey(Picture(place.photographs.image(index)), place.photographs.poses[index])
    counts = dict.fromkeys(KINDS, 0)
    for number, index in enumerate(patrol):
        view = place.view(index, softness[index])
        shown = {"good": Picture(view.image)}
        if number % NORMAL_EACH:
            planted = {kind: _planted(own, view, light, usual) for kind, own in things.items()}
            shown |= {k: p for k, p in planted.items() if np.count_nonzero(p.mask) >= options.visible}
        kind = min(shown, key=lambda k: counts[k] if k != "good" else count)  # the one that was shown least
        counts[kind] += 1
        writer.patrol(shown[kind], view.pose, kind)
        progress((number + 1) / len(patrol), "planting things in the photographs")
    return writer.finish()


def _planted(things: list[Thing], view: View, light: np.ndarray, usual: dict[int, float]) -> Picture:
    """A photograph with all of these things in it; usual: see `_usual_light`."""
    image, mask = view.image, np.zeros(view.image.shape[:2], bool)
    for thing in things:
        here = surroundings(thing, view)
        if here is not None:
            gain = float(np.clip(here / usual[id(thing)], 0.5, 1.8))
            image, own = plant(thing, replace(view, image=image), light, gain)
            mask |= own
    return Picture(image, np.where(mask, 255, 0).astype(np.uint8))


def _light(photographs: PosedImages, rng: np.random.Generator) -> np.ndarray:
    """A direction (3,) towards the light: from above as the cameras mostly stand, and from some side."""
    up = -np.mean([pose.rotation[:, 1] for pose in photographs.poses], axis=0)
    light = up / max(np.linalg.norm(up), 1e-6) + 0.6 * rng.normal(size=3)
    return light / np.linalg.norm(light)


def _usual_light(place: Place, things: list[Thing], patrol: np.ndarray) -> dict[int, float]:
    """How bright the surroundings of each thing (by id) are in the median photograph."""
    bright = {id(thing): [] for thing in things}
    for index in patrol:
        view = place.view(index)
        for thing in things:
            if (here := surroundings(thing, view)) is not None:
                bright[id(thing)].append(here)
    return {key: max(float(np.median(values)), 1.0) if values else 1.0 for key, values in bright.items()}


def _things(
    place: Place, kind: str, patrol: np.ndarray, rng: np.random.Generator, options: CompositeOptions
) -> list[Thing]:
    """Things of one kind on flat surfaces that enough of the patrol's photographs see."""
    tree, camera, found = cKDTree(place.points), place.photographs.camera, []
    for index in rng.permutation(len(place.points))[:2000]:
        if len(found) == options.places:
            break
        point = place.points[index]
        seeing = _seeing(place, point, patrol)
        if len(seeing) < options.least_seen:
            continue
        poses = [place.photographs.poses[i] for i in seeing]
        distance = np.median([(point - pose.translation) @ pose.rotation[:, 2] for pose in poses])
        across = np.exp(rng.uniform(*np.log(options.pixels))) * camera.width / 640
        size = across * distance / camera.fx
        normal = _normal(place.points[tree.query_ball_point(point, size)], size * options.flat)
        if normal is None or any(np.linalg.norm(point - t.base.translation) < 2 * (size + t.half.max()) for t in found):
            continue
        eye = np.mean([pose.translation for pose in poses], axis=0)
        normal = normal if normal @ (eye - point) > 0 else -normal
        if normal @ (eye - point) < 0.3 * np.linalg.norm(eye - point):  # seen from the side only
            continue
        up = -np.mean([pose.rotation[:, 1] for pose in poses], axis=0)
        color = place.photographs.image(seeing[0])
        found.append(_thing(kind, Pose(_upright(normal, up, rng), point), size / 2, color, rng))
    return found


def _seeing(place: Place, point: np.ndarray, patrol: np.ndarray) -> list[int]:
    """Photographs of the patrol that see a point."""
    camera, seeing = place.photographs.camera, []
    for index in patrol:
        inside = place.photographs.poses[index].inverse().apply(point)
        u, v = camera.project(inside)
        if inside[2] > 0 and 0 <= u < camera.width and 0 <= v < camera.height:
            depth = place.depths[index][int(v), int(u)]
            if np.isfinite(depth) and abs(depth - inside[2]) < 2 * HIDDEN_BEHIND * depth:
                seeing.append(int(index))
    return seeing


def _normal(points: np.ndarray, residual: float) -> np.ndarray | None:
    """Normal (3,) of the plane through points (K, 3); None where they are few, on a line, or off it by more than ``residual``."""
    if len(points) < 8:
        return None
    _, singular, axes = np.linalg.svd(points - points.mean(0), full_matrices=False)
    spread = singular / np.sqrt(len(points))
    return axes[2] if spread[2] < residual and spread[1] > 2 * residual else None


def _upright(normal: np.ndarray, up: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rotation (3, 3) with z along the normal, turned about it: at random on what lies, upright (y up) on what stands."""
    side = np.cross(up if abs(up @ normal) < 0.7 * np.linalg.norm(up) else rng.normal(size=3), normal)
    side /= np.linalg.norm(side)
    return np.column_stack([side, np.cross(normal, side), normal])


def _thing(kind: str, base: Pose, half: float, near: np.ndarray, rng: np.random.Generator) -> Thing:
    """A thing of about ``half`` half size; near: a photograph (H, W, 3) that a picture of the same place is cut from."""
    ratio = rng.uniform(0.6, 1.0, 3)
    if kind == "stain":
        place = np.linspace(-1, 1, 128)
        opacity = blotch(rng, *np.meshgrid(place, place), 0.7).astype(np.float32)
        color = np.uint8(stain_color(rng, near.mean() < 90)) + np.zeros((128, 128, 3), np.uint8)
        return Thing("stain", base, half * np.array([*ratio[:2], 0.02]), color, opacity)
    if kind == "picture":
        side = int(min(near.shape[:2]) * rng.uniform(0.25, 0.5))
        row, column = (int(rng.integers(0, n - side)) for n in near.shape[:2])
        crop = resized(near[row : row + side, column : column + side], 128, 128)
        return Thing("box", base, half * np.array([*ratio[:2], 0.03]), np.ascontiguousarray(crop))
    texture = picture(rng, 128, 128, photograph=0.5)
    return Thing(str(rng.choice(["box", "ellipsoid"])), base, half * ratio, texture)


@dataclass(frozen=True)
class CompositeCommand:
    """Options of the command."""

    out: Path
    """Folder of the dataset."""
    seed: int = 0
    """Decides what is planted where; even ones are for tuning."""


def main() -> int:
    from omniad_ros.core.command_line import parse

    try:
        options, folders = parse(CompositeCommand, sys.argv[1:], "python -m omniad_ros.lab.composite", __doc__)
        if len(folders) != 1:
            raise OmniadError("give one folder of photographs with a transforms.json")
        print(write_composite(options.out, Path(folders[0]), options.seed))
    except OmniadError as error:
        print(f"composite: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
