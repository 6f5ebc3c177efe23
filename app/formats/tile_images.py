"""Pictures that clients posted as tiles: their pixels, those of a bare LZ4 block, and pictures that stand for none.

Pixels have one of three types, as voxels that can be shown have: uint8 and uint16 are grey values, uint32 the bytes
red, green, blue and alpha.
"""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from app.core.errors import Invalid
from app.formats import compression

Array = npt.NDArray[Any]

#: From eight to sixteen bits, so that white stays white.
_WIDER = 0x101
#: From a grey value to red, green and blue; and alpha.
_GREY, _OPAQUE = 0x10101, 0xFF000000
_SIZE = struct.Struct("<II")


def pixels(data: bytes, dtype: np.dtype[Any], most: int) -> Array:
    """The pixels (rows, columns) of a PNG or JPEG that has at most so many; its depth is changed to that of `dtype`."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            width, height = image.size
            if width * height > most:  # known from the header, before anything is decoded
                raise Invalid(f"the picture has {width} x {height} pixels, more than {most}")
            return _as_type(image, dtype)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Invalid(f"this is no PNG or JPEG, or a corrupt one: {error}") from None


def _as_type(image: Image.Image, dtype: np.dtype[Any]) -> Array:
    if image.mode.startswith("I"):  # grey values of 16 bits
        deep = np.asarray(image).astype(np.uint16)
        return deep if dtype.itemsize == 2 else deepened((deep >> 8).astype(np.uint8), dtype)
    if dtype.itemsize == 4 and image.mode != "L":
        return np.asarray(image.convert("RGBA")).view("<u4")[..., 0]
    return deepened(np.asarray(image.convert("L")), dtype)


def deepened(grey: npt.NDArray[np.uint8], dtype: np.dtype[Any]) -> Array:
    """Grey pixels of eight bits as pixels of another type."""
    if dtype.itemsize == 4:
        return grey * np.uint32(_GREY) | np.uint32(_OPAQUE)
    return grey if dtype.itemsize == 1 else grey * np.uint16(_WIDER)


def is_picture(data: bytes) -> bool:
    """Whether bytes begin as a PNG or JPEG does."""
    return data.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"))


def pack_grey(grey: npt.NDArray[np.uint8]) -> bytes:
    """Grey pixels as they are kept: width and height (uint32, little-endian), then a bare LZ4 block."""
    height, width = grey.shape
    return _SIZE.pack(width, height) + compression.lz4(np.ascontiguousarray(grey).tobytes())


def unpack_grey(data: bytes) -> npt.NDArray[np.uint8]:
    """The grey pixels (rows, columns) of such bytes."""
    width, height = _SIZE.unpack_from(data)
    return grey_of_lz4(data[_SIZE.size :], width, height)


def grey_of_lz4(data: bytes, width: int, height: int) -> npt.NDArray[np.uint8]:
    """The grey pixels (rows, columns) of a bare LZ4 block, which must hold exactly these."""
    return np.frombuffer(compression.unlz4(data, width * height), np.uint8).reshape(height, width)


def placeholder(width: int, height: int, text: str, dtype: np.dtype[Any]) -> Array:
    """Pixels (rows, columns) with words in the middle, white on black."""
    image = Image.new("L", (width, height))
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = draw.multiline_textbbox((0, 0), text)
    draw.multiline_text(((width - left - right) / 2, (height - top - bottom) / 2), text, fill=255, align="center")
    return _as_type(image, dtype)
