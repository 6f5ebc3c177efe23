"""Which label does a 2×2×2 cell get at the next scale?

DVID's rule: the most frequent label that is not 0; between equally frequent ones the smallest id; 0 only if all are 0.
"""

import numpy as np
from numba import njit

from app.kernels.arrays import U64, Int, frozen


def halve(volume: U64) -> U64:
    """Return ``volume``, uint64 (z, y, x) of any strides with even sides, at half its resolution (a new array).

    ValueError if a side is odd.
    """
    volume = frozen(volume, np.uint64, 3, "label volume")
    if any(side % 2 for side in volume.shape):
        z, y, x = volume.shape
        raise ValueError(f"sides of a volume to halve must be even, not {x}×{y}×{z}")
    out = np.empty(tuple(side // 2 for side in volume.shape), np.uint64)
    if out.size:
        _halve(volume, out)
    return out


@njit(nogil=True, cache=True)
def _vote(cell: U64) -> np.uint64:
    """Vote among eight labels."""
    best = np.uint64(0)
    votes: Int = 0
    for i in range(8):
        label = cell[i]
        if label == np.uint64(0):
            continue
        n: Int = 0
        for k in range(8):
            n += np.int64(cell[k] == label)
        if n > votes or (n == votes and label < best):
            votes = n
            best = label
    return best


@njit(nogil=True, cache=True)
def _halve(vol: U64, out: U64) -> None:
    cell = np.empty(8, np.uint64)
    mixed = np.empty(out.shape[2], np.uint64)
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            # most cells are uniform: find out for the whole row first, without a branch per cell
            for x in range(out.shape[2]):
                a = vol[2 * z, 2 * y, 2 * x]
                out[z, y, x] = a
                mixed[x] = (
                    (vol[2 * z, 2 * y, 2 * x + 1] ^ a)
                    | (vol[2 * z, 2 * y + 1, 2 * x] ^ a)
                    | (vol[2 * z, 2 * y + 1, 2 * x + 1] ^ a)
                    | (vol[2 * z + 1, 2 * y, 2 * x] ^ a)
                    | (vol[2 * z + 1, 2 * y, 2 * x + 1] ^ a)
                    | (vol[2 * z + 1, 2 * y + 1, 2 * x] ^ a)
                    | (vol[2 * z + 1, 2 * y + 1, 2 * x + 1] ^ a)
                )
            for x in range(out.shape[2]):
                if mixed[x] != np.uint64(0):
                    for i in range(8):
                        cell[i] = vol[2 * z + (i >> 2), 2 * y + ((i >> 1) & 1), 2 * x + (i & 1)]
                    out[z, y, x] = _vote(cell)
