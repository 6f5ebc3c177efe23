"""The mapping that a process keeps and brings forward is the one that the tables hold, posted mappings included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app.core.errors import Invalid
from app.datatypes.author import Author
from app.datatypes.labelmap import edits, groups, index, keys, mapping, posted
from app.datatypes.labelmap.mapping import Mapping
from app.versioning.datastore import Data
from app.versioning.mutations import Mutation
from tests.unit.test_verify import changed, elsewhere, filled

LABELS = np.arange(1, 70, dtype=np.uint64)


async def post(data: Data, supervoxels: list[int], bodies: list[int]) -> None:
    async def change(mutation: Mutation) -> None:
        await posted.put_mapping(mutation, np.array(supervoxels, np.uint64), np.array(bodies, np.uint64))

    await changed(data, change)


def assert_same(one: Mapping, other: Mapping) -> None:
    assert one.pairs().tolist() == other.pairs().tolist()
    assert (one.apply(LABELS) == other.apply(LABELS)).all()
    assert (one.is_fixed(LABELS) == other.is_fixed(LABELS)).all()
    for body in [*LABELS.tolist(), 500, 501, 1000]:
        assert one.fixed_to(body).tolist() == other.fixed_to(body).tolist()


@pytest.mark.parametrize("seed", range(6))
async def test_what_is_followed_is_what_is_stored(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = str(tmp_path)
    data, random = await filled(store), np.random.default_rng(seed)
    monkeypatch.setattr(mapping, "LATE", [8192, 12][seed % 2])
    if seed % 3 == 2:  # as if all posts were large
        monkeypatch.setattr(groups, "MANY", 0)
        monkeypatch.setattr(groups, "TOGETHER", 1)
    expected: dict[int, int] = {}
    await mapping.load(await data.head())
    for _ in range(25):
        some = random.choice(LABELS, 4, replace=False).tolist()
        named = random.choice([*some, 500, 501], 4).tolist()
        kind = random.integers(4)
        if kind < 2:
            await post(data, [*some, some[0]], [*named, named[0]])
            expected = dict(zip(some, named, strict=True))
        else:
            expected = {}
            try:
                if kind == 2:
                    await edits.merge(data, some[0], some[1:], Author())
                else:
                    body = await index.body_of(await data.head(), some[0])
                    await edits.cleave(data, body, some[:1], Author())
            except Invalid:
                pass  # no such body, or nothing that would remain
        snapshot = await data.head()
        followed = await mapping.load(snapshot)
        assert_same(followed, await mapping.load(await (await elsewhere(store, data)).head()))
        assert followed.apply(np.array(list(expected), np.uint64)).tolist() == list(expected.values())
        rows = keys.pairs(await snapshot.keys(*keys.FIXED.all()))
        assert await groups.fixed_count(snapshot) == len(rows)
        assert followed.is_fixed(rows[:, 0]).all()


async def test_the_last_of_several_entries_stays(tmp_path: Path) -> None:
    data = await filled(str(tmp_path))
    await post(data, [9, 10, 9, 10, 9], [1, 2, 3, 10, 500])
    known = await mapping.load(await data.head())
    assert known.apply(np.array([9, 10], np.uint64)).tolist() == [500, 10]
    assert known.fixed_to(500).tolist() == [9]
    await post(data, [9], [11])
    known = await mapping.load(await data.head())
    assert known.fixed_to(500).tolist() == []
    assert known.fixed_to(11).tolist() == [9]
