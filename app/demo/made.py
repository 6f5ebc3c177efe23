"""The record of a store that was filled: what its viewer needs to know."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

GRAYSCALE, SEGMENTATION, MESHES = "grayscale", "segmentation", "segmentation_meshes"


def name_of(sample: Path | None) -> str:
    """The name of a sample, which its folder has too."""
    return "synthetic" if sample is None else sample.stem


@dataclass
class Made:
    """What the viewer needs to know of a store that was filled."""

    root: str
    child: str
    shape: tuple[int, int, int]
    voxel_size: tuple[float, float, float]
    has_image: bool
    has_labels: bool
    shown: list[int]
    position: tuple[int, int, int]
    split: tuple[int, int] = (0, 0)
    merged: tuple[int, int] = (0, 0)

    def text(self) -> str:
        """The record in the demo's folder."""
        return json.dumps(asdict(self), indent=1)

    @staticmethod
    def parse(text: str) -> Made:
        """The record that `text` made."""
        stored: dict[str, Any] = json.loads(text)
        for name in ("shape", "voxel_size", "position", "split", "merged"):
            stored[name] = tuple(stored[name])
        return Made(**stored)
