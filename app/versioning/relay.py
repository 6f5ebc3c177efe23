"""Messages about mutations, made from the logs of the trees after the commits, and put on a bus.

Every mutation's messages go out at least once and in the order of the log. A relay notes how far it has come with each
version of an instance (`relay/{instance}/{version}` in the instance's store) only when the bus has taken the messages;
one that starts again goes on from there. Several may run at once: what comes twice comes in order the first time.

Topics, keys and fields are DVID's (its Kafka messages).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson

from app.backends.bus import Bus, Message
from app.core.errors import DvidError
from app.versioning import blobs, log
from app.versioning.datastore import Data, Datastore
from app.versioning.log import Record
from app.versioning.snapshot import Snapshot
from app.versioning.tree import SEQUENCE

logger = logging.getLogger(__name__)

#: A larger message goes into a blob, whose reference takes the place of its largest fields.
MOST_BYTES = 980 << 10
#: Records passed on before the position is noted.
BATCH = 100
#: Versions looked at together.
TOGETHER = 16
#: A locked version whose log is passed on is looked at this seldom: only an administrator can still change it.
LOCKED_SECONDS = 60.0

#: What a record is in messages, in their order; none for what nobody is told.
Told = Callable[[Data, Record], Awaitable[list[dict[str, Any]]]]


class Relay:
    """Passes on what is new in all logs of a datastore.

    `prefix` stands before every topic; `suffixes` has what stands behind those of some instances, by UUID.
    """

    def __init__(
        self, datastore: Datastore, bus: Bus, told: Told, *, prefix: str = "", suffixes: Mapping[str, str] | None = None
    ) -> None:
        self._datastore = datastore
        self._bus = bus
        self._told = told
        self._prefix = prefix
        self._suffixes = suffixes or {}
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
        """Pass on what is new everywhere: the number of records."""
        versions = [
            Data(self._datastore, repo, version, instance)
            for repo in (await self._datastore.repos.forest()).repos.values()
            for instance in repo.instances.values()
            for version in (repo.versions.values() if instance.has_versions else [repo.versions[repo.root]])
        ]
        awake = [data for data in versions if self._rests.get(_path(data), 0.0) <= time.monotonic()]
        passed = 0
        for start in range(0, len(awake), TOGETHER):
            passed += sum(await asyncio.gather(*[self.pass_on(data) for data in awake[start : start + TOGETHER]]))
        return passed

    async def pass_on(self, data: Data) -> int:
        """Pass on what is new in one version of an instance: the number of records."""
        snapshot = await data.head(fresh=True)
        begun = log.sequence_of(await snapshot.get(log.begun_key(data.home.uuid)))
        last = log.sequence_of(await snapshot.get(SEQUENCE)) if begun else 0
        first = after = max(await self._position(data), begun - 1) if begun else 0
        while after < last:
            end = min(after + BATCH, last)
            messages = await self._messages(data, snapshot, after, end)
            if messages:
                await self._bus.send(self.topic(data), messages)
            await self._note(data, end)
            after = end
        if data.is_locked and data.instance.has_versions:
            self._rests[_path(data)] = time.monotonic() + LOCKED_SECONDS
        return last - first if begun else 0

    async def _messages(self, data: Data, snapshot: Snapshot, after: int, last: int) -> list[Message]:
        found = []
        for number, record in await log.numbered(snapshot, after + 1, last):
            for place, told in enumerate(await self._told(data, record)):
                # As in DVID nanoseconds, but the same whenever it is sent: the clock has none, so they tell the
                # messages of one moment apart.
                key = int(record.time.timestamp() * 1e6) * 1000 + (2 * number + place) % 1000
                found.append(Message(b"%d" % key, await _encoded(data, told)))
        return found

    async def _position(self, data: Data) -> int:
        path = _path(data)
        if path not in self._positions:
            value = await data.trees.store.read(path)
            self._positions[path] = 0 if value is None else int(orjson.loads(value)["after"])
        return self._positions[path]

    async def _note(self, data: Data, after: int) -> None:
        store, (folder, _, name) = data.trees.store, _path(data).rpartition("/")
        kvstore = await store.folder(f"{folder}/")
        await store.guard(kvstore.write(name, orjson.dumps({"after": after})))
        self._positions[_path(data)] = after


def _path(data: Data) -> str:
    return f"relay/{data.instance.uuid}/{data.home.uuid}"


async def _encoded(data: Data, told: dict[str, Any]) -> bytes:
    """A message as JSON; one that is too large without its largest fields, but with the blob of all of it."""
    value = orjson.dumps(told, option=orjson.OPT_SORT_KEYS)
    if len(value) <= MOST_BYTES:
        return value
    short = {**told, "DataRef": await blobs.put(data.trees.store, value)}
    for name in sorted(told, key=lambda name: -len(orjson.dumps(told[name]))):
        if len(value) > MOST_BYTES:
            del short[name]
            value = orjson.dumps(short, option=orjson.OPT_SORT_KEYS)
    return value
