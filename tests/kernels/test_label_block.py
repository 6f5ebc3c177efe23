import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.kernels import label_block
from tests.kernels.samples import fib19, real, slow_decode, synthetic

SHAPES = st.tuples(*[st.sampled_from([16, 24, 32, 40])] * 3)
DENSITY = st.sampled_from([0.0, 0.002, 0.02, 0.2, 1.0])


def decoded(block: np.ndarray) -> np.ndarray:
    out = np.full(label_block.shape(block), 77, np.uint64)
    label_block.decode(block, out)
    return out


def test_dvids_own_block_is_its_volume() -> None:
    block, volume = fib19()
    label_block.check(block, (64, 64, 64))
    assert label_block.shape(block) == (64, 64, 64)
    np.testing.assert_array_equal(decoded(block), volume)
    np.testing.assert_array_equal(slow_decode(block.tobytes()), volume)
    assert label_block.encode(volume).size == block.size


def test_real_labels_round_trip() -> None:
    labels = np.load(real("connectomics-512.npz"))["labels"]
    for z, y, x in ((0, 0, 0), (448, 448, 448), (256, 128, 384)):
        volume = labels[z : z + 64, y : y + 64, x : x + 64].astype(np.uint64)
        block = label_block.encode(volume)
        label_block.check(block, (64, 64, 64))
        np.testing.assert_array_equal(decoded(block), volume)
        found, sizes = label_block.counts(block)
        want, want_sizes = np.unique(volume, return_counts=True)
        np.testing.assert_array_equal(found, want)
        np.testing.assert_array_equal(sizes, want_sizes)
    np.testing.assert_array_equal(slow_decode(block.tobytes()), volume)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), shape=SHAPES, density=DENSITY)
def test_every_reader_agrees_with_the_volume(seed: int, shape: tuple[int, int, int], density: float) -> None:
    volume = synthetic(seed, shape, density)
    block = label_block.encode(volume)
    label_block.check(block, shape)
    np.testing.assert_array_equal(slow_decode(block.tobytes()), volume)
    np.testing.assert_array_equal(decoded(block), volume)
    header = label_block.labels(block)
    assert len(np.unique(header)) == len(header)
    np.testing.assert_array_equal(np.sort(header), np.unique(volume))
    # strided, both ways
    wide = np.full((shape[0], shape[1] + 3, 2 * shape[2]), 5, np.uint64)
    view = wide[:, 3:, ::2]
    label_block.decode(block, view)
    np.testing.assert_array_equal(view, volume)
    assert (wide[:, :3] == 5).all()
    assert (wide[:, :, 1::2] == 5).all()
    np.testing.assert_array_equal(label_block.encode(view), block)
    transposed = label_block.encode(volume.T)
    np.testing.assert_array_equal(decoded(transposed), volume.T)
    # boxes and points
    rng = np.random.default_rng(seed)
    start = rng.integers(0, shape)
    stop = rng.integers(start, shape) + 1
    box = np.zeros(stop - start, np.uint64)
    label_block.decode_box(block, tuple(start), box)
    np.testing.assert_array_equal(box, volume[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))])
    points = rng.integers(0, shape, (50, 3)).astype(np.int32)
    np.testing.assert_array_equal(label_block.labels_at(block, points), volume[tuple(points.T)])
    several = label_block.labels_of_blocks([block, None, block, block], points, [5, 9, 20, 20, 50])
    expected = volume[tuple(points.T)]
    expected[:5] = expected[9:20] = 0
    np.testing.assert_array_equal(several, expected)
    assert label_block.label_at(block, *map(int, points[0])) == volume[tuple(points[0])]
    # counts before and after a merge
    found, sizes = label_block.counts(block)
    want, want_sizes = np.unique(volume, return_counts=True)
    np.testing.assert_array_equal(found, want)
    np.testing.assert_array_equal(sizes, want_sizes)
    merged = label_block.relabel(block, header % np.uint64(3))
    label_block.check(merged, shape)
    np.testing.assert_array_equal(decoded(merged), volume % np.uint64(3))
    want, want_sizes = np.unique(volume % np.uint64(3), return_counts=True)
    np.testing.assert_array_equal(label_block.counts(merged)[0], want)
    np.testing.assert_array_equal(label_block.counts(merged)[1], want_sizes)


def test_512_labels_in_each_sub_block() -> None:
    volume = np.arange(16**3, dtype=np.uint64).reshape(16, 16, 16)
    block = label_block.encode(volume)
    label_block.check(block)
    np.testing.assert_array_equal(decoded(block), volume)
    np.testing.assert_array_equal(slow_decode(block.tobytes()), volume)
    part = np.zeros((9, 3, 5), np.uint64)
    label_block.decode_box(block, (3, 6, 5), part)
    np.testing.assert_array_equal(part, volume[3:12, 6:9, 5:10])


@pytest.mark.parametrize("label", [0, 1, 2**64 - 1])
def test_solid(label: int) -> None:
    block = label_block.solid(label, (16, 24, 32))
    label_block.check(block, (16, 24, 32))
    assert block.size == 24
    assert (decoded(block) == np.uint64(label)).all()
    np.testing.assert_array_equal(label_block.encode(decoded(block)), block)
    assert label_block.label_at(block, 15, 23, 31) == label
    assert [a.tolist() for a in label_block.counts(block)] == [[label], [16 * 24 * 32]]


