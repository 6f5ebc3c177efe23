"""Merging tables of index entries, against sorting everything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.datatypes.labelmap import deltas
from app.datatypes.labelmap.keys import Counts
from app.kernels import entries

ROWS = st.lists(
    st.tuples(st.sampled_from([1, 2, (1 << 64) - 1]), *[st.integers(-2, 1)] * 3, st.integers(0, (1 << 32) - 1)),
    max_size=12,
)


def table(rows: list[tuple[int, ...]]) -> Counts:
    return Counts(
        np.array([row[0] for row in rows], np.uint64),
        np.array([row[1:4] for row in rows], np.int64).reshape(-1, 3),
        np.array([row[4] for row in rows], np.uint32),
    )


@given(st.lists(ROWS, max_size=12), st.booleans())
def test_the_last_row_of_a_place_counts(parts: list[list[tuple[int, ...]]], in_order: bool) -> None:
    if in_order:
        parts = [sorted({row[:4]: row for row in part}.values()) for part in parts]
        assert all(entries.are_ordered(table(part).supervoxels, table(part).blocks) for part in parts)
    expected = {row[:4]: row[4] for part in parts for row in part}
    found = deltas.latest([table(part) for part in parts])
    rows = zip(found.supervoxels.tolist(), found.blocks.tolist(), found.voxels.tolist(), strict=True)
    assert [((label, *place), voxels) for label, place, voxels in rows] == sorted(expected.items())


def test_twice_the_same_is_no_order() -> None:
    twice = table([(1, 0, 0, 0, 5), (1, 0, 0, 0, 5)])
    assert not entries.are_ordered(twice.supervoxels, twice.blocks)


def test_tables_with_columns_that_do_not_fit_are_refused() -> None:
    one, two = table([(1, 0, 0, 0, 5)]), table([(1, 0, 0, 0, 5), (2, 0, 0, 0, 5)])
    with pytest.raises(ValueError, match="as many"):
        entries.merged((one.supervoxels, two.blocks, one.voxels), (one.supervoxels, one.blocks, one.voxels))
