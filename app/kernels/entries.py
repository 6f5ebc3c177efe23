"""How do newer entries of the label index replace older ones?

Entries are in columns: supervoxels, uint64 (n), blocks, int64 (n, 3) of z, y, x, voxels, uint32 (n).
"""

import numpy as np
import numpy.typing as npt
from numba import njit

from app.kernels.arrays import I64, U32, U64, frozen_c

Columns = tuple[U64, I64, U32]


def are_ordered(supervoxels: U64, blocks: I64) -> bool:
    """Whether entries ascend by supervoxel, z, y, x, and none is there twice."""
    return bool(_are_ordered(_labels(supervoxels), _places(blocks)))


def merged(older: Columns, newer: Columns) -> Columns:
    """Return two tables in order as one; where both have an entry for a supervoxel and block, the newer one's."""
    return _merged(*_columns(older), *_columns(newer))


def _labels(supervoxels: U64) -> U64:
    return frozen_c(supervoxels, np.uint64, 1, "supervoxels")


def _places(blocks: I64) -> I64:
    return frozen_c(blocks, np.int64, 2, "blocks")


def _columns(table: Columns) -> Columns:
    supervoxels, blocks, voxels = table
    if blocks.shape != (len(supervoxels), 3) or len(voxels) != len(supervoxels):
        raise ValueError(f"{len(supervoxels)} supervoxels need as many blocks z, y, x and counts")
    return _labels(supervoxels), _places(blocks), frozen_c(voxels, np.uint32, 1, "voxels")


@njit(nogil=True, cache=True)
def _compare(one: np.uint64, a: npt.NDArray[np.int64], other: np.uint64, b: npt.NDArray[np.int64]) -> int:
    """Less than 0, 0 or more as an entry comes before another one, for the same place, or behind it."""
    if one != other:
        return -1 if one < other else 1
    for axis in range(3):
        if a[axis] != b[axis]:
            return -1 if a[axis] < b[axis] else 1
    return 0


@njit(nogil=True, cache=True)
def _are_ordered(supervoxels: U64, blocks: I64) -> bool:
    for i in range(1, len(supervoxels)):
        if _compare(supervoxels[i - 1], blocks[i - 1], supervoxels[i], blocks[i]) >= 0:
            return False
    return True


@njit(nogil=True, cache=True)
def _merged(
    old_labels: U64, old_blocks: I64, old_voxels: U32, new_labels: U64, new_blocks: I64, new_voxels: U32
) -> Columns:
    most = len(old_labels) + len(new_labels)
    labels, blocks, voxels = np.empty(most, np.uint64), np.empty((most, 3), np.int64), np.empty(most, np.uint32)
    i = j = n = 0
    while i < len(old_labels) or j < len(new_labels):
        if i == len(old_labels):
            order = 1
        elif j == len(new_labels):
            order = -1
        else:
            order = _compare(old_labels[i], old_blocks[i], new_labels[j], new_blocks[j])
        if order < 0:
            labels[n], voxels[n] = old_labels[i], old_voxels[i]
            for axis in range(3):
                blocks[n, axis] = old_blocks[i, axis]
        else:
            labels[n], voxels[n] = new_labels[j], new_voxels[j]
            for axis in range(3):
                blocks[n, axis] = new_blocks[j, axis]
            j += 1
        if order <= 0:
            i += 1
        n += 1
    return labels[:n].copy(), blocks[:n].copy(), voxels[:n].copy()
