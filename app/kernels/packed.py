"""How do 512 small values become bits, most significant bit first, and values again?"""

import numpy as np
from numba import njit

from app.kernels.arrays import U8, U16, Int
from app.kernels.words import get64_big, get64_big_inside, put64_big


@njit(nogil=True, cache=True)
def width_of(n: Int) -> Int:
    """Bits per value in a table of ``n`` entries: ceil(log2 n), 0 for n < 2; n is at most 512."""
    w = 0
    while (1 << w) < n:
        w += 1
    return w


@njit(nogil=True, cache=True)
def pack_sub(values: U16, width: Int, out: U8, at: Int) -> None:
    """Pack 512 values, most significant bit first; up to 8 bytes after the last one may be overwritten."""
    w = np.uint64(width)
    if width <= 8:
        top = np.uint64(64 - 8 * width)
        for r in range(64):
            v = np.uint64(0)
            for i in range(8):
                v = (v << w) | np.uint64(values[8 * r + i])
            put64_big(out, at + r * width, v << top)
    else:
        for r in range(64):
            v = np.uint64(0)
            for i in range(4):
                v = (v << w) | np.uint64(values[8 * r + i])
            last = np.uint64(0)
            for i in range(4, 8):
                last = (last << w) | np.uint64(values[8 * r + i])
            put64_big(out, at + 9 * r, (v << np.uint64(28)) | (last >> np.uint64(8)))
            out[at + 9 * r + 8] = np.uint8(last)


@njit(nogil=True, cache=True)
def unpack_row(data: U8, at: Int, width: Int, row: U16) -> None:
    """Unpack eight values of ``width`` bits, most significant bit first, from byte ``at`` into ``row[:8]``."""
    v = get64_big(data, at)
    w = np.uint64(width)
    if width <= 8:
        shift = np.uint64(64) - w
        for i in range(8):
            row[i] = np.uint16(v >> shift)
            v <<= w
    else:  # 9 bits: four values in 36 bits, four in the next 36
        for i in range(4):
            row[i] = np.uint16(v >> np.uint64(55))
            v <<= np.uint64(9)
        v = get64_big(data, at + 1) << np.uint64(28)
        for i in range(4, 8):
            row[i] = np.uint16(v >> np.uint64(55))
            v <<= np.uint64(9)


@njit(nogil=True, cache=True)
def _unpack(data: U8, at: Int, width: Int, values: U16) -> None:
    """Unpack 512 values of at most 8 bits; 8 bytes at the last row must be readable."""
    w = np.uint64(width)
    shift = np.uint64(64) - w
    for r in range(64):
        v = get64_big_inside(data, at + r * width)
        q = np.uint64(8 * r)
        for i in range(8):
            values[q + np.uint64(i)] = np.uint16(v >> shift)
            v <<= w


@njit(nogil=True, cache=True)
def unpack_sub(data: U8, at: Int, width: Int, values: U16) -> None:
    """Unpack the 512 values of ``width`` bits (1 to 9), most significant bit first, that begin at byte ``at``."""
    if width > 8 or at + 64 * width + 8 > data.size:
        for r in range(64):
            unpack_row(data, at + r * width, width, values[8 * r : 8 * r + 8])
    elif width == 1:  # a literal width lets the compiler unroll with constant shifts
        _unpack(data, at, 1, values)
    elif width == 2:
        _unpack(data, at, 2, values)
    else:
        _unpack(data, at, width, values)
