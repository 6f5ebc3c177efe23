"""Values of the catalog: repos, their graphs of versions, their data instances; and how a version is named in a URL."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

from app.core.errors import Invalid, Unknown
from app.versioning.line import Line

T = TypeVar("T")

#: How the API spells the branch whose stored name is empty.
MASTER = "master"


@dataclass(frozen=True)
class Version:
    """A node of the graph. `number` is the server-wide integer by which the API's JSON links nodes."""

    uuid: str
    number: int
    branch: str
    note: str
    log: Sequence[str]
    locked: bool
    parents: Sequence[str]
    created: str
    updated: str

    def document(self) -> dict[str, Any]:
        """What the catalog holds."""
        return {key: value for key, value in vars(self).items() if key != "uuid"}


@dataclass(frozen=True)
class Instance:
    """A data instance: its general settings, and those of its datatype in `settings`.

    `version` is where it was created; it is there by name in all versions of the repo. `syncs` are the UUIDs of the
    instances whose data it looks at. Data that are `shared` are the same in all versions, but a locked one refuses to
    change them.
    """

    uuid: str
    name: str
    typename: str
    version: str
    versioned: bool = True
    compression: str = "lz4"
    checksum: str = "crc32"
    tags: Mapping[str, str] | None = None
    syncs: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    store: str = ""
    shared: bool = False

    @property
    def has_versions(self) -> bool:
        """Whether each version has a state of its own."""
        return self.versioned and not self.shared

    def document(self) -> dict[str, Any]:
        """What the catalog holds."""
        return {key: value for key, value in vars(self).items() if key != "uuid"}


@dataclass(frozen=True)
class Repo:
    """A repo as the catalog holds it at one moment; a change makes a new value."""

    root: str
    alias: str
    description: str
    log: Sequence[str]
    created: str
    updated: str
    passcode: str
    versions: Mapping[str, Version]
    instances: Mapping[str, Instance]
    revision: str = field(compare=False)
    #: How often an administrator gave a locked version a tree; what was known of who owns trees ends with it.
    epoch: int = 0
    #: How many operations on the repo the catalog tells of; see `operations`.
    operations: int = 0
    _lines: dict[str, Line] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def children(self) -> Mapping[str, Sequence[str]]:
        """The children of each version, in the order of their making."""
        found: dict[str, list[str]] = {uuid: [] for uuid in self.versions}
        for version in sorted(self.versions.values(), key=lambda version: version.number):
            for parent in version.parents:
                found[parent].append(version.uuid)
        return found

    @cached_property
    def by_name(self) -> Mapping[str, Instance]:
        """Instances by their names."""
        return {instance.name: instance for instance in self.instances.values()}

    def line(self, uuid: str) -> Line:
        """The version and its ancestors along first parents; the same object until the repo changes."""
        line = self._lines.get(uuid)
        if line is None:
            chain, known = [uuid], None
            while known is None and (parents := self.versions[chain[-1]].parents):
                known = self._lines.get(parents[0])
                if known is None:
                    chain.append(parents[0])
            before = () if known is None else known.versions
            line = self._lines[uuid] = Line((*chain, *before), self.versions[uuid].locked, self.epoch)
        return line

    def changed(
        self,
        revision: str,
        versions: Mapping[str, Version | None],
        instances: Mapping[str, Instance | None],
        **fields: Any,
    ) -> Repo:
        """This repo after a change: versions and instances replaced (None: removed), and fields of its own.

        What is known of versions that stay as they are is kept.
        """
        own: dict[str, Any] = {name: getattr(self, name) for name in _OWN}
        kept = Repo(
            **{**own, **fields},
            revision=revision,
            versions=_replaced(self.versions, versions),
            instances=_replaced(self.instances, instances),
        )
        if kept.epoch == self.epoch:
            kept._lines.update(self._lines)
            for uuid, version in versions.items():
                line = kept._lines.pop(uuid, None)
                if line is not None and version is not None and version.parents == self.versions[uuid].parents:
                    kept._lines[uuid] = replace(line, is_locked=version.locked)
        known = self.__dict__.get("children")
        if known is not None and all(version is not None for version in versions.values()):
            children = dict(known)
            for version in versions.values():
                if version is not None and version.uuid not in self.versions:
                    children[version.uuid] = []
                    for parent in version.parents:
                        children[parent] = [*children[parent], version.uuid]
            kept.__dict__["children"] = children
        return kept

    def ancestors(self, uuid: str) -> set[str]:
        """A version and everything it descends from, through all parents."""
        found, todo = set[str](), [uuid]
        while todo:
            version = todo.pop()
            if version not in found:
                found.add(version)
                todo += self.versions[version].parents
        return found

    def newest(self, versions: Iterable[str]) -> list[str]:
        """Those of some versions from which none of the others descends, the oldest first."""
        found = set(versions)
        older = {ancestor for uuid in found for ancestor in self.ancestors(uuid) - {uuid}}
        return sorted(found - older, key=lambda uuid: self.versions[uuid].number)

    def common_ancestors(self, some: Iterable[str], other: str) -> list[str]:
        """The nearest versions that `other` shares with any of `some`: several where their histories cross."""
        shared = self.ancestors(other) & {ancestor for uuid in some for ancestor in self.ancestors(uuid)}
        # All ancestors of a shared version are shared, so what is not the nearest is a parent of one that is shared.
        older = {parent for uuid in shared for parent in self.versions[uuid].parents}
        return sorted(shared - older, key=lambda uuid: self.versions[uuid].number)

    def leaf(self, branch: str) -> Version:
        """The version of a branch that has no child on the same branch."""
        name = _stored(branch)
        members = [version for version in self.versions.values() if version.branch == name]
        leaves = [
            version
            for version in members
            if not any(self.versions[child].branch == name for child in self.children[version.uuid])
        ]
        if not leaves:
            raise Unknown(f"branch {branch!r} not found in repo {self.root}")
        # A version merge can leave two leaves on master: the younger one descends from both parents.
        return max(leaves, key=lambda version: version.number)

    def branch_versions(self, branch: str) -> list[str]:
        """The UUIDs from a branch's leaf back to the root; at a merge all but the last parent come first."""
        name = _stored(branch)
        if not any(version.branch == name for version in self.versions.values()):
            return []
        chain = [self.leaf(branch).uuid]
        while parents := self.versions[chain[-1]].parents:
            chain += parents
        return chain


