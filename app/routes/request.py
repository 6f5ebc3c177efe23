"""A request as handlers see it: path and query already parsed, version and data found, body read within limits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

import orjson
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from app.core.errors import Invalid, TooLarge
from app.datatypes.author import Author
from app.routes.authority import Right
from app.versioning.datastore import Data
from app.versioning.graph import Repo, Version
from app.versioning.snapshot import Snapshot

if TYPE_CHECKING:
    from app.routes.service import Service


class Request:
    """One HTTP request on its way through a handler."""

    __slots__ = (
        "_data",
        "_receive",
        "_version",
        "is_admin",
        "method",
        "others",
        "path",
        "query",
        "raw_query",
        "repo",
        "rights",
        "scope",
        "service",
        "snapshot",
    )

    def __init__(self, scope: Scope, receive: Receive, service: Service, raw_query: dict[str, str]) -> None:
        self.scope = scope
        self._receive = receive
        self.service = service
        self.method: str = scope["method"]
        self.path: Mapping[str, str] = {}
        self.raw_query = raw_query
        self.query: Mapping[str, Any] = {}
        self.is_admin = False
        self.rights = Right.ALL
        self.repo: Repo | None = None
        self._version: Version | None = None
        self._data: Data | None = None
        #: The snapshot that the answer was made of: the router names its generation in the ETag.
        self.snapshot: Snapshot | None = None
        #: Snapshots of further instances that the answer was made of; they are named as well.
        self.others: list[tuple[Data, Snapshot]] = []

    @property
    def data(self) -> Data:
        """The instance at the version of the URL."""
        assert self._data is not None
        return self._data

    @property
    def version(self) -> Version:
        """The version of the URL."""
        assert self._version is not None
        return self._version

    def bind(self, repo: Repo, version: Version, data: Data | None = None) -> None:
        """Say what the URL named."""
        self.repo, self._version, self._data = repo, version, data

    @property
    def user(self) -> str:
        """Who says to have sent this (`u`); never verified."""
        return self.raw_query.get("u", "")

    @property
    def app(self) -> str:
        """The client's name (`app`)."""
        return self.raw_query.get("app", "")

    @property
    def may_write_locked(self) -> bool:
        """Whether this request may write to a locked version."""
        return self.is_admin or self.service.settings.full_write

    @property
    def author(self) -> Author:
        """Who writes, if this writes."""
        return Author(self.user, self.app, self.may_write_locked)

    def header(self, name: bytes) -> str | None:
        """A header by its lower-case name."""
        value = self.raw_header(name)
        return None if value is None else value.decode("latin-1")

    def raw_header(self, name: bytes) -> bytes | None:
        """The bytes of a header by its lower-case name."""
        for key, value in self.scope["headers"]:
            if key == name:
                return bytes(value)
        return None

    async def head(self) -> Snapshot:
        """The snapshot that this request reads, all of it: the newest, or the one of `?generation=`."""
        if self.snapshot is None:
            self.snapshot = await self._at(self.data, 0)
        return self.snapshot

    async def head_of(self, other: Data) -> Snapshot:
        """The snapshot of another instance that this request reads too: the newest, or of `?generation=own-other`."""
        for data, snapshot in self.others:
            if data.instance is other.instance and data.home is other.home:
                return snapshot
        snapshot = await self._at(other, len(self.others) + 1)
        self.others.append((other, snapshot))
        return snapshot

    async def _at(self, data: Data, index: int) -> Snapshot:
        text = self.raw_query.get("generation")
        if text is None:
            return await data.head()
        generations = text.split("-")
        if not all(number.isascii() and number.isdigit() and len(number) < 19 for number in generations):
            raise Invalid(f"generation {text!r} is not a number, or several with a hyphen between")
        return await data.at(int(generations[index])) if index < len(generations) else await data.head()

    async def stream(self, received: int = 0) -> AsyncIterator[bytes]:
        """The body in pieces as they come, or what follows so many bytes of it."""
        is_more = True
        while is_more:
            piece, is_more = await self._piece(received)
            received += len(piece)
            if piece:
                yield piece

    async def _piece(self, received: int) -> tuple[bytes, bool]:
        """The next piece of the body, and whether there may be more."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect()
        piece = message.get("body", b"")
        limit = self.service.settings.max_body_bytes
        if received + len(piece) > limit:
            raise TooLarge(f"the body exceeds {limit} bytes")
        return piece, message.get("more_body", False)

    def check_length(self) -> None:
        """Refuse a body that is announced to be too large before any of it is read."""
        length = self.header(b"content-length")
        if length is not None and length.isdigit() and int(length) > self.service.settings.max_body_bytes:
            raise TooLarge(f"the body exceeds {self.service.settings.max_body_bytes} bytes")

    async def body(self) -> bytes:
        """The whole body."""
        self.check_length()
        piece, is_more = await self._piece(0)
        if not is_more:
            return piece
        return b"".join([piece, *[more async for more in self.stream(len(piece))]])

    async def json(self) -> Any:
        """The body as JSON; None if it is empty."""
        body = await self.body()
        if not body.strip():
            return None
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise Invalid(f"the body is not JSON: {error}") from None

    async def json_object(self) -> dict[str, Any]:
        """The body as a JSON object; an empty body or `null` is an empty one."""
        value = await self.json()
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise Invalid("the body must be a JSON object")
        return value
