"""Images: files as they come from cameras and datasets, found, checked and read as uint8 RGB; and every resizing and colouring.

Transparent pixels become white, as in NeRF's synthetic scenes and MAD; 16-bit images are scaled to 8 bits. A photograph's
orientation mark is applied where it is asked for: poses that another tool found belong to the pixels as they are stored.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from omniad_ros.core.feedback import OmniadError, Progress, quiet
from omniad_ros.core.files import check_regular

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
UNREAD = (
    ".heic", ".heif", ".avif", ".jxl", ".jp2", ".gif", ".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf",
    ".rw2", ".exr", ".hdr",
)  # fmt: skip
"""Formats of pictures that are not read."""
ORIENTATION = 274
UPRIGHT = {
    2: lambda image: image[:, ::-1], 3: lambda image: image[::-1, ::-1], 4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1), 6: lambda image: np.rot90(image, -1), 7: lambda image: np.rot90(image, 2).swapaxes(0, 1),
    8: lambda image: np.rot90(image),
}  # fmt: skip
"""What EXIF's orientation marks ask for."""
LAST_BYTES = {"JPEG": b"\xff\xd9", "PNG": b"IEND", "WEBP": b"", "TIFF": b""}
"""The formats of compressed images in messages, and what a whole one has in its last `PADDING` bytes."""
PADDING = 4096
READ = ("BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""The formats, as PIL names them, that may be looked at, whatever a file is called: PIL hands PostScript to a program that runs it."""
MAX_SIDE, MAX_PIXELS = 1 << 14, 1 << 26
"""Pixels beyond which an image is no camera's: 64 megapixels, the most that machine vision cameras with ROS drivers give."""


def check_size(path: Path) -> None:
    """Raise OmniadError where a file is no image, or its header says that it has more pixels than a camera's: a few bytes can
    stand for gigabytes, which are not to be decoded first."""
    from PIL import Image

    try:
        check_regular(path)
        with Image.open(path, formats=READ) as image:
            size = image.size
    except Image.DecompressionBombError:
        raise OmniadError(f"{path} is an image with more pixels than any camera has") from None
    except OmniadError:
        raise
    except Exception as error:  # PIL raises many kinds
        raise OmniadError(f"{path} is missing or is not an image that can be read") from error
    _check_pixels(path, *size)


def _check_pixels(path: Path, width: int, height: int) -> None:
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise OmniadError(f"{path} is an image of {width}x{height} pixels, more than any camera has")


def read_image(path: Path) -> np.ndarray:
    """uint8 RGB (H, W, 3). Raises OmniadError where the file is no readable image."""
    import cv2

    check_size(path)
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise OmniadError(f"{path} is missing or is not an image that can be read")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def write_image(path: Path, image: np.ndarray) -> None:
    """Write a uint8 RGB or grey image; the suffix decides the format. Raises OSError where it cannot be written."""
    import cv2

    data = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    ok, encoded = cv2.imencode(path.suffix, data, [cv2.IMWRITE_JPEG_QUALITY, 95])
    if not ok:
        raise ValueError(f"cannot encode an image of shape {image.shape} as {path.suffix}")
    path.write_bytes(encoded.tobytes())


def list_images(directory: Path) -> list[Path]:
    """Image files directly in a directory, in natural order (2 before 10); hidden files are left out."""
    files = [
        p for p in directory.iterdir() if p.is_file() and p.suffix.lower() in SUFFIXES and not p.name.startswith(".")
    ]
    return sorted(files, key=lambda p: natural_key(p.name))


def other_pictures(directory: Path) -> list[Path]:
    """Pictures directly in a directory in formats that are not read, such as a phone's or a camera's own."""
    found = (
        p for p in directory.iterdir() if p.is_file() and p.suffix.lower() in UNREAD and not p.name.startswith(".")
    )
    return sorted(found, key=lambda p: natural_key(p.name))


def natural_key(name: str) -> list:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name.lower())]


