"""How does compiled code read and write words at any byte of a buffer, and pack values into bits?

Every kernel that inlines one of these keeps its own compiled copy in its cache file, and numba renews
that copy only when the *calling* file changes: after editing this module, remove ``__pycache__/*.nb?``.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Int = int | np.integer[Any]


def frozen(data: npt.NDArray[Any], dtype: type[np.generic], ndim: int, name: str) -> npt.NDArray[Any]:
    """Return ``data`` as a read-only array of native ``dtype``: numba then compiles one variant, not four.

    The result shares memory when it can. Raise ValueError when ``data`` is no array of this type and rank.
    """
    if not isinstance(data, np.ndarray) or data.dtype != dtype or data.ndim != ndim:
        what = f"{data.dtype} array of {data.ndim} axes" if isinstance(data, np.ndarray) else type(data).__name__
        raise ValueError(f"{name} must be an array of {np.dtype(dtype)} with {ndim} axes, not {what}")
    if not data.dtype.isnative or not data.flags.aligned or type(data) is not np.ndarray:
        data = np.array(data, dtype=dtype)
    if data.flags.writeable:
        data = data.view()
        data.flags.writeable = False
    return data


def frozen_c(data: npt.NDArray[Any], dtype: type[np.generic], ndim: int, name: str) -> npt.NDArray[Any]:
    """Like :func:`frozen`, and C-contiguous (copied if it is not)."""
    data = frozen(data, dtype, ndim, name)
    return data if data.flags.c_contiguous else frozen(np.ascontiguousarray(data), dtype, ndim, name)


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
def get64_big(data: U8, at: Int) -> np.uint64:
    """Read a big-endian uint64; bytes beyond the end of ``data`` read as 0."""
    p = np.uint64(at)
    if at + 8 <= data.size:
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
    v = np.uint64(0)
    for i in range(8):
        v <<= np.uint64(8)
        if at + i < data.size:
            v |= np.uint64(data[at + i])
    return v


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


@njit(nogil=True, cache=True)
def width_of(n: Int) -> Int:
    """Bits per value in a table of ``n`` entries: ceil(log2 n), 0 for n < 2; n is at most 512."""
    w = 0
    while (1 << w) < n:
        w += 1
    return w


@njit(nogil=True, cache=True)
def grown8(data: U8, need: Int) -> U8:
    """Return ``data``, or a copy at least twice as long when it holds fewer than ``need`` bytes."""
    if need <= data.size:
        return data
    more = np.empty(max(need, 2 * data.size), np.uint8)
    more[: data.size] = data
    return more


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
        p = np.uint64(at + r * width)
        v = (
            np.uint64(data[p + np.uint64(7)])
            | (np.uint64(data[p + np.uint64(6)]) << np.uint64(8))
            | (np.uint64(data[p + np.uint64(5)]) << np.uint64(16))
            | (np.uint64(data[p + np.uint64(4)]) << np.uint64(24))
            | (np.uint64(data[p + np.uint64(3)]) << np.uint64(32))
            | (np.uint64(data[p + np.uint64(2)]) << np.uint64(40))
            | (np.uint64(data[p + np.uint64(1)]) << np.uint64(48))
            | (np.uint64(data[p]) << np.uint64(56))
        )
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
