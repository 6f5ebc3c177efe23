"""What endpoints about many keys and values share: formats of bodies and answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from starlette.responses import Response

from app.core.errors import Invalid
from app.datatypes.values import Small, Value
from app.formats import keyvalues
from app.formats.keyvalues import Form, Span
from app.routes import answers
from app.routes.endpoint import Parameter
from app.routes.request import Request

FORMATS = [
    Parameter("json", "JSON: an object of keys and values; keys asked for are a JSON list", "flag", False),
    Parameter("tar", "a tar file; keys asked for are a JSON list", "flag", False),
    Parameter("jsontar", "the same as tar", "flag", False),
]
CHECK = Parameter("check", "refuse values that are not JSON", "flag", False)

ANSWER = "KeyValues, JSON or tar"


def form_of(request: Request) -> Form:
    """The form that a request asks for."""
    as_tar = request.query["tar"] or request.query["jsontar"]
    if request.query["json"] and as_tar:
        raise Invalid("json and tar exclude each other")
    return Form.TAR if as_tar else Form.JSON if request.query["json"] else Form.PROTOBUF


async def wanted(request: Request, *, numbers: bool = False) -> list[tuple[str, Span | None]]:
    """The keys that a request's body asks for, with `numbers` also as JSON integers."""
    as_json = form_of(request) is not Form.PROTOBUF
    return keyvalues.parse_keys(await request.body(), as_json=as_json, numbers=numbers)


async def pairs(request: Request) -> Sequence[tuple[str, bytes]]:
    """The keys and values that a request's body holds."""
    return keyvalues.parse_pairs(await request.body(), form_of(request))


async def packed(request: Request, items: AsyncIterator[tuple[str, Value]]) -> Response:
    """Keys and values in the form asked for, streamed if they are many or large."""
    form = form_of(request)

    async def pieces() -> AsyncIterator[bytes]:
        yield form.start
        is_first = True
        async for key, value in items:
            yield form.before(key, value.size, is_first)
            if isinstance(value, Small):
                yield value.content
            else:
                async for piece in value.part(0, value.size):
                    yield piece
            yield form.after(value.size)
            is_first = False
        yield form.end

    return await answers.gathered(pieces(), form.media)
