import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.kernels import places

NUMBER = st.one_of(st.integers(-3, 3), st.integers(-(2**31), 2**31))


@pytest.fixture(params=[0, 2000], ids=["as numbers", "as they are"])
def _few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_FEW", request.param)


@pytest.mark.usefixtures("_few")
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(NUMBER, NUMBER, NUMBER), max_size=40))
def test_order_unique_and_grouped(rows: list[tuple[int, int, int]]) -> None:
    given_rows = np.array(rows, np.int64).reshape(-1, 3)
    assert [tuple(row) for row in given_rows[places.order(given_rows)].tolist()] == sorted(rows)
    assert [tuple(row) for row in places.unique(given_rows).tolist()] == sorted(set(rows))
    twice = np.concatenate([given_rows, given_rows])
    by = places.order(twice)
    assert all(a < b for a, b in zip(by[::2], by[1::2], strict=True) if len(set(rows)) == len(rows))
    distinct, by, starts = places.grouped(twice)
    assert [tuple(row) for row in distinct.tolist()] == sorted(set(rows))
    for place, (start, stop) in zip(distinct.tolist(), itertools.pairwise(starts.tolist()), strict=True):
        assert by[start:stop].tolist() == [i for i, row in enumerate([*rows, *rows]) if row == tuple(place)]
