"""Endpoints for operators: what a real DVID offers on its command line only."""

from __future__ import annotations

import asyncio
import logging

from starlette.responses import Response

from app.core.errors import DvidError, Invalid
from app.routes import answers
from app.routes.endpoint import Parameter, endpoint
from app.routes.repos import json_body, word
from app.routes.request import Request
from app.versioning import curation
from app.versioning.datastore import Datastore
from app.versioning.graph import Repo

logger = logging.getLogger(__name__)

_SURE = [
    Parameter("imsure", "must be true", "flag", False),
    Parameter("passcode", "of the repo, if it was made with one"),
]
#: Removals under way: the event loop itself keeps only weak references to tasks.
_removing: set[asyncio.Task[None]] = set()


@endpoint("DELETE", "/api/repo/{version}", admin=True, query=_SURE, media="text/plain", answer="text")
async def delete_repo(request: Request) -> Response:
    """Remove a repo, named by its root, with everything in it."""
    repo = _sure(request)
    if request.version.uuid != repo.root:
        raise Invalid(f"version {request.version.uuid} is not the root of its repo; name the repo by {repo.root}")
    datastore = request.service.datastore
    await curation.remove_repo(datastore, repo.root)
    _empty_trash(datastore)
    return answers.text(f"removed repo {repo.root}\n")


@endpoint("DELETE", "/api/repo/{version}/instance/{data}", admin=True, query=_SURE, media="text/plain", answer="text")
async def delete_instance(request: Request) -> Response:
    """Remove a data instance from all versions, with everything in it."""
    repo, datastore = _sure(request), request.service.datastore
    await curation.remove_instance(datastore, repo.root, request.path["data"])
    _empty_trash(datastore)
    return answers.text(f"removed {request.path['data']} from repo {repo.root}\n")


@endpoint("POST", "/api/repo/{version}/instance/{data}/rename", admin=True, body='{"name": text}', query=_SURE[1:])
async def post_rename(request: Request) -> Response:
    """Give a data instance another name, in all versions."""
    assert request.repo is not None
    curation.check_passcode(request.repo, request.query["passcode"])
    name = word(await json_body(request), "name")
    await curation.rename_instance(request.service.datastore.repos, request.repo.root, request.path["data"], name)
    return answers.empty()


@endpoint("POST", "/api/repo/{version}/make-master", admin=True, body='{"branch": name for what was master}')
async def post_make_master(request: Request) -> Response:
    """Let the branch that begins at this version, right off master, be master from now on."""
    assert request.repo is not None
    old = word(await json_body(request), "branch")
    await curation.make_master(request.service.datastore.repos, request.repo.root, request.version.uuid, old)
    return answers.empty()


@endpoint("POST", "/api/repo/{version}/hide-branch", admin=True, body='{"branch": name}', answer='{"hidden": uuids}')
async def post_hide_branch(request: Request) -> Response:
    """Forget the versions of a branch that nothing else descends from."""
    assert request.repo is not None
    branch = word(await json_body(request), "branch")
    hidden = await curation.hide_branch(request.service.datastore.repos, request.repo.root, branch)
    return answers.json({"hidden": hidden})


def _sure(request: Request) -> Repo:
    assert request.repo is not None
    if not request.query["imsure"]:
        raise Invalid("this cannot be undone: say imsure=true")
    curation.check_passcode(request.repo, request.query["passcode"])
    return request.repo


def _empty_trash(datastore: Datastore) -> None:
    """Begin to remove objects; if this process ends before they are gone, the next removal or command goes on."""

    async def work() -> None:
        try:
            async for _ in curation.empty_trash(datastore):
                await asyncio.sleep(0)
        except DvidError as error:
            logger.warning("what was removed is still in the store, until the next attempt: %s", error)

    task = asyncio.create_task(work())
    _removing.add(task)
    task.add_done_callback(_removing.discard)
