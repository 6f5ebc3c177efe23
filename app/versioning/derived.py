"""What a process has computed from whole trees, and brings forward by the log instead of computing it again.

A state belongs to a moment of a tree's log: a record's number and the nonce of its commit. Another moment is reached
from it if one of the two logs goes through both: then the records between say what to look at, in either direction
and across versions, as a child's log begins with its parent's.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from app.versioning import log
from app.versioning.log import SEQUENCE, Record
from app.versioning.snapshot import Snapshot

T = TypeVar("T")

#: States remembered of one kind and tree family: the versions and generations that are looked at together.
STATES = 6
#: Tree families (instances) with remembered states.
FAMILIES = 64
#: With more records between than this, computing anew is cheaper.
LONGEST_WAY = 20_000


@dataclass(frozen=True)
class _State:
    sequence: bytes
    snapshot: Snapshot
    value: Any


class Derived:
    """Remembered states by family: a name for what is computed, and the folder of an instance's trees."""

    def __init__(self) -> None:
        self._families: OrderedDict[tuple[str, str], tuple[asyncio.Lock, list[_State]]] = OrderedDict()

    async def of(
        self,
        kind: str,
        folder: str,
        snapshot: Snapshot,
        build: Callable[[Snapshot], Awaitable[T]],
        advance: Callable[[T, Snapshot, Sequence[Record]], Awaitable[T | None]],
    ) -> T:
        """What `build` makes of a snapshot, perhaps by way of `advance`.

        `advance` gets a state, the snapshot wanted, and the records of the mutations between, oldest first, whether
        they are to be done or undone. It answers None if they do not tell what was touched. Values are shared by
        readers, and must not be changed.
        """
        lock, states = self._family(kind, folder)
        sequence = await snapshot.get(SEQUENCE) or b""
        found = _pick(states, sequence)
        if found is not None:
            return found.value  # type: ignore[no-any-return]
        async with lock:  # who else wants the same gets it from here
            found = _pick(states, sequence)
            if found is not None:
                return found.value  # type: ignore[no-any-return]
            value = None
            nearest = await _nearest(states, sequence, snapshot)
            if nearest is not None:
                state, records = nearest
                value = await advance(state.value, snapshot, records)
            if value is None:
                value = await build(snapshot)
            states.append(_State(sequence, snapshot, value))
            del states[:-STATES]
            return value

    def _family(self, kind: str, folder: str) -> tuple[asyncio.Lock, list[_State]]:
        key = (kind, folder)
        family = self._families.get(key)
        if family is None:
            family = self._families[key] = asyncio.Lock(), []
            if len(self._families) > FAMILIES:
                self._families.popitem(last=False)
        else:
            self._families.move_to_end(key)
        return family


def _pick(states: list[_State], sequence: bytes) -> _State | None:
    """The state of exactly this moment, now the most recently used."""
    for place in range(len(states) - 1, -1, -1):
        if states[place].sequence == sequence:
            found = states.pop(place)
            states.append(found)
            return found
    return None


async def _nearest(states: list[_State], sequence: bytes, snapshot: Snapshot) -> tuple[_State, list[Record]] | None:
    """The state with the fewest records between it and a moment, and these records."""
    number = log.sequence_of(sequence or None)
    best: tuple[_State, Snapshot, int, int] | None = None
    for state in states:
        known = log.sequence_of(state.sequence or None)
        longer = snapshot if known <= number else state.snapshot
        first, last = sorted((known, number))
        earlier = state.sequence if known <= number else sequence
        closer = last - first < (LONGEST_WAY if best is None else best[3] - best[2])
        if closer and await log.knows(longer, earlier):
            best = state, longer, first, last
    if best is None:
        return None
    state, longer, first, last = best
    values = await longer.get_many([log.key(each) for each in range(first + 1, last + 1)])
    if any(value is None for value in values):
        return None
    return state, [Record.decode(value) for value in values if value is not None]
