"""One object store, named by a URL: `file://`, `memory://`, `gs://` or `s3://`.

A `Store` knows how to name an object for TensorStore, how long an answer may take, and how to turn TensorStore's
errors (a `ValueError` whose text starts with the status name) into ours. Nothing above this folder sees a vendor.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast
from urllib.parse import parse_qs, urlsplit

import tensorstore as ts

from app.backends import files, locks
from app.backends.limits import JournalLimits
from app.backends.traffic import Traffic
from app.core.errors import Conflict, DvidError, Invalid, StoreUnavailable

T = TypeVar("T")

#: A TensorStore error that starts with this means that another writer was first. (A failed precondition does not: it
#: stands for things like a file where a folder should be, and a lost compare-and-swap is no error but an empty stamp.)
LOST_RACE = "ABORTED"
#: Unless it goes on like this: the store did not answer, or not well, as often as it was asked.
GIVEN_UP = "retry attempts failed"

#: Longer than any file system's clock takes from one time stamp to the next.
TICK_NS = 200_000_000
#: Manifests are a few hundred bytes; as many as a process looks at, and no large file.
REMEMBERED_FILES = 20_000
REMEMBERED_BYTES = 16 << 10
#: Objects that are removed together.
REMOVED_AT_ONCE = 500


@dataclass(frozen=True)
class StoreOptions:
    """How the process uses its stores; the same for all of them.

    `durability` is `power` (fsync before an answer; only `file://` has the choice) or `process` (survives the end of
    the process, not of the machine). `journal` concerns only `file://` too. Seconds and bytes as named.
    """

    durability: str = "power"
    cache_bytes: int = 256 << 20
    timeout_seconds: float = 10.0
    max_staleness_seconds: float = 1.0
    retries: int = 4
    journal: JournalLimits = field(default_factory=JournalLimits)


def classify(error: Exception) -> DvidError:
    """The error of ours that a TensorStore exception stands for."""
    text = str(error)
    if text.startswith(LOST_RACE) and GIVEN_UP not in text:
        return Conflict(text)
    return StoreUnavailable(text.split(" [", 1)[0])


class Store:
    """An object store below one URL.

    `file:///folder` (or a bare path), `memory://name`, `gs://bucket/prefix`,
    `s3://bucket/prefix[?endpoint=http://host:port&region=us-east-1]`.
    """

    def __init__(self, url: str, options: StoreOptions | None = None) -> None:
        self.options = options or StoreOptions()
        if "://" not in url:
            url = "file://" + os.path.abspath(os.path.expanduser(url))
        self.url = url.rstrip("/")
        parts = urlsplit(url)
        self.scheme = parts.scheme
        self.query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        if self.scheme == "file":
            self.bucket, self.prefix = "", "/" + (parts.netloc + parts.path).strip("/") + "/"
        elif self.scheme == "memory":
            self.bucket, self.prefix = "", f"{parts.netloc}{parts.path}".strip("/") + "/"
        elif self.scheme in ("gs", "s3"):
            self.bucket, self.prefix = parts.netloc, (parts.path.strip("/") + "/").lstrip("/")
            if not self.bucket:
                raise Invalid(f"store {url!r} names no bucket")
        else:
            raise Invalid(f"store {url!r}: the scheme must be file, memory, gs or s3")
        self.context = ts.Context(self._context())
        #: For arrays whose chunks have one writer each. TensorStore's locks of files would keep what a killed process
        #: has left of a chunk, and write over it without cutting it off.
        self.unlocked = ts.Context({"file_io_locking": {"mode": "none"}}, parent=self.context)
        self.traffic = Traffic()
        self._kvstores: dict[str, ts.KvStore] = {}
        self._files: dict[str, tuple[tuple[int, int, int], bytes]] = {}
        self._this_turn: dict[str, bytes] = {}

    @property
    def is_remote(self) -> bool:
        """Whether every request crosses a network."""
        return self.scheme in ("gs", "s3")

    @property
    def max_staleness(self) -> float:
        """Seconds for which another pod's commit may stay unseen; 0 where looking is cheap."""
        return self.options.max_staleness_seconds if self.is_remote else 0.0

    def _context(self) -> dict[str, Any]:
        retries = {"max_retries": self.options.retries, "initial_delay": "50ms", "max_delay": "500ms"}
        return {
            "cache_pool": {"total_bytes_limit": self.options.cache_bytes},
            "file_io_sync": self.options.durability == "power",
            "gcs_request_retries": retries,
            "s3_request_retries": retries,
        }

    def spec(self, path: str = "") -> dict[str, Any]:
        """The TensorStore kvstore spec of `path` below this store's URL."""
        where: dict[str, Any] = {"path": self.prefix + path}
        if self.scheme == "file":
            return {"driver": "file", **where}
        if self.scheme == "memory":
            return {"driver": "memory", **where}
        if self.scheme == "gs":
            return {"driver": "gcs", "bucket": self.bucket, **where}
        spec = {"driver": "s3", "bucket": self.bucket, **where}
        if endpoint := self.query.get("endpoint") or os.environ.get("AWS_ENDPOINT_URL"):
            spec["endpoint"] = endpoint
            spec["aws_region"] = self.query.get("region") or os.environ.get("AWS_REGION", "us-east-1")
        elif region := self.query.get("region"):
            spec["aws_region"] = region
        if "AWS_ACCESS_KEY_ID" in os.environ:
            spec["aws_credentials"] = {"type": "environment"}
        return spec

    async def guard(self, answer: Awaitable[T]) -> T:
        """Wait for a TensorStore answer, no longer than the time-out, and raise errors as ours."""
        try:
            if isinstance(answer, ts.Future) and answer.done():  # spares a round through the event loop
                return cast(T, answer.result())
            if not self.is_remote:
                return await answer
            async with asyncio.timeout(self.options.timeout_seconds):
                return await answer
        except TimeoutError:
            raise StoreUnavailable(f"{self.url} did not answer in {self.options.timeout_seconds:g} s") from None
        except (ValueError, LookupError, NotImplementedError, OSError) as error:
            raise classify(error) from error

    async def folder(self, path: str) -> ts.KvStore:
        """The kvstore of a folder (`path` ends with a slash), opened once."""
        kvstore = self._kvstores.get(path)
        if kvstore is None:
            kvstore = await self.guard(ts.KvStore.open(self.spec(path), context=self.context))
            self._kvstores[path] = kvstore
        return kvstore

    async def read(self, path: str) -> bytes | None:
        """The bytes of one object as they are now, or None."""
        if self.scheme == "file":  # a plain read is ten times cheaper than a round through TensorStore's threads
            name = self.prefix + path
            if name in self._this_turn:
                return self._this_turn[name]
            try:
                value = self._read_file(name)
                # Requests that came in the same turn of the event loop may see the same: each was under way already.
                if not self._this_turn:
                    asyncio.get_running_loop().call_soon(self._this_turn.clear)
                self._this_turn[name] = value
                return value
            except (FileNotFoundError, NotADirectoryError):
                return None
            except OSError as error:
                raise StoreUnavailable(f"{self.url}: {error.strerror}") from error
        root = await self.folder("")
        answer = await self.guard(root.read(path))
        return bytes(answer.value) if answer.state == "value" else None

    def _read_file(self, name: str) -> bytes:
        """A small file, read again only when it may have changed.

        A file is replaced by renaming, so inode, time and size tell two of them apart, unless the inode is used again
        within one tick of the clock: what was written that shortly before it was read is not remembered.
        """
        status = os.stat(name)
        known = self._files.get(name)
        if known is not None and known[0] == (status.st_ino, status.st_mtime_ns, status.st_size):
            return known[1]
        with open(name, "rb") as file:
            status = os.fstat(file.fileno())
            value = file.read()
        if time.time_ns() - status.st_mtime_ns > TICK_NS and len(value) <= REMEMBERED_BYTES:
            if len(self._files) >= REMEMBERED_FILES:
                self._files.clear()
            self._files[name] = (status.st_ino, status.st_mtime_ns, status.st_size), value
        return value

    def changed(self) -> None:
        """Say that objects may have been written: what was read in this turn of the event loop may be old."""
        self._this_turn.clear()

    async def create(self, path: str, value: bytes) -> bool:
        """Write an object that must not exist yet; False if it did (whoever made it)."""
        return await self.replace(path, value, None)

    async def replace(self, path: str, value: bytes, present: bytes | None) -> bool:
        """Write an object if it still holds what was seen (None: nothing); False if it does not.

        A lost reply looks like a lost race: whoever must know puts something into the value to recognise it by.
        """
        if self.scheme == "file" and self.options.durability != "power":  # a tenth of a round through TensorStore
            try:
                return files.replace(self.prefix + path, value, present)
            except OSError as error:
                raise StoreUnavailable(f"{self.url}: {error.strerror}") from error
            finally:
                self.changed()
        root = await self._ready_to_write(path)
        found = await self.guard(root.read(path))
        if (bytes(found.value) if found.state == "value" else None) != present:
            return False
        try:
            stamp = await self.guard(root.write(path, value, if_equal=found.stamp.generation))
        finally:
            self.changed()
        return bool(stamp.generation)

    async def write(self, path: str, value: bytes) -> None:
        """Write an object, whatever it held before."""
        root = await self._ready_to_write(path)
        try:
            await self.guard(root.write(path, value))
        finally:
            self.changed()

    async def _ready_to_write(self, path: str) -> ts.KvStore:
        if self.scheme == "file":
            files.empty_unfinished(self.prefix + path)
        return await self.folder("")

    async def copy(self, path: str, to: str) -> bool:
        """Let a path that names nothing yet name what another object holds; False if it did name something.

        In a folder both are one file then: files are replaced, never changed.
        """
        if self.scheme == "file":
            try:
                names = self.prefix + path, self.prefix + to
                if self.options.durability == "power":
                    return await asyncio.to_thread(files.link, *names, is_synced=True)
                return files.link(*names, is_synced=False)
            except OSError as error:
                if error.errno not in files.CANNOT_LINK:
                    raise StoreUnavailable(f"{self.url}: {path}: {error.strerror}") from error
            finally:
                self.changed()
        value = await self.read(path)
        if value is None:
            raise StoreUnavailable(f"{path} is gone")
        return await self.create(to, value)

    async def remove(self, path: str) -> AsyncIterator[int]:
        """Remove all objects of a folder (`path` ends with a slash), a bounded number at a time; yields each number.

        Whoever stops half-way begins again: what is gone is gone.
        """
        folder = await self.folder(path)
        names = await self.guard(folder.list())
        for start in range(0, len(names), REMOVED_AT_ONCE):
            some = names[start : start + REMOVED_AT_ONCE]
            for answer in [folder.delete_range(ts.KvStore.KeyRange(name, name + b"\0")) for name in some]:
                await self.guard(answer)
            yield len(some)
        if self.scheme == "file":
            self._files.clear()
            for place, _, _ in os.walk(self.prefix + path, topdown=False):
                with suppress(OSError):  # somebody has put something there
                    os.rmdir(place)

    @asynccontextmanager
    async def exclusively(self, path: str, place: int = 0) -> AsyncIterator[None]:
        """Keep other processes of this machine, and other tasks of this one, from doing the same at once.

        A file has as many places as anybody wants (numbers below 2**62), each on its own.

        Who appends to a journal must have it. It ends with the process, however that ends. Only a local folder has it:
        elsewhere commits are optimistic.
        """
        if self.scheme != "file":
            yield
            return
        try:
            lock = await locks.lock(self.prefix + path, place)
        except OSError as error:
            raise StoreUnavailable(f"{self.url}: {error.strerror}") from error
        try:
            yield
        finally:
            locks.unlock(lock)
