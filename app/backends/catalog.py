"""The catalog: small documents that say which repos, versions and instances exist, and hand out ids.

Two implementations pass the contract of `tests/contracts/test_catalog.py`: `BucketCatalog` (a tree in the object
store, no service needed) and `FirestoreCatalog`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

#: The revision of a document that must not exist yet.
NEW = ""


@dataclass(frozen=True)
class Document:
    """A document: its path (`collection/id` or `collection/id/collection/id`), content and revision."""

    path: str
    data: Mapping[str, Any]
    revision: str

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rsplit("/", 1)[1]


@dataclass(frozen=True)
class Change:
    """A document's new content (None deletes it), and the revision it replaces.

    `revision` is `NEW` for a document that must not exist, or None to replace whatever is there.
    """

    path: str
    data: Mapping[str, Any] | None
    revision: str | None = None


@dataclass(frozen=True)
class Receipt:
    """What is known of a commit: the new revision of its first document, and the tokens before and after it where
    nobody else can have committed in between; None for what is not known."""

    revision: str | None = None
    before: bytes | None = None
    after: bytes | None = None


class Catalog(Protocol):
    """Documents with revisions, changed together or not at all.

    Path parts are non-empty and without slashes. Contents are JSON values (64-bit integers included) of well below
    1 MiB. A document is never found half written, and one that was acknowledged is found by everybody afterwards.
    """

    async def get(self, paths: Sequence[str]) -> list[Document | None]:
        """The documents at these paths as they are now, None where there is none."""

    async def list(self, collection: str) -> list[Document]:
        """All documents directly in a collection, in the order of their names."""

    async def commit(self, changes: Sequence[Change]) -> Receipt:
        """Apply all changes, or none: `Conflict` when a revision is not the one given.

        When the answer of the store was lost, the outcome is looked up before this returns.
        """

    async def token(self) -> bytes | None:
        """Bytes that change with every commit by anybody, but perhaps those of counters.

        None where finding out costs as much as a `list`.
        """

    async def counters_token(self) -> bytes | None:
        """Bytes that change with every change of a counter by anybody; None where that cannot be told cheaply."""

    def alone(self, path: str) -> AbstractAsyncContextManager[None]:
        """Keep others from changing a counter meanwhile, where that is cheap: it spares `Conflict`, and only that."""

    async def close(self) -> None:
        """Let go of connections."""
