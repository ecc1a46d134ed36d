"""Triangle meshes with texture coordinates in metres, made in code: what pumps, pipes, drums and cabinets are built of.

Texture coordinates are metres along the surface (divided by a material's tile size when a mesh is added to a world), so
that a texture has the same grain on all that wear it; a `plate` carries its picture once.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mesh:
    """vertices (V, 3) metres; normals (V, 3); uv (V, 2), v downwards as image rows; faces (F, 3), counter-clockwise outside."""

    vertices: np.ndarray
    normals: np.ndarray
    uv: np.ndarray
    faces: np.ndarray


def joined(parts: list[Mesh]) -> Mesh:
    """Several meshes as one."""
    offsets = np.cumsum([0] + [len(p.vertices) for p in parts[:-1]])
    faces = [p.faces + offset for p, offset in zip(parts, offsets, strict=True)]
    return Mesh(
        *(np.concatenate([getattr(p, n) for p in parts]) for n in ("vertices", "normals", "uv")), np.concatenate(faces)
    )


def _grid(points: np.ndarray, normals: np.ndarray, uv: np.ndarray) -> Mesh:
    """A mesh over a grid of points (A, B, 3); the outside is where the second index cross the first points."""
    a, b = points.shape[:2]
    index = np.arange(a * b).reshape(a, b)
    p, q, r, s = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    faces = np.concatenate([np.stack([p, q, r], -1).reshape(-1, 3), np.stack([p, r, s], -1).reshape(-1, 3)])
    return Mesh(points.reshape(-1, 3), normals.reshape(-1, 3), uv.reshape(-1, 2), faces)


def _quad(center, right, up, uv=None) -> Mesh:
    """A rectangle of half-axes ``right`` and ``up``, seen from right x up; uv is [[u0, v0], [u1, v1]] or metres."""
    center, right, up = (np.asarray(v, float) for v in (center, right, up))
    width, height = 2 * np.linalg.norm(right), 2 * np.linalg.norm(up)
    (u0, v0), (u1, v1) = ((0, 0), (width, height)) if uv is None else uv
    normal = np.cross(right, up)
    vertices = np.stack([center - right - up, center + right - up, center + right + up, center - right + up])
    return Mesh(
        vertices, np.tile(normal / np.linalg.norm(normal), (4, 1)),
        np.array([[u0, v1], [u1, v1], [u1, v0], [u0, v0]], float), np.array([[0, 1, 2], [0, 2, 3]]),
    )  # fmt: skip


def box(x: float, y: float, z: float) -> Mesh:
    """A box of full sizes x, y, z around the origin."""
    return joined([
        _quad((x / 2, 0, 0), (0, y / 2, 0), (0, 0, z / 2)), _quad((-x / 2, 0, 0), (0, -y / 2, 0), (0, 0, z / 2)),
        _quad((0, y / 2, 0), (-x / 2, 0, 0), (0, 0, z / 2)), _quad((0, -y / 2, 0), (x / 2, 0, 0), (0, 0, z / 2)),
        _quad((0, 0, z / 2), (x / 2, 0, 0), (0, y / 2, 0)), _quad((0, 0, -z / 2), (x / 2, 0, 0), (0, -y / 2, 0)),
    ])  # fmt: skip


def sheet(width: float, height: float, cell: float = 0.4) -> Mesh:
    """A wall or floor that faces +z, divided into cells because MuJoCo computes light at vertices."""
    x = np.linspace(-width / 2, width / 2, max(2, round(width / cell) + 1))
    y = np.linspace(-height / 2, height / 2, max(2, round(height / cell) + 1))
    points = np.stack([*np.meshgrid(x, y, indexing="ij"), np.zeros((len(x), len(y)))], -1)
    uv = np.stack([points[..., 0] + width / 2, height / 2 - points[..., 1]], -1)
    mesh = _grid(points, np.zeros_like(points) + [0.0, 0.0, 1.0], uv)
    return Mesh(mesh.vertices, mesh.normals, mesh.uv, mesh.faces[:, ::-1])


def plate(width: float, height: float, thickness: float = 0.006) -> Mesh:
    """A sign: the whole picture on the face towards +x (its right is +y, its up +z), the rim in the picture's corner colour."""
    corner = ((0.01, 0.01), (0.02, 0.02))
    x, y, z = thickness / 2, width / 2, height / 2
    return joined([
        _quad((x, 0, 0), (0, y, 0), (0, 0, z), ((0, 0), (1, 1))), _quad((-x, 0, 0), (0, -y, 0), (0, 0, z), corner),
        _quad((0, y, 0), (-x, 0, 0), (0, 0, z), corner), _quad((0, -y, 0), (x, 0, 0), (0, 0, z), corner),
        _quad((0, 0, z), (x, 0, 0), (0, y, 0), corner), _quad((0, 0, -z), (x, 0, 0), (0, -y, 0), corner),
    ])  # fmt: skip


def lathe(profile, sides: int = 24) -> Mesh:
    """A surface of revolution about z of (radius, z) points, edges sharp; a profile that runs upwards faces outwards."""
    profile = np.asarray(profile, float)
    angle = np.linspace(0, 2 * np.pi, sides + 1)
    ring = np.stack([np.cos(angle), np.sin(angle)], -1)
    along, parts = 0.0, []
    for (r0, z0), (r1, z1) in itertools.pairwise(profile):
        length = np.hypot(r1 - r0, z1 - z0)
        if length < 1e-9:
            continue
        slope = np.array([z1 - z0, r0 - r1]) / length
        points = np.stack([np.column_stack([ring * r, np.full(sides + 1, z)]) for r, z in ((r0, z0), (r1, z1))])
        normals = np.column_stack([ring * slope[0], np.full(sides + 1, slope[1])])
        around = angle * max(r0, r1)
        uv = np.stack([np.column_stack([around, np.full(sides + 1, -v)]) for v in (along, along + length)])
        parts.append(_grid(points, np.stack([normals, normals]), uv))
        along += length
    return joined(parts)