#: The fields of a repo's own document.
_OWN = ("root", "alias", "description", "log", "created", "updated", "passcode", "epoch", "operations")


def _replaced(present: Mapping[str, T], changes: Mapping[str, T | None]) -> Mapping[str, T]:
    if not changes:
        return present
    found: dict[str, Any] = {**present, **changes}
    for name in [name for name, value in changes.items() if value is None]:
        del found[name]
    return found


def _stored(branch: str) -> str:
    return "" if branch == MASTER else branch


class Forest:
    """All repos of the server at one moment, and the index by which versions are found."""

    def __init__(self, repos: Iterable[Repo]) -> None:
        self.repos = {repo.root: repo for repo in repos}
        self._homes = {uuid: repo.root for repo in self.repos.values() for uuid in repo.versions}
        self._sorted = sorted(self._homes)

    def changed(self, repo: Repo, versions: Mapping[str, Version | None]) -> Forest:
        """All repos after a change of one, in which these versions are new, replaced or (None) removed."""
        forest = Forest([])
        forest.repos = {**self.repos, repo.root: repo}
        new = [uuid for uuid, version in versions.items() if version is not None and uuid not in self._homes]
        gone = {uuid for uuid, version in versions.items() if version is None}
        forest._homes, forest._sorted = self._homes, self._sorted
        if new or gone:
            forest._homes = {**self._homes, **dict.fromkeys(new, repo.root)}
            forest._sorted = [uuid for uuid in self._sorted if uuid not in gone] if gone else self._sorted.copy()
            for uuid in new:
                insort(forest._sorted, uuid)
            for uuid in gone:
                forest._homes.pop(uuid, None)
        return forest

    def home(self, uuid: str) -> Repo | None:
        """The repo of a version given by its full UUID."""
        root = self._homes.get(uuid)
        return None if root is None else self.repos[root]

    def resolve(self, spec: str) -> tuple[Repo, Version]:
        """The version that a URL names.

        Accepted: a full UUID or tag; a unique prefix; `prefix:branch` for the leaf of a branch (`:branch` when there
        is one repo only); each followed by `~N` for the N-th ancestor along first parents.
        """
        repo = self.home(spec)
        if repo is not None:
            return repo, repo.versions[spec]
        place, colon, rest = spec.partition(":")
        if not colon:
            return self._by_prefix(place)
        branch, tilde, steps = rest.partition("~")
        if ":" in branch:
            raise Invalid(f"bad version {spec!r}: more than one colon")
        if place:
            repo, version = self._by_prefix(place)
            if branch:
                version = repo.leaf(branch)
        elif len(self.repos) == 1:
            repo = next(iter(self.repos.values()))
            version = repo.leaf(branch or MASTER)
        else:
            raise Invalid(f"version {spec!r} names no repo, and the server has {len(self.repos)}")
        if tilde:
            if not (steps.isascii() and steps.isdigit()):
                raise Invalid(f"bad version {spec!r}: {steps!r} is no number of ancestors")
            line = repo.line(version.uuid).versions
            if int(steps) >= len(line):
                raise Unknown(f"version {spec!r} lies beyond the root")
            version = repo.versions[line[int(steps)]]
        return repo, version

    def _by_prefix(self, prefix: str) -> tuple[Repo, Version]:
        repo = self.home(prefix)
        if repo is None:
            start = bisect_left(self._sorted, prefix)
            found = [uuid for uuid in self._sorted[start : start + 2] if uuid.startswith(prefix)]
            if not found:
                raise Unknown(f"could not find UUID with partial match to {prefix}!")
            if len(found) > 1:
                raise Invalid(f"more than one UUID matches {prefix}")
            prefix = found[0]
            repo = self.repos[self._homes[prefix]]
        return repo, repo.versions[prefix]
