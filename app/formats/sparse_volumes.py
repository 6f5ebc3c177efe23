"""Sparse volumes on the wire: runs of voxels or of blocks, with and without DVID's header."""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

I32 = npt.NDArray[np.int32]

_HEADER = struct.Struct("<4B2I")


def encode_runs(runs: I32) -> bytes:
    """The legacy form: 12-byte header (binary, 3 dimensions, runs along x, no count of voxels) and the runs."""
    return _HEADER.pack(0, 3, 0, 0, 0, len(runs)) + encode_bare_runs(runs)


def encode_bare_runs(runs: I32) -> bytes:
    """Runs only: int32 x, y, z, length each."""
    return np.ascontiguousarray(runs, "<i4").tobytes()


def block_runs(blocks_zyx: npt.NDArray[np.int64]) -> I32:
    """Blocks, int64 (n, 3) as z, y, x, as runs along x: int32 (m, 4) of x, y, z, length."""
    if not len(blocks_zyx):
        return np.empty((0, 4), np.int32)
    rows = np.unique(blocks_zyx, axis=0)
    same_row = (rows[1:, :2] == rows[:-1, :2]).all(axis=1) & (rows[1:, 2] == rows[:-1, 2] + 1)
    starts = np.flatnonzero(np.concatenate([[True], ~same_row]))
    lengths = np.diff(np.append(starts, len(rows)))
    first = rows[starts]
    return np.stack([first[:, 2], first[:, 1], first[:, 0], lengths], axis=1).astype(np.int32)
