"""Writing straight into the store, without a server: the datatypes' own writes, called in this process."""

from __future__ import annotations

import uuid

from app.core.errors import Invalid, NotAllowed, Unknown
from app.core.geometry import Box, Triple
from app.core.work import Workers
from app.datatypes import DATATYPES, voxels
from app.datatypes.author import Author
from app.datatypes.config import Config
from app.datatypes.imageblk import read as imageblk_read
from app.datatypes.imageblk import write as imageblk_write
from app.datatypes.labelmap import read, write
from app.datatypes.labelmap.mapping import IDENTITY
from app.ingest.over_http import looks_like_uuid
from app.ingest.progress import Extents
from app.ingest.target import LABELS, Array, Wanted
from app.versioning.datastore import Data, Datastore
from app.versioning.graph import Instance, Repo
from app.versioning.mutations import Mutation

AUTHOR = Author(app="dvid-cloud-ingest")


class DirectTarget:
    """An instance at a version, in a datastore that this process opened."""

    def __init__(self, data: Data, workers: Workers) -> None:
        self.data = data
        self._workers = workers
        self.typename = data.instance.typename
        self.identity = f"{data.instance.uuid} {data.version.uuid}"
        self.block: Triple = voxels.block_shape(data)

    async def extents(self) -> Extents | None:
        """First and last voxel x, y, z; None while it is empty."""
        low, high = await voxels.extents(self.data, await self.data.head())
        return None if low is None or high is None else (low, high)

    async def read(self, box: Box) -> Array:
        """What is there."""
        snapshot = await self.data.head()
        if self.typename != LABELS:
            return await imageblk_read.volume(self.data, snapshot, self._workers, box, box.count * 8)
        return await read.volume(self.data, snapshot, 0, box, IDENTITY, self._workers, box.count * 8)

    async def write(self, box: Box, found: Array) -> None:
        """Replace what is there."""
        if self.typename != LABELS:
            body = found.tobytes()
            await imageblk_write.volume(self.data, self._workers, box, body, None, AUTHOR, mutate=False)
            return
        scales = write.check_scales(self.data, self.data.instance.settings["max_scale"])
        prepared = await write.prepare_volume(self.data, found, box.start, scales, self._workers)
        await write.store(self.data, prepared, action="ingest-raw", workers=self._workers, author=AUTHOR, scales=scales)

    async def set_extents(self, extents: Extents) -> None:
        """Say where the data really end."""
        record = AUTHOR.record(self.data, "extents")

        async def change(mutation: Mutation) -> None:
            voxels.set_extents(mutation, {"MinPoint": extents[0], "MaxPoint": extents[1]})
            mutation.record(record)

        await self.data.mutate(change)

    async def close(self) -> None:
        """End the threads."""
        self._workers.close()


async def open_target(datastore: Datastore, wanted: Wanted) -> DirectTarget:
    """The instance to write to; repo and instance are made where they are absent."""
    repo = await open_repo(datastore, wanted.repo)
    if wanted.instance not in repo.by_name:
        await add_instance(datastore, repo, wanted)
    data = await datastore.data(wanted.version or f"{repo.root}:master", wanted.instance)
    if data.repo.root != repo.root:
        raise Unknown(f"version {wanted.version} is not of repo {wanted.repo}")
    if data.instance.typename != wanted.typename:
        raise Invalid(f"{wanted.instance} is a {data.instance.typename}, not a {wanted.typename}")
    if data.is_locked:
        raise NotAllowed(f"version {data.version.uuid} is locked; make a child of it")
    return DirectTarget(data, Workers())


async def open_repo(datastore: Datastore, name: str) -> Repo:
    """The repo of that name, made if there is none."""
    repo = await find_repo(datastore, name)
    if repo is None:
        if looks_like_uuid(name):
            raise Unknown(f"there is no version {name}")
        repo = await datastore.repos.create(name, "")
    return repo


async def find_repo(datastore: Datastore, name: str) -> Repo | None:
    """The repo of an alias, or of a prefix of the UUID of one of its versions."""
    repos = list((await datastore.repos.forest()).repos.values())
    found = [repo for repo in repos if repo.alias == name]
    if not found:
        found = [repo for repo in repos if any(version.startswith(name) for version in repo.versions)]
    if len(found) > 1:
        raise Invalid(f"more than one repo is called {name!r}: give the UUID of a version")
    return found[0] if found else None


async def add_instance(datastore: Datastore, repo: Repo, wanted: Wanted) -> None:
    """A new instance of a repo."""
    datatype = DATATYPES.get(wanted.typename)
    if datatype is None:
        raise Invalid(f"data type {wanted.typename!r} is not supported")
    config = Config(wanted.settings())
    instance = Instance(
        uuid.uuid4().hex,
        wanted.instance,
        wanted.typename,
        repo.root,
        compression=datatype.compression,
        settings=await datatype.prepared(datatype.settings(config), datastore, True),
        store=datastore.assign(repo.root, wanted.instance, wanted.typename, {}),
    )
    await datastore.repos.add_instance(repo.root, instance)
