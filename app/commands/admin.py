"""The command `dvid-cloud admin`: what operators do to repos, straight in the store; servers may go on meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import click

from app.bootstrap import open_datastore
from app.core.errors import Invalid
from app.settings import Settings
from app.versioning import curation
from app.versioning.datastore import Datastore
from app.versioning.graph import MASTER, Repo

Work = Callable[[Datastore], Awaitable[None]]


@click.group()
@click.option("--store", help="folder or URL: file://, gs://, s3://  [dvid-data]")
@click.option("--catalog", help="URL of the catalog: a store's, or firestore://PROJECT  [in the store]")
@click.pass_context
def admin(context: click.Context, /, **options: Any) -> None:
    """Repos as operators see them: list, remove, rename, exchange branches."""
    context.obj = Settings(**{name: value for name, value in options.items() if value is not None})


def _run(settings: Settings, work: Work) -> None:
    async def opened() -> None:
        datastore = await open_datastore(settings)
        try:
            await work(datastore)
        finally:
            await datastore.close()

    asyncio.run(opened())


async def _repo(datastore: Datastore, name: str) -> Repo:
    """The repo that an alias or a version names."""
    forest = await datastore.repos.forest()
    found = [repo for repo in forest.repos.values() if repo.alias == name]
    if len(found) > 1:
        raise Invalid(f"{len(found)} repos have the alias {name!r}: name one by its root")
    return found[0] if found else forest.resolve(name)[0]


@admin.command("repos")
@click.pass_obj
def list_repos(settings: Settings) -> None:
    """List repos with their versions and instances."""

    async def work(datastore: Datastore) -> None:
        for repo in (await datastore.repos.forest()).repos.values():
            branches = sorted({version.branch or MASTER for version in repo.versions.values()})
            click.echo(f"{repo.root}  {repo.alias}  {len(repo.versions)} versions on {', '.join(branches)}")
            for instance in sorted(repo.instances.values(), key=lambda instance: instance.name):
                click.echo(f"    {instance.uuid}  {instance.name}  {instance.typename}")

    _run(settings, work)


@admin.command("delete-repo")
@click.argument("root")
@click.option("--passcode", default="", help="of the repo, if it was made with one")
@click.confirmation_option(prompt="This cannot be undone. Go on?")
@click.pass_obj
def delete_repo(settings: Settings, root: str, passcode: str) -> None:
    """Remove the repo with this root, and everything in it."""

    async def work(datastore: Datastore) -> None:
        repo = (await datastore.repos.forest()).repos.get(root)
        if repo is None:
            raise Invalid(f"there is no repo with the root {root}; give the whole UUID")
        curation.check_passcode(repo, passcode)
        await curation.remove_repo(datastore, root)
        await _empty(datastore)

    _run(settings, work)


@admin.command("delete-data")
@click.argument("repo")
@click.argument("name")
@click.option("--passcode", default="", help="of the repo, if it was made with one")
@click.confirmation_option(prompt="This cannot be undone. Go on?")
@click.pass_obj
def delete_data(settings: Settings, repo: str, name: str, passcode: str) -> None:
    """Remove the instance with this name or UUID from all versions of a repo."""

    async def work(datastore: Datastore) -> None:
        found = await _repo(datastore, repo)
        curation.check_passcode(found, passcode)
        await curation.remove_instance(datastore, found.root, name)
        await _empty(datastore)

    _run(settings, work)


@admin.command("rename-data")
@click.argument("repo")
@click.argument("old")
@click.argument("new")
@click.option("--passcode", default="", help="of the repo, if it was made with one")
@click.pass_obj
def rename_data(settings: Settings, repo: str, old: str, new: str, passcode: str) -> None:
    """Give an instance another name, in all versions."""

    async def work(datastore: Datastore) -> None:
        found = await _repo(datastore, repo)
        curation.check_passcode(found, passcode)
        await curation.rename_instance(datastore.repos, found.root, old, new)

    _run(settings, work)


@admin.command("make-master")
@click.argument("version")
@click.argument("branch")
@click.pass_obj
def make_master(settings: Settings, version: str, branch: str) -> None:
    """Let the branch that begins at VERSION, right off master, be master; what was master becomes BRANCH."""

    async def work(datastore: Datastore) -> None:
        repo, node = await datastore.repos.resolve(version)
        await curation.make_master(datastore.repos, repo.root, node.uuid, branch)

    _run(settings, work)


@admin.command("hide-branch")
@click.argument("repo")
@click.argument("branch")
@click.confirmation_option(prompt="This cannot be undone. Go on?")
@click.pass_obj
def hide_branch(settings: Settings, repo: str, branch: str) -> None:
    """Forget the versions of a branch that nothing else descends from."""

    async def work(datastore: Datastore) -> None:
        found = await _repo(datastore, repo)
        for version in await curation.hide_branch(datastore.repos, found.root, branch):
            click.echo(version)

    _run(settings, work)


@admin.command("empty-trash")
@click.pass_obj
def empty_trash(settings: Settings) -> None:
    """Go on removing what removed repos and instances held, after an interruption."""
    _run(settings, _empty)


async def _empty(datastore: Datastore) -> None:
    total = 0
    async for count in curation.empty_trash(datastore):
        total += count
        click.echo(f"\r{total} objects removed", nl=False)
    click.echo(f"\r{total} objects removed")
