"""How is a raw LZ4 block written, sequence by sequence?

https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md: a token, literals, a 16-bit offset, a match of at least
4 bytes; the last 12 bytes are free of match starts and the last 5 are literals.
"""

import numpy as np
from numba import njit

from app.kernels.arrays import I64, U8, U64, Int, grown
from app.kernels.words import get64, put16, put64

TAIL = 2
"""Voxels at the end that are never part of a match: 16 bytes, which satisfies LZ4's two rules for the end."""
FARTHEST = 8191
"""Voxels that a match can reach back: 65535 bytes."""


@njit(nogil=True, cache=True)
def _length(out: U8, end: Int, rest: Int) -> Int:
    """Write what of a length is beyond its four bits in the token; return the new end."""
    while rest >= 255:
        out[end] = 255
        end += 1
        rest -= 255
    out[end] = np.uint8(rest)
    return end + 1


@njit(nogil=True, cache=True)
def sequence(out: U8, end: Int, lits: U8, n_lits: Int, distance: Int, size: Int) -> Int:
    """Write literals and a match of ``size`` bytes ``distance`` bytes back (none if size is 0); return the new end."""
    token_at = end
    end += 1
    token = min(n_lits, 15) << 4
    if n_lits >= 15:
        end = _length(out, end, n_lits - 15)
    if n_lits <= 8:  # room for 8 is always there
        put64(out, end, get64(lits, 0))
    else:
        for i in range(n_lits):
            out[end + i] = lits[i]
    end += n_lits
    if size:
        put16(out, end, distance)
        end += 2
        token |= min(size - 4, 15)
        if size - 4 >= 15:
            end = _length(out, end, size - 19)
    out[token_at] = np.uint8(token)
    return end


@njit(nogil=True, cache=True)
def finish(tail: U64, out: U8, lits: U8, state: I64) -> U8:
    """Write what is pending and the last voxels as literals.

    ``state``: end of ``out``, number of pending literal bytes, distance and size in bytes of the pending match (size 0:
    none).
    """
    end, n_lits, distance, size = state[0], state[1], state[2], state[3]
    out = grown(out, end + n_lits + n_lits // 255 + size // 255 + 64 + 8 * tail.size)
    if size:
        end = sequence(out, end, lits, n_lits, distance, size)
        n_lits = 0
    lits = grown(lits, n_lits + 8 * tail.size)
    for i in range(tail.size):
        put64(lits, n_lits, tail[i])
        n_lits += 8
    end = sequence(out, end, lits, n_lits, 0, 0)
    return out[:end]
