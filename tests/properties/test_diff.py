"""The structural diff against a comparison of everything, on trees of several levels; and what it costs."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest

from app.backends.ordered_map import OrderedMap
from app.backends.store import Store
from app.versioning.diff import Change, Place, changes, difference

LARGE = 1500


async def written(
    map_: OrderedMap, contents: dict[bytes, bytes], updates: Mapping[bytes, bytes | None], generation: int
) -> Place:
    """Apply updates to a map and to a dictionary alike."""
    await map_.commit(updates, unchanged={})
    for key, value in updates.items():
        if value is None:
            contents.pop(key, None)
        else:
            contents[key] = value
    return Place(map_, generation)


def expected(old: Mapping[bytes, bytes], new: Mapping[bytes, bytes]) -> list[bytes]:
    return sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))


def check(found: Mapping[bytes, Change], old: Mapping[bytes, bytes], new: Mapping[bytes, bytes]) -> None:
    assert list(found) == expected(old, new)
    for key, change in found.items():
        for stored, contents in ((change.old, old), (change.new, new)):
            value = contents.get(key)
            # What a journal holds is there as it is; the place of a large value is known once it has been stored.
            assert stored == value or (isinstance(stored, str) and value and len(value) >= LARGE)


@pytest.mark.parametrize("count", [0, 1, 500, 60_000])
async def test_all_changes_are_found_and_nothing_else(store: Store, count: int) -> None:
    if count > 500 and store.is_remote:
        count = 5_000
    chance = random.Random(count)
    left, right = OrderedMap(store, "x/", "x/trees/a/"), OrderedMap(store, "x/", "x/trees/b/")
    base = {b"%s/%07d" % (chance.choice([b"log", b"k", b"k/deep/er"]), n): chance.randbytes(60) for n in range(count)}
    base[b"k"] = b"the first"
    here: dict[bytes, bytes] = {}
    before = await written(left, here, base, 2)
    await right.branch_from(left)
    there = dict(here)
    names = chance.sample(sorted(here), min(len(here), 40))
    updates: dict[bytes, bytes | None] = {name: None if name[-1] % 3 == 0 else b"other" for name in names}
    updates |= {b"new/%d" % n: chance.randbytes(LARGE if n % 2 else 5) for n in range(30)}
    after = await written(right, there, updates, 3)
    check(await changes(before, after), here, there)
    check(await changes(after, before), there, here)
    check(await changes(Place(), after), {}, there)
    assert await changes(after, after) == {}
    among = sorted({*names[:5], b"absent", b"new/7", b"zzz"})
    some = await changes(before, after, among)
    assert list(some) == [key for key in expected(here, there) if key in among]
    assert await changes(before, after, []) == {}


async def test_trees_of_several_levels(store: Store) -> None:
    chance = random.Random(1)
    left, right = OrderedMap(store, "x/", "x/trees/a/"), OrderedMap(store, "x/", "x/trees/b/")
    here: dict[bytes, bytes] = {}
    names = [chance.choice([b"a" * 1000, b"k/" * 700, b""]) + chance.randbytes(2000) for _ in range(1500)]
    before = await written(left, here, dict.fromkeys(names, b"v"), 2)
    root = await left.root(2)
    assert root is not None
    assert root.height >= 2
    await right.branch_from(left)
    there = dict(here)
    after = await written(right, there, {name: chance.choice([None, b"w"]) for name in chance.sample(names, 9)}, 3)
    check(await changes(before, after), here, there)
    check(await changes(Place(), after), {}, there)
    some = sorted(chance.sample(names, 400))
    assert list(await changes(before, after, some)) == [key for key in expected(here, there) if key in some]


async def test_it_costs_what_changed(store: Store) -> None:
    here: dict[bytes, bytes] = {}
    left, right = OrderedMap(store, "x/", "x/trees/a/"), OrderedMap(store, "x/", "x/trees/b/")
    before = await written(left, here, {b"k/%06d" % n: bytes(50) for n in range(20_000)}, 2)
    await right.branch_from(left)
    after = await written(right, here, {b"k/005000": b"x"}, 3)
    apart = await difference(before, after)
    assert (len(apart.gone), len(apart.come)) == ((0, 0) if store.scheme == "file" else (1, 1))
    assert [*await apart.changes()] == [b"k/005000"]
