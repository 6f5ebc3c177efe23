"""Changes of the label index that wait to be folded into it.

One block's labels lie all over the key space of `sv/`, so writing its entries there would rewrite as many nodes of the
tree as the block has labels. A write leaves one value with all its rows instead: (supervoxel, block, voxels), 0 voxels
for an entry that is gone; a later row replaces earlier ones and the entry in `sv/`. Readers hold them sorted in memory.
Once there are many, one mutation folds them into `sv/`, in the order of the keys.
"""

from __future__ import annotations

import struct
from typing import Any

import lz4.block
import numpy as np
import numpy.typing as npt

from app.core.errors import StoreUnavailable
from app.datatypes.labelmap import keys
from app.datatypes.labelmap.keys import U64, Counts
from app.kernels import entries
from app.versioning.datastore import Data
from app.versioning.log import Record
from app.versioning.mutations import Mutation
from app.versioning.snapshot import Reader, Snapshot

#: Rows that may wait; a process holds them in memory, 36 bytes each.
FOLD_ROWS = 1 << 17
#: Parts of the sorted rows are joined when the newer one is at least a quarter of the older one.
JOIN_RATIO = 4
#: More parts than this are sorted together instead of being merged one after another.
FEW_PARTS = 8
#: The rows of so few supervoxels are cut out one by one.
FEW_LABELS = 8
#: Lists of `sv/` under way at once.
TOGETHER = 256

_RANGE = struct.Struct(">QQQ")
_MEMO = b"memo/deltas"
_ROW_BYTES = 36


