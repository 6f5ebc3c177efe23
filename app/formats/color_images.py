"""Colour images of red, green and blue bytes."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from app.formats.images import ImageFormat


def encode_rgb(pixels: npt.NDArray[np.uint8], form: ImageFormat) -> bytes:
    """An image of pixels: uint8 rows, columns, 3."""
    options = {"jpeg": {"quality": form.level}, "png": {"compress_level": form.level}}
    file = io.BytesIO()
    Image.fromarray(pixels, "RGB").save(file, form.name.upper(), **options.get(form.name, {}))
    return file.getvalue()
