"""Published volumes: images that others wrote as precomputed, zarr (2 or 3) or n5, read through TensorStore.

A volume never changes, so it is opened once and its metadata and chunks are never checked again. Whatever axes it
has, it is read as z, y, x; further axes must have one element.
"""

from __future__ import annotations

import asyncio
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import tensorstore as ts
from PIL import Image

from app.backends.store import Store, StoreOptions
from app.core.errors import Invalid, StoreUnavailable
from app.core.geometry import Box, Triple

Array = npt.NDArray[Any]
Floats = tuple[float, float, float]

_SCHEMES = ("file", "memory", "gs", "s3")
#: How neuroglancer and others mark formats in front of a URL; we look at the files instead.
_MARKS = ("precomputed://", "zarr://", "zarr2://", "zarr3://", "n5://")
_NANOMETERS = {"m": 1e9, "cm": 1e7, "mm": 1e6, "um": 1e3, "µm": 1e3, "nm": 1.0, "Å": 0.1, "angstrom": 0.1}
_WORDS = {"meter": "m", "centimeter": "cm", "millimeter": "mm", "micrometer": "um", "micron": "um", "nanometer": "nm"}
#: A volume that says nothing of its resolution.
_UNKNOWN = 8.0
_DEFAULT_AXES = {"zarr": "tczyx", "zarr3": "tczyx", "n5": "xyzct"}
_MAX_METADATA_BYTES = 16 << 20


class Volumes:
    """The volumes that this process has opened, and where it may open them."""

    def __init__(self, options: StoreOptions, allowed: Iterable[str]) -> None:
        self._options = options
        self._allowed = [_normal(url) for url in allowed]
        self._open: dict[tuple[str, int], asyncio.Task[Volume]] = {}

    def allowed(self, url: str, *, anywhere: bool = False) -> str:
        """The URL to open, refused outside of the server's own stores and its list of sources.

        What follows a `?` may name another server, so it must be that of the allowed place, or is taken from there.
        """
        normal = _normal(url)
        place, _, options = normal.partition("?")
        for root in self._allowed:
            root_place, _, root_options = root.partition("?")
            if f"{place}/".startswith(f"{root_place}/") and options in ("", root_options):
                return f"{place}?{root_options}" if root_options else place
        if anywhere:
            return normal
        raise Invalid(f"this server does not read volumes at {url}; its administrator may list it in `sources`")

    async def open(self, url: str, scale: int = 0) -> Volume:
        """The volume at a URL: the given scale, if it has several."""
        task = self._open.get((url, scale))
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._open[url, scale] = asyncio.create_task(_open(Store(url, self._options), scale))
        return await asyncio.shield(task)


def _normal(url: str) -> str:
    """A URL without marks; no part of it may lead upwards or hide where it leads."""
    for mark in _MARKS:
        url = url.removeprefix(mark)
    url = url.split("|", 1)[0].rstrip("/")
    if "://" not in url:
        return Store(url).url
    scheme, _, rest = url.partition("://")
    if scheme not in _SCHEMES:
        raise Invalid(f"{url!r}: the scheme must be one of {', '.join(_SCHEMES)}")
    rest = rest.split("?", 1)[0]
    parts = rest.split("/")
    if "%" in rest or "\\" in rest or "#" in rest or any(part in (".", "..") for part in parts) or "" in parts[1:]:
        raise Invalid(f"{url!r} is not a plain URL of a volume")
    return url


