"""Synthetic tissue: an electron micrograph of neurites, and which cell every voxel belongs to. Always the same.

Cells are random walks that keep their direction. Every voxel belongs to the cell whose surface is nearest, after a
smooth displacement of space, so that walls are curved and space is filled. Membranes are where two cells are equally
near; the rest is paint: cytoplasm, mitochondria, vesicles, nuclei, the grain of the film.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.demo import nearest

F32 = npt.NDArray[np.float32]
Shape = tuple[int, int, int]

#: Planes that one call of the compiled loop fills.
PLANES = 16
#: Paths of so many cells for each cube of 100 voxels' side.
DENSITY = 15


@dataclass
class Tissue:
    """The grey values, uint8, and the cells, uint64, z, y, x."""

    em: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint64]


def make(shape: Shape, seed: int = 7) -> Tissue:
    """A sample of this shape."""
    random = np.random.default_rng(seed)
    balls, owners, thick = _cells(shape, random)
    cells = np.empty(shape, np.uint16)
    gap = np.empty(shape, np.float32)
    starts, order = nearest.grid_of(balls, shape)
    warp = _warp(shape, random)
    with ThreadPoolExecutor(2) as threads:
        list(
            threads.map(
                lambda z: nearest.nearest(balls, owners, starts, order, warp, cells, gap, z, min(z + PLANES, shape[0])),
                range(0, shape[0], PLANES),
            )
        )
        em = _micrograph(cells, gap, thick, random, threads)
    return Tissue(em, _names(int(cells.max()), random)[cells])


def _cells(shape: Shape, random: np.random.Generator) -> tuple[F32, npt.NDArray[np.int32], list[F32]]:
    """Balls z, y, x, radius; the cell of each (from 1); and the paths of thick cells, in which organelles lie."""
    number = max(8, round(np.prod(shape) / 1e6 * DENSITY))
    extent = np.array(shape, np.float32)
    balls, owners, thick = [], [], []
    # Fibres run in a few bundles, as in neuropil, and some go their own way.
    bundles = random.normal(size=(4, 3))
    bundles /= np.linalg.norm(bundles, axis=1)[:, None]
    for cell in range(1, number + 1):
        is_thick = cell % 7 == 0
        radius = random.uniform(12, 20) if is_thick else random.gamma(6, 0.8)
        start = random.uniform(-0.05, 1.05, 3) * extent
        direction = bundles[cell % 4] + 0.5 * random.normal(size=3)
        step = max(3.0, radius * 0.75)
        points: list[npt.NDArray[np.float64]] = []
        for sign in (1, -1):
            path = _walk(start, sign * direction, step, extent, random)
            points = [*reversed(path), *points] if sign > 0 else [*points, *path[1:]]
        waves = np.sin(np.arange(len(points)) * step / random.uniform(14, 30) + random.uniform(0, 6))
        radii = radius * (1 + 0.22 * waves)
        rows = np.column_stack([np.array(points), radii]).astype(np.float32)
        balls.append(rows)
        owners.append(np.full(len(rows), cell, np.int32))
        if is_thick:
            thick.append(rows)
            for place in random.integers(0, len(rows), 2 + len(rows) // 30):  # a twig
                twig = _walk(rows[place, :3], random.normal(size=3), 3.0, extent, random, 60)
                thin = np.full(len(twig), random.uniform(3, 5))
                rows_twig = np.column_stack([np.array(twig), thin]).astype(np.float32)
                balls.append(rows_twig)
                owners.append(np.full(len(rows_twig), cell, np.int32))
    return np.concatenate(balls), np.concatenate(owners), thick


def _walk(
    start: npt.NDArray[np.floating],
    direction: npt.NDArray[np.floating],
    step: float,
    extent: F32,
    random: np.random.Generator,
    most: int = 1000,
) -> list[npt.NDArray[np.float64]]:
    """Points of a path that bends slowly and ends outside of the sample."""
    point, heading = start.astype(np.float64), direction / np.linalg.norm(direction)
    bend = np.zeros(3)
    path = [point]
    for _ in range(min(most, int(2.5 * max(extent) / step))):
        bend = 0.9 * bend + 0.02 * np.sqrt(step) * random.normal(size=3)
        heading = heading + bend
        heading /= np.linalg.norm(heading)
        point = point + step * heading
        path.append(point)
        if (point < -30).any() or (point > extent + 30).any():
            break
    return path


def _warp(shape: Shape, random: np.random.Generator) -> F32:
    """A smooth displacement of a few voxels at every nearest.WARP_STEP-th voxel."""
    sides = [side // nearest.WARP_STEP + 2 for side in shape]
    field = random.normal(0, 4.5, (3, *sides)).astype(np.float32)
    for axis in (1, 2, 3):
        field = (np.roll(field, 1, axis) + 2 * field + np.roll(field, -1, axis)) / 2.4
    return np.ascontiguousarray(field, np.float32)


def _micrograph(
    cells: npt.NDArray[np.uint16],
    gap: F32,
    thick: list[F32],
    random: np.random.Generator,
    threads: ThreadPoolExecutor,
) -> npt.NDArray[np.uint8]:
    number = int(cells.max())
    tints = random.normal(0, 7, number + 1).astype(np.float32)
    organelles = np.zeros(cells.shape, np.float32)
    inside = gap > 7
    for rows in thick:
        for start in range(int(random.integers(0, 6)), len(rows) - 6, int(random.integers(9, 15))):
            radius = float(rows[start, 3]) * random.uniform(0.4, 0.62)
            chain = rows[start : start + int(random.integers(4, 8))]
            for part in np.arange(0, len(chain) - 1, 0.25):
                row = chain[int(part)] + (part % 1) * (chain[int(part) + 1] - chain[int(part)])
                _mitochondrion(organelles, inside, row, radius)
    everywhere = np.array(cells.shape)
    for _ in range(int(cells.size / 1e6 * 14)):  # clusters of vesicles
        centre = random.uniform(0, 1, 3) * everywhere
        for _ in range(int(random.integers(10, 34))):
            _vesicle(organelles, inside, centre + random.normal(0, 6, 3))
    grain = random.normal(0, 1, (64, *cells.shape[1:])).astype(np.float32)
    coarse = (np.roll(grain, 1, 2) + np.roll(grain, 1, 1) + grain + np.roll(grain, (1, 1), (1, 2))) * 5.0
    fine = np.roll(grain, 17, 1) * 5.0
    em = np.empty(cells.shape, np.uint8)

    def paint(z: int) -> None:
        light = 172.0 + tints[cells[z]]
        light += np.roll(coarse[z % 64], (z * 31 % 97, z * 17 % 89), (0, 1))
        light -= organelles[z]
        # A membrane is a dark line on each side of a thin bright cleft.
        light -= 92.0 * np.exp(-np.square((gap[z] - 1.5) / 1.9))
        light -= 12.0 * np.exp(-np.square(gap[z] / 7.0))
        light += np.roll(fine[(z * 7 + 3) % 64], (z * 13 % 83, z * 29 % 101), (0, 1))
        em[z] = np.clip(light, 8, 247).astype(np.uint8)

    list(threads.map(paint, range(cells.shape[0])))
    return em


def _window(shape: tuple[int, ...], centre: npt.NDArray[np.floating], reach: float) -> tuple[slice, ...] | None:
    low = np.maximum(np.floor(centre - reach), 0).astype(int)
    high = np.minimum(np.ceil(centre + reach) + 1, shape).astype(int)
    if (low >= high).any():
        return None
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True))


def _distance(window: tuple[slice, ...], centre: npt.NDArray[np.floating]) -> F32:
    z, y, x = (
        np.arange(part.start, part.stop, dtype=np.float32) - middle for part, middle in zip(window, centre, strict=True)
    )
    distance: F32 = np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2)
    return distance


def _mitochondrion(paint: F32, inside: npt.NDArray[np.bool_], row: F32, radius: float) -> None:
    """A ball of dark matrix with a darker rim; a chain of them is a mitochondrion."""
    window = _window(paint.shape, row[:3], radius + 2)
    if window is None:
        return
    distance = _distance(window, row[:3])
    z = np.arange(window[0].start, window[0].stop, dtype=np.float32)[:, None, None]
    matrix = 46 + 15 * np.sin(z * 0.9 + distance * 0.7)
    dark = np.where(distance < radius - 1.6, matrix, 0)
    part = paint[window]
    # Where balls of a chain overlap there is no rim between them.
    rim = (distance >= radius - 1.6) & (distance < radius + 0.4) & (part == 0)
    part[...] = np.where(inside[window], np.where(dark > 0, dark, np.where(rim, 84, part)), part)


def _vesicle(paint: F32, inside: npt.NDArray[np.bool_], centre: npt.NDArray[np.floating]) -> None:
    """A small ring."""
    window = _window(paint.shape, centre, 4)
    if window is None:
        return
    ring = 62 * np.exp(-np.square((_distance(window, centre) - 2.1) / 0.9))
    part = paint[window]
    part[...] = np.where(inside[window], np.maximum(part, ring), part)


def _names(number: int, random: np.random.Generator) -> npt.NDArray[np.uint64]:
    """Ids for cells 0 to number: large and scattered, as real ones are."""
    ids = np.sort(random.choice(900_000, number + 1, replace=False).astype(np.uint64) + np.uint64(100_000))
    return ids
