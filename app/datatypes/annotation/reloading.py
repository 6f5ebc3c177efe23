"""Everything looked up anew: when an instance is reloaded, or synced with labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.core.geometry import Triple
from app.datatypes import voxels
from app.datatypes.annotation import blocks, deltas, finding, keys, labels, storing, table
from app.datatypes.annotation.labels import Labels
from app.datatypes.annotation.writer import Writer
from app.datatypes.author import Author
from app.versioning.datastore import Data
from app.versioning.mutations import Mutation


async def reload(writer: Writer) -> None:
    """Look up all elements anew, forget the lists posted for labels, and cut the blocks as the labels are cut.

    Nothing needs this to be answered rightly, save that lists are posted to be answered instead.
    """
    data = writer.data

    async def change(mutation: Mutation, now: Labels | None) -> None:
        mutation.delete_range(*keys.all_given())
        source = labels.source(data)
        shape = labels.DEFAULT_GRID if source is None else voxels.block_shape(source)
        if shape != await labels.grid(data, mutation):
            await _regrid(mutation, shape)
        await labels.settle(mutation, data, anew=True)

    await writer.mutate("reload", {}, change)


async def synced(data: Data, _others: Sequence[Data], author: Author) -> None:
    """Look up the elements that are there in the labels that the instance has just been synced with."""

    async def nothing_else(_mutation: Mutation, _now: Labels | None) -> None:
        pass

    if not (await data.head()).generation:
        return
    await Writer(data, author).mutate("sync", {}, nothing_else)


async def _regrid(mutation: Mutation, shape: Triple) -> None:
    """Cut the elements into blocks of another shape z, y, x."""
    places = await finding.all_places(mutation)
    await storing.fold(mutation, places)
    await deltas.remove(mutation)
    present = await blocks.fetch(mutation, places)
    rows = table.joined(block.rows for block in present)
    pieces = [piece for block in present for piece in block.pieces]
    for zyx, block in zip(places, present, strict=True):
        storing.put(mutation, zyx, block, table.NO_ROWS, [])
    mutation.put(keys.GRID, np.array(shape, "<i4").tobytes())
    for zyx, chosen in table.grouped(rows["position"], shape):
        storing.put(mutation, zyx, blocks.EMPTY, rows[chosen], [pieces[index] for index in chosen.tolist()])
