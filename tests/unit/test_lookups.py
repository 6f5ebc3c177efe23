"""What is looked up at once is what is found one by one, wherever it lies: stored, in the journal, staged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app.core.errors import Invalid
from app.datatypes.author import Author
from app.datatypes.labelmap import edits, groups
from app.datatypes.labelmap.forest import Forest
from app.datatypes.labelmap.lookups import Lookups
from app.versioning.datastore import Data
from app.versioning.log import Record
from app.versioning.mutations import Mutation
from app.versioning.snapshot import Reader
from tests.journals import choose
from tests.unit.test_verify import filled

LABELS = np.arange(10, 40)


async def edit_at_random(data: Data, rng: np.random.Generator) -> None:
    body, *others = rng.choice(LABELS, 4, replace=False).tolist()
    try:
        match rng.integers(4):
            case 0:
                await edits.merge(data, body, others[: rng.integers(1, 4)], Author())
            case 1:
                await edits.renumber(data, body, int(rng.integers(1000, 2000)), Author())
            case _:
                members = await groups.members(await data.head(), body)
                await edits.cleave(data, body, members[1:3].tolist() or others[:1], Author())
    except Invalid:
        pass  # there is no such body now


async def check(reader: Reader, bodies: list[int], supervoxels: list[int]) -> int:
    """Compare all that was found; how many members small groups had."""
    found = Lookups(reader)
    await found.around(bodies, supervoxels)
    for label in [*bodies, *supervoxels]:
        name = await groups.group_of(reader, label)
        assert await found.group_of(label) == name
        if name:
            assert await found.group(name) == await groups.group(reader, name)
    small = 0
    for body in bodies:
        root = await groups.root_of(reader, body)
        assert await found.root_of(body) == root
        members = (await groups.members(reader, body)).tolist()
        assert sorted(await found.members(body)) == members
        few = found.few_members(body)
        assert set(few) <= set(members)
        small += len(few)
    return small


@pytest.mark.parametrize("waiting", [0, 40, 10_000])
async def test_at_once_as_one_by_one(waiting: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(monkeypatch, waiting_keys=waiting)
    data = await filled(str(tmp_path))
    rng = np.random.default_rng(waiting)
    small = 0
    for _ in range(60):
        await edit_at_random(data, rng)
        bodies, supervoxels = rng.choice(LABELS, (2, 3), replace=False).tolist()
        small += await check(await data.head(), bodies, supervoxels)

        async def change(mutation: Mutation) -> None:
            forest = Forest(mutation, 1 << 40)
            await forest.put_in(bodies[0], supervoxels)  # noqa: B023
            await forest.flush()
            await check(mutation, bodies, supervoxels)  # noqa: B023
            mutation.record(Record("try", data.home.uuid))
            raise Invalid("only tried")

        with pytest.raises(Invalid, match="only tried"):
            await data.mutate(change)
    assert small, "no group was small: nothing was tried"
