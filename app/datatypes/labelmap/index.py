"""The label index: which blocks hold how many voxels of which supervoxel, and so of which body."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import orjson

from app.backends.view import Range
from app.core.errors import Absent, Invalid
from app.core.geometry import Triple
from app.core.work import Workers
from app.datatypes.labelmap import deltas, groups, keys, mapping
from app.datatypes.labelmap.forest import Forest
from app.datatypes.labelmap.keys import U64, Counts
from app.formats.dvid_pb2 import LabelIndex
from app.kernels import index_messages
from app.versioning.mutations import Mutation
from app.versioning.snapshot import Reader, Snapshot

U32 = npt.NDArray[np.uint32]
_FIELD = 21
_SIGN = 1 << (_FIELD - 1)
#: Supervoxels whose numbers are this close are listed together, with whatever lies between them.
GAP = 32
#: So few are listed each by itself.
FEW = 64
#: An index of so few rows is encoded at once; handing it to a thread would take as long.
FEW_ROWS = 5000
#: Lists under way at once.
TOGETHER = 256
_BODY_MEMO = b"memo/body/"
_BODIES_MEMO = b"memo/bodies"

body_of = groups.body_of
members = groups.members


@dataclass(frozen=True)
class Change:
    """Who changed a body last: mutation id, user, application, RFC 3339 time."""

    mutation_id: int = 0
    user: str = ""
    app: str = ""
    time: str = ""


@dataclass(frozen=True)
class _Known:
    """What a process remembers of a body: its supervoxels and entries, true up to a delta and a turn."""

    folded: int
    end: int
    mark: int
    members: U64
    entries: Counts


# ------------------------------------------------------------------ writing


async def replace_counts(
    mutation: Mutation, changed: Iterable[tuple[Triple, U64, U32, tuple[U64, U32] | None]], seed: int
) -> None:
    """Replace the entries of blocks: for each its place z, y, x, new labels and counts, and the old ones or None."""
    new, old = list[tuple[Triple, U64, U32]](), list[tuple[Triple, U64, U32]]()
    for zyx, labels, numbers, before in changed:
        new.append((zyx, labels, numbers))
        if before is not None:
            old.append((zyx, *before))
    fresh, gone = entries_of(new), entries_of(old)
    erased = Counts(gone.supervoxels, gone.blocks, np.zeros_like(gone.voxels))
    rows = deltas.latest([erased, fresh])
    rows = rows[~np.isin(deltas.rows_as_values(rows), deltas.rows_as_values(gone))]
    await deltas.add(mutation, rows)
    await adopt(mutation, np.unique(rows.supervoxels[rows.voxels > 0]), seed)


def entries_of(blocks: Sequence[tuple[Triple, U64, U32]]) -> Counts:
    """The entries of blocks: for each its place z, y, x, its labels and their counts."""
    if not blocks:
        return Counts.of_keys([])
    places = np.repeat(np.array([zyx for zyx, _, _ in blocks], np.int64), [len(b[1]) for b in blocks], axis=0)
    entries = Counts(np.concatenate([b[1] for b in blocks]), places, np.concatenate([b[2] for b in blocks]))
    return entries[(entries.supervoxels != 0) & (entries.voxels != 0)]


async def adopt(mutation: Mutation, labels: U64, seed: int) -> None:
    """Painted supervoxels that posted mappings send to a body become members of it; retired ones are so no more."""
    known = await mapping.load(mutation)
    if known.is_empty:
        return
    shown = known.apply(labels)
    suspects = labels[(shown == 0) | known.is_fixed(labels)]
    if not len(suspects):
        return
    forest = Forest(mutation, seed)
    for label in suspects.tolist():
        body = await forest.fixed_of(label)
        if await forest.group_of(label) == groups.RETIRED:
            await forest.revive(label)
        elif body and body != label and await forest.group_of(label) is None:
            await forest.put_in(body, [label])
            await forest.fix(label, None)
    await forest.flush()


# ------------------------------------------------------------------ reading


async def make_known(snapshot: Snapshot) -> None:
    """Let this process know the mapping and the waiting changes, before a mutation: it remembers nothing itself."""
    await mapping.load(snapshot)
    await deltas.load(snapshot)
    await deltas.is_any_folded(snapshot)


async def counts(reader: Reader, supervoxels: U64) -> Counts:
    """The index entries of supervoxels (ascending), sorted by supervoxel, z, y, x."""
    waiting = (await deltas.load(reader)).of(supervoxels)
    if not await deltas.is_any_folded(reader):
        listed = list[bytes]()
    elif len(supervoxels) <= FEW:
        listed = [key for found in await reader.keys_of(lists_of_few(supervoxels)) for key in found]
    else:
        listed = await _listed(reader, supervoxels)
    entries = Counts.of_keys(listed)
    if not waiting:
        return entries
    entries = deltas.latest([entries, *waiting], are_sorted=True)
    return entries[entries.voxels > 0]


async def lists_ahead(reader: Reader, supervoxels: Collection[int]) -> list[Range]:
    """The ranges that `counts` will read of supervoxels if they are few."""
    return lists_of_few(supervoxels) if await deltas.is_any_folded(reader) else []


def lists_of_few(supervoxels: Collection[int]) -> list[Range]:
    """The range of each of some supervoxels if they are few; none if they are many."""
    return [keys.supervoxel(int(label)) for label in supervoxels] if len(supervoxels) <= FEW else []


async def _listed(reader: Reader, supervoxels: U64) -> list[bytes]:
    cuts = np.flatnonzero(np.diff(supervoxels) > GAP) + 1
    firsts = supervoxels[np.concatenate([[0], cuts])].tolist()
    lasts = supervoxels[np.concatenate([cuts - 1, [len(supervoxels) - 1]])].tolist()
    listed: list[bytes] = []
    for start in range(0, len(firsts), TOGETHER):
        ranges = zip(firsts[start : start + TOGETHER], lasts[start : start + TOGETHER], strict=True)
        for found in await reader.keys_of([keys.supervoxels(first, last) for first, last in ranges]):
            listed += found
    if len(firsts) == len(supervoxels):
        return listed
    wanted = np.isin(Counts.of_keys(listed).supervoxels, supervoxels)
    return [key for key, is_wanted in zip(listed, wanted.tolist(), strict=True) if is_wanted]


async def with_voxels(reader: Reader, supervoxels: U64) -> set[int]:
    """Those of some supervoxels (ascending) that have voxels; what waits tells of most that were written lately."""
    found = set[int]()
    waiting = (await deltas.load(reader)).of(supervoxels)
    if waiting:
        rows = deltas.latest(waiting, are_sorted=True)
        found.update(rows.supervoxels[rows.voxels > 0].tolist())
    if len(found) < len(supervoxels):
        others = supervoxels[[label not in found for label in supervoxels.tolist()]]
        found.update((await counts(reader, others)).supervoxels.tolist())
    return found


async def has_voxels(reader: Reader, supervoxel: int) -> bool:
    """Whether a supervoxel has any voxels."""
    return len(await counts(reader, np.array([supervoxel], np.uint64))) > 0


async def are_bodies(snapshot: Snapshot, labels: U64, known: mapping.Mapping) -> npt.NDArray[np.bool_]:
    """Which of some supervoxels (ascending) that the mapping shows as themselves are parts of bodies of these numbers.

    They have voxels, or a posted mapping says so of them.
    """
    is_fixed = known.is_fixed(labels)
    found = is_fixed | np.isin(labels, (await counts(snapshot, labels)).supervoxels)
    for place in np.flatnonzero(is_fixed).tolist():  # only of these the groups may say something else
        label = int(labels[place])
        found[place] = await body_of(snapshot, label) == label or label in await groups.stale(snapshot, label)
    return found


async def entries(reader: Reader, label: int, is_supervoxel: bool) -> Counts:
    """The index entries of a body or of one supervoxel."""
    if is_supervoxel:
        return await counts(reader, np.array([label], np.uint64))
    if not isinstance(reader, Snapshot):
        known: _Known | None = reader.recall(_BODY_MEMO + keys.number(label), "entries")
        if known is not None:
            folded, end, _ = await deltas.mark(reader)
            known = await _followed(reader, label, known, folded, end, await groups.mark(reader))
        return known.entries if known is not None else await counts(reader, await members(reader, label))
    return (await _known(reader, label)).entries


async def _known(snapshot: Snapshot, body: int) -> _Known:
    """What the process knows of a body, brought up to this snapshot."""
    folded, end, _ = await deltas.mark(snapshot)
    mark = await groups.mark(snapshot)
    memo = _BODY_MEMO + keys.number(body)
    known: _Known | None = snapshot.recall(memo, "entries")
    if known is not None and known.end == end and known.mark == mark:
        return known
    if known is not None:
        known = await _followed(snapshot, body, known, folded, end, mark)
    if known is None:
        chosen = np.array([body], np.uint64)
        if mark:  # before the first edit there is nothing to look up
            chosen = np.union1d(await members(snapshot, body), np.array(await groups.stale(snapshot, body), np.uint64))
        known = _Known(folded, end, mark, chosen, await counts(snapshot, chosen))
    snapshot.remember(memo, "entries", known, known.members.nbytes + known.entries.nbytes)
    return known


async def _followed(reader: Reader, body: int, known: _Known, folded: int, end: int, mark: int) -> _Known | None:
    """What was known of a body, with what edits and writes have changed since; None if it must be looked up."""
    turns = await groups.turns(reader, known.mark, mark)
    if turns is None or not folded <= known.end <= end:
        return None
    supervoxels = known.members
    rows = known.entries
    if known.end < end:
        values = await reader.get_many([keys.delta(number) for number in range(known.end, end)])
        late = deltas.latest([deltas.decode(value) for value in values if value is not None])
        late = late[np.isin(late.supervoxels, supervoxels)]
        if len(late):
            rows = deltas.latest([rows, late])
            rows = rows[rows.voxels > 0]
    for operation in [operation for turn in turns for operation in turn["operations"]]:
        if operation[0] != "move":
            if body in operation[1:]:
                return None
            continue
        _, moved, source, target = operation
        if body == source:
            gone = np.array(moved, np.uint64)
            supervoxels = supervoxels[~np.isin(supervoxels, gone)]
            rows = rows[~np.isin(rows.supervoxels, gone)]
        elif body == target:
            added = np.unique(np.array(moved, np.uint64))
            supervoxels = np.union1d(supervoxels, added)
            rows = deltas.latest([rows, await counts(reader, added)])
    return _Known(folded, end, mark, supervoxels, rows)


async def label_counts(reader: Reader, label: int, is_supervoxel: bool) -> Counts:
    """The index entries of a body or of one supervoxel; `Absent` if it has no voxels."""
    if label == 0:
        raise Invalid("label 0 is the background and cannot be asked for")
    found = await entries(reader, label, is_supervoxel)
    if not len(found):
        raise Absent(f"label {label} not found")
    return found


async def size(reader: Reader, label: int, is_supervoxel: bool) -> int:
    """The number of voxels of a body or supervoxel, 0 if there is none."""
    return (await entries(reader, label, is_supervoxel)).size if label else 0


async def last_change(reader: Reader, body: int) -> Change:
    """Who changed a body last."""
    value = await reader.get(keys.head(body))
    return Change() if value is None else Change(*orjson.loads(value))


async def state(reader: Reader, body: int) -> tuple[bytes, bytes | None]:
    """Everything that the index holds of a body, to tell whether two versions hold the same; empty if nothing."""
    found = await entries(reader, body, False)
    return b"".join(found.to_keys()), await reader.get(keys.head(body))


async def bodies(snapshot: Snapshot, first: int, limit: int) -> tuple[U64, U64]:
    """Bodies with voxels from `first` on, ascending, at most `limit` of them, and their sizes."""
    stamp = ((await deltas.mark(snapshot))[:2], await groups.mark(snapshot))
    known = snapshot.recall(_BODIES_MEMO, "sizes")
    if known is None or known[0] != stamp:
        rows = Counts.of_keys(await snapshot.keys(*keys.supervoxels(0, (1 << 64) - 1)))
        waiting = (await deltas.load(snapshot)).all()
        if waiting:
            rows = deltas.latest([rows, *waiting], are_sorted=True)
            rows = rows[rows.voxels > 0]
        owners = (await mapping.load_groups(snapshot)).apply(rows.supervoxels)
        if await snapshot.get(keys.HAS_STALE) is not None:
            left = keys.pairs(await snapshot.keys(*keys.STALE.all()))
            again = [rows[rows.supervoxels == label] for label in left[:, 1]]
            owners = np.concatenate([owners, np.repeat(left[:, 0], [len(part) for part in again])])
            rows = Counts.joined([rows, *again])
        unique, inverse = np.unique(owners, return_inverse=True)
        sizes = np.zeros(len(unique), np.uint64)
        np.add.at(sizes, inverse, rows.voxels.astype(np.uint64))
        known = stamp, unique[unique != 0], sizes[unique != 0]
        snapshot.remember(_BODIES_MEMO, "sizes", known, 16 * len(unique))
    _, unique, sizes = known
    start = int(np.searchsorted(unique, np.uint64(first)))
    return unique[start : start + limit], sizes[start : start + limit]


# ------------------------------------------------------------------ DVID's message


def decode_block_indices(numbers: U64) -> npt.NDArray[np.int64]:
    """The places of blocks, int64 (n, 3) as z, y, x, from their numbers: 21 bits for each, sign and magnitude."""
    shifts = np.array([2 * _FIELD, _FIELD, 0], np.uint64)
    fields = (numbers[:, None] >> shifts & np.uint64((1 << _FIELD) - 1)).astype(np.int64)
    return np.where(fields & _SIGN, -(fields & ~_SIGN), fields)


async def message(snapshot: Snapshot, body: int, workers: Workers) -> bytes | None:
    """The index of a body as DVID's message `LabelIndex`, None if it has no voxels."""
    found = await entries(snapshot, body, False)
    if not len(found):
        return None
    change = await last_change(snapshot, body)
    rest: bytes = LabelIndex(
        label=body,
        last_mutid=change.mutation_id,
        last_mod_user=change.user,
        last_mod_app=change.app,
        last_mod_time=change.time,
    ).SerializeToString()
    if len(found) <= FEW_ROWS:
        return _encoded(found) + rest
    return await workers.run(_encoded, found) + rest


def _encoded(rows: Counts) -> bytes:
    try:
        numbers = index_messages.block_numbers(rows.blocks)
    except ValueError as error:
        raise Invalid(str(error)) from None
    order = np.argsort(numbers, kind="stable")
    return index_messages.blocks_message(numbers[order], rows.supervoxels[order], rows.voxels[order]).tobytes()
