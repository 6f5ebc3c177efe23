"""What a process remembers of a body follows every edit, also one that names some of what it moved and not all."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.datatypes.author import Author
from app.datatypes.labelmap import edits, index
from tests.unit.test_verify import filled


@pytest.mark.parametrize("order", [[10, 20], [20, 10]])
async def test_a_large_and_a_small_body_merged_at_once(
    order: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = await filled(str(tmp_path))
    before = {label: await index.size(await data.head(), label, False) for label in range(10, 31)}
    await edits.merge(data, 10, [11, 12, 13, 14, 15], Author())
    assert await index.size(await data.head(), 30, False) == before[30]  # known from now on
    monkeypatch.setattr(edits, "LISTED", 3)
    await edits.merge(data, 30, order, Author())
    right = sum(before[label] for label in [*range(10, 16), 20, 30])
    assert await index.size(await data.head(), 30, False) == right
    assert await index.size(await data.head(), 10, False) == 0
