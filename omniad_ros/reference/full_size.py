"""The survey's photographs at the size of a second look: opened when they are drawn from, and kept while they are."""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np

from omniad_ros.core.geometry import Camera
from omniad_ros.core.images import resized
from omniad_ros.site import PosedImages, Site

MOST_BYTES = 256_000_000
"""Of decoded photographs in memory: 80 of 1280x800, more than a robot's surroundings need."""


class FullSize:
    """Survey images by their index in ``mapped``, at the size of ``camera``; any thread may ask."""

    def __init__(self, mapped: PosedImages, camera: Camera):
        self.mapped, self.camera = mapped, camera
        self._images: OrderedDict[int, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    @staticmethod
    def of_site(site: Site) -> FullSize | None:
        """A mapped site's photographs at the size of its second look; None where they are hardly larger than the working size."""
        mapped = site.mapped
        camera = site.detail_camera(mapped.camera)
        return camera and FullSize(mapped, camera)

    def image(self, index: int) -> np.ndarray:
        """uint8 RGB (H, W, 3). Raises OmniadError where the file cannot be read."""
        with self._lock:
            if index in self._images:
                self._images.move_to_end(index)
                return self._images[index]
        image = resized(self.mapped.image(index), self.camera.width, self.camera.height)
        with self._lock:
            self._images[index] = image
            while len(self._images) > 1 and sum(i.nbytes for i in self._images.values()) > MOST_BYTES:
                self._images.popitem(last=False)
        return image
