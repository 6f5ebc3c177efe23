"""The journal of a map in a folder: small commits are appended to one file until they are worth one commit of OCDBT.

    {manifest's folder}/journal                 the newest file
    {manifest's folder}/journal.{start:016x}    files before it, by the generation at which each begins

A file is `MAGIC`, the place where its last whole entry ends (u64, in the machine's order of bytes), and entries. The
place is 0 while somebody changes the journal or what it stands on, and for ever in a file that has a successor: who
looks often has it mapped, and looks at the file only when the place is not the one read to.

An entry is its length (u32) and CRC-32 (u32) and then, over which both are taken, a generation (u64), a kind (u8) and

- of a mark (0): the generation of OCDBT (u64) that holds exactly this one, and in a map that began as a copy the folder
  of a manifest whose journals know the generations before; what waited in the other map's journal follows;
- of a commit (1), for each key: its length (u32), the length of its value plus one (u32; 0: removed), both.

All of this is little-endian. Every file begins with a mark. Who appends holds the map's lock; an entry that was cut
short is no entry, and the next one takes its place. Files with earlier generations are kept: they are the way back in
time.
"""

from __future__ import annotations

import asyncio
import errno
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from app.backends import files, shared_number
from app.backends.shared_number import SharedNumber
from app.backends.store import Store
from app.backends.view import Late
from app.core.errors import StoreUnavailable

NAME = "journal"
MAGIC = b"DVIDjnl2"
#: Where the first entry begins.
BEGINNING = len(MAGIC) + shared_number.SIZE_BYTES
_FRAME = struct.Struct("<II")
_HEAD = struct.Struct("<QB")
_MARK = struct.Struct("<QBQ")
_PAIR = struct.Struct("<II")
_IS_MARK, _IS_COMMIT = 0, 1


@dataclass
class Stretch:
    """A generation that OCDBT has stored under a generation of its own, and what came after it."""

    start: int
    stored: int
    newest: int
    late: Late
    origin: str = ""
    #: Where its commits begin in its file.
    place: int = 0

    @staticmethod
    def after(before: Stretch | None, start: int, stored: int, origin: str = "", place: int = 0) -> Stretch:
        """One that begins, after another or as the first; `origin` is the folder of the map that was copied."""
        is_next = before is not None and before.newest == start  # a generation that was not is not known key by key
        late = Late(start, before.late if before is not None and is_next else None)
        return Stretch(start, stored, start, late, origin, place)


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
            stretches, end = _parse(data, self.stretch, 0, skipped=known)
        else:
            before = self._rest()
            stretches, end = _parse(data, before, is_newest_enough=before is None)
            if end <= BEGINNING or not os.path.exists(self._manifest):  # it has been cut short as it began
                self.forget()
                return
            self._start = _HEAD.unpack_from(data, BEGINNING + _FRAME.size)[0]
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
                return _parse(file.read(), self.stretch, 0)[0][-1]
        return None

    async def mark(self, generation: int, stored: int, *, anew: bool = False, origin: str = "") -> Stretch:
        """Note that OCDBT has stored a generation; `anew`: in a new file."""
        entry = _marked(generation, stored, origin)
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
        mark = _marked(newest.start, newest.stored, origin)
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
                _write(file, MAGIC + shared_number.encode(end) + entries, 0)
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
                    length, _ = _FRAME.unpack_from(file.read(BEGINNING + _FRAME.size), BEGINNING)
                    mark = file.read(length)
            except OSError as error:
                raise StoreUnavailable(f"{self._folder}{NAME}: {error.strerror}") from error
            if _HEAD.unpack_from(mark)[0] == first:
                return mark[_MARK.size :].decode()
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
                    self._past = which, _parse(file.read(), None)[0]
        except OSError as error:
            raise StoreUnavailable(f"{self._folder}{name}: {error.strerror}") from error
        return self._past[1]


def encode(generation: int, writes: Mapping[bytes, bytes | None]) -> bytes:
    """The entry of a commit."""
    parts = [_HEAD.pack(generation, _IS_COMMIT)]
    for key, value in writes.items():
        if value is None:
            parts += (_PAIR.pack(len(key), 0), key)
        else:
            parts += (_PAIR.pack(len(key), len(value) + 1), key, value)
    return _entry(b"".join(parts))


def _marked(generation: int, stored: int, origin: str) -> bytes:
    return _entry(_MARK.pack(generation, _IS_MARK, stored) + origin.encode())


def _entry(payload: bytes) -> bytes:
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


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


def _parse(
    data: bytes,
    stretch: Stretch | None,
    place: int = BEGINNING,
    *,
    skipped: int = 0,
    is_newest_enough: bool = False,
) -> tuple[list[Stretch], int]:
    """The stretches of a file, or from a place on what follows after a known one, and where the last whole entry ends.

    `skipped` bytes of the file come before the data. If `is_newest_enough`, those before the newest are left out.
    """
    if place and data[: len(MAGIC)] != MAGIC:
        if len(data) >= len(MAGIC):
            raise StoreUnavailable("a journal is damaged, or of another release")
        return [], 0
    found = [] if stretch is None else [stretch]
    commits = list[tuple[int, bytes]]()
    while place + _FRAME.size <= len(data):
        length, check = _FRAME.unpack_from(data, place)
        payload = data[place + _FRAME.size : place + _FRAME.size + length]
        if len(payload) < max(length, _HEAD.size) or zlib.crc32(payload) != check:
            break
        generation, kind = _HEAD.unpack_from(payload)
        if kind == _IS_MARK:
            if is_newest_enough:
                found.clear()
            else:
                _take(found, commits)
            commits.clear()
            stored, origin = _MARK.unpack_from(payload)[2], payload[_MARK.size :].decode()
            end = skipped + place + _FRAME.size + length
            found.append(Stretch.after(found[-1] if found else None, generation, stored, origin, end))
        else:
            commits.append((generation, payload))
        place += _FRAME.size + length
    _take(found, commits)
    return found, place


def _take(found: list[Stretch], commits: list[tuple[int, bytes]]) -> None:
    for generation, payload in commits:
        found[-1].late.add(generation, _pairs(payload))
        found[-1].newest = generation


def _pairs(payload: bytes) -> dict[bytes, bytes | None]:
    writes: dict[bytes, bytes | None] = {}
    place = _HEAD.size
    while place < len(payload):
        of_key, of_value = _PAIR.unpack_from(payload, place)
        place += _PAIR.size
        value_at = place + of_key
        key = payload[place:value_at]
        place = value_at + max(of_value - 1, 0)
        writes[key] = payload[value_at:place] if of_value else None
    return writes
