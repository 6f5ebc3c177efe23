"""Elements put where they belong: one at the position of another takes its place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.core.geometry import Triple
from app.datatypes.annotation import blocks, labels, storing, table
from app.datatypes.annotation.blocks import Block
from app.datatypes.annotation.storing import Growth
from app.datatypes.annotation.table import I64, Rows
from app.versioning.datastore import Data
from app.versioning.mutations import Mutation


async def apply(data: Data, mutation: Mutation, rows: Rows, pieces: Sequence[bytes | None]) -> list[Triple]:
    """Put elements where they belong, in the place of those at the same positions; without JSON: remove those.

    The blocks concerned are answered.
    """
    grid = await labels.grid(data, mutation)
    groups = table.grouped(rows["position"], grid)
    zyxs = [zyx for zyx, _ in groups]
    present, waiting = await blocks.fetch_rows(mutation, zyxs), await blocks.fetch_waiting(mutation, zyxs)
    growing: list[Growth] = []
    mixing: dict[Triple, tuple[Rows, list[bytes | None]]] = {}
    meeting = _meeting(groups, present, rows, grid)
    for (zyx, chosen), old, is_met, waits in zip(groups, present, meeting, waiting, strict=True):
        new_pieces = [pieces[index] for index in chosen.tolist()]
        if waits or is_met or None in new_pieces:
            mixing[zyx] = rows[chosen], new_pieces
        else:
            growing.append(Growth(zyx, old, rows[chosen], [piece for piece in new_pieces if piece is not None]))
    await storing.grow(mutation, growing)
    for old_block, (zyx, mixed) in zip(await blocks.fetch(mutation, list(mixing)), mixing.items(), strict=True):
        _mix(mutation, zyx, old_block, *mixed, grid)
    return zyxs


def _meeting(groups: Sequence[tuple[Triple, I64]], present: Sequence[Rows], rows: Rows, grid: Triple) -> list[bool]:
    """For each block whether new rows meet old ones at the same positions."""
    if not groups:
        return []
    side = grid[0] * grid[1] * grid[2]
    old = np.repeat(np.arange(len(present)), list(map(len, present))) * side
    old += table.numbers_within(table.joined(present)["position"], grid)
    order = np.concatenate([chosen for _, chosen in groups])
    counts = [len(chosen) for _, chosen in groups]
    new = np.repeat(np.arange(len(groups)), counts) * side + table.numbers_within(rows["position"][order], grid)
    starts = np.cumsum(counts, dtype=np.int64) - counts
    old = np.append(np.sort(old, kind="stable"), -1)
    is_met = old[np.searchsorted(old[:-1], new)] == new
    met: list[bool] = (np.add.reduceat(is_met, starts) > 0).tolist()
    return met


def _mix(mutation: Mutation, zyx: Triple, old: Block, rows: Rows, pieces: Sequence[bytes | None], grid: Triple) -> None:
    """The same in one block, where elements are replaced or removed."""
    places = _places(old.rows, rows, grid)
    is_there = np.array([piece is not None for piece in pieces])
    added, replaced = is_there & (places < 0), is_there & (places >= 0)
    new_rows = table.joined([old.rows, rows[added]])
    new_rows[places[replaced]] = rows[replaced]
    new_pieces = [*old.pieces, *[pieces[index] for index in np.flatnonzero(added).tolist()]]
    for place, index in zip(places[replaced].tolist(), np.flatnonzero(replaced).tolist(), strict=True):
        new_pieces[place] = pieces[index]
    kept = np.setdiff1d(np.arange(len(new_rows)), places[~is_there])
    kept_pieces = [piece for piece in (new_pieces[index] for index in kept.tolist()) if piece is not None]
    storing.put(mutation, zyx, old, new_rows[kept], kept_pieces)


def _places(old: Rows, new: Rows, grid: Triple) -> I64:
    """For each row of one block the index of the old row at the same position, or -1."""
    if not len(old):
        return np.full(len(new), -1)
    known, wanted = (table.numbers_within(rows["position"], grid) for rows in (old, new))
    order = np.argsort(known)
    at = np.minimum(np.searchsorted(known[order], wanted), len(known) - 1)
    return np.where(known[order[at]] == wanted, order[at], -1)
