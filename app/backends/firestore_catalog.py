"""The catalog in Google Cloud Firestore, by the `google-cloud-firestore` package.

A document holds its content as JSON text, readable in the console and free of Firestore's limits on field names, nested
lists and unsigned integers. A commit is one batch in which every document carries a precondition (`exists` or
`last_update_time`): under contention that is a hundred times quicker than a read-write transaction.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import orjson
from google.api_core import exceptions
from google.api_core.datetime_helpers import DatetimeWithNanoseconds
from google.cloud import firestore

from app.backends.catalog import NEW, Change, Document
from app.core.errors import Conflict, StoreUnavailable

#: What the loser of a race gets; `Conflict` is the parent of AlreadyExists and Aborted.
_LOST = (exceptions.Conflict, exceptions.FailedPrecondition, exceptions.NotFound)


class FirestoreCatalog:
    """Documents below `root` (a document path) of a Firestore database."""

    def __init__(
        self, project: str, root: str = "dvid/cloud", database: str = "(default)", timeout_seconds: float = 10.0
    ) -> None:
        self._client = firestore.AsyncClient(project=project, database=database)
        self._root = root
        self._timeout = timeout_seconds

    async def token(self) -> bytes | None:
        """Firestore has no counter of all commits; looking costs a query."""
        return None

    async def get(self, paths: Sequence[str]) -> list[Document | None]:
        """The documents at these paths, all of one moment."""
        if not paths:
            return []
        names = {self._reference(path).path: path for path in paths}
        found: dict[str, Document] = {}
        try:
            references = [self._reference(path) for path in names.values()]
            async for snapshot in self._client.get_all(references, timeout=self._timeout):
                if snapshot.exists:
                    path = names[snapshot.reference.path]
                    found[path] = _document(path, snapshot)
        except exceptions.GoogleAPICallError as error:
            raise StoreUnavailable(f"firestore: {error}") from error
        return [found.get(path) for path in paths]

    async def list(self, collection: str) -> list[Document]:
        """All documents directly in a collection."""
        query = self._client.collection("/".join([self._root, *map(_escape, collection.split("/"))]))
        try:
            found = [
                _document(f"{collection}/{_unescape(snapshot.id)}", snapshot)
                async for snapshot in query.stream(timeout=self._timeout)
            ]
        except exceptions.GoogleAPICallError as error:
            raise StoreUnavailable(f"firestore: {error}") from error
        return sorted(found, key=lambda document: document.name)

    async def commit(self, changes: Sequence[Change]) -> None:
        """Apply all changes, or none, in one batch."""
        nonce = uuid.uuid4().hex
        batch = self._client.batch()
        for change in changes:
            self._stage(batch, change, nonce)
        try:
            await batch.commit(timeout=self._timeout)
        except exceptions.GoogleAPICallError as error:
            if await self._landed(changes, nonce):
                return  # the reply was lost, and a repeated attempt met our own documents
            if isinstance(error, _LOST):
                raise Conflict(f"catalog: {error}") from error
            raise StoreUnavailable(f"firestore: {error}") from error

    async def close(self) -> None:
        """Close the connection."""
        self._client.close()  # type: ignore[no-untyped-call]

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
        """Whether a commit of ours is there: its documents carry its nonce."""
        kept = [change.path for change in changes if change.data is not None]
        try:
            snapshot = await self._reference(kept[0]).get(timeout=self._timeout) if kept else None
        except exceptions.GoogleAPICallError:
            return False
        return bool(snapshot is not None and snapshot.exists and snapshot.get("nonce") == nonce)

    def _reference(self, path: str) -> Any:
        return self._client.document("/".join([self._root, *map(_escape, path.split("/"))]))


def _escape(part: str) -> str:
    """A document id: Firestore refuses `.`, `..` and `__x__`."""
    return f"~{part}" if part.startswith(("~", ".", "__")) else part


def _unescape(part: str) -> str:
    return part.removeprefix("~")


def _document(path: str, snapshot: Any) -> Document:
    return Document(path, orjson.loads(snapshot.get("json")), snapshot.update_time.rfc3339())
