"""Datasets as users download them: MAD, ToyCity, MVTec and nerfstudio's own format, told apart by what lies where.

MAD-Sim and MAD-Real (Zhou et al., NeurIPS 2023): ``train/good``, ``test/<kind>``, ``ground_truth/<kind>/<name>_mask.png``
and ``transforms.json``; MVTec AD (Bergmann et al., CVPR 2019) and ToyCity (arXiv 2406.18012): the same folders without poses.
Any posed image set in nerfstudio's format may have ``test`` and ``ground_truth`` beside it; without, every 8th image is kept
from the survey and serves as a normal test frame.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.files import read_json, write_json
from omniad_ros.core.geometry import Pose
from omniad_ros.core.images import SUFFIXES, list_images
from omniad_ros.recordings.transforms import ImageFinder, as_transforms, find_transforms, load_transforms, read_pose

NORMAL_KINDS = ("good", "normal", "ok")
HOLDOUT = 8
MASK_NAMES = ("{stem}_mask", "{stem}", "{stem}_gt", "mask_{stem}")
SOFT = 100
MASK_FOLDERS = ("ground_truth", "gt", "masks")
PICTURE_FOLDERS = ("images", "rgb")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TestFrame:
    """One test image. kind: its folder, "good" for a normal one; mask: None where there is none; pose: the true one, if known."""

    __test__ = False  # not a test class, whatever pytest thinks of its name

    image: Path
    kind: str
    mask: Path | None
    pose: Pose | None

    @property
    def normal(self) -> bool:
        return self.kind == "good"


@dataclass(frozen=True)
class Dataset:
    """A survey and its test frames. held_out: file_paths of the survey's transforms.json that serve as test frames."""

    root: Path
    layout: str
    survey: Path
    frames: tuple[TestFrame, ...]
    held_out: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.root.resolve().name

    def survey_without_tests(self, folder: Path) -> Path:
        """Where the survey is read from; for held-out frames a transforms.json without them is written into ``folder``."""
        if not self.held_out:
            return self.survey
        data = read_json(self.survey)
        finder = ImageFinder(self.survey.parent, self.root)
        kept = [
            (frame, finder.find(frame["file_path"]))
            for frame in data["frames"]
            if frame["file_path"] not in self.held_out
        ]
        folder.mkdir(parents=True, exist_ok=True)
        data["frames"] = [
            {**frame, "file_path": os.path.relpath(image, folder)} for frame, image in kept if image is not None
        ]
        write_json(folder / "transforms.json", data)
        return folder / "transforms.json"


def find_datasets(folder: Path) -> list[Path]:
    """A dataset's folder itself, or those of the datasets in it (as MAD-Sim holds twenty objects)."""
    if not folder.is_dir():
        raise OmniadError(f"the dataset {folder} does not exist")
    if _is_dataset(folder):
        return [folder]
    inside = sorted(child for child in folder.iterdir() if child.is_dir() and _is_dataset(child))
    return inside or [folder]


def _is_dataset(folder: Path) -> bool:
    return find_transforms(folder) is not None or (folder / "test").is_dir()


def read_dataset(root: Path) -> Dataset:
    """Tell a dataset's layout and list its test frames. Raises OmniadError that says what was looked for."""
    transforms = find_transforms(root)
    tests = root / "test"
    if not tests.is_dir():
        if transforms is None:
            raise OmniadError(
                f"{root} is no dataset: looked for test/<kind> (MAD, ToyCity, MVTec) and for transforms.json (nerfstudio)"
            )
        return _hold_out(root, transforms)
    kinds = sorted(child for child in tests.iterdir() if child.is_dir())
    folders = [(kind.name, list_images(_pictures_of(kind))) for kind in kinds] or [("anomalous", list_images(tests))]
    if not any(images for _, images in folders):
        raise OmniadError(f"{tests} has no images: looked for test/good/*.png and test/<kind>/*.png")
    if transforms is None and not any((root / place).is_dir() for place in ("train", "images")):
        raise OmniadError(
            f"{root} has no normal images: looked for train/good (MAD, ToyCity, MVTec) and transforms.json (nerfstudio)"
        )
    poses = read_true_poses(root)
    frames, unmasked = [], []
    for kind, images in folders:
        normal = kind.lower() in NORMAL_KINDS
        masks = {} if normal else _masks_of(root, kind)
        for image in images:
            mask = next(
                (masks[name] for pattern in MASK_NAMES if (name := pattern.format(stem=image.stem).lower()) in masks),
                None,
            )
            if mask is None and not normal:
                unmasked.append(image)
            pose = poses.get(f"{kind}/{image.stem}".lower(), poses.get(f"test/{image.stem}".lower()))
            frames.append(TestFrame(image, "good" if normal else kind, mask, pose))
    if poses and not any(frame.pose for frame in frames):
        logger.warning(
            "none of the poses in %s is of a test image: expected paths as test/%s/%s",
            root,
            folders[0][0],
            frames[0].image.name,
        )
    if unmasked:
        logger.warning(
            "%d anomalous images have no mask (looked for ground_truth/<kind>/<name>_mask.png for %s): left out of the pixel metrics",
            len(unmasked), unmasked[0],
        )  # fmt: skip
    layout = "MAD" if transforms and (root / "train").is_dir() else "nerfstudio" if transforms else "MVTec"
    return Dataset(root, layout, root, tuple(frames))


