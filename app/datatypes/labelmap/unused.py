"""Numbers for what an edit makes: given as new beforehand, and looked at once more by the edit itself.

Numbers are given before an edit has its turn, and until then a client may have chosen the same one for a body
(`renumber`, a posted index) or have painted it; an administrator may have set the counter back among those in use.
"""

from __future__ import annotations

from collections.abc import Collection

from app.core.errors import Invalid
from app.datatypes.labelmap import counters, index
from app.datatypes.labelmap.forest import Forest
from app.versioning.datastore import Data
from app.versioning.mutations import Mutation
from app.versioning.snapshot import Reader

#: So many numbers in use are passed over; more of them in a row are only met if the counter was set back.
PASSED_OVER = 100


async def is_used(reader: Reader, forest: Forest, label: int) -> bool:
    """Whether a number is or was a body's or a supervoxel's."""
    if await forest.group_of(label) is not None or await forest.root_of(label) is not None:
        return True
    return await index.has_voxels(reader, label)


async def number(data: Data, mutation: Mutation, forest: Forest, given: int, named: Collection[int] = ()) -> int:
    """The number that was given, or the next one that is neither in use nor among those named; `Invalid` after many."""
    largest = await counters.max_label(mutation) or 0
    for _ in range(PASSED_OVER):
        if given not in named and (given > largest or not await is_used(mutation, forest, given)):
            return given
        given, _last = await counters.give(data, 1)
    raise Invalid(f"the numbers for new labels up to {given} are in use: set the next one beyond them")
