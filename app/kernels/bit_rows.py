"""Which voxels of a block have one of some labels, as bits along x?

Rows are uint64 (64 · gz · gy, words): a row for each z and y (y faster), a word for 64 voxels along x, the lowest bit
first. What lies beyond the block's last voxel is 0.
"""

import numpy as np
from numba import njit

from app.kernels.arrays import I64, U8, U64, Int, frozen_c, place_in
from app.kernels.label_block.layout import positions
from app.kernels.packed import unpack_sub, width_of
from app.kernels.words import get32, get64

NONE, ALL, MIXED = 0, 1, 2
"""What :func:`fill` says of a block; `MIXED` promises nothing."""


def sorted_labels(wanted: U64) -> U64:
    """Return ``wanted`` (uint64, 1-D) ready for :func:`flags_of`; ValueError unless it is sorted."""
    wanted = frozen_c(wanted, np.uint64, 1, "wanted labels")
    if np.any(wanted[1:] < wanted[:-1]):
        raise ValueError("wanted labels must be sorted")
    return wanted


def _tables() -> tuple[U8, U8]:
    """Return the eight bits that a byte of eight values (four bits: of four) stands for, if some values are wanted.

    The first axis says which: bit k for the value k.
    """
    byte = np.arange(256)
    ones = np.stack([byte >> 7 - i & 1 for i in range(8)])  # of eight values, the first in the highest bit
    twos = np.stack([byte >> 6 - 2 * i & 3 for i in range(4)])
    weights = 1 << np.arange(8)
    one = np.stack([((want >> ones & 1).T * weights).sum(1) for want in range(4)])
    two = np.stack([((want >> twos & 1).T * weights[:4]).sum(1) for want in range(16)])
    return one.astype(np.uint8), two.astype(np.uint8)


_ONE, _TWO = _tables()


@njit(nogil=True, cache=True)
def flags_of(data: U8, n_labels: Int, wanted: U64) -> U8:
    """Return per entry of a block's header list whether it is wanted (uint8, n_labels + 1; the last: is label 0)."""
    flags = np.zeros(n_labels + 1, np.uint8)
    for i in range(n_labels):
        flags[i] = place_in(wanted, get64(data, 16 + 8 * i)) >= 0
    flags[n_labels] = place_in(wanted, np.uint64(0)) >= 0
    return flags


@njit(nogil=True, cache=True)
def fill(data: U8, gz: Int, gy: Int, gx: Int, wanted: U64, rows: U64) -> Int:
    """Write the rows of a checked block; answer `NONE` or `ALL` (then ``rows`` are left alone) or `MIXED`."""
    n_labels = get32(data, 12)
    flags = flags_of(data, n_labels, wanted)
    if n_labels <= 1:
        return np.int64(flags[0])
    if flags.max() == 0:
        return NONE
    rows[:] = 0
    index, value = positions(data, gz * gy * gx, n_labels)
    values = np.zeros(512, np.uint16)
    local = np.zeros(512, np.uint8)
    s = 0
    for sz in range(gz):
        for sy in range(gy):
            first = 64 * gy * sz + 8 * sy
            for sx in range(gx):
                n = (index[s + 1] - index[s]) >> 2
                some, all_of = np.uint8(0), np.uint8(1)
                if n == 0:
                    some = all_of = flags[n_labels]
                pattern = np.int64(0)
                for i in range(n):
                    local[i] = flags[get32(data, index[s] + 4 * i)]
                    some |= local[i]
                    all_of &= local[i]
                    if i < 4:
                        pattern |= np.int64(local[i]) << i
                at = value[s]
                s += 1
                if some == 0:
                    continue
                shift = np.uint64(8 * (sx & 7))
                word = sx >> 3
                if all_of:
                    for z in range(8):
                        for y in range(8):
                            rows[first + 8 * gy * z + y, word] |= np.uint64(255) << shift
                    continue
                w = width_of(n)
                if w > 2:
                    unpack_sub(data, at, w, values)
                for r in range(64):
                    if w == 1:
                        bits = np.uint64(_ONE[pattern, data[at + r]])
                    elif w == 2:
                        high = np.uint64(_TWO[pattern, data[at + 2 * r + 1]]) << np.uint64(4)
                        bits = np.uint64(_TWO[pattern, data[at + 2 * r]]) | high
                    else:
                        bits = np.uint64(0)
                        for i in range(8):
                            bits |= np.uint64(local[values[8 * r + i]]) << np.uint64(i)
                    rows[first + 8 * gy * (r >> 3) + (r & 7), word] |= bits << shift
    return MIXED


@njit(nogil=True, cache=True)
def fill_all(gx: Int, rows: U64) -> None:
    """Write the rows of a block all of whose voxels are wanted."""
    for word in range(rows.shape[1]):
        rest = 8 * gx - 64 * word
        ones = ~np.uint64(0) if rest >= 64 else (np.uint64(1) << np.uint64(rest)) - np.uint64(1)
        rows[:, word] = ones


@njit(nogil=True, cache=True)
def clip(rows: U64, gy: Int, low: I64, high: I64) -> None:
    """Clear what is not within ``low`` and ``high``, int64 (3) of z, y, x from the block's first voxel, included."""
    for r in range(rows.shape[0]):
        z, y = r // (8 * gy), r % (8 * gy)
        if z < low[0] or z > high[0] or y < low[1] or y > high[1]:
            rows[r] = 0
            continue
        for word in range(rows.shape[1]):
            first, last = max(low[2] - 64 * word, 0), min(high[2] - 64 * word, 63)
            if first > last:
                rows[r, word] = 0
            else:
                rows[r, word] &= (~np.uint64(0) >> np.uint64(63 - last)) & (~np.uint64(0) << np.uint64(first))
