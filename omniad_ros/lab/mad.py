"""Writes datasets in the MAD layout, whatever made their pictures, with true poses and with what is known of each picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.files import write_json
from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.core.images import encode_jpeg, write_image
from omniad_ros.site import PosedImages, write_transforms


@dataclass(frozen=True)
class Picture:
    """image: uint8 RGB (H, W, 3); mask: uint8 (H, W), 0 or 255 where anomalous, None of a normal picture; said: the conditions
    that it was taken under, for whoever looks for causes."""

    image: np.ndarray
    mask: np.ndarray | None = None
    said: dict = field(default_factory=dict)


class MadWriter:
    """A dataset in the making.

    ``train/good/000.png``…, ``test/<kind>/000.png``…, ``ground_truth/<kind>/000_mask.png`` (255 anomalous; none for 'good'),
    ``transforms.json`` (nerfstudio's format, survey only), ``test_poses.json`` (true poses of the test images, same format) and
    ``conditions.json`` ({path: what `Picture.said` holds}, where there is any).
    """

    def __init__(self, out: Path, camera: Camera, jpeg: int | None = None):
        """jpeg: quality of the pictures' files, PNG where None. Raises OmniadError where ``out`` holds something already."""
        if out.exists() and any(out.iterdir()):
            raise OmniadError(f"{out} is not empty; choose an empty output folder")
        self.out, self.camera, self.jpeg = out, camera, jpeg
        self._survey: dict[str, Pose] = {}
        self._tests: dict[str, Pose] = {}
        self._count: dict[str, int] = {}
        self._said: dict[str, dict] = {}

    def survey(self, picture: Picture, pose: Pose) -> None:
        """Add a picture of the normal place; pose: map_from_camera."""
        self._survey[self._write("train/good", picture)] = pose

    def patrol(self, picture: Picture, pose: Pose, kind: str) -> None:
        """Add a test picture; kind "good" for a normal one."""
        name = self._write(f"test/{kind}", picture)
        self._tests[name] = pose
        if picture.mask is not None:
            folder = self.out / "ground_truth" / kind
            folder.mkdir(parents=True, exist_ok=True)
            write_image(folder / f"{Path(name).stem}_mask.png", picture.mask)

    def finish(self) -> Path:
        """Write what is about all pictures; returns the dataset's folder."""
        survey = PosedImages(self.camera, self.out, tuple(self._survey), tuple(self._survey.values()))
        write_transforms(self.out / "transforms.json", survey)
        frames = [{"file_path": name, "transform_matrix": pose.opengl().tolist()} for name, pose in self._tests.items()]
        write_json(self.out / "test_poses.json", {"frames": frames})
        if self._said:
            write_json(self.out / "conditions.json", self._said)
        return self.out

    def _write(self, folder: str, picture: Picture) -> str:
        (self.out / folder).mkdir(parents=True, exist_ok=True)
        number = self._count[folder] = self._count.get(folder, -1) + 1
        name = f"{folder}/{number:03d}.{'png' if self.jpeg is None else 'jpg'}"
        if self.jpeg is None:
            write_image(self.out / name, picture.image)
        else:
            (self.out / name).write_bytes(encode_jpeg(picture.image, quality=self.jpeg))
        if picture.said:
            self._said[name] = picture.said
        return name
