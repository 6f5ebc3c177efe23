"""Answers that many endpoints give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.responses import Response

OCTETS = "application/octet-stream"


def json(value: Any) -> Response:
    """A JSON answer."""
    return Response(orjson.dumps(value), media_type="application/json")


def spaced_json(text: str) -> Response:
    """JSON whose spelling clients compare."""
    return Response(text, media_type="application/json")


def octets(body: bytes | memoryview, headers: Mapping[str, str] | None = None) -> Response:
    """Plain bytes."""
    return Response(body, media_type=OCTETS, headers=dict(headers) if headers else None)


def text(body: str, status: int = 200) -> Response:
    """Plain text."""
    return Response(body, status_code=status, headers={"Content-Type": "text/plain"})


def empty() -> Response:
    """What a successful write answers."""
    return Response(b"")
