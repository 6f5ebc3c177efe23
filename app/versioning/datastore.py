"""The datastore: repos of the catalog and trees of the stores, brought together as data at a version."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from app.backends.catalog import Catalog
from app.backends.store import Store, StoreOptions
from app.backends.traffic import Traffic
from app.backends.volumes import Volumes
from app.core.errors import Invalid, NotAllowed, Unknown
from app.versioning.cache import Cache
from app.versioning.derived import Derived
from app.versioning.graph import Forest, Instance, Repo, Version
from app.versioning.line import Line
from app.versioning.mutations import Mutation
from app.versioning.repos import Repos
from app.versioning.snapshot import Snapshot
from app.versioning.trees import Trees

T = TypeVar("T")

#: So many instances at versions are found again by the words of a URL.
REMEMBERED_NAMES = 10_000


@dataclass(frozen=True)
class Data:
    """A data instance at a version: what almost every request is about."""

    datastore: Datastore
    repo: Repo
    version: Version
    instance: Instance

    @cached_property
    def folder(self) -> str:
        """Where the instance's trees lie in its store."""
        return f"repos/{self.repo.root}/{self.instance.uuid}/"

    @cached_property
    def home(self) -> Version:
        """The version whose state this is: the root's, for an instance without versions."""
        return self.version if self.instance.has_versions else self.repo.versions[self.repo.root]

    @cached_property
    def line(self) -> Line:
        """The versions in which a read looks for a tree."""
        if self.instance.has_versions:
            return self.repo.line(self.version.uuid)
        return self.datastore.unversioned(self.repo.root)

    @property
    def trees(self) -> Trees:
        """The trees of the instance's store."""
        return self.datastore.trees(self.instance.store)

    @cached_property
    def is_locked(self) -> bool:
        """Whether ordinary writes are refused."""
        return self.instance.versioned and self.version.locked

    @cached_property
    def is_final(self) -> bool:
        """Whether what it holds will stay, whatever is written elsewhere."""
        return self.is_locked and not self.instance.shared

    @cached_property
    def tag(self) -> bytes:
        """The beginning of the ETag of whatever is read here; the generation makes it whole."""
        return f"{self.instance.uuid[:12]}.{self.line.version[:12]}".encode()

    async def head(self, *, fresh: bool = False) -> Snapshot:
        """What the instance holds at this version now; `fresh`: asked of the store, however lately it was."""
        return await self.trees.head(self.folder, self.line, fresh=fresh)

    async def at(self, generation: int) -> Snapshot:
        """What it held at an earlier generation."""
        return await self.trees.at(self.folder, self.line, generation)

    async def mutate(self, change: Callable[[Mutation], Awaitable[T]], *, by_admin: bool = False) -> T:
        """Apply a mutation; it is durable when this returns. See `Trees.mutate`."""
        datastore, root, version = self.datastore, self.repo.root, self.home.uuid

        async def still_open() -> bool:
            if not self.instance.has_versions or not await datastore.repos.is_locked(root, version):
                return True
            if not by_admin:
                raise NotAllowed(f"version {version} is locked")
            await datastore.repos.touch(root)  # its children must look for a tree here again
            return False

        return await self.trees.mutate(self.folder, self.line, change, still_open=still_open, by_admin=by_admin)

    async def mutation_id(self) -> int:
        """A new mutation id of the repo."""
        return await self.datastore.repos.mutation_ids(self.repo.root).take()

    def in_version(self, uuid: str) -> Data:
        """The same instance at another version of the repo."""
        return Data(self.datastore, self.repo, self.repo.versions[uuid], self.instance)

    def sibling(self, name: str) -> Data:
        """Another instance of the repo at the same version."""
        instance = self.repo.by_name.get(name)
        if instance is None:
            raise Unknown(f"invalid data instance name: {name!r} not found in repo {self.repo.root}")
        return Data(self.datastore, self.repo, self.version, instance)


