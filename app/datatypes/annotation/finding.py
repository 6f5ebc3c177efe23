"""Which blocks may have elements: anywhere, in a box, with a tag?"""

from __future__ import annotations

import numpy as np

from app.core.geometry import Box, Triple
from app.datatypes.annotation import deltas, keys
from app.versioning.snapshot import Reader

#: So many blocks are asked for one by one, whether they are there or not.
_FEW_PLACES = 64


async def all_places(reader: Reader) -> list[Triple]:
    """All blocks with elements, and perhaps some that lost theirs, in order of z, y, x."""
    listed = keys.places(await reader.keys(*keys.all_rows()))
    seen = await deltas.load(reader)
    return sorted({*listed, *seen.places()}) if seen else listed


async def places_in(reader: Reader, box: Box) -> list[Triple]:
    """The blocks of a box of blocks that may have elements, in order of z, y, x."""
    depth, height, width = box.shape
    if depth * height * width <= _FEW_PLACES:
        return list(box.points())
    if depth * height <= _FEW_PLACES:
        (z0, y0, x0), (z1, y1, x1) = box.start, box.stop
        found = []
        for z in range(z0, z1):
            found += await reader.keys(*keys.rows_between((z, y0, x0), (z, y1 - 1, x1 - 1)))
        seen = await deltas.load(reader)
        listed = keys.places(found)
        if seen:
            listed = sorted({*listed, *seen.places()})
    else:
        listed = await all_places(reader)
    inside = np.array(listed, np.int64).reshape(-1, 3)
    keep = ((inside >= box.start) & (inside < box.stop)).all(axis=1)
    return [listed[index] for index in np.flatnonzero(keep).tolist()]


async def tagged_places(reader: Reader, tag: str) -> list[Triple]:
    """The blocks that have, or had, elements with a tag, in order of z, y, x."""
    first, last = keys.tagged_range(tag)
    listed = keys.places(await reader.keys(first, last), first)
    seen = await deltas.load(reader)
    return sorted({*listed, *seen.tagged(tag)}) if seen else listed
