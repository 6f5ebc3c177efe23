import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from app.kernels import places

NUMBER = st.one_of(st.integers(-3, 3), st.integers(-(2**31), 2**31))


@settings(deadline=None)
@given(st.lists(st.tuples(NUMBER, NUMBER, NUMBER), max_size=40))
def test_order_and_unique(rows: list[tuple[int, int, int]]) -> None:
    given_rows = np.array(rows, np.int64).reshape(-1, 3)
    assert [tuple(row) for row in given_rows[places.order(given_rows)].tolist()] == sorted(rows)
    assert [tuple(row) for row in places.unique(given_rows).tolist()] == sorted(set(rows))
    twice = np.concatenate([given_rows, given_rows])
    by = places.order(twice)
    assert all(a < b for a, b in zip(by[::2], by[1::2], strict=True) if len(set(rows)) == len(rows))
