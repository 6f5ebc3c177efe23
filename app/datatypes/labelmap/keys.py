"""Keys of a labelmap's tree. Integers are big-endian, so that their order is numeric.

block/{scale}{z}{y}{x}          gzip of the compressed label block, as clients exchange it; supervoxel ids
sv/{supervoxel}{z}{y}{x}{n}     index of scale 0: the supervoxel has n voxels in the block
delta/{number}                  changes of that index that are not in `sv/` yet (`deltas.py`)
map/{supervoxel}{group}         the group that an edit put a supervoxel in; group 0: the supervoxel is retired
group/{group}{kind}{of}{n}      a group of n supervoxels; kind 0: `of` is its body, kind 1: the group it is part of
child/{group}{kind}{member}     members of a group: supervoxels (kind 0) and groups (kind 1)
root/{body}{group}              the group that is the whole body
fixed/{supervoxel}{body}        a posted mapping that says something else than the groups
stale/{body}{supervoxel}        an index that was not posted anew still lists what another index has taken over
head/{body}                     who changed a body last
turn/{number}                   what one edit changed of the mapping, for readers that know the one before
state/...                       extents, largest label, number of the last turn, range of deltas

Where no value is named there is none: the key says it all, so a list of keys reads the whole table.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from app.core.geometry import MAX_COORDINATE, Triple, block_key, parse_block_key

U64 = npt.NDArray[np.uint64]

#: The number of the last change of the mapping, eight bytes; absent before the first.
MAPPING_MARK = b"state/mapping"
#: How many posted mappings differ from the groups, eight bytes; absent if there never was one.
FIXED_COUNT = b"state/fixed"
#: Whether any index is stale; absent before the first.
HAS_STALE = b"state/stale"
#: The range of deltas (first, behind the last) and the number of their rows.
DELTAS = b"state/deltas"
MAX_LABEL = b"state/max-label"

SV, DELTA, HEAD = b"sv/", b"delta/", b"head/"
_BLOCK, _TURN = b"block/", b"turn/"
_MAP, _GROUP, _CHILD, _ROOT, _FIXED, _STALE = b"map/", b"group/", b"child/", b"root/", b"fixed/", b"stale/"
_SV_LENGTH = len(SV) + 8 + 12 + 4
#: The largest scale that a URL can name.
MAX_SCALE = 255


def number(label: int) -> bytes:
    """A label as eight bytes."""
    return int(label).to_bytes(8, "big")


def block(scale: int, zyx: Triple) -> bytes:
    """The key of a block."""
    return _BLOCK + bytes([scale]) + block_key(zyx)


def parse_block(key: bytes) -> tuple[int, Triple] | None:
    """The scale and the place of a block by its key; None for another key."""
    return (key[len(_BLOCK)], parse_block_key(key[len(_BLOCK) + 1 :])) if key.startswith(_BLOCK) else None


def is_of_index(key: bytes) -> bool:
    """Whether a key belongs to the index of scale 0."""
    return key.startswith((SV, DELTA)) or key == DELTAS


def is_stale(key: bytes) -> bool:
    """Whether a key says that an index is stale, or that any is."""
    return key.startswith(_STALE) or key == HAS_STALE


def is_of_mapping(key: bytes) -> bool:
    """Whether a key belongs to the groups and the mapping."""
    tables = (_MAP, _GROUP, _CHILD, _ROOT, _FIXED, _STALE, _TURN)
    return key.startswith(tables) or key in (MAPPING_MARK, FIXED_COUNT, HAS_STALE)


def supervoxel(label: int) -> tuple[bytes, bytes]:
    """The range of a supervoxel's index keys."""
    return supervoxels(label, label)


def supervoxels(first: int, last: int) -> tuple[bytes, bytes]:
    """The range of the index keys of supervoxels from first to last, both included."""
    return SV + number(first), SV + number(last) + b"\xff" * 17


def supervoxel_of(key: bytes) -> int:
    """The supervoxel of an index key, which may be cut short."""
    return int.from_bytes(key[len(SV) : len(SV) + 8].ljust(8, b"\0"), "big")


