"""One description for each endpoint: it drives routing, parsing, refusals, the help pages and the OpenAPI document.

    @endpoint("GET", "key/{key}", answer="the value", media="application/octet-stream")
    async def get_key(request: Request) -> Response:
        '''The value of a key.'''

Paths of instance endpoints are relative to `/api/node/{version}/{data}/`; others begin with a slash. A path part
`{name}` takes one segment, `{name?}` at the end may be missing, `{name*}` at the end takes all segments that are left
(also none), with slashes between. The docstring is the help.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal

from starlette.responses import Response

from app.core.errors import Invalid
from app.routes.request import Request

Handler = Callable[[Request], Awaitable[Response]]
Kind = Literal["text", "integer", "flag", "choice"]


@dataclass(frozen=True)
class Parameter:
    """A query parameter. A flag is on when its value is one of `true`, `on`, `1`."""

    name: str
    help: str
    kind: Kind = "text"
    default: Any = ""
    choices: Sequence[str] = ()
    least: int | None = None
    most: int | None = None

    def parse(self, text: str | None) -> Any:
        """The value of a given parameter, or its default."""
        if text is None:
            return self.default
        if self.kind == "integer":
            try:
                value = int(text)
            except ValueError:
                raise Invalid(f"query parameter {self.name}={text!r} is not an integer") from None
            if (self.least is not None and value < self.least) or (self.most is not None and value > self.most):
                raise Invalid(f"query parameter {self.name}={value} is out of range")
            return value
        if self.kind == "flag":
            return text.lower() in ("true", "on", "1")
        if self.kind == "choice" and text not in self.choices:
            raise Invalid(f"query parameter {self.name}={text!r} must be one of {', '.join(self.choices)}")
        return text


@dataclass(frozen=True)
class Endpoint:
    """What one method of one path does, and what it asks for."""

    method: str
    path: str
    handler: Handler
    query: Sequence[Parameter]
    body: str
    answer: str
    media: str
    writes: bool
    admin: bool
    #: Whether what it writes belongs to the version, so that the lock of a version refuses it.
    versioned: bool
    #: Whether `?throttle=on` counts; a function decides by the path's parts.
    throttled: bool | Callable[[Mapping[str, str]], bool]
    #: POST on the same path does the same: for clients whose load balancer drops the body of a GET.
    twin: bool

    @cached_property
    def defaults(self) -> Mapping[str, Any]:
        """The parameters of a request that gives none."""
        return MappingProxyType(self.parse({}))

    def parse(self, given: Mapping[str, str]) -> Mapping[str, Any]:
        """The parameters of a request, by name; `Invalid` if one is not what it should be."""
        return {parameter.name: parameter.parse(given.get(parameter.name)) for parameter in self.query}

    @property
    def help(self) -> str:
        """What the endpoint does, in words."""
        return (self.handler.__doc__ or "").strip()

    def is_throttled(self, path: Mapping[str, str]) -> bool:
        """Whether this request is one of those of which only a few run at once, if it asks for that."""
        return self.throttled(path) if callable(self.throttled) else self.throttled


def endpoint(
    method: str,
    path: str,
    *,
    query: Sequence[Parameter] = (),
    body: str = "",
    answer: str = "",
    media: str = "application/json",
    writes: bool | None = None,
    admin: bool = False,
    versioned: bool = True,
    throttled: bool | Callable[[Mapping[str, str]], bool] = False,
    twin: bool = False,
) -> Callable[[Handler], Handler]:
    """Describe a handler. Several descriptions may stand on one handler."""

    def describe(handler: Handler) -> Handler:
        described = Endpoint(
            method,
            path,
            handler,
            tuple(query),
            body,
            answer,
            media,
            method in ("POST", "PUT", "DELETE") if writes is None else writes,
            admin,
            versioned,
            throttled,
            twin,
        )
        handler.endpoints = [*getattr(handler, "endpoints", []), described]  # type: ignore[attr-defined]
        return handler

    return describe


def endpoints_of(*modules: Any) -> list[Endpoint]:
    """All endpoints described in modules, in the order of their source."""
    found: list[Endpoint] = []
    for module in modules:
        for value in vars(module).values():
            if getattr(value, "__module__", None) == module.__name__:
                found += getattr(value, "endpoints", [])
    return found
