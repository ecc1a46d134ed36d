"""The detector's networks at inference: images in, raw scores out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniad_ros.detection.comparison import ComparisonNetwork
from omniad_ros.detection.device import device, device_of, inference_precision
from omniad_ros.detection.matching import network_input
from omniad_ros.detection.student import ReverseDistillation, distillation_heatmap, normalized, padded, to_tensor

CONTEXT = 32
"""Pixels around a tile that the network sees besides."""
DISTILLATION_SMOOTHING = 2.0
"""Pixels at working size by which the paper's heatmap is smoothed."""


@dataclass(frozen=True)
class Networks:
    """What gives the raw scores: the frozen teacher, the site's distillation and, where it has one, its comparison."""

    teacher: nn.Module
    distillation: ReverseDistillation
    comparison: ComparisonNetwork | None

    @staticmethod
    def for_inference(
        teacher: nn.Module, distillation: ReverseDistillation, comparison: ComparisonNetwork | None
    ) -> Networks:
        """In evaluation mode, on the GPU where there is one, in the memory layout that is fastest."""
        for part in (teacher, distillation, comparison):
            if part is not None:
                part.eval().requires_grad_(False).to(device(), memory_format=torch.channels_last)
        return Networks(teacher, distillation, comparison)

    @torch.inference_mode()
    def distillation_scores(self, images: list[np.ndarray]) -> np.ndarray:
        """The paper's heatmap of uint8 images (H, W, 3) of one size: (B, H, W) float32, in sums of cosine distances."""
        height, width = images[0].shape[:2]
        where = device_of(self.teacher)
        x = normalized(padded(to_tensor(images))).to(where).contiguous(memory_format=torch.channels_last)
        with inference_precision(where):
            maps = self.teacher(x)
            given_back = self.distillation(maps)
        heat = _smoothed(distillation_heatmap(maps, given_back, *x.shape[-2:]), DISTILLATION_SMOOTHING)
        return heat[:, :height, :width].cpu().numpy()

    def comparison_scores(self, frame: np.ndarray, reference: np.ndarray, covered: np.ndarray) -> np.ndarray:
        """Logits of change (H, W) float32 of float images (H, W, 3) in [0, 1]; covered: bool (H, W)."""
        return self._logits(network_input(frame, reference, covered), self.comparison.both_ways)

    def second_look(self, pair: np.ndarray, tiles: list[tuple[slice, slice]]) -> np.ndarray:
        """Logits of change (H, W) float32 of a `network_input` (H, W, 6), compared from one side, in the ``tiles`` (rows, columns)
        alone; NaN elsewhere."""
        logits = np.full(pair.shape[:2], np.nan, np.float32)
        for tile in tiles:
            wide = tuple(slice(max(0, s.start - CONTEXT), s.stop + CONTEXT) for s in tile)
            inside = tuple(
                slice(s.start - w.start, s.start - w.start + s.stop - s.start) for s, w in zip(tile, wide, strict=True)
            )
            logits[tile] = self._logits(pair[wide], self.comparison)[inside]
        return logits

    @torch.inference_mode()
    def _logits(self, pair: np.ndarray, network: Callable[[Tensor], Tensor]) -> np.ndarray:
        height, width = pair.shape[:2]
        where = device_of(self.comparison)
        x = torch.from_numpy(np.ascontiguousarray(pair).transpose(2, 0, 1)[None]).to(where)
        x = F.pad(x, (0, -width % 32, 0, -height % 32), mode="replicate").contiguous(memory_format=torch.channels_last)
        with inference_precision(where):
            logits = network(x).float()
        return F.interpolate(logits[:, None], scale_factor=2, mode="bilinear")[0, 0, :height, :width].cpu().numpy()


def _smoothed(maps: Tensor, sigma: float) -> Tensor:
    radius = int(3 * sigma)
    line = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=maps.device) / sigma) ** 2)
    line = line / line.sum()
    x = F.pad(maps[:, None], (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(x, line[None, None, None]), line[None, None, :, None])[:, 0]
