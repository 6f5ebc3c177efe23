"""Answers that many endpoints give."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import quote

import orjson
from starlette.responses import Response, StreamingResponse

from app.core.errors import Invalid
from app.core.work import Workers
from app.formats.compression import GzipStream

#: The ASGI extension by which our own protocol takes a whole answer: a function of status, headers and body.
WHOLE = "dvid.whole"
OCTETS = "application/octet-stream"
ACCEPT_RANGES = {"Accept-Ranges": "bytes"}
#: Larger answers are sent while they are made, in pieces of about this size.
STREAMED_BYTES = 4 << 20
PIECE_BYTES = 256 << 10
_RANGE = re.compile(r"bytes=\s*([0-9]{0,18})\s*-\s*([0-9]{0,18})")
_REFUSED = re.compile(r";\s*q=0(\.0*)?\s*$")


class Whole(Response):
    """An answer whose bytes are at hand: made several times quicker than a `Response` that has to look at its own."""

    def __init__(self, body: bytes | memoryview, media: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.status_code = 200
        self.background = None
        self.body = body
        self.raw_headers = [(b"content-length", b"%d" % len(body))]
        if media:
            self.raw_headers.append((b"content-type", media))
        if headers:
            self.raw_headers += [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()]


def json(value: Any) -> Response:
    """A JSON answer."""
    return Whole(orjson.dumps(value), b"application/json")


def spaced_json(text: str) -> Response:
    """JSON whose spelling clients compare."""
    return Whole(text.encode(), b"application/json")


def octets(body: bytes | memoryview, headers: Mapping[str, str] | None = None) -> Response:
    """Plain bytes."""
    return Whole(body, b"application/octet-stream", headers)


def voxels(body: bytes | memoryview) -> Response:
    """Voxels of an image volume: as DVID sends them, without their length in front."""
    response = octets(body)
    del response.headers["Content-Length"]
    return response


def text(body: str, status: int = 200) -> Response:
    """Plain text."""
    return Response(body, status_code=status, headers={"Content-Type": "text/plain"})


def empty() -> Response:
    """What a successful write answers."""
    return Whole(b"")


def attachment(name: str) -> str:
    """The Content-Disposition of a file to keep under a name (RFC 6266); `Invalid` if no file can have it."""
    if not name.isprintable() or "/" in name:
        raise Invalid(f"{name!r} cannot be a file's name")
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    if name.isascii():
        return f'attachment; filename="{quoted}"'
    plain = quoted.encode("ascii", "replace").decode()
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def ranged(value: bytes | memoryview, header: str | None) -> Response:
    """A value, or the part that a Range header asks for (RFC 9110, one range; others are ignored)."""
    asked = _asked(header, len(value))
    if asked is None:
        return octets(value, ACCEPT_RANGES)
    start, stop = asked
    if start >= stop:
        return _beyond(len(value))
    response = octets(value[start:stop], _content_range(start, stop, len(value)))
    response.status_code = 206
    return response


def ranged_stream(size: int, header: str | None, part: Callable[[int, int], AsyncIterator[bytes]]) -> Response:
    """The same of a value that comes in pieces: `part` gives the bytes from one up to but without another."""
    asked = _asked(header, size)
    start, stop = asked or (0, size)
    if start >= stop:
        return _beyond(size)
    headers = {"Content-Length": str(stop - start), **(ACCEPT_RANGES if asked is None else {})}
    if asked is not None:
        headers |= _content_range(start, stop, size)
    return StreamingResponse(part(start, stop), 200 if asked is None else 206, headers, OCTETS)


def _asked(header: str | None, size: int) -> tuple[int, int] | None:
    """The part of a value that a Range header asks for, empty if it lies beyond the value; None for all of it."""
    match = _RANGE.fullmatch(header.strip()) if header else None
    first, last = match.groups() if match else ("", "")
    if not (first or last):
        return None
    if not first:
        return max(0, size - int(last)), size
    if last and int(last) < int(first):
        return None
    return int(first), min(int(last) + 1 if last else size, size)


def _content_range(start: int, stop: int, size: int) -> dict[str, str]:
    return {"Content-Range": f"bytes {start}-{stop - 1}/{size}", **ACCEPT_RANGES}


def _beyond(size: int) -> Response:
    headers = {"Content-Range": f"bytes */{size}", **ACCEPT_RANGES}
    return Response("the range lies beyond the value\n", 416, headers, "text/plain")


def first_and_last(header: str | None) -> tuple[int, int] | None:
    """The first and the last byte of a Range header that names both; None for any other, which may be ignored."""
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or not (match.group(1) and match.group(2)):
        return None
    first, last = int(match.group(1)), int(match.group(2))
    return (first, last) if first <= last else None


def accepts_gzip(header: str | None) -> bool:
    """Whether an Accept-Encoding header allows gzip (RFC 9110, 12.5.3); without the header plain bytes are safe."""
    for part in header.lower().split(",") if header else ():
        if part.partition(";")[0].strip() in ("gzip", "*"):
            return _REFUSED.search(part) is None
    return False


async def gathered(pieces: AsyncIterator[bytes], media: str, headers: Mapping[str, str] | None = None) -> Response:
    """An answer made of pieces: whole if it is not large, so that its length is known and errors have a status."""
    held: list[bytes] = []
    size = 0
    async for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size > STREAMED_BYTES:
            return StreamingResponse(_coarser(held, pieces), media_type=media, headers=headers)
    return Response(b"".join(held), media_type=media, headers=dict(headers or {}))


async def in_pieces(starts: range, piece: Callable[[int], Awaitable[bytes]]) -> Response:
    """What `piece` makes of each start: one answer if there is but one, else a stream.

    The first is made before the answer begins, and with it comes nearly every reason to refuse.
    """
    first = await piece(starts.start)
    if len(starts) <= 1:
        return octets(first)

    async def pieces() -> AsyncIterator[bytes]:
        yield first
        for start in starts[1:]:
            yield await piece(start)

    return StreamingResponse(pieces(), media_type=OCTETS)


async def _coarser(held: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """What is held and the rest, small pieces joined: each one sent costs a turn of the event loop."""
    yield b"".join(held)
    held.clear()
    size = 0
    async for piece in rest:
        held.append(piece)
        size += len(piece)
        if size >= PIECE_BYTES:
            yield b"".join(held)
            held, size = [], 0
    yield b"".join(held)


async def gzipped(pieces: AsyncIterator[bytes], workers: Workers) -> AsyncIterator[bytes]:
    """A gzip stream of pieces."""
    stream = GzipStream()
    async for piece in pieces:
        yield await workers.run(stream.add, piece) if len(piece) > _WORTH_A_THREAD else stream.add(piece)
    yield stream.end()


#: Less than this is compressed sooner than a thread has taken it over.
_WORTH_A_THREAD = 16 << 10
