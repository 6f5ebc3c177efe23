"""The label index and the mapping as tables, part by part: for analyses that want all of them at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise

from app.core.work import Workers
from app.datatypes.labelmap import deltas, keys, mapping
from app.datatypes.labelmap.keys import Counts
from app.formats.arrow import Stream
from app.versioning import parts
from app.versioning.datastore import Data
from app.versioning.snapshot import Snapshot

#: Leaves of the tree read at once: about a hundred thousand entries.
LEAVES = 48
#: Rows of the mapping in a batch.
ROWS = 1 << 18
_END = 1 << 64


async def entries(data: Data, snapshot: Snapshot) -> AsyncIterator[Counts]:
    """All entries of the label index, sorted by supervoxel, z, y, x; in parts, each of whole supervoxels."""
    first, last = keys.supervoxels(0, _END - 1)
    cuts = [keys.supervoxel_of(key) for key in await parts.starts(data, snapshot, first, last, LEAVES)]
    waiting = (await deltas.load(snapshot)).all()
    for low, high in pairwise(sorted({0, *cuts, _END})):
        found = [Counts.of_keys(await snapshot.keys(*keys.supervoxels(low, high - 1)))]
        found += [rows[(rows.supervoxels >= low) & (rows.supervoxels <= high - 1)] for rows in waiting]
        rows = deltas.latest(found)
        rows = rows[rows.voxels > 0]
        if len(rows):
            yield rows


async def index_stream(data: Data, snapshot: Snapshot, stream: Stream, workers: Workers) -> AsyncIterator[bytes]:
    """The label index in Arrow: columns supervoxel, body, x, y, z of the block, voxels."""
    bodies = await mapping.load_groups(snapshot)
    async for rows in entries(data, snapshot):
        z, y, x = rows.blocks.T.astype("i4")
        yield await workers.run(stream.add, rows.supervoxels, bodies.apply(rows.supervoxels), x, y, z, rows.voxels)
    yield stream.end()


async def mapping_stream(snapshot: Snapshot, stream: Stream, workers: Workers) -> AsyncIterator[bytes]:
    """The mapping in Arrow: columns supervoxel, body, without supervoxels that are their own bodies."""
    pairs = (await mapping.load(snapshot)).pairs()
    for start in range(0, len(pairs), ROWS):
        yield await workers.run(stream.add, pairs[start : start + ROWS, 0], pairs[start : start + ROWS, 1])
    yield stream.end()
