"""keyvalue: any bytes under any key, ordered by the bytes of the key, versioned."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from app.core.errors import Invalid
from app.datatypes import values
from app.datatypes.author import Author
from app.datatypes.datatype import Datatype, logged, message, unsigned
from app.datatypes.values import Large, Small
from app.versioning.datastore import Data
from app.versioning.log import Record
from app.versioning.mutations import Mutation
from app.versioning.snapshot import Snapshot

_PREFIX = b"k/"
_END = b"k0"
#: Longer keys than DVID's store can hold are refused.
MAX_KEY_BYTES = 65_000


async def _messages(data: Data) -> list[dict[str, Any]]:
    """The log of a version as DVID's messages, which do not say who wrote a key."""
    return [unsigned(told) for told in await logged(data)]


async def _events(_data: Data, record: Record) -> list[dict[str, Any]]:
    return [unsigned(message(record))] if record.action in ("postkv", "delete") and record.arguments else []


def _tree_key(key: str) -> bytes:
    encoded = key.encode("utf-8", "surrogateescape")
    if not encoded:
        raise Invalid("a key must not be empty")
    if len(encoded) > MAX_KEY_BYTES:
        raise Invalid(f"the key has {len(encoded)} bytes; at most {MAX_KEY_BYTES} are allowed")
    return _PREFIX + encoded


def shown(key: str) -> str:
    """A key as JSON can show it: bytes that are not UTF-8 become U+FFFD."""
    return key.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _named(tree_key: bytes) -> str:
    return f'key "{tree_key[len(_PREFIX) :].decode("utf-8", "replace")}"'


DATATYPE = Datatype(
    "keyvalue",
    version="0.2",
    has_tags=True,
    messages=_messages,
    events=_events,
    merge=values.merge(_PREFIX, _named),
)


async def get(snapshot: Snapshot, key: str) -> Small | Large | None:
    """The value of a key, or None."""
    return await values.get(snapshot, _tree_key(key))


def get_many(snapshot: Snapshot, keys: Sequence[str]) -> AsyncIterator[Small | Large | None]:
    """The values of keys in the order asked."""
    return values.get_many(snapshot, [_tree_key(key) for key in keys])


async def key_range(snapshot: Snapshot, first: str | None = None, last: str | None = None) -> list[str]:
    """The keys from `first` to `last`, both inclusive and neither needed to exist; all without limits."""
    start = _PREFIX if first is None else _PREFIX + first.encode("utf-8", "surrogateescape")
    stop = _END if last is None else _PREFIX + last.encode("utf-8", "surrogateescape") + b"\0"
    if start >= stop:
        return []
    keys = await snapshot.keys(start, stop)
    return [key[len(_PREFIX) :].decode("utf-8", "surrogateescape") for key in keys]


async def put(data: Data, items: Sequence[tuple[str, bytes | Large]], author: Author) -> None:
    """Write values, all in one transaction; each has a record in the log."""
    encoded = [(_tree_key(key), key, value) for key, value in items]
    mutation_id = await data.mutation_id()

    async def change(mutation: Mutation) -> None:
        for tree_key, key, value in encoded:
            await values.put(mutation, tree_key, value)
            size = value.size if isinstance(value, Large) else len(value)
            mutation.record(author.record(data, "postkv", mutation_id, {"Key": shown(key), "Bytes": size}))
        if not encoded:
            mutation.record(author.record(data, "postkv", mutation_id))

    await data.mutate(change, by_admin=author.by_admin)


async def put_stream(data: Data, key: str, stream: AsyncIterator[bytes], author: Author) -> None:
    """Write a value of any size while it comes in."""
    tree_key = _tree_key(key)  # refused before anything is read
    value = await values.upload(data, stream, by_admin=author.by_admin)
    try:
        await put(data, [(key, value)], author)
    except BaseException:
        await values.discard(data, tree_key, value, by_admin=author.by_admin)
        raise


async def delete(data: Data, key: str, author: Author) -> None:
    """Remove a key, whether it is there or not."""
    tree_key = _tree_key(key)
    record = author.record(data, "delete", await data.mutation_id(), {"Key": shown(key)})

    async def change(mutation: Mutation) -> None:
        await values.delete(mutation, tree_key)
        mutation.record(record)

    await data.mutate(change, by_admin=author.by_admin)
