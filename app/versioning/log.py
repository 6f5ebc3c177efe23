"""The log of a tree: one record for each mutation, written in the mutation's own transaction.

Keys are `log/{sequence}` (big-endian), so a list is in the order in which the mutations took effect. A value is the
nonce of the commit (16 bytes), by which a pod whose answer was lost recognises its own work, and then JSON.

What data derived from a tree may have to look at again is beside it, under `touched/{sequence}`, for the few records
that say so: a reader finds these without the others. What they hold is the datatype's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

from app.versioning.snapshot import Overlay, Reader, Snapshot

#: Where a tree keeps the number of its last record.
SEQUENCE = b"state/sequence"
_PREFIX = b"log/"
_TOUCHED = b"touched/"
_BEGUN = b"state/log/"
#: A nonce is so many random bytes.
NONCE_BYTES = 16


@dataclass(frozen=True)
class Record:
    """What a mutation did: an action, the version, the mutation id, who did it with what, when, and its arguments.

    `touched` says to the datatype what derived data must look at again.
    """

    action: str
    version: str
    mutation_id: int = 0
    user: str = ""
    app: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    time: datetime = field(default_factory=lambda: datetime.now(UTC))
    touched: bytes = b""

    def encode(self, nonce: bytes) -> bytes:
        """The value under its key."""
        return nonce + orjson.dumps(
            {
                "action": self.action,
                "version": self.version,
                "mutation": self.mutation_id,
                "user": self.user,
                "app": self.app,
                "time": self.time,
                **({"arguments": self.arguments} if self.arguments else {}),
            }
        )

    @staticmethod
    def decode(value: bytes) -> Record:
        """The record that `encode` made."""
        stored = orjson.loads(value[NONCE_BYTES:])
        return Record(
            stored["action"],
            stored["version"],
            stored["mutation"],
            stored["user"],
            stored["app"],
            stored.get("arguments", {}),
            datetime.fromisoformat(stored["time"]),
        )


def key(number: int) -> bytes:
    """The key of a record."""
    return _PREFIX + number.to_bytes(8, "big")


def stage(staged: Overlay, number: int, record: Record, nonce: bytes) -> None:
    """Stage a record under its number."""
    staged.put(key(number), record.encode(nonce))
    if record.touched:
        staged.put(touched_key(number), record.touched)


def is_record(name: bytes) -> bool:
    """Whether a key is that of a record."""
    return name.startswith(_PREFIX)


def is_own(name: bytes) -> bool:
    """Whether a key belongs to the log, or to what keeps track of it."""
    return name.startswith((_PREFIX, _TOUCHED, _BEGUN))


def sequence(number: int, nonce: bytes) -> bytes:
    """The value of the tree's sequence number: the number, and the nonce of the commit that wrote it."""
    return number.to_bytes(8, "big") + nonce


def sequence_of(value: bytes | None) -> int:
    """The number in such a value; 0 before the first commit."""
    return 0 if value is None else int.from_bytes(value[:8], "big")


def nonce_of(value: bytes) -> bytes:
    """The nonce of the commit that wrote a record."""
    return value[:NONCE_BYTES]


def begun_key(version: str) -> bytes:
    """Where a version keeps the number of its own first record; those before it are inherited."""
    return _BEGUN + version.encode()


def said(value: bytes) -> bytes:
    """What a record says, whoever committed it: the same in every tree that has the record."""
    return value[NONCE_BYTES:]


def number_of(name: bytes) -> int:
    """The number in the key of a record."""
    return int.from_bytes(name[len(_PREFIX) :], "big")


def touched_key(number: int) -> bytes:
    """Where a record's `touched` is, if it says any."""
    return _TOUCHED + number.to_bytes(8, "big")


async def records(snapshot: Snapshot, version: str) -> list[Record]:
    """The records of exactly this version, oldest first."""
    begun = await snapshot.get(begun_key(version))
    if begun is None:
        return []
    items = await snapshot.items(key(sequence_of(begun)), _PREFIX + b"\xff" * 9)
    found = [Record.decode(value) for _, value in items]
    return [record for record in found if record.version == version]


async def numbered(reader: Reader, first: int, last: int) -> list[tuple[int, Record]]:
    """The records from one number to another, with their numbers, inherited ones too."""
    numbers = range(first, last + 1)
    values = await reader.get_many([key(number) for number in numbers])
    return [(n, Record.decode(value)) for n, value in zip(numbers, values, strict=True) if value is not None]


async def touched(reader: Reader, after: int, last: int) -> list[bytes]:
    """What the records after one number, up to and with another, have touched, oldest first."""
    first, end = ((number + 1).to_bytes(8, "big") for number in (after, last))
    values = await reader.get_many(await reader.keys(_TOUCHED + first, _TOUCHED + end))
    return [value for value in values if value is not None]


async def knows(reader: Reader, position: bytes) -> bool:
    """Whether a tree's log goes through the state whose sequence number (the value of `sequence`) is given."""
    number = sequence_of(position or None)
    if not number:
        return True
    record = await reader.get(key(number))
    return record is not None and nonce_of(record) == position[8:]
