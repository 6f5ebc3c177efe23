from collections.abc import Iterator

import numpy as np
import pytest

from app.core.errors import Invalid, TooLarge
from app.core.geometry import Box
from app.datatypes import roi
from app.datatypes.roi import Mask

BLOCK = (4, 8, 16)


def random_mask(seed: int, spans: int = 60, reach: int = 12) -> tuple[Mask, set[tuple[int, int, int]]]:
    rng = np.random.default_rng(seed)
    rows = rng.integers(-reach, reach, (spans, 4))
    rows[:, 3] = rows[:, 2] + rng.integers(0, 6, spans)
    covered = {(z, y, x) for z, y, x0, x1 in rows.tolist() for x in range(x0, x1 + 1)}
    return Mask(roi.parse_spans(rows.tolist()), BLOCK), covered


@pytest.mark.parametrize("seed", range(5))
def test_mask_and_points_agree_with_a_set_of_blocks(seed):
    mask, covered = random_mask(seed)
    box = Box.at((-35, -21, -9), (71, 40, 23))
    points = np.array([(x, y, z) for z, y, x in box.points()])
    expected = [(z // 4, y // 8, x // 16) in covered for x, y, z in points.tolist()]
    assert mask.mask(box).ravel().tolist() == expected
    assert mask.contains(points).tolist() == expected


def test_far_points_are_outside():
    mask, _ = random_mask(1)
    far = (1 << 31) - 1
    points = np.array([[far, far, far], [-far, -far, -far], [0, far, 0], [far, 0, 0]])
    assert mask.contains(points).tolist() == [False] * 4


def test_spans_to_the_ends_of_the_world():
    edge = (1 << 31) - 1
    mask = Mask(roi.parse_spans([[0, 0, -edge, edge], [0, 1, 5, edge]]), (1, 1, 1))
    assert mask.contains(np.array([[-edge, 0, 0], [edge, 0, 0], [4, 1, 0], [edge, 1, 0], [0, 2, 0]])).tolist() == [
        True,
        True,
        False,
        True,
        False,
    ]
    assert mask.mask(Box.at((3, 0, 0), (3, 3, 1))).tolist() == [[[True] * 3, [False, False, True], [False] * 3]]


def test_empty_mask():
    mask = Mask(roi.parse_spans([]), BLOCK)
    assert not mask.mask(Box.at((0, 0, 0), (9, 9, 9))).any()
    assert mask.contains(np.zeros((3, 3), np.int64)).tolist() == [False] * 3
    described = roi.partition(mask, 4, optimized=False, most=10)
    assert (described["NumSubvolumes"], described["NumActiveBlocks"]) == (0, 0)


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        "roi",
        5,
        [1, 2, 3, 4],
        [[1, 2, 3]],
        [[1, 2, 3, 4, 5]],
        [[1, 2, 3, 4.5]],
        [["1", 2, 3, 4]],
        [[True, 2, 3, 4]],
        [[None, 2, 3, 4]],
        [[1, 2, 5, 3]],
        [[1, 2, 3, 1 << 31]],
        [[1, 2, 3, 1 << 63]],
        [[1, 2, -(1 << 31), 3]],
        [[1, 2, 3, 4], []],
    ],
)
def test_bad_spans_are_refused(value):
    with pytest.raises(Invalid):
        roi.parse_spans(value)


def test_spans_are_ordered_and_single():
    given = [[3, 1, 1, 1], [1, 5, 2, 4], [1, 2, 7, 9], [1, 2, 7, 9], [1, 2, 0, 3], [-2, 9, -5, -1]]
    expected = [[-2, 9, -5, -1], [1, 2, 0, 3], [1, 2, 7, 9], [1, 5, 2, 4], [3, 1, 1, 1]]
    assert roi.parse_spans(given).tolist() == expected


def boxes(described: dict) -> Iterator[tuple[Box, int]]:
    for found in described["Subvolumes"]:
        low, high = found["MinChunk"][::-1], found["MaxChunk"][::-1]
        yield Box(tuple(low), tuple(side + 1 for side in high)), found["ActiveBlocks"]


@pytest.mark.parametrize("optimized", [False, True])
@pytest.mark.parametrize("batch", [1, 2, 3, 5, 16, 100])
@pytest.mark.parametrize("seed", range(3))
def test_partition_covers_every_block_once(seed, batch, optimized):
    mask, covered = random_mask(seed, spans=25)
    described = roi.partition(mask, batch, optimized=optimized, most=10_000)
    left = set(covered)
    for box, active in boxes(described):
        assert box.shape == (batch,) * 3
        inside = left & set(box.points()) if batch < 20 else {p for p in left if Box(p, p).intersect(box) == Box(p, p)}
        assert len(inside) == active > 0
        left -= inside
    assert not left
    assert described["NumActiveBlocks"] == len(covered)
    assert described["NumSubvolumes"] == len(described["Subvolumes"])


def test_partition_over_gaps_in_z():
    mask = Mask(roi.parse_spans([[0, 0, 0, 1], [100, 0, 0, 1], [103, 5, 0, 0]]), (32, 32, 32))
    described = roi.partition(mask, 2, optimized=False, most=10)
    assert [box.start[0] for box, _ in boxes(described)] == [0, 100, 102]
    assert described["ROI"] == {"MinChunk": [0, 0, 0], "MaxChunk": [1, 5, 103]}


def test_partition_into_too_many_parts_is_refused():
    mask = Mask(roi.parse_spans([[0, 0, 0, 1 << 30]]), (32, 32, 32))
    with pytest.raises(TooLarge):
        roi.partition(mask, 1, optimized=False, most=1000)
    assert roi.partition(mask, 1 << 16, optimized=True, most=20_000)["NumActiveBlocks"] == (1 << 30) + 1


@pytest.mark.parametrize("seed", range(8))
def test_a_version_merge_decides_block_by_block(seed):
    base, ours, theirs = (random_mask(10 * seed + n, spans=30, reach=5) for n in range(3))
    was, our, their = (covered for _, covered in (base, ours, theirs))
    if seed % 2:  # one side did what the other did, and more
        theirs, their = ours, our
    joined = roi.join(base[0].spans, ours[0].spans, theirs[0].spans)
    wanted = {
        block
        for block in was | our | their
        if ((block in their) if (block in their) != (block in was) else block in our)
    }
    assert {(z, y, x) for z, y, x0, x1 in joined.tolist() for x in range(x0, x1 + 1)} == wanted
    assert (joined[:, 2] <= joined[:, 3]).all()


def test_a_version_merge_of_empty_regions():
    nothing, some = roi.parse_spans([]), roi.parse_spans([[1, 2, 3, 4], [1, 2, 9, 9]])
    assert roi.join(nothing, some, nothing).tolist() == some.tolist()
    assert roi.join(some, some, nothing).tolist() == []
    assert roi.join(nothing, nothing, nothing).tolist() == []
