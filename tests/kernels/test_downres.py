from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.kernels import downres
from tests.kernels.samples import real


def vote(cell: list[int]) -> int:
    votes = Counter(label for label in cell if label)
    return min(votes, key=lambda label: (-votes[label], label)) if votes else 0


def slow_halve(volume: np.ndarray) -> np.ndarray:
    z, y, x = volume.shape
    cells = volume.reshape(z // 2, 2, y // 2, 2, x // 2, 2).transpose(0, 2, 4, 1, 3, 5).reshape(-1, 8)
    return np.array([vote(c) for c in cells.tolist()], np.uint64).reshape(z // 2, y // 2, x // 2)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    shape=st.tuples(*[st.integers(1, 7)] * 3),
    ids=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=6),
)
def test_votes(seed: int, shape: tuple[int, int, int], ids: list[int]) -> None:
    pick = np.random.default_rng(seed).integers(0, len(ids), [2 * s for s in shape])
    volume = np.array(ids, np.uint64)[pick]
    want = slow_halve(volume)
    np.testing.assert_array_equal(downres.halve(volume), want)
    np.testing.assert_array_equal(downres.halve(np.asfortranarray(volume)), want)


def test_ties_and_zeros() -> None:
    cell = np.array([0, 0, 0, 0, 0, 2**63, 3, 0], np.uint64).reshape(2, 2, 2)
    assert downres.halve(cell).item() == 3
    cell = np.array([0, 0, 0, 0, 0, 0, 2**63, 0], np.uint64).reshape(2, 2, 2)
    assert downres.halve(cell).item() == 2**63
    assert downres.halve(np.zeros((2, 2, 2), np.uint64)).item() == 0
    assert downres.halve(np.zeros((0, 2, 2), np.uint64)).shape == (0, 1, 1)


def test_real() -> None:
    volume = np.load(real("connectomics-512.npz"))["labels"][100:132, 200:232, 300:364].astype(np.uint64)
    np.testing.assert_array_equal(downres.halve(volume), slow_halve(volume))


def test_odd_sides_are_refused() -> None:
    with pytest.raises(ValueError):
        downres.halve(np.zeros((2, 3, 2), np.uint64))
    with pytest.raises(ValueError):
        downres.halve(np.zeros((2, 2, 2), np.uint32))  # type: ignore[arg-type]
