"""The JSON of blocks of elements: one list for each block, cut into elements only where somebody asks for some."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.core.geometry import Triple
from app.datatypes.annotation import keys
from app.datatypes.annotation.table import Rows
from app.formats import compression
from app.versioning.snapshot import Reader, Snapshot


class Text:
    """The JSON of a block's elements."""

    def __init__(self, json: bytes) -> None:
        self.json = json
        self._pieces: list[bytes] | None = None

    def pieces(self, rows: Rows) -> list[bytes]:
        """The JSON of each element."""
        if self._pieces is None:
            ends = np.cumsum(rows["length"].astype(np.int64) + 1)
            starts = ends - rows["length"]
            self._pieces = [self.json[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
        return self._pieces

    def longer(self, added: bytes) -> Text:
        """The same with the JSON of more elements, with commas between."""
        return Text(b"[%s]" % added if self.json == b"[]" else b"%s,%s]" % (self.json[:-1], added))


NO_TEXT = Text(b"[]")


async def fetch(reader: Reader, zyxs: Sequence[Triple], rows: Sequence[Rows]) -> list[Text]:
    """The JSON stored of blocks whose rows are given."""
    names = [keys.block(zyx) for zyx in zyxs]
    texts = [
        (reader.recall(name, "text") if len(each) else None) or NO_TEXT for name, each in zip(names, rows, strict=True)
    ]
    absent = [index for index, text in enumerate(texts) if text is NO_TEXT and len(rows[index])]
    values = await reader.get_many([names[index] for index in absent])
    for index, value in zip(absent, values, strict=True):
        assert value is not None
        text = texts[index] = Text(_unpack(value))
        if isinstance(reader, Snapshot):
            reader.remember(names[index], "text", text, 2 * len(text.json) + 90 * len(rows[index]))
    return texts


def pack(json: bytes) -> bytes:
    """The JSON of a block as it is stored, see `keys`."""
    return compression.lz4(json, sized=True)


def _unpack(value: bytes) -> bytes:
    return compression.unlz4(memoryview(value)[4:], int.from_bytes(value[:4], "little"))
