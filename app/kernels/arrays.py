"""Which arrays does compiled code take, how do they grow, and where in a sorted one is a value?"""

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
Shape = tuple[int, int, int]
"""Three sizes or coordinates: z, y, x."""


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


def xyz(zyx: Any) -> str:
    """Return three sizes or coordinates, z, y, x, as messages say them: x×y×z."""
    return "×".join(str(int(side)) for side in reversed(tuple(zyx)))


@njit(nogil=True, cache=True)
def place_in(table: U64 | I64, value: Int) -> Int:
    """Return the place of a value in a sorted array, or -1."""
    low, high = 0, len(table)
    while low < high:
        middle = (low + high) >> 1
        if table[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low if low < len(table) and table[low] == value else -1


@njit(nogil=True, cache=True)
def grown(data: npt.NDArray[Any], need: Int) -> npt.NDArray[Any]:
    """Return ``data``, or a copy at least twice as long when its first axis has fewer than ``need``; C order."""
    if need <= data.shape[0]:
        return data
    more = np.empty((max(need, 2 * data.shape[0]), *data.shape[1:]), data.dtype)
    more.reshape(-1)[: data.size] = data.reshape(-1)
    return more
