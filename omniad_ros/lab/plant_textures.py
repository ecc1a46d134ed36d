"""The plant room's surfaces: worn paint, steel, concrete, wood, brick, hazard stripes, signs and gauges.

Grained surfaces repeat without seams; signs, labels and dials are single pictures. All are uint8 RGB (H, W, 3), and all
but the glossiest carry grain of a few millimetres, so that a camera finds features on every surface.
"""

from __future__ import annotations

import cv2
import numpy as np

from omniad_ros.lab.textures import label


def grain(rng: np.random.Generator, size: int, roughness: float = 1.0) -> np.ndarray:
    """Seamless fractal noise (size, size), mean 0, deviation 1; amplitude falls as frequency**-roughness."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]) * size
    frequency[0, 0] = np.inf
    phase = rng.uniform(0, 2 * np.pi, frequency.shape)
    noise = np.fft.irfft2(frequency**-roughness * np.exp(1j * phase), s=(size, size))
    return (noise - noise.mean()) / noise.std()


def _blend(image: np.ndarray, color, amount: np.ndarray) -> np.ndarray:
    amount = np.clip(amount, 0, 1)[..., None]
    return image * (1 - amount) + np.asarray(color, float) * amount


def _uint8(image: np.ndarray) -> np.ndarray:
    return np.clip(image, 0, 255).astype(np.uint8)


def paint(rng: np.random.Generator, color, size: int = 256, wear: float = 1.0) -> np.ndarray:
    """Painted metal: cloudy colour, grime, scratches and chips down to the primer."""
    color = np.asarray(color, float)
    image = color * (1 + 0.07 * grain(rng, size, 1.3) + 0.05 * grain(rng, size, 0.6))[..., None]
    image = _blend(image, color * 0.45 + [14, 10, 4], 0.55 * wear * np.clip(grain(rng, size, 1.6) - 0.6, 0, 1))
    image = _blend(image, color * 0.6 + 95, 0.5 * wear * np.clip(grain(rng, size, 1.0) - 1.5, 0, 1))
    chips = np.clip(3 * (grain(rng, size, 0.9) - 2.3 + 0.25 * wear), 0, 1)
    image = _blend(image, rng.choice([[92, 62, 44], [120, 118, 112], [66, 60, 58]]), chips)
    for _ in range(int(9 * wear)):
        start, step = rng.uniform(0, size, 2), rng.normal(0, size / 9, 2)
        shade = color * rng.choice([0.55, 1.0]) + rng.choice([0, 60])
        points = [tuple(int(v) for v in start + step * t) for t in (0, 1)]
        image = np.ascontiguousarray(image)
        cv2.line(image, *points, tuple(float(v) for v in np.clip(shade, 0, 255)), 1, cv2.LINE_AA)
    return _uint8(image)


def steel(rng: np.random.Generator, shade: float = 150.0, rust: float = 0.5, size: int = 256) -> np.ndarray:
    """Galvanised or bare steel with spangle, brushing and patches of rust."""
    brushed = cv2.blur(np.hstack([grain(rng, size, 0.3)] * 3), (15, 1))[:, size : 2 * size]
    tone = shade * (1 + 0.10 * grain(rng, size, 0.9) + 0.10 * brushed)
    image = np.stack([tone, tone * 1.01, tone * 1.04], -1)
    image = _blend(image, (112, 66, 36), rust * np.clip(1.2 * (grain(rng, size, 1.2) - 0.7), 0, 0.9))
    return _uint8(_blend(image, (58, 40, 30), rust * np.clip(2 * (grain(rng, size, 0.8) - 1.8), 0, 1)))


def concrete(rng: np.random.Generator, shade: float = 128.0, size: int = 512) -> np.ndarray:
    """A floor: mottled, with pebbles, cracks, oil spots and tyre marks."""
    tint = 1 + rng.uniform(-0.05, 0.05, 3)
    tone = shade * (1 + 0.10 * grain(rng, size, 1.4) + 0.09 * grain(rng, size, 0.5))
    image = tone[..., None] * tint
    fine = grain(rng, size, 0.35)
    image = _blend(image, (70, 68, 66), np.clip(2 * (fine - 1.7), 0, 0.8))
    image = _blend(image, (196, 194, 186), np.clip(2 * (-fine - 1.8), 0, 0.7))
    image = _blend(image, (52, 48, 44), 0.7 * np.clip(3 * (grain(rng, size, 1.8) - 1.7), 0, 1))
    cracks = np.clip(1 - np.abs(grain(rng, size, 1.7)) * 40, 0, 1) * (grain(rng, size, 1.5) > 0.3)
    return _uint8(_blend(image, (50, 48, 46), 0.7 * cracks))


def brick(rng: np.random.Generator, base, size: int = 512, rows: int = 16) -> np.ndarray:
    """A painted block wall, two courses to a block's width; each block a little different."""
    image = np.full((size, size, 3), np.asarray(base, float) * 0.62)
    height, width = size // rows, size * 2 // rows
    for row in range(rows):
        course = image[row * height : row * height + height - 2]
        for x in range(0, size, width):
            course[:, x : x + width - 2] = np.asarray(base, float) * rng.uniform(0.86, 1.12) + rng.normal(0, 4, 3)
        course[:] = np.roll(course, row % 2 * width // 2, axis=1)
    image *= (1 + 0.06 * grain(rng, size, 0.5) + 0.05 * grain(rng, size, 1.3))[..., None]
    image = _blend(image, (60, 50, 40), 0.45 * np.clip(grain(rng, size, 1.5) - 0.8, 0, 1))
    return _uint8(
        _blend(image, np.asarray(base, float) * 0.5 + 120, 0.6 * np.clip(2 * (grain(rng, size, 1.0) - 1.8), 0, 1))
    )


def wood(rng: np.random.Generator, color=(176, 134, 86), size: int = 256) -> np.ndarray:
    """Rough planks with rings, knots and nails; the grain runs along u."""
    stretched = cv2.resize(
        np.tile(grain(rng, size, 0.8), (1, 1))[:, : size // 8], (size, size), interpolation=cv2.INTER_CUBIC
    )
    image = np.asarray(color, float) * (1 + 0.16 * stretched + 0.06 * grain(rng, size, 0.5))[..., None]
    for y in range(0, size, size // 4):
        image[y : y + 3] *= 0.4
        image[y + 3 : y + size // 4] *= rng.uniform(0.85, 1.1)
        for x in rng.integers(8, size - 8, 2):
            cv2.circle(
                image,
                (int(x), y + int(rng.integers(8, size // 4 - 4))),
                int(rng.integers(2, 5)),
                (60.0, 42.0, 28.0),
                -1,
            )
    return _uint8(image)


def cardboard(rng: np.random.Generator, size: int = 256) -> np.ndarray:
    """A box with printed marks and tape, seamless."""
    image = np.array([184, 146, 100]) * (1 + 0.05 * grain(rng, size, 0.5) + 0.05 * grain(rng, size, 1.4))[..., None]
    image[int(0.46 * size) : int(0.54 * size)] = (
        image[int(0.46 * size) : int(0.54 * size)] * 0.5 + np.array([205, 190, 150]) * 0.5
    )
    print_ = label(rng, size // 2, size // 3, 2)
    y, x = int(rng.integers(0, size // 8)), int(rng.integers(0, size // 2))
    image[y : y + size // 3, x : x + size // 2] = 0.25 * image[y : y + size // 3, x : x + size // 2] + 0.75 * print_
    return _uint8(image)


def hazard(
    rng: np.random.Generator, size: int = 256, first=(232, 186, 20), second=(28, 28, 28), bands: int = 4
) -> np.ndarray:
    """Worn diagonal stripes, seamless."""
    x, y = np.meshgrid(np.arange(size), np.arange(size))
    stripe = ((x + y) * bands / size % 1 < 0.5)[..., None]
    image = (
        np.where(stripe, np.asarray(first, float), np.asarray(second, float))
        * (1 + 0.08 * grain(rng, size, 0.6))[..., None]
    )
    return _uint8(_blend(image, (120, 116, 108), 0.8 * np.clip(1.5 * (grain(rng, size, 1.1) - 1.1), 0, 1)))


def tread(rng: np.random.Generator, size: int = 256) -> np.ndarray:
    """Tread plate: rows of raised bars on worn steel."""
    image = steel(rng, 120, 0.35, size).astype(float)
    for row in range(8):
        for column in range(8):
            x, y = (column + 0.5) * size / 8, (row + 0.5) * size / 8
            angle = 45 if (row + column) % 2 else -45
            for offset, shade in ((1.5, 60.0), (0.0, 190.0 + rng.uniform(-25, 25))):
                center = (int(x + offset), int(y + offset))
                cv2.ellipse(
                    image, center, (size // 22, size // 70), angle, 0, 360, (shade, shade, shade), -1, cv2.LINE_AA
                )
    return _uint8(image * (1 + 0.06 * grain(rng, size, 0.8))[..., None])


def sign(rng: np.random.Generator, text: str, color, symbol: str, size: int = 192) -> np.ndarray:
    """A safety sign: 'triangle', 'circle' or 'square' symbol above a line of text."""
    image = np.full((size, size, 3), color, np.uint8)
    ink = (20, 20, 20) if sum(color) > 380 else (240, 240, 240)
    cv2.rectangle(image, (4, 4), (size - 5, size - 5), ink, 3)
    cx, cy, r = size // 2, int(0.4 * size), int(0.24 * size)
    if symbol == "triangle":
        cv2.fillPoly(image, [np.array([[cx, cy - r], [cx - r, cy + r], [cx + r, cy + r]])], ink, cv2.LINE_AA)
        cv2.line(image, (cx, cy - r // 4), (cx, cy + r // 3), color, 7, cv2.LINE_AA)
        cv2.circle(image, (cx, cy + int(0.65 * r)), 5, color, -1, cv2.LINE_AA)
    elif symbol == "circle":
        cv2.circle(image, (cx, cy), r, ink, 9, cv2.LINE_AA)
        cv2.line(
            image, (cx - int(0.7 * r), cy - int(0.7 * r)), (cx + int(0.7 * r), cy + int(0.7 * r)), ink, 9, cv2.LINE_AA
        )
    else:
        cv2.rectangle(image, (cx - r, cy - r), (cx + r, cy + r), ink, 6)
        cv2.arrowedLine(image, (cx - r // 2, cy + r // 2), (cx + r // 2, cy - r // 2), ink, 8, cv2.LINE_AA, 0, 0.4)
    scale = size * 0.86 / (19.0 * len(text))
    width = cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, scale, 2)[0][0]
    cv2.putText(
        image, text, ((size - width) // 2, int(0.86 * size)), cv2.FONT_HERSHEY_DUPLEX, scale, ink, 2, cv2.LINE_AA
    )
    return _uint8(image * (1 + 0.03 * grain(rng, size, 0.8))[..., None])


def marking(rng: np.random.Generator, width: int = 256, height: int = 128) -> np.ndarray:
    """A worn field painted on the floor: an arrow and a stencilled word."""
    color, ink = [((212, 172, 40), (40, 38, 34)), ((60, 96, 150), (214, 214, 208)), ((190, 190, 184), (60, 60, 60))][
        rng.integers(0, 3)
    ]
    image = np.full((height, width, 3), color, float)
    text = str(rng.choice(["KEEP CLEAR", "LANE 2", "PUMPS", "EXIT", "NO PARKING"]))
    cv2.arrowedLine(
        image, (width // 8, height // 3), (7 * width // 8, height // 3), tuple(map(float, ink)), 9, cv2.LINE_AA, 0, 0.15
    )
    scale = min(1.2, width * 0.85 / (19.0 * len(text)))
    text_width = cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, scale, 2)[0][0]
    place = ((width - text_width) // 2, int(0.86 * height))
    cv2.putText(image, text, place, cv2.FONT_HERSHEY_DUPLEX, scale, tuple(map(float, ink)), 2, cv2.LINE_AA)
    wear = np.clip(1.5 * (grain(rng, width, 1.0)[:height] - 0.9), 0, 1)
    image = image * (1 + 0.08 * grain(rng, width, 0.6)[:height])[..., None]
    return _uint8(_blend(image, (116, 114, 110), 0.85 * wear))


def dial(rng: np.random.Generator, unit: str, size: int = 192) -> np.ndarray:
    """A gauge's face without its needle: ticks, numbers, green and red arcs; on square paper."""
    image = np.full((size, size, 3), (236, 234, 226), np.uint8)
    c, r = size // 2, int(0.46 * size)
    cv2.circle(image, (c, c), r, (30, 30, 30), 3, cv2.LINE_AA)
    cv2.ellipse(image, (c, c), (int(0.88 * r),) * 2, 0, 150, 285, (60, 150, 70), 9, cv2.LINE_AA)
    cv2.ellipse(image, (c, c), (int(0.88 * r),) * 2, 0, 315, 390, (200, 40, 36), 9, cv2.LINE_AA)
    for tick in range(25):
        angle = np.radians(150 + tick * 10)
        direction = np.array([np.cos(angle), np.sin(angle)])
        inner = 0.62 if tick % 4 == 0 else 0.72
        points = [tuple(int(v) for v in c + direction * r * f) for f in (inner, 0.8)]
        cv2.line(image, *points, (20, 20, 20), 2 if tick % 4 == 0 else 1, cv2.LINE_AA)
        if tick % 4 == 0:
            x, y = c + direction * r * 0.46
            cv2.putText(
                image,
                str(tick // 2),
                (int(x) - 9, int(y) + 6),
                cv2.FONT_HERSHEY_SIMPLEX,
                0.5,
                (20, 20, 20),
                1,
                cv2.LINE_AA,
            )
    cv2.putText(
        image, unit, (c - 10 * len(unit), int(0.8 * size)), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (40, 40, 120), 2, cv2.LINE_AA
    )
    return _uint8(image * (1 + 0.02 * grain(rng, size, 0.8))[..., None])


def cabinet_door(rng: np.random.Generator, color, width: int = 256, height: int = 448) -> np.ndarray:
    """The outside of a control cabinet's door: lamps, switches, a display, vents, labels, a handle."""
    image = np.zeros((height, width, 3)) + paint(rng, color, 512)[:height, :width]
    image = np.ascontiguousarray(image)
    cv2.rectangle(image, (4, 4), (width - 5, height - 5), tuple(0.55 * c for c in map(float, color)), 3)
    x, y, w, h = int(0.12 * width), int(0.07 * height), int(0.45 * width), int(0.15 * height)
    cv2.rectangle(image, (x - 4, y - 4), (x + w + 4, y + h + 4), (30.0, 30.0, 32.0), -1)
    cv2.rectangle(image, (x, y), (x + w, y + h), (70.0, 120.0, 110.0), -1)
    curve = (y + h * (0.5 + 0.3 * np.sin(np.linspace(0, rng.uniform(5, 12), w)) * rng.uniform(0.5, 1, w))).astype(int)
    cv2.polylines(image, [np.column_stack([np.arange(x, x + w), curve])], False, (220.0, 250.0, 190.0), 2)
    for row in range(3):
        for column in range(4):
            center = (int((0.16 + 0.14 * column) * width), int((0.32 + 0.085 * row) * height))
            lamp = [(40, 190, 70), (225, 180, 30), (210, 40, 36), (60, 90, 200), (35, 35, 38)][rng.integers(0, 5)]
            cv2.circle(image, center, int(0.045 * width), (30.0, 30.0, 30.0), -1, cv2.LINE_AA)
            cv2.circle(image, center, int(0.033 * width), tuple(map(float, lamp)), -1, cv2.LINE_AA)
            cv2.rectangle(
                image, (center[0] - 14, center[1] + 13), (center[0] + 14, center[1] + 19), (225.0, 225.0, 220.0), -1
            )
    plate = label(rng, int(0.3 * width), int(0.12 * height), 2)
    image[
        int(0.08 * height) : int(0.08 * height) + plate.shape[0], int(0.64 * width) : int(0.64 * width) + plate.shape[1]
    ] = plate
    for row in range(9):
        y = int((0.74 + 0.022 * row) * height)
        cv2.line(image, (int(0.15 * width), y), (int(0.62 * width), y), tuple(0.35 * c for c in map(float, color)), 3)
    warning = cv2.resize(
        sign(rng, "400 V", (240, 200, 30), "triangle"), (int(0.26 * width),) * 2, interpolation=cv2.INTER_AREA
    )
    y, x = int(0.6 * height), int(0.66 * width)
    image[y : y + warning.shape[0], x : x + warning.shape[1]] = warning
    cv2.rectangle(
        image, (int(0.9 * width), int(0.44 * height)), (int(0.95 * width), int(0.56 * height)), (28.0, 28.0, 28.0), -1
    )
    return _uint8(image)


def cabinet_inside(rng: np.random.Generator, width: int = 256, height: int = 448) -> np.ndarray:
    """What an open cabinet shows: rails of breakers and contactors, ducts, coloured wires."""
    image = np.ascontiguousarray(paint(rng, (172, 174, 170), 512, 0.3)[:height, :width].astype(float))
    for row in range(5):
        y = int((0.08 + 0.18 * row) * height)
        cv2.rectangle(image, (8, y + 44), (width - 8, y + 60), (120.0, 122.0, 124.0), -1)
        x = 16
        while x < width - 40:
            w = int(rng.integers(12, 34))
            body = [(40, 42, 46), (225, 225, 222), (60, 66, 74), (52, 84, 150), (200, 120, 40)][rng.integers(0, 5)]
            cv2.rectangle(image, (x, y), (x + w, y + 40), tuple(map(float, body)), -1)
            cv2.rectangle(image, (x, y), (x + w, y + 40), (20.0, 20.0, 20.0), 1)
            cv2.circle(image, (x + w // 2, y + 14), 4, (200.0, 60.0, 40.0), -1)
            x += w + int(rng.integers(1, 10))
    for _ in range(26):
        color = [(190, 40, 40), (40, 60, 190), (30, 30, 30), (40, 150, 60), (220, 190, 40)][rng.integers(0, 5)]
        x0, x1 = rng.integers(10, width - 10, 2)
        y0 = int((0.08 + 0.18 * rng.integers(0, 5)) * height) + 38
        points = np.array([[x0, y0], [x0, y0 + 22], [x1, y0 + 30], [x1, min(y0 + 50, height - 2)]])
        cv2.polylines(image, [points], False, tuple(map(float, color)), 2, cv2.LINE_AA)
    return _uint8(image)
