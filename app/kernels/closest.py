"""Which voxel of one body is nearest to which voxel of another?

Bodies are leaves (see :mod:`app.kernels.leaves`), grouped by the blocks that they lie in. Distances are between
centres of voxels, squared, in the units of ``voxel_xyz``.
"""

import numpy as np
import numpy.typing as npt
from numba import njit

from app.kernels.arrays import I32, I64, U64, Int, frozen_c

F64 = npt.NDArray[np.float64]
Leaves = tuple[I32, U64, I64]
"""Corners (n, 3) of x, y, z; masks (n, 8); where the leaves of each block begin, and the end."""


def closest(
    first: Leaves, second: Leaves, pairs: I64, voxel_xyz: tuple[float, float, float], best: float
) -> tuple[float, I64]:
    """Return the least squared distance below ``best`` and the two voxels, int64 (2, 3) of x, y, z.

    ``pairs`` is int64 (n, 2): which blocks of the two bodies to look at. Without anything nearer than ``best`` that is
    returned, and zeros.
    """
    corners, masks, starts = _checked(first)
    corners2, masks2, starts2 = _checked(second)
    pairs = frozen_c(pairs, np.int64, 2, "pairs of blocks")
    voxel, found = np.array(voxel_xyz, np.float64), np.zeros((2, 3), np.int64)
    nearest = _closest(corners, masks, starts, corners2, masks2, starts2, pairs, voxel, float(best), found)
    return float(nearest), found


def _checked(leaves: Leaves) -> Leaves:
    corners, masks, starts = leaves
    return (
        frozen_c(corners, np.int32, 2, "corners of leaves"),
        frozen_c(masks, np.uint64, 2, "masks of leaves"),
        frozen_c(starts, np.int64, 1, "starts of leaves"),
    )


@njit(nogil=True, cache=True)
def _boxes(corners: I32, masks: U64) -> I64:
    """Return the first and the last voxel of each leaf: int64 (n, 6) of x, y, z, x, y, z."""
    boxes = np.empty((corners.shape[0], 6), np.int64)
    for i in range(corners.shape[0]):
        low, high = np.full(3, 8), np.full(3, -1)
        for x in range(8):
            word = masks[i, x]
            for y in range(8):
                byte = word >> np.uint64(8 * y) & np.uint64(255)
                if byte:
                    low[0], high[0] = min(low[0], x), max(high[0], x)
                    low[1], high[1] = min(low[1], y), max(high[1], y)
                    for z in range(8):
                        if byte >> np.uint64(z) & np.uint64(1):
                            low[2], high[2] = min(low[2], z), max(high[2], z)
        for axis in range(3):
            boxes[i, axis] = np.int64(corners[i, axis]) + low[axis]
            boxes[i, 3 + axis] = np.int64(corners[i, axis]) + high[axis]
    return boxes


@njit(nogil=True, cache=True)
def _apart(a: I64, b: I64, voxel: F64) -> float:
    """Return the least squared distance of voxels in two boxes."""
    total = 0.0
    for axis in range(3):
        steps = max(b[axis] - a[3 + axis], a[axis] - b[3 + axis], 0)
        total += (steps * voxel[axis]) ** 2
    return total


@njit(nogil=True, cache=True)
def _listed(corners: I32, masks: U64, i: Int, out: I64) -> Int:
    """List the voxels of a leaf, x, y, z; return how many there are."""
    n = 0
    for x in range(8):
        word = masks[i, x]
        if word == np.uint64(0):
            continue
        for k in range(64):
            if word >> np.uint64(k) & np.uint64(1):
                out[n, 0] = np.int64(corners[i, 0]) + x
                out[n, 1] = np.int64(corners[i, 1]) + (k >> 3)
                out[n, 2] = np.int64(corners[i, 2]) + (k & 7)
                n += 1
    return n


@njit(nogil=True, cache=True)
def _closest(
    corners: I32,
    masks: U64,
    starts: I64,
    corners2: I32,
    masks2: U64,
    starts2: I64,
    pairs: I64,
    voxel: F64,
    best: float,
    found: I64,
) -> float:
    boxes, boxes2 = _boxes(corners, masks), _boxes(corners2, masks2)
    ours, theirs = np.empty((512, 3), np.int64), np.empty((512, 3), np.int64)
    for p in range(pairs.shape[0]):
        a0, a1 = starts[pairs[p, 0]], starts[pairs[p, 0] + 1]
        b0, b1 = starts2[pairs[p, 1]], starts2[pairs[p, 1] + 1]
        # the nearest two leaves first: what they give rules most others out
        first_a, first_b, least = -1, -1, best
        for a in range(a0, a1):
            for b in range(b0, b1):
                apart = _apart(boxes[a], boxes2[b], voxel)
                if apart < least:
                    first_a, first_b, least = a, b, apart
        if first_a < 0:
            continue
        for turn in range(2):
            for a in range(first_a if turn == 0 else a0, first_a + 1 if turn == 0 else a1):
                n: Int = -1
                for b in range(first_b if turn == 0 else b0, first_b + 1 if turn == 0 else b1):
                    if _apart(boxes[a], boxes2[b], voxel) >= best:
                        continue
                    if n < 0:
                        n = _listed(corners, masks, a, ours)
                    m = _listed(corners2, masks2, b, theirs)
                    for i in range(n):
                        for j in range(m):
                            dx = (ours[i, 0] - theirs[j, 0]) * voxel[0]
                            dy = (ours[i, 1] - theirs[j, 1]) * voxel[1]
                            dz = (ours[i, 2] - theirs[j, 2]) * voxel[2]
                            apart = dx * dx + dy * dy + dz * dz
                            if apart < best:
                                best = apart
                                found[0] = ours[i]
                                found[1] = theirs[j]
    return best
