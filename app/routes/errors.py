"""Which status each error of ours has; the only table of that kind."""

from __future__ import annotations

from starlette.responses import Response

from app.core import errors

STATUS: dict[type[errors.DvidError], int] = {
    errors.Invalid: 400,
    errors.NotAllowed: 400,
    errors.NeedsAdmin: 401,
    errors.NeedsToken: 401,
    errors.NoRight: 403,
    errors.Unknown: 400,
    errors.Absent: 404,
    errors.Conflict: 503,
    errors.TooLarge: 413,
    errors.Busy: 503,
    errors.StoreUnavailable: 503,
}


def answer(error: errors.DvidError, path: str) -> Response:
    """The answer to a refused or failed request: the reason as plain text, with the path as DVID adds it."""
    status = STATUS[type(error)]
    headers = {"Retry-After": "1"} if status == 503 else None
    if isinstance(error, errors.NeedsToken):
        headers = {"WWW-Authenticate": "Bearer"}
    # Keys that are not UTF-8 come as surrogates, and may be part of the reason.
    text = f"{error} ({path}).\n".encode("utf-8", "backslashreplace")
    return Response(text, status, headers, "text/plain")
