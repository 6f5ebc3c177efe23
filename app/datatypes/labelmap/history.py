"""What was done to bodies: the log as DVID's messages, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from app.core.errors import DvidError, Invalid
from app.datatypes.datatype import message, unsigned
from app.datatypes.labelmap import groups, index
from app.versioning import log
from app.versioning.datastore import Data
from app.versioning.log import Record

#: Edits of bodies; other records (writes of voxels, indices, mappings) are not in DVID's mutation log.
EDITS = frozenset(("merge", "cleave", "split-supervoxel", "split", "renumber"))
#: What clients do to the counters of labels.
COUNTERS = frozenset(("post-maxlabel", "post-nextlabel", "setnextlabel"))


async def edits(data: Data) -> list[Record]:
    """The edits made at exactly this version, oldest first."""
    found = await log.records(await data.head(), data.home.uuid)
    return [record for record in found if record.action in EDITS]


async def messages(data: Data) -> list[dict[str, Any]]:
    """The edits made at exactly this version as DVID's messages, oldest first."""
    return [await _complete(data, record) for record in await edits(data)]


async def _complete(data: Data, record: Record) -> dict[str, Any]:
    """DVID's message that an edit is done."""
    told = message(record, "-complete")
    if record.action == "cleave" and "RemainSize" not in told:
        told["RemainSize"] = await _size_after(data, record)
    return told


async def events(data: Data, record: Record) -> list[dict[str, Any]]:
    """What goes out about a record: for an edit that it began and that it is done, as DVID says both.

    Both are told after the commit, so none begins that is not done; sizes are in the second only.
    """
    if record.action in COUNTERS:
        return [unsigned(message(record))]
    if record.action not in EDITS:
        return []
    started = {name: value for name, value in message(record).items() if not name.endswith("Size")}
    return [started, await _complete(data, record)]


async def _size_after(data: Data, record: Record) -> int | None:
    """The voxels that a cleave left in a body: of those before it without those cleaved; None if that is not kept."""
    try:
        snapshot = await data.at(record.arguments["before"])
    except DvidError:
        return None
    return await index.size(snapshot, record.arguments["OrigLabel"], False) - int(record.arguments["CleavedSize"])


async def supervoxel_splits(lineage: Sequence[Data]) -> list[Any]:
    """Splits at versions: a UUID, then its rows mutation id, old, remain, split; versions without are left out."""
    found: list[Any] = []
    for data in lineage:
        rows = [
            [record.mutation_id, old, parts["Remain"], parts["Split"]]
            for record in await edits(data)
            for old, parts in _splits(record).items()
        ]
        if rows:
            found += [data.home.uuid, rows]
    return found


def _splits(record: Record) -> dict[int, dict[str, int]]:
    """The supervoxels that an edit split, and the parts of each."""
    told = record.arguments
    if record.action == "split-supervoxel":
        return {told["Supervoxel"]: {"Remain": told["RemainSupervoxel"], "Split": told["SplitSupervoxel"]}}
    return {int(old): parts for old, parts in told["SVSplits"].items()} if record.action == "split" else {}


async def history(body: int, lineage: Sequence[Data]) -> list[dict[str, Any]]:
    """The edits from a first to a last version of what is a body at the last one, oldest first.

    They are those whose target is a body that, at the end of the first version, held one of the supervoxels that make
    the body now, and the splits of these supervoxels. (DVID follows one supervoxel only, and no split.)
    """
    if not body:
        raise Invalid("label 0 is the background and has no history")
    records = [record for data in lineage for record in await edits(data)]
    last = await lineage[-1].head()
    supervoxels = set(np.unique((await index.entries(last, body, False)).supervoxels).tolist())
    for record in reversed(records):
        supervoxels |= {old for old, parts in _splits(record).items() if supervoxels & set(parts.values())}
    first = await lineage[0].head()
    bodies = {await groups.body_of(first, label) for label in supervoxels} - {0}
    return [told for record in records if (told := _told(record, bodies, supervoxels))]


def _told(record: Record, bodies: set[int], supervoxels: set[int]) -> dict[str, Any] | None:
    """A record as `history` shows it, None if it is not about these bodies."""
    names, is_shown = {
        "merge": (("Target", "Labels"), record.arguments.get("Target") in bodies),
        "cleave": (("OrigLabel", "CleavedLabel", "CleavedSupervoxels"), record.arguments.get("OrigLabel") in bodies),
        "split": (("Target", "NewLabel"), record.arguments.get("Target") in bodies),
        "split-supervoxel": (
            ("Supervoxel", "SplitSupervoxel", "RemainSupervoxel"),
            record.arguments.get("Supervoxel") in supervoxels,
        ),
    }.get(record.action, ((), False))
    if not is_shown:
        return None
    return {"Action": record.action, **{name: record.arguments[name] for name in names}}
