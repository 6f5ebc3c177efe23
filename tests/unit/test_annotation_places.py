"""Blocks of elements by supervoxels: bodies with more supervoxels than there are ranges."""

import numpy as np
import pytest

from app.datatypes.annotation import keys, labels


class Reader:
    """Keys in memory."""

    def __init__(self, names: list[bytes]) -> None:
        self.names = sorted(names)
        self.asked = 0

    async def get(self, key: bytes) -> bytes | None:
        assert key == keys.DELTAS
        return None

    async def keys_of(self, ranges: list[tuple[bytes, bytes]]) -> list[list[bytes]]:
        self.asked += len(ranges)
        return [[name for name in self.names if first <= name < last] for first, last in ranges]


@pytest.mark.parametrize("ranges", [2, 3, 7, 2048])
@pytest.mark.parametrize("count", [0, 1, 2, 40])
async def test_supervoxels_in_few_ranges(monkeypatch: pytest.MonkeyPatch, ranges: int, count: int) -> None:
    monkeypatch.setattr(labels, "_RANGES", ranges)
    rng = np.random.default_rng(count)
    near, far = rng.choice(1000, 60, False) + 1, rng.integers(1 << 40, 1 << 63, 20)
    everybody = [*near.tolist(), *far.tolist(), (1 << 64) - 1]
    there = {(label, (int(z), -int(y), int(x))) for label in everybody for z, y, x in rng.integers(0, 4, (2, 3))}
    reader = Reader([keys.supervoxel(label, place) for label, place in there])
    members = (
        sorted(rng.choice(np.array(everybody, np.uint64), count, False).tolist())
        if count != 2
        else [(1 << 63) - 1, (1 << 64) - 1]
    )
    view = labels.View(reader, None, {}, {})  # type: ignore[arg-type]
    assert await view.places(members) == sorted({place for label, place in there if label in members})
    assert reader.asked <= min(ranges, max(count, 1))
