"""The deltas that wait, by block and by supervoxel, as a process keeps them and as one reader sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from app.core.geometry import Triple
from app.datatypes.annotation.posted import Delta, Part
from app.datatypes.annotation.table import I64, U64

#: Parts of the sorted supervoxels are joined when the newer one is at least a quarter of the older one.
JOIN_RATIO = 4


@dataclass(frozen=True)
class _Sorted:
    """The supervoxels of some deltas' elements, ascending, and where each lies."""

    supervoxels: U64
    numbers: I64
    slots: I64

    @staticmethod
    def joined(parts: Sequence[_Sorted]) -> _Sorted:
        supervoxels, numbers, slots = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("supervoxels", "numbers", "slots")
        )
        order = np.argsort(supervoxels, kind="stable")
        return _Sorted(supervoxels[order], numbers[order], slots[order])


class Waiting:
    """The deltas from a first number on, by block. It only grows, so that readers of several generations share it."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.deltas: list[Delta] = []
        self.size_bytes = 0
        self.parts: dict[Triple, list[Part]] = {}
        self._sorted: list[_Sorted] = []
        self._sorted_end = first

    @property
    def end(self) -> int:
        """The number after the last one."""
        return self.first + len(self.deltas)

    def add(self, delta: Delta) -> None:
        """Add the next one."""
        number = self.end
        self.deltas.append(delta)
        self.size_bytes += delta.size_bytes
        for slot, zyx in enumerate(delta.places):
            part = Part(number, delta, slot)
            listed = self.parts.get(zyx)
            if listed is None:
                self.parts[zyx] = [part]
            else:
                listed.append(part)

    def in_supervoxels(self, wanted: U64, end: int) -> set[Triple]:
        """The blocks that have elements in any of the supervoxels (ascending), as far as deltas before `end` tell."""
        self._sort()
        found: set[Triple] = set()
        for part in self._sorted:
            low = np.searchsorted(part.supervoxels, wanted, "left")
            high = np.searchsorted(part.supervoxels, wanted, "right")
            for start, stop in zip(low[low < high].tolist(), high[low < high].tolist(), strict=True):
                pairs = zip(part.numbers[start:stop].tolist(), part.slots[start:stop].tolist(), strict=True)
                found |= {self.deltas[number - self.first].places[slot] for number, slot in pairs if number < end}
        return found

    def _sort(self) -> None:
        for number in range(self._sorted_end, self.end):
            delta = self.deltas[number - self.first]
            slots = np.repeat(np.arange(len(delta.places)), np.diff(delta.starts))
            new = _Sorted(delta.rows["supervoxel"].copy(), np.full(len(slots), number), slots)
            new = _Sorted.joined([new])
            while self._sorted and len(new.slots) * JOIN_RATIO >= len(self._sorted[-1].slots):
                new = _Sorted.joined([self._sorted.pop(), new])
            self._sorted.append(new)
        self._sorted_end = self.end


@dataclass(frozen=True)
class Seen:
    """What waits as one reader sees it: deltas up to a number, and those that mutations of its batch have staged."""

    waiting: tuple[tuple[Waiting, int], ...] = ()

    @property
    def end(self) -> int:
        """The number of the next delta."""
        return self.waiting[-1][1]

    @property
    def has_staged(self) -> bool:
        """Whether some of it may never be."""
        return len(self.waiting) > 1

    def __bool__(self) -> bool:
        return bool(self.waiting)

    def parts(self, zyx: Triple) -> list[Part]:
        """What waits for a block, oldest first, whether the block has it already or not."""
        found: list[Part] = []
        for waiting, end in self.waiting:
            parts = waiting.parts.get(zyx)
            if parts is not None:
                found += parts if parts[-1].number < end else [part for part in parts if part.number < end]
        return found

    def lasts(self, zyxs: Sequence[Triple]) -> list[int]:
        """The number of the last delta that has anything for each block; -1 if none has."""
        if len(self.waiting) == 1 and self.waiting[0][0].end == self.end:
            known = self.waiting[0][0].parts
            return [parts[-1].number if (parts := known.get(zyx)) is not None else -1 for zyx in zyxs]
        return [parts[-1].number if (parts := self.parts(zyx)) else -1 for zyx in zyxs]

    def places(self) -> Iterator[Triple]:
        """The blocks for which anything waits, in no order, some of them twice."""
        for waiting, end in self.waiting:
            yield from (zyx for zyx, parts in waiting.parts.items() if parts[0].number < end)

    def in_supervoxels(self, wanted: U64) -> set[Triple]:
        """The blocks for which elements in any of the supervoxels (ascending) wait."""
        return {zyx for waiting, end in self.waiting for zyx in waiting.in_supervoxels(wanted, end)}

    def tagged(self, tag: str) -> set[Triple]:
        """The blocks for which elements with a tag wait."""
        deltas = (delta for waiting, end in self.waiting for delta in waiting.deltas[: end - waiting.first])
        return {delta.places[slot] for delta in deltas for slot in delta.tags.get(tag, ())}


NOTHING = Seen()
