"""Arrays that TensorStore opens: zarr 2 and 3, n5, neuroglancer's precomputed, in a folder or behind any URL."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorstore as ts

from app.core.errors import Invalid

#: How the front of a URL, or its end, names the driver. Anything else is recognised by what lies there.
SCHEMES = {
    "zarr": "zarr",
    "zarr2": "zarr",
    "zarr3": "zarr3",
    "n5": "n5",
    "precomputed": "neuroglancer_precomputed",
}
_NANOMETERS = {"": 1.0, "nm": 1.0, "nanometer": 1.0, "um": 1e3, "micrometer": 1e3, "mm": 1e6, "m": 1e9, "meter": 1e9}
_CACHE_BYTES = 256 << 20


class TensorStoreArray:
    """One array, addressed from its own corner; `offset` says where that lies."""

    def __init__(self, store: ts.TensorStore, order: str, voxel_size: Sequence[float] | None) -> None:
        self.order = order
        self.offset = [int(first) for first in store.domain.inclusive_min]
        self.labels = [label.lower() for label in store.domain.labels]
        self.voxel_size = voxel_size or _voxel_size(store)
        self._store = store.translate_to[[0] * store.rank]
        self.shape: Sequence[int] = store.shape
        self.dtype: np.dtype[Any] = store.dtype.numpy_dtype

    def read(self, slices: tuple[slice, ...]) -> npt.NDArray[Any]:
        """A part of the array."""
        return np.asarray(self._store[slices].read().result())


def open_array(url: str) -> TensorStoreArray:
    """The array at a URL or folder; of a multiscale group its finest one."""
    context = ts.Context(
        {
            "cache_pool": {"total_bytes_limit": _CACHE_BYTES},
            "http_request_retries": {"max_retries": 6},
            "gcs_request_retries": {"max_retries": 6},
            "s3_request_retries": {"max_retries": 6},
        }
    )
    scheme, _, rest = url.partition("://")
    driver = SCHEMES.get(scheme)
    if driver is not None:
        url = rest if "://" in rest else "file://" + rest
    elif "://" not in url:
        url = "file://" + url
    if "|" in url:
        return _opened(url, None, context)
    url = url.rstrip("/") + "/"
    inner, voxel_size = _finest(url, context)
    return _opened({"driver": driver or "auto", "kvstore": url + inner}, voxel_size, context)


def _opened(spec: Any, voxel_size: Sequence[float] | None, context: ts.Context) -> TensorStoreArray:
    store = ts.open(spec, open=True, read=True, context=context, recheck_cached_data="open").result()
    name = store.spec().to_json().get("driver", "")
    return TensorStoreArray(store, "xyz" if name in ("n5", "neuroglancer_precomputed") else "zyx", voxel_size)


def _finest(url: str, context: ts.Context) -> tuple[str, Sequence[float] | None]:
    """Path and voxel size of the finest array of an OME-Zarr group or an n5 pyramid; nothing if it is neither."""
    folder = ts.KvStore.open(url, context=context).result()

    def document(name: str) -> dict[str, Any]:
        answer = folder.read(name).result()
        found = json.loads(answer.value) if answer.state == "value" else {}
        return found if isinstance(found, dict) else {}

    attributes = document(".zattrs") or document("zarr.json").get("attributes", {})
    scales = attributes.get("multiscales") or attributes.get("ome", {}).get("multiscales")
    if scales:
        finest = scales[0]["datasets"][0]
        return f"{finest['path']}/", _scale_of(scales[0], finest)
    if document("attributes.json").get("dimensions") is None and "dimensions" in document("s0/attributes.json"):
        return "s0/", None
    return "", None


def _scale_of(group: dict[str, Any], finest: dict[str, Any]) -> Sequence[float] | None:
    scale = [1.0] * len(group.get("axes", []))
    for transformation in [*finest.get("coordinateTransformations", []), *group.get("coordinateTransformations", [])]:
        if transformation.get("type") == "scale":
            scale = [a * b for a, b in zip(scale, transformation["scale"], strict=False)]
    axes = group.get("axes", [])
    if not scale or not all(isinstance(axis, dict) for axis in axes):
        return None
    return [size * _NANOMETERS.get(axis.get("unit", ""), 1.0) for size, axis in zip(scale, axes, strict=False)]


def _voxel_size(store: ts.TensorStore) -> Sequence[float] | None:
    """Nanometres along each axis, if the array says them for all three."""
    units = store.dimension_units
    known = [unit for unit in units if unit is not None and unit.base_unit in _NANOMETERS]
    if len(known) < 3:
        return None
    sizes = [1.0 if unit is None else unit.multiplier * _NANOMETERS.get(unit.base_unit, 1.0) for unit in units]
    if not all(0 < size < float("inf") for size in sizes):
        raise Invalid("the array's units are not positive")
    return sizes
