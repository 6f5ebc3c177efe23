"""Two-dimensional images of voxels, and the grey JPEG that stacks the slices of a box.

Voxels of 8 and 16 bits are grey values. Voxels of 32 and 64 bits are their little-endian bytes, read as RGBA of 8 and
16 bits: so DVID shows labels, and clients turn the pixels back into labels. JPEG and BMP have no such depths; they get
the upper eight bits of each sample, without alpha.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from isal import isal_zlib
from PIL import Image

from app.core.errors import Invalid

Array = npt.NDArray[Any]

MEDIA = {"png": "image/png", "jpeg": "image/jpeg", "tiff": "image/tiff", "bmp": "image/bmp"}
#: What DVID and Go use unless told otherwise.
JPEG_QUALITY = 80
#: Levels of ISA-L; it is ten times faster than zlib and its level 3 gains nothing on images.
_PNG_LEVEL, _PNG_MOST = 2, 2
#: The longest side that a JPEG can have.
JPEG_SIDE = 65500
_SIDE = 1 << 20


@dataclass(frozen=True)
class ImageFormat:
    """How an image is encoded; `level` is a JPEG's quality or a PNG's effort."""

    name: str
    level: int

    @property
    def media(self) -> str:
        """The media type."""
        return MEDIA[self.name]


def parse_format(text: str) -> ImageFormat:
    """`png`, `png:9`, `jpg:50`, `jpeg`, `tiff`, `bmp`; nothing is PNG."""
    name, colon, level = (text or "png").partition(":")
    name = "jpeg" if name == "jpg" else name
    if name not in MEDIA:
        raise Invalid(f"{text!r} is not an image format; png, jpg, tiff and bmp are")
    if not colon:
        return ImageFormat(name, JPEG_QUALITY if name == "jpeg" else _PNG_LEVEL)
    try:
        number = int(level)
    except ValueError:
        raise Invalid(f"{text!r}: what follows the colon must be an integer") from None
    if name == "jpeg" and not 1 <= number <= 100:
        raise Invalid(f"{text!r}: the quality must be from 1 to 100")
    return ImageFormat(name, number)


def encode(plane: Array, form: ImageFormat) -> bytes:
    """An image of a plane of voxels; rows first."""
    height, width = plane.shape
    longest = JPEG_SIDE if form.name == "jpeg" else _SIDE
    if not 0 < max(height, width) <= longest:
        raise Invalid(f"an image of {width} x {height} pixels cannot be a {form.name}")
    if form.name == "png":
        return _png(plane, form.level)
    if form.name == "tiff":
        return _tiff(plane)
    shown = _eight_bits(plane)
    mode = "L" if shown.ndim == 2 else "RGB"
    image = Image.frombuffer(mode, (width, height), shown, "raw", mode, 0, 1)
    if form.name == "jpeg":
        return _jpeg(image, form.level)
    file = io.BytesIO()
    image.save(file, "BMP")
    return file.getvalue()


def stacked_jpeg(box: Array, quality: int = JPEG_QUALITY) -> bytes:
    """A box z, y, x as one grey JPEG, as wide as x and as high as y times z."""
    width, height = box.shape[2], box.shape[0] * box.shape[1]
    if max(width, height) > JPEG_SIDE:
        raise Invalid(f"a JPEG of {width} x {height} pixels is not possible; ask for fewer slices")
    shown = _eight_bits(np.ascontiguousarray(box).reshape(height, width))
    if shown.ndim == 2:
        image = Image.frombuffer("L", (width, height), shown, "raw", "L", 0, 1)
    else:
        image = Image.frombuffer("RGB", (width, height), shown, "raw", "RGB", 0, 1).convert("L")
    return _jpeg(image, quality)


def unstack_jpeg(data: bytes | memoryview, out: npt.NDArray[np.uint8]) -> None:
    """Fill a box z, y, x from such a JPEG; it must have exactly that size."""
    depth, rows, width = out.shape
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            if image.size != (width, rows * depth):  # known from the header, before anything is decoded
                raise Invalid(f"the JPEG has {image.size[0]} x {image.size[1]} pixels, not {width} x {rows * depth}")
            grey = image if image.mode == "L" else image.convert("L")
            out[...] = np.asarray(grey).reshape(out.shape)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Invalid(f"the JPEG is corrupt: {error}") from None


def _jpeg(image: Image.Image, quality: int) -> bytes:
    # Pillow holds the interpreter's lock while it writes to memory of Python's, and lets go of it for a real file.
    if not hasattr(os, "memfd_create"):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return file.getvalue()
    real: IO[bytes]
    with os.fdopen(os.memfd_create("jpeg"), "w+b", buffering=0) as real:
        image.save(real, "JPEG", quality=quality)
        real.seek(0)
        return real.read()


def _samples(plane: Array) -> tuple[npt.NDArray[np.uint8], int, int]:
    """The samples of a plane as bytes (rows, then bytes of a row), big-endian, with their bits and channels."""
    if plane.dtype.itemsize == 2:
        plane = plane.astype(">u2", copy=False)
    rows = np.ascontiguousarray(plane).view(np.uint8).reshape(plane.shape[0], -1)
    bits, channels = {1: (8, 1), 2: (16, 1), 4: (8, 4), 8: (16, 4)}[plane.dtype.itemsize]
    return rows, bits, channels


def _eight_bits(plane: Array) -> npt.NDArray[np.uint8]:
    """Grey (rows, columns) or RGB (rows, columns, 3) of eight bits."""
    rows, bits, channels = _samples(plane)
    samples = rows.reshape(*plane.shape, channels, bits // 8)[..., 0]
    return np.ascontiguousarray(samples[..., 0] if channels == 1 else samples[..., :3])


def _png(plane: Array, level: int) -> bytes:
    rows, bits, channels = _samples(plane)
    height, width = plane.shape
    step = bits // 8 * channels
    # Each row begins with the number of its filter: 1, the difference to the pixel on the left.
    filtered = np.empty((height, rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = 1
    filtered[:, 1 : step + 1] = rows[:, :step]
    np.subtract(rows[:, step:], rows[:, :-step], out=filtered[:, step + 1 :])
    header = struct.pack(">IIBBBBB", width, height, bits, 0 if channels == 1 else 6, 0, 0, 0)
    packed = isal_zlib.compress(filtered, min(max(level, 0), _PNG_MOST))
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, body in ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b"")):
        parts += struct.pack(">I", len(body)), kind, body, struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))
    return b"".join(parts)


def _tiff(plane: Array) -> bytes:
    """A TIFF without compression: header, one directory, the samples."""
    rows, bits, channels = _samples(plane)
    height, width = plane.shape
    short, long = 3, 4
    tags = [
        (256, long, width),
        (257, long, height),
        (258, short, bits),
        (259, short, 1),  # no compression
        (262, short, 1 if channels == 1 else 2),  # black is zero, or RGB
        (273, long, 0),  # where the samples begin, filled in below
        (277, short, channels),
        (278, long, height),
        (279, long, rows.nbytes),
    ]
    if channels == 4:
        tags.append((338, short, 2))  # the fourth sample is alpha, not multiplied
    directory = 8 + 2 + 12 * len(tags) + 4
    start = directory + (8 if channels == 4 else 0)
    parts = [b"MM\0*", struct.pack(">IH", 8, len(tags))]
    for tag, kind, value in tags:
        if tag == 258 and channels == 4:
            parts.append(struct.pack(">HHII", tag, short, 4, directory))
        elif kind == short:
            parts.append(struct.pack(">HHIHH", tag, short, 1, value, 0))
        else:
            parts.append(struct.pack(">HHII", tag, long, 1, start if tag == 273 else value))
    parts.append(b"\0" * 4)
    if channels == 4:
        parts.append(struct.pack(">4H", *[bits] * 4))
    return b"".join([*parts, rows.data.cast("B")])