def read_picture(path: Path, upright: bool = True) -> np.ndarray:
    """uint8 RGB (H, W, 3) of an image file; upright: apply its orientation mark. Raises OmniadError where it cannot be read."""
    import cv2
    from PIL import Image

    check_size(path)
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise OmniadError(f"{path} is missing or is not an image that can be read")
    if image.dtype == np.uint16:
        image = (image // 257).astype(np.uint8)
    if image.dtype != np.uint8:
        raise OmniadError(f"{path} has pixels of type {image.dtype}; images must have 8 or 16 bits a channel")
    if upright:
        with Image.open(path, formats=READ) as file:
            image = UPRIGHT.get(_orientation(file), lambda image: image)(image)
    if image.ndim == 2:
        return np.repeat(image[..., None], 3, axis=2)
    if image.shape[2] == 4:
        alpha = image[..., 3:].astype(np.float32) / 255
        image = np.round(image[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return np.ascontiguousarray(image[..., 2::-1])


def read_pictures(paths: Iterable[Path], upright: bool = True) -> Iterator[np.ndarray]:
    return (read_picture(path, upright) for path in paths)


def _orientation(image) -> int:
    """EXIF's mark of an open PIL image, 1 for none."""
    known = image.format != "PNG" or "exif" in image.info  # PIL would decode the whole of a PNG to look for more
    return image.getexif().get(ORIENTATION, 1) if known else 1


def check_pictures(paths: Sequence[Path], progress: Progress = quiet, upright: bool = True) -> tuple[int, int, bool]:
    """Check that all files are whole images of one size.

    Returns (width, height, plain): plain where every file may be used as it is (8-bit RGB JPEG or PNG, upright).
    Raises OmniadError naming the first file that is unreadable or of another size.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        facts = []
        for path, fact in zip(paths, pool.map(lambda path: check_picture(path, upright), paths)):
            facts.append(fact)
            progress(len(facts) / len(paths), f"checking {path.name}")
    size = facts[0][:2]
    for path, fact in zip(paths, facts):
        if fact[:2] != size:
            raise OmniadError(
                f"the images differ in size: {paths[0].name} is {size[0]}x{size[1]}, {path.name} is {fact[0]}x{fact[1]}; "
                "a survey must come from one camera"
            )
    return *size, all(fact[2] for fact in facts)


def check_picture(path: Path, upright: bool = True) -> tuple[int, int, bool]:
    """(width, height, whether the file may be used as it is). Raises OmniadError where it is no whole image."""
    import cv2
    from PIL import Image

    try:
        check_regular(path)
        with Image.open(path, formats=READ) as image:
            kind, mode, (width, height) = image.format, image.mode, image.size
            _check_pixels(path, width, height)
            turned = _orientation(image)
            if kind == "PNG":
                image.verify()  # checks every chunk's sum, which is far quicker than to decode
            else:
                image.draft("L", (width // 8, height // 8))
                image.load()
    except FileNotFoundError:
        raise OmniadError(f"{path} is missing") from None
    except OmniadError:
        raise
    except Image.DecompressionBombError:
        raise OmniadError(f"{path} is an image with more pixels than any camera has") from None
    except Exception as error:
        raise OmniadError(f"{path} is not an image that can be read ({error})") from error
    if not cv2.haveImageReader(str(path)):
        raise OmniadError(f"{path} is a {kind} image; expected one of {', '.join(SUFFIXES)}")
    if upright and turned in (5, 6, 7, 8):
        width, height = height, width
    return width, height, kind in ("JPEG", "PNG") and mode == "RGB" and turned == 1


def is_cut_off(kind: str, data: bytes | np.ndarray) -> bool:
    """Whether the end of an encoded image is missing (kind: as PIL names it); decoders fill what it lacks with grey."""
    return LAST_BYTES.get(kind, b"") not in bytes(data[-PADDING:])


def unique_names(paths: Sequence[Path], suffix: str | None = None) -> tuple[str, ...]:
    """A file name for each path: its own where all differ, else numbered. ``suffix`` replaces the paths' own."""
    names = [path.stem + (suffix or path.suffix.lower()) for path in paths]
    if len(set(names)) == len(names):
        return tuple(names)
    return tuple(f"{index:05d}{suffix or path.suffix.lower()}" for index, path in enumerate(paths))


def resized(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """An image or a map of probabilities (uint8 or float, (H, W[, C])) at another size: averaged where it shrinks, linear where
    it grows; the image itself where it has that size."""
    import cv2

    if image.shape[1::-1] == (width, height):
        return image
    return cv2.resize(
        image, (width, height), interpolation=cv2.INTER_AREA if width < image.shape[1] else cv2.INTER_LINEAR
    )


def resized_map(values: np.ndarray, width: int, height: int) -> np.ndarray:
    """A depth map, mask or map of counts (H, W) at another size: no value that was not there before, none blended into NaN."""
    import cv2

    if values.shape[1::-1] == (width, height):
        return values
    plain = values.astype(np.uint8) if values.dtype == bool else values
    return cv2.resize(plain, (width, height), interpolation=cv2.INTER_NEAREST).astype(values.dtype, copy=False)


def to_width(image: np.ndarray, width: int) -> np.ndarray:
    """`resized`, with the image's own ratio."""
    return resized(image, width, max(1, round(image.shape[0] * width / image.shape[1])))


def heat_colors(heatmap: np.ndarray) -> np.ndarray:
    """uint8 RGB (H, W, 3) of a heatmap (H, W): float in [0, 1], or uint8."""
    import cv2

    return np.ascontiguousarray(cv2.applyColorMap(_steps(heatmap), cv2.COLORMAP_INFERNO)[..., ::-1])


def _steps(heatmap: np.ndarray) -> np.ndarray:
    return heatmap if heatmap.dtype == np.uint8 else np.round(255 * np.clip(heatmap, 0, 1)).astype(np.uint8)


def heat_over_grey(frame: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """A heatmap in colour over the darkened frame uint8 (H, W, 3), so that one sees what it speaks of. uint8 RGB (H, W, 3)."""
    import cv2

    height, width = frame.shape[:2]
    steps = resized(_steps(heatmap), width, height)
    weight = np.sqrt(steps[..., None] / 255.0)
    grey = 0.55 * cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)[..., None]
    return np.round(grey * (1 - weight) + heat_colors(steps) * weight).astype(np.uint8)


def encode_jpeg(image: np.ndarray, width: int | None = None, quality: int = 86) -> bytes:
    """A uint8 RGB picture as JPEG, scaled to ``width`` pixels where that is given."""
    import cv2

    picture = image if width is None else to_width(image, width)
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise ValueError(f"cannot encode an image of shape {image.shape}")
    return data.tobytes()


def data_uri(data: bytes, kind: str = "jpeg") -> str:
    """An encoded picture as it stands in an HTML page."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
