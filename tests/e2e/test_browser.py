"""Neuroglancer in a real browser shows what the server holds: the image, and two versions of its cells."""

from __future__ import annotations

import io
import json
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from app.demo.made import Made
from app.demo.viewer import colors
from tests.e2e.conftest import PICTURES, Demo, end_demo, start_demo

pytestmark = pytest.mark.browser

WIDTH, HEIGHT = 1500, 1100
ALPHA = 0.42
#: What a picture may differ from the colours expected: scaling of pixels, and the image's grain.
TOLERANCE = 24

RGB = npt.NDArray[np.float64]


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:
        found: bytes = answer.read()
        return found


def _plane(demo: Demo, version: str, name: str, dtype: str) -> npt.NDArray[Any]:
    """The plane that the viewer shows, y, x, as the server's API tells it."""
    _, y, x = demo.made["shape"]
    raw = _get(f"{demo.server}/api/node/{version}/{name}/raw/0_1_2/{x}_{y}_1/0_0_{demo.made['position'][2]}")
    return np.frombuffer(raw, dtype).reshape(y, x)


class Shot:
    """A picture of the page, and where its cross-sections are on it."""

    def __init__(self, page: Any, demo: Demo, name: str) -> None:
        PICTURES.mkdir(exist_ok=True)
        self.path = PICTURES / f"{name}.png"
        data = page.screenshot(path=str(self.path))
        self.pixels: RGB = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(np.float64)
        boxes = page.evaluate(
            "[...document.querySelectorAll('.neuroglancer-rendered-data-panel')].map(e => {"
            " const r = e.getBoundingClientRect(); return [r.left, r.top, r.width, r.height]; })"
        )
        #: Of the first and the second version: cross-sections lie above the cells in space.
        self.planes = sorted(sorted(boxes, key=lambda box: box[1])[:2])
        self.spaces = sorted(sorted(boxes, key=lambda box: box[1])[2:])
        self.scale = page.evaluate("viewer.crossSectionScale.value")
        self._shape = demo.made["shape"]

    def section(self, panel: int) -> tuple[RGB, npt.NDArray[np.bool_]]:
        """The colour at the middle of every voxel of the plane, y, x; and which voxels can be seen."""
        left, top, width, height = self.planes[panel]
        _, ny, nx = self._shape
        x = left + width / 2 + (np.arange(nx) + 0.5 - nx / 2) / self.scale
        y = top + height / 2 + (np.arange(ny) + 0.5 - ny / 2) / self.scale
        seen_x = (x > left + 2) & (x < left + width - 2)
        seen_y = (y > top + 2) & (y < top + height - 2)
        columns = np.clip(x.astype(int), 0, self.pixels.shape[1] - 1)
        rows = np.clip(y.astype(int), 0, self.pixels.shape[0] - 1)
        seen = seen_y[:, None] & seen_x[None, :]
        for left, top, right, bottom in self._widgets(panel):
            seen &= ~(((y > top) & (y < bottom))[:, None] & ((x > left) & (x < right))[None, :])
        return self.pixels[rows][:, columns], seen

    def _widgets(self, panel: int) -> list[tuple[float, float, float, float]]:
        """Places that buttons, the scale bar and the names of axes cover: left, top, right, bottom."""
        left, top, width, height = self.planes[panel]
        return [
            (left + width - 70, top, left + width, top + 30),
            (left, top + height - 60, left + 170, top + height),
            (left, top, left + 30, top + 70),
        ]


@pytest.fixture(scope="module")
def shot(browser: Any, demo: Demo) -> Shot:
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
    refused: list[str] = []
    asked: list[str] = []

    def answered(response: Any) -> None:
        if response.url.startswith(demo.server):
            asked.append(response.url)
            if response.status >= 400 and not _may_be_absent(response.url):
                refused.append(f"{response.status} {response.url}")

    page.on("response", answered)
    page.goto(demo.viewer)
    page.wait_for_function("window.viewer !== undefined", timeout=60_000)
    page.wait_for_function("viewer.isReady()", timeout=60_000)
    _wait_until_still(page)
    found = Shot(page, demo, "demo")
    page.close()
    assert not refused
    # Both ways to the labels were used, and the dvid:// source for the image.
    assert any("/segmentation/raw/0_1_2/" in url and "compression=googlegzip" in url for url in asked)
    assert any("/segmentation/precomputed/s0/" in url for url in asked)
    assert any("/grayscale/raw/0_1_2/" in url and "/jpeg" in url for url in asked)
    return found


