import io

import numpy as np
import pytest
from PIL import Image

from app.core.errors import Invalid
from app.formats import images


def plane(dtype, shape=(5, 7)) -> np.ndarray:
    return np.random.default_rng(3).integers(0, np.iinfo(dtype).max, shape, dtype=dtype)


def opened(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("form", ["", "png", "png:0", "png:9", "tiff"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_images_keep_the_values(form, dtype):
    voxels = plane(dtype)
    np.testing.assert_array_equal(opened(images.encode(voxels, images.parse_format(form))), voxels)


@pytest.mark.parametrize("form", ["png", "tiff"])
def test_wide_voxels_are_rgba(form):
    voxels = plane(np.uint32)
    shown = opened(images.encode(voxels, images.parse_format(form)))
    np.testing.assert_array_equal(np.ascontiguousarray(shown).view("<u4")[..., 0], voxels)


def test_labels_are_the_bytes_of_a_16_bit_png():
    data = images.encode(np.array([[0x0102030405060708]], np.uint64), images.parse_format("png"))
    assert data[24:26] == bytes([16, 6])  # bits and colour type
    import zlib

    at = data.index(b"IDAT") + 4
    assert zlib.decompressobj().decompress(data[at:]) == b"\x01\x08\x07\x06\x05\x04\x03\x02\x01"


@pytest.mark.parametrize("form", ["bmp", "jpg:100"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64])
def test_formats_of_eight_bits(form, dtype):
    voxels = np.full((16, 16), np.iinfo(dtype).max // 2, dtype)
    shown = opened(images.encode(voxels, images.parse_format(form)))
    assert shown.shape == ((16, 16) if voxels.itemsize < 4 else (16, 16, 3))
    expected = 127 if voxels.itemsize < 4 else 255
    assert abs(shown.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("text", ["gif", "octet-stream", "jpg:x", "png:x", "jpg:0", "jpg:101", "png:", "jpg:-3"])
def test_formats_refused(text):
    with pytest.raises(Invalid):
        images.parse_format(text)


def test_stacked_jpeg_and_back():
    box = np.add.outer(np.add.outer(np.arange(8), np.arange(8)), np.arange(16)).astype(np.uint8) * 4
    data = images.stacked_jpeg(box, 95)
    assert Image.open(io.BytesIO(data)).size == (16, 64)
    out = np.empty_like(box)
    images.unstack_jpeg(data, out)
    assert abs(out.astype(int) - box).mean() < 2


def test_bad_jpegs_are_refused():
    data = images.stacked_jpeg(np.zeros((8, 8, 8), np.uint8))
    for bad in (b"", b"nonsense", data[:100], data[: len(data) // 2]):
        with pytest.raises(Invalid):
            images.unstack_jpeg(bad, np.empty((8, 8, 8), np.uint8))
    with pytest.raises(Invalid, match="8 x 64"):
        images.unstack_jpeg(data, np.empty((8, 8, 9), np.uint8))
    with pytest.raises(Invalid):
        images.stacked_jpeg(np.zeros((300, 300, 8), np.uint8))
