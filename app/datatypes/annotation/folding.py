"""What was posted goes into its blocks, when much waits: some blocks in each transaction, posts may come between."""

from __future__ import annotations

from collections.abc import Sequence

from app.core.geometry import Triple
from app.datatypes.annotation import deltas, storing
from app.versioning.datastore import Data
from app.versioning.log import Record
from app.versioning.mutations import Mutation

#: So much may wait: see `deltas.add`. Some 40 posts of a thousand synapses.
MOST_WEIGHT = 1 << 16
#: Blocks in one transaction.
TOGETHER = 128


def is_due(before: int, weight: int) -> bool:
    """Whether a post by which the weight of what waits grew makes it too much; a fold that failed is tried again."""
    return weight // MOST_WEIGHT > before // MOST_WEIGHT


async def fold(data: Data, *, by_admin: bool = False) -> None:
    """Write what waits now into its blocks."""
    snapshot = await data.head(fresh=True)
    first, end, _ = await deltas.mark(snapshot)
    places = sorted(set((await deltas.load(snapshot)).places()))
    empty: list[Triple] = []
    for start in range(0, len(places), TOGETHER):
        empty += await _fold_some(data, first, places[start : start + TOGETHER], by_admin)

    async def end_it(mutation: Mutation) -> None:
        if (await deltas.mark(mutation))[0] == first:
            await deltas.remove(mutation, end)
            await storing.forget(mutation, empty)
        mutation.record(Record("fold-elements", data.home.uuid))

    await data.mutate(end_it, by_admin=by_admin)


async def _fold_some(data: Data, first: int, zyxs: Sequence[Triple], by_admin: bool) -> list[Triple]:
    async def change(mutation: Mutation) -> list[Triple]:
        mutation.record(Record("fold-elements", data.home.uuid))
        # Somebody else may have been quicker.
        return await storing.fold(mutation, zyxs) if (await deltas.mark(mutation))[0] == first else []

    return await data.mutate(change, by_admin=by_admin)
