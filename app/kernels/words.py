"""How does compiled code read and write words at any byte of a buffer?"""

import numpy as np
from numba import njit

from app.kernels.arrays import U8, Int


@njit(nogil=True, cache=True)
def get16(data: U8, at: Int) -> Int:
    """Read a little-endian uint16."""
    p = np.uint64(at)
    return np.int64(data[p]) | (np.int64(data[p + np.uint64(1)]) << 8)


@njit(nogil=True, cache=True)
def get32(data: U8, at: Int) -> Int:
    """Read a little-endian uint32 as int64."""
    p = np.uint64(at)
    return np.int64(
        np.uint32(data[p])
        | (np.uint32(data[p + np.uint64(1)]) << np.uint32(8))
        | (np.uint32(data[p + np.uint64(2)]) << np.uint32(16))
        | (np.uint32(data[p + np.uint64(3)]) << np.uint32(24))
    )


@njit(nogil=True, cache=True)
def get64(data: U8, at: Int) -> np.uint64:
    """Read a little-endian uint64."""
    p = np.uint64(at)
    return (
        np.uint64(data[p])
        | (np.uint64(data[p + np.uint64(1)]) << np.uint64(8))
        | (np.uint64(data[p + np.uint64(2)]) << np.uint64(16))
        | (np.uint64(data[p + np.uint64(3)]) << np.uint64(24))
        | (np.uint64(data[p + np.uint64(4)]) << np.uint64(32))
        | (np.uint64(data[p + np.uint64(5)]) << np.uint64(40))
        | (np.uint64(data[p + np.uint64(6)]) << np.uint64(48))
        | (np.uint64(data[p + np.uint64(7)]) << np.uint64(56))
    )


@njit(nogil=True, cache=True)
def get64_big_inside(data: U8, at: Int) -> np.uint64:
    """Read a big-endian uint64 all of whose bytes are known to be there."""
    p = np.uint64(at)
    return (
        np.uint64(data[p + np.uint64(7)])
        | (np.uint64(data[p + np.uint64(6)]) << np.uint64(8))
        | (np.uint64(data[p + np.uint64(5)]) << np.uint64(16))
        | (np.uint64(data[p + np.uint64(4)]) << np.uint64(24))
        | (np.uint64(data[p + np.uint64(3)]) << np.uint64(32))
        | (np.uint64(data[p + np.uint64(2)]) << np.uint64(40))
        | (np.uint64(data[p + np.uint64(1)]) << np.uint64(48))
        | (np.uint64(data[p]) << np.uint64(56))
    )


@njit(nogil=True, cache=True)
def get64_big(data: U8, at: Int) -> np.uint64:
    """Read a big-endian uint64; bytes beyond the end of ``data`` read as 0."""
    if at + 8 <= data.size:
        return get64_big_inside(data, at)
    v = np.uint64(0)
    for i in range(8):
        v <<= np.uint64(8)
        if at + i < data.size:
            v |= np.uint64(data[at + i])
    return v


@njit(nogil=True, cache=True)
def put16(data: U8, at: Int, value: Int) -> None:
    """Write a little-endian uint16."""
    p = np.uint64(at)
    data[p] = np.uint8(value)
    data[p + np.uint64(1)] = np.uint8(value >> 8)


@njit(nogil=True, cache=True)
def put32(data: U8, at: Int, value: Int) -> None:
    """Write a little-endian uint32."""
    p = np.uint64(at)
    v = np.uint32(value)
    data[p] = np.uint8(v)
    data[p + np.uint64(1)] = np.uint8(v >> np.uint32(8))
    data[p + np.uint64(2)] = np.uint8(v >> np.uint32(16))
    data[p + np.uint64(3)] = np.uint8(v >> np.uint32(24))


@njit(nogil=True, cache=True)
def put64(data: U8, at: Int, v: np.uint64) -> None:
    """Write a little-endian uint64."""
    p = np.uint64(at)
    data[p] = np.uint8(v)
    data[p + np.uint64(1)] = np.uint8(v >> np.uint64(8))
    data[p + np.uint64(2)] = np.uint8(v >> np.uint64(16))
    data[p + np.uint64(3)] = np.uint8(v >> np.uint64(24))
    data[p + np.uint64(4)] = np.uint8(v >> np.uint64(32))
    data[p + np.uint64(5)] = np.uint8(v >> np.uint64(40))
    data[p + np.uint64(6)] = np.uint8(v >> np.uint64(48))
    data[p + np.uint64(7)] = np.uint8(v >> np.uint64(56))


@njit(nogil=True, cache=True)
def put64_big(data: U8, at: Int, v: np.uint64) -> None:
    """Write a big-endian uint64."""
    p = np.uint64(at)
    data[p + np.uint64(7)] = np.uint8(v)
    data[p + np.uint64(6)] = np.uint8(v >> np.uint64(8))
    data[p + np.uint64(5)] = np.uint8(v >> np.uint64(16))
    data[p + np.uint64(4)] = np.uint8(v >> np.uint64(24))
    data[p + np.uint64(3)] = np.uint8(v >> np.uint64(32))
    data[p + np.uint64(2)] = np.uint8(v >> np.uint64(40))
    data[p + np.uint64(1)] = np.uint8(v >> np.uint64(48))
    data[p] = np.uint8(v >> np.uint64(56))
