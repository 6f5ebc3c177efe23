"""Posted elements that wait to be folded into their blocks.

A thousand synapses lie in hundreds of blocks, and writing these anew costs far more than the post has to say. So a post
leaves one value with its elements, in the order of their blocks. Readers lay what waits for a block on top of what is
stored of it: an element takes the place of one at the same position, or comes last. When much waits it is folded into
the blocks (`folding.py`), some blocks in each transaction. A block that is written for whatever reason takes in what
waits for it, and its rows end with the number of the next delta: earlier ones are in it (`keys.rows`).
"""

from __future__ import annotations

import struct

from app.core.errors import StoreUnavailable
from app.datatypes.annotation import keys, posted
from app.datatypes.annotation.posted import Delta
from app.datatypes.annotation.waiting import NOTHING, Seen, Waiting
from app.versioning.mutations import Mutation
from app.versioning.snapshot import LASTING, Overlay, Reader, Snapshot

#: A post of more elements, or bytes, goes into its blocks at once.
MOST_ELEMENTS, MOST_BYTES = 16_384, 4 << 20

_MARK = struct.Struct(">QQQ")
#: Numbers are not used again, so deltas are the same in all generations that have them.
_MEMO = LASTING + b"deltas/"


async def mark(reader: Reader) -> tuple[int, int, int]:
    """The range of the deltas that wait, and their weight."""
    value = await reader.get(keys.DELTAS)
    return (0, 0, 0) if value is None else _MARK.unpack(value)


async def add(mutation: Mutation, value: bytes) -> tuple[int, int]:
    """Let an encoded delta wait; the weight of what waited before, and of what waits now."""
    first, end, before = await mark(mutation)
    weight = before + posted.weight(value)
    mutation.put(keys.delta(end), value)
    mutation.put(keys.DELTAS, _MARK.pack(first, end + 1, weight))
    return before, weight


async def remove(mutation: Mutation, until: int | None = None) -> None:
    """Let the deltas before a number, or all, wait no more, as all of them are in their blocks."""
    first, end, weight = await mark(mutation)
    if first == end:
        return
    numbers = range(first, end if until is None else until)
    values = await mutation.get_many([keys.delta(number) for number in numbers])
    for number, value in zip(numbers, values, strict=True):
        weight -= 0 if value is None else posted.weight(value)
        mutation.delete(keys.delta(number))
    mutation.put(keys.DELTAS, _MARK.pack(numbers.stop, end, weight))


async def load(reader: Reader) -> Seen:
    """What waits, as this reader sees it; a process keeps it and adds what is new."""
    first, end, _ = await mark(reader)
    if first == end:
        return NOTHING
    committed = end
    if isinstance(reader, Overlay):
        while committed > first and reader.is_staged(keys.delta(committed - 1)):
            committed -= 1
    name = _MEMO + first.to_bytes(8, "big")
    known: Waiting | None = reader.recall(name, "waiting")
    shared, size = (Waiting(first), -1) if known is None else (known, known.size_bytes)
    await _extend(reader, shared, committed)
    if shared.size_bytes != size and isinstance(reader, Snapshot):  # what a mutation sees may never be
        reader.remember(name, "waiting", shared, shared.size_bytes)
    if committed == end:
        return Seen(((shared, end),))
    staged = Waiting(committed)
    await _extend(reader, staged, end)
    return Seen(((shared, committed), (staged, end)))


async def _extend(reader: Reader, waiting: Waiting, end: int) -> None:
    numbers = range(waiting.end, end)
    for number, value in zip(numbers, await reader.get_many(list(map(keys.delta, numbers))), strict=True):
        if value is None:
            raise StoreUnavailable(f"posted elements {number} are not stored any more")
        if number == waiting.end:  # else another reader was quicker
            waiting.add(Delta.decode(value))
