"""What can be done to repos: make them, branch and lock their versions, add and change data instances.

Every change of a repo replaces the repo's own document too, guarded by its revision: changes of one graph are
serialised, whoever makes them, and a pod sees by that one document whether its copy is current.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson

from app.backends.catalog import NEW, Catalog, Change, Document
from app.core.errors import Conflict, Invalid, NotAllowed, Unknown
from app.versioning import operations
from app.versioning.graph import MASTER, Forest, Instance, Repo, Version
from app.versioning.leases import Counter

ATTEMPTS = 20
FIRST_MUTATION_ID = 1_000_000_000
#: Names of data instances that would be taken for keywords of `/api/node/{version}/...`.
RESERVED_NAMES = frozenset({"log", "branch", "note", "commit", "newversion"})


def now() -> str:
    """The present time as the API writes it: RFC 3339."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class Repos:
    """The repos of a catalog, kept current in memory."""

    def __init__(self, catalog: Catalog, max_staleness: float) -> None:
        self._catalog = catalog
        self._max_staleness = max_staleness
        self._forest = Forest([])
        self._token: bytes | None = None
        self._looked = float("-inf")
        self._refreshing: asyncio.Task[None] | None = None
        self._applied = 0
        # Not with the other counters: a number is taken in the commit that makes the version.
        self._numbers = Counter(catalog, "versions", first=1, stride=1, collection="numbers")
        self._mutations: dict[str, Counter] = {}

    async def forest(self) -> Forest:
        """All repos, as fresh as promised."""
        if self._max_staleness and time.monotonic() - self._looked < self._max_staleness:
            return self._forest
        token = await self._catalog.token()
        if token is None or token != self._token:
            await self.refresh()
        else:
            self._looked = time.monotonic()
        return self._forest

    async def refresh(self) -> None:
        """Look at the catalog now; tasks that come while another one looks wait for a look begun after they came."""
        if self._refreshing is not None:
            await asyncio.wait([self._refreshing])
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._load())
        await asyncio.shield(self._refreshing)

    async def resolve(self, spec: str) -> tuple[Repo, Version]:
        """The version that a URL names; see `Forest.resolve`."""
        return (await self.forest()).resolve(spec)

    def mutation_ids(self, root: str) -> Counter:
        """The counter of a repo's mutation ids."""
        counter = self._mutations.get(root)
        if counter is None:
            counter = Counter(self._catalog, f"mutations-{root}", first=FIRST_MUTATION_ID, stride=100)
            self._mutations[root] = counter
        return counter

    async def is_locked(self, root: str, version: str) -> bool:
        """Whether a version is locked, asked of the catalog now."""
        (document,) = await self._catalog.get([f"repos/{root}/versions/{version}"])
        return document is not None and bool(document.data["locked"])

    # ------------------------------------------------------------------ repos

    async def create(self, alias: str, description: str, passcode: str = "", root: str = "") -> Repo:
        """A new repo with one open version."""
        root = root or uuid.uuid4().hex
        _check_part(root, "root")
        await self.refresh()
        if self._forest.home(root) is not None:
            raise NotAllowed(f"a version {root} exists already")
        created = now()
        number = await self._numbers.take()
        version = Version(root, number, "", "", [], False, [], created, created)
        data = {
            "alias": alias,
            "description": description,
            "passcode": passcode,
            "log": [],
            "created": created,
            "updated": created,
            "operations": 1,
        }
        told = {"Action": "newrepo", "UUID": root, "Alias": alias, "Description": description}
        try:
            await self._catalog.commit(
                [
                    Change(f"repos/{root}", data, NEW),
                    Change(f"repos/{root}/versions/{root}", version.document(), NEW),
                    *operations.changes(root, 0, [told]),
                ]
            )
        except Conflict as error:
            raise NotAllowed(f"a version {root} exists already") from error
        await self.refresh()
        return self._forest.repos[root]

    async def describe(self, root: str, alias: str | None, description: str | None) -> None:
        """Change a repo's alias or description."""

        async def change(repo: Repo) -> tuple[Repo, list[Change]]:
            return replace(
                repo,
                alias=repo.alias if alias is None else alias,
                description=repo.description if description is None else description,
            ), []

        await self.change(root, change)

    async def add_log(self, root: str, lines: Sequence[str]) -> None:
        """Append to the log of a repo."""

        async def change(repo: Repo) -> tuple[Repo, list[Change]]:
            return replace(repo, log=[*repo.log, *_stamped(lines)]), []

        await self.change(root, change)

    async def touch(self, root: str) -> None:
        """Make every pod look at a repo again, after an administrator wrote to a locked version."""

        async def change(repo: Repo) -> tuple[Repo, list[Change]]:
            return replace(repo, epoch=repo.epoch + 1), []

        await self.change(root, change)

    # ------------------------------------------------------------------ versions

    async def edit_version(
        self, root: str, version: str, *, note: str | None = None, log: Sequence[str] = (), by_admin: bool = False
    ) -> None:
        """Set the note of an open version, or append to its log."""

        async def change(repo: Repo) -> tuple[Repo, list[Change]]:
            node = repo.versions[version]
            if node.locked and not by_admin:
                raise NotAllowed(f"version {version} is locked")
            return repo, [_changed(repo, _annotated(node, note, log))]

        told: list[dict[str, Any]] = [] if note is None else [{"Action": "nodenote", "UUID": version, "Note": note}]
        if log:
            told.append({"Action": "nodelog", "UUID": version, "Log": list(log)})
        await self.change(root, change, told)

    async def lock(self, root: str, version: str, note: str, log: Sequence[str]) -> None:
        """Lock a version in the catalog. Its trees are sealed afterwards, by the caller."""

        async def change(repo: Repo) -> tuple[Repo, list[Change]]:
            node = repo.versions[version]
            if node.locked:
                raise NotAllowed(f"version {version} is locked already")
            return repo, [_changed(repo, replace(_annotated(node, note or None, log), locked=True))]

        await self.change(root, change, [{"Action": "commit", "UUID": version, "Note": note, "Log": list(log)}])

    async def add_version(
        self,
        root: str,
        parents: Sequence[str],
        *,
        branch: str | None = None,
        note: str = "",
        uuid_: str = "",
        locked: bool = False,
    ) -> str:
        """A child of locked parents; on their branch, or on the new branch named."""
        child = uuid_ or uuid.uuid4().hex
        _check_part(child, "UUID")

        async def change(repo: Repo) -> tuple[Repo, list[Change]]:
            if self._forest.home(child) is not None:
                raise NotAllowed(f"a version {child} exists already")
            for parent in parents:
                if not repo.versions[parent].locked:
                    raise NotAllowed(f"version {parent} is not locked; commit it before branching off")
            target = _target_branch(repo, parents, branch)
            made = now()
            number, taken = await self._numbers.next()
            node = Version(child, number, target, note, [], locked, list(parents), made, made)
            # That there is none yet, the repo's own document guards.
            return repo, [Change(f"repos/{root}/versions/{child}", node.document()), taken]

        await self.change(root, change, [_told_of_child(child, parents, branch, note, is_tag=locked)])
        return child

    # ------------------------------------------------------------------ instances

    async def add_instance(self, root: str, instance: Instance) -> None:
        """A new data instance, there by name in all versions."""
        check_data_name(instance.name)

        async def change(repo: Repo) -> tuple[Repo, list[Change]]:
            if instance.name in repo.by_name:
                raise NotAllowed(f"data instance {instance.name!r} already exists in repo {root}")
            return repo, [Change(f"repos/{root}/instances/{instance.uuid}", instance.document(), NEW)]

        told = {"UUID": instance.version, "Typename": instance.typename, "Dataname": instance.name}
        await self.change(root, change, [{"Action": "newinstance", **told}])

    async def edit_instance(self, root: str, data_uuid: str, edit: Callable[[Instance], Instance]) -> Instance:
        """Change an instance's properties; these are not versioned."""

        async def change(repo: Repo) -> tuple[Repo, list[Change]]:
            instance = repo.instances.get(data_uuid)
            if instance is None:
                raise Unknown(f"data instance {data_uuid} is gone")
            edited = edit(instance)
            return repo, [Change(f"repos/{root}/instances/{data_uuid}", edited.document(), None)]

        await self.change(root, change)
        return self._forest.repos[root].instances[data_uuid]

    # ------------------------------------------------------------------ the catalog

    async def change(
        self,
        root: str,
        change: Callable[[Repo], Awaitable[tuple[Repo, list[Change]]]],
        told: Sequence[operations.Fields] = (),
    ) -> None:
        """Replace a repo's document, and others in the same commit, as `change` says of the newest one.

        `told` is what others are told of it, once `change` has returned; see `operations`.
        """
        for attempt in range(ATTEMPTS):
            token = await self._catalog.token()
            if token is None or token != self._token:
                await self.refresh()
            repo = self._forest.repos.get(root)
            if repo is None:
                raise Unknown(f"repo {root} not found")
            edited, changes = await change(repo)
            fields = {
                "alias": edited.alias,
                "description": edited.description,
                "passcode": edited.passcode,
                "log": list(edited.log),
                "created": edited.created,
                "updated": now(),
                "epoch": edited.epoch,
                "operations": repo.operations + len(told),
            }
            changes += operations.changes(root, repo.operations, told)
            try:
                receipt = await self._catalog.commit([Change(f"repos/{root}", fields, repo.revision), *changes])
            except Conflict:
                await self.refresh()
                await asyncio.sleep(random.uniform(0, 0.01 * 2 ** min(attempt, 5)))
                continue
            if receipt.revision is None or self._forest.repos.get(root) is not repo:
                await self.refresh()
                return
            self._apply(repo, fields, changes, receipt.revision)
            if receipt.before is not None and receipt.before == self._token:
                self._token = receipt.after
            return
        raise Conflict(f"repo {root} is being changed by too many others; try again")

    def _apply(self, repo: Repo, fields: Mapping[str, Any], changes: Sequence[Change], revision: str) -> None:
        """Bring the copy up to a change that this process has just committed, without reading it back."""
        versions: dict[str, Version | None] = {}
        instances: dict[str, Instance | None] = {}
        for change in changes:
            collection, _, name = change.path.removeprefix(f"repos/{repo.root}/").rpartition("/")
            data = None if change.data is None else orjson.loads(orjson.dumps(change.data))  # as others read it
            if collection == "versions":
                versions[name] = None if data is None else Version(name, **data)
            elif collection == "instances":
                instances[name] = None if data is None else Instance(name, **data)
        self._forest = self._forest.changed(repo.changed(revision, versions, instances, **fields), versions)
        self._applied += 1

    async def _load(self) -> None:
        while True:
            applied = self._applied
            looked, token = time.monotonic(), await self._catalog.token()
            documents = await self._catalog.list("repos")
            known = self._forest.repos
            repos = await asyncio.gather(*[self._load_repo(each, known.get(each.name)) for each in documents])
            if applied == self._applied:  # else it may be older than what this process knows by its own changes
                break
        if len(repos) != len(known) or any(known.get(repo.root) is not repo for repo in repos):
            self._forest = Forest(repos)
        self._token, self._looked = token, looked

    async def _load_repo(self, document: Document, known: Repo | None) -> Repo:
        if known is not None and known.revision == document.revision:
            return known
        versions, instances = await asyncio.gather(
            self._catalog.list(f"{document.path}/versions"), self._catalog.list(f"{document.path}/instances")
        )
        return Repo(
            root=document.name,
            **document.data,
            versions={version.name: Version(version.name, **version.data) for version in versions},
            instances={instance.name: Instance(instance.name, **instance.data) for instance in instances},
            revision=document.revision,
        )


