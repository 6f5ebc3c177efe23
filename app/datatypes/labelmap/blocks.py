"""Label blocks of a snapshot: fetched, unpacked, with supervoxels replaced by bodies in their headers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from isal import igzip

from app.core.errors import Invalid, StoreUnavailable
from app.core.geometry import Triple
from app.datatypes.labelmap import keys
from app.datatypes.labelmap.mapping import IDENTITY, Mapping
from app.kernels import label_block
from app.versioning.snapshot import Snapshot

U8 = npt.NDArray[np.uint8]

#: isal's quickest level; stored blocks are small words packed tight, and higher levels gain little.
GZIP_LEVEL = 1


def pack(block: U8) -> bytes:
    """A label block as it is stored and exchanged."""
    return bytes(igzip.compress(block.data, GZIP_LEVEL))


def unpack(stored: bytes) -> U8:
    """A stored label block, which was checked when it came."""
    try:
        return np.frombuffer(igzip.decompress(stored), np.uint8)  # type: ignore[no-untyped-call]
    except (igzip.BadGzipFile, EOFError, ValueError) as error:
        raise StoreUnavailable(f"a stored label block is damaged: {error}") from error


def unpack_untrusted(payload: bytes, shape: Triple) -> U8:
    """A label block that a client sent: gzip of a well-formed block of this shape (z, y, x)."""
    # A block's size is bounded by its voxels: eight bytes each, and as many again for tables.
    limit = 64 + 16 * shape[0] * shape[1] * shape[2]
    try:
        with igzip.GzipFile(fileobj=io.BytesIO(payload)) as file:  # type: ignore[no-untyped-call]
            data = file.read(limit + 1)
    except (igzip.BadGzipFile, EOFError, ValueError, OSError) as error:
        raise Invalid(f"a block is not gzip: {error}") from None
    if len(data) > limit:
        raise Invalid("a block unpacks to more bytes than its voxels can need")
    block = np.frombuffer(data, np.uint8)
    try:
        label_block.check(block, shape)
    except ValueError as error:
        raise Invalid(f"bad label block: {error}") from None
    return block


async def fetch(snapshot: Snapshot, scale: int, zyxs: Sequence[Triple]) -> list[bytes | None]:
    """Stored blocks, None where there is none."""
    return await snapshot.get_many([keys.block(scale, zyx) for zyx in zyxs])


def unpacked(snapshot: Snapshot, key: bytes, stored: bytes, mapping: Mapping) -> U8:
    """A block whose header lists bodies (or supervoxels, with the empty mapping)."""
    block: U8 | None = snapshot.recall(key, "block")
    if block is None:
        block = unpack(stored)
        snapshot.remember(key, "block", block, block.nbytes)
    return block if mapping.is_empty else _mapped(block, mapping)


def _mapped(block: U8, mapping: Mapping) -> U8:
    labels = label_block.labels(block)
    bodies = mapping.apply(labels)
    return block if bodies is labels else label_block.relabel(block, bodies)


def look(snapshot: Snapshot, key: bytes, stored: bytes | None, mapping: Mapping) -> bytes | None:
    """What a mapping makes of a block: two looks are equal if its labels have the same bodies, whatever else changed.

    None if it is not known without the block's bytes and these are not given. Empty if every label is its own body.
    """
    if mapping.is_empty:
        return b""
    known: tuple[int, bytes] | None = snapshot.recall(key, "look")
    if known is not None and known[0] == mapping.mark:
        return known[1]
    if stored is None:
        return None
    labels = label_block.labels(unpacked(snapshot, key, stored, IDENTITY))
    bodies = mapping.apply(labels)
    found = b"" if bodies is labels else bodies.tobytes()
    snapshot.remember(key, "look", (mapping.mark, found), len(found))
    return found


def recall_encoded(snapshot: Snapshot, key: bytes, compression: str, mapping: Mapping, seen: bytes | None) -> Any:
    """An answer made of a block and remembered, if its labels had the same bodies then."""
    known = snapshot.recall(key, (compression, mapping.is_empty))
    return known[1] if known is not None and known[0] == seen else None


def remember_encoded(
    snapshot: Snapshot, key: bytes, compression: str, mapping: Mapping, seen: bytes, answer: bytes | memoryview
) -> None:
    """Remember an answer made of a block; of each form the last one, mapped and not."""
    snapshot.remember(key, (compression, mapping.is_empty), (seen, answer), len(seen) + len(answer))


async def fetch_unpacked(snapshot: Snapshot, scale: int, zyxs: Sequence[Triple], mapping: Mapping) -> list[U8 | None]:
    """Blocks unpacked, None where there is none."""
    names = [keys.block(scale, zyx) for zyx in zyxs]
    found: list[U8 | None] = [snapshot.recall(name, "block") for name in names]
    absent = [index for index, block in enumerate(found) if block is None]
    for index, stored in zip(absent, await snapshot.get_many([names[index] for index in absent]), strict=True):
        if stored is not None:
            found[index] = unpacked(snapshot, names[index], stored, IDENTITY)
    return found if mapping.is_empty else [None if block is None else _mapped(block, mapping) for block in found]
