"""The catalog in Google Cloud Firestore, by the `google-cloud-firestore` package.

A document holds its content as JSON text, readable in the console and free of Firestore's limits on field names, nested
lists and unsigned integers. A commit is one batch in which every document carries a precondition (`exists` or
`last_update_time`): under contention that is a hundred times quicker than a read-write transaction.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, TypeVar

import orjson
from google.api_core import exceptions
from google.api_core.datetime_helpers import DatetimeWithNanoseconds
from google.cloud import firestore

from app.backends.catalog import NEW, Change, Document, Receipt
from app.core.errors import Conflict, StoreUnavailable

T = TypeVar("T")

#: A precondition was not met, and nothing was changed.
_LOST = (exceptions.AlreadyExists, exceptions.FailedPrecondition, exceptions.NotFound)
#: Nothing was changed because of others who were at it; the same commit may succeed a moment later.
_CONTENTION = exceptions.Aborted
#: Worth asking again; a commit that failed so may have been carried out.
_PASSING = (
    exceptions.ServerError,
    exceptions.Unknown,
    exceptions.Cancelled,
    exceptions.TooManyRequests,
    exceptions.RetryError,
)
#: How often contention is tried again before the caller hears of it.
ATTEMPTS = 12
#: How often a store that fails is asked, and not again once the time-out has passed since the first attempt.
FAILURES = 4


class FirestoreCatalog:
    """Documents below `root` (a document path) of a Firestore database."""

    def __init__(
        self, project: str, root: str = "dvid/cloud", database: str = "(default)", timeout_seconds: float = 10.0
    ) -> None:
        self._client = firestore.AsyncClient(project=project, database=database)
        self._root = root
        self._timeout = timeout_seconds

    async def counters_token(self) -> bytes | None:
        """Nothing: it would cost a request."""
        return None

    def alone(self, path: str) -> AbstractAsyncContextManager[None]:
        """Nothing: Firestore's transactions wait for each other."""
        return nullcontext()

    async def token(self) -> bytes | None:
        """Firestore has no counter of all commits; looking costs a query."""
        return None

    async def get(self, paths: Sequence[str]) -> list[Document | None]:
        """The documents at these paths, all of one moment."""
        if not paths:
            return []
        names = {self._reference(path).path: path for path in paths}

        async def ask() -> dict[str, Document]:
            references = [self._reference(path) for path in names.values()]
            return {
                names[snapshot.reference.path]: _document(names[snapshot.reference.path], snapshot)
                async for snapshot in self._client.get_all(references, retry=None, timeout=self._timeout)
                if snapshot.exists
            }

        found = await self._patiently(ask)
        return [found.get(path) for path in paths]

    async def list(self, collection: str) -> list[Document]:
        """All documents directly in a collection."""
        query = self._client.collection("/".join([self._root, *map(_escape, collection.split("/"))]))

        async def ask() -> list[Document]:
            return [
                _document(f"{collection}/{_unescape(snapshot.id)}", snapshot)
                async for snapshot in query.stream(retry=None, timeout=self._timeout)
            ]

        return sorted(await self._patiently(ask), key=lambda document: document.name)

    async def commit(self, changes: Sequence[Change]) -> Receipt:
        """Apply all changes, or none, in one batch."""
        if not changes:
            return Receipt()
        nonce = uuid.uuid4().hex
        failures, begun = 0, time.monotonic()
        for attempt in range(ATTEMPTS):
            batch = self._client.batch()
            for change in changes:
                self._stage(batch, change, nonce)
            try:
                # The library's own retries would hide whether a refusal is about our own, earlier attempt.
                async with asyncio.timeout(self._timeout):
                    written = await batch.commit(retry=None, timeout=self._timeout)
                return Receipt(written[0].update_time.rfc3339() if changes[0].data is not None else None)
            except _LOST as error:
                if failures and await self._landed(changes, nonce):
                    return Receipt()
                raise Conflict(f"catalog: {error}") from error
            except _CONTENTION as error:
                if attempt == ATTEMPTS - 1:
                    raise Conflict(f"catalog: {error}") from error
            except (*_PASSING, TimeoutError) as error:
                failures += 1
                if await self._landed(changes, nonce):
                    return Receipt()
                if failures == FAILURES or time.monotonic() - begun > self._timeout:
                    raise StoreUnavailable(f"firestore: {error}") from error
            except exceptions.GoogleAPICallError as error:
                raise StoreUnavailable(f"firestore: {error}") from error
            await asyncio.sleep(random.uniform(0, 0.02 * 2 ** min(attempt, 6)))
        raise AssertionError("the last attempt raises")

    async def close(self) -> None:
        """Close the connection."""
        self._client.close()  # type: ignore[no-untyped-call]
        if (api := self._client._firestore_api_internal) is not None:
            await api.transport.close()

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """The answer to a question that may be asked again, within the time-out."""
        failures = 0
        try:
            async with asyncio.timeout(self._timeout):
                while True:
                    try:
                        return await ask()
                    except (*_PASSING, _CONTENTION):
                        failures += 1
                        if failures == FAILURES:
                            raise
                    await asyncio.sleep(random.uniform(0, 0.05 * 2**failures))
        except (exceptions.GoogleAPICallError, exceptions.RetryError, TimeoutError) as error:
            raise StoreUnavailable(f"firestore: {error or 'no answer in time'}") from error

    def _stage(self, batch: Any, change: Change, nonce: str) -> None:
        reference = self._reference(change.path)
        option = None
        if change.revision:
            written = DatetimeWithNanoseconds.from_rfc3339(change.revision)  # type: ignore[no-untyped-call]
            option = self._client.write_option(last_update_time=written)
        if change.data is None:
            batch.delete(reference, option=option)
            return
        fields = {"json": orjson.dumps(change.data).decode(), "nonce": nonce}
        if change.revision == NEW:
            batch.create(reference, fields)
        elif option is None:
            batch.set(reference, fields)
        else:
            batch.update(reference, fields, option=option)

    async def _landed(self, changes: Sequence[Change], nonce: str) -> bool:
        """Whether a commit whose answer was lost is there: its documents carry its nonce, or are gone."""
        kept = [change.path for change in changes if change.data is not None]
        references = [self._reference(path) for path in kept or [change.path for change in changes]]

        async def ask() -> bool:
            snapshots = [each async for each in self._client.get_all(references, retry=None, timeout=self._timeout)]
            if not kept:
                return not any(snapshot.exists for snapshot in snapshots)
            return any(snapshot.exists and snapshot.get("nonce") == nonce for snapshot in snapshots)

        try:
            return await self._patiently(ask)
        except StoreUnavailable:
            return False

    def _reference(self, path: str) -> Any:
        return self._client.document("/".join([self._root, *map(_escape, path.split("/"))]))


def _escape(part: str) -> str:
    """A document id: Firestore refuses `.`, `..` and `__x__`."""
    return f"~{part}" if part.startswith(("~", ".", "__")) else part


def _unescape(part: str) -> str:
    return part.removeprefix("~")


def _document(path: str, snapshot: Any) -> Document:
    return Document(path, orjson.loads(snapshot.get("json")), snapshot.update_time.rfc3339())
