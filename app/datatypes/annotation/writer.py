"""Who writes elements, and how a write meets the labels that its elements lie in: one transaction with its record."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from app.core.geometry import Triple
from app.core.work import Workers
from app.datatypes.annotation import keys, labels, table
from app.datatypes.annotation.events import written
from app.datatypes.annotation.labels import Labels
from app.datatypes.annotation.table import U64, Rows
from app.datatypes.author import Author
from app.formats.element_json import I32, Element
from app.versioning.datastore import Data
from app.versioning.mutations import Mutation

#: A change, which is told the labels of now, and tells the blocks that it wrote if the log shall know.
Change = Callable[[Mutation, Labels | None], Awaitable[Sequence[Triple] | None]]


@dataclass(frozen=True)
class Writer:
    """Who writes to which instance, and whether nobody shall be sent a message about it."""

    data: Data
    author: Author
    is_silent: bool = False

    async def mutate(self, action: str, arguments: Mapping[str, Any], change: Change) -> None:
        """Run a change in one transaction with its record in the log."""
        data = self.data
        silent = {"silent": True} if self.is_silent else {}
        record = self.author.record(data, action, await data.mutation_id(), {**arguments, **silent})

        async def work(mutation: Mutation) -> None:
            if await mutation.get(keys.GRID) is None:
                mutation.put(keys.GRID, np.array(await labels.grid(data, mutation), "<i4").tobytes())
            places = await change(mutation, await labels.settle(mutation, data))
            told = {} if places is None else written(mutation.generation + 1, places)
            mutation.record(replace(record, arguments={**record.arguments, **told}))

        await data.mutate(work, by_admin=self.author.by_admin)


async def lookup(positions: I32, labels_now: Labels | None) -> U64:
    """The supervoxels at positions x, y, z; 0 without labels."""
    if labels_now is None:
        return np.zeros(len(positions), np.uint64)
    return await labels_now.supervoxels(positions.astype(np.int64))


@dataclass
class Prepared:
    """Rows and JSON of elements, looked up in labels before the transaction."""

    rows: Rows
    pieces: list[bytes]
    labels: Labels | None

    @staticmethod
    async def of(data: Data, elements: Sequence[Element], workers: Workers) -> Prepared:
        """The elements in the labels of now."""
        rows, pieces = await workers.run(table.prepare, elements)
        now = await labels.current(data)
        rows["supervoxel"] = await lookup(rows["position"], now)
        return Prepared(rows, pieces, now)

    async def confirm(self, now: Labels | None) -> None:
        """Look up supervoxels again if the labels have changed since they were looked up."""
        if (self.labels and self.labels.position) != (now and now.position):
            self.rows["supervoxel"] = await lookup(self.rows["position"], now)
            self.labels = now
