"""Reverse distillation with attention: a frozen teacher, a one-class bottleneck and a student that undoes the teacher.

The student only ever saw the normal place, so where it fails to give back the teacher's features, something is new.
Read from top to bottom, in the order in which an image passes: teacher, bottleneck, student, loss, heatmap.
Reverse distillation: Deng and Li, CVPR 2022, arXiv 2201.10703; attention in the student: OmniAD, arXiv 2406.18012.
"""

from __future__ import annotations

import copy
import hashlib
import logging
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from omniad_ros.core.feedback import OmniadError

log = logging.getLogger(__name__)

BUNDLED = Path(__file__).parent / "weights" / "teacher.safetensors"
IMAGENET_BACKBONES = ("resnext50_32x4d", "wide_resnet50_2", "resnet34", "resnet18")
DINOV2 = {"dinov2_vits14": "vit_small_patch14_dinov2", "dinov2_vitb14": "vit_base_patch14_dinov2"}
"""Our names, which are DINOv2's own, and timm's."""
BACKBONES = ("compact", *IMAGENET_BACKBONES, *DINOV2)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


# ---------------------------------------------------------------------------------------------------------- the teacher


def convolution(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class Residual(nn.Module):
    """x + two convolutions of x, at the same shape."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = convolution(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


class CompactTeacher(nn.Module):
    """The bundled backbone: 1.9 M parameters, features at strides 4, 8 and 16 (trained by `train_teacher`)."""

    channels = (64, 128, 256)

    def __init__(self):
        super().__init__()
        self.stem = convolution(3, 32, size=5, stride=2)
        widths = (32, *self.channels)
        self.stages = nn.ModuleList(
            nn.Sequential(convolution(a, b, stride=2), Residual(b)) for a, b in pairwise(widths)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """x: (B, 3, H, W), normalized. Returns three maps: (B, 64, H/4, W/4), (B, 128, H/8, W/8), (B, 256, H/16, W/16)."""
        x, maps = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def normalized(images: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] to the backbones' input."""
    return (images - images.new_tensor(IMAGENET_MEAN)[:, None, None]) / images.new_tensor(IMAGENET_STD)[:, None, None]


class ImageNetTeacher(nn.Module):
    """A torchvision ResNet up to its third block: features at strides 4, 8 and 16."""

    def __init__(self, backbone: str):
        super().__init__()
        import torchvision

        net = torchvision.models.get_model(backbone, weights=None)
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        self.layer1, self.layer2, self.layer3 = net.layer1, net.layer2, net.layer3
        self.channels = (64, 128, 256) if backbone in ("resnet18", "resnet34") else (256, 512, 1024)

    def forward(self, x: Tensor) -> list[Tensor]:
        """x: (B, 3, H, W), normalized. Returns three maps at strides 4, 8 and 16."""
        first = self.layer1(self.stem(x))
        second = self.layer2(first)
        return [first, second, self.layer3(second)]


class DinoTeacher(nn.Module):
    """A vision transformer of DINOv2 (arXiv 2304.07193) by timm: the tokens of a quarter, half and three quarters of its blocks.

    All tokens lie at stride 16 (the image is scaled so that its patches of 14 pixels do); the earlier two are interpolated to
    strides 4 and 8, the shapes that the student expects. Raises OmniadError where timm is missing or too old.
    """

    def __init__(self, backbone: str):
        super().__init__()
        try:
            import timm

            self.net = timm.create_model(DINOV2[backbone], pretrained=False, num_classes=0, dynamic_img_size=True)
            self.net.forward_intermediates  # noqa: B018
        except (ImportError, RuntimeError, TypeError, AttributeError) as error:
            raise OmniadError(f"the backbone '{backbone}' needs timm 1.0 or newer: pip install 'timm>=1.0'") from error
        depth, width = len(self.net.blocks), self.net.embed_dim
        self.blocks, self.channels = [depth // 4 - 1, depth // 2 - 1, 3 * depth // 4 - 1], (width, width, width)

    def forward(self, x: Tensor) -> list[Tensor]:
        """x: (B, 3, H, W), normalized, sides multiples of 16. Returns three maps at strides 4, 8 and 16."""
        x = F.interpolate(x, scale_factor=14 / 16, mode="bilinear", antialias=True)
        maps = self.net.forward_intermediates(x, indices=self.blocks, norm=True, intermediates_only=True)
        return [
            F.interpolate(m, scale_factor=s, mode="bilinear") if s > 1 else m
            for m, s in zip(maps, (4, 2, 1), strict=True)
        ]


def _dino_file(backbone: str) -> Path:
    """The weights of DINOv2 in Hugging Face's cache, downloaded where they are not there yet."""
    repository = f"timm/{DINOV2[backbone]}.lvd142m"
    try:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(repository, "model.safetensors"))
    except Exception as error:  # it may be missing; offline it raises its own kinds and those of its HTTP library
        raise OmniadError(
            f"no weights for {backbone}: give the model.safetensors of {repository} as teacher_weights, or use the backbone 'compact'"
        ) from error


def imagenet_file(backbone: str) -> Path:
    """Where torch.hub keeps the ImageNet weights of a torchvision backbone, there or not."""
    import torchvision

    url = torchvision.models.get_model_weights(backbone).DEFAULT.url
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]


