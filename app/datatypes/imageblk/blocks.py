"""Blocks of working images: their keys, and arrays to stored bytes and back."""

from __future__ import annotations

import numpy as np

from app.core.geometry import Triple, block_key, parse_block_key
from app.datatypes.imageblk.kinds import Array, Image
from app.formats import compression, images

_PREFIX = b"block/"


def key(block_zyx: Triple) -> bytes:
    """Where a block is kept."""
    return _PREFIX + block_key(block_zyx)


def named(tree_key: bytes) -> str:
    """What a key of the tree is to users: a block, in blocks along x, y, z."""
    z, y, x = parse_block_key(tree_key[len(_PREFIX) :])
    return f"block {x},{y},{z}"


def pack(block: Array, image: Image) -> bytes:
    """The stored bytes of a block z, y, x."""
    if image.compression.startswith("jpeg"):
        quality = image.compression.partition(":")[2]
        return images.stacked_jpeg(block, max(1, int(quality or images.JPEG_QUALITY)))
    return compression.payload(np.ascontiguousarray(block).data.cast("B"), image.compression)


def unpack(value: bytes, image: Image, out: Array) -> None:
    """Fill a C-contiguous block z, y, x from its stored bytes."""
    if image.compression.startswith("jpeg"):
        images.unstack_jpeg(value, out)
    else:
        compression.fill(out, value, image.compression)


def empty(image: Image) -> Array:
    """A block of background: every byte of it, as DVID has it."""
    out = np.empty(image.block, image.kind.dtype)
    out.view(np.uint8)[...] = image.background
    return out


def flat(voxels: Array) -> memoryview:
    """The bytes of voxels, x fastest."""
    return np.ascontiguousarray(voxels).reshape(-1).view(np.uint8).data
