"""Writing working images: whole blocks, prepared in threads before the mutation, all or nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.core.errors import Invalid, NotAllowed
from app.core.geometry import Box, Triple
from app.core.work import Workers
from app.datatypes import voxels
from app.datatypes.author import Author
from app.datatypes.imageblk import blocks
from app.datatypes.imageblk.kinds import Array, Image, image_of
from app.datatypes.roi import Mask
from app.versioning.datastore import Data
from app.versioning.mutations import Mutation

Packed = tuple[Triple, bytes]


def check(data: Data, box: Box, size: int) -> None:
    """Refuse writes that are not whole blocks, or of another size, before anything is done."""
    image = image_of(data)
    if image.source:
        raise NotAllowed(f"data {data.instance.name!r} is a published volume and cannot be written")
    if not box.is_aligned(image.block):
        raise Invalid(f"size and offset must be multiples of the block size {image.block[::-1]}")
    expected = box.count * image.kind.dtype.itemsize
    if size != expected:
        raise Invalid(f"the voxels are {size} bytes, not {expected}")


async def volume(
    data: Data,
    workers: Workers,
    box: Box,
    body: bytes,
    mask: Mask | None,
    author: Author,
    *,
    mutate: bool,
) -> None:
    """Write the voxels of a box, x fastest. With a mask, voxels outside of it keep what they hold."""
    check(data, box, len(body))
    image = image_of(data)
    dense = np.frombuffer(body, image.kind.dtype).reshape(box.shape)
    met = box.blocks(image.block)

    def cut(place: Triple) -> Array:
        z, y, x = (a - b for a, b in zip(place, met.start, strict=True))
        depth, height, width = image.block
        return dense[
            z * depth : (z + 1) * depth,
            y * height : (y + 1) * height,
            x * width : (x + 1) * width,
        ]

    def pack(place: Triple) -> Packed:
        return place, blocks.pack(cut(place), image)

    places = list(met.points())
    mixed: list[tuple[Triple, Array, Array]] = []
    if mask is not None:
        covered = []
        for place in places:
            inside = mask.mask(_voxels(place, image))
            if inside.all():
                covered.append(place)
            elif inside.any():
                mixed.append((place, cut(place), inside))
        places = covered
    packed = await workers.map(pack, [(place,) for place in places])
    await _put(data, workers, packed, mixed, box, author, mutate=mutate)


async def row(
    data: Data,
    workers: Workers,
    first: Triple,
    count: int,
    body: bytes,
    author: Author,
    *,
    mutate: bool,
) -> None:
    """Write blocks that follow each other along x, one after the other in the body."""
    image = image_of(data)
    z, y, x = first
    places = Box((z, y, x), (z + 1, y + 1, x + count))
    box = Box(_times(places.start, image.block), _times(places.stop, image.block))
    check(data, box, len(body))
    dense = np.frombuffer(body, image.kind.dtype).reshape(count, *image.block)

    def pack(index: int) -> Packed:
        return (z, y, x + index), blocks.pack(dense[index], image)

    packed = await workers.map(pack, [(index,) for index in range(count)])
    await _put(data, workers, packed, [], box, author, mutate=mutate)


async def _put(
    data: Data,
    workers: Workers,
    packed: Sequence[Packed],
    mixed: Sequence[tuple[Triple, Array, Array]],
    box: Box,
    author: Author,
    *,
    mutate: bool,
) -> None:
    image = image_of(data)
    where = {"Offset": list(box.start[::-1]), "Size": list(box.shape[::-1])}
    record = author.record(data, "block-mutate" if mutate else "block-ingest", await data.mutation_id(), where)

    async def change(mutation: Mutation) -> None:
        for place, value in packed:
            mutation.put(blocks.key(place), value)
        if mixed:
            present = await mutation.get_many([blocks.key(place) for place, _, _ in mixed])
            changes = [(*given, old, image) for given, old in zip(mixed, present, strict=True)]
            for place, value in await workers.map(_mix, changes):
                mutation.put(blocks.key(place), value)
        await voxels.grow_extents(data, mutation, box)
        mutation.record(record)

    await data.mutate(change, by_admin=author.by_admin)


def _mix(place: Triple, new: Array, inside: Array, old: bytes | None, image: Image) -> Packed:
    """A block of new voxels where the mask is, and of old ones elsewhere."""
    block = np.zeros(image.block, image.kind.dtype)
    if old is not None:
        blocks.unpack(old, image, block)
    np.copyto(block, new, where=inside)
    return place, blocks.pack(block, image)


def _voxels(place: Triple, image: Image) -> Box:
    return Box((0, 0, 0), image.block).shift(_times(place, image.block))


def _times(place: Triple, block: Triple) -> Triple:
    return place[0] * block[0], place[1] * block[1], place[2] * block[2]
