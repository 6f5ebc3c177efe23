"""Endpoints of keyvalue instances."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from starlette.responses import Response

from app.core.errors import Absent, Invalid
from app.datatypes import keyvalue, values
from app.datatypes.values import PIECE_BYTES, Large, Small, Value
from app.formats.keyvalues import Span, check_json
from app.routes import answers, keyvalues
from app.routes.endpoint import Parameter, endpoint
from app.routes.request import Request
from app.versioning.snapshot import Snapshot


@endpoint("GET", "keys", answer="a list of keys")
async def get_keys(request: Request) -> Response:
    """All keys, in the order of their bytes."""
    keys = await keyvalue.key_range(await request.head())
    return answers.json([keyvalue.shown(key) for key in keys])


@endpoint("GET", "keyrange/{first}/{last}", answer="a list of keys")
async def get_keyrange(request: Request) -> Response:
    """The keys of a range, both ends included."""
    keys = await keyvalue.key_range(await request.head(), request.path["first"], request.path["last"])
    return answers.json([keyvalue.shown(key) for key in keys])


@endpoint(
    "GET",
    "keyrangevalues/{first}/{last}",
    query=[*keyvalues.FORMATS, keyvalues.CHECK],
    media=answers.OCTETS,
    answer=keyvalues.ANSWER,
)
async def get_keyrangevalues(request: Request) -> Response:
    """The keys of a range, both ends included, with their values."""
    snapshot = await request.head()
    keys = await keyvalue.key_range(snapshot, request.path["first"], request.path["last"])
    return await keyvalues.packed(request, _items(request, snapshot, [(key, None) for key in keys]))


@endpoint(
    "GET",
    "keyvalues",
    query=[*keyvalues.FORMATS, keyvalues.CHECK],
    media=answers.OCTETS,
    body="keys as JSON or Keys",
    answer=keyvalues.ANSWER,
)
async def get_keyvalues(request: Request) -> Response:
    """The values of the keys asked, in the order asked; parts of values too."""
    snapshot = await request.head()
    return await keyvalues.packed(request, _items(request, snapshot, await keyvalues.wanted(request)))


@endpoint("POST", "keyvalues", query=keyvalues.FORMATS, body="KeyValues, or JSON or tar if asked for")
async def post_keyvalues(request: Request) -> Response:
    """Write many values, all or none."""
    items = await keyvalues.pairs(request)
    await keyvalue.put(request.data, items, request.author)
    return answers.empty()


@endpoint(
    "GET",
    "key/{key}",
    query=[
        Parameter("byte_start", "first byte of the value to answer", "integer", None, least=0),
        Parameter("byte_end", "last byte of the value to answer", "integer", None, least=0),
    ],
    media=answers.OCTETS,
    answer="the value",
)
async def get_key(request: Request) -> Response:
    """The value of a key, or part of it: by HTTP Range, or by byte_start and byte_end (both included)."""
    key = request.path["key"]
    found = await keyvalue.get(await request.head(), key)
    if found is None:
        raise Absent(f'Key "{keyvalue.shown(key)}" not found')
    header = request.header(b"range")
    start, end = request.query["byte_start"], request.query["byte_end"]
    value: Value = found
    if start is not None or end is not None:
        if start is None or end is None or header is not None:
            raise Invalid("give byte_start together with byte_end, and no Range header with them")
        value = _cut(key, found, (start, end))
    if isinstance(value, Small):
        return answers.ranged(value.content, header)
    return answers.ranged_stream(value.size, header, nothing if request.method == "HEAD" else value.part)


@endpoint("POST", "key/{key}", body="the value")
async def post_key(request: Request) -> Response:
    """Write the value of a key. It may be of any size: a large one is written while it comes in."""
    key = request.path["key"]
    length = request.header(b"content-length")
    if length is not None and length.isdigit() and int(length) <= PIECE_BYTES:
        item = (key, await request.body())
        await keyvalue.put(request.data, [item], request.author)
    else:
        request.check_length()
        await keyvalue.put_stream(request.data, key, request.stream(), request.author)
    return answers.empty()


@endpoint("DELETE", "key/{key}")
async def delete_key(request: Request) -> Response:
    """Remove a key, whether it is there or not."""
    await keyvalue.delete(request.data, request.path["key"], request.author)
    return answers.empty()


async def _items(
    request: Request, snapshot: Snapshot, wanted: Sequence[tuple[str, Span | None]]
) -> AsyncIterator[tuple[str, Value]]:
    """The keys wanted with their values, or parts of them; an absent one is empty."""
    found = keyvalue.get_many(snapshot, [key for key, _ in wanted])
    for key, span in wanted:
        whole, shown = await anext(found), keyvalue.shown(key)
        if whole is None:
            yield shown, Small(b"")
            continue
        value = whole if span is None else _cut(key, whole, span)
        # A part of a value is JSON only by luck; what clients wrote as a whole is believed unless they ask.
        if request.query["json"] and value.size and (span is not None or request.query["check"]):
            check_json(shown, await values.whole(value))
        yield shown, value


def _cut(key: str, value: Small | Large, span: Span) -> Value:
    first, last = span
    if not 0 <= first <= last < value.size:
        raise Invalid(f"bytes {first} to {last} are not within the {value.size} bytes of key {keyvalue.shown(key)!r}")
    return values.cut(value, first, last + 1)


async def nothing(_first: int, _stop: int) -> AsyncIterator[bytes]:
    """The content of an answer to HEAD."""
    yield b""
