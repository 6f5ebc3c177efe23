"""imagetile: pictures that tile planes along x, y and z at several scales, for each version.

`t/{plane}/{scale}/{z}{y}{x}` of the instance's tree holds a tile as it was posted. Which scales there are, and how
large a tile is at each, the instance says for all its versions.
"""

from __future__ import annotations

from app.datatypes import values
from app.datatypes.datatype import Datatype
from app.datatypes.imagetile import settings, tiles

DATATYPE = Datatype(
    "imagetile",
    compressed_as=settings.compression,
    settings=settings.initial,
    extended=settings.extended,
    merge=values.merge(tiles.PREFIX, tiles.named),
)