def cylinder(radius: float, length: float, sides: int = 24) -> Mesh:
    """A closed cylinder along z around the origin."""
    return lathe([(1e-4, -length / 2), (radius, -length / 2), (radius, length / 2), (1e-4, length / 2)], sides)


def tube(points, radius: float, bend: float = 0.0, sides: int = 14) -> Mesh:
    """A pipe along a polyline (N, 3); its corners are rounded with the radius ``bend``; open ends."""
    points = np.asarray(points, float)
    line = [points[0]]
    for before, corner, after in zip(points[:-2], points[1:-1], points[2:], strict=True):
        start = corner + bend * (before - corner) / np.linalg.norm(before - corner)
        end = corner + bend * (after - corner) / np.linalg.norm(after - corner)
        t = np.linspace(0, 1, 7)[:, None]
        line.extend((1 - t) ** 2 * start + 2 * t * (1 - t) * corner + t**2 * end)
    return _sweep(np.array([*line, points[-1]]), radius, sides)


def torus(ring: float, radius: float, steps: int = 24, sides: int = 8) -> Mesh:
    """A ring about z, such as a handwheel's rim."""
    angle = np.linspace(0, 2 * np.pi, steps + 1)
    return _sweep(np.stack([ring * np.cos(angle), ring * np.sin(angle), 0 * angle], -1), radius, sides)


def _sweep(line: np.ndarray, radius: float, sides: int) -> Mesh:
    tangent = np.gradient(line, axis=0)
    if np.allclose(line[0], line[-1]):
        tangent[0] = tangent[-1] = line[1] - line[-2]
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    side = np.cross(tangent[0], (0, 0, 1) if abs(tangent[0, 2]) < 0.9 else (1, 0, 0))
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    angle = np.linspace(0, 2 * np.pi, sides + 1)
    normals, uv = [], []
    for direction, distance in zip(tangent, along, strict=True):
        side = side - (side @ direction) * direction  # carried along without twist
        side /= np.linalg.norm(side)
        normals.append(np.cos(angle)[:, None] * side + np.sin(angle)[:, None] * np.cross(direction, side))
        uv.append(np.column_stack([angle * radius, np.full(sides + 1, -distance)]))
    normals = np.array(normals)
    return _grid(line[:, None] + radius * normals, normals, np.array(uv))


def puddle(radius: float, rng: np.random.Generator, thickness: float = 0.004, lobes: int = 6) -> Mesh:
    """A flat blot of irregular outline that lies on z = 0."""
    angle = np.linspace(0, 2 * np.pi, 49)[:-1]
    wave = sum(rng.uniform(0.05, 0.3) / np.sqrt(k) * np.sin(k * angle + rng.uniform(0, 6.3)) for k in range(1, lobes))
    outline = np.column_stack([np.cos(angle), np.sin(angle)]) * (radius * np.clip(1 + wave, 0.45, 1.5))[:, None]
    return _dome(outline, thickness)


def rag(radius: float, height: float, rng: np.random.Generator) -> Mesh:
    """A crumpled cloth on z = 0."""
    rings, around = 9, 32
    r, angle = np.meshgrid(np.linspace(0, 1, rings), np.linspace(0, 2 * np.pi, around + 1), indexing="ij")
    wave = sum(rng.uniform(0.1, 0.35) / k * np.sin(k * angle + rng.uniform(0, 6.3)) for k in (2, 3, 5, 7))
    bumps = 0.55 + 0.45 * np.sin(7 * r + rng.uniform(0, 6)) * np.cos(3 * angle + 5 * r)
    reach = radius * r * (1 + 0.5 * wave)
    z = height * (1 - r**3) * bumps.clip(0.2)
    points = np.stack([reach * np.cos(angle), reach * np.sin(angle), z], -1)
    across, along = np.gradient(points, axis=(0, 1))
    normals = np.cross(across, along)
    normals[0] = (0, 0, 1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True) + 1e-12
    mesh = _grid(points, normals, points[..., :2].copy())
    return Mesh(mesh.vertices, mesh.normals, mesh.uv, mesh.faces[:, ::-1])


def _dome(outline: np.ndarray, thickness: float) -> Mesh:
    count = len(outline)
    inner = np.column_stack([outline * 0.9, np.full(count, thickness)])
    outer = np.column_stack([outline, np.zeros(count)])
    vertices = np.concatenate([[[0, 0, thickness]], inner, outer])
    here, after = np.arange(count), (np.arange(count) + 1) % count
    top = np.stack([np.zeros(count, int), 1 + here, 1 + after], -1)
    rim = [
        np.stack([1 + here, 1 + count + here, 1 + count + after], -1),
        np.stack([1 + here, 1 + count + after, 1 + after], -1),
    ]
    return Mesh(
        vertices, np.tile([0.0, 0.0, 1.0], (len(vertices), 1)), vertices[:, :2].copy(), np.concatenate([top, *rim])
    )