def choose_backbone(option: str, weights: str = "") -> tuple[str, Path]:
    """Which teacher, and the file of its weights: explicit option, else cached ImageNet weights, else the bundled one.

    option: "auto" or a name of BACKBONES ("compact" is the bundled one); weights: a file given by hand (torchvision's
    .pth, or safetensors), or "". Logs one line that says which and why. Raises OmniadError for unknown names and where
    explicitly named weights are neither at hand nor to be downloaded.
    """
    if option not in ("auto", *BACKBONES):
        raise OmniadError(f"unknown backbone '{option}', known: auto, {', '.join(BACKBONES)}")
    if weights:
        backbone = IMAGENET_BACKBONES[0] if option == "auto" else option
        if not Path(weights).is_file():
            raise OmniadError(f"the teacher weights {weights} are missing")
        log.info("teacher: %s with the weights given in %s", backbone, weights)
        return backbone, Path(weights)
    if option == "auto":
        for backbone in IMAGENET_BACKBONES:
            if imagenet_file(backbone).is_file():
                log.info("teacher: %s, because its ImageNet weights lie in torch's cache", backbone)
                return backbone, imagenet_file(backbone)
        log.info("teacher: the bundled compact one, because torch's cache holds no ImageNet weights")
        return "compact", BUNDLED
    if option == "compact":
        log.info("teacher: the bundled compact one, as asked")
        return "compact", BUNDLED
    if option in DINOV2:
        path = _dino_file(option)
        log.info("teacher: %s with DINOv2's weights, as asked", option)
        return option, path
    path = imagenet_file(option)
    if not path.is_file():
        import torchvision

        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(
                torchvision.models.get_model_weights(option).DEFAULT.url, str(path), progress=False
            )
        except OSError as error:
            message = f"no ImageNet weights for {option}: download them to {path} or use the backbone 'compact'"
            raise OmniadError(message) from error
    log.info("teacher: %s with ImageNet weights, as asked", option)
    return option, path


def load_teacher(backbone: str, weights: Path, sha256: str | None = None) -> tuple[nn.Module, str]:
    """The frozen teacher, and the SHA-256 of its weights, which must be ``sha256`` where that is given.

    Raises OmniadError where the file is missing, altered or of another network. Nothing in it is executed.
    """
    if not weights.is_file():
        raise OmniadError(f"the teacher weights {weights} are missing")
    digest = file_sha256(weights)
    if sha256 is not None and digest != sha256:
        raise OmniadError(
            f"{weights} is not the teacher that the detector was trained with; give the original or train the detector again"
        )
    teacher = (
        CompactTeacher()
        if backbone == "compact"
        else DinoTeacher(backbone)
        if backbone in DINOV2
        else ImageNetTeacher(backbone)
    )
    try:
        state = (
            load_file(weights)
            if weights.suffix == ".safetensors"
            else torch.load(weights, map_location="cpu", weights_only=True)
        )
        if backbone in IMAGENET_BACKBONES:
            state = {_own_name(k): v for k, v in state.items() if not k.startswith(("layer4", "fc"))}
        elif backbone in DINOV2:  # timm's names are DINOv2's own; what its training masked with is not needed
            state = {f"net.{k.removeprefix('net.')}": v for k, v in state.items() if k != "mask_token"}
        missing = teacher.load_state_dict(
            {k: v.float() if v.is_floating_point() else v for k, v in state.items()}, strict=False
        )
        if missing.unexpected_keys or any(not k.endswith("num_batches_tracked") for k in missing.missing_keys):
            raise ValueError("other layers")
    except Exception as error:  # whatever a foreign file makes torch raise
        raise OmniadError(f"{weights} does not hold weights of {backbone}") from error
    return teacher.eval().requires_grad_(False), digest


def untrained_like(teacher: nn.Module) -> nn.Module:
    """A teacher of the same shape whose weights were drawn at random: what a trained one must beat."""
    fresh = copy.deepcopy(teacher)
    for module in fresh.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return fresh.eval().requires_grad_(False)


def file_sha256(path: Path) -> str:
    """Of a file's content; asked again only where the file was changed."""
    return _sha256(path, path.stat().st_mtime_ns)


