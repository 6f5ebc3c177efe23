"""Reading voxels: boxes in every encoding, streams of blocks, labels at points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from isal import igzip

from app.core.errors import Invalid, TooLarge
from app.core.geometry import Box, Triple
from app.core.work import Workers
from app.datatypes import voxels
from app.datatypes.labelmap import blocks, keys
from app.datatypes.labelmap.blocks import U8
from app.datatypes.labelmap.keys import U64
from app.datatypes.labelmap.mapping import IDENTITY, Mapping
from app.kernels import label_block, lz4_labels, segmentation
from app.kernels.places import grouped
from app.versioning.datastore import Data
from app.versioning.snapshot import Snapshot

#: Work on so few blocks is done at once; handing it to a thread would take as long.
FEW_BLOCKS = 2


def _check_size(box: Box, limit_bytes: int) -> None:
    if box.count * 8 > limit_bytes:
        raise TooLarge(f"{box.count} voxels are more than one answer may hold ({limit_bytes // 8})")


class Grid:
    """The blocks that a box of voxels meets, unpacked, in C order of z, y, x."""

    def __init__(self, box: Box, block: Triple, found: Sequence[U8 | None]) -> None:
        self.box = box
        self.block = block
        self.places = box.blocks(block)
        self.found = found

    @property
    def offset(self) -> Triple:
        """Where the box begins, in voxels from the grid's corner."""
        corner = [a * b for a, b in zip(self.places.start, self.block, strict=True)]
        z, y, x = (a - b for a, b in zip(self.box.start, corner, strict=True))
        return z, y, x

    def dense(self) -> U64:
        """The labels of the box: uint64 z, y, x."""
        out = np.zeros(self.box.shape, np.uint64)
        for place, block in zip(self.places.points(), self.found, strict=True):
            if block is None:
                continue
            corner = tuple(a * b for a, b in zip(place, self.block, strict=True))
            part = Box((0, 0, 0), self.block).shift(corner).intersect(self.box)  # type: ignore[arg-type]
            start = tuple(a - b for a, b in zip(part.start, corner, strict=True))
            there = part.shift((-self.box.start[0], -self.box.start[1], -self.box.start[2]))
            label_block.decode_box(block, start, out[there.slices()])  # type: ignore[arg-type]
        return out

    def lz4(self) -> memoryview:
        """One raw LZ4 block of the dense labels."""
        packed = lz4_labels.compress_blocks(self.found, self.places.shape, self.block, self.offset, self.box.shape)
        return packed.data

    def segmentation(self) -> memoryview:
        """neuroglancer's compressed segmentation, sides multiples of 8."""
        if all(a % 8 == 0 for a in self.offset):
            packed = segmentation.from_blocks(self.found, self.places.shape, self.block, self.offset, self.box.shape)
        else:
            packed = segmentation.encode(self.dense())
        return packed.data


async def grid(data: Data, snapshot: Snapshot, scale: int, box: Box, mapping: Mapping, limit_bytes: int) -> Grid:
    """Fetch the blocks of a box."""
    _check_size(box, limit_bytes)
    block = voxels.block_shape(data)
    places = list(box.blocks(block).points())
    return Grid(box, block, await blocks.fetch_unpacked(snapshot, scale, places, mapping))


async def volume(
    data: Data, snapshot: Snapshot, scale: int, box: Box, mapping: Mapping, workers: Workers, limit_bytes: int
) -> U64:
    """The labels of a box: uint64 z, y, x."""
    found = await grid(data, snapshot, scale, box, mapping, limit_bytes)
    if len(found.found) <= FEW_BLOCKS:
        return found.dense()
    return await workers.run(found.dense)


async def encoded(
    data: Data,
    snapshot: Snapshot,
    scale: int,
    box: Box,
    mapping: Mapping,
    compression: str,
    workers: Workers,
    limit_bytes: int,
) -> bytes | memoryview:
    """The labels of a box as `compression` says: ``, lz4, gzip, google or googlegzip."""
    if compression in ("google", "googlegzip") and any(side % 8 for side in box.shape):
        raise Invalid("compressed segmentation needs sizes that are multiples of 8")
    block = voxels.block_shape(data)
    key = None
    if box.shape == block and box.is_aligned(block) and compression:
        key = keys.block(scale, box.blocks(block).start)
        seen = blocks.look(snapshot, key, None, mapping)
        if seen is None:
            seen = blocks.look(snapshot, key, await snapshot.get(key), mapping)
        known: bytes | memoryview | None = blocks.recall_encoded(snapshot, key, compression, mapping, seen)
        if known is not None:
            return known
    found = await grid(data, snapshot, scale, box, mapping, limit_bytes)

    def work() -> bytes | memoryview:
        if compression == "lz4":
            return found.lz4()
        if compression == "google":
            return found.segmentation()
        if compression == "googlegzip":
            return bytes(igzip.compress(found.segmentation(), blocks.GZIP_LEVEL))
        return encode_dense(found.dense(), compression)

    answer = work() if len(found.found) <= FEW_BLOCKS else await workers.run(work)
    if key is not None and seen is not None:
        blocks.remember_encoded(snapshot, key, compression, mapping, seen, answer)
    return answer


