"""Which label has a voxel of a label block?"""

from collections.abc import Sequence
from operator import gt

import numpy as np
from numba import njit

from app.kernels.arrays import I32, U8, U64, Int, frozen_c, xyz
from app.kernels.label_block.header import SUB, header
from app.kernels.label_block.layout import positions
from app.kernels.packed import width_of
from app.kernels.words import get16, get32, get64, get64_big


def label_at(data: U8, z: int, y: int, x: int) -> int:
    """Return the label of one voxel of a checked block; ValueError if the voxel is outside of it."""
    data = frozen_c(data, np.uint8, 1, "label block")
    gz, gy, gx, n = header(data)
    if not (0 <= z < gz * SUB and 0 <= y < gy * SUB and 0 <= x < gx * SUB):
        raise ValueError(f"voxel {xyz((z, y, x))} (x, y, z) is outside of the label block")
    return int(_label_at(data, gz, gy, gx, n, int(z), int(y), int(x)))


def labels_at(data: U8, points_zyx: I32) -> U64:
    """Return the labels (uint64, n) of the voxels ``points_zyx`` (int32, n×3) of a checked block.

    ValueError if a point is outside of the block.
    """
    points = frozen_c(points_zyx, np.int32, 2, "points")
    return labels_of_blocks([data], points, [0, len(points)])


def labels_of_blocks(blocks: Sequence[U8 | None], points_zyx: I32, starts: Sequence[int]) -> U64:
    """Return the labels (uint64, n) of voxels of several checked blocks, 0 where there is no block.

    ``points_zyx`` (int32, n×3) are within their blocks; those of ``blocks[i]`` are the rows from ``starts[i]`` to
    ``starts[i + 1]``. ValueError if a point is outside of its block.
    """
    points = frozen_c(points_zyx, np.int32, 2, "points")
    if points.shape[1] != 3:
        raise ValueError(f"points must be rows of z, y, x, not of {points.shape[1]} numbers")
    if len(starts) != len(blocks) + 1 or any(map(gt, starts, starts[1:])) or starts[0] < 0 or starts[-1] > len(points):
        raise ValueError("the points of each block must follow those of the one before")
    found = np.zeros(len(points), np.uint64)
    for data, start, stop in zip(blocks, starts, starts[1:], strict=False):
        if data is None:
            continue
        outside = _labels_at(frozen_c(data, np.uint8, 1, "label block"), points, start, stop, found)
        if outside >= 0:
            raise ValueError(f"voxel {xyz(points[outside])} (x, y, z) is outside of the label block")
    return found


@njit(nogil=True, cache=True)
def _one(data: U8, at_index: Int, at_value: Int, n: Int, z: Int, y: Int, x: Int) -> np.uint64:
    """Look up one voxel of a sub-block with n labels."""
    if n == 0:
        return np.uint64(0)
    found: Int = 0
    if n > 1:
        w = width_of(n)
        bit = ((z & 7) * 64 + (y & 7) * 8 + (x & 7)) * w
        v = get64_big(data, at_value + (bit >> 3)) << np.uint64(bit & 7)
        found = np.int64(v >> np.uint64(64 - w))
    return get64(data, 16 + 8 * get32(data, at_index + 4 * found))


@njit(nogil=True, cache=True)
def _label_at(data: U8, gz: Int, gy: Int, gx: Int, n_labels: Int, z: Int, y: Int, x: Int) -> np.uint64:
    if n_labels <= 1:
        return get64(data, 16) if n_labels else np.uint64(0)
    subs = gz * gy * gx
    s = ((z >> 3) * gy + (y >> 3)) * gx + (x >> 3)
    at_count = 16 + 8 * n_labels
    at_index = at_count + 2 * subs
    at_value = at_index
    for i in range(subs):
        n = get16(data, at_count + 2 * i)
        at_value += 4 * n
        if i < s:
            at_index += 4 * n
            at_value += 64 * width_of(n)
    return _one(data, at_index, at_value, get16(data, at_count + 2 * s), z, y, x)


@njit(nogil=True, cache=True)
def _labels_at(data: U8, points: I32, start: Int, stop: Int, out: U64) -> Int:
    """Look up the points from one to another; the first one outside of the block, or -1."""
    gx, gy, gz, n_labels = get32(data, 0), get32(data, 4), get32(data, 8), get32(data, 12)
    for p in range(start, stop):
        z, y, x = points[p, 0], points[p, 1], points[p, 2]
        if z < 0 or y < 0 or x < 0 or z >= 8 * gz or y >= 8 * gy or x >= 8 * gx:
            return p
    if n_labels <= 1:
        out[start:stop] = get64(data, 16) if n_labels else np.uint64(0)
        return -1
    index, value = positions(data, gz * gy * gx, n_labels)
    at_count = 16 + 8 * n_labels
    for p in range(start, stop):
        z, y, x = np.int64(points[p, 0]), np.int64(points[p, 1]), np.int64(points[p, 2])
        s = ((z >> 3) * gy + (y >> 3)) * gx + (x >> 3)
        out[p] = _one(data, index[s], value[s], get16(data, at_count + 2 * s), z, y, x)
    return -1