def _pictures_of(kind: Path) -> Path:
    inner = next((kind / name for name in PICTURE_FOLDERS if (kind / name).is_dir()), kind)
    return kind if list_images(kind) else inner


def _masks_of(root: Path, kind: str) -> dict[str, Path]:
    """The masks of one kind of anomaly by their names in lower case, without suffix."""
    masks: dict[str, Path] = {}
    for place in (root / folder for folder in MASK_FOLDERS):
        own = (
            [child for child in place.iterdir() if child.is_dir() and child.name.lower() == kind.lower()]
            if place.is_dir()
            else []
        )
        for folder in (*own, place) if place.is_dir() else ():
            for image in list_images(folder):
                masks.setdefault(image.stem.lower(), image)
    return masks


def read_mask(path: Path | None, width: int, height: int) -> np.ndarray:
    """bool (height, width), True where anomalous; all False without a mask. Raises OmniadError where it cannot be read."""
    import cv2

    if path is None:
        return np.zeros((height, width), bool)
    mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if mask is None:
        raise OmniadError(f"{path} is missing or is not an image that can be read")
    mask = mask if mask.ndim == 2 else mask[..., :3].max(-1)
    # masks of 0 and 1, of 0 and 255, and numbered regions are all about; only bright ones can have soft edges
    mask = mask > (0.5 * float(mask.max()) if mask.max() > SOFT else 0)
    if mask.shape != (height, width):
        mask = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA) > 0.5
    return mask


def read_true_poses(root: Path) -> dict[str, Pose]:
    """True poses of test images by ``<kind>/<name without suffix>``, from test_poses.json, else from test frames in the transforms.

    test_poses.json holds nerfstudio's ``{"frames": [{"file_path", "transform_matrix"}]}``, that list alone, ``{path: 4x4}`` or
    ``{kind: {name: 4x4}}``, in the frame of the survey's transforms.json and in nerfstudio's convention. Keys are in lower case.
    """
    for name in ("test_poses.json", "transforms_test.json", "test/transforms.json", "transforms.json"):
        path = root / name
        if not path.is_file():
            continue
        data = read_json(path)
        if isinstance(data, list):
            data = {"frames": data}
        if isinstance(data, dict) and "frames" not in data:
            data = {"frames": list(_pose_entries(data))}
        poses = {}
        for frame in as_transforms(data, path).frames:
            parts = Path(frame.file_path.replace("\\", "/").lstrip("./").lower()).parts
            if (name == "transforms.json" and "test" not in parts) or not parts:
                continue
            pose = read_pose(frame, path)
            if pose is not None:
                named = Path(parts[-1])
                poses[
                    f"{parts[-2] if len(parts) > 1 else 'test'}/{named.stem if named.suffix in SUFFIXES else named}"
                ] = pose
        if poses:
            return poses
    return {}


def _pose_entries(data: dict, prefix: str = "") -> Iterator[dict]:
    """Frames as nerfstudio writes them, of a mapping from (nested) paths to matrices."""
    for key, value in data.items():
        if isinstance(value, list):
            yield {"file_path": prefix + key, "transform_matrix": value}
        elif isinstance(value, dict) and "transform_matrix" in value:
            yield {"file_path": prefix + key, "transform_matrix": value["transform_matrix"]}
        elif isinstance(value, dict):
            yield from _pose_entries(value, f"{prefix}{key}/")


def _hold_out(root: Path, transforms: Path) -> Dataset:
    """Normal test frames out of the survey itself: those that nerfstudio's file names as test, else every 8th."""
    data, finder = load_transforms(transforms), ImageFinder(transforms.parent, root)
    frames = [frame for frame in data.frames if finder.find(frame.file_path) is not None]  # as `read_transforms` does
    names = [frame.file_path for frame in frames]
    chosen = [n for n in data.test_filenames if n in names] or names[HOLDOUT // 2 :: HOLDOUT]
    if len(chosen) < 1 or len(names) - len(chosen) < 3:
        raise OmniadError(f"{transforms} has too few images ({len(names)}) to keep some as test frames")
    tests = [
        TestFrame(finder.find(name), "good", None, read_pose(frame, transforms))
        for frame, name in zip(frames, names)
        if name in chosen
    ]
    return Dataset(root, "nerfstudio", transforms, tuple(tests), tuple(chosen))
