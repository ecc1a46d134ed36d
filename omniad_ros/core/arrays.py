"""Arrays from safetensors files, read by what they must be: kind, shape and finite numbers, before anybody counts on them.

Compiled kernels and torch take an array's shape on trust, so one that is shorter than another says would have them read beyond it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.files import check_regular

LARGEST = 1e9
"""No number of a site is larger: places are metres, weights are near 1."""


@dataclass(frozen=True)
class Expected:
    """What an array of a file must be.

    kind: numpy's name of its type; shape: each side as a number or a name, sides of one name being equal; optional: it may be
    absent; gaps: it may hold NaN and infinities, which say that something is not known.
    """

    kind: str
    shape: tuple[int | str, ...]
    optional: bool = False
    gaps: bool = False


def read_arrays(path: Path, expected: Mapping[str, Expected]) -> dict[str, np.ndarray]:
    """The named arrays of a safetensors file; others in it are passed over.

    Raises OmniadError where the file is missing or damaged, or an array is absent, of another kind or shape, or not finite.
    """
    from safetensors.numpy import load_file

    try:
        check_regular(path)
        found = load_file(path)
    except OmniadError:
        raise
    except Exception as error:  # safetensors raises many kinds for a damaged file
        raise OmniadError(f"{path} cannot be read ({error}); build the site again") from error
    sides: dict[str, int] = {}
    for name, wanted in expected.items():
        if name in found:
            _check(found[name], f"{path} is damaged: {name}", wanted, sides)
        elif not wanted.optional:
            raise OmniadError(f"{path} is damaged: {name} is missing; build the site again")
    return {name: found[name] for name in expected if name in found}


def _check(array: np.ndarray, what: str, wanted: Expected, sides: dict[str, int]) -> None:
    """sides: those that are known by name, to which this array's are added."""
    if len(array.shape) == len(wanted.shape):
        for side, length in zip(wanted.shape, array.shape, strict=True):
            if isinstance(side, str):
                sides.setdefault(side, length)
    shape = tuple(sides.get(side, side) if isinstance(side, str) else side for side in wanted.shape)
    if array.shape != shape or array.dtype != np.dtype(wanted.kind):
        is_now, should_be = (
            f"{dtype}[{', '.join(map(str, s))}]"
            for dtype, s in ((array.dtype, array.shape), (np.dtype(wanted.kind), shape))
        )
        raise OmniadError(f"{what} is {is_now}, not {should_be}; build the site again")
    if array.dtype.kind == "f" and not wanted.gaps and not is_sound(array):
        raise OmniadError(f"{what} holds numbers that are not finite or absurdly large; build the site again")


def is_sound(values: np.ndarray, largest: float = LARGEST) -> bool:
    """Whether all numbers are finite and no larger than anything that is measured or learnt."""
    if not values.size:
        return True
    low, high = float(values.min()), float(values.max())
    return -largest <= low and high <= largest  # NaN compares as false