def encode_dense(labels: U64, compression: str) -> bytes | memoryview:
    """Dense labels, C-contiguous uint64 z, y, x, as `compression` says."""
    if compression == "lz4":
        return lz4_labels.compress(labels).data
    if compression == "gzip":
        return bytes(igzip.compress(labels.data.cast("B"), blocks.GZIP_LEVEL))
    if compression in ("google", "googlegzip"):
        if any(side % 8 for side in labels.shape):
            raise Invalid("compressed segmentation needs sizes that are multiples of 8")
        packed = segmentation.encode(labels).data
        return packed if compression == "google" else bytes(igzip.compress(packed, blocks.GZIP_LEVEL))
    return labels.data.cast("B")


def payload(block: U8, compression: str, shape: Triple) -> bytes:
    """One block of a block stream: `blocks`, `lz4`, `gzip` or `uncompressed`."""
    if compression == "blocks":
        return blocks.pack(block)
    dense = np.empty(shape, np.uint64)
    label_block.decode(block, dense)
    if compression == "lz4":
        return bytes(lz4_labels.compress(dense))
    if compression == "gzip":
        return bytes(igzip.compress(dense.data.cast("B"), blocks.GZIP_LEVEL))
    return dense.tobytes()


async def block_payloads(
    data: Data,
    snapshot: Snapshot,
    scale: int,
    zyxs: Sequence[Triple],
    mapping: Mapping,
    compression: str,
    workers: Workers,
) -> list[bytes | None]:
    """The payloads of blocks for a block stream, None where there is no block.

    Stored bytes pass through as they are when a client wants label blocks and no label in them is mapped.
    """
    shape = voxels.block_shape(data)
    names = [keys.block(scale, zyx) for zyx in zyxs]
    stored = await snapshot.get_many(names)
    if compression == "blocks" and mapping.is_empty:
        return stored
    looks = [blocks.look(snapshot, name, value, mapping) for name, value in zip(names, stored, strict=True)]
    if compression == "blocks":  # no label of most blocks is mapped
        found: list[bytes | None] = [None if seen else value for seen, value in zip(looks, stored, strict=True)]
    else:
        found = [None] * len(names)
    for index, (name, seen) in enumerate(zip(names, looks, strict=True)):
        if found[index] is None:
            found[index] = blocks.recall_encoded(snapshot, name, compression, mapping, seen)
    todo = [index for index, value in enumerate(stored) if value is not None and found[index] is None]
    unpacked = [(index, blocks.unpacked(snapshot, names[index], stored[index] or b"", mapping)) for index in todo]

    def work(index: int, block: U8) -> tuple[int, bytes]:
        return index, payload(block, compression, shape)

    if len(unpacked) <= FEW_BLOCKS:
        done = [work(index, block) for index, block in unpacked]
    else:
        done = await workers.map(work, [(index, block) for index, block in unpacked])
    for index, value in done:
        found[index] = value
        seen = looks[index]
        if compression in ("blocks", "lz4") and seen is not None:
            blocks.remember_encoded(snapshot, names[index], compression, mapping, seen, value)
    return found


async def labels_at(
    data: Data, snapshot: Snapshot, scale: int, points_xyz: npt.NDArray[np.int64], mapping: Mapping
) -> U64:
    """The labels at points, int64 (n, 3) as x, y, z, in the same order; 0 where there is no block."""
    found = np.zeros(len(points_xyz), np.uint64)
    if not len(points_xyz):
        return found
    shape = np.array(voxels.block_shape(data), np.int64)
    points = points_xyz[:, ::-1]
    at = points // shape
    distinct, order, starts = grouped(at)
    zyxs = [(z, y, x) for z, y, x in distinct.tolist()]
    # Mapping a block's header may cost more than mapping the few labels that are asked for.
    fetched = await blocks.fetch_unpacked(snapshot, scale, zyxs, IDENTITY)
    inside = (points - at * shape)[order].astype(np.int32)
    found[order] = label_block.labels_of_blocks(fetched, inside, starts.tolist())
    return mapping.apply(found)


async def label_at(data: Data, snapshot: Snapshot, scale: int, point_xyz: Triple, mapping: Mapping) -> int:
    """The label at one point."""
    bz, by, bx = voxels.block_shape(data)
    x, y, z = point_xyz
    zyx = (z // bz, y // by, x // bx)
    (block,) = await blocks.fetch_unpacked(snapshot, scale, [zyx], IDENTITY)
    if block is None:
        return 0
    label = label_block.label_at(block, z % bz, y % by, x % bx)
    if mapping.is_empty:
        return label
    return int(mapping.apply(np.array([label], np.uint64))[0])
