"""Tar archives that come in pieces: the members one after another, each content as a stream of its own.

POSIX ustar, pax and GNU forms, as `tarfile` knows their headers; what is not a file is passed over.
"""

from __future__ import annotations

import tarfile
from collections.abc import AsyncIterator

from app.core.errors import Invalid

_BLOCK = 512
_PAX_LOCAL, _PAX_GLOBAL, _GNU_NAME, _GNU_LINK = b"x", b"g", b"L", b"K"
#: Longer names and extended headers are nobody's.
_MOST_HEADER_BYTES = 1 << 20


class _Source:
    """Bytes of a stream, as many as asked for."""

    def __init__(self, stream: AsyncIterator[bytes]) -> None:
        self._stream = stream
        self._held = bytearray()
        self._is_over = False

    async def read(self, count: int) -> bytes:
        """The next bytes, as many as there are of `count`."""
        while len(self._held) < count and await self._more():
            pass
        taken = bytes(memoryview(self._held)[:count])
        del self._held[:count]
        return taken

    async def some(self, most: int) -> bytes:
        """At least one of the next bytes; none at the end."""
        if not self._held:
            await self._more()
        return await self.read(min(most, len(self._held)))

    async def _more(self) -> bool:
        piece = await anext(self._stream, None)
        if piece is None:
            self._is_over = True
            return False
        self._held += piece
        return True


async def members(stream: AsyncIterator[bytes]) -> AsyncIterator[tuple[str, AsyncIterator[bytes]]]:
    """The files of an archive: name and content. What is left unread of a content is passed over."""
    source = _Source(stream)
    while True:
        member = await _header(source)
        if member is None:
            async for _ in _content(source, 1 << 62, is_rest=True):  # padding after the end
                pass
            return
        content = _content(source, member.size)
        if member.isreg():
            yield member.name, content
        async for _ in content:
            pass
        await source.read(-member.size % _BLOCK)


async def _header(source: _Source) -> tarfile.TarInfo | None:
    """The next member, with what extended headers say of it; None at the end."""
    name: str | None = None
    size: int | None = None
    while True:
        block = await source.read(_BLOCK)
        if not block.strip(b"\0"):
            return None
        try:
            member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.TarError as error:
            raise Invalid(f"the body is not a tar archive: {error}") from None
        if member.type not in (_PAX_LOCAL, _PAX_GLOBAL, _GNU_NAME, _GNU_LINK):
            member.name = name if name is not None else member.name
            member.size = size if size is not None else member.size
            return member
        if member.size > _MOST_HEADER_BYTES:
            raise Invalid("the body is not a tar archive: an extended header is too large")
        text = (await source.read(member.size + -member.size % _BLOCK))[: member.size]
        if member.type == _GNU_NAME:
            name = text.rstrip(b"\0").decode("utf-8", "surrogateescape")
        elif member.type == _PAX_LOCAL:
            fields = _pax(text)
            name, size = fields.get("path", name), int(fields["size"]) if "size" in fields else size


def _pax(text: bytes) -> dict[str, str]:
    """The fields of an extended header: `length key=value\\n`, one after another."""
    fields: dict[str, str] = {}
    while text:
        length, blank, _ = text.partition(b" ")
        if not blank or not length.isdigit() or not len(length) + 3 <= int(length) <= len(text):
            raise Invalid("the body is not a tar archive: an extended header is damaged")
        key, _, value = text[len(length) + 1 : int(length) - 1].partition(b"=")
        if key == b"size" and not value.isdigit():
            raise Invalid("the body is not a tar archive: an extended header is damaged")
        fields[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        text = text[int(length) :]
    return fields


async def _content(source: _Source, size: int, *, is_rest: bool = False) -> AsyncIterator[bytes]:
    while size:
        piece = await source.some(min(size, 1 << 20))
        if not piece:
            if is_rest:
                return
            raise Invalid("the tar archive is cut short")
        size -= len(piece)
        yield piece
