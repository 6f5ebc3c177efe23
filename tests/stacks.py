"""V3D raw image stacks, as Vaa3D writes them."""

from __future__ import annotations

import struct

import numpy as np

from app.formats import v3d_raw


def v3draw(dense: np.ndarray, order: str = "L") -> bytes:
    """The file of voxels (channel, z, y, x)."""
    count, depth, height, width = dense.shape
    mark = {"L": "<", "B": ">"}[order]
    fields = struct.pack(f"{mark}H4I", dense.itemsize, width, height, depth, count)
    return v3d_raw.MAGIC + order.encode() + fields + dense.astype(dense.dtype.newbyteorder(mark)).tobytes()
