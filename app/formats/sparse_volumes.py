"""Sparse volumes on the wire: runs of voxels or of blocks, with and without DVID's header."""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

from app.core.errors import Invalid, TooLarge
from app.core.geometry import MAX_COORDINATE

I32 = npt.NDArray[np.int32]

_HEADER = struct.Struct("<4B2I")
RUN_BYTES = 16


def decode_runs(body: bytes | bytearray | memoryview) -> I32:
    """The runs of the legacy form as a client sends it: int32 (n, 4) of x, y, z, length, in their order.

    `Invalid` unless the header is that of runs along x in three dimensions, the runs are as many as it says, at least
    one, and each is positive and ends within int32. The header's count of voxels is not looked at (DVID writes 0);
    runs may overlap.
    """
    if len(body) < _HEADER.size:
        raise Invalid(f"a sparse volume begins with {_HEADER.size} bytes of header, not {len(body)}")
    kind, dimensions, along, _, _, count = _HEADER.unpack_from(body)
    if (kind, dimensions, along) != (0, 3, 0):
        raise Invalid(
            f"a sparse volume begins with bytes 0, 3, 0 (binary, 3-D, along x), not {kind, dimensions, along}"
        )
    if len(body) != _HEADER.size + 16 * count:
        raise Invalid(f"{count} runs have {16 * count} bytes; {len(body) - _HEADER.size} follow the header")
    if not count:
        raise Invalid("the sparse volume has no runs")
    runs = np.frombuffer(body, "<i4", offset=_HEADER.size).reshape(-1, 4)
    lengths = runs[:, 3]
    if int(lengths.min()) <= 0:
        raise Invalid(f"run {int(lengths.argmin())} has a length of {int(lengths.min())}")
    ends = runs[:, 0].astype(np.int64) + lengths
    if int(ends.max()) > MAX_COORDINATE:
        raise Invalid(f"run {int(ends.argmax())} ends beyond the largest coordinate")
    return runs.astype(np.int32, copy=False)


def encode_runs(runs: I32) -> bytes:
    """The legacy form: 12-byte header (binary, 3 dimensions, runs along x, no count of voxels) and the runs."""
    return header(len(runs)) + encode_bare_runs(runs)


def header(count: int) -> bytes:
    """What stands in front of so many runs."""
    if count >> 32:
        raise TooLarge(f"{count} runs are more than a sparse volume can have")
    return _HEADER.pack(0, 3, 0, 0, 0, count)


def encode_bare_runs(runs: I32) -> bytes:
    """Runs only: int32 x, y, z, length each."""
    return np.ascontiguousarray(runs, "<i4").tobytes()


def block_runs(blocks_zyx: npt.NDArray[np.int64]) -> I32:
    """Blocks, int64 (n, 3) as z, y, x, sorted and distinct, as runs along x: int32 (m, 4) of x, y, z, length."""
    if not len(blocks_zyx):
        return np.empty((0, 4), np.int32)
    z, y, x = blocks_zyx.T
    is_first = np.ones(len(blocks_zyx) + 1, bool)
    is_first[1:-1] = (x[1:] != x[:-1] + 1) | (y[1:] != y[:-1]) | (z[1:] != z[:-1])
    starts = np.flatnonzero(is_first)
    runs = np.empty((len(starts) - 1, 4), np.int32)
    starts, runs[:, 3] = starts[:-1], np.diff(starts)
    runs[:, :3] = blocks_zyx[starts, ::-1]
    return runs
