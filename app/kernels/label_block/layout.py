"""Where does a label block keep the labels and values of its sub-blocks, and how is it put together?"""

import numpy as np
from numba import njit

from app.kernels.arrays import I64, U8, U16, U32, U64, Int
from app.kernels.packed import width_of
from app.kernels.words import get16, put16, put32, put64


@njit(nogil=True, cache=True)
def total_of(data: U8, at: Int, n: Int) -> Int:
    """Sum the ``n`` uint16 at byte ``at``."""
    total = 0
    for i in range(n):
        total += get16(data, at + 2 * i)
    return total


@njit(nogil=True, cache=True)
def positions(data: U8, subs: Int, n_labels: Int) -> tuple[I64, I64]:
    """Return the byte positions of each sub-block's indices and values, subs + 1 of each (for n_labels > 1)."""
    at_count = 16 + 8 * n_labels
    index = np.empty(subs + 1, np.int64)
    value = np.empty(subs + 1, np.int64)
    at_index = at_count + 2 * subs
    at_value = at_index + 4 * total_of(data, at_count, subs)
    for s in range(subs):
        index[s] = at_index
        value[s] = at_value
        n = get16(data, at_count + 2 * s)
        at_index += 4 * n
        at_value += 64 * width_of(n)
    index[subs] = at_index
    value[subs] = at_value
    return index, value


@njit(nogil=True, cache=True)
def assembled(subs_zyx: tuple[Int, Int, Int], labels: U64, n_of: U16, indices: U32, packed: U8) -> U8:
    """Put a block together: sub-blocks along z, y, x, the header list, and what its sub-blocks have.

    These are the number of labels of each sub-block, all their indices into the header list, all their packed values;
    with one label they are left out.
    """
    gz, gy, gx = subs_zyx
    at = 16 + 8 * labels.size
    size = at
    if labels.size > 1:
        size += 2 * n_of.size + 4 * indices.size + packed.size
    out = np.empty(size, np.uint8)
    put32(out, 0, gx)
    put32(out, 4, gy)
    put32(out, 8, gz)
    put32(out, 12, labels.size)
    for i in range(labels.size):
        put64(out, 16 + 8 * i, labels[i])
    if labels.size > 1:
        for s in range(n_of.size):
            put16(out, at + 2 * s, np.int64(n_of[s]))
        at += 2 * n_of.size
        for i in range(indices.size):
            put32(out, at + 4 * i, np.int64(indices[i]))
        at += 4 * indices.size
        out[at:] = packed
    return out
