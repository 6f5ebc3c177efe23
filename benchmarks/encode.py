"""What requests are made of that JSON cannot say."""

from __future__ import annotations

from collections.abc import Iterable


def key_values(pairs: Iterable[tuple[str, bytes]]) -> bytes:
    """Return DVID's protobuf message KeyValues."""
    out = bytearray()
    for key, value in pairs:
        item = _field(1, key.encode()) + _field(2, value)
        out += _field(1, item)
    return bytes(out)


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])
