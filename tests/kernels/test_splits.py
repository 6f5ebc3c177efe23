import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.kernels import label_block, splits
from tests.kernels.samples import fib19, slow_decode, synthetic

SHAPE = (16, 24, 32)


def random_runs(rng: np.random.Generator, shape: tuple[int, int, int], many: int, longest: int) -> np.ndarray:
    z, y, x = (rng.integers(0, side, many) for side in shape)
    length = np.minimum(rng.integers(0, longest + 1, many), shape[2] - x)
    return np.stack([x, y, z, length], axis=1).astype(np.int32)


def walk(runs: np.ndarray) -> list[tuple[int, int, int]]:
    """Each voxel once, z, y, x, in the order in which the runs name them."""
    seen = dict.fromkeys((z, y, x + i) for x, y, z, n in runs.tolist() for i in range(n))
    return list(seen)


def expected(volume: np.ndarray, runs: np.ndarray, table: dict[int, tuple[int, int]]) -> np.ndarray:
    mask = np.zeros(volume.shape, bool)
    for place in walk(runs):
        mask[place] = True
    out = volume.copy()
    for old, (split, remain) in table.items():
        out[(volume == old) & mask] = split
        out[(volume == old) & ~mask] = remain
    return out


def check_apply(block: np.ndarray, volume: np.ndarray, runs: np.ndarray, olds: list[int]) -> np.ndarray:
    table = {old: (2**60 + 2 * i, 2**60 + 2 * i + 1) for i, old in enumerate(olds)}
    pairs = np.array(list(table.values()), np.uint64).reshape(-1, 2)
    new = splits.apply(block, runs, np.array(olds, np.uint64), pairs[:, 0].copy(), pairs[:, 1].copy())
    label_block.check(new, volume.shape)
    np.testing.assert_array_equal(slow_decode(new.tobytes()), expected(volume, runs, table))
    return new


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    density=st.sampled_from([0.0, 0.002, 0.02, 0.2, 1.0]),
    many=st.integers(0, 60),
    longest=st.sampled_from([1, 9, 40]),
)
def test_splits_against_dense(seed: int, density: float, many: int, longest: int) -> None:
    rng = np.random.default_rng(seed)
    volume = synthetic(seed, SHAPE, density)
    if seed % 3 == 0:
        volume %= np.uint64(3)  # also blocks whose list repeats labels
        block = label_block.encode(synthetic(seed, SHAPE, density))
        block = label_block.relabel(block, label_block.labels(block) % np.uint64(3))
    else:
        block = label_block.encode(volume)
    runs = random_runs(rng, SHAPE, many, longest)

    labels, inside = splits.touched(block, runs)
    met = [int(volume[place]) for place in walk(runs)]
    assert labels.tolist() == list(dict.fromkeys(met))
    assert inside.tolist() == [met.count(label) for label in labels.tolist()]

    ids = np.unique(volume)
    olds = ids[(ids != 0) & (rng.random(len(ids)) < rng.choice([0.1, 0.6, 1]))]
    rng.shuffle(olds)
    check_apply(block, volume, runs, olds.tolist())


def test_whole_rows_and_blocks() -> None:
    block, volume = fib19()
    everything = np.array([(0, y, z, 64) for z in range(64) for y in range(64)], np.int32)
    labels, inside = splits.touched(block, everything)
    names, counts = label_block.counts(block)
    assert dict(zip(labels.tolist(), inside.tolist(), strict=True)) == dict(
        zip(names.tolist(), counts.tolist(), strict=True)
    )
    chosen = names[names != 0].tolist()[::2]
    check_apply(block, volume, everything, chosen)
    check_apply(block, volume, everything[:0], chosen)
    check_apply(block, volume, everything[: 64 * 31 + 7], chosen)


