"""Values of any size in a tree: small ones under their keys, large ones in pieces of their own.

    {key}                  the value; or, of a large one, which pieces it has
    v/{upload}{number}     a piece: 16 bytes that name the upload, and the number of the piece (uint32, big-endian)
    state/large            there once a large value was written

A large value comes in a stream, and its pieces are committed as they come, where no reader looks; the transaction
that writes the key is then as small as any other. So neither an upload nor a reader holds more than a few pieces in
memory, and a value that never became complete was never there. Pieces go with the value that they belong to.
"""

from __future__ import annotations

import asyncio
import hashlib
import struct
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass

from app.core.errors import DvidError, StoreUnavailable
from app.versioning.datastore import Data
from app.versioning.log import Record
from app.versioning.merge import Merge, Sides, by_key
from app.versioning.mutations import Mutation
from app.versioning.snapshot import Snapshot

PIECE_BYTES = 4 << 20

_LARGE = b"state/large"
_PIECE = b"v/"
#: What a value under a key begins with unless it is the value itself: 0 follows if it is all the same, 1 if it is not.
_MARK = b"\xf7dvid-cloud\xf7"
_ESCAPED, _REFERENCE = _MARK + b"\0", _MARK + b"\1"
_FIELDS = struct.Struct(">16sQ32s")
#: What one read of many values should bring at most, about.
_BATCH_BYTES, _BATCH = 8 << 20, 256


@dataclass(frozen=True)
class Small:
    """A value that is in memory."""

    content: bytes

    @property
    def size(self) -> int:
        """Its bytes."""
        return len(self.content)

    async def part(self, first: int, stop: int) -> AsyncIterator[bytes]:
        """The bytes from `first` up to but without `stop`."""
        yield self.content[first:stop]


