"""V3D's raw image stacks (`.v3draw`): several channels of one volume, one after the other.

The format is that of Vaa3D: 24 bytes of magic, a letter for the order of bytes, the bytes of a voxel (uint16), width,
height, depth and number of channels (uint32 each), and then the voxels: x fastest, then y, z and channel.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from app.core.errors import Invalid

Array = npt.NDArray[Any]

MAGIC = b"raw_image_stack_by_hpeng"
_ORDERS = {b"L": "<", b"B": ">"}
_FIELDS = "H4I"
#: The order of bytes follows the magic, the fields follow the order.
_START = len(MAGIC) + 1
HEADER_BYTES = _START + struct.calcsize("<" + _FIELDS)


def channels(data: bytes) -> Array:
    """The voxels (channel, z, y, x) of a stack, uint8 or uint16 in the stack's order of bytes; a view of its bytes."""
    if len(data) < HEADER_BYTES or not data.startswith(MAGIC):
        raise Invalid("this is no V3D raw image stack")
    order = _ORDERS.get(data[len(MAGIC) : _START])
    if order is None:
        raise Invalid("the order of bytes of a V3D raw image stack must be L or B")
    voxel_bytes, width, height, depth, count = struct.unpack_from(order + _FIELDS, data, _START)
    if voxel_bytes not in (1, 2):
        raise Invalid(f"voxels of {voxel_bytes} bytes are not possible: 1 and 2 are")
    if not min(width, height, depth, count):
        raise Invalid("the V3D raw image stack is empty")
    expected, present = width * height * depth * count * voxel_bytes, len(data) - HEADER_BYTES
    if expected != present:
        raise Invalid(
            f"{count} channels of {width} x {height} x {depth} voxels are {expected} bytes, but {present} follow"
        )
    return np.frombuffer(data, f"{order}u{voxel_bytes}", offset=HEADER_BYTES).reshape(count, depth, height, width)
