"""Endpoints of versions, the nodes of the graph: notes, logs, locking, new versions and branches."""

from __future__ import annotations

from starlette.responses import Response

from app.core.errors import Invalid, NotAllowed
from app.routes import answers
from app.routes.endpoint import endpoint
from app.routes.repos import lines_of
from app.routes.request import Request
from app.versioning.repos import check_uuid


def _text(body: dict[str, object], name: str, default: str | None = None) -> str:
    value = body.get(name, default)
    if not isinstance(value, str):
        raise Invalid(f"the body must be a JSON object with {name!r} as a string")
    return value


@endpoint("GET", "/api/node/{version}/note", answer='{"note": text}')
async def get_note(request: Request) -> Response:
    """The note of a version."""
    return answers.json({"note": request.version.note})


@endpoint("POST", "/api/node/{version}/note", body='{"note": text}')
async def post_note(request: Request) -> Response:
    """Set the note of an open version."""
    assert request.repo is not None
    note = _text(await request.json_object(), "note")
    await request.service.datastore.repos.edit_version(
        request.repo.root, request.version.uuid, note=note, by_admin=request.may_write_locked
    )
    return answers.empty()


@endpoint("GET", "/api/node/{version}/log", answer='{"log": lines}')
async def get_log(request: Request) -> Response:
    """The log of a version."""
    return answers.json({"log": list(request.version.log)})


@endpoint("POST", "/api/node/{version}/log", body='{"log": lines}')
async def post_log(request: Request) -> Response:
    """Append to the log of an open version."""
    assert request.repo is not None
    await request.service.datastore.repos.edit_version(
        request.repo.root,
        request.version.uuid,
        log=lines_of(await request.json_object()),
        by_admin=request.may_write_locked,
    )
    return answers.empty()


@endpoint("GET", "/api/node/{version}/commit", answer='{"Locked": true or false}')
@endpoint("GET", "/api/node/{version}/status", answer='{"Locked": true or false}')
async def get_commit(request: Request) -> Response:
    """Whether a version is locked."""
    return answers.json({"Locked": request.version.locked})


@endpoint("POST", "/api/node/{version}/commit", body='{"note": text, "log": lines}', answer='{"committed": uuid}')
async def post_commit(request: Request) -> Response:
    """Lock a version for good. An empty note keeps the one it has."""
    assert request.repo is not None
    body = await request.json()
    if not isinstance(body, dict):
        raise Invalid("the body must be a JSON object, at least {}")
    note, log = _text(body, "note", ""), lines_of(body, required=False)
    await request.service.datastore.lock(request.repo, request.version.uuid, note, log)
    return answers.json({"committed": request.version.uuid})


@endpoint("POST", "/api/node/{version}/newversion", body='{"note": text, "uuid": uuid}', answer='{"child": uuid}')
async def post_newversion(request: Request) -> Response:
    """Make a child of a locked version on the same branch."""
    body = await request.json_object()
    return await _child(request, body, None)


@endpoint("POST", "/api/node/{version}/branch", body='{"branch": name, "note": text}', answer='{"child": uuid}')
async def post_branch(request: Request) -> Response:
    """Make a child of a locked version on a new branch."""
    body = await request.json_object()
    return await _child(request, body, _text(body, "branch"))


async def _child(request: Request, body: dict[str, object], branch: str | None) -> Response:
    assert request.repo is not None
    assigned = _text(body, "uuid", "")
    child = await request.service.datastore.repos.add_version(
        request.repo.root,
        [request.version.uuid],
        branch=branch,
        note=_text(body, "note", ""),
        uuid_=check_uuid(assigned) if assigned else "",
    )
    return answers.json({"child": child})


@endpoint("POST", "/api/node/{version}/tag", body='{"tag": name, "note": text}', answer='{"child": tag}')
async def post_tag(request: Request) -> Response:
    """Give a locked version a name: a locked child whose UUID is the tag."""
    assert request.repo is not None
    if not request.version.locked:
        raise NotAllowed(f"version {request.version.uuid} is not locked; commit it before tagging")
    body = await request.json_object()
    tag = _text(body, "tag")
    child = await request.service.datastore.repos.add_version(
        request.repo.root,
        [request.version.uuid],
        branch=f"tag-{tag}",
        note=f'Tag of version {request.version.uuid} with "{tag}"',
        uuid_=tag,
        locked=True,
    )
    return answers.json({"child": child})