class Counts:
    """Index entries in columns: supervoxels uint64 (n), blocks int64 (n, 3) as z, y, x, voxels uint32 (n)."""

    def __init__(self, supervoxels: U64, blocks: npt.NDArray[np.int64], voxels: npt.NDArray[np.uint32]) -> None:
        self.supervoxels = supervoxels
        self.blocks = blocks
        self.voxels = voxels

    @staticmethod
    def of_keys(keys: list[bytes]) -> Counts:
        """The entries that keys of `sv/` stand for."""
        if not keys:
            return Counts(np.empty(0, np.uint64), np.empty((0, 3), np.int64), np.empty(0, np.uint32))
        rows = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, _SV_LENGTH)
        start = len(SV)
        coordinates = [_column(rows, start + 8 + 4 * axis, ">u4").astype(np.int64) for axis in range(3)]
        return Counts(
            _column(rows, start, ">u8").astype(np.uint64),
            np.stack(coordinates, axis=1) - MAX_COORDINATE,
            _column(rows, start + 20, ">u4").astype(np.uint32),
        )

    @staticmethod
    def joined(parts: list[Counts]) -> Counts:
        """The entries of several."""
        if len(parts) == 1:
            return parts[0]
        return Counts(
            np.concatenate([part.supervoxels for part in parts]),
            np.concatenate([part.blocks for part in parts]),
            np.concatenate([part.voxels for part in parts]),
        )

    def __getitem__(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.intp] | slice) -> Counts:
        return Counts(self.supervoxels[chosen], self.blocks[chosen], self.voxels[chosen])

    def __len__(self) -> int:
        return len(self.voxels)

    @property
    def size(self) -> int:
        """All voxels."""
        return int(self.voxels.sum(dtype=np.uint64))

    @property
    def nbytes(self) -> int:
        """The memory that the columns take."""
        return self.supervoxels.nbytes + self.blocks.nbytes + self.voxels.nbytes

    def to_keys(self) -> list[bytes]:
        """The keys of `sv/` that stand for the entries."""
        places = (self.blocks + MAX_COORDINATE).astype(">u4")
        rows = np.empty((len(self), _SV_LENGTH), np.uint8)
        start = len(SV)
        rows[:, :start] = np.frombuffer(SV, np.uint8)
        rows[:, start : start + 8] = self.supervoxels.astype(">u8").view(np.uint8).reshape(-1, 8)
        rows[:, start + 8 : start + 20] = np.ascontiguousarray(places).view(np.uint8).reshape(-1, 12)
        rows[:, start + 20 :] = self.voxels.astype(">u4").view(np.uint8).reshape(-1, 4)
        joined = rows.tobytes()
        return [joined[at : at + _SV_LENGTH] for at in range(0, len(joined), _SV_LENGTH)]


def _column(rows: npt.NDArray[np.uint8], start: int, dtype: str) -> npt.NDArray[np.generic]:
    size = np.dtype(dtype).itemsize
    return np.ascontiguousarray(rows[:, start : start + size]).view(dtype)[:, 0]


class Pairs:
    """A table of keys that hold two numbers, ordered by the first: who is mapped where, who belongs to whom."""

    def __init__(self, prefix: bytes) -> None:
        self._prefix = prefix

    def key(self, first: int, second: int) -> bytes:
        """The key of one row."""
        return self._prefix + number(first) + number(second)

    def range_of(self, first: int) -> tuple[bytes, bytes]:
        """The range of the rows with this first number."""
        start = self._prefix + number(first)
        return start, start + b"\xff" * 9

    def all(self) -> tuple[bytes, bytes]:
        """The range of the table."""
        return self._prefix, self._prefix + b"\xff" * 17


MAP = Pairs(_MAP)
ROOT = Pairs(_ROOT)
FIXED = Pairs(_FIXED)
STALE = Pairs(_STALE)


def pairs(keys: list[bytes]) -> U64:
    """The rows of a table of pairs, as its keys have them: uint64 (n, 2)."""
    if not keys:
        return np.empty((0, 2), np.uint64)
    return np.frombuffer(b"".join(key[-16:] for key in keys), ">u8").reshape(-1, 2).astype(np.uint64)


#: Kinds of a group and of its members.
OF_BODY, OF_GROUP = 0, 1
SUPERVOXEL, GROUP = 0, 1


def group(name: int, kind: int, of: int, members: int) -> bytes:
    """The key of a group."""
    return _GROUP + number(name) + bytes([kind]) + number(of) + number(members)


def group_range(name: int) -> tuple[bytes, bytes]:
    """The range in which a group's key is."""
    return _GROUP + number(name), _GROUP + number(name) + b"\xff" * 18


def groups_range() -> tuple[bytes, bytes]:
    """The range of all groups."""
    return _GROUP, _GROUP + b"\xff" * 26


def parse_groups(keys: list[bytes]) -> npt.NDArray[np.void]:
    """Groups in columns: name, kind, of, members."""
    row = np.dtype([("name", ">u8"), ("kind", "u1"), ("of", ">u8"), ("members", ">u8")])
    return np.frombuffer(b"".join(key[len(_GROUP) :] for key in keys), row)


def parse_group(key: bytes) -> tuple[int, int, int]:
    """Kind, of, members of one group."""
    start = len(_GROUP) + 8
    return key[start], int.from_bytes(key[start + 1 : start + 9], "big"), int.from_bytes(key[start + 9 :], "big")


def child(group: int, kind: int, member: int) -> bytes:
    """The key that makes something a member of a group."""
    return _CHILD + number(group) + bytes([kind]) + number(member)


def children(group: int, kind: int | None = None) -> tuple[bytes, bytes]:
    """The range of a group's members, of one kind or of both."""
    start = _CHILD + number(group) + (b"" if kind is None else bytes([kind]))
    return start, start + b"\xff" * 10


def is_of_supervoxel(child: bytes) -> bool:
    """Whether a key makes a supervoxel a member of a group."""
    return child[len(_CHILD) + 8] == SUPERVOXEL


def last_number(key: bytes) -> int:
    """The last number of a key."""
    return int.from_bytes(key[-8:], "big")


def last_numbers(keys: list[bytes]) -> U64:
    """The last number of each key."""
    return np.frombuffer(b"".join(key[-8:] for key in keys), ">u8").astype(np.uint64)


def head(body: int) -> bytes:
    """Who changed a body last."""
    return HEAD + number(body)


def turn(count: int) -> bytes:
    """What one edit changed of the mapping."""
    return _TURN + number(count)


def delta(count: int) -> bytes:
    """Some changes of the index."""
    return DELTA + number(count)
