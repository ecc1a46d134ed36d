"""Where the detector's networks run, and how precisely: on a CUDA GPU in half precision where there is one, else on the CPU."""

from __future__ import annotations

import torch
from torch import nn


def device() -> torch.device:
    """The device that networks are brought to."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_of(network: nn.Module) -> torch.device:
    """Where a network lies, and so where its input has to be."""
    return next(network.parameters()).device


def inference_precision(where: torch.device) -> torch.autocast:
    """Autocast for inference: half precision on a GPU, full on a CPU."""
    return torch.autocast("cuda", enabled=where.type == "cuda")


def training_precision(where: torch.device) -> torch.autocast:
    """Autocast for training: bfloat16 where the processor multiplies it natively, which about halves the time, else full."""
    if where.type == "cuda":
        return torch.autocast("cuda", torch.bfloat16, enabled=torch.cuda.is_bf16_supported(including_emulation=False))
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported())
