"""Plain numpy readers of the wire formats, written apart from the server's own so that a check means something."""

from __future__ import annotations

import gzip
import io
import struct

import lz4.block
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Labels = NDArray[np.uint64]
Grey = NDArray[np.uint8]


def raw_labels(data: bytes, size: int) -> Labels:
    return np.frombuffer(data, "<u8").reshape(size, size, size)


def lz4_labels(data: bytes, size: int) -> Labels:
    return raw_labels(lz4.block.decompress(data, uncompressed_size=8 * size**3), size)


def raw_grey(data: bytes, size: int) -> Grey:
    return np.frombuffer(data, np.uint8).reshape(size, size, size)


def image(data: bytes) -> Grey:
    """Read a grey PNG or JPEG as rows of pixels."""
    with Image.open(io.BytesIO(data)) as picture:
        if picture.mode != "L":
            raise ValueError(f"the image is {picture.mode}, not 8-bit grey")
        return np.asarray(picture)


def gzipped_segmentation(data: bytes, size: int) -> Labels:
    """Read gzip of neuroglancer's compressed_segmentation: one channel, uint64, blocks of 8."""
    words = np.frombuffer(gzip.decompress(data), "<u4")
    if words[0] != 1:
        raise ValueError("the first channel does not start at word 1")
    words = words[1:]
    grid = size // 8
    cubes = np.empty((grid**3, 512), np.uint64)
    for number in range(grid**3):
        table, bits = int(words[2 * number]) & 0xFFFFFF, int(words[2 * number]) >> 24
        start = int(words[2 * number + 1])
        indices = np.zeros(512, int)
        if bits:
            packed = words[start : start + 16 * bits, None] >> np.arange(0, 32, bits, dtype=np.uint32)
            indices = (packed & np.uint32((1 << bits) - 1)).reshape(512).astype(int)
        pairs = words[table : table + 2 * (int(indices.max()) + 1)].astype(np.uint64)
        cubes[number] = (pairs[0::2] | pairs[1::2] << np.uint64(32))[indices]
    return _assemble(cubes, grid, grid, grid)


def label_block(data: bytes) -> Labels:
    """Read DVID's compressed label block."""
    gx, gy, gz, total = struct.unpack_from("<4I", data)
    labels = np.frombuffer(data, "<u8", total, 16)
    if total < 2:
        return np.full((8 * gz, 8 * gy, 8 * gx), labels[0] if total else 0, np.uint64)
    pos = 16 + 8 * total
    counts = np.frombuffer(data, "<u2", gx * gy * gz, pos).astype(int)
    pos += 2 * len(counts)
    indices = np.frombuffer(data, "<u4", int(counts.sum()), pos)
    pos += 4 * len(indices)
    cubes = np.zeros((len(counts), 512), np.uint64)
    first = 0
    for number, count in enumerate(counts.tolist()):
        own = labels[indices[first : first + count]]
        first += count
        if count == 1:
            cubes[number] = own[0]
        elif count:
            width = (count - 1).bit_length()
            bits = np.unpackbits(np.frombuffer(data, np.uint8, 64 * width, pos)).reshape(512, width)
            cubes[number] = own[bits @ (1 << np.arange(width - 1, -1, -1))]
            pos += 64 * width
    return _assemble(cubes, gz, gy, gx)


def only_block(data: bytes) -> tuple[tuple[int, int, int], Labels]:
    """Read a stream of exactly one gzipped label block; return where it lies, in blocks, and its voxels."""
    x, y, z, size = struct.unpack_from("<4i", data)
    if len(data) != 16 + size:
        raise ValueError(f"{len(data)} bytes are not one block of {size}")
    return (x, y, z), label_block(gzip.decompress(data[16:]))


def _assemble(cubes: Labels, gz: int, gy: int, gx: int) -> Labels:
    shape = (gz, gy, gx, 8, 8, 8)
    return cubes.reshape(shape).transpose(0, 3, 1, 4, 2, 5).reshape(8 * gz, 8 * gy, 8 * gx)


def half(labels: Labels) -> Labels:
    """Halve a volume as DVID does: of eight the most frequent that is not 0, the smaller one of equals."""
    z, y, x = (side // 2 for side in labels.shape)
    eight = labels.reshape(z, 2, y, 2, x, 2).transpose(0, 2, 4, 1, 3, 5).reshape(z, y, x, 8)
    best = np.zeros((z, y, x), np.uint64)
    votes = np.zeros((z, y, x), np.uint8)
    for candidate in np.moveaxis(eight, -1, 0):
        count = (eight == candidate[..., None]).sum(-1).astype(np.uint8)
        count[candidate == 0] = 0
        better = (count > votes) | ((count == votes) & (count > 0) & (candidate < best))
        best[better] = candidate[better]
        votes[better] = count[better]
    return best
