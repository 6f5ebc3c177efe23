"""Reading images: boxes of voxels, stacked JPEGs, blocks as they are stored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import numpy as np

from app.core.errors import Invalid, TooLarge
from app.core.geometry import Box, Triple
from app.core.work import Workers
from app.datatypes.imageblk import blocks
from app.datatypes.imageblk.kinds import Array, Image, image_of
from app.formats import images
from app.versioning.datastore import Data
from app.versioning.snapshot import Snapshot

#: So many voxels of blocks are unpacked at once; handing fewer to a thread would take as long.
FEW_VOXELS = 64**3
#: Blocks of so many bytes together are unpacked by several threads.
_MANY_BYTES = 32 << 20
_MAX_BLOCKS = 1 << 20


def check_size(box: Box, image: Image, limit_bytes: int) -> None:
    """Refuse boxes that are more than one answer may hold."""
    if box.count * image.kind.dtype.itemsize > limit_bytes:
        raise TooLarge(f"{box.count} voxels are more than one answer may hold ({limit_bytes} bytes)")
    met = box.blocks(image.block)
    if met.count > _MAX_BLOCKS:
        raise TooLarge(f"the box meets {met.count} blocks; at most {_MAX_BLOCKS} are read at once")


async def volume(data: Data, snapshot: Snapshot, workers: Workers, box: Box, limit_bytes: int) -> Array:
    """The voxels of a box z, y, x; 0 where there are none."""
    image = image_of(data)
    check_size(box, image, limit_bytes)
    if image.source:
        source = await data.datastore.volumes.open(image.source, data.instance.settings["scale_level"])
        return await source.read(box)
    return await stored(snapshot, workers, image, box)


async def stored(
    snapshot: Snapshot, workers: Workers, image: Image, box: Box, key: Callable[[Triple], bytes] = blocks.key
) -> Array:
    """The voxels of a box z, y, x of blocks that are kept under keys of their places; 0 where there are none."""
    met = box.blocks(image.block)
    if box.shape == image.block and box.is_aligned(image.block):
        return await _one(snapshot, image, key(met.start))
    places = list(met.points())
    values = await snapshot.get_many([key(place) for place in places])
    found = [(place, value) for place, value in zip(places, values, strict=True) if value is not None]
    if not found:
        return np.zeros(box.shape, image.kind.dtype)
    out = np.empty(box.shape, image.kind.dtype)
    if len(found) < len(places):
        out[...] = 0
    z, y, x = image.block
    if len(found) * z * y * x <= FEW_VOXELS:
        _paste(found, image, box, out)
        return out
    # Threads are for large boxes; between them, smaller ones would be slower.
    threads = workers.threads if len(found) * image.block_bytes > _MANY_BYTES else 1
    size = -(-len(found) // threads)
    parts = [found[start : start + size] for start in range(0, len(found), size)]
    await asyncio.gather(*[workers.run(_paste, part, image, box, out) for part in parts])
    return out


async def _one(snapshot: Snapshot, image: Image, key: bytes) -> Array:
    """The voxels of one block: what viewers ask for most."""
    value = await snapshot.get(key)
    if value is None:
        return np.zeros(image.block, image.kind.dtype)
    out = np.empty(image.block, image.kind.dtype)
    blocks.unpack(value, image, out)
    return out


def _paste(found: Sequence[tuple[Triple, bytes]], image: Image, box: Box, out: Array) -> None:
    """Unpack blocks into their places of a box."""
    cuts = [_cuts(box.start[axis], box.stop[axis], image.block[axis]) for axis in range(3)]
    scratch = np.empty(image.block, image.kind.dtype)
    for (z, y, x), value in found:
        (to_z, from_z), (to_y, from_y), (to_x, from_x) = cuts[0][z], cuts[1][y], cuts[2][x]
        blocks.unpack(value, image, scratch)
        out[to_z, to_y, to_x] = scratch[from_z, from_y, from_x]


def _cuts(start: int, stop: int, side: int) -> dict[int, tuple[slice, slice]]:
    """Along one axis, for each block that a box meets: the part of the box, and the part of the block."""
    cuts = {}
    for place in range(start // side, -(-stop // side)):
        low, high = max(start, place * side), min(stop, (place + 1) * side)
        cuts[place] = slice(low - start, high - start), slice(low - place * side, high - place * side)
    return cuts


async def stacked_jpeg(
    data: Data, snapshot: Snapshot, workers: Workers, box: Box, quality: int, limit_bytes: int
) -> bytes:
    """A box as one grey JPEG; that of exactly one block is remembered."""
    image = image_of(data)
    if max(box.shape[2], box.shape[0] * box.shape[1]) > images.JPEG_SIDE:
        raise Invalid(f"a JPEG of {box.shape[2]} x {box.shape[0] * box.shape[1]} pixels is not possible")
    one = None
    if box.shape == image.block and box.is_aligned(image.block):
        one = blocks.key(box.blocks(image.block).start)
        known: bytes | None = snapshot.recall(one, ("jpeg", quality))
        if known is not None:
            return known
        if quality == images.JPEG_QUALITY:
            stored = await _stored_jpeg(data, snapshot, image, box, one)
            if stored is not None:
                return stored
    dense = await volume(data, snapshot, workers, box, limit_bytes)
    made = await workers.run(images.stacked_jpeg, dense, quality)
    if one is not None:
        snapshot.remember(one, ("jpeg", quality), made, len(made))
    return made


async def _stored_jpeg(data: Data, snapshot: Snapshot, image: Image, box: Box, key: bytes) -> bytes | None:
    """The stored JPEG of one block, if blocks are stored so."""
    if image.source:
        source = await data.datastore.volumes.open(image.source, data.instance.settings["scale_level"])
        return await source.jpeg(box)
    return await snapshot.get(key) if image.compression.startswith("jpeg") else None


async def payloads(
    data: Data, snapshot: Snapshot, workers: Workers, places: Sequence[Triple], compression: str
) -> list[tuple[Triple, bytes | memoryview]]:
    """Blocks for a block stream, those that exist: as stored, as `jpeg`, or `uncompressed`."""
    image = image_of(data)
    if compression == "jpeg" and not image.compression.startswith("jpeg"):
        raise Invalid(f"the blocks are stored as {image.compression}, not as jpeg")
    if image.source:
        return await _published(data, workers, image, places, compression)
    values = await snapshot.get_many([blocks.key(place) for place in places])
    found = [(place, value) for place, value in zip(places, values, strict=True) if value is not None]
    if compression != "uncompressed":
        return list(found)

    def unpacked(value: bytes) -> memoryview:
        out = np.empty(image.block, image.kind.dtype)
        blocks.unpack(value, image, out)
        return blocks.flat(out)

    dense = await workers.map(unpacked, [(value,) for _, value in found])
    return [(place, voxels) for (place, _), voxels in zip(found, dense, strict=True)]


async def _published(
    data: Data, workers: Workers, image: Image, places: Sequence[Triple], compression: str
) -> list[tuple[Triple, bytes | memoryview]]:
    source = await data.datastore.volumes.open(image.source, data.instance.settings["scale_level"])
    found: list[tuple[Triple, bytes | memoryview]] = []
    for place in places:
        box = Box((0, 0, 0), image.block).shift(_times(place, image.block))
        if min(box.intersect(source.bounds).shape) <= 0:
            continue
        if compression != "uncompressed" and image.compression == "jpeg":
            stored = await source.jpeg(box)
            if stored is not None:
                found.append((place, stored))
                continue
        dense = await source.read(box)
        if compression == "uncompressed":
            found.append((place, blocks.flat(dense)))
        else:
            found.append((place, await workers.run(blocks.pack, dense, image)))
    return found


async def row(
    data: Data, snapshot: Snapshot, workers: Workers, first: Triple, count: int, limit_bytes: int
) -> list[memoryview]:
    """Blocks that follow each other along x, background where there are none."""
    image = image_of(data)
    if count * image.block_bytes > limit_bytes:
        raise TooLarge(f"{count} blocks are more than one answer may hold ({limit_bytes} bytes)")
    if count > _MAX_BLOCKS:
        raise TooLarge(f"at most {_MAX_BLOCKS} blocks are read at once")
    z, y, x = first
    places = [(z, y, x + index) for index in range(count)]
    found = dict(await payloads(data, snapshot, workers, places, "uncompressed"))
    nothing = blocks.flat(blocks.empty(image))
    return [memoryview(found.get(place, nothing)) for place in places]


def _times(place: Triple, block: Triple) -> Triple:
    return place[0] * block[0], place[1] * block[1], place[2] * block[2]
