"""Compressed voxels as DVID sends and stores them; what comes from outside is never believed about its size.

Every `decompress` is told how many bytes must come out, or how many at most, and refuses anything else with
`Invalid` before or while it decompresses: a small body cannot claim, or grow to, more memory than its request allows.
"""

from __future__ import annotations

from typing import Any

import cramjam
import numpy as np
import numpy.typing as npt
from isal import isal_zlib
from lz4 import block as lz4_library

from app.core.errors import Invalid

Bytes = bytes | bytearray | memoryview
Array = npt.NDArray[Any]

_SIZE_BYTES = 4
#: No LZ4 block grows by more than this factor: each further byte of a length stands for at most 255 bytes.
_LZ4_FACTOR = 255
_GZIP_WINDOW = 31
_ISAL_ERROR: Any = isal_zlib.error


def lz4(data: Bytes, *, sized: bool = False) -> bytes:
    """A raw LZ4 block; if `sized`, with the uncompressed size (uint32) in front."""
    compressed: bytes = lz4_library.compress(data, store_size=sized)
    return compressed


def unlz4(data: Bytes, size: int) -> bytes:
    """The `size` bytes that a raw LZ4 block (no size in front) stands for, no more and no less."""
    _check_lz4(data, size)
    try:
        found: bytes = lz4_library.decompress(data, uncompressed_size=size)
    except (lz4_library.LZ4BlockError, ValueError, OverflowError) as error:
        raise Invalid(f"the LZ4 data are corrupt, or longer than {size} bytes: {error}") from None
    if len(found) != size:
        raise Invalid(f"the LZ4 data hold {len(found)} bytes, not {size}")
    return found


def unlz4_into(data: Bytes, out: Array) -> None:
    """Fill a C-contiguous array from a raw LZ4 block (no size in front) that must fit it exactly."""
    _check_lz4(data, out.nbytes)
    try:
        found = cramjam.lz4.decompress_block_into(data, out.view(np.uint8).reshape(-1).data, output_len=out.nbytes)
    except (cramjam.DecompressionError, ValueError, OverflowError) as error:
        raise Invalid(f"the LZ4 data are corrupt, or longer than {out.nbytes} bytes: {error}") from None
    if found != out.nbytes:
        raise Invalid(f"the LZ4 data hold {found} bytes, not {out.nbytes}")


def gzip(data: Bytes, level: int = 1) -> bytes:
    """A gzip stream; levels as zlib's, -1 for the default."""
    compressed: bytes = isal_zlib.compress(data, _isal_level(level), _GZIP_WINDOW)
    return compressed


class GzipStream:
    """A gzip stream made piece by piece: what `add` gives for each, and `end`, joined."""

    def __init__(self, level: int = 1) -> None:
        self._stream = isal_zlib.compressobj(_isal_level(level), isal_zlib.DEFLATED, _GZIP_WINDOW)

    def add(self, data: Bytes) -> bytes:
        """What can be sent once these bytes are known; perhaps nothing yet."""
        return bytes(self._stream.compress(data))

    def end(self) -> bytes:
        """What comes last."""
        return bytes(self._stream.flush())


def ungzip(data: Bytes, most: int) -> bytes:
    """What a gzip stream (of one or several members) holds, at most `most` bytes."""
    pieces: list[bytes] = []
    rest, left = bytes(data) if isinstance(data, memoryview) else data, most
    try:
        while rest:
            member = isal_zlib.decompressobj(_GZIP_WINDOW)
            piece: bytes = member.decompress(rest, left + 1)
            if len(piece) > left:
                raise Invalid(f"the gzip data hold more than {most} bytes")
            if not member.eof:
                raise Invalid("the gzip data are cut short")
            pieces.append(piece)
            left -= len(piece)
            rest = member.unused_data
    except _ISAL_ERROR as error:
        raise Invalid(f"the gzip data are corrupt: {error}") from None
    if not pieces:
        raise Invalid("the gzip data are empty")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def snappy(data: Bytes) -> bytes:
    """A raw snappy block."""
    return bytes(cramjam.snappy.compress_raw(data))


def unsnappy(data: Bytes, size: int) -> bytes:
    """The `size` bytes that a raw snappy block stands for."""
    try:
        if cramjam.snappy.decompress_raw_len(data) != size:
            raise Invalid(f"the snappy data do not hold {size} bytes")
        return bytes(cramjam.snappy.decompress_raw(data))
    except cramjam.DecompressionError as error:
        raise Invalid(f"the snappy data are corrupt: {error}") from None


def payload(data: Bytes, compression: str) -> bytes:
    """Bytes as a value of an instance with this `Compression` (`lz4`, `gzip:9`, ...); JPEG is for images only."""
    algorithm, _, level = compression.partition(":")
    if algorithm == "lz4":
        return lz4(data, sized=True)
    if algorithm == "gzip":
        return gzip(data, int(level or -1))
    if algorithm == "snappy":
        return snappy(data)
    if algorithm == "none":
        return bytes(data)
    raise ValueError(f"bytes cannot be compressed as {compression}")


def fill(out: Array, value: Bytes, compression: str) -> None:
    """Fill a C-contiguous array from such a value, which must fit it exactly."""
    size = out.nbytes
    if compression.startswith("lz4"):
        claimed = int.from_bytes(value[:_SIZE_BYTES], "little")
        if claimed != size or len(value) < _SIZE_BYTES:
            raise Invalid(f"the LZ4 data claim to hold {claimed} bytes, not {size}")
        unlz4_into(memoryview(value)[_SIZE_BYTES:], out)
        return
    algorithm = compression.partition(":")[0]
    if algorithm == "gzip":
        value = ungzip(value, size)
    elif algorithm == "snappy":
        value = unsnappy(value, size)
    elif algorithm != "none":
        raise ValueError(f"bytes cannot be compressed as {compression}")
    if len(value) != size:
        raise Invalid(f"the data hold {len(value)} bytes, not {size}")
    out.view(np.uint8).reshape(-1)[:] = np.frombuffer(value, np.uint8)


def _check_lz4(data: Bytes, size: int) -> None:
    if size > len(data) * _LZ4_FACTOR:
        raise Invalid(f"{len(data)} bytes of LZ4 cannot hold {size} bytes")


def _isal_level(level: int) -> int:
    """ISA-L has levels 0 to 3; its 3 costs much and gains little."""
    return 2 if level < 0 or level > 2 else level