@cache
def _sha256(path: Path, modified: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _own_name(key: str) -> str:
    return (
        f"stem.{('conv1', 'bn1').index(key.split('.')[0])}.{key.split('.', 1)[1]}"
        if key.startswith(("conv1", "bn1"))
        else key
    )


# ------------------------------------------------------------------------------------- the bottleneck and the student


class Bottleneck(nn.Module):
    """Fuses the teacher's three maps and squeezes them into a one-class embedding at stride 32, too small for news."""

    def __init__(self, channels: tuple[int, int, int], width: int):
        super().__init__()
        c4, c8, c16 = channels
        self.from4 = nn.Sequential(convolution(c4, width // 2, stride=2), convolution(width // 2, width, stride=2))
        self.from8 = convolution(c8, width, stride=2)
        self.from16 = convolution(c16, width, size=1)
        self.embed = nn.Sequential(
            convolution(3 * width, width, size=1), convolution(width, width, stride=2), Residual(width)
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        fused = torch.cat(
            [self.from4(maps[0]), self.from8(maps[1]), self.from16(maps[2])], dim=1
        )  # (B, 3W, H/16, W/16)
        return self.embed(fused)  # (B, W, H/32, W/32)


class Attention(nn.Module):
    """Self-attention over all places of a map, with a position code: every place sees the whole view.

    Where ``pool`` is above 1, what is looked at is pooled first (as in the Pyramid Vision Transformer, arXiv 2102.12122).
    """

    def __init__(self, channels: int, pool: int, heads: int = 4):
        super().__init__()
        self.heads, self.pool = heads, pool
        self.norm = nn.GroupNorm(1, channels)
        self.position = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        inner = self.norm(x)
        inner = inner + self.position(inner)
        weight, bias = self.qkv.weight, self.qkv.bias
        q = F.conv2d(inner, weight[:c], bias[:c]).reshape(b, self.heads, c // self.heads, h * w)
        kv = F.conv2d(F.avg_pool2d(inner, self.pool), weight[c:], bias[c:]).reshape(
            b, 2, self.heads, c // self.heads, -1
        )
        q, k, v = (
            x.transpose(-1, -2) for x in (q, *kv.unbind(1))
        )  # (B, heads, H W, C / heads), the others H W / pool^2
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(mixed.transpose(-1, -2).reshape(b, c, h, w))


class Student(nn.Module):
    """Gives back the teacher's maps from the embedding, coarse to fine; attention at its two coarsest scales."""

    def __init__(self, channels: tuple[int, int, int], width: int, attention: bool):
        super().__init__()
        widths = [width] + [min(c, 256) for c in reversed(channels)]
        self.stages = nn.ModuleList(
            nn.Sequential(
                convolution(a, b), Residual(b), Attention(b, pool=(1, 2)[i]) if attention and i < 2 else nn.Identity()
            )
            for i, (a, b) in enumerate(pairwise(widths))
        )
        self.heads = nn.ModuleList(nn.Conv2d(b, c, 1) for b, c in zip(widths[1:], reversed(channels), strict=True))

    def forward(self, embedding: Tensor) -> list[Tensor]:
        """(B, W, H/32, W/32) to maps of the teacher's shapes, in its order."""
        x, maps = embedding, []
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = stage(F.interpolate(x, scale_factor=2, mode="nearest"))
            maps.append(head(x))
        return maps[::-1]


class ReverseDistillation(nn.Module):
    """Bottleneck and student; the teacher stays outside, it is frozen and its weights are not the site's."""

    def __init__(self, channels: tuple[int, int, int], attention: bool = True, width: int = 256):
        super().__init__()
        self.bottleneck = Bottleneck(channels, width)
        self.student = Student(channels, width, attention)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return self.student(self.bottleneck(maps))


# ---------------------------------------------------------------------------------------------- the loss and the heatmap


def distance_maps(teacher: list[Tensor], student: list[Tensor]) -> list[Tensor]:
    """1 - cosine of the teacher's and the student's features, a scale each: (B, h, w) in [0, 2]."""
    return [1 - F.cosine_similarity(t.float(), s.float(), dim=1) for t, s in zip(teacher, student, strict=True)]


def distillation_loss(teacher: list[Tensor], student: list[Tensor]) -> Tensor:
    """The cosine loss, summed over the three scales."""
    return sum(d.mean() for d in distance_maps(teacher, student))


def distillation_heatmap(teacher: list[Tensor], student: list[Tensor], height: int, width: int) -> Tensor:
    """The sum of the distance maps, brought to (B, height, width): the paper's heatmap."""
    maps = [F.interpolate(d[:, None], (height, width), mode="bilinear") for d in distance_maps(teacher, student)]
    return torch.cat(maps, dim=1).sum(dim=1)


def padded(images: Tensor, multiple: int = 32) -> Tensor:
    """(B, 3, H, W), mirrored at its right and bottom edge to sides that are multiples of ``multiple``."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def to_tensor(images: list[np.ndarray]) -> Tensor:
    """uint8 images (H, W, 3) of one size to (B, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().div_(255)
