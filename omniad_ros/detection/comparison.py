"""Reference comparison: frame and reference view in, logits of "this pixel has changed" out.

A small two-branch network. Both views pass one encoder; at each scale their features are compared, also over small
shifts, because a reference view is never aligned to the pixel; a U-Net puts the scales together. It comes trained on
made-up places (`train_comparison`) and is tuned to each site with anomalies planted in the site's own normal views.
The paper (OmniAD) does not use the reference view so; this part is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from omniad_ros.core.feedback import Progress, quiet
from omniad_ros.detection.anomalies import Pair
from omniad_ros.detection.device import device, training_precision
from omniad_ros.detection.matching import network_input
from omniad_ros.detection.student import CompactTeacher, Residual, convolution

BUNDLED = Path(__file__).parent / "weights" / "comparison.safetensors"


# -------------------------------------------------------------------------------------------------------- the network


def shifted_distances(a: Tensor, b: Tensor, radii: tuple[int, ...]) -> Tensor:
    """How far each place of ``a`` is from the same place of ``b``, and from the best within each radius; and back.

    a, b: (B, C, H, W). Returns (B, 1 + 2 len(radii), H, W): mean absolute differences.
    """
    h, w = a.shape[-2:]
    largest = max(radii)
    wide = F.pad(b, (largest,) * 4, mode="replicate")
    forth, back = {}, {}
    for dy in range(-largest, largest + 1):
        for dx in range(-largest, largest + 1):
            ring = max(abs(dy), abs(dx))
            rows, columns = slice(largest + dy, largest + dy + h), slice(largest + dx, largest + dx + w)
            there = (a - wide[..., rows, columns]).abs().mean(1, keepdim=True)
            # the same distances, looked up from b's side: what a's place p - (dy, dx) found at b's place p
            here = F.pad(there, (largest,) * 4, mode="replicate")[..., largest - dy :, largest - dx :][..., :h, :w]
            forth[ring] = there if ring not in forth else torch.minimum(forth[ring], there)
            back[ring] = here if ring not in back else torch.minimum(back[ring], here)
    maps = [forth[0]]
    for store in (forth, back):
        best = store[0]
        for ring in range(1, largest + 1):
            best = torch.minimum(best, store[ring])
            if ring in radii:
                maps.append(best)
    return torch.cat(maps, dim=1)


class Fusion(nn.Module):
    """Compares two feature maps of one scale: both, their difference, and their distances over small shifts."""

    def __init__(self, channels: int, inner: int, width: int, radii: tuple[int, ...]):
        super().__init__()
        self.radii = radii
        self.project = nn.Conv2d(channels, inner, 1)
        self.mix = convolution(3 * inner + (1 + 2 * len(radii) if radii else 0), width)

    def forward(self, frame: Tensor, reference: Tensor) -> Tensor:
        a, b = self.project(frame), self.project(reference)
        parts = [a, b, (a - b).abs()]
        if self.radii:
            # the projections learn through the other parts; 25 shifts backward would double the cost
            with torch.no_grad():
                parts.append(shifted_distances(a, b, self.radii))
        return self.mix(torch.cat(parts, dim=1))


class ComparisonNetwork(nn.Module):
    """(B, 6, H, W) of `network_input`, sides multiples of 32, to logits (B, H/2, W/2)."""

    def __init__(self):
        super().__init__()
        backbone = CompactTeacher()
        self.stem = backbone.stem  # 32 channels at stride 2
        self.stages = backbone.stages[:2]  # 64 at stride 4, 128 at stride 8
        self.fuse2 = Fusion(32, 12, 24, (1, 2))
        self.fuse4 = Fusion(64, 24, 48, (1, 2))
        self.fuse8 = Fusion(128, 40, 96, (1,))
        self.down16 = nn.Sequential(convolution(96, 96, stride=2), Residual(96))
        self.down32 = nn.Sequential(convolution(96, 96, stride=2), Residual(96))
        self.up16 = convolution(192, 96)
        self.up8 = convolution(192, 64)
        self.up4 = convolution(64 + 48, 40)
        self.up2 = convolution(40 + 24, 24)
        self.out = nn.Conv2d(24, 1, 1)
        nn.init.constant_(self.out.bias, -3.0)

    def train(self, mode: bool = True) -> ComparisonNetwork:
        """The encoder stays as the teacher's training left it: it is not learnt here, which halves the time."""
        super().train(mode)
        self.stem.eval()
        self.stages.eval()
        return self

    def forward(self, pair: Tensor) -> Tensor:
        frame, reference = zip(*(maps.chunk(2) for maps in self._encoded(pair)), strict=True)
        return self._compared(frame, reference)

    def both_ways(self, pair: Tensor) -> Tensor:
        """The mean of the logits for (frame, reference) and (reference, frame): what has changed has changed seen from either."""
        maps = self._encoded(pair)
        there, back = self._compared(maps, [m.roll(len(pair), 0) for m in maps]).chunk(2)
        return 0.5 * (there + back)

    def _encoded(self, pair: Tensor) -> list[Tensor]:
        """Features at strides 2, 4 and 8 of the frames, then of the references: (2 B, C, h, w)."""
        with torch.no_grad():
            maps = [self.stem(torch.cat([pair[:, :3], pair[:, 3:]]))]
            for stage in self.stages:
                maps.append(stage(maps[-1]))
        return maps

    def _compared(self, frame: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
        f2, f4, f8 = (fuse(*m) for fuse, *m in zip((self.fuse2, self.fuse4, self.fuse8), frame, reference, strict=True))
        f16 = self.down16(f8)
        x = self.up16(torch.cat([f16, _twice(self.down32(f16))], dim=1))
        x = self.up8(torch.cat([f8, _twice(x)], dim=1))
        x = self.up4(torch.cat([f4, _twice(x)], dim=1))
        x = self.up2(torch.cat([f2, _twice(x)], dim=1))
        return self.out(x)[:, 0]


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear")


def load_bundled() -> ComparisonNetwork:
    """The network that ships with the package, trained on made-up places by `train_comparison`."""
    network = ComparisonNetwork()
    state = load_file(BUNDLED)
    network.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
    return network


# ----------------------------------------------------------------------------------------------------------- training


def comparison_loss(logits: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """Weighted cross entropy plus soft Dice over the batch; all (B, h, w)."""
    entropy = F.binary_cross_entropy_with_logits(logits, mask, weight=weight * (1 + 2 * mask))
    chance = logits.sigmoid() * weight
    dice = 1 - (2 * (chance * mask).sum() + 1) / (chance.sum() + (mask * weight).sum() + 1)
    return 4 * entropy + 0.5 * dice


@dataclass(frozen=True)
class ComparisonTraining:
    """How the comparison learns: steps of ``batch`` pairs; rate: its highest, reached after ``warm_up`` steps, from where a cosine
    brings it down to a share of ``last``; weight_decay; largest_gradient: a norm above it is cut. The site's rates are
    `training.TrainingOptions`'; the rest is usual for AdamW and never was tuned."""

    steps: int
    rate: float
    batch: int = 8
    warm_up: int = 30
    last: float = 0.02
    weight_decay: float = 1e-4
    largest_gradient: float = 1.0

    def rate_at(self, step: int) -> float:
        """The learning rate of a step."""
        falling = 0.5 * (1 + np.cos(np.pi * step / self.steps))
        return self.rate * min(1.0, (step + 1) / self.warm_up) * (self.last + (1 - self.last) * falling)


def fit(
    network: ComparisonNetwork, sample: Callable[[], Pair], training: ComparisonTraining, progress: Progress = quiet
) -> float:
    """Train in place on what ``sample`` gives (crops of one size, sides multiples of 32); returns the mean loss of the last tenth."""
    where, steps = device(), training.steps
    network.to(where, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=training.rate, weight_decay=training.weight_decay)
    late = []
    with ThreadPoolExecutor(1) as worker:  # draws the next batch while the network learns from this one
        ahead = worker.submit(_batch, sample, training.batch)
        for step in range(steps):
            drawn = ahead.result()
            ahead = worker.submit(_batch, sample, training.batch)
            for group in optimizer.param_groups:
                group["lr"] = training.rate_at(step)
            x, mask, weight = (tensor.to(where) for tensor in drawn)
            with training_precision(where):
                logits = network(x)
            loss = comparison_loss(logits.float(), mask, weight)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), training.largest_gradient)
            optimizer.step()
            if step >= int(0.9 * steps):
                late.append(loss.item())
            progress((step + 1) / steps, f"comparison: loss {loss.item():.3f}")
    return float(np.mean(late)) if late else float("nan")


def _batch(sample: Callable[[], Pair], count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Network input (B, 6, H, W), mask and weight (B, H/2, W/2) of pairs of one size."""
    drawn = [sample() for _ in range(count)]
    inputs = np.stack([network_input(p.frame, p.reference, np.ones(p.mask.shape, bool)) for p in drawn])
    half = (inputs.shape[2] // 2, inputs.shape[1] // 2)
    masks, weights = (
        torch.from_numpy(np.stack([cv2.resize(m, half, interpolation=cv2.INTER_AREA) for m in maps]))
        for maps in ([p.mask for p in drawn], [p.weight for p in drawn])
    )
    x = torch.from_numpy(inputs.astype(np.float32)).permute(0, 3, 1, 2)  # numpy's layout is channels last already
    return x, masks, weights
