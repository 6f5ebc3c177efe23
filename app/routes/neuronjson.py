"""Endpoints of neuronjson instances."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from starlette.responses import Response

from app.core.errors import Absent, Invalid
from app.datatypes.neuronjson import queries, reading, writing
from app.datatypes.neuronjson.documents import Show
from app.datatypes.neuronjson.reading import View
from app.datatypes.neuronjson.writing import METADATA
from app.datatypes.values import Small
from app.routes import answers, keyvalues
from app.routes.endpoint import Parameter, endpoint
from app.routes.request import Request

JSON = "application/json"
_VIEW = [
    Parameter("show", "which companions: none, " + ", ".join(each.value for each in list(Show)[1:]), default="none"),
    Parameter("fields", "names of fields, commas between; all by default. bodyid is always there"),
]
_WRITE = [
    Parameter("replace", "drop the fields that are not given", "flag", False),
    Parameter("conditional", "names of fields that are written only where they are not there yet, commas between"),
    Parameter("conditionals", "the same"),
]
_IN_GZIP = {"Content-Encoding": "gzip"}
#: Documents that are also reached like annotations, as they were before keyvalue instances became neuronjson.
_OLD_KEYS = METADATA[1:]


def _view(request: Request) -> View:
    return reading.view_of(request.query["show"], request.query["fields"])


async def _listed(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Pieces as a JSON list."""
    yield b"["
    between = b""
    async for piece in pieces:
        yield between + piece
        between = b","
    yield b"]"


@endpoint("GET", "all", query=_VIEW, answer="a list of annotations")
async def get_all(request: Request) -> Response:
    """All annotations, in order of their bodies, but for those of which only the body id would be shown."""
    pieces = _listed(reading.everything(request.data, await request.head(), _view(request)))
    if not answers.accepts_gzip(request.header(b"accept-encoding")):
        return await answers.gathered(pieces, JSON, {"Vary": "Accept-Encoding"})
    pieces = answers.gzipped(pieces, request.service.workers)
    return await answers.gathered(pieces, JSON, {"Vary": "Accept-Encoding", **_IN_GZIP})


@endpoint("GET", "keys", answer="a list of strings")
async def get_keys(request: Request) -> Response:
    """The bodies that have an annotation, in order."""
    found = await reading.pages(request.data, await request.head())
    return answers.json([str(body) for page in found.pages for body in page.bodies])


@endpoint("GET", "keyrange/{first}/{last}", answer="a list of strings")
async def get_keyrange(request: Request) -> Response:
    """The annotated bodies of a range, both ends included; words stand for what comes before or after all numbers."""
    first, last = reading.limits(request.path["first"], request.path["last"])
    found = await reading.pages(request.data, await request.head())
    return answers.json([str(body) for body in found.bodies(first, last)])


@endpoint(
    "GET",
    "keyrangevalues/{first}/{last}",
    query=[*keyvalues.FORMATS, keyvalues.CHECK, *_VIEW],
    media=answers.OCTETS,
    answer=keyvalues.ANSWER,
)
async def get_keyrangevalues(request: Request) -> Response:
    """The annotations of a range of bodies, both ends included."""
    first, last = reading.limits(request.path["first"], request.path["last"])
    snapshot, view = await request.head(), _view(request)

    async def items() -> AsyncIterator[tuple[str, Small]]:
        async for body, stored in reading.ranged(request.data, snapshot, first, last):
            yield str(body), Small(view.of(stored))

    return await keyvalues.packed(request, items())


@endpoint(
    "GET",
    "keyvalues",
    query=[*keyvalues.FORMATS, keyvalues.CHECK, *_VIEW],
    media=answers.OCTETS,
    body="bodies as JSON or Keys",
    answer=keyvalues.ANSWER,
)
async def get_keyvalues(request: Request) -> Response:
    """The annotations of the bodies asked, in the order asked; JSON leaves out those that are not there."""
    snapshot, view = await request.head(), _view(request)
    bodies = [writing.body_of(key) for key, _ in await keyvalues.wanted(request, numbers=True)]
    found = await reading.get_many(snapshot, bodies)

    async def items() -> AsyncIterator[tuple[str, Small]]:
        for body, stored in zip(bodies, found, strict=True):
            if stored is not None or not request.query["json"]:
                yield str(body), Small(b"" if stored is None else view.of(stored))

    return await keyvalues.packed(request, items())


@endpoint("POST", "keyvalues", query=[*keyvalues.FORMATS, *_WRITE], body="KeyValues, or JSON or tar if asked for")
async def post_keyvalues(request: Request) -> Response:
    """Write many annotations, all or none, each as if it were written alone."""
    await _put(request, await keyvalues.pairs(request), writing.INGEST)
    return answers.empty()


