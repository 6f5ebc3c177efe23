"""The journal of a map in a folder: small commits are appended to one file until they are worth one commit of OCDBT.

    {manifest's folder}/journal                 the newest file
    {manifest's folder}/journal.{start:016x}    files before it, by the generation at which each begins

What is in them is told in `journal_entries`. Who looks often has the place where the last whole entry ends mapped, and
looks at the file only when that is not where it has read to.

Who appends holds the map's lock; where an entry was cut short, the next one takes its place. Files with earlier
generations are kept: they are the way back in time.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace

from app.backends import files, shared_number
from app.backends.journal_entries import BEGINNING, MAGIC, Stretch, begun, marked, origin_of, parse, start_of
from app.backends.shared_number import SharedNumber
from app.backends.store import Store
from app.core.errors import StoreUnavailable

NAME = "journal"
#: A file's first mark lies in so much of it, as no path is longer than 4 KiB.
FIRST_BYTES = 8 << 10


class Journal:
    """The journal of one map, as far as this process has read it."""

    def __init__(self, store: Store, folder: str, manifest: str) -> None:
        self._folder = store.prefix + folder
        self._manifest = self._folder + manifest
        self._path = self._folder + NAME
        self._is_synced = store.options.durability == "power"
        self._often = store.options.journal.looks
        self._inode = 0
        self._start = 0
        self._end = 0
        self._shared_end: SharedNumber | None = None
        self._looks = 0
        #: The newest stretch; None while there is no journal.
        self.stretch: Stretch | None = None
        #: While this process has the map's lock, the file is as it has left it.
        self.is_ours = False
        self._past: tuple[tuple[str, int, int], list[Stretch]] | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of the newest file."""
        return self._end

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the newest stretch: what waits to be stored."""
        return 0 if self.stretch is None else self._end - self.stretch.place

    def look(self) -> Stretch | None:
        """The newest stretch, brought up to date with the file; None if there is no journal."""
        if self.is_ours or self.is_settled:
            return self.stretch
        try:
            status = os.stat(self._path)
            if status.st_ino == self._inode and status.st_size == self._end:
                self._looks += 1
                if self._looks == self._often:
                    self._map()
                return self.stretch
            self._read()
        except FileNotFoundError:
            self.forget()
        except OSError as error:
            raise StoreUnavailable(f"{self._path}: {error.strerror}") from error
        return self.stretch

    @property
    def is_settled(self) -> bool:
        """Whether the file is known, without a look at it, to be what it was, and nobody to be changing the map."""
        return self._shared_end is not None and self._shared_end.value == self._end

    def _map(self) -> None:
        with suppress(OSError), open(self._path, "rb") as file:  # where it cannot be, the file is looked at
            if os.fstat(file.fileno()).st_ino == self._inode:
                self._shared_end = SharedNumber(file.fileno(), len(MAGIC))

    def _read(self) -> None:
        with open(self._path, "rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            known = self._end if inode == self._inode else 0
            file.seek(known)
            data = file.read()
        if known:
            stretches, end = parse(data, self.stretch, 0, skipped=known)
        else:
            before = self._rest()
            stretches, end = parse(data, before, is_newest_enough=before is None)
            if end <= BEGINNING or not os.path.exists(self._manifest):  # it has been cut short as it began
                self.forget()
                return
            self._start = start_of(data)
            self._is_another()
        self._inode, self._end, self.stretch = inode, known + end, stretches[-1]

    def _is_another(self) -> None:
        self._shared_end, self._looks = None, 0

    def forget(self) -> None:
        """Know nothing of the journal, until it is looked at again."""
        self._inode, self._end, self.stretch = 0, 0, None
        self._is_another()

    def _rest(self) -> Stretch | None:
        """The newest stretch of the file that was the newest when this process last looked, read to its end."""
        if self.stretch is None:
            return None
        with suppress(FileNotFoundError), open(f"{self._path}.{self._start:016x}", "rb") as file:
            if os.fstat(file.fileno()).st_ino == self._inode:
                file.seek(self._end)
                return parse(file.read(), self.stretch, 0)[0][-1]
        return None

    async def mark(self, generation: int, stored: int, *, anew: bool = False, origin: str = "") -> Stretch:
        """Note that OCDBT has stored a generation; `anew`: in a new file."""
        entry = marked(generation, stored, origin)
        with self._changing():
            await (self._begin(entry) if anew or self.stretch is None else self._append(entry))
        self.stretch = Stretch.after(self.stretch, generation, stored, origin, self._end)
        if anew or not self._start:
            self._start = generation
        return self.stretch

    async def begin_as(self, other: Journal, folder: str) -> None:
        """Begin with what waits in the journal of another map, which lies in `folder`; the caller has both locks."""
        newest = other.stretch
        assert newest is not None
        # All that the other has since its mark is here too, so if it began with that mark itself, what is older is
        # where it came from: histories are as long as things were stored, not as versions were made.
        origin = newest.origin or folder
        mark = marked(newest.start, newest.stored, origin)
        with self._changing():
            await self._begin(mark + other.waiting())
        self.stretch = replace(newest, late=newest.late.copy(), origin=origin, place=BEGINNING + len(mark))
        self._start = newest.start

    def waiting(self) -> bytes:
        """The entries of the newest stretch."""
        assert self.stretch is not None
        try:
            with open(self._path, "rb") as file:
                file.seek(self.stretch.place)
                found = file.read(self.waiting_bytes)
        except OSError as error:
            raise StoreUnavailable(f"{self._path}: {error.strerror}") from error
        if len(found) < self.waiting_bytes:
            raise StoreUnavailable(f"{self._path} is shorter than it was")
        return found

    async def commit(
        self, stretch: Stretch, generation: int, entry: bytes, writes: Mapping[bytes, bytes | None]
    ) -> None:
        """Append a commit, which `encode` has made of its writes, to the newest stretch."""
        with self._changing():
            await self._append(entry)
        if stretch.newest < generation:  # else a reader of this process saw it while it was made durable
            stretch.late.add(generation, writes)
            stretch.newest = generation

    def unsettle(self) -> None:
        """Say that the map is being changed, for as long as nobody marks or commits."""
        try:
            file = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                _tell(file, 0)
            finally:
                os.close(file)
        except OSError as error:
            raise StoreUnavailable(f"{self._path}: {error.strerror}") from error

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """If it is not known how a change has ended, the file must be looked at."""
        is_ours, self.is_ours = self.is_ours, False
        yield
        self.is_ours = is_ours

    async def _append(self, entry: bytes) -> None:
        end = self._end + len(entry)
        try:
            file = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                _tell(file, 0)
                _write(file, entry, self._end)
                if self._is_synced:
                    await asyncio.to_thread(os.fdatasync, file)
                _tell(file, end)
            finally:
                os.close(file)
        except OSError as error:
            raise StoreUnavailable(f"{self._path}: {error.strerror}") from error
        self._end = end

    async def _begin(self, entries: bytes) -> None:
        """Replace the newest file, which stays under the name of its first generation."""
        end = BEGINNING + len(entries)
        made = self._path + ".new"
        try:
            os.makedirs(self._folder, exist_ok=True)
            file = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
            try:
                _write(file, begun(entries), 0)
                if self._is_synced:
                    await asyncio.to_thread(os.fdatasync, file)
                inode = os.fstat(file).st_ino
            finally:
                os.close(file)
            if self.stretch is not None:
                with suppress(FileExistsError):  # somebody was stopped just here
                    os.link(self._path, f"{self._path}.{self._start:016x}")
                self.unsettle()
            os.rename(made, self._path)
            if self._is_synced:
                await asyncio.to_thread(files.sync_folder, self._folder)
        except OSError as error:
            raise StoreUnavailable(f"{self._path}: {error.strerror}") from error
        self._inode, self._end = inode, end
        self._is_another()

    def around(self, generation: int) -> Stretch | None:
        """The stretch in which a generation lies; None if it is older than the oldest journal."""
        while True:
            newest = self.stretch
            if newest is None or generation >= newest.start:
                return newest
            names = self._names()
            start = max([start for start in names if start <= generation], default=None)
            if start is None:
                return None
            stretches = self._of_file(names[start])
            if stretches[0].start == start:
                return next(each for each in reversed(stretches) if each.start <= generation)
            self.look()  # the newest file has got a successor

    def origin(self) -> str:
        """The folder of the map that has the generations before the first of this one's; empty if there is none."""
        while names := self._names():
            first = min(names)
            try:
                with open(self._folder + names[first], "rb") as file:
                    data = file.read(FIRST_BYTES)
            except OSError as error:
                raise StoreUnavailable(f"{self._folder}{NAME}: {error.strerror}") from error
            if start_of(data) == first:
                return origin_of(data)
            self.look()  # the newest file has got a successor
        return ""

    def _names(self) -> dict[int, str]:
        """The files by the generations at which they begin."""
        if self.stretch is None:
            return {}
        try:
            listed = os.listdir(self._folder)
        except OSError as error:
            raise StoreUnavailable(f"{self._folder}: {error.strerror}") from error
        is_old = len(NAME) + len(".") + 16
        names = {int(name[-16:], 16): name for name in listed if name.startswith(NAME + ".") and len(name) == is_old}
        return {**names, self._start: NAME}

    def _of_file(self, name: str) -> list[Stretch]:
        try:
            with open(self._folder + name, "rb") as file:
                status = os.fstat(file.fileno())
                which = name, status.st_ino, status.st_size
                if self._past is None or self._past[0] != which:
                    self._past = which, parse(file.read(), None)[0]
        except OSError as error:
            raise StoreUnavailable(f"{self._folder}{name}: {error.strerror}") from error
        return self._past[1]


def _tell(file: int, end: int) -> None:
    """Say where the last whole entry ends."""
    os.pwrite(file, shared_number.encode(end), len(MAGIC))


def _write(file: int, data: bytes, at: int) -> None:
    """Put an entry behind the last whole one; what could not be written whole is no entry."""
    if os.fstat(file).st_size > at:
        os.ftruncate(file, at)
    if os.pwrite(file, data, at) < len(data):
        os.ftruncate(file, at)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
