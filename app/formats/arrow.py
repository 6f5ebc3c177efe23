"""Tables in Arrow's IPC streaming format, made batch by batch: https://arrow.apache.org/docs/format/Columnar.html.

pyarrow is large and few servers need it, so it is an extra and imported only here, when it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from app.core.errors import Invalid

MEDIA_TYPE = "application/vnd.apache.arrow.stream"


class _Sink:
    """What pyarrow writes to; hands over what has come since the last time."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: Any) -> int:
        self._pieces.append(bytes(data))
        return len(self._pieces[-1])

    def flush(self) -> None:
        pass

    def taken(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


class Stream:
    """A stream with these columns of numbers; `compression` of its buffers is none, lz4 or zstd.

    `Invalid` if this server has no pyarrow.
    """

    def __init__(self, columns: Mapping[str, type[np.generic]], compression: str) -> None:
        try:
            import pyarrow as pa
        except ImportError:
            raise Invalid("this server cannot write Arrow: it was installed without the extra `arrow`") from None
        self._pa: Any = pa
        fields = [pa.field(name, pa.from_numpy_dtype(dtype), nullable=False) for name, dtype in columns.items()]
        self._schema = pa.schema(fields)
        self._sink = _Sink()
        options = pa.ipc.IpcWriteOptions(compression=None if compression == "none" else compression)
        self._writer = pa.ipc.new_stream(self._sink, self._schema, options=options)

    def add(self, *columns: npt.NDArray[Any]) -> bytes:
        """The bytes of a batch of rows, and of the schema before the first one."""
        arrays = [self._pa.array(np.ascontiguousarray(column)) for column in columns]
        self._writer.write_batch(self._pa.record_batch(arrays, schema=self._schema))
        return self._sink.taken()

    def end(self) -> bytes:
        """What comes last; of a stream without batches also the schema."""
        self._writer.close()
        return self._sink.taken()