@dataclass(frozen=True, eq=False)
class Volume:
    """An open volume. `bounds` is in voxels, `voxel_size` in nanometers, both z, y, x.

    `key` is the path of the scale's files below the URL; `metadata` what the volume's own files say.
    """

    store: Store
    array: ts.TensorStore
    driver: str
    key: str
    bounds: Box
    dtype: np.dtype[Any]
    voxel_size: Floats
    chunk: Triple
    metadata: Mapping[str, Any] = field(repr=False)

    async def read(self, box: Box) -> Array:
        """The voxels of a box, C-contiguous z, y, x; 0 beyond the bounds."""
        inside = box.intersect(self.bounds)
        if min(inside.shape) <= 0:
            return np.zeros(box.shape, self.dtype)
        found = await self.store.guard(self.array[inside.slices()].read(order="C"))
        voxels: Array = np.ascontiguousarray(found, self.dtype)
        if inside == box:
            return voxels
        out = np.zeros(box.shape, self.dtype)
        out[inside.shift((-box.start[0], -box.start[1], -box.start[2])).slices()] = voxels
        return out

    async def read_file(self, name: str, start: int = 0, stop: int | None = None) -> bytes | None:
        """A file of the volume as it is, or a part of it; None if there is no such file."""
        if any(part in ("", ".", "..") for part in name.split("/")):
            return None
        folder = await self.store.folder("")
        answer = await self.store.guard(folder.read(name, byte_range=slice(start, stop)))
        return bytes(answer.value) if answer.state == "value" else None

    async def encoded_chunk(self, box: Box) -> bytes | None:
        """The bytes of the chunk that is exactly this box, as the volume has them; None if there is no such chunk."""
        if self.driver != "neuroglancer_precomputed":
            return None
        place = [a - b for a, b in zip(box.start, self.bounds.start, strict=True)]
        if box.shape != self.chunk or box.intersect(self.bounds) != box:
            return None
        if any(a % b for a, b in zip(place, self.chunk, strict=True)):
            return None
        sharding = self.metadata.get("sharding")
        if sharding is None:
            ranges = zip(box.start[::-1], box.stop[::-1], strict=True)
            return await self.read_file(f"{self.key}/" + "_".join(f"{a}-{b}" for a, b in ranges))
        grid = [-(-side // step) for side, step in zip(self.bounds.shape, self.chunk, strict=True)]
        number = morton([a // b for a, b in zip(place[::-1], self.chunk[::-1], strict=True)], grid[::-1])
        shards = await self.store.guard(
            ts.KvStore.open(
                {
                    "driver": "neuroglancer_uint64_sharded",
                    "metadata": sharding,
                    "base": self.store.spec(f"{self.key}/"),
                },
                context=self.store.context,
            )
        )
        answer = await self.store.guard(shards.read(number.to_bytes(8, "big")))
        return bytes(answer.value) if answer.state == "value" else None

    async def jpeg(self, box: Box) -> bytes | None:
        """The chunk that is this box if it is a JPEG of stacked slices: as wide as x, as high as y times z."""
        if self.metadata.get("encoding") != "jpeg":
            return None
        data = await self.encoded_chunk(box)
        if data is None:
            return None
        try:
            with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
                is_stacked = image.size == (box.shape[2], box.shape[0] * box.shape[1]) and image.mode == "L"
        except (OSError, SyntaxError, ValueError):
            return None
        return data if is_stacked else None


def morton(place: Sequence[int], grid: Sequence[int]) -> int:
    """The compressed Morton code of a chunk x, y, z in a grid of so many chunks."""
    bits = [(side - 1).bit_length() for side in grid]
    code = at = 0
    for bit in range(max(bits, default=0)):
        for axis, many in enumerate(bits):
            if bit < many:
                code |= (place[axis] >> bit & 1) << at
                at += 1
    return code


async def _open(store: Store, scale: int) -> Volume:
    try:
        return await _look(store, scale)
    except (StoreUnavailable, KeyError, TypeError, ValueError, IndexError) as error:
        raise Invalid(f"{store.url} is not a volume that can be read: {error}") from error


async def _look(store: Store, scale: int) -> Volume:
    """Find out the format by its metadata file, and the place of the scale."""
    info = await _json(store, "info")
    if info is not None:
        scales = info["scales"]
        if not 0 <= scale < len(scales):
            raise Invalid(f"{store.url} has {len(scales)} scales, not {scale + 1}")
        found = scales[scale]
        _check_key(store, found["key"])
        spec = {"driver": "neuroglancer_precomputed", "kvstore": store.spec(), "scale_index": scale}
        size = _floats([*found["resolution"]][::-1])
        return await _opened(store, spec, found["key"], "xyzc", size, found)
    for driver, name, group in (("zarr3", "zarr.json", ""), ("zarr", ".zarray", ".zattrs")):
        described = await _json(store, name)
        attributes = await _json(store, group) if group else (described or {}).get("attributes", {})
        attributes = attributes or {}
        multiscales = attributes.get("ome", attributes).get("multiscales")
        if multiscales:
            return await _ome(store, driver, multiscales[0], scale)
        if described is not None and described.get("node_type", "array") == "array":
            return await _opened(store, {"driver": driver, "kvstore": store.spec()}, "", None, None, described)
    for key in ("", f"s{scale}/"):
        described = await _json(store, f"{key}attributes.json")
        if described is not None and "dimensions" in described:
            return await _opened(store, {"driver": "n5", "kvstore": store.spec(key)}, key, None, None, described)
    raise Invalid(f"there is no volume at {store.url}")


async def _ome(store: Store, driver: str, multiscale: Mapping[str, Any], scale: int) -> Volume:
    """A scale of an OME-Zarr pyramid."""
    datasets = multiscale["datasets"]
    if not 0 <= scale < len(datasets):
        raise Invalid(f"{store.url} has {len(datasets)} scales, not {scale + 1}")
    dataset = datasets[scale]
    key = f"{str(dataset['path']).strip('/')}/"
    _check_key(store, key)
    axes = multiscale.get("axes", ["t", "c", "z", "y", "x"])
    names = [axis if isinstance(axis, str) else axis["name"] for axis in axes]
    units = [1.0 if isinstance(axis, str) else _unit(axis.get("unit")) for axis in axes]
    given = [*multiscale.get("coordinateTransformations", []), *dataset.get("coordinateTransformations", [])]
    scales = [step["scale"] for step in given if step.get("type") == "scale"]
    factors = reduce(lambda a, b: [x * y for x, y in zip(a, b, strict=True)], scales, [1.0] * len(names))
    by_axis = {name: factor * unit for name, factor, unit in zip(names, factors, units, strict=True)}
    size = _floats([by_axis["z"], by_axis["y"], by_axis["x"]]) if scales else None
    described = await _json(store, key + ("zarr.json" if driver == "zarr3" else ".zarray"))
    spec = {"driver": driver, "kvstore": store.spec(key)}
    return await _opened(store, spec, key.rstrip("/"), "".join(names), size, described or {})


async def _opened(
    store: Store,
    spec: Mapping[str, Any],
    key: str,
    axes: str | None,
    voxel_size: Floats | None,
    metadata: Mapping[str, Any],
) -> Volume:
    options = {"recheck_cached_data": False, "recheck_cached_metadata": "open"}
    array = await store.guard(ts.open({**spec, **options}, open=True, read=True, context=store.context))
    driver = spec["driver"]
    if axes is None:
        labels = [label.lower() for label in array.domain.labels]
        default = _DEFAULT_AXES[driver]
        if all(labels):
            axes = "".join(label[0] for label in labels)
        else:
            axes = default[-array.rank :] if default.endswith("x") else default[: array.rank]
    if array.rank != len(axes) or not set("xyz") <= set(axes) or len(set(axes)) != len(axes):
        raise Invalid(f"{store.url} has the axes {axes!r} in {array.rank} dimensions; x, y and z are needed")
    units = dict(zip(axes, array.dimension_units, strict=True))
    for axis in reversed(range(array.rank)):
        if axes[axis] not in "xyz":
            if array.shape[axis] != 1:
                raise Invalid(f"{store.url} has {array.shape[axis]} elements along {axes[axis]}; one is supported")
            array = array[(slice(None),) * axis + (array.domain[axis].inclusive_min,)]
            axes = axes[:axis] + axes[axis + 1 :]
    order = [axes.index(name) for name in "zyx"]
    array = array[ts.d[tuple(order)].transpose[0, 1, 2]]
    read_chunk = array.chunk_layout.read_chunk.shape or array.shape
    if voxel_size is None:
        voxel_size = _floats([_length(units[name]) for name in "zyx"])
    bounds = Box(_triple(array.domain.inclusive_min), _triple(array.domain.exclusive_max))
    dtype = array.dtype.numpy_dtype.newbyteorder("<")
    return Volume(store, array, driver, key, bounds, dtype, voxel_size, _triple(read_chunk), metadata)


def _check_key(store: Store, key: str) -> None:
    if any(part in (".", "..") for part in key.split("/")):
        raise Invalid(f"{store.url}: the path {key!r} leads out of the volume")


async def _json(store: Store, name: str) -> dict[str, Any] | None:
    """A metadata file, if it is there."""
    folder = await store.folder("")
    answer = await store.guard(folder.read(name))
    if answer.state != "value":
        return None
    if len(answer.value) > _MAX_METADATA_BYTES:
        raise Invalid(f"{store.url}/{name} is too large")
    found = orjson.loads(answer.value)
    return found if isinstance(found, dict) else None


def _unit(word: Any) -> float:
    """Nanometers in a unit of OME."""
    return _NANOMETERS.get(_WORDS.get(str(word), str(word)), 1.0)


def _length(unit: ts.Unit | None) -> float:
    """Nanometers in a unit of TensorStore."""
    if unit is None or unit.base_unit not in _NANOMETERS:
        return _UNKNOWN
    return float(unit.multiplier) * _NANOMETERS[unit.base_unit]


def _floats(values: Sequence[float]) -> Floats:
    z, y, x = map(float, values)
    if not all(math.isfinite(value) and value > 0 for value in (z, y, x)):
        raise Invalid(f"the voxel size {values} is not positive")
    return z, y, x


def _triple(values: Iterable[Any]) -> Triple:
    z, y, x = map(int, values)
    return z, y, x
