"""What goes out about mutations of annotations: DVID's messages, in which posted elements are a blob.

The blob is made when the message is, from the states before and after the commit: a post itself writes no blob.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from app.core.errors import DvidError
from app.core.geometry import Triple
from app.datatypes.annotation import blocks, read
from app.datatypes.datatype import message
from app.formats import compression, element_json
from app.versioning import blobs
from app.versioning.datastore import Data
from app.versioning.log import Record

_POSTS = {"element-post", "blocks-post"}
_TOLD = {*_POSTS, "element-delete", "element-move"}
_MOST_BYTES = 1 << 31
_BATCH = 512


def written(generation: int, places: Sequence[Triple]) -> dict[str, Any]:
    """What a post's record says of the blocks z, y, x that it wrote, and of the generation that it made."""
    packed = compression.gzip(np.array(places, "<i4").tobytes())
    return {"generation": generation, "blocks": base64.b64encode(packed).decode()}


def _places(arguments: Mapping[str, Any]) -> list[Triple]:
    packed = compression.ungzip(base64.b64decode(arguments["blocks"]), _MOST_BYTES)
    return [(z, y, x) for z, y, x in np.frombuffer(packed, "<i4").reshape(-1, 3).tolist()]


async def events(data: Data, record: Record) -> list[dict[str, Any]]:
    """What goes out about a record: nothing if its request asked for silence, or if it only looked labels up."""
    if record.action not in _TOLD or record.arguments.get("silent"):
        return []
    unsaid = ("MutationID", "App", "Elements", "Blocks")
    told = {name: value for name, value in message(record).items() if name not in unsaid}
    if record.action in _POSTS and "blocks" in record.arguments:
        payload = await _payload(data, record)
        if payload is not None:
            told["DataRef"] = await blobs.put(data.trees.store, payload)
    return [told]


async def _payload(data: Data, record: Record) -> bytes | None:
    """The elements that the commit changed, or the blocks as it left them; None if that is not kept."""
    generation, places = record.arguments["generation"], _places(record.arguments)
    try:
        after = await data.at(generation)
        if record.action == "blocks-post":
            return b"".join([piece async for piece in read.in_blocks(after, places)])
        before = await data.at(generation - 1) if generation > 1 else None
    except DvidError:
        return None
    found: list[bytes] = []
    for start in range(0, len(places), _BATCH):
        part = places[start : start + _BATCH]
        old = [blocks.EMPTY] * len(part) if before is None else await blocks.fetch(before, part)
        for was, now in zip(old, await blocks.fetch(after, part), strict=True):
            known = set(was.pieces)
            found += [piece for piece in now.pieces if piece not in known]
    return element_json.listed(found)
