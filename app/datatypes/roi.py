"""roi: a region of interest made of spans of blocks, one region for each version.

The spans are one value, `spans`: a gzip of four columns (z, y, x0, x1) of little-endian int32, each the differences
from row to row, in order of z, y, x0, x1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from app.core.errors import Invalid, TooLarge
from app.core.geometry import MAX_COORDINATE, Box, Triple
from app.datatypes.author import Author
from app.datatypes.config import Config
from app.datatypes.datatype import Datatype
from app.formats import compression
from app.versioning.datastore import Data
from app.versioning.merge import by_key
from app.versioning.mutations import Mutation
from app.versioning.snapshot import Snapshot

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_KEY = b"spans"
_MAX_BLOCK = 1 << 16
_MAX_SPANS = 1 << 26
_BIAS = 1 << 31


def _settings(config: Config) -> dict[str, Any]:
    block = config.integers("BlockSize", [32, 32, 32])
    assert block is not None
    if not all(0 < side <= _MAX_BLOCK for side in block):
        raise Invalid(f"BlockSize must be from 1 to {_MAX_BLOCK}")
    return {"block_size": block}


async def _extended(data: Data, snapshot: Snapshot) -> dict[str, Any]:
    found = await spans(snapshot)
    # An empty region's limits are those with which DVID begins to look for them.
    low, high = (int(found[0, 0]), int(found[-1, 0])) if len(found) else (MAX_COORDINATE - 1, -MAX_COORDINATE)
    return {"BlockSize": data.instance.settings["block_size"], "MinZ": low, "MaxZ": high}


async def spans(snapshot: Snapshot) -> I32:
    """The spans of a version as they were posted, without duplicates: rows z, y, x0, x1 in order."""
    return _decoded(await snapshot.get(_KEY))


def _decoded(value: bytes | None) -> I32:
    if value is None:
        return np.empty((0, 4), np.int32)
    columns = np.frombuffer(compression.ungzip(value, _MAX_SPANS * 16), "<i4").reshape(4, -1)
    return np.ascontiguousarray(columns.cumsum(axis=1, dtype=np.int32).T)


def _encoded(rows: I32) -> bytes | None:
    if not len(rows):
        return None
    columns = np.diff(rows.T, axis=1, prepend=np.zeros((4, 1), np.int32)).astype("<i4")
    return compression.gzip(np.ascontiguousarray(columns).data.cast("B"))


def _join(base: bytes | None, ours: bytes | None, theirs: bytes | None) -> bytes | None:
    """The region after a version merge: a block is in it as the side wants that changed it, as no side can change it
    in two ways."""
    return _encoded(join(_decoded(base), _decoded(ours), _decoded(theirs)))


def join(base: I32, ours: I32, theirs: I32) -> I32:
    """Spans of the blocks that `theirs` has where it differs from `base`, and `ours` elsewhere."""
    sides = [Mask(rows, (1, 1, 1))._merged for rows in (base, ours, theirs)]
    events = []
    for number, rows in enumerate(sides):
        for column, step in ((2, 1), (3, -1)):
            event = np.zeros((len(rows), 6), np.int64)
            event[:, :2] = rows[:, :2]
            event[:, 2] = rows[:, column] + (step < 0)
            event[:, 3 + number] = step
            events.append(event)
    ordered = np.concatenate(events)
    ordered = ordered[np.lexsort(ordered[:, 2::-1].T)]
    was, our, their = (ordered[:, 3:].cumsum(axis=0) > 0).T
    inside = np.where(their != was, their, our)
    # Events at one place belong together: what counts is the state after the last of them.
    places = ordered[:, :3]
    is_last = np.append((places[1:] != places[:-1]).any(axis=1), True) if len(places) else np.zeros(0, bool)
    places, inside = places[is_last], inside[is_last]
    changed = np.flatnonzero(np.diff(inside, prepend=False))
    starts, stops = places[changed[::2]], places[changed[1::2]]
    return np.column_stack([starts, stops[:, 2] - 1]).astype(np.int32)


DATATYPE = Datatype("roi", settings=_settings, extended=_extended, merge=by_key(lambda key: "region", {_KEY: _join}))


def parse_spans(value: Any) -> I32:
    """The spans of a JSON list: ordered, each once."""
    given = _rows(value, 4, "spans [z, y, x0, x1]")
    backward = np.flatnonzero(given[:, 3] < given[:, 2])
    if len(backward):
        raise Invalid(f"the span {given[backward[0]].tolist()} ends before it begins")
    if len(given) > _MAX_SPANS:
        raise TooLarge(f"{len(given)} spans are more than {_MAX_SPANS}")
    return np.unique(given, axis=0).astype(np.int32)


async def put(data: Data, new: I32, author: Author) -> None:
    """Replace the region of this version; without spans it is empty."""
    value = _encoded(new)
    record = author.record(data, "roi", await data.mutation_id(), {"Spans": len(new)})

    async def change(mutation: Mutation) -> None:
        if value is None:
            mutation.delete(_KEY)
        else:
            mutation.put(_KEY, value)
        mutation.record(record)

    await data.mutate(change, by_admin=author.by_admin)


def parse_points(value: Any) -> I64:
    """The points of a JSON list, rows x, y, z."""
    return _rows(value, 3, "points [x, y, z]")


def _rows(value: Any, width: int, what: str) -> I64:
    """A JSON list of lists of integers as an array; the checks run at the speed of C."""
    if not isinstance(value, list) or not set(map(type, value)) <= {list} or not set(map(len, value)) <= {width}:
        raise Invalid(f"the body must be a JSON list of {what}")
    if not set(map(type, chain.from_iterable(value))) <= {int}:
        raise Invalid(f"{what} must be integers")
    try:
        rows = np.array(value, np.int64).reshape(-1, width)
    except OverflowError:
        raise Invalid(f"{what}: a coordinate is out of range") from None
    if len(rows) and (rows.min() <= -MAX_COORDINATE or rows.max() >= MAX_COORDINATE):
        raise Invalid(f"{what}: a coordinate is out of range")
    return rows


@dataclass(frozen=True)
class Mask:
    """A region in terms of voxels. `spans` are rows z, y, x0, x1 of blocks, `block` is their shape z, y, x."""

    spans: I32
    block: Triple

    @cached_property
    def _merged(self) -> I64:
        """The spans without overlaps, in order."""
        rows = self.spans.astype(np.int64)
        if len(rows) < 2:
            return rows
        row = self._row(rows[:, 0], rows[:, 1])
        is_new_row = np.concatenate([[True], row[1:] != row[:-1]])
        # How far the spans so far reach, in each row anew: rows lie further apart than any reach.
        number = is_new_row.cumsum() * (1 << 33)
        reach = np.maximum.accumulate(rows[:, 3] + number)
        starts = np.concatenate([[True], rows[1:, 2] + number[1:] > reach[:-1] + 1])
        first = np.flatnonzero(starts)
        last = np.append(first[1:], len(rows)) - 1
        merged = rows[first]
        merged[:, 3] = (reach - number)[last]
        return merged

    @cached_property
    def _index(self) -> tuple[npt.NDArray[np.uint64], I64]:
        """The rows (z, y) that have spans, and for each span its row's number and x0 in one sortable number."""
        rows, numbers = np.unique(self._row(self._merged[:, 0], self._merged[:, 1]), return_inverse=True)
        return rows, (numbers.astype(np.int64) << 33) + self._merged[:, 2]

    @staticmethod
    def _row(z: I64, y: I64) -> npt.NDArray[np.uint64]:
        return ((z + _BIAS).astype(np.uint64) << np.uint64(32)) + (y + _BIAS).astype(np.uint64)

    @property
    def size_bytes(self) -> int:
        """About what this takes in memory, indices included."""
        return 16 * len(self.spans) + 48 * len(self.spans) + 200

    def contains(self, points_xyz: I64) -> Bools:
        """For each voxel x, y, z whether the region has it."""
        x, y, z = (points_xyz[:, axis] // self.block[2 - axis] for axis in range(3))
        if not len(self._merged):
            return np.zeros(len(points_xyz), bool)
        rows, keys = self._index
        row = self._row(z, y)
        number = np.minimum(np.searchsorted(rows, row), len(rows) - 1)
        found = np.searchsorted(keys, (number << 33) + x, side="right") - 1
        span = self._merged[np.maximum(found, 0)]
        inside: Bools = (rows[number] == row) & (found >= 0) & (span[:, 0] == z) & (span[:, 1] == y)
        return inside & (span[:, 2] <= x) & (x <= span[:, 3])

    def blocks(self, box: Box) -> Bools:
        """For each block of a box of blocks whether the region has it: z, y, x."""
        (z0, y0, x0), (z1, y1, x1) = box.start, box.stop
        first, last = np.searchsorted(self._merged[:, 0], [z0, z1])
        rows = self._merged[first:last]
        rows = rows[(rows[:, 1] >= y0) & (rows[:, 1] < y1) & (rows[:, 2] < x1) & (rows[:, 3] >= x0)]
        depth, height, width = box.shape
        steps = np.zeros((depth, height, width + 1), np.int8)
        # Where a span ends another may not begin, as they are merged: no two of the same sign meet.
        z, y = rows[:, 0] - z0, rows[:, 1] - y0
        steps[z, y, np.maximum(rows[:, 2] - x0, 0)] += 1
        steps[z, y, np.minimum(rows[:, 3] + 1 - x0, width)] -= 1
        return steps.cumsum(axis=2, dtype=np.int8)[:, :, :-1].astype(bool)

    def mask(self, box: Box) -> Bools:
        """For each voxel of a box whether the region has it: z, y, x."""
        met = box.blocks(self.block)
        inside = self.blocks(met)
        for axis in range(3):
            start, stop, side = box.start[axis], box.stop[axis], self.block[axis]
            if side == 1:
                continue
            edges = np.clip(np.arange(met.start[axis], met.stop[axis] + 1) * side, start, stop)
            inside = np.repeat(inside, np.diff(edges), axis=axis)
        return inside


async def mask_of(data: Data, snapshot: Snapshot) -> Mask:
    """The region of an instance at a version."""
    mask: Mask | None = snapshot.recall(_KEY, "mask")
    if mask is None:
        x, y, z = data.instance.settings["block_size"]
        mask = Mask(await spans(snapshot), (z, y, x))
        snapshot.remember(_KEY, "mask", mask, mask.size_bytes)
    return mask


async def named(data: Data, name: str) -> Data:
    """The region that a request names as `name` (at the version of `data`) or as `name,version`."""
    name, comma, version = name.partition(",")
    other = await data.datastore.data(version, name) if comma else data.sibling(name)
    if other.instance.typename != DATATYPE.name:
        raise Invalid(f"data {name!r} is not a region of interest, but of type {other.instance.typename}")
    return other


@dataclass(frozen=True)
class _Cover:
    """Along one axis: where boxes begin, and how many there are, those without blocks of the region included."""

    starts: list[int]
    total: int


def partition(mask: Mask, batch: int, *, optimized: bool, most: int) -> dict[str, Any]:
    """Cover the region with boxes of batch x batch x batch blocks, at most `most` of them.

    Layers of boxes lie along z, rows of boxes along y within a layer, boxes along x within a row. On the plain grid
    each of the three begins half of its unused blocks before what it has to cover. Optimized, the next layer, row or
    box begins where the region does. Boxes without a block of the region are left out.
    """
    merged = mask._merged
    subvolumes: list[dict[str, Any]] = []
    total = active = 0
    for z, layer in _cut(merged, 0, batch, optimized):
        for y, row in _cut(layer, 1, batch, optimized):
            boxes = _boxes(row, batch, optimized, most - len(subvolumes))
            total += boxes.total
            for x in boxes.starts:
                count = int(np.clip(np.minimum(row[:, 3] + 1, x + batch) - np.maximum(row[:, 2], x), 0, None).sum())
                active += count
                subvolumes.append(_subvolume((z, y, x), batch, mask.block, count))
    limits = {"MinChunk": [0, 0, 0], "MaxChunk": [0, 0, 0]}
    if len(merged):
        limits["MinChunk"] = [int(merged[:, axis].min()) for axis in (2, 1, 0)]
        limits["MaxChunk"] = [int(merged[:, axis].max()) for axis in (3, 1, 0)]
    return {
        "NumTotalBlocks": total * batch**3,
        "NumActiveBlocks": active,
        "NumSubvolumes": len(subvolumes),
        "ROI": limits,
        "Subvolumes": subvolumes,
    }


def _cut(rows: I64, axis: int, batch: int, optimized: bool) -> Iterator[tuple[int, I64]]:
    """The spans in layers of `batch` blocks along z (axis 0) or y (axis 1), empty layers left out."""
    if not len(rows):
        return
    rows = rows[np.argsort(rows[:, axis], kind="stable")]
    at = rows[:, axis]
    start, index = _first(int(at[0]), int(at[-1]), batch), 0
    while index < len(rows):
        if optimized:
            start = int(at[index])
        else:
            start += (int(at[index]) - start) // batch * batch
        stop = int(np.searchsorted(at, start + batch))
        yield start, rows[index:stop]
        index = stop


def _boxes(row: I64, batch: int, optimized: bool, most: int) -> _Cover:
    """Where boxes begin along x, given all spans of a row of boxes."""
    order = np.argsort(row[:, 2], kind="stable")
    first, last = row[order, 2], row[order, 3]
    start, end = _first(int(first[0]), int(last.max()), batch), int(last.max())
    width = end - int(first[0]) + 1
    # DVID counts a row as if its unused blocks came on top of what it has to cover.
    total = -(-(width + width % batch) // batch)
    starts: list[int] = []
    reach, at = int(first[0]) - 1, None
    for low, high in zip(first.tolist(), last.tolist(), strict=True):
        if high <= reach:
            continue
        # Boxes reach to `reach`; what is left of this span begins here.
        low = max(low, reach + 1)
        at = low if optimized else start + (low - start) // batch * batch
        needed = (high - at) // batch + 1
        if needed > most - len(starts):
            raise TooLarge("the region has too many subvolumes of this batchsize")
        starts += range(at, at + needed * batch, batch)
        reach = at + needed * batch - 1
    return _Cover(starts, len(starts) if optimized else total)


def _first(low: int, high: int, batch: int) -> int:
    return low - (high - low + 1) % batch // 2


def _subvolume(start_zyx: Triple, batch: int, block: Triple, count: int) -> dict[str, Any]:
    low = start_zyx[::-1]
    high = [at + batch - 1 for at in low]
    sides = block[::-1]
    return {
        "MinPoint": [at * side for at, side in zip(low, sides, strict=True)],
        "MaxPoint": [(at + 1) * side - 1 for at, side in zip(high, sides, strict=True)],
        "MinChunk": list(low),
        "MaxChunk": high,
        "TotalBlocks": batch**3,
        "ActiveBlocks": count,
    }
