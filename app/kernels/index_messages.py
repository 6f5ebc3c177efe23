"""The blocks of a label index as bytes of DVID's protobuf message: field 1 of `LabelIndex`, a map of maps."""

import numpy as np
import numpy.typing as npt
from numba import njit

from app.kernels.arrays import U8, U32, U64, Int, frozen_c

_FIELD, _SIGN = 21, 1 << 20


def block_numbers(places_zyx: npt.NDArray[np.int64]) -> U64:
    """Return the numbers (uint64, n) of blocks, int64 (n, 3) of z, y, x: 21 bits for each, sign and magnitude.

    ValueError if a coordinate does not fit.
    """
    if len(places_zyx) and int(np.abs(places_zyx).max()) >= _SIGN:
        raise ValueError("a block lies too far out for the numbers of label indices")
    fields = np.abs(places_zyx) | np.where(places_zyx < 0, _SIGN, 0)
    numbers: U64 = (fields[:, 0] << 2 * _FIELD | fields[:, 1] << _FIELD | fields[:, 2]).astype(np.uint64)
    return numbers


def blocks_message(numbers: U64, supervoxels: U64, voxels: U32) -> U8:
    """Return the bytes (uint8) of all blocks: rows of block number, supervoxel and voxels, in order of the number."""
    numbers = frozen_c(numbers, np.uint64, 1, "block numbers")
    supervoxels = frozen_c(supervoxels, np.uint64, 1, "supervoxels")
    voxels = frozen_c(voxels, np.uint32, 1, "voxels")
    if not numbers.size == supervoxels.size == voxels.size or np.any(numbers[1:] < numbers[:-1]):
        raise ValueError("rows must be as many numbers as supervoxels and voxels, ordered by the number")
    return _blocks_message(numbers, supervoxels, voxels)


@njit(nogil=True, cache=True)
def _size(value: np.uint64) -> Int:
    """Count the bytes of a varint."""
    n = 1
    while value >= np.uint64(128):
        value >>= np.uint64(7)
        n += 1
    return n


@njit(nogil=True, cache=True)
def _put(out: U8, at: Int, value: np.uint64) -> Int:
    """Write a varint; return where it ends."""
    while value >= np.uint64(128):
        out[at] = np.uint8(value & np.uint64(127) | np.uint64(128))
        value >>= np.uint64(7)
        at += 1
    out[at] = np.uint8(value)
    return at + 1


@njit(nogil=True, cache=True)
def _blocks_message(numbers: U64, supervoxels: U64, voxels: U32) -> U8:
    # a row: 1 + 1 + (1 + 10) + (1 + 5) bytes at most; a block: 1 + 5 + (1 + 10) + 1 + 5 more
    out = np.empty(42 * numbers.size, np.uint8)
    end: Int = 0
    first = 0
    while first < numbers.size:
        last = first
        inner: Int = 0  # bytes of the map of counts
        while last < numbers.size and numbers[last] == numbers[first]:
            inner += 4 + _size(supervoxels[last]) + _size(np.uint64(voxels[last]))
            last += 1
        outer = 1 + _size(numbers[first]) + 1 + _size(np.uint64(inner)) + inner
        out[end] = 0x0A  # blocks, an entry of the map
        end = _put(out, end + 1, np.uint64(outer))
        out[end] = 0x08  # its key
        end = _put(out, end + 1, numbers[first])
        out[end] = 0x12  # its value, an SVCount
        end = _put(out, end + 1, np.uint64(inner))
        for i in range(first, last):
            size = 2 + _size(supervoxels[i]) + _size(np.uint64(voxels[i]))
            out[end] = 0x0A  # counts, an entry of the map
            end = _put(out, end + 1, np.uint64(size))
            out[end] = 0x08
            end = _put(out, end + 1, supervoxels[i])
            out[end] = 0x10
            end = _put(out, end + 1, np.uint64(voxels[i]))
        first = last
    return out[:end].copy()
