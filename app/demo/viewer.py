"""Neuroglancer with the demo's two versions side by side: cross-sections above, cells in space below."""

from __future__ import annotations

from typing import Any

from app.demo import colors as palette
from app.demo.made import GRAYSCALE, MESHES, SEGMENTATION, Made

#: What other cells than those shown are faded to in cross-sections.
FADED = 0.1
BACKGROUND = "#101418"
#: How wide a panel is in a browser's window of ordinary size.
PANEL_PIXELS = 720
BEFORE, AFTER, IMAGE = "version 1: as segmented", "version 2: edited", "EM"


def colors(made: Made) -> dict[int, str]:
    """Colours of the cells shown; the half that was cut off has one that stands out."""
    found = {label: palette.color(index) for index, label in enumerate(made.shown)}
    if made.split[1]:
        found[made.split[1]] = "#ffe119"
    return found


def state(server: str, made: Made) -> Any:
    """The viewer's state."""
    import neuroglancer as ng

    state = ng.ViewerState()
    units = ["nm"] * 3
    state.dimensions = ng.CoordinateSpace(names=["x", "y", "z"], units=units, scales=list(made.voxel_size))
    z, y, x = made.shape
    state.position = [x / 2, y / 2, made.position[2] + 0.5]
    # Scales are in voxels along x. The plane fills the panels' width; the cells in space have some air around them.
    longest = max(side * size for side, size in zip((x, y, z), made.voxel_size, strict=True)) / made.voxel_size[0]
    state.cross_section_scale = x / PANEL_PIXELS
    state.projection_scale = longest * 1.5
    state.cross_section_background_color = BACKGROUND
    state.projection_orientation = [0.35, 0.28, 0.05, 0.89]
    state.projection_background_color = BACKGROUND
    state.show_axis_lines = False
    state.show_default_annotations = False
    state.title = "DVID Cloud"
    after = f"{server}/api/node/{made.child}"
    if made.has_image:
        state.layers[IMAGE] = ng.ImageLayer(source=f"dvid://{server}/{made.root}/{GRAYSCALE}")
    groups: list[list[str]] = [[IMAGE] if made.has_image else []] * 2
    if made.has_labels:
        look: dict[str, Any] = {
            "segment_colors": colors(made),
            "selected_alpha": 0.42,
            "not_selected_alpha": FADED,
            "object_alpha": 1.0,
        }
        state.layers[BEFORE] = ng.SegmentationLayer(
            source=f"dvid://{server}/{made.root}/{SEGMENTATION}", segments=made.shown, **look
        )
        state.layers[AFTER] = ng.SegmentationLayer(
            source=[
                f"precomputed://{after}/{SEGMENTATION}/precomputed",
                f"precomputed://{after}/{MESHES}/key",
            ],
            segments=[label for label in [*made.shown, made.split[1]] if label != made.merged[1]],
            **look,
        )
        groups = [[*groups[0], BEFORE], [*groups[1], AFTER]]
    state.layout = ng.row_layout(
        [
            ng.column_layout(
                [
                    ng.LayerGroupViewer(layers=layers, layout="xy"),
                    ng.LayerGroupViewer(layers=layers, layout="3d"),
                ]
            )
            for layers in (groups if made.has_labels else groups[:1])
        ]
    )
    return state


def open_viewer(server: str, made: Made) -> Any:
    """A viewer served on this machine only; `get_viewer_url()` of it is the page."""
    import neuroglancer as ng

    ng.set_server_bind_address("127.0.0.1")
    viewer = ng.Viewer()
    viewer.set_state(state(server, made))
    return viewer
