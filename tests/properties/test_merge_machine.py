"""Random histories of keyvalue data (edits, branches, version merges, resolutions) against dictionaries."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from app.backends.bucket_catalog import BucketCatalog
from app.backends.store import Store
from app.core.errors import NotAllowed
from app.datatypes import keyvalue
from app.datatypes import values as values_
from app.datatypes.author import Author
from app.versioning import log
from app.versioning.datastore import Data, Datastore
from app.versioning.graph import Instance
from app.versioning.merge import Merge, merge_versions
from tests.journals import a_folder_or_memory, store_options

Contents = dict[str, object]

keys = st.sampled_from(["a", "b", "c", "d", "long" * 200])
values = st.tuples(st.sampled_from([b"x", b"y", b"z"]), st.sampled_from([1, 1, 1500])).map(
    lambda pair: pair[0] * pair[1]
)
edits = st.dictionaries(keys, st.none() | values, max_size=3)


@dataclass(repr=False, eq=False)
class Version:
    uuid: str
    parents: list[Version]
    contents: Contents
    #: Whether the instance was written here, or several states were brought together.
    is_own: bool = False
    edits: list[str] = field(default_factory=list)
    age: int = field(default_factory=itertools.count().__next__)

    def __repr__(self) -> str:
        return self.uuid

    def owner(self) -> Version | None:
        """The version that made what this one holds; None if nothing ever was written."""
        return self if self.is_own else self.parents[0].owner() if self.parents else None

    def ancestors(self) -> dict[str, Version]:
        found = {self.uuid: self}
        for parent in self.parents:
            found.update(parent.ancestors())
        return found


def way(instance: Instance) -> Merge:
    assert instance.typename == "keyvalue"
    return keyvalue.DATATYPE.merge


def newest(versions: Sequence[Version]) -> list[Version]:
    """Versions of which no other one descends from them, in their order."""
    return [each for each in versions if not any(each.uuid in other.ancestors() for other in versions if other != each)]


def states(versions: Sequence[Version]) -> list[Version]:
    """Which versions made what some hold, without those that went into others of them: these have had no say since."""
    owners = [version.owner() for version in versions]
    return newest([*{owner.uuid: owner for owner in owners if owner is not None}.values()])


def merged(parents: Sequence[Version]) -> tuple[Contents, set[str]]:
    """What a child of these versions holds, and which keys are in conflict."""
    sides = states(parents)
    if not sides:
        return {}, set()
    contents, conflicts, joined = dict(sides[0].contents), set[str](), sides[:1]
    for side in sides[1:]:
        base = past([version.ancestors() for version in joined], side)
        for key in contents.keys() | side.contents.keys() | base.keys():
            was, ours, theirs = base.get(key), contents.get(key), side.contents.get(key)
            if ours == theirs or theirs == was:
                continue
            if ours == was:
                if theirs is None:
                    contents.pop(key, None)
                else:
                    contents[key] = theirs
            else:
                conflicts.add(key)
        joined.append(side)
    return contents, conflicts


def past(lines: Sequence[Mapping[str, Version]], side: Version) -> Contents:
    """What the versions from which both descend held; where these were in conflict, something that nobody has."""
    everybody = {uuid: version for line in lines for uuid, version in line.items()}
    shared = [version for uuid, version in side.ancestors().items() if uuid in everybody]
    contents, conflicts = merged(sorted(newest(shared), key=lambda version: version.age))
    return {**contents, **{key: object() for key in conflicts}}


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()

    async def open(self) -> None:
        self.stack = ExitStack()
        options = store_options(durability="process")
        store = Store(self.stack.enter_context(a_folder_or_memory()), options)
        self.datastore = Datastore(store, BucketCatalog(store), options)
        repo = await self.datastore.repos.create("r", "")
        self.root = repo.root
        self.instance = uuid.uuid4().hex
        await self.datastore.repos.add_instance(self.root, Instance(self.instance, "kv", "keyvalue", self.root))
        self.versions = [Version(self.root, [], {})]

    async def data(self, version: Version) -> Data:
        return await self.datastore.data(version.uuid, "kv")

    @initialize(edits=edits, more=edits)
    def begin(self, edits: dict[str, bytes | None], more: dict[str, bytes | None]) -> None:
        self.runner.run(self.open())
        self.runner.run(self.write(self.versions[0], edits))
        self.runner.run(self.write(self.versions[0], more))
        self.runner.run(self.lock(self.versions[0]))

    @rule(data=st.data(), edits=edits)
    def branch(self, data: st.DataObject, edits: dict[str, bytes | None]) -> None:
        parent = data.draw(st.sampled_from(self.versions[-5:]))
        self.runner.run(self.grow(parent, edits))

    async def grow(self, parent: Version, edits: Mapping[str, bytes | None]) -> None:
        child = await self.datastore.repos.add_version(self.root, [parent.uuid], branch=uuid.uuid4().hex)
        self.versions.append(Version(child, [parent], dict(parent.contents)))
        await self.write(self.versions[-1], edits)
        await self.lock(self.versions[-1])

    async def write(self, version: Version, edits: Mapping[str, bytes | None]) -> None:
        for key, value in edits.items():
            version.edits.append(key)
            version.is_own = True
            if value is None:
                version.contents.pop(key, None)
                await keyvalue.delete(await self.data(version), key, Author("u"))
            else:
                version.contents[key] = value
                await keyvalue.put(await self.data(version), [(key, value)], Author("u"))

    async def lock(self, version: Version) -> None:
        repo, _ = await self.datastore.repos.resolve(version.uuid)
        await self.datastore.lock(repo, version.uuid, "", [])

    @precondition(lambda self: len(self.versions) > 2)
    @rule(data=st.data(), keep=st.booleans(), edits=edits)
    def merge(self, data: st.DataObject, keep: bool, edits: dict[str, bytes | None]) -> None:
        recent = st.sampled_from(self.versions[-5:])
        parents = data.draw(st.lists(recent, min_size=2, max_size=3, unique_by=id))
        self.runner.run(self.join(parents, keep, edits))

    async def join(self, parents: list[Version], keep: bool, edits: Mapping[str, bytes | None]) -> None:
        contents, conflicts = merged(parents)
        repo, _ = await self.datastore.repos.resolve(self.root)
        names = [version.uuid for version in parents]
        if conflicts and not keep:
            with pytest.raises(NotAllowed) as refusal:
                await merge_versions(self.datastore, repo, names, note="", merges=way)
            listed = {key for key in "abcd" if f'kv: key "{key}"\n' in str(refusal.value)}
            assert listed == {key for key in conflicts if len(key) == 1}
            repo, _ = await self.datastore.repos.resolve(self.root)
            assert set(repo.versions) == {version.uuid for version in self.versions}
        else:
            settled = ["kv"] if keep else []
            child = await merge_versions(self.datastore, repo, names, note="", merges=way, settled=settled)
            sides = states(parents)
            is_own = len(sides) > 1 or sides[:1] not in ([], [parents[0].owner()])
            self.versions.append(Version(child, parents, contents, is_own))
            await self.check()
            await self.write(self.versions[-1], edits)
            await self.lock(self.versions[-1])

    async def check(self) -> None:
        for version in self.versions:
            data = await self.data(version)
            snapshot = await data.head()
            names = await keyvalue.key_range(snapshot)
            assert names == sorted(version.contents)
            found = [value async for value in keyvalue.get_many(snapshot, names)]
            contents = [await values_.whole(value) for value in found if value is not None]
            assert dict(zip(names, contents, strict=True)) == version.contents
            for line in version.ancestors().values():
                records = [record for record in await log.records(snapshot, line.uuid) if record.arguments]
                assert [record.arguments["Key"] for record in records] == line.edits

    @rule()
    def read(self) -> None:
        self.runner.run(self.check())

    @rule()
    def reopen(self) -> None:
        self.runner.run(self.again())

    async def again(self) -> None:
        await self.datastore.close()
        options = self.datastore.store.options
        store = Store(self.datastore.store.url, options)
        store.context = self.datastore.store.context  # memory belongs to its context
        self.datastore = Datastore(store, BucketCatalog(store), options)

    def teardown(self) -> None:
        self.runner.run(self.datastore.close())
        self.runner.close()
        self.stack.close()


def run(examples: int, steps: int) -> None:
    how = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(Machine, settings=how)


def test_histories_are_dictionaries() -> None:
    run(25, 20)


@pytest.mark.torture
def test_histories_are_dictionaries_for_long() -> None:
    run(600, 60)