@dataclass(frozen=True)
class Large:
    """A value in pieces. Two with the same digest (SHA-256) are the same."""

    upload: bytes
    size: int
    digest: bytes
    snapshot: Snapshot | None = None

    @property
    def keys(self) -> list[bytes]:
        """Where its pieces are."""
        return [_piece(self.upload, number) for number in range(-(-self.size // PIECE_BYTES))]

    async def part(self, first: int, stop: int) -> AsyncIterator[bytes]:
        """The bytes from `first` up to but without `stop`; the next piece is read while one is handed out."""
        assert self.snapshot is not None
        numbers = range(first // PIECE_BYTES, -(-stop // PIECE_BYTES) if stop > first else 0)
        following = asyncio.ensure_future(self._read(numbers[0])) if numbers else None
        try:
            for number in numbers:
                assert following is not None
                piece = await following
                following = asyncio.ensure_future(self._read(number + 1)) if number + 1 in numbers else None
                start = number * PIECE_BYTES
                yield piece[max(0, first - start) : stop - start]
        finally:
            if following is not None:
                following.cancel()

    async def _read(self, number: int) -> bytes:
        assert self.snapshot is not None
        (piece,) = await self.snapshot.read([_piece(self.upload, number)])
        if piece is None:
            raise StoreUnavailable("a piece of a large value is gone")
        return piece


@dataclass(frozen=True)
class Part:
    """Some bytes of a large value, from `start` up to but without `stop`."""

    whole: Large
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.stop - self.start

    def part(self, first: int, stop: int) -> AsyncIterator[bytes]:
        """The bytes from `first` up to but without `stop`, counted from the start of this part."""
        return self.whole.part(self.start + first, self.start + stop)


Value = Small | Large | Part


def cut(value: Small | Large, start: int, stop: int) -> Small | Part:
    """The bytes of a value from `start` up to but without `stop`."""
    return Small(value.content[start:stop]) if isinstance(value, Small) else Part(value, start, stop)


async def whole(value: Value) -> bytes:
    """All bytes of a value."""
    return value.content if isinstance(value, Small) else b"".join([piece async for piece in value.part(0, value.size)])


def _piece(upload: bytes, number: int) -> bytes:
    return _PIECE + upload + number.to_bytes(4, "big")


def _stored(value: bytes | Large) -> bytes:
    if isinstance(value, Large):
        return _REFERENCE + _FIELDS.pack(value.upload, value.size, value.digest)
    return _ESCAPED + value if value.startswith(_MARK) else value


def _opened(stored: bytes, snapshot: Snapshot | None) -> Small | Large:
    if not stored.startswith(_MARK):
        return Small(stored)
    if stored.startswith(_ESCAPED):
        return Small(stored[len(_ESCAPED) :])
    upload, size, digest = _FIELDS.unpack(stored[len(_REFERENCE) :])
    return Large(upload, size, digest, snapshot)


def is_same(stored: bytes | None, other: bytes | None) -> bool:
    """Whether two stored values are the same to whoever reads them."""
    if stored is None or other is None or not stored.startswith(_REFERENCE) or not other.startswith(_REFERENCE):
        return stored == other
    return stored[len(_REFERENCE) + 16 :] == other[len(_REFERENCE) + 16 :]


async def get(snapshot: Snapshot, key: bytes) -> Small | Large | None:
    """The value of a key, or None."""
    stored = await snapshot.get(key)
    return None if stored is None else _opened(stored, snapshot)


async def get_many(snapshot: Snapshot, keys: Sequence[bytes]) -> AsyncIterator[Small | Large | None]:
    """The values of keys in the order asked, read a few at a time."""
    start, count = 0, 16
    while start < len(keys):
        stored = await snapshot.get_many(keys[start : start + count])
        for value in stored:
            yield None if value is None else _opened(value, snapshot)
        start += count
        average = sum(len(value or b"") for value in stored) // count + 1
        count = max(1, min(_BATCH, _BATCH_BYTES // average))


async def put(mutation: Mutation, key: bytes, value: bytes | Large) -> None:
    """Stage a value in place of the one that is there: bytes in memory, or what an upload made."""
    await _drop_pieces(mutation, key)
    if isinstance(value, bytes) and len(value) > PIECE_BYTES:
        pieces = _cut(value)
        value = Large(uuid.uuid4().bytes, len(value), hashlib.sha256(value).digest())
        for number, piece in enumerate(pieces):
            mutation.put(_piece(value.upload, number), piece)
    if isinstance(value, Large) and await mutation.get(_LARGE) is None:
        mutation.put(_LARGE, b"")
    mutation.put(key, _stored(value))


async def delete(mutation: Mutation, key: bytes) -> None:
    """Stage the removal of a value, whether it is there or not."""
    await _drop_pieces(mutation, key)
    mutation.delete(key)


async def keep_only(mutation: Mutation, key: bytes, others: Iterable[bytes]) -> None:
    """Stage the removal of the pieces of other stored values of a key that are not those of its value."""
    kept = await mutation.get(key)
    for stored in others:
        value = _opened(stored, None)
        if stored != kept and isinstance(value, Large):
            for place in value.keys:
                mutation.delete(place)


def merge(prefix: bytes, name: Callable[[bytes], str]) -> Merge:
    """The version merge of values whose keys begin with a prefix, key by key; `name` says what a key is to its users.

    One set of pieces of a large value stays.
    """
    each = by_key(name, same=is_same)

    async def bring_in(sides: Sides) -> list[str]:
        conflicts = await each(sides)
        for key, clash in sides.clashes.items():
            if key.startswith(prefix):
                found = (clash.new, sides.changes[key].new)
                await keep_only(sides.target, key, [stored for stored in found if isinstance(stored, bytes)])
        return conflicts

    return bring_in


async def _drop_pieces(mutation: Mutation, key: bytes) -> None:
    if await mutation.get(_LARGE) is None:
        return  # spares most trees a read of what is overwritten
    stored = await mutation.get(key)
    value = None if stored is None else _opened(stored, None)
    for place in value.keys if isinstance(value, Large) else ():
        mutation.delete(place)


def _cut(value: bytes) -> list[bytes]:
    return [value[start : start + PIECE_BYTES] for start in range(0, len(value), PIECE_BYTES)]


async def upload(data: Data, stream: AsyncIterator[bytes], *, by_admin: bool) -> bytes | Large:
    """The value that a stream brings: in memory if it is small, else in pieces that are in the tree already.

    If the stream breaks off, its pieces are removed again.
    """
    held = bytearray()
    name, digest, sizes = uuid.uuid4().bytes, hashlib.sha256(), list[int]()
    sending: asyncio.Task[None] | None = None
    try:
        async for chunk in stream:
            held += chunk
            while len(held) > PIECE_BYTES:
                piece = bytes(memoryview(held)[:PIECE_BYTES])
                del held[:PIECE_BYTES]
                if sending is not None:
                    await sending
                await asyncio.to_thread(digest.update, piece)
                sending = asyncio.create_task(_write(data, _piece(name, len(sizes)), piece, by_admin))
                sizes.append(len(piece))
        if not sizes:
            return bytes(held)
        assert sending is not None
        await sending
        digest.update(held)
        await _write(data, _piece(name, len(sizes)), bytes(held), by_admin)
        return Large(name, sum(sizes) + len(held), digest.digest())
    except BaseException:
        if sizes:
            await asyncio.shield(_give_up(data, name, len(sizes) + 1, sending, by_admin))
        raise


async def set_aside(data: Data, contents: Sequence[bytes], *, by_admin: bool) -> list[Large]:
    """Put values that are in memory into pieces of their own, in one transaction; a later one gives them keys."""
    aside = [Large(uuid.uuid4().bytes, len(content), hashlib.sha256(content).digest()) for content in contents]
    record = Record("piece", data.home.uuid)

    async def change(mutation: Mutation) -> None:
        for value, content in zip(aside, contents, strict=True):
            for number, piece in enumerate(_cut(content)):
                mutation.put(_piece(value.upload, number), piece)
        mutation.record(record)

    await data.mutate(change, by_admin=by_admin)
    return aside


async def discard(data: Data, key: bytes, value: bytes | Large, *, by_admin: bool) -> None:
    """Remove the pieces of an upload that could not be written under its key, as far as is known."""
    if isinstance(value, Large):
        await asyncio.shield(_give_up(data, value.upload, len(value.keys), None, by_admin, key))


async def _give_up(
    data: Data, name: bytes, count: int, sending: asyncio.Task[None] | None, by_admin: bool, key: bytes | None = None
) -> None:
    async def change(mutation: Mutation) -> None:
        mutation.record(Record("piece", data.home.uuid))
        stored = None if key is None else await mutation.get(key)
        if stored is not None and stored.startswith(_REFERENCE + name):
            return  # it was written after all: only the answer was lost
        for number in range(count):
            mutation.delete(_piece(name, number))

    try:
        if sending is not None:
            await asyncio.wait([sending])
        await data.mutate(change, by_admin=by_admin)
    except DvidError:  # pieces that nobody refers to take room and do no harm
        return


async def _write(data: Data, place: bytes, piece: bytes, by_admin: bool) -> None:
    record = Record("piece", data.home.uuid)

    async def change(mutation: Mutation) -> None:
        mutation.put(place, piece)
        mutation.record(record)

    await data.mutate(change, by_admin=by_admin)
