import numpy as np
import pytest
import tensorstore as ts
from hypothesis import given, settings
from hypothesis import strategies as st

from app.kernels import label_block, segmentation
from tests.kernels.samples import fib19, real, synthetic


def one_chunk(shape: tuple[int, int, int], context: ts.Context) -> tuple[ts.TensorStore, str]:
    """A precomputed volume of TensorStore's in memory that is one chunk, and the chunk's name."""
    z, y, x = shape
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": "memory://v/",
        "multiscale_metadata": {"data_type": "uint64", "num_channels": 1, "type": "segmentation"},
        "scale_metadata": {
            "size": [x, y, z],
            "chunk_size": [x, y, z],
            "encoding": "compressed_segmentation",
            "compressed_segmentation_block_size": [8, 8, 8],
            "resolution": [1, 1, 1],
            "key": "s",
        },
        "create": True,
    }
    return ts.open(spec, context=context).result(), f"s/0-{x}_0-{y}_0-{z}"


def by_tensorstore(data: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Let TensorStore decode ``data``."""
    context = ts.Context()
    store, name = one_chunk(shape, context)
    ts.KvStore.open("memory://v/", context=context).result().write(name, data.tobytes()).result()
    return store[...].read().result()[..., 0].T


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), density=st.sampled_from([0.0, 0.002, 0.02, 0.2, 1.0]))
def test_blocks_convert(seed: int, density: float) -> None:
    shape = (16, 24, 32)
    volume = synthetic(seed, shape, density)
    block = label_block.encode(volume)
    for data in (segmentation.from_block(block), segmentation.encode(volume)):
        np.testing.assert_array_equal(segmentation.decode(data, shape), volume)
        np.testing.assert_array_equal(by_tensorstore(data, shape), volume)
    merged = label_block.relabel(block, label_block.labels(block) % np.uint64(2))
    data = segmentation.from_block(merged)
    np.testing.assert_array_equal(by_tensorstore(data, shape), volume % np.uint64(2))


def test_real_blocks() -> None:
    block, volume = fib19()
    np.testing.assert_array_equal(by_tensorstore(segmentation.from_block(block), (64, 64, 64)), volume)
    labels = np.load(real("connectomics-512.npz"))["labels"][192:256, 320:384, 64:128].astype(np.uint64)
    data = segmentation.from_block(label_block.encode(labels))
    np.testing.assert_array_equal(by_tensorstore(data, (64, 64, 64)), labels)


def test_grids_and_boxes() -> None:
    volume = synthetic(8, (32, 48, 64), 0.01)
    blocks: list[np.ndarray | None] = [
        label_block.encode(volume[z : z + 16, y : y + 24, x : x + 32])
        for z in (0, 16)
        for y in (0, 24)
        for x in (0, 32)
    ]
    blocks[3] = None
    volume[:16, 24:, 32:] = 0
    blocks[4] = label_block.solid(9, (16, 24, 32))
    volume[16:, :24, :32] = 9
    grid, shape = (2, 2, 2), (16, 24, 32)
    data = segmentation.from_blocks(blocks, grid, shape)
    np.testing.assert_array_equal(segmentation.decode(data, (32, 48, 64)), volume)
    data = segmentation.from_blocks(blocks, grid, shape, (8, 16, 8), (16, 24, 48))
    np.testing.assert_array_equal(by_tensorstore(data, (16, 24, 48)), volume[8:24, 16:40, 8:56])
    nothing = segmentation.from_blocks([None] * 8, grid, shape)
    assert not segmentation.decode(nothing, (32, 48, 64)).any()
    for bad in (((0, 0, 4), (8, 8, 8)), ((0, 0, 0), (8, 8, 72)), ((0, 0, 0), (8, 8, 0)), ((-8, 0, 0), (8, 8, 8))):
        with pytest.raises(ValueError):
            segmentation.from_blocks(blocks, grid, shape, *bad)
    with pytest.raises(ValueError):
        segmentation.from_blocks(blocks[:7], grid, shape)
    with pytest.raises(ValueError):
        segmentation.from_blocks(blocks, grid, (24, 16, 32))


def test_tensorstores_own_bytes_are_read() -> None:
    volume = synthetic(12, (20, 13, 30), 0.3)
    context = ts.Context()
    store, name = one_chunk(volume.shape, context)
    store[..., 0].write(volume.T).result()
    kvs = ts.KvStore.open("memory://v/", context=context).result()
    data = np.frombuffer(kvs.read(name).result().value, np.uint8)
    np.testing.assert_array_equal(segmentation.decode(data, volume.shape), volume)


def test_equal_tables_are_shared() -> None:
    volume = np.zeros((16, 16, 16), np.uint64)
    volume[:, :, ::2] = 7
    data = segmentation.from_block(label_block.encode(volume))
    assert data.size == 4 + 8 * 8 + 2 * 8 + 8 * 64


def test_broken_bytes_raise_or_decode() -> None:
    rng = np.random.default_rng(2)
    shape = (16, 16, 24)
    good = [segmentation.encode(synthetic(s, shape, d)).copy() for s, d in enumerate((0.01, 0.2, 1.0))]
    refused = accepted = 0
    for trial in range(3000):
        data = good[trial % 3].copy()
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(min(data.size, 110))] ^= np.uint8(1 << rng.integers(8))
        if trial % 4 == 0:
            data = data[: rng.integers(0, data.size)]
        try:
            assert segmentation.decode(data, shape).shape == shape
            accepted += 1
        except ValueError:
            refused += 1
    assert refused > 300
    assert accepted > 300
    with pytest.raises(ValueError):
        segmentation.decode(good[0], (0, 8, 8))
    with pytest.raises(ValueError):
        segmentation.decode(good[0], (1 << 20, 1 << 20, 1 << 20))
    with pytest.raises(ValueError):
        segmentation.encode(np.zeros((8, 8, 9), np.uint64))
