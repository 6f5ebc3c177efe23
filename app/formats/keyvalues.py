"""Many keys and values in one body: protobuf `Keys` and `KeyValues` of DVID, JSON, and tar.

Answers are made piece by piece, so that values may be larger than memory: what comes before a value, the value, what
comes after it. JSON embeds values as they are, as clients store JSON.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any

import orjson
from google.protobuf.message import DecodeError

from app.core.errors import Invalid
from app.formats.dvid_pb2 import Keys, KeyValues

#: First and last byte of the part of a value that is wanted.
Span = tuple[int, int]
_TAR_BLOCK = 512


class Form(Enum):
    """How keys and values are written down."""

    PROTOBUF = "application/octet-stream"
    JSON = "application/json"
    TAR = "application/tar"

    @property
    def media(self) -> str:
        """The media type."""
        return self.value

    @property
    def start(self) -> bytes:
        """What comes before everything."""
        return b"{" if self is Form.JSON else b""

    @property
    def end(self) -> bytes:
        """What comes after everything."""
        return {Form.JSON: b"}", Form.TAR: bytes(2 * _TAR_BLOCK), Form.PROTOBUF: b""}[self]

    def before(self, key: str, size: int, is_first: bool) -> bytes:
        """What comes before a value of `size` bytes. JSON of an empty value is an empty object."""
        if self is Form.JSON:
            return (b"" if is_first else b",") + orjson.dumps(key) + (b":" if size else b":{}")
        if self is Form.TAR:
            member = tarfile.TarInfo(key)
            member.size, member.mode = size, 0o755
            return member.tobuf(tarfile.PAX_FORMAT)
        name = key.encode()
        head = b"\x0a" + varint(len(name)) + name + (b"\x12" + varint(size) if size else b"")
        return b"\x0a" + varint(len(head) + size) + head

    def after(self, size: int) -> bytes:
        """What comes after a value of `size` bytes."""
        return bytes(-size % _TAR_BLOCK) if self is Form.TAR else b""

    def pack(self, items: Iterable[tuple[str, bytes]]) -> bytes:
        """Keys and values that are in memory."""
        parts = [self.start]
        for key, value in items:
            parts += self.before(key, len(value), len(parts) == 1), value, self.after(len(value))
        return b"".join([*parts, self.end])


def varint(number: int) -> bytes:
    """An unsigned number as protobuf writes it."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def check_json(key: str, value: bytes) -> None:
    """Refuse a value that cannot be part of JSON."""
    try:
        orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise Invalid(f"the value of key {key!r} is not JSON: {error}") from None


def parse_keys(body: bytes, *, as_json: bool, numbers: bool = False) -> list[tuple[str, Span | None]]:
    """The keys that a body asks for, each with the bytes wanted if it is not all of them.

    JSON: a list of keys (with `numbers` also as integers), or a list of objects with `key` and perhaps `byte_start`
    and `byte_end`; else protobuf `Keys`.
    """
    if not as_json:
        message = Keys()
        try:
            message.ParseFromString(body)
        except DecodeError as error:
            raise Invalid(f"the body is not a Keys message: {error}") from None
        spans = [(item.key, (item.byte_start, item.byte_end)) for item in message.key_ranges]
        return [*((key, None) for key in message.keys), *spans]
    listed = _json(body)
    if not isinstance(listed, list):
        raise Invalid("the body must be a JSON list of keys")
    if all(isinstance(item, str) or (numbers and type(item) is int) for item in listed):
        return [(str(item), None) for item in listed]
    return [_wanted(item) for item in listed]


def _wanted(item: Any) -> tuple[str, Span | None]:
    key = item.get("key") if isinstance(item, dict) else None
    span: Any = (item.get("byte_start"), item.get("byte_end")) if isinstance(item, dict) else None
    if not isinstance(key, str) or not (span == (None, None) or all(type(value) is int for value in span)):
        raise Invalid("the body must be a list of keys, or a list of objects with key, byte_start and byte_end")
    return key, None if span == (None, None) else span


def parse_pairs(body: bytes, form: Form) -> list[tuple[str, bytes]]:
    """Keys and values to be stored: protobuf `KeyValues`, a JSON object, or the files of a tar archive."""
    if form is Form.JSON:
        given = _json(body)
        if not isinstance(given, dict):
            raise Invalid("the body must be a JSON object of keys and values")
        return [(key, orjson.dumps(value)) for key, value in given.items()]
    if form is Form.TAR:
        return list(_files(body))
    message = KeyValues()
    try:
        message.ParseFromString(body)
    except DecodeError as error:
        raise Invalid(f"the body is not a KeyValues message: {error}") from None
    return [(item.key, item.value) for item in message.kvs]


def _files(body: bytes) -> Sequence[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    try:
        with tarfile.open(fileobj=io.BytesIO(body), mode="r:") as archive:
            for member in archive:
                if member.isfile():
                    content = archive.extractfile(member)
                    assert content is not None
                    found.append((member.name, content.read()))
    except (tarfile.TarError, EOFError, ValueError, OSError) as error:
        raise Invalid(f"the body is not a tar archive: {error}") from None
    return found


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Invalid(f"the body is not JSON: {error}") from None
