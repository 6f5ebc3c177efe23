"""Keys of an annotation instance's tree. Integers are big-endian, so that their order is numeric.

block/{z}{y}{x}             JSON list of a block's elements, as LZ4 after its size (uint32): the master copy
rows/{z}{y}{x}              for each of them in the same order what `table.ROW` says, its supervoxel included;
                            perhaps also the number of the first delta that is not in them (uint64, little-endian)
tag/{tag}\\0{z}{y}{x}        the block has an element with the tag; no value
sv/{supervoxel}{z}{y}{x}    the block has an element in the supervoxel; no value
delta/{number}              elements that were posted and are in no block yet: see `deltas`
given/{label}               a list that a client posted for a label instead
state/deltas                the first of these, the number after the last one, and the weight of all
state/grid                  the size x, y, z of the blocks, from the first write on
state/labels                up to which mutation of the labels the supervoxels are true
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from app.core.errors import Invalid
from app.core.geometry import Triple, block_key, parse_block_key

GRID = b"state/grid"
LABELS = b"state/labels"
DELTAS = b"state/deltas"

_BLOCK, _ROWS, _TAG, _SV, _GIVEN, _DELTA = b"block/", b"rows/", b"tag/", b"sv/", b"given/", b"delta/"
_PLACE_BYTES = 12
#: Longer tags would not fit a key of the tree.
MAX_TAG_BYTES = 60_000


def block(zyx: Triple) -> bytes:
    """The elements of a block."""
    return _BLOCK + block_key(zyx)


def all_blocks() -> tuple[bytes, bytes]:
    """The range of the elements of all blocks."""
    return _BLOCK, _BLOCK + b"\xff" * (_PLACE_BYTES + 1)


def rows(zyx: Triple) -> bytes:
    """The rows of a block."""
    return _ROWS + block_key(zyx)


def all_rows() -> tuple[bytes, bytes]:
    """The range of the rows of all blocks."""
    return _ROWS, _ROWS + b"\xff" * (_PLACE_BYTES + 1)


def rows_between(first: Triple, last: Triple) -> tuple[bytes, bytes]:
    """The range of the rows of blocks from one to another in order of z, y, x, both included."""
    return rows(first), rows(last) + b"\0"


def tagged(tag: str, zyx: Triple) -> bytes:
    """The key that says that a block has an element with a tag."""
    return tagged_range(tag)[0] + block_key(zyx)


def tagged_range(tag: str) -> tuple[bytes, bytes]:
    """The range of these keys of a tag; `places` leaves out those of longer tags that begin with it and a NUL."""
    encoded = tag.encode("utf-8", "surrogateescape")
    if len(encoded) > MAX_TAG_BYTES:
        raise Invalid(f"a tag has {len(encoded)} bytes; at most {MAX_TAG_BYTES} are allowed")
    start = _TAG + encoded + b"\0"
    return start, start + b"\xff" * (_PLACE_BYTES + 1)


def supervoxel(label: int, zyx: Triple) -> bytes:
    """The key that says that a block has an element in a supervoxel."""
    return _SV + label.to_bytes(8, "big") + block_key(zyx)


def supervoxels(first: int, last: int) -> tuple[bytes, bytes]:
    """The range of these keys of supervoxels from first to last, both included."""
    return _SV + first.to_bytes(8, "big"), _SV + last.to_bytes(8, "big") + b"\xff" * (_PLACE_BYTES + 1)


def places_of(keys: list[bytes], wanted: npt.NDArray[np.uint64]) -> list[Triple]:
    """The blocks z, y, x that such keys name for supervoxels that are wanted."""
    if not keys:
        return []
    rows = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), -1)
    labels = np.ascontiguousarray(rows[:, len(_SV) : len(_SV) + 8]).view(">u8")[:, 0].astype(np.uint64)
    chosen = keys if len(wanted) == 1 else [keys[index] for index in np.flatnonzero(np.isin(labels, wanted)).tolist()]
    return [parse_block_key(key[-_PLACE_BYTES:]) for key in chosen]


def delta(number: int) -> bytes:
    """Posted elements that are in no block yet."""
    return _DELTA + number.to_bytes(8, "big")


def given(label: int) -> bytes:
    """The list that a client posted for a label."""
    return _GIVEN + label.to_bytes(8, "big")


def label_given(key: bytes) -> int:
    """The label of such a key."""
    return int.from_bytes(key[len(_GIVEN) :], "big")


def all_given() -> tuple[bytes, bytes]:
    """The range of all such lists."""
    return _GIVEN, _GIVEN + b"\xff" * 9


def places(keys: list[bytes], prefix: bytes = _ROWS) -> list[Triple]:
    """The blocks z, y, x that keys with this prefix name."""
    length = len(prefix) + _PLACE_BYTES
    return [parse_block_key(key[len(prefix) :]) for key in keys if len(key) == length]
