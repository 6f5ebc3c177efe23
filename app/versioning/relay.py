"""Messages about mutations and about operations on repos, made after the commits, and put on a bus.

Mutations are read from the logs of the trees, operations from the catalog. The messages of each go out at least once
and in their order. A relay notes how far it has come with each version of an instance (`relay/{instance}/{version}` in
the instance's store) and with each repo (`relay/repos/{root}`) only when the bus has taken the messages; one that
starts again goes on from there. Several may run at once: what comes twice comes in order the first time.

The first relay of a store begins with its whole history or, if told so, with what comes after it began.

Topics, keys and fields are DVID's (its Kafka messages).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

import orjson

from app.backends.bus import Bus, Message
from app.backends.store import Store
from app.core.errors import DvidError
from app.versioning import blobs, log, operations
from app.versioning.datastore import Data, Datastore
from app.versioning.graph import Repo
from app.versioning.log import SEQUENCE, Record
from app.versioning.snapshot import Snapshot

logger = logging.getLogger(__name__)

#: A larger message goes into a blob, whose reference takes the place of its largest fields.
MOST_BYTES = 980 << 10
#: Records passed on before the position is noted.
BATCH = 100
#: Versions looked at together.
TOGETHER = 16
#: Says that a relay of this store has begun, and so has noted what it leaves out.
BEGUN = "relay/begun"
#: A locked version whose log is passed on is looked at this seldom: only an administrator can still change it.
LOCKED_SECONDS = 60.0

#: What a record is in messages, in their order; none for what nobody is told.
Told = Callable[[Data, Record], Awaitable[list[dict[str, Any]]]]


class Relay:
    """Passes on what is new in all logs of a datastore.

    `prefix` stands before every topic; `suffixes` has what stands behind those of some instances, by UUID. With
    `from_now` the first relay of a store leaves out what is there when it begins.
    """

    def __init__(
        self,
        datastore: Datastore,
        bus: Bus,
        told: Told,
        *,
        prefix: str = "",
        suffixes: Mapping[str, str] | None = None,
        from_now: bool = False,
    ) -> None:
        self._datastore = datastore
        self._bus = bus
        self._told = told
        self._prefix = prefix
        self._suffixes = suffixes or {}
        self._from_now = from_now
        self._has_begun = False
        self._positions: dict[str, int] = {}
        self._rests: dict[str, float] = {}

    def topic(self, data: Data) -> str:
        """The topic of an instance, all versions together."""
        suffix = self._suffixes.get(data.instance.uuid, "")
        name = f"{self._prefix}dvidrepo-{data.repo.root}-data-{data.instance.uuid}"
        return f"{name}-{suffix}" if suffix else name

    async def run(self, pause_seconds: float = 0.2) -> None:
        """Pass on for ever, with a pause after each round; a bus or store that fails is tried again."""
        while True:
            try:
                await self.round()
            except DvidError as error:
                logger.warning("messages about mutations are late: %s", error)
            await asyncio.sleep(pause_seconds)

    async def round(self) -> int:
        """Pass on what is new everywhere: the number of records and operations."""
        await self.begin()
        repos = list((await self._datastore.repos.forest()).repos.values())
        rested = time.monotonic()
        awake = [data for data in self._all(repos) if self._rests.get(_path(data), 0.0) <= rested]
        passed = 0
        for start in range(0, len(repos), TOGETHER):
            passed += sum(await asyncio.gather(*[self.tell_of(repo) for repo in repos[start : start + TOGETHER]]))
        for start in range(0, len(awake), TOGETHER):
            passed += sum(await asyncio.gather(*[self.pass_on(data) for data in awake[start : start + TOGETHER]]))
        return passed

    async def begin(self) -> None:
        """Note, once for all relays of this store, what is left out: nothing, or all that is there already."""
        if self._has_begun:
            return
        store = self._datastore.store
        if await store.read(BEGUN) is None:
            if self._from_now:
                repos = list((await self._datastore.repos.forest()).repos.values())
                versions = self._all(repos)
                for start in range(0, len(versions), TOGETHER):
                    await asyncio.gather(*[self._leave_out(data) for data in versions[start : start + TOGETHER]])
                for repo in repos:
                    await self._begin_at(store, _repo_path(repo), repo.operations)
            await store.write(BEGUN, b"{}")
        self._has_begun = True

    async def _leave_out(self, data: Data) -> None:
        """Begin behind the records that a version has; without any, it begins with its first."""
        _, last = await _ends(data, await data.head(fresh=True))
        if last:
            await self._begin_at(data.trees.store, _path(data), last)

    async def _begin_at(self, store: Store, path: str, after: int) -> None:
        if not await self._position(store, path):
            await self._note(store, path, after)

    def _all(self, repos: Iterable[Repo]) -> list[Data]:
        return [
            Data(self._datastore, repo, version, instance)
            for repo in repos
            for instance in repo.instances.values()
            for version in (repo.versions.values() if instance.has_versions else [repo.versions[repo.root]])
        ]

    async def tell_of(self, repo: Repo) -> int:
        """Pass on what is new about a repo: the number of operations."""
        store, path, topic = self._datastore.store, _repo_path(repo), f"{self._prefix}dvidrepo-{repo.root}-repo-ops"
        first = after = await self._position(store, path)
        while after < repo.operations:
            end = min(after + BATCH, repo.operations)
            done = await operations.numbered(self._datastore.catalog, repo.root, after + 1, end)
            messages = [Message(_key(each.time, each.number), await _encoded(store, each.fields)) for each in done]
            await self._bus.send(topic, messages)
            await self._note(store, path, end)
            after = end
        return after - first

    async def pass_on(self, data: Data) -> int:
        """Pass on what is new in one version of an instance: the number of records."""
        snapshot, store, path = await data.head(fresh=True), data.trees.store, _path(data)
        begun, last = await _ends(data, snapshot)
        first = after = max(await self._position(store, path), begun - 1) if begun else 0
        while after < last:
            end = min(after + BATCH, last)
            messages = await self._messages(data, snapshot, after, end)
            if messages:
                await self._bus.send(self.topic(data), messages)
            await self._note(store, path, end)
            after = end
        if data.is_locked and data.instance.has_versions:
            self._rests[path] = time.monotonic() + LOCKED_SECONDS
        return last - first if begun else 0

    async def _messages(self, data: Data, snapshot: Snapshot, after: int, last: int) -> list[Message]:
        found = []
        for number, record in await log.numbered(snapshot, after + 1, last):
            for place, told in enumerate(await self._told(data, record)):
                key = _key(record.time, 2 * number + place)
                found.append(Message(key, await _encoded(data.trees.store, told)))
        return found

    async def _position(self, store: Store, path: str) -> int:
        if path not in self._positions:
            value = await store.read(path)
            self._positions[path] = 0 if value is None else int(orjson.loads(value)["after"])
        return self._positions[path]

    async def _note(self, store: Store, path: str, after: int) -> None:
        await store.write(path, orjson.dumps({"after": after}))
        self._positions[path] = after


async def _ends(data: Data, snapshot: Snapshot) -> tuple[int, int]:
    """The numbers of the first and last record of a version's own; 0 and 0 if it has none."""
    begun = log.sequence_of(await snapshot.get(log.begun_key(data.home.uuid)))
    return (begun, log.sequence_of(await snapshot.get(SEQUENCE))) if begun else (0, 0)


def _key(moment: datetime, number: int) -> bytes:
    """As in DVID nanoseconds, but the same whenever it is sent: clocks have none, so they tell messages apart."""
    return b"%d" % (int(moment.timestamp() * 1e6) * 1000 + number % 1000)


def _repo_path(repo: Repo) -> str:
    return f"relay/repos/{repo.root}"


def _path(data: Data) -> str:
    return f"relay/{data.instance.uuid}/{data.home.uuid}"


async def _encoded(store: Store, told: Mapping[str, Any]) -> bytes:
    """A message as JSON; one that is too large without its largest fields, but with the blob of all of it."""
    value = orjson.dumps(told, option=orjson.OPT_SORT_KEYS)
    if len(value) <= MOST_BYTES:
        return value
    short = {**told, "DataRef": await blobs.put(store, value)}
    for name in sorted(told, key=lambda name: -len(orjson.dumps(told[name]))):
        if len(value) > MOST_BYTES:
            del short[name]
            value = orjson.dumps(short, option=orjson.OPT_SORT_KEYS)
    return value
