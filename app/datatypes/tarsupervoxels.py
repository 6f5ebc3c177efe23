"""tarsupervoxels: a file for each supervoxel, such as its mesh; handed out by body in tar archives.

Files lie under `f/{supervoxel}` (big-endian) and are the same in all versions; which supervoxels a body has is asked of
the labels at the version of the request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np

from app.core.errors import Absent, Invalid
from app.datatypes import values
from app.datatypes.author import Author
from app.datatypes.config import Config
from app.datatypes.datatype import Datatype
from app.datatypes.labelmap import index
from app.datatypes.values import Large, Small
from app.formats import tar_stream
from app.versioning.datastore import Data
from app.versioning.mutations import Mutation
from app.versioning.snapshot import Snapshot

_PREFIX = b"f/"
_LARGEST = (1 << 64) - 1
#: Files asked for at once, and from how many on all files between the first and the last are listed instead.
_TOGETHER, _MANY = 256, 4096
#: Files of an archive that is being loaded wait in memory up to so many bytes, further ones in the tree.
HELD_BYTES = 16 << 20


def _settings(config: Config) -> dict[str, Any]:
    return {"extension": config.required("Extension")}


async def _extended(data: Data, _snapshot: Snapshot) -> dict[str, Any]:
    return {"Extension": data.instance.settings["extension"]}


DATATYPE = Datatype(
    "tarsupervoxels",
    settings=_settings,
    extended=_extended,
    is_shared=True,
    syncs=frozenset({"labelmap"}),
    most_syncs=1,
)


def _key(supervoxel: int) -> bytes:
    return _PREFIX + supervoxel.to_bytes(8, "big")


def labels(data: Data) -> Data:
    """The labels that an instance is synced with, at the version of the request."""
    for uuid in data.instance.syncs:
        if uuid in data.repo.instances:
            return Data(data.datastore, data.repo, data.version, data.repo.instances[uuid])
    raise Invalid(f"data {data.instance.name!r} is not synced with any labelmap")


async def supervoxels(snapshot: Snapshot, body: int) -> list[int]:
    """The supervoxels of a body, ascending, given a snapshot of the labels."""
    try:
        entries = await index.label_counts(snapshot, body, False)
    except Absent:
        raise Invalid(f"label {body} has no supervoxels") from None
    found: list[int] = np.unique(entries.supervoxels).tolist()
    return found


def name(data: Data, supervoxel: int) -> str:
    """The name of a file."""
    return f"{supervoxel}.{data.instance.settings['extension']}"


def parse_name(data: Data, text: str) -> int:
    """The supervoxel of a file's name."""
    number, dot, extension = text.partition(".")
    if not dot or not (number.isascii() and number.isdigit()) or int(number) > _LARGEST:
        raise Invalid(f"the file {text!r} is not named like {name(data, 123)}")
    if extension != data.instance.settings["extension"]:
        raise Invalid(f"the file {text!r} must end with .{data.instance.settings['extension']}")
    if int(number) == 0:
        raise Invalid("supervoxel 0 is the background and has no file")
    return int(number)


async def get(snapshot: Snapshot, supervoxel: int) -> Small | Large:
    """The file of a supervoxel."""
    found = await values.get(snapshot, _key(supervoxel))
    if found is None:
        raise Absent(f"supervoxel {supervoxel} not found")
    return found


def get_many(snapshot: Snapshot, wanted: Sequence[int]) -> AsyncIterator[Small | Large | None]:
    """The files of supervoxels in the order asked."""
    return values.get_many(snapshot, [_key(supervoxel) for supervoxel in wanted])


async def exist(snapshot: Snapshot, wanted: Sequence[int]) -> list[bool]:
    """For each supervoxel whether it has a file."""
    there: set[bytes] = set()
    names = [_key(supervoxel) for supervoxel in wanted]
    if len(names) > _MANY:
        there.update(await snapshot.keys(min(names), max(names) + b"\0"))
    else:
        for start in range(0, len(names), _TOGETHER):
            part = names[start : start + _TOGETHER]
            there.update(*await snapshot.keys_of([(key, key + b"\0") for key in part]))
    return [key in there for key in names]


async def put_stream(data: Data, supervoxel: int, stream: AsyncIterator[bytes], author: Author) -> None:
    """Write the file of a supervoxel while it comes in."""
    value = await values.upload(data, stream, by_admin=author.by_admin)
    await _put(data, [(supervoxel, value)], author)


async def load(data: Data, stream: AsyncIterator[bytes], author: Author) -> None:
    """Write all files of a tar archive, or none, while it comes in."""
    items: list[tuple[int, bytes | Large]] = []
    held = 0
    try:
        async for title, content in tar_stream.members(stream):
            supervoxel = parse_name(data, title)
            value = await values.upload(data, content, by_admin=author.by_admin)
            items.append((supervoxel, value))
            held += len(value) if isinstance(value, bytes) else 0
            if held > HELD_BYTES:
                items = await _set_aside(data, items, author)
                held = 0
    except BaseException:
        await asyncio.shield(_discard(data, items, author))
        raise
    await _put(data, items, author)


async def _set_aside(
    data: Data, items: Sequence[tuple[int, bytes | Large]], author: Author
) -> list[tuple[int, bytes | Large]]:
    contents = [value for _, value in items if isinstance(value, bytes)]
    aside = iter(await values.set_aside(data, contents, by_admin=author.by_admin))
    return [(supervoxel, next(aside) if isinstance(value, bytes) else value) for supervoxel, value in items]


async def _put(data: Data, items: Sequence[tuple[int, bytes | Large]], author: Author) -> None:
    record = author.record(data, "supervoxels", await data.mutation_id())

    async def change(mutation: Mutation) -> None:
        for supervoxel, value in items:
            await values.put(mutation, _key(supervoxel), value)
        mutation.record(record)

    try:
        await data.mutate(change, by_admin=author.by_admin)
    except BaseException:
        await asyncio.shield(_discard(data, items, author))
        raise


async def _discard(data: Data, items: Sequence[tuple[int, bytes | Large]], author: Author) -> None:
    for start in range(0, len(items), _TOGETHER):
        part = items[start : start + _TOGETHER]
        await asyncio.gather(
            *[values.discard(data, _key(label), value, by_admin=author.by_admin) for label, value in part]
        )


async def delete(data: Data, supervoxel: int, author: Author) -> None:
    """Remove the file of a supervoxel, whether it is there or not."""
    record = author.record(data, "delete", await data.mutation_id())

    async def change(mutation: Mutation) -> None:
        await values.delete(mutation, _key(supervoxel))
        mutation.record(record)

    await data.mutate(change, by_admin=author.by_admin)