def check_data_name(name: str) -> None:
    """Refuse names of data instances that no URL could have."""
    if name in RESERVED_NAMES:
        raise Invalid(f"data name {name!r} is reserved")
    if not name or "/" in name:
        raise Invalid("a data name must not be empty or contain a slash")


def _check_part(text: str, what: str) -> None:
    if not text or "/" in text or len(text) > 200 or not text.isprintable():
        raise Invalid(f"{what} {text!r} cannot name a version")


def _stamped(lines: Sequence[str]) -> list[str]:
    return [f"{now()}  {line}" for line in lines]


def _annotated(node: Version, note: str | None, log: Sequence[str]) -> Version:
    return replace(node, note=node.note if note is None else note, log=[*node.log, *_stamped(log)], updated=now())


def _told_of_child(
    child: str, parents: Sequence[str], branch: str | None, note: str, *, is_tag: bool
) -> operations.Fields:
    """The message about a new version; a tag is one that is made locked."""
    if len(parents) > 1:
        return {"Action": "merge", "Parents": list(parents), "Child": child, "Note": note}
    told = {"Parent": parents[0], "Child": child, "Note": note}
    if branch is None:
        return {"Action": "newversion", **told}
    if is_tag:
        return {"Action": "tag", **told, "Branch": branch, "Tag": child}
    return {"Action": "branch", **told, "Branch": branch}


def _changed(repo: Repo, node: Version) -> Change:
    return Change(f"repos/{repo.root}/versions/{node.uuid}", node.document(), None)


def _target_branch(repo: Repo, parents: Sequence[str], branch: str | None) -> str:
    """The branch a child goes to; a version has at most one child on each branch."""
    if len(parents) > 1:
        return ""  # a version merge continues master, whatever its parents' branches
    parent = repo.versions[parents[0]]
    if branch is not None and branch in ("", MASTER):
        raise Invalid("a branch needs a name other than the default one's")
    target = parent.branch if branch is None else branch
    if target != parent.branch and any(version.branch == target for version in repo.versions.values()):
        raise NotAllowed(f"branch {target!r} already exists in repo {repo.root}")
    if any(repo.versions[child].branch == target for child in repo.children[parent.uuid]):
        raise NotAllowed(f"version {parent.uuid} already has a child on branch {target or MASTER!r}")
    return target


HEX_UUID = re.compile(r"[0-9a-f]{32}")


def check_uuid(text: str) -> str:
    """An assigned UUID for a new version: 32 lower-case hexadecimal digits."""
    if not HEX_UUID.fullmatch(text):
        raise Invalid(f"UUID {text!r} is not 32 lower-case hexadecimal digits")
    return text
