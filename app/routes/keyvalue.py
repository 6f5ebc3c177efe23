"""Endpoints of keyvalue instances."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from typing import Any

import orjson
from google.protobuf.message import DecodeError
from starlette.responses import Response

from app.core.errors import Absent, Invalid
from app.datatypes import keyvalue
from app.formats.dvid_pb2 import Keys, KeyValues
from app.routes import answers
from app.routes.endpoint import Parameter, endpoint
from app.routes.request import Request

_FORMATS = [
    Parameter("json", "answer a JSON object", "flag", False),
    Parameter("tar", "answer a tar file", "flag", False),
    Parameter("jsontar", "the same as tar, with keys given as JSON", "flag", False),
    Parameter("check", "refuse values that are not JSON", "flag", False),
]


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


@endpoint("GET", "keyrangevalues/{first}/{last}", query=_FORMATS, media=answers.OCTETS, answer="KeyValues, JSON or tar")
async def get_keyrangevalues(request: Request) -> Response:
    """The keys of a range, both ends included, with their values."""
    snapshot = await request.head()
    keys = await keyvalue.key_range(snapshot, request.path["first"], request.path["last"])
    return _packed(request, list(zip(keys, await keyvalue.get_many(snapshot, keys), strict=True)))


@endpoint(
    "GET",
    "keyvalues",
    query=_FORMATS,
    media=answers.OCTETS,
    body="keys as JSON or Keys",
    answer="KeyValues, JSON or tar",
)
async def get_keyvalues(request: Request) -> Response:
    """The values of the keys asked, in the order asked; parts of values too."""
    snapshot = await request.head()
    wanted = await _wanted(request)
    values = await keyvalue.get_many(snapshot, [key for key, _ in wanted])
    cut: list[tuple[str, bytes | None]] = []
    for (key, span), value in zip(wanted, values, strict=True):
        if span is None or value is None:
            cut.append((key, value))
            continue
        if not 0 <= span[0] <= span[1] < len(value):
            raise Invalid(f"bytes {span[0]} to {span[1]} are not within the {len(value)} bytes of key {key!r}")
        cut.append((key, value[span[0] : span[1] + 1]))
    has_spans = any(span is not None for _, span in wanted)
    return _packed(request, cut, check=has_spans)


@endpoint("POST", "keyvalues", body="KeyValues (protobuf)")
async def post_keyvalues(request: Request) -> Response:
    """Write many values, all or none."""
    message = KeyValues()
    try:
        message.ParseFromString(await request.body())
    except DecodeError as error:
        raise Invalid(f"the body is not a KeyValues message: {error}") from None
    items = [(item.key, item.value) for item in message.kvs]
    await keyvalue.put(request.data, items, request.user, request.app, by_admin=may_write_locked(request))
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
    value = await keyvalue.get(await request.head(), key)
    if value is None:
        raise Absent(f'Key "{keyvalue.shown(key)}" not found')
    header = request.header(b"range")
    start, end = request.query["byte_start"], request.query["byte_end"]
    if start is None and end is None:
        return answers.ranged(value, header)
    if start is None or end is None or header is not None:
        raise Invalid("give byte_start together with byte_end, and no Range header with them")
    if not start <= end < len(value):
        raise Invalid(f"bytes {start} to {end} are not within the {len(value)} bytes of the value")
    return answers.octets(value[start : end + 1], answers.ACCEPT_RANGES)


@endpoint("POST", "key/{key}", body="the value")
async def post_key(request: Request) -> Response:
    """Write the value of a key."""
    item = (request.path["key"], await request.body())
    await keyvalue.put(request.data, [item], request.user, request.app, by_admin=may_write_locked(request))
    return answers.empty()


@endpoint("DELETE", "key/{key}")
async def delete_key(request: Request) -> Response:
    """Remove a key, whether it is there or not."""
    key = request.path["key"]
    await keyvalue.delete(request.data, key, request.user, request.app, by_admin=may_write_locked(request))
    return answers.empty()


def may_write_locked(request: Request) -> bool:
    """Whether this request may write to a locked version."""
    return request.is_admin or request.service.settings.full_write


async def _wanted(request: Request) -> list[tuple[str, tuple[int, int] | None]]:
    """The keys asked for, each with the first and last byte if only a part is wanted."""
    body = await request.body()
    if not (request.query["json"] or request.query["tar"] or request.query["jsontar"]):
        message = Keys()
        try:
            message.ParseFromString(body)
        except DecodeError as error:
            raise Invalid(f"the body is not a Keys message: {error}") from None
        spans = [(item.key, (item.byte_start, item.byte_end)) for item in message.key_ranges]
        return [*((key, None) for key in message.keys), *spans]
    try:
        listed: Any = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Invalid(f"the body is not JSON: {error}") from None
    if not isinstance(listed, list):
        raise Invalid("the body must be a JSON list of keys")
    if all(isinstance(item, str) for item in listed):
        return [(item, None) for item in listed]
    wanted: list[tuple[str, tuple[int, int] | None]] = []
    for item in listed:
        key = item.get("key") if isinstance(item, dict) else None
        span: Any = (item.get("byte_start"), item.get("byte_end")) if isinstance(item, dict) else None
        if not isinstance(key, str) or not (span == (None, None) or all(type(value) is int for value in span or ())):
            raise Invalid("the body must be a list of keys, or a list of objects with key, byte_start and byte_end")
        wanted.append((key, None if span == (None, None) else span))
    return wanted


def _packed(request: Request, items: Sequence[tuple[str, bytes | None]], *, check: bool = False) -> Response:
    """Keys and values in the form asked for. JSON embeds values as they are, as clients store JSON."""
    as_tar = request.query["tar"] or request.query["jsontar"]
    if request.query["json"] and as_tar:
        raise Invalid("json and tar exclude each other")
    if as_tar:
        return Response(_tar(items), media_type="application/tar")
    if request.query["json"]:
        parts = []
        for key, value in items:
            if value and (check or request.query["check"]):
                try:
                    orjson.loads(value)
                except orjson.JSONDecodeError as error:
                    raise Invalid(f"the value of key {keyvalue.shown(key)!r} is not JSON: {error}") from None
            parts.append(orjson.dumps(keyvalue.shown(key)) + b":" + (value or b"{}"))
        return Response(b"{" + b",".join(parts) + b"}", media_type="application/json")
    message = KeyValues()
    for key, value in items:
        message.kvs.add(key=keyvalue.shown(key), value=value or b"")
    return answers.octets(message.SerializeToString())


def _tar(items: Sequence[tuple[str, bytes | None]]) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for key, value in items:
            member = tarfile.TarInfo(keyvalue.shown(key))
            member.size, member.mode = len(value or b""), 0o755
            tar.addfile(member, io.BytesIO(value or b""))
    return archive.getvalue()
