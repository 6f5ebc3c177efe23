"""The log tells what a cleave left in a body, whatever else its commit did to the body."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from app.datatypes.author import Author
from app.datatypes.labelmap import counters, edits, history, index
from app.versioning.datastore import Data
from tests.unit.test_verify import filled


@pytest.mark.parametrize("counted", [0, 1000])
async def test_sizes_are_those_between_the_mutations(
    counted: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edits, "COUNTED", counted)
    data = await filled(str(tmp_path))
    before = await data.head()
    sizes = {label: await index.size(before, label, True) for label in range(10, 20)}
    numbers = itertools.count(900)

    async def at_once(_data: Data, _count: int) -> tuple[int, int]:
        return (next(numbers),) * 2

    async def nothing(*_: object) -> None:
        pass

    monkeypatch.setattr(counters, "give", at_once)  # so that edits enter the queue in their order, and share a commit
    monkeypatch.setattr(edits, "_look_ahead", nothing)
    generation = (await data.head()).generation
    await asyncio.gather(
        edits.merge(data, 10, [11, 12, 13, 14], Author()),
        edits.cleave(data, 10, [11], Author()),
        edits.cleave(data, 10, [12], Author()),
        edits.renumber(data, 10, 5000, Author()),
        edits.merge(data, 15, [16, 17], Author()),
    )
    await asyncio.gather(edits.cleave(data, 15, [17], Author()), edits.merge(data, 18, [15], Author()))
    assert (await data.head()).generation < generation + 7, "every edit had a commit of its own: nothing was tried"
    told = [record for record in await history.messages(data) if record["Action"] == "cleave-complete"]
    found = {record["CleavedSupervoxels"][0]: record["RemainSize"] for record in told}
    assert found[11] == sizes[10] + sizes[12] + sizes[13] + sizes[14]
    assert found[12] == sizes[10] + sizes[13] + sizes[14]
    assert found[17] == sizes[15] + sizes[16]