def test_solid_blocks() -> None:
    shape = (16, 16, 16)
    solid, volume = label_block.solid(7, shape), np.full(shape, 7, np.uint64)
    runs = np.array([[3, 4, 5, 10], [0, 0, 0, 16]], np.int32)
    assert [part.tolist() for part in splits.touched(solid, runs)] == [[7], [26]]
    assert label_block.labels(check_apply(solid, volume, runs, [7])).size == 2
    whole = np.array([(0, y, z, 16) for z in range(16) for y in range(16)], np.int32)
    assert check_apply(solid, volume, whole, [7]).size == 24
    assert check_apply(solid, volume, whole, [8]).tobytes() == solid.tobytes()
    none = np.frombuffer(np.array([2, 2, 2, 0], "<u4").tobytes(), np.uint8)
    assert [part.tolist() for part in splits.touched(none, runs)] == [[0], [26]]
    assert check_apply(none, volume * np.uint64(0), runs, [7]).size == 16


def test_a_list_of_one_label_beside_zeros_is_no_solid_block() -> None:
    volume = np.zeros((16, 16, 16), np.uint64)
    volume[8:, 8:, 8:] = 5
    # as DVID may write it: sub-blocks without labels, and a second label that no voxel has
    words = np.array([2, 2, 2, 2], "<u4").tobytes() + np.array([5, 9], "<u8").tobytes()
    block = np.frombuffer(words + np.array([0] * 7 + [1], "<u2").tobytes() + bytes(4), np.uint8)
    label_block.check(block)
    np.testing.assert_array_equal(slow_decode(block.tobytes()), volume)
    check_apply(block, volume, np.array([[0, 0, 0, 16]], np.int32), [5])
    check_apply(block, volume, np.array([(8, y, z, 8) for z in range(8, 16) for y in range(8, 16)], np.int32), [5])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(-70, 70)] * 3, st.integers(0, 90)), max_size=30),
    st.sampled_from([(16, 16, 16), (16, 32, 64), (64, 16, 8)]),
)
def test_cut(rows: list[tuple[int, int, int, int]], shape: tuple[int, int, int]) -> None:
    model: dict[tuple[int, int, int], list[tuple[int, int, int]]] = {}
    for x, y, z, n in rows:
        for i in range(n):
            place = (z // shape[0], y // shape[1], (x + i) // shape[2])
            model.setdefault(place, []).append((z % shape[0], y % shape[1], (x + i) % shape[2]))
    blocks, starts, pieces = splits.cut(np.array(rows, np.int32).reshape(-1, 4), shape)
    assert [tuple(block) for block in blocks.tolist()] == sorted(model)
    for i, block in enumerate(blocks.tolist()):
        part = pieces[starts[i] : starts[i + 1]]
        assert [(z, y, x + k) for x, y, z, n in part.tolist() for k in range(n)] == model[tuple(block)]
    assert starts[-1] == len(pieces)


def test_cut_far_apart_and_too_much() -> None:
    far = np.array([[-(2**31), -(2**31), -(2**31), 1], [2**31 - 2, 2**31 - 1, 2**31 - 1, 1]], np.int32)
    blocks, _, pieces = splits.cut(far[::-1], (16, 16, 16))
    assert blocks.tolist() == [[-(2**27)] * 3, [2**27 - 1] * 3]
    assert pieces.tolist() == [[0, 0, 0, 1], [14, 15, 15, 1]]
    long = np.array([[-(2**31), 0, 0, 2**31 - 1]] * 3, np.int32)
    with pytest.raises(ValueError, match="cross"):
        splits.cut(long, (64, 64, 64))


def test_bad_arguments_are_refused() -> None:
    block = label_block.encode(synthetic(1, SHAPE))
    one = np.array([1], np.uint64)
    for bad in (
        [0, 0, 0, 33],
        [-1, 0, 0, 3],
        [0, 24, 0, 1],
        [0, 0, 16, 1],
        [0, 0, 0, -1],
        [2**31 - 1, 0, 0, 2**31 - 1],
    ):
        runs = np.array([bad], np.int32)
        with pytest.raises(ValueError):
            splits.touched(block, runs)
        with pytest.raises(ValueError):
            splits.apply(block, runs, one, one, one)
    runs = np.array([[0, 0, 0, 1]], np.int32)
    for olds, ids in (([0], [1]), ([1, 1], [2, 3]), ([1], [2, 3])):
        with pytest.raises(ValueError):
            splits.apply(block, runs, np.array(olds, np.uint64), np.array(ids, np.uint64), np.array(ids, np.uint64))
