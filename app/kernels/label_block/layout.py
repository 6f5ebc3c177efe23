"""Where do a label block's sub-blocks keep their labels and values?"""

import numpy as np
from numba import njit

from app.kernels.arrays import I64, U8, Int
from app.kernels.packed import width_of
from app.kernels.words import get16


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
