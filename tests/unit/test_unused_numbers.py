"""What an edit makes gets numbers of its own, also if a client has chosen the number that was given to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from app.core.errors import Invalid
from app.datatypes.author import Author
from app.datatypes.labelmap import counters, edits, index, splits, unused
from app.formats.sparse_volumes import I32
from app.versioning.datastore import Data
from tests.unit.test_verify import WORKERS, checked, filled, labels

#: Supervoxels that are bodies of their own in `filled`: one to edit, and one that gets the number first.
EDITED, OTHER = 12, 15


def one_of(label: int) -> I32:
    """Runs (x, y, z, length) of one voxel of a supervoxel."""
    z, y, x = (int(places[0]) for places in np.nonzero(labels() == label))
    return np.array([[x, y, z, 1]], np.int32)


async def cleave(data: Data) -> list[int]:
    await edits.merge(data, EDITED, [13], Author())
    return [(await edits.cleave(data, EDITED, [13], Author()))[0]]


async def split_body(data: Data) -> list[int]:
    return [(await splits.split_body(data, EDITED, one_of(EDITED), Author(), WORKERS))[0]]


async def split_supervoxel(data: Data) -> list[int]:
    done, _ = await splits.split_supervoxel(data, EDITED, one_of(EDITED), Author(), WORKERS)
    return [done.split, done.remain]


Edit = Callable[[Data], Awaitable[list[int]]]
EDITS: tuple[Edit, ...] = (cleave, split_body, split_supervoxel)


@pytest.mark.parametrize(
    ("edit", "which"), [(cleave, 0), (split_body, 0), (split_supervoxel, 0), (split_supervoxel, 1)]
)
async def test_a_number_is_taken_before_the_edit_has_its_turn(
    edit: Edit, which: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = await filled(str(tmp_path))
    size = await index.size(await data.head(), OTHER, False)
    give, given = counters.give, list[int]()

    async def overtaken(data: Data, count: int) -> tuple[int, int]:
        first, last = await give(data, count)
        given.append(first)
        if len(given) == which + 1:
            await edits.renumber(data, OTHER, first, Author())
        return first, last

    monkeypatch.setattr(counters, "give", overtaken)
    made = await edit(data)
    assert len({given[which], *made}) == 1 + len(made)
    assert await index.size(await data.head(), given[which], False) == size
    assert (await checked(data)).is_clean


@pytest.mark.parametrize("edit", EDITS)
async def test_the_counter_was_set_back(edit: Edit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `POST set-nextlabel` allows: numbers that are in use are passed over, but not without an end."""
    data = await filled(str(tmp_path))
    before = await data.head()
    used = [label for label in range(14, 40) if await index.size(before, label, False)]
    await counters.set_next(data, 13, None)
    made = await edit(data)
    assert min(made) > max(used)
    assert (await checked(data)).is_clean
    monkeypatch.setattr(unused, "PASSED_OVER", 3)
    await counters.set_next(data, 13, None)
    with pytest.raises(Invalid, match="in use"):
        await edits.cleave(data, 5, [5], Author())
    assert (await checked(data)).is_clean