class Deltas:
    """The rows of a range of deltas [first, end), in sorted parts, oldest first. Never changed once made."""

    def __init__(self, first: int, end: int, parts: tuple[Counts, ...] = ()) -> None:
        self.first = first
        self.end = end
        self._parts = parts

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def extended(self, values: list[bytes]) -> Deltas:
        """With the deltas that come next."""
        parts = list(self._parts)
        rows = latest([decode(value) for value in values])
        if len(rows):
            while parts and len(rows) * JOIN_RATIO >= len(parts[-1]):
                rows = latest([parts.pop(), rows])
            parts.append(rows)
        return Deltas(self.first, self.end + len(values), tuple(parts))

    def of(self, supervoxels: U64) -> list[Counts]:
        """The rows of some supervoxels (ascending), oldest part first."""
        found = []
        for part in self._parts:
            low = part.supervoxels.searchsorted(supervoxels)
            high = part.supervoxels.searchsorted(supervoxels, "right")
            if len(supervoxels) <= FEW_LABELS:
                bounds = zip(low.tolist(), high.tolist(), strict=True)
                rows = [part[start:end] for start, end in bounds if start < end]
                found += [Counts.joined(rows)] if rows else []
                continue
            lengths = high - low
            total = int(lengths.sum())
            if total:
                starts = np.repeat(low - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
                found.append(part[starts + np.arange(total)])
        return found

    def all(self) -> list[Counts]:
        """All rows, oldest part first."""
        return list(self._parts)


def latest(parts: list[Counts], *, are_sorted: bool = False) -> Counts:
    """Of several rows for the same supervoxel and block the last one; sorted by supervoxel, z, y, x."""
    if len(parts) > FEW_PARTS:
        return _sorted(Counts.joined(parts))
    found = Counts.of_keys([])
    for part in parts:
        rows = part if are_sorted or entries.are_ordered(part.supervoxels, part.blocks) else _sorted(part)
        if not len(found) or not len(rows):
            found = rows if len(rows) else found
            continue
        older, newer = ((each.supervoxels, each.blocks, each.voxels) for each in (found, rows))
        found = Counts(*entries.merged(older, newer))
    return found


def _sorted(rows: Counts) -> Counts:
    z, y, x = rows.blocks.T
    order = np.lexsort((x, y, z, rows.supervoxels))
    rows = rows[order]
    is_last = np.ones(len(rows), bool)
    is_last[:-1] = (rows.supervoxels[1:] != rows.supervoxels[:-1]) | (rows.blocks[1:] != rows.blocks[:-1]).any(axis=1)
    return rows if is_last.all() else rows[is_last]


def encode(rows: Counts) -> bytes:
    """Rows as they are stored: LZ4 of the columns supervoxel, z, y, x, voxels."""
    columns = (
        rows.supervoxels.astype("<u8").tobytes()
        + np.ascontiguousarray(rows.blocks.T, "<i4").tobytes()
        + rows.voxels.astype("<u4").tobytes()
    )
    return bytes(lz4.block.compress(columns, store_size=True))


def decode(value: bytes) -> Counts:
    """The inverse of `encode`."""
    try:
        columns = lz4.block.decompress(value)
    except lz4.block.LZ4BlockError as error:
        raise StoreUnavailable(f"a stored change of the label index is damaged: {error}") from error
    count = len(columns) // 24
    places = np.frombuffer(columns, "<i4", 3 * count, 8 * count).reshape(3, count)
    return Counts(
        np.frombuffer(columns, "<u8", count).astype(np.uint64),
        np.ascontiguousarray(places.T, np.int64),
        np.frombuffer(columns, "<u4", count, 20 * count).astype(np.uint32),
    )


async def mark(reader: Reader) -> tuple[int, int, int]:
    """The range of deltas that wait, and the number of their rows."""
    value = await reader.get(keys.DELTAS)
    return (0, 0, 0) if value is None else _RANGE.unpack(value)


async def is_whole(reader: Reader) -> bool:
    """Whether all deltas of the range are there, with as many rows as it says."""
    first, end, waiting = await mark(reader)
    values = await reader.get_many([keys.delta(number) for number in range(first, end)])
    return None not in values and waiting == sum(len(decode(value)) for value in values if value is not None)


async def add(mutation: Mutation, rows: Counts) -> None:
    """Replace index entries: a row with 0 voxels removes one."""
    if not len(rows):
        return
    first, end, waiting = await mark(mutation)
    mutation.put(keys.delta(end), encode(rows))
    mutation.put(keys.DELTAS, _RANGE.pack(first, end + 1, waiting + len(rows)))


async def load(reader: Reader) -> Deltas:
    """The deltas that wait, as this reader sees them; a process keeps them and adds what is new."""
    first, end, _ = await mark(reader)
    known: Deltas | None = reader.recall(_MEMO, "rows")
    if known is None or known.first != first or known.end > end:
        known = Deltas(first, first)
    if known.end < end:
        values = await reader.get_many([keys.delta(number) for number in range(known.end, end)])
        known = known.extended([value for value in values if value is not None])
        if isinstance(reader, Snapshot):  # what a mutation has staged may never be
            reader.remember(_MEMO, "rows", known, _ROW_BYTES * len(known))
    return known


async def is_any_folded(reader: Reader) -> bool:
    """Whether `sv/` has any keys: as long as nothing has been folded there is no need to look for some."""
    if (await mark(reader))[0]:
        return True
    known: bool | None = reader.recall(_MEMO, "folded")
    if known is None:
        known = bool(await reader.keys(*keys.supervoxels(0, (1 << 64) - 1)))
        if isinstance(reader, Snapshot):
            reader.remember(_MEMO, "folded", known, _ROW_BYTES)
    return known


async def fold(data: Data, *, by_admin: bool = False) -> None:
    """Write the waiting rows into `sv/` if they are many."""

    async def change(mutation: Mutation) -> None:
        first, end, waiting = await mark(mutation)
        if waiting > FOLD_ROWS:
            rows = latest((await load(mutation)).all())
            await _write(mutation, rows)
            for number in range(first, end):
                mutation.delete(keys.delta(number))
            mutation.put(keys.DELTAS, _RANGE.pack(end, end, 0))
        mutation.record(Record("fold-index", data.home.uuid))

    if (await mark(await data.head()))[2] > FOLD_ROWS:
        await data.mutate(change, by_admin=by_admin)


async def restart(mutation: Mutation, without: Counts) -> None:
    """Begin a new range of deltas, so that nobody goes on from what it knows; rows of some places are left out."""
    _, end, _ = found = await mark(mutation)
    rows = latest((await load(mutation)).all())
    rows = rows[~np.isin(places(rows), places(without))]
    for number in range(found[0], end):
        mutation.delete(keys.delta(number))
    mutation.put(keys.DELTAS, _RANGE.pack(end + 1, end + 1, 0))
    await add(mutation, rows)


async def _write(mutation: Mutation, rows: Counts) -> None:
    """Bring `sv/` to what the rows say."""
    supervoxels = np.unique(rows.supervoxels).tolist()
    listed: list[bytes] = []
    for start in range(0, len(supervoxels), TOGETHER):
        some = supervoxels[start : start + TOGETHER]
        for found in await mutation.keys_of([keys.supervoxel(label) for label in some]):
            listed += found
    replace(mutation, listed, rows)


def replace(mutation: Mutation, listed: list[bytes], rows: Counts) -> None:
    """Bring `sv/` to what the rows say. `listed` are its keys, all that there are for the rows' places."""
    replaced = places(rows)
    present = Counts.of_keys(listed)
    for key, is_replaced in zip(listed, np.isin(places(present), replaced).tolist(), strict=True):
        if is_replaced:
            mutation.delete(key)
    for key in rows[rows.voxels > 0].to_keys():
        mutation.put(key, b"")


def rows_as_values(rows: Counts) -> npt.NDArray[np.void]:
    """Whole rows as values that can be compared."""
    return _values(rows.supervoxels.view(np.int64), *rows.blocks.T, rows.voxels)


def places(rows: Counts) -> npt.NDArray[np.void]:
    """Supervoxel and block of each row as one value that can be compared."""
    return _values(rows.supervoxels.view(np.int64), *rows.blocks.T)


def _values(*columns: npt.NDArray[Any]) -> npt.NDArray[np.void]:
    table = np.stack([column.astype(np.int64) for column in columns], axis=1)
    return np.ascontiguousarray(table).view(np.dtype((np.void, 8 * len(columns))))[:, 0]
