"""What a datatype is: a name, the settings of a new instance, and what its instances say of themselves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.datatypes.author import Author
from app.datatypes.config import Config
from app.versioning import log
from app.versioning.datastore import Data, Datastore
from app.versioning.merge import Merge, by_key
from app.versioning.snapshot import Snapshot

_NAMES = {
    "none": "No compression",
    "snappy": "Go Snappy compression",
    "lz4": "LZ4 compression",
    "gzip": "gzip compression",
    "jpeg": "jpeg compression",
}
_CHECKSUMS = {"none": "No checksum", "crc32": "CRC32 checksum"}


async def _as_given(settings: dict[str, Any], _datastore: Datastore, _is_admin: bool) -> dict[str, Any]:
    return settings


async def _nothing(_data: Data, _snapshot: Snapshot) -> dict[str, Any]:
    return {}


async def logged(data: Data) -> list[dict[str, Any]]:
    """The log of exactly this version in the form of DVID's messages."""
    found = await log.records(await data.head(), data.home.uuid)
    return [message(record) for record in found if record.arguments]


async def untold(_data: Data, _record: log.Record) -> list[dict[str, Any]]:
    """Nothing goes out about what is done to such data."""
    return []


def timestamp(time: datetime) -> str:
    """A time as Go prints it: with a fraction and a numeric offset, as clients parse it."""
    return f"{time:%Y-%m-%d %H:%M:%S}.{time.microsecond:06d}000 +0000 UTC m=+0.000000000"


def message(record: log.Record, suffix: str = "") -> dict[str, Any]:
    """A record as DVID's message about the same mutation. Arguments in lower case are our own and left out."""
    told: dict[str, Any] = {
        "Action": record.action + suffix,
        **{name: value for name, value in record.arguments.items() if name[0].isupper()},
        "UUID": record.version,
        "Timestamp": timestamp(record.time),
    }
    if record.mutation_id:
        told["MutationID"] = record.mutation_id
    if record.user:
        told["User"] = record.user
    if record.app:
        told["App"] = record.app
    return told


def unsigned(told: dict[str, Any]) -> dict[str, Any]:
    """A message that does not say who did it."""
    return {name: value for name, value in told.items() if name not in ("MutationID", "User", "App")}


def _key(key: bytes) -> str:
    return f"key {key!r}"


_by_key = by_key(_key)


@dataclass(frozen=True)
class Datatype:
    """One kind of data.

    `settings` turns the configuration of a new instance into what its document keeps; `extended` and `extents` give
    the parts of its JSON that depend on the type and on the version. `prepared` completes the settings by what only
    others know, such as a volume that they name.
    """

    name: str
    version: str = "0.1"
    url: str = ""
    compression: str = "lz4"
    #: The compression of a new instance, given its configuration and the datatype's own.
    compressed_as: Callable[[Config, str], str] = Config.compression
    settings: Callable[[Config], dict[str, Any]] = lambda config: {}
    prepared: Callable[[dict[str, Any], Datastore, bool], Awaitable[dict[str, Any]]] = _as_given
    extended: Callable[[Data, Snapshot], Awaitable[dict[str, Any] | None]] = _nothing
    #: What was done to an instance at exactly one version, oldest first, as DVID's messages.
    messages: Callable[[Data], Awaitable[list[dict[str, Any]]]] = logged
    #: What goes out about one record of the log, as DVID's messages in their order.
    events: Callable[[Data, log.Record], Awaitable[list[dict[str, Any]]]] = untold
    has_extents: bool = False
    #: Whether the data are the same in all versions.
    is_shared: bool = False
    has_tags: bool = False
    #: Datatypes to which an instance of this one may be synced; None if it has nothing to do with syncs.
    syncs: frozenset[str] | None = None
    #: How many instances it may be synced to at the same time, if there is a limit.
    most_syncs: int | None = None
    #: What else is to be done when an instance has been synced with further ones; and who did that.
    synced: Callable[[Data, Sequence[Data], Author], Awaitable[None]] | None = None
    #: How a version merge brings together what two sides did to an instance.
    merge: Merge = _by_key

    async def describe(self, data: Data) -> dict[str, Any]:
        """The JSON of an instance at a version."""
        instance = data.instance
        algorithm, _, level = instance.compression.partition(":")
        if algorithm == "jpeg":  # DVID shows the width of the JPEGs here
            level = str(instance.settings.get("block_size", [-1])[0])
        described: dict[str, Any] = {
            "Base": {
                "TypeName": self.name,
                "TypeURL": self.url or f"github.com/janelia-flyem/dvid/datatype/{self.name}",
                "TypeVersion": self.version,
                "DataUUID": instance.uuid,
                "Name": instance.name,
                "RepoUUID": instance.version,
                "Compression": f"{_NAMES[algorithm]}, level {level or -1}",
                "Checksum": _CHECKSUMS[instance.checksum],
                "Syncs": [data.repo.instances[uuid].name for uuid in instance.syncs if uuid in data.repo.instances],
                "Versioned": instance.versioned,
                "KVStore": data.trees.store.url,
                "LogStore": data.trees.store.url,
                "Tags": instance.tags,
            },
        }
        snapshot = await data.head()
        described["Extended"] = await self.extended(data, snapshot)
        if self.has_extents:
            extended: Mapping[str, Any] = described["Extended"]
            described["Extents"] = {"MinPoint": extended["MinPoint"], "MaxPoint": extended["MaxPoint"]}
        return described
