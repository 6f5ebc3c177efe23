"""Operations on repos, told in the order in which they took effect.

Each is a document of the catalog, `repos/{root}/operations/{number}`, written in the commit that does it. The repo's
own document, which every such commit replaces, has the last number: there are no gaps, and nothing is told that was not
done.

Fields are those of DVID's messages (`newinstance`, `nodenote`, `nodelog`, `commit`, `newversion`, `branch`, `tag`) and,
for what DVID tells nobody, of our own: `newrepo`, `merge` (of versions), `renameinstance`, `deleteinstance`,
`makemaster`, `hidebranch`. A repo that is removed takes its operations with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from app.backends.catalog import Catalog, Change

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Operation:
    """What was done, as a message says it, and when."""

    number: int
    fields: Fields
    time: datetime


def changes(root: str, last: int, told: Sequence[Fields]) -> list[Change]:
    """The documents of operations that come after the `last` one; the repo's document guards them."""
    time = datetime.now(UTC).isoformat()
    return [
        Change(_path(root, number), {"time": time, "fields": fields}) for number, fields in enumerate(told, last + 1)
    ]


async def numbered(catalog: Catalog, root: str, first: int, last: int) -> list[Operation]:
    """The operations from one number to another, those included."""
    documents = await catalog.get([_path(root, number) for number in range(first, last + 1)])
    return [
        Operation(number, document.data["fields"], datetime.fromisoformat(document.data["time"]))
        for number, document in enumerate(documents, first)
        if document is not None
    ]


def _path(root: str, number: int) -> str:
    return f"repos/{root}/operations/{number}"