def _may_be_absent(url: str) -> bool:
    """Whether neuroglancer only tries whether there is such a file: what a mesh's folder may have beside it."""
    return url.endswith(("/provenance", "segment_properties/info"))


def _wait_until_still(page: Any) -> None:
    """Wait until nothing that is drawn changes any more."""
    last = b""
    for _ in range(60):
        page.wait_for_timeout(1000)
        data = page.screenshot()
        if data == last and page.evaluate("viewer.isReady()"):
            return
        last = data
    raise AssertionError("the picture never came to rest")


def _rgb(color: str) -> RGB:
    return np.array([int(color[start : start + 2], 16) for start in (1, 3, 5)], np.float64)


def _inner(region: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """A region without its rim."""
    padded = np.pad(region, 2)
    found = region.copy()
    for dy in range(5):
        for dx in range(5):
            found &= padded[dy : dy + region.shape[0], dx : dx + region.shape[1]]
    return found


@pytest.mark.parametrize(("panel", "version"), [(0, "root"), (1, "child")], ids=["dvid", "precomputed"])
def test_cells_have_their_colours_where_the_server_has_their_labels(
    shot: Shot, demo: Demo, panel: int, version: str
) -> None:
    made = Made.parse(json.dumps(demo.made))
    labels = _plane(demo, demo.made[version], "segmentation", "<u8")
    grey = _plane(demo, demo.made["root"], "grayscale", "u1").astype(np.float64)
    pixels, seen = shot.section(panel)
    checked = 0
    for label, color in colors(made).items():
        region = _inner(labels == label) & seen
        if region.sum() < 40:
            continue
        expected = ALPHA * _rgb(color) + (1 - ALPHA) * grey[region].mean()
        assert np.abs(pixels[region].mean(axis=0) - expected).max() < TOLERANCE, f"{label} should be {color}"
        checked += 1
    assert checked >= 4
    if version == "child":
        assert (labels == made.split[1]).any()
        assert not (labels == made.merged[1]).any()


def test_versions_differ_where_the_edit_is_and_nowhere_else(shot: Shot, demo: Demo) -> None:
    before = _plane(demo, demo.made["root"], "segmentation", "<u8")
    after = _plane(demo, demo.made["child"], "segmentation", "<u8")
    (left, seen_left), (right, seen_right) = shot.section(0), shot.section(1)
    seen = seen_left & seen_right
    changed = before != after
    difference = np.abs(left - right).max(axis=2)
    assert (_inner(changed) & seen).sum() > 100
    assert np.median(difference[_inner(changed) & seen]) > 30
    assert np.median(difference[_inner(~changed) & seen]) < 6


def test_image_is_not_blank_and_is_the_servers(shot: Shot, demo: Demo) -> None:
    grey = _plane(demo, demo.made["root"], "grayscale", "u1").astype(np.float64)
    pixels, seen = shot.section(0)
    assert grey.std() > 20
    shown = pixels.mean(axis=2)
    assert np.corrcoef(shown[seen], grey[seen])[0, 1] > 0.6


def test_cells_in_space_are_drawn_in_both_versions(shot: Shot, demo: Demo) -> None:
    made = Made.parse(json.dumps(demo.made))
    yellow = _rgb(colors(made)[made.split[1]])
    found = []
    for left, top, width, height in shot.spaces:
        part = shot.pixels[int(top) + 5 : int(top + height) - 5, int(left) + 40 : int(left + width) - 40]
        assert (part.max(axis=2) > 90).mean() > 0.02, "no surfaces"
        brightness = part.max(axis=2, keepdims=True)
        hue = part / np.maximum(brightness, 1) * 255
        found.append(int(((np.abs(hue - yellow).max(axis=2) < 25) & (brightness[..., 0] > 60)).sum()))
    assert found[1] > found[0] + 50, f"the part that was cut off should be yellow: {found}"


def test_a_second_start_shows_the_same_store_and_ctrl_c_ends_it(demo: Demo, demo_folder: Path) -> None:
    assert end_demo(demo) == 0
    again = start_demo(demo_folder)
    try:
        assert again.made == demo.made
        info = json.loads(_get(f"{again.server}/api/repos/info"))
        assert list(info) == [demo.made["root"]]
        nodes = info[demo.made["root"]]["DAG"]["Nodes"]
        assert nodes[demo.made["root"]]["Locked"]
        assert not nodes[demo.made["child"]]["Locked"]
    finally:
        assert end_demo(again) == 0
