import random

import numpy as np
import pytest

from app.core.errors import Invalid
from app.formats import compression

COMPRESSIONS = ["none", "lz4", "snappy", "gzip", "gzip:9"]


@pytest.fixture
def voxels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 3, (8, 16, 32)).astype(np.uint8)


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_payload_fills_what_it_was_made_of(name, voxels):
    out = np.empty_like(voxels)
    compression.fill(out, compression.payload(voxels.data, name), name)
    np.testing.assert_array_equal(out, voxels)


@pytest.mark.parametrize("name", COMPRESSIONS)
@pytest.mark.parametrize("size", [0, 1, 4095, 4097, 1 << 16])
def test_payload_of_another_size_is_refused(name, size, voxels):
    payload = compression.payload(voxels.data, name)
    with pytest.raises(Invalid):
        compression.fill(np.empty(size, np.uint8), payload, name)


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_damaged_payload_is_refused_or_fills_exactly(name, voxels):
    payload = compression.payload(voxels.data, name)
    choose = random.Random(2)
    for round_ in range(300):
        damaged = bytearray(payload)
        if round_ % 2:
            del damaged[choose.randrange(len(damaged)) :]
        else:
            damaged[choose.randrange(len(damaged))] ^= 1 << choose.randrange(8)
        out = np.full(voxels.size + 64, 0xAB, np.uint8)
        try:
            compression.fill(out[32:-32], bytes(damaged), name)
        except Invalid:
            assert len(damaged) <= len(payload)
        assert (out[:32] == 0xAB).all()
        assert (out[-32:] == 0xAB).all()


def test_lz4_without_size_must_fit_exactly(voxels):
    packed = compression.lz4(voxels.data)
    assert compression.unlz4(packed, voxels.nbytes) == voxels.tobytes()
    for size in (0, voxels.nbytes - 1, voxels.nbytes + 1, 1 << 40):
        with pytest.raises(Invalid):
            compression.unlz4(packed, size)
    with pytest.raises(Invalid):
        compression.unlz4(b"", 8)


def test_claimed_lz4_size_is_not_believed():
    with pytest.raises(Invalid):
        compression.fill(np.empty(16, np.uint8), b"\xff\xff\xff\x7f" + compression.lz4(b"x" * 16), "lz4")


def test_gzip_bomb_stops_at_the_limit():
    bomb = compression.gzip(bytes(64 << 20))
    with pytest.raises(Invalid, match="more than 1000"):
        compression.ungzip(bomb, 1000)


def test_gzip_of_several_members():
    assert compression.ungzip(compression.gzip(b"ab") + compression.gzip(b"cd"), 4) == b"abcd"
    with pytest.raises(Invalid):
        compression.ungzip(compression.gzip(b"ab") + compression.gzip(b"cd"), 3)
    with pytest.raises(Invalid):
        compression.ungzip(compression.gzip(b"ab") + b"garbage", 100)


@pytest.mark.parametrize("level", [-1, 0, 1, 2, 3, 9])
def test_gzip_levels(level):
    assert compression.ungzip(compression.gzip(b"voxels" * 100, level), 600) == b"voxels" * 100
