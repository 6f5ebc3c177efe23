"""A number in a file that the processes of a machine share: to look at it is to look at memory."""

from __future__ import annotations

import ctypes
import mmap
import struct
import weakref

_NUMBER = struct.Struct("=Q")
SIZE_BYTES = _NUMBER.size

# Not Python's own `mmap`, which keeps a file open for each.
_libc = ctypes.CDLL(None, use_errno=True)
_map = _libc.mmap
_map.restype = ctypes.c_void_p
_map.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
_unmap = _libc.munmap
_unmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_FAILED = ctypes.c_void_p(-1).value


def encode(value: int) -> bytes:
    """A number (uint64, in the machine's order of bytes) as it is written to the file."""
    return _NUMBER.pack(value)


class SharedNumber:
    """The number at a place (a multiple of 8) in the first page of an open file, which may then be closed.

    The file must not become shorter than that while this is in use. `OSError` if it cannot be mapped.
    """

    def __init__(self, file: int, place: int) -> None:
        address = _map(None, mmap.PAGESIZE, mmap.PROT_READ, mmap.MAP_SHARED, file, 0)
        if address is None or address == _FAILED:
            raise OSError(ctypes.get_errno(), "the file cannot be mapped")
        self._number = ctypes.c_uint64.from_address(address + place)
        weakref.finalize(self, _unmap, address, mmap.PAGESIZE)

    @property
    def value(self) -> int:
        """What the number is now."""
        return self._number.value
