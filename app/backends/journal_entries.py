"""What is in the files of a journal.

A file is `MAGIC`, the place where its last whole entry ends (u64, in the machine's order of bytes), and entries. The
place is 0 while somebody changes the journal or what it stands on, and for ever in a file that has a successor: who
looks often has it mapped, and looks at the file only when the place is not the one read to.

An entry is its length (u32) and CRC-32 (u32) and then, over which both are taken, a generation (u64), a kind (u8) and

- of a mark (0): the generation of OCDBT (u64) that holds exactly this one, and in a map that began as a copy the folder
  of a manifest whose journals know the generations before; what waited in the other map's journal follows;
- of a commit (1), for each key: its length (u32), the length of its value plus one (u32; 0: removed), both.

All of this is little-endian. Every file begins with a mark. An entry that was cut short is no entry.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from app.backends import shared_number
from app.backends.view import Late
from app.core.errors import StoreUnavailable

MAGIC = b"DVIDjnl2"
#: Where the first entry begins.
BEGINNING = len(MAGIC) + shared_number.SIZE_BYTES
_FRAME = struct.Struct("<II")
_HEAD = struct.Struct("<QB")
_MARK = struct.Struct("<QBQ")
_PAIR = struct.Struct("<II")
_IS_MARK, _IS_COMMIT = 0, 1


@dataclass
class Stretch:
    """A generation that OCDBT has stored under a generation of its own, and what came after it."""

    start: int
    stored: int
    newest: int
    late: Late
    origin: str = ""
    #: Where its commits begin in its file.
    place: int = 0

    @staticmethod
    def after(before: Stretch | None, start: int, stored: int, origin: str = "", place: int = 0) -> Stretch:
        """One that begins, after another or as the first; `origin` is the folder of the map that was copied."""
        is_next = before is not None and before.newest == start  # a generation that was not is not known key by key
        late = Late(start, before.late if before is not None and is_next else None)
        return Stretch(start, stored, start, late, origin, place)


def committed(generation: int, writes: Mapping[bytes, bytes | None]) -> bytes:
    """The entry of a commit."""
    parts = [_HEAD.pack(generation, _IS_COMMIT)]
    for key, value in writes.items():
        if value is None:
            parts += (_PAIR.pack(len(key), 0), key)
        else:
            parts += (_PAIR.pack(len(key), len(value) + 1), key, value)
    return _entry(b"".join(parts))


def marked(generation: int, stored: int, origin: str) -> bytes:
    """The entry of a mark."""
    return _entry(_MARK.pack(generation, _IS_MARK, stored) + origin.encode())


def _entry(payload: bytes) -> bytes:
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def begun(entries: bytes) -> bytes:
    """A file with these entries."""
    return MAGIC + shared_number.encode(BEGINNING + len(entries)) + entries


def start_of(data: bytes) -> int:
    """The generation at which a file begins, of its first bytes: at least those of its first mark."""
    return int(_HEAD.unpack_from(data, BEGINNING + _FRAME.size)[0])


def origin_of(data: bytes) -> str:
    """The folder that its first mark names, of at least that much of a file."""
    length, _ = _FRAME.unpack_from(data, BEGINNING)
    first = BEGINNING + _FRAME.size
    return data[first + _MARK.size : first + length].decode()


def parse(
    data: bytes,
    stretch: Stretch | None,
    place: int = BEGINNING,
    *,
    skipped: int = 0,
    is_newest_enough: bool = False,
) -> tuple[list[Stretch], int]:
    """The stretches of a file, or from a place on what follows after a known one, and where the last whole entry ends.

    `skipped` bytes of the file come before the data. If `is_newest_enough`, those before the newest are left out.
    """
    if place and data[: len(MAGIC)] != MAGIC:
        if len(data) >= len(MAGIC):
            raise StoreUnavailable("a journal is damaged, or of another release")
        return [], 0
    found = [] if stretch is None else [stretch]
    commits = list[tuple[int, bytes]]()
    while place + _FRAME.size <= len(data):
        length, check = _FRAME.unpack_from(data, place)
        payload = data[place + _FRAME.size : place + _FRAME.size + length]
        if len(payload) < max(length, _HEAD.size) or zlib.crc32(payload) != check:
            break
        generation, kind = _HEAD.unpack_from(payload)
        if kind == _IS_MARK:
            if is_newest_enough:
                found.clear()
            else:
                _take(found, commits)
            commits.clear()
            stored, origin = _MARK.unpack_from(payload)[2], payload[_MARK.size :].decode()
            end = skipped + place + _FRAME.size + length
            found.append(Stretch.after(found[-1] if found else None, generation, stored, origin, end))
        else:
            commits.append((generation, payload))
        place += _FRAME.size + length
    _take(found, commits)
    return found, place


def _take(found: list[Stretch], commits: list[tuple[int, bytes]]) -> None:
    for generation, payload in commits:
        found[-1].late.add(generation, _pairs(payload))
        found[-1].newest = generation


def _pairs(payload: bytes) -> dict[bytes, bytes | None]:
    writes: dict[bytes, bytes | None] = {}
    place = _HEAD.size
    while place < len(payload):
        of_key, of_value = _PAIR.unpack_from(payload, place)
        place += _PAIR.size
        value_at = place + of_key
        key = payload[place:value_at]
        place = value_at + max(of_value - 1, 0)
        writes[key] = payload[value_at:place] if of_value else None
    return writes
