"""What operators do to repos: rename and remove instances, remove repos, exchange and hide branches.

What is removed is gone from the catalog at once. Its objects are removed afterwards, a bounded number at a time; a
document in the catalog's `trash` names them until all are gone, so that whoever comes next goes on where a process
ended. Counters stay, so that no number is given out twice. Servers that hold an older copy of the catalog may still
read for a moment, and then do not find what they read.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from app.backends.catalog import NEW, Change, Document
from app.core.errors import Conflict, Invalid, NeedsAdmin, NotAllowed, Unknown
from app.versioning.datastore import Datastore
from app.versioning.graph import MASTER, Instance, Repo, Version
from app.versioning.operations import Fields
from app.versioning.repos import Repos, check_data_name

TRASH = "trash"
#: Documents of the catalog that are removed together.
TOGETHER = 200


def check_passcode(repo: Repo, passcode: str) -> None:
    """Refuse what needs the passcode that a repo was made with."""
    if repo.passcode and passcode != repo.passcode:
        raise NeedsAdmin(f"this needs the passcode of repo {repo.root}")


async def rename_instance(repos: Repos, root: str, old: str, new: str) -> None:
    """Give an instance another name, in all versions. Instances that are synced to it stay so."""
    check_data_name(new)
    told: list[Fields] = []

    async def change(repo: Repo) -> tuple[Repo, list[Change]]:
        instance = _named(repo, old)
        if new in repo.by_name:
            raise NotAllowed(f"data instance {new!r} already exists in repo {root}")
        renamed = replace(instance, name=new)
        names = {"DataUUID": instance.uuid, "OldName": instance.name, "Dataname": new}
        told[:] = [{"Action": "renameinstance", **names}]
        return repo, [Change(f"repos/{root}/instances/{instance.uuid}", renamed.document(), None)]

    await repos.change(root, change, told)


async def remove_instance(datastore: Datastore, root: str, name: str) -> None:
    """Remove an instance from all versions; `empty_trash` removes what it held."""
    told: list[Fields] = []

    async def change(repo: Repo) -> tuple[Repo, list[Change]]:
        instance = _named(repo, name)
        told[:] = [{"Action": "deleteinstance", "DataUUID": instance.uuid, "Dataname": instance.name}]
        rubbish = {"folders": [_folder(repo, instance)], "root": ""}
        return repo, [
            Change(f"repos/{root}/instances/{instance.uuid}", None, None),
            Change(f"{TRASH}/{uuid.uuid4().hex}", rubbish, NEW),
        ]

    await datastore.repos.change(root, change, told)


async def remove_repo(datastore: Datastore, root: str) -> None:
    """Remove a repo with all versions and instances; `empty_trash` removes what it held."""
    repos = datastore.repos
    while True:
        await repos.refresh()
        repo = (await repos.forest()).repos.get(root)
        if repo is None:
            raise Unknown(f"repo {root} not found")
        folders = [_folder(repo, instance) for instance in repo.instances.values()]
        rubbish = {"folders": folders, "root": root}
        try:
            await datastore.catalog.commit(
                [
                    Change(f"repos/{root}", None, repo.revision),
                    Change(f"{TRASH}/{uuid.uuid4().hex}", rubbish, NEW),
                ]
            )
        except Conflict:
            continue
        await repos.refresh()
        return


async def empty_trash(datastore: Datastore) -> AsyncIterator[int]:
    """Remove the objects of what was removed; yields how many went, again and again, and may be stopped."""
    catalog = datastore.catalog
    for document in await catalog.list(TRASH):
        for store, folder in document.data["folders"]:
            trees = datastore.trees(store)
            trees.forget(folder)
            async for count in trees.store.remove(folder):
                yield count
        present: list[str] = []
        if root := document.data["root"]:
            for collection in ("versions", "instances", "operations"):
                present += [found.path for found in await catalog.list(f"repos/{root}/{collection}")]
        for start in range(0, len(present), TOGETHER):
            await catalog.commit([Change(path, None) for path in present[start : start + TOGETHER]])
        await _drop(datastore, document)


async def _drop(datastore: Datastore, document: Document) -> None:
    try:
        await datastore.catalog.commit([Change(document.path, None, document.revision)])
    except Conflict:  # somebody else has emptied it meanwhile
        return


async def make_master(repos: Repos, root: str, version: str, old: str) -> None:
    """Let a branch that begins at `version` be master; what was master from there on gets the branch name `old`."""

    async def change(repo: Repo) -> tuple[Repo, list[Change]]:
        first = repo.versions[version]
        parent = repo.versions[first.parents[0]] if first.parents else first
        if not first.branch or parent.branch or not first.parents:
            raise Invalid(f"version {version} does not begin a branch off master")
        if not old or old == MASTER or any(node.branch == old for node in repo.versions.values()):
            raise NotAllowed(f"branch {old!r} cannot take the versions that were master: choose a name not yet used")
        after = _descendants(repo, parent.uuid) - {parent.uuid}
        renamed = [
            replace(node, branch=old) for node in repo.versions.values() if node.uuid in after and not node.branch
        ]
        renamed += [replace(node, branch="") for node in repo.versions.values() if node.branch == first.branch]
        return repo, [_changed(repo, node) for node in renamed]

    await repos.change(root, change, [{"Action": "makemaster", "UUID": version, "OldMaster": old}])


async def hide_branch(repos: Repos, root: str, branch: str) -> list[str]:
    """Forget the versions of a branch, which no version of another branch descends from; they are answered."""
    hidden: list[str] = []
    told: list[Fields] = []

    async def change(repo: Repo) -> tuple[Repo, list[Change]]:
        nonlocal hidden
        if branch in ("", MASTER):
            raise Invalid("master cannot be hidden")
        hidden = [node.uuid for node in repo.versions.values() if node.branch == branch]
        if not hidden:
            raise Unknown(f"branch {branch!r} not found in repo {root}")
        others = [child for uuid_ in hidden for child in repo.children[uuid_] if child not in hidden]
        if others:
            raise NotAllowed(f"version {others[0]} descends from branch {branch!r}, which cannot be hidden therefore")
        if root in hidden:
            raise NotAllowed("the root cannot be hidden")
        told[:] = [{"Action": "hidebranch", "Branch": branch, "Versions": hidden}]
        return repo, [Change(f"repos/{root}/versions/{uuid_}", None) for uuid_ in hidden]

    await repos.change(root, change, told)
    return hidden


def _named(repo: Repo, name: str) -> Instance:
    instance = repo.by_name.get(name) or repo.instances.get(name)
    if instance is None:
        raise Unknown(f"invalid data instance name: {name!r} not found in repo {repo.root}")
    return instance


def _folder(repo: Repo, instance: Instance) -> Sequence[str]:
    return [instance.store, f"repos/{repo.root}/{instance.uuid}/"]


def _changed(repo: Repo, node: Version) -> Change:
    return Change(f"repos/{repo.root}/versions/{node.uuid}", node.document(), None)


def _descendants(repo: Repo, version: str) -> set[str]:
    found, todo = set[str](), [version]
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo += repo.children[node]
    return found