@endpoint("GET", "key/{key}", query=_VIEW, answer="the annotation")
async def get_key(request: Request) -> Response:
    """The annotation of a body."""
    key = request.path["key"]
    if key in _OLD_KEYS:
        return await _metadata(request, key)
    stored = await reading.get(await request.head(), writing.body_of(key))
    if stored is None:
        raise Absent(f'Key "{key}" not found')
    return answers.Whole(_view(request).of(stored), b"application/json")


@endpoint("POST", "key/{key}", query=_WRITE, body="the annotation")
async def post_key(request: Request) -> Response:
    """Write fields of an annotation: those not given stay, null removes one.

    A changed field gets who (u, which must be given) and when as FIELD_user and FIELD_time, unless these are given.
    """
    key, body = request.path["key"], await request.body()
    if key in _OLD_KEYS:
        await writing.put_metadata(request.data, key, body, request.author)
    else:
        await _put(request, [(key, body)], writing.POST)
    return answers.empty()


@endpoint("DELETE", "key/{key}")
async def delete_key(request: Request) -> Response:
    """Remove an annotation, whether it is there or not."""
    key = request.path["key"]
    if key in _OLD_KEYS:
        await writing.put_metadata(request.data, key, None, request.author)
    else:
        await writing.delete(request.data, writing.body_of(key), request.author)
    return answers.empty()


@endpoint("GET", "fields", query=[Parameter("counts", "how many have each", "flag", False)], answer="a list of names")
async def get_fields(request: Request) -> Response:
    """The fields that annotations have, companions included; with counts, an object."""
    counts = await reading.field_counts(request.data, await request.head())
    return answers.json(counts if request.query["counts"] else list(counts))


@endpoint("GET", "fieldtimes", answer="an object of times")
async def get_fieldtimes(request: Request) -> Response:
    """When each field was changed last, in whichever annotation."""
    return answers.json(await reading.field_times(request.data, await request.head()))


@endpoint(
    "GET",
    "query",
    query=[*_VIEW, Parameter("onlyid", "answer body ids instead of annotations", "flag", False)],
    body="an object of fields and values, or a list of such objects",
    answer="a list of annotations or ids",
    twin=True,
)
async def get_query(request: Request) -> Response:
    """The annotations that match: all fields of an object, and any object of a list.

    A value is a number, a string, true or false, a list of which any may match, "re/PATTERN" for a regular expression
    (RE2), or "exists/1" or "exists/0". A query for nothing but bodyid answers annotations in the order asked.
    """
    query = queries.parse(await request.body())
    found = reading.select(request.data, await request.head(), query, _view(request), request.query["onlyid"])
    return await answers.gathered(_listed(found), JSON)


@endpoint("GET", "json_schema", answer="a JSON schema")
@endpoint("GET", "schema", answer="JSON")
@endpoint("GET", "schema_batch", answer="JSON")
async def get_metadata(request: Request) -> Response:
    """A document about the annotations. They must fit json_schema when they are written."""
    return await _metadata(request, _last_part(request))


@endpoint("POST", "json_schema", body="a JSON schema")
@endpoint("POST", "schema", body="JSON")
@endpoint("POST", "schema_batch", body="JSON")
async def post_metadata(request: Request) -> Response:
    """Write a document about the annotations. Annotations written from now on must fit json_schema."""
    await writing.put_metadata(request.data, _last_part(request), await request.body(), request.author)
    return answers.empty()


@endpoint("DELETE", "json_schema")
@endpoint("DELETE", "schema")
@endpoint("DELETE", "schema_batch")
async def delete_metadata(request: Request) -> Response:
    """Remove a document about the annotations, whether it is there or not."""
    await writing.put_metadata(request.data, _last_part(request), None, request.author)
    return answers.empty()


def _last_part(request: Request) -> str:
    return str(request.scope["path"]).rstrip("/").rpartition("/")[2]


async def _metadata(request: Request, name: str) -> Response:
    value = await reading.metadata(await request.head(), name)
    if value is None:
        raise Absent(f"there is no {name}")
    return Response(value, media_type=JSON)


async def _put(request: Request, pairs: Sequence[tuple[str, bytes]], action: str) -> None:
    if not request.user:
        raise Invalid("annotations are written in somebody's name: give the user as u")
    names = request.query["conditional"] or request.query["conditionals"]
    await writing.put(
        request.data,
        [writing.posted(key, value) for key, value in pairs],
        request.author,
        action=action,
        conditionals=names.split(",") if names else (),
        replace=request.query["replace"],
    )