class Datastore:
    """Everything a request needs below HTTP.

    `stores` maps names to URLs of further stores, one of which an instance may be assigned to; `assignments` says
    which: keys are `name:root UUID`, a tag as `key=value`, a datatype, or `default`, the most specific wins.
    `sources` are further URLs below which published volumes may lie.
    """

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        options: StoreOptions,
        *,
        stores: Mapping[str, str] | None = None,
        assignments: Mapping[str, str] | None = None,
        sources: Sequence[str] = (),
        catalog_staleness: float = 0.0,
        cache_bytes: int = 256 << 20,
    ) -> None:
        self.store = store
        self.catalog = catalog
        self.cache = Cache(cache_bytes)
        self.derived = Derived()
        self.repos = Repos(catalog, catalog_staleness)
        self.volumes = Volumes(options, [store.url, *(stores or {}).values(), *sources])
        self._options = options
        self._urls = dict(stores or {})
        self._assignments = dict(assignments or {})
        for name in self._assignments.values():
            if name not in self._urls:
                raise Invalid(f"data is assigned to the store {name!r}, which is not configured")
        self._trees = {"": Trees(store, self.cache)}
        self._unversioned: dict[str, Line] = {}
        #: What URLs have named, as long as no repo changes.
        self._named: tuple[Forest | None, dict[tuple[str, str], Data]] = None, {}
        #: What datatypes keep for as long as this process lives, under names of their own.
        self.kept: dict[str, Any] = {}

    def trees(self, name: str) -> Trees:
        """The trees of a configured store; the empty name is the repos' own."""
        found = self._trees.get(name)
        if found is None:
            if name not in self._urls:
                raise Invalid(f"the store {name!r} is not configured")
            found = self._trees[name] = Trees(Store(self._urls[name], self._options), self.cache)
        return found

    def assign(self, root: str, name: str, typename: str, tags: Mapping[str, str]) -> str:
        """The name of the store for a new instance."""
        keys = [f"{name}:{root}", *(f"{key}={value}" for key, value in tags.items()), typename, "default"]
        return next((self._assignments[key] for key in keys if key in self._assignments), "")

    def unversioned(self, root: str) -> Line:
        """The line of instances that keep one state for all versions."""
        line = self._unversioned.get(root)
        if line is None:
            line = self._unversioned[root] = Line((root,), False)
        return line

    async def data(self, spec: str, name: str) -> Data:
        """The instance of this name at the version that `spec` names."""
        forest = await self.repos.forest()
        if self._named[0] is not forest or len(self._named[1]) > REMEMBERED_NAMES:
            self._named = forest, {}
        known = self._named[1]
        data = known.get((spec, name))
        if data is None:
            repo, version = forest.resolve(spec)
            instance = repo.by_name.get(name)
            if instance is None:
                raise Unknown(f"invalid data instance name: {name!r} not found in repo {repo.root}")
            data = known[spec, name] = Data(self, repo, version, instance)
        return data

    async def lock(self, repo: Repo, version: str, note: str, log: list[str]) -> None:
        """Lock a version: first in the catalog, then in every tree that it owns.

        Who asks again, after a failure half-way, is told that the version is locked, but the trees are sealed.
        """
        try:
            await self.repos.lock(repo.root, version, note, log)
        except NotAllowed:
            if await self.repos.is_locked(repo.root, version):
                await self._seal(repo.root, version)
            raise
        await self._seal(repo.root, version)

    async def _seal(self, root: str, version: str) -> None:
        repo = (await self.repos.forest()).repos[root]
        await asyncio.gather(
            *[
                self.trees(instance.store).seal(f"repos/{repo.root}/{instance.uuid}/", version)
                for instance in repo.instances.values()
                if instance.has_versions
            ]
        )

    def traffic(self) -> list[Traffic]:
        """What went between this process and each of its stores."""
        return [trees.store.traffic for trees in self._trees.values()]

    async def close(self) -> None:
        """Finish what is under way."""
        await asyncio.gather(*[trees.drain() for trees in self._trees.values()])
        await self.catalog.close()