def test_no_labels_and_sub_blocks_without_labels_are_zeros() -> None:
    empty = np.frombuffer(struct.pack("<4I", 2, 2, 2, 0), np.uint8)
    label_block.check(empty, (16, 16, 16))
    assert not decoded(empty).any()
    assert label_block.labels(empty).size == 0
    assert label_block.label_at(empty, 0, 0, 0) == 0
    assert [a.tolist() for a in label_block.counts(empty)] == [[0], [4096]]
    # header list 5, 9; sub-block 0 has none, 1 has 9, the others both but only the first in use; 9 twice in the header
    data = struct.pack("<4I3Q8H", 2, 2, 2, 3, 5, 9, 9, 0, 1, 2, 2, 2, 2, 2, 2) + struct.pack("<I", 1)
    block = np.frombuffer(data + struct.pack("<2I", 0, 2) * 6 + bytes(64 * 6), np.uint8)
    label_block.check(block)
    np.testing.assert_array_equal(decoded(block), slow_decode(block.tobytes()))
    assert [a.tolist() for a in label_block.counts(block)] == [[0, 5, 9], [512, 3072, 512]]
    assert label_block.label_at(block, 0, 0, 0) == 0


@pytest.mark.parametrize("shape", [(8, 16, 16), (16, 20, 16), (16, 16, 1032), (16, 16)])
def test_bad_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError):
        label_block.encode(np.zeros(shape, np.uint64))
    with pytest.raises(ValueError):
        label_block.solid(1, shape)  # type: ignore[arg-type]


def test_bad_arguments_are_refused() -> None:
    block = label_block.encode(synthetic(3, (16, 16, 16)))
    for out in (np.zeros((16, 16, 24), np.uint64), np.zeros((16, 16, 16), np.int64), np.zeros(4096, np.uint64)):
        with pytest.raises(ValueError):
            label_block.decode(block, out)
    frozen = np.zeros((16, 16, 16), np.uint64)
    frozen.flags.writeable = False
    with pytest.raises(ValueError):
        label_block.decode(block, frozen)
    for start in ((-1, 0, 0), (0, 0, 9), (16, 0, 0)):
        with pytest.raises(ValueError):
            label_block.decode_box(block, start, np.zeros((8, 8, 8), np.uint64))
    for point in ((-1, 0, 0), (0, 16, 0)):
        with pytest.raises(ValueError):
            label_block.label_at(block, *point)
        with pytest.raises(ValueError):
            label_block.labels_at(block, np.array([point], np.int32))
        with pytest.raises(ValueError):
            label_block.labels_of_blocks([None, block], np.array([point, point], np.int32), [0, 1, 2])
    for starts in ([0], [0, 2], [1, 0], [-1, 1], [0, 1, 1]):
        with pytest.raises(ValueError):
            label_block.labels_of_blocks([block], np.zeros((1, 3), np.int32), starts)
    with pytest.raises(ValueError):
        label_block.relabel(block, label_block.labels(block)[1:])
    with pytest.raises(ValueError):
        label_block.check(block, (16, 16, 24))
    with pytest.raises(ValueError):
        label_block.check(np.zeros(0, np.uint8))
    with pytest.raises(ValueError):
        label_block.check(block.astype(np.uint16))


def test_readonly_and_strided_bytes_are_read() -> None:
    volume = synthetic(4, (16, 16, 16))
    block = label_block.encode(volume)
    label_block.check(np.frombuffer(block.tobytes(), np.uint8))
    spread = np.zeros(2 * block.size, np.uint8)[::2]
    spread[:] = block
    np.testing.assert_array_equal(decoded(spread), volume)


def test_broken_blocks_raise_or_decode() -> None:
    """Garbage, truncations and flipped bits: refused, or safe and meaning what an independent decoder reads."""
    rng = np.random.default_rng(1)
    refused = accepted = 0
    seeds = [label_block.encode(synthetic(s, (16, 16, 24), d)) for s, d in enumerate((0.002, 0.02, 0.2, 1.0, 0.05))]
    for trial in range(3000):
        data = seeds[trial % len(seeds)].copy()
        kind = rng.integers(5)
        if kind == 0:
            data = data[: rng.integers(0, data.size)]
        elif kind == 1:
            data = np.concatenate([data, rng.integers(0, 256, rng.integers(1, 40), np.uint8)])
        elif kind == 2:
            data = rng.integers(0, 256, rng.integers(0, 400), np.uint8)
            data[:16] = np.frombuffer(struct.pack("<4I", 2, 2, 2, rng.integers(0, 9)), np.uint8)[: data.size]
        else:  # the header and the tables are the interesting part
            reach = min(data.size, 600) if kind == 3 else data.size
            for _ in range(rng.integers(1, 4)):
                data[rng.integers(reach)] ^= np.uint8(1 << rng.integers(8))
        try:
            label_block.check(data)
        except ValueError:
            refused += 1
            continue
        accepted += 1
        shape = label_block.shape(data)
        if np.prod(shape) > 1 << 22:
            continue
        volume = decoded(data)
        if accepted % 20 == 0:
            np.testing.assert_array_equal(volume, slow_decode(data.tobytes()))
        sizes = label_block.counts(data)[1]
        assert sizes.sum() == volume.size
        assert label_block.label_at(data, shape[0] - 1, 0, 5) == volume[-1, 0, 5]
    assert refused > 300
    assert accepted > 300
