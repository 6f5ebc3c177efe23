"""Colours of cells."""

from __future__ import annotations

import colorsys


def color(index: int) -> str:
    """A distinct colour for the cell of this number: hues a golden angle apart, of changing strength."""
    hue = (0.58 + index * 0.381966) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.78, 0.62, 0.9)[index % 3], (1.0, 0.92, 0.82)[index % 3])
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"
