"""Files of a folder that are replaced as TensorStore's `file` driver replaces them, so that both may.

Whoever writes `x` makes `x.__lock`, locks it, writes what `x` is to hold into it, and renames it to `x`. A lock on a
file that has been renamed meanwhile is worth nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress

from app.backends import locks

#: Errors of `link` that tell of the file system, or of a file with very many names.
CANNOT_LINK = frozenset({errno.EMLINK, errno.EPERM, errno.ENOTSUP, errno.EXDEV, errno.ENOSYS})
_LOCK = ".__lock"
_WHOLE_FILE = locks.request(fcntl.F_WRLCK, 0, 0)


def replace(path: str, value: bytes, present: bytes | None) -> bool:
    """Let a file hold a value if it holds what is said to be present (None: there is none); whether it did."""
    made = _locked(path + _LOCK)
    try:
        if _read(path) != present:
            with suppress(FileNotFoundError):
                os.unlink(path + _LOCK)
            return False
        os.ftruncate(made, 0)
        written = os.pwrite(made, value, 0)
        if written < len(value):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.rename(path + _LOCK, path)
        return True
    finally:
        os.close(made)


def link(path: str, to: str, *, is_synced: bool) -> bool:
    """Give a file a second name; False if it is the name of something already."""
    os.makedirs(os.path.dirname(to), exist_ok=True)
    try:
        os.link(path, to)
    except FileExistsError:
        return False
    if is_synced:
        folder = os.path.dirname(to)
        sync_folder(folder)
        sync_folder(os.path.dirname(folder))  # which may be new
    return True


def sync_folder(folder: str) -> None:
    """Wait until the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def empty_unfinished(path: str) -> None:
    """Empty what a process that was killed has left of a file's next content.

    TensorStore would write over it without cutting off what is longer than its own.
    """
    try:
        made = os.open(path + _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.fcntl(made, fcntl.F_OFD_SETLK, _WHOLE_FILE)
        if os.stat(path + _LOCK).st_ino == os.fstat(made).st_ino:
            os.ftruncate(made, 0)
    except (BlockingIOError, PermissionError, FileNotFoundError):
        pass  # somebody is writing it
    finally:
        os.close(made)


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _locked(name: str) -> int:
    while True:
        file = locks.opened(name)
        try:
            fcntl.fcntl(file, fcntl.F_OFD_SETLKW, _WHOLE_FILE)
            with suppress(FileNotFoundError):
                if os.stat(name).st_ino == os.fstat(file).st_ino:
                    return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)
