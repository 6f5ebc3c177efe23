"""Oblique slices: voxels sampled on any plane, given in physical coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.core.errors import Invalid, TooLarge
from app.core.geometry import MAX_COORDINATE, Box
from app.core.work import Workers
from app.datatypes.imageblk import read
from app.datatypes.imageblk.kinds import Array, Kind, image_of
from app.versioning.datastore import Data
from app.versioning.snapshot import Snapshot

F64 = npt.NDArray[np.float64]

#: A piece of the image is read at once if the box around it has at most so many voxels.
_PIECE_VOXELS = 1 << 22
_MAX_PIXELS = 1 << 26


@dataclass(frozen=True)
class Plane:
    """A rectangle in voxels: the point of the first pixel, and the steps from column to column and row to row."""

    origin: F64
    right: F64
    down: F64
    width: int
    height: int


def plane(
    top_left: Sequence[float],
    top_right: Sequence[float],
    bottom_left: Sequence[float],
    resolution: float,
    voxel_size: Sequence[float],
) -> Plane:
    """The plane through three corners x, y, z, both ends included, one pixel each `resolution`."""
    if not (math.isfinite(resolution) and resolution > 0):
        raise Invalid(f"the resolution {resolution} must be positive")
    size = np.array(voxel_size)
    corner = np.array(top_left)
    sides = [np.array(other) - corner for other in (top_right, bottom_left)]
    lengths = [math.hypot(*side) for side in sides]
    if not all(math.isfinite(length) for length in lengths):
        raise Invalid("the corners must be finite")
    counts = [int(length / resolution) + 1 for length in lengths]
    if max(counts) > _MAX_PIXELS or counts[0] * counts[1] > _MAX_PIXELS:
        raise TooLarge(f"an image of {counts[0]} x {counts[1]} pixels is too large")
    steps = [side / length * resolution if length else side for side, length in zip(sides, lengths, strict=True)]
    ends = [corner, corner + sides[0], corner + sides[1], corner + sides[0] + sides[1]]
    if max(float(np.abs(end / size).max()) for end in ends) >= MAX_COORDINATE - 2:
        raise Invalid("a corner is out of range")
    return Plane(corner / size, steps[0] / size, steps[1] / size, counts[0], counts[1])


async def sample(data: Data, snapshot: Snapshot, workers: Workers, wanted: Plane, limit_bytes: int) -> Array:
    """The image of a plane: rows, columns."""
    kind = image_of(data).kind
    out = np.zeros((wanted.height, wanted.width), kind.dtype)
    pieces = [(0, wanted.height, 0, wanted.width)]
    while pieces:
        top, bottom, left, right = pieces.pop()
        box = _around(wanted, top, bottom, left, right)
        if box.count > _PIECE_VOXELS and (bottom - top > 1 or right - left > 1):
            if bottom - top >= right - left:
                middle = (top + bottom) // 2
                pieces += [(top, middle, left, right), (middle, bottom, left, right)]
            else:
                middle = (left + right) // 2
                pieces += [(top, bottom, left, middle), (top, bottom, middle, right)]
            continue
        dense = await read.volume(data, snapshot, workers, box, limit_bytes)
        points = _points(wanted, top, bottom, left, right) - np.array(box.start[::-1], np.float64)
        out[top:bottom, left:right] = await workers.run(_interpolate, dense, points, kind)
    return out


def _points(wanted: Plane, top: int, bottom: int, left: int, right: int) -> F64:
    """The voxel coordinates x, y, z of pixels: rows, columns, 3."""
    rows = np.arange(top, bottom)[:, None, None] * wanted.down
    columns = np.arange(left, right)[None, :, None] * wanted.right
    points: F64 = wanted.origin + rows + columns
    return points


def _around(wanted: Plane, top: int, bottom: int, left: int, right: int) -> Box:
    """The box of all voxels that these pixels need."""
    ends = [(y, x) for y in (top, bottom - 1) for x in (left, right - 1)]
    corners = np.array([_points(wanted, y, y + 1, x, x + 1)[0, 0] for y, x in ends])
    low = np.floor(corners.min(axis=0)).astype(int).tolist()
    high = np.floor(corners.max(axis=0)).astype(int).tolist()
    return Box((low[2], low[1], low[0]), (high[2] + 2, high[1] + 2, high[0] + 2))


def _interpolate(dense: Array, points: F64, kind: Kind) -> Array:
    """Values between eight voxels; the nearest one where voxels are too wide to be weighed."""
    if kind.dtype.itemsize == 8:
        x, y, z = (np.rint(points[..., axis]).astype(np.intp) for axis in range(3))
        nearest: Array = dense[z, y, x]
        return nearest
    low = np.floor(points).astype(np.intp)
    weight = points - low
    values = dense.view(np.uint8).reshape(*dense.shape, 4) if kind.is_color else dense[..., None]
    total = np.zeros((*points.shape[:2], values.shape[3]))
    for corner in range(8):
        shift = np.array([corner & 1, corner >> 1 & 1, corner >> 2])
        share = np.where(shift, weight, 1 - weight).prod(axis=-1)
        x, y, z = (low[..., axis] + shift[axis] for axis in range(3))
        total += share[..., None] * values[z, y, x]
    if kind.dtype.kind == "f":
        return total[..., 0].astype(kind.dtype)
    rounded = np.rint(total).astype(values.dtype)
    return np.ascontiguousarray(rounded).view(kind.dtype)[..., 0] if kind.is_color else rounded[..., 0]
