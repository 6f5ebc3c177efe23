"""An ordered, transactional, copy-on-write key-value map in an object store, with all its generations.

What it holds is stored by OCDBT. A commit of OCDBT costs a millisecond however little it holds, so in a folder small
ones go to a journal, and to OCDBT together with the first that is large, or comes after many: see docs/decisions/0016.
Every commit makes the next generation, whichever way it went.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from hashlib import blake2b

import tensorstore as ts

from app.backends.journal import Journal
from app.backends.journal_entries import Stretch, committed
from app.backends.ocdbt import MANIFEST, Held, Node, OcdbtMap
from app.backends.store import Store
from app.backends.view import Stored, View
from app.core.errors import Conflict, StoreUnavailable


class OrderedMap:
    """One map: nodes below `base`, manifest and journal below `manifest` (both end with a slash)."""

    def __init__(self, store: Store, base: str, manifest: str, node_bytes: int = 0) -> None:
        self.store = store
        self._limits = store.options.journal
        self._base = base
        self._folder = manifest
        #: In a folder, who appends to the journal, or stores what is in it, holds this: a place in a file that all maps
        #: with the same base have in common, as a file for each would cost more than a commit.
        self._lock = f"{base}.lock", int.from_bytes(blake2b(manifest.encode(), digest_size=7).digest(), "big")
        self._ocdbt = OcdbtMap(store, base, manifest, node_bytes)
        self._journal = Journal(store, manifest, MANIFEST) if store.scheme == "file" else None
        #: While there is no journal, the newest generation of OCDBT, and by which manifest it is known.
        self._plain: tuple[bytes, Stretch] | None = None
        #: The manifest that the newest stretch was found to agree with; and whether that was found in this turn.
        self._agreed: tuple[int, bytes] | None = None
        self._is_agreed = False
        #: The generation of OCDBT that was opened last: all of a stretch lie on top of one.
        self._opened: tuple[int, Stored] | None = None

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """In a folder nobody else commits meanwhile, so nothing need be looked at twice; elsewhere this is nothing."""
        if self._journal is None:
            yield
            return
        async with self.store.exclusively(*self._lock):
            try:
                self._is_agreed = False
                self._journal.look()
                self._journal.is_ours = True
                yield
            finally:
                self._journal.is_ours = False

    async def fingerprint(self) -> bytes | None:
        """Bytes that change with every commit; None while the map does not exist."""
        if self._journal is None:
            return await self._ocdbt.fingerprint()
        stretch = await self._look(self._journal)
        return None if stretch is None else stretch.newest.to_bytes(8, "big")

    def fingerprint_of(self, generation: int) -> bytes | None:
        """The fingerprint of a generation while it is the newest; None where only the store can tell."""
        return self._ocdbt.fingerprint_of(generation) if self._journal is None else generation.to_bytes(8, "big")

    async def generation(self, fingerprint: bytes) -> int:
        """The newest generation; not older than this fingerprint, which was just taken."""
        if self._journal is None:
            return await self._ocdbt.generation(fingerprint)
        return int.from_bytes(fingerprint, "big")

    async def at(self, generation: int) -> View:
        """The map as it was at a generation."""
        holder, stretch = self._holder(generation)
        return await holder._view(stretch, generation)

    async def _view(self, stretch: Stretch | None, generation: int) -> View:
        if stretch is None:
            return View(self.store, Stored(await self._ocdbt.at(generation)), generation)
        if self._opened is None or self._opened[0] != stretch.stored:
            self._opened = stretch.stored, Stored(await self._ocdbt.at(stretch.stored))
        return View(self.store, self._opened[1], generation, stretch.late)

    async def root(self, generation: int) -> Node | None:
        """The root of the nodes of a generation that is among the newest ones; None if it has none.

        What they say of the keys that are `late` in the generation's view is not true.
        """
        holder, stretch = self._holder(generation)
        return await holder._ocdbt.root(stretch.stored if stretch else generation)

    async def children(self, node: Node) -> list[Node]:
        """The nodes below one that is not a leaf, in order."""
        return await self._ocdbt.children(node)

    async def leaf(self, node: Node) -> list[tuple[bytes, Held]]:
        """The keys of a leaf and what they hold, in order."""
        return await self._ocdbt.leaf(node)

    async def figures(self) -> dict[str, int]:
        """How much is stored: keys, bytes of nodes, bytes of values outside of nodes; and bytes of the journal."""
        journal = 0 if self._journal is None else self._journal.size_bytes
        return {**await self._ocdbt.figures(), "JournalBytes": journal}

    async def commit(
        self,
        writes: Mapping[bytes, bytes | None],
        ranges: Sequence[tuple[bytes, bytes]] = (),
        copies: Mapping[bytes, View] | None = None,
        *,
        unchanged: Mapping[bytes, bytes | None],
        is_last: bool = False,
        in_turn: bool = False,
    ) -> None:
        """Apply writes (None deletes) after removing key ranges, all or nothing.

        `copies` are keys that get what they hold in views of other maps with the same base, by reference.
        `is_last` says that the map is not likely to be written again: no more is to wait in its journal than its copies
        may begin with.
        `in_turn` says that the caller has its `turn`.
        Refused with `Conflict` unless every key of `unchanged` still has the value given at the moment of the commit.
        """
        late = {key: await view.get(key) for key, view in (copies or {}).items() if view.is_late(key)}
        writes = {**late, **writes} if late else writes
        stored = {key: view.kvstore for key, view in (copies or {}).items() if key not in late}
        if self._journal is None:
            await self._ocdbt.commit(writes, ranges, stored, unchanged=unchanged)
            return
        async with nullcontext() if in_turn else self.turn():
            await self._append(self._journal, writes, ranges, stored, unchanged, is_last)

    async def _append(
        self,
        journal: Journal,
        writes: Mapping[bytes, bytes | None],
        ranges: Sequence[tuple[bytes, bytes]],
        copies: Mapping[bytes, ts.KvStore],
        unchanged: Mapping[bytes, bytes | None],
        is_last: bool,
    ) -> None:
        newest = await self._agree(journal)
        if newest is None:  # the map begins
            await self._ocdbt.commit(writes, ranges, copies, unchanged=unchanged)
            return
        await self._check(await self._view(newest, newest.newest), unchanged)
        entry = committed(newest.newest + 1, writes)
        is_much = is_last and journal.waiting_bytes + len(entry) > self._limits.passed_bytes
        if ranges or copies or is_much or len(entry) > self._limits.entry_bytes:
            await self._store(journal, newest, writes, ranges, copies)
            return
        stretch = journal.stretch or await journal.mark(newest.start, newest.stored)
        await journal.commit(stretch, newest.newest + 1, entry, writes)
        self.store.traffic.written(writes, writes.values())
        if stretch.late.size_bytes > self._limits.waiting_bytes or len(stretch.late) > self._limits.waiting_keys:
            with suppress(StoreUnavailable):  # the commit itself is done
                await self._store(journal, stretch)

    async def branch_from(self, other: OrderedMap, *, in_turn: bool = False) -> None:
        """Start this map as a copy of another: one small manifest, create-only, so racing branches agree.

        In a folder it begins with what waits in the other's journal, if that is little.
        """
        if self._journal is None or other._journal is None:
            await self._ocdbt.branch_from(other._ocdbt)
            return
        async with nullcontext() if in_turn else self.turn(), other.turn():
            if await self._look(self._journal) is None:
                await self._copy(self._journal, other, other._journal)

    async def _copy(self, journal: Journal, other: OrderedMap, others: Journal) -> None:
        newest = await other._agree(others)
        if newest is not None and others.waiting_bytes > self._limits.passed_bytes:
            await other._store(others, newest)
        try:
            if others.stretch is not None:  # the numbers of generations go on
                await journal.begin_as(others, other._folder)
            await self._ocdbt.branch_from(other._ocdbt)
        except BaseException:
            journal.forget()  # without a manifest there is no map
            raise
        # The manifest is the other's, and says the same.
        self._agreed, self._is_agreed, self._opened = other._agreed, other._is_agreed, other._opened

    async def create_empty(self, *, in_turn: bool = False) -> None:
        """Start this map without keys of anybody's; `Conflict` if it is there already."""
        await self.commit({b"state/created": b""}, unchanged={b"state/created": None}, in_turn=in_turn)

    async def _store(
        self,
        journal: Journal,
        newest: Stretch,
        writes: Mapping[bytes, bytes | None] | None = None,
        ranges: Sequence[tuple[bytes, bytes]] = (),
        copies: Mapping[bytes, ts.KvStore] | None = None,
    ) -> None:
        """Store what waits, and a commit on top of it if one is given, together."""
        waiting = {
            key: value
            for key, value in newest.late.all(newest.newest).items()
            if key not in (copies or {}) and not any(first <= key < last for first, last in ranges)
        }
        self._is_agreed = False  # until it is marked as well
        if journal.stretch is not None:
            journal.unsettle()
        await self._ocdbt.commit({**waiting, **(writes or {})}, ranges, copies, unchanged={})
        manifest = await self._ocdbt.fingerprint()
        if manifest is None:
            raise StoreUnavailable(f"the manifest of {self._folder} is gone")
        stored = await self._ocdbt.generation(manifest)  # what changes nothing makes no generation of OCDBT
        # A map that has none yet gets a journal now: to look at its end is cheaper than to look at the manifest.
        generation = newest.newest + (writes is not None)
        await journal.mark(generation, stored, anew=journal.size_bytes > self._limits.file_bytes)
        self._agreed, self._is_agreed = (stored, manifest), True

    async def _check(self, view: View, unchanged: Mapping[bytes, bytes | None]) -> None:
        values = await view.get_many(unchanged)
        for (key, expected), value in zip(unchanged.items(), values, strict=True):
            if value != expected:
                raise Conflict(f"{key!r} was changed by another writer")

    async def _look(self, journal: Journal) -> Stretch | None:
        """The newest stretch, or None while the map does not exist."""
        while True:
            stretch = journal.look()
            if stretch is not None:
                return stretch
            manifest = await self._ocdbt.fingerprint()
            if manifest is None:
                return None
            if self._plain is None or self._plain[0] != manifest:
                generation = await self._ocdbt.generation(manifest)
                self._plain = manifest, Stretch.after(None, generation, generation)
            if journal.look() is None:  # which somebody may have begun meanwhile
                return self._plain[1]

    async def _agree(self, journal: Journal) -> Stretch | None:
        """The newest stretch, for who has the lock; `Conflict` after a commit that had been stored but not marked."""
        stretch = await self._look(journal)
        if stretch is None or journal.stretch is None or (journal.is_ours and self._is_agreed):
            return stretch
        if journal.is_settled and self._agreed is not None and self._agreed[0] == stretch.stored:
            self._is_agreed = True
            return stretch
        manifest = await self._ocdbt.fingerprint()
        if manifest is None:
            raise StoreUnavailable(f"the manifest of {self._folder} is gone")
        if self._agreed != (stretch.stored, manifest):
            stored = await self._ocdbt.generation(manifest)
            if stored != stretch.stored:
                await journal.mark(stretch.newest + 1, stored)
                raise Conflict(f"a commit of {self._folder} had been cut short")
            self._agreed = stored, manifest
        self._is_agreed = True
        return stretch

    def _holder(self, generation: int) -> tuple[OrderedMap, Stretch | None]:
        """The map whose journals know a generation, and their stretch; none if it is older than all journals."""
        holder = self
        while holder._journal is not None:
            holder._journal.look()
            stretch = holder._journal.around(generation)
            origin = "" if stretch is not None else holder._journal.origin()
            if not origin:
                return holder, stretch
            holder = OrderedMap(self.store, self._base, origin)
        return holder, None
