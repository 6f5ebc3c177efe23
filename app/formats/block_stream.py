"""The stream of blocks: for each, int32 x, y, z (block coordinates) and n, then n bytes of payload."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from app.core.errors import Invalid, TooLarge
from app.core.geometry import Triple

_HEADER = struct.Struct("<4i")
Payload = bytes | bytearray | memoryview


def frame(block_zyx: Triple, size: int) -> bytes:
    """What stands in front of a payload of so many bytes."""
    z, y, x = block_zyx
    return _HEADER.pack(x, y, z, size)


def join(blocks: Iterable[tuple[Triple, Payload]]) -> bytes:
    """A whole stream of (block z, y, x; payload)."""
    parts: list[Payload] = []
    for block, payload in blocks:
        parts += frame(block, len(payload)), payload
    return b"".join(parts)


class Splitter:
    """Takes a stream apart as it arrives; holds no more of it than one block.

        splitter = Splitter(most=...)
        for piece in body:
            for block_zyx, payload in splitter.feed(piece): ...
        splitter.close()

    A payload is a view of the piece that it came in, where it came in one piece. Blocks of more than `most` bytes
    are refused before they are held.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = bytearray()
        self._need = _HEADER.size

    def feed(self, piece: Payload) -> Iterator[tuple[Triple, memoryview]]:
        """The blocks that are complete with this piece."""
        if self._held:
            self._held += piece
            if len(self._held) < self._need:
                return
            # What is yielded are views of it, so it must not grow any more.
            piece, self._held = self._held, bytearray()
        view, at = memoryview(piece), 0
        self._need = _HEADER.size
        while len(view) - at >= _HEADER.size:
            x, y, z, size = _HEADER.unpack_from(view, at)
            if size < 0:
                raise Invalid(f"block {x},{y},{z} claims to have {size} bytes")
            if size > self._most:
                raise TooLarge(f"block {x},{y},{z} has {size} bytes; at most {self._most} are allowed")
            stop = at + _HEADER.size + size
            if stop > len(view):
                self._need = _HEADER.size + size
                break
            yield (z, y, x), view[at + _HEADER.size : stop]
            at = stop
        if at < len(view):
            self._held += view[at:]

    def close(self) -> None:
        """Say that the stream has ended; it must not end within a block."""
        if self._held:
            raise Invalid("the stream of blocks ends within a block")


def split(stream: Payload, most: int) -> list[tuple[Triple, memoryview]]:
    """The blocks of a whole stream, none of more than `most` bytes: (block z, y, x; payload)."""
    splitter = Splitter(most)
    blocks = list(splitter.feed(stream))
    splitter.close()
    return blocks
