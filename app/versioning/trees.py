"""All trees of one store: which of them a version reads, and which it writes."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TypeVar
from weakref import WeakValueDictionary

from app.backends.ocdbt import MANIFEST
from app.backends.store import Store
from app.core.errors import NotAllowed
from app.versioning.cache import Cache
from app.versioning.line import Line
from app.versioning.mutations import Guard, Mutation
from app.versioning.snapshot import Snapshot
from app.versioning.tree import Queued, Tree, folder_of

T = TypeVar("T")

#: Trees that a process keeps open, least recently used first out; each has some kilobytes and handles of TensorStore.
REMEMBERED_TREES = 2000
REMEMBERED_OWNERS = 100_000


class Trees:
    """All trees of one store that this process has looked at."""

    def __init__(self, store: Store, cache: Cache) -> None:
        self.store = store
        self._cache = cache
        #: Every tree that anybody holds, so that two never commit to one; and those looked at last, held here.
        self._trees: WeakValueDictionary[tuple[str, str], Tree] = WeakValueDictionary()
        self._recent: OrderedDict[tuple[str, str], Tree] = OrderedDict()
        #: The nearest owner from a locked version on, by instance, version and epoch.
        self._owners: dict[tuple[str, str, int], str | None] = {}
        #: What an instance holds before anybody wrote.
        self.empty = Snapshot(None, 0, cache, cache.new_scope())

    async def head(self, folder: str, line: Line, *, fresh: bool = False) -> Snapshot:
        """What a version holds now: its own tree's newest snapshot, else its nearest ancestor's."""
        staleness = 0.0 if fresh else self.store.max_staleness
        snapshot = None if line.is_locked else await self.tree(folder, line.version).head(staleness)
        if snapshot is None:
            owner = await self._nearest(folder, line)
            if owner is not None:  # which is there, even if it was not when this process last looked
                snapshot = await owner.head(staleness) or await owner.head(0)
        return snapshot or self.empty

    async def at(self, folder: str, line: Line, generation: int) -> Snapshot:
        """What a version held at an earlier generation of its tree (or of the tree that it inherits)."""
        owner = await self.owner(folder, line)
        if owner is None:
            raise NotAllowed(f"there is no generation {generation} of this version")
        return await owner.at(generation)

    async def owner(self, folder: str, line: Line) -> Tree | None:
        """The tree that a read at this version sees."""
        own = self.tree(folder, line.version)
        return own if await own.head(0) is not None else await self._nearest(folder, line)

    async def mutate(
        self,
        folder: str,
        line: Line,
        change: Callable[[Mutation], Awaitable[T]],
        *,
        still_open: Guard,
        by_admin: bool = False,
    ) -> T:
        """Apply a mutation to a version and return its answer once it is committed.

        `change` may run several times, each time on a newer snapshot, and must have no other effect than what it
        stages. `still_open` raises `NotAllowed` if the catalog says, asked anew, that the version is locked (or
        answers False if this mutation may pass all the same); it is called until the version has a first commit,
        as a lock may have found no tree to seal.
        """
        if line.is_locked and not by_admin:
            raise NotAllowed(f"version {line.version} is locked")
        tree = self.tree(folder, line.version)
        has_tree = tree.is_known or await tree.head(self.store.max_staleness) is not None
        origin = None if has_tree else await self._nearest(folder, line)
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        queued = Queued(change, answer, by_admin, still_open, origin)
        return await tree.mutate(queued)  # type: ignore[no-any-return]

    async def seal(self, folder: str, version: str) -> None:
        """Seal a version's tree if it has one: the second half of locking a version."""
        tree = self.tree(folder, version)
        if await tree.head(0) is not None:
            await tree.seal()

    async def discard(self, folder: str, version: str) -> None:
        """Remove the tree of a version that never came to be; what only it had lies unused until it is collected."""
        self._trees.pop((folder, version), None)
        self._recent.pop((folder, version), None)
        async for _ in self.store.remove(folder_of(folder, version)):
            pass

    def forget(self, folder: str) -> None:
        """Let go of what is known of an instance that is no more."""
        for _, version in [key for key in [*self._trees] if key[0] == folder]:
            self._drop(folder, version)
        for owned in [owned for owned in self._owners if owned[0] == folder]:
            del self._owners[owned]

    def _drop(self, folder: str, version: str) -> None:
        self._trees.pop((folder, version), None)
        self._recent.pop((folder, version), None)

    async def drain(self) -> None:
        """Wait for all mutations under way."""
        await asyncio.gather(*[tree.drain() for tree in list(self._trees.values())])

    def tree(self, folder: str, version: str) -> Tree:
        """The tree of a version, whether it is there or not."""
        place = folder, version
        tree = self._recent.get(place)
        if tree is not None:
            self._recent.move_to_end(place)
            return tree
        tree = self._trees.get(place)
        if tree is None:
            tree = self._trees[place] = Tree(self.store, self._cache, folder, version)
        self._recent[place] = tree
        while len(self._recent) > REMEMBERED_TREES:
            self._recent.popitem(last=False)  # whoever waits for a commit of it holds it
        return tree

    async def _nearest(self, folder: str, line: Line) -> Tree | None:
        """The nearest tree among the locked versions of a line: its ancestors', and its own if it is locked itself.

        A locked version gets no tree any more, so the answer stays for as long as the line's epoch. It is asked for
        afresh: a tree that was missed would be missed for as long. What is known of an ancestor is known of its line.
        """
        versions = line.versions if line.is_locked else line.versions[1:]
        owner: str | None = None
        start, count = 0, 1
        while owner is None and start < len(versions):
            some = versions[start : start + count]
            known = next((n for n, version in enumerate(some) if (folder, version, line.epoch) in self._owners), None)
            some = some[:known]
            found = await asyncio.gather(*[self._exists(folder, version) for version in some])
            owner = next((version for version, is_there in zip(some, found, strict=True) if is_there), None)
            if owner is None and known is not None:
                owner = self._owners[folder, versions[start + known], line.epoch]
                break
            start, count = start + count, min(2 * count, 32)
        if versions:
            if len(self._owners) > REMEMBERED_OWNERS:
                self._owners.clear()
            self._owners[folder, versions[0], line.epoch] = owner
        return None if owner is None else self.tree(folder, owner)

    async def _exists(self, folder: str, version: str) -> bool:
        """Whether a version has a tree, asked of the store."""
        return await self.store.read(f"{folder_of(folder, version)}{MANIFEST}") is not None
