"""The elements of a snapshot as precomputed annotations, for viewers that know nothing of DVID."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.core.geometry import Triple
from app.core.work import Workers
from app.datatypes import chunks
from app.datatypes.annotation import blocks, finding, labels, read, table
from app.datatypes.annotation.labels import Labels
from app.datatypes.annotation.table import Rows
from app.formats import precomputed_annotations as precomputed
from app.formats.precomputed_annotations import Level
from app.versioning.datastore import Data
from app.versioning.log import SEQUENCE
from app.versioning.snapshot import Snapshot

_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_VOXEL_NM = (8.0, 8.0, 8.0)


@dataclass(frozen=True)
class _Summary:
    """How many elements there are, from where to where (x, y, z)."""

    count: int
    low: Triple
    high: Triple


async def info(data: Data, snapshot: Snapshot, workers: Workers) -> dict[str, Any] | None:
    """The `info` file; None if there are no elements."""
    found: _Summary | None = snapshot.recall(SEQUENCE, "summary")
    if found is None:
        rows = await _all_rows(snapshot)
        if not len(rows):
            return None
        found = await workers.run(_summary, rows)
        snapshot.remember(SEQUENCE, "summary", found, 200)
    index = precomputed.levels(found.count, found.low, found.high)
    return precomputed.info(found.high, index, _voxel_nm(data), labels.source(data) is not None)


def _summary(rows: Rows) -> _Summary:
    low, high = (edge(axis=0).tolist() for edge in (rows["position"].min, rows["position"].max))
    return _Summary(len(rows), (low[0], low[1], low[2]), (high[0], high[1], high[2]))


def _voxel_nm(data: Data) -> tuple[float, ...]:
    """The nanometres of a voxel along x, y, z: those of the labels, else of the tag `VoxelSize`."""
    source = labels.source(data)
    if source is not None:
        return chunks.voxel_size(source.instance.settings)[::-1]
    given = tuple(map(float, _NUMBER.findall((data.instance.tags or {}).get("VoxelSize", ""))))
    return given if len(given) == 3 and all(given) else _VOXEL_NM


async def _all_rows(snapshot: Snapshot) -> Rows:
    rows = table.joined(await blocks.fetch_rows(snapshot, await finding.all_places(snapshot)))
    return rows[precomputed.have_numbers(rows["position"])]


async def cell(data: Data, snapshot: Snapshot, level: Level, place: Triple, workers: Workers) -> bytes:
    """The elements of a cell that are of its level."""
    box = level.cell(place)
    if min(box.shape) <= 0:
        return precomputed.encode_many(table.NO_ROWS["position"], table.NO_ROWS["kind"])
    grid = await labels.grid(data, snapshot)
    rows = table.joined(await blocks.fetch_rows(snapshot, await finding.places_in(snapshot, box.blocks(grid))))

    def work() -> bytes:
        position = rows["position"][:, ::-1]
        inside = ((position >= box.start) & (position < box.stop)).all(axis=1)
        chosen = rows[inside & precomputed.have_numbers(rows["position"])]
        drawn = precomputed.draws(chosen["position"])
        chosen = chosen[(drawn >= level.first) & (drawn < level.stop)]
        return precomputed.encode_many(chosen["position"], chosen["kind"])

    return await workers.run(work)


async def body(data: Data, snapshot: Snapshot, now: Labels, label: int) -> bytes:
    """The elements in a body."""
    rows = await read.rows_in_label(data, snapshot, now, label)
    rows = rows[precomputed.have_numbers(rows["position"])]
    return precomputed.encode_many(rows["position"], rows["kind"])


async def one(data: Data, snapshot: Snapshot, now: Labels | None, number: int) -> bytes | None:
    """The element of a number; None if there is none."""
    point = precomputed.point(number)
    if point is None:
        return None
    z, y, x = (at // side for at, side in zip(point[::-1], await labels.grid(data, snapshot), strict=True))
    (block,) = await blocks.fetch(snapshot, [(z, y, x)])
    index = block.find(point)
    if index is None:
        return None
    row = block.rows[index : index + 1]
    bodies = None
    if now is not None:
        supervoxel = (await labels.view(data, snapshot, now)).corrected((z, y, x), block.rows)[index : index + 1]
        bodies = [int(label) for label in await now.bodies(np.asarray(supervoxel)) if label]
    return precomputed.encode_one(row["position"], row["kind"], bodies)
