"""Keys of a labelmap's tree. Integers are big-endian, so that their order is numeric.

block/{scale}{z}{y}{x}         gzip of the compressed label block, as clients exchange it; supervoxel ids
sv/{supervoxel}{z}{y}{x}{n}    index of scale 0: the supervoxel has n voxels in the block; no value
map/{supervoxel}{body}         a supervoxel's body where it is not the supervoxel's own number; no value
index/{supervoxel}{body}       the body whose posted index lists the supervoxel; no value
body/{body}{supervoxel}        members of a body beside the supervoxel of its own number; no value
head/{body}                    who changed a body last
state/...                      extents, largest label, mark of the mapping
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from app.core.geometry import MAX_COORDINATE, Triple, block_key

U64 = npt.NDArray[np.uint64]

MAPPING_MARK = b"state/mapping"
MAX_LABEL = b"state/max-label"

_SV, _MAP, _INDEX, _BODY = b"sv/", b"map/", b"index/", b"body/"
_SV_LENGTH = len(_SV) + 8 + 12 + 4
#: The largest scale that a URL can name.
MAX_SCALE = 255


def number(label: int) -> bytes:
    """A label as eight bytes."""
    return int(label).to_bytes(8, "big")


def block(scale: int, zyx: Triple) -> bytes:
    """The key of a block."""
    return b"block/" + bytes([scale]) + block_key(zyx)


def counts(zyx: Triple, labels: U64, numbers: npt.NDArray[np.uint32]) -> list[bytes]:
    """Index keys of one block: one for each label, which must not be 0."""
    place = block_key(zyx)
    return [
        _SV + label + place + count for label, count in zip(_words(labels, ">u8"), _words(numbers, ">u4"), strict=True)
    ]


def count(supervoxel: int, zyx: Triple, voxels: int) -> bytes:
    """One index key."""
    return _SV + number(supervoxel) + block_key(zyx) + voxels.to_bytes(4, "big")


def _words(values: npt.NDArray[np.generic], dtype: str) -> list[bytes]:
    """Numbers as big-endian byte strings."""
    size = np.dtype(dtype).itemsize
    joined = values.astype(dtype).tobytes()
    return [joined[start : start + size] for start in range(0, len(joined), size)]


def supervoxel(label: int) -> tuple[bytes, bytes]:
    """The range of a supervoxel's index keys."""
    return supervoxels(label, label)


def supervoxels(first: int, last: int) -> tuple[bytes, bytes]:
    """The range of the index keys of supervoxels from first to last, both included."""
    return _SV + number(first), _SV + number(last) + b"\xff" * 17


class Counts:
    """Index entries in columns: supervoxels uint64 (n), blocks int64 (n, 3) as z, y, x, voxels uint32 (n)."""

    def __init__(self, keys: list[bytes]) -> None:
        rows = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, _SV_LENGTH)
        start = len(_SV)
        self.supervoxels: U64 = _column(rows, start, ">u8").astype(np.uint64)
        coordinates = [_column(rows, start + 8 + 4 * axis, ">u4").astype(np.int64) for axis in range(3)]
        self.blocks: npt.NDArray[np.int64] = np.stack(coordinates, axis=1) - MAX_COORDINATE
        self.voxels: npt.NDArray[np.uint32] = _column(rows, start + 20, ">u4").astype(np.uint32)

    def __len__(self) -> int:
        return len(self.voxels)


def _column(rows: npt.NDArray[np.uint8], start: int, dtype: str) -> npt.NDArray[np.generic]:
    size = np.dtype(dtype).itemsize
    return np.ascontiguousarray(rows[:, start : start + size]).view(dtype)[:, 0]


def mapped(supervoxel: int, body: int) -> bytes:
    """The key that maps a supervoxel to a body."""
    return _MAP + number(supervoxel) + number(body)


def mapping_of(supervoxel: int) -> tuple[bytes, bytes]:
    """The range in which a supervoxel's mapping is, if it has one."""
    return _MAP + number(supervoxel), _MAP + number(supervoxel) + b"\xff" * 9


def mapping() -> tuple[bytes, bytes]:
    """The range of the whole mapping."""
    return _MAP, _MAP + b"\xff" * 17


def pairs(keys: list[bytes]) -> U64:
    """The two numbers of each key of `map/`, `index/` or `body/`: uint64 (n, 2)."""
    if not keys:
        return np.empty((0, 2), np.uint64)
    rows = np.frombuffer(b"".join(key[-16:] for key in keys), ">u8").reshape(-1, 2)
    return rows.astype(np.uint64)


def indexed(supervoxel: int, body: int) -> bytes:
    """The key that says whose posted index lists a supervoxel."""
    return _INDEX + number(supervoxel) + number(body)


def index_of(supervoxel: int) -> tuple[bytes, bytes]:
    """The range in which that key is, if there is one."""
    return _INDEX + number(supervoxel), _INDEX + number(supervoxel) + b"\xff" * 9


def index() -> tuple[bytes, bytes]:
    """The range of all of them."""
    return _INDEX, _INDEX + b"\xff" * 17


def member(body: int, supervoxel: int) -> bytes:
    """The key that makes a supervoxel a member of a body."""
    return _BODY + number(body) + number(supervoxel)


def members_of(body: int) -> tuple[bytes, bytes]:
    """The range of a body's members."""
    return _BODY + number(body), _BODY + number(body) + b"\xff" * 9


def head(body: int) -> bytes:
    """Who changed a body last."""
    return b"head/" + number(body)
