"""Endpoints of repos: make them, describe them, add instances, merge versions."""

from __future__ import annotations

import uuid
from typing import Any

import orjson
from starlette.responses import Response

from app.core.errors import Invalid, NotAllowed, Unknown
from app.datatypes import DATATYPES
from app.datatypes.config import Config
from app.routes import answers
from app.routes.authority import Right
from app.routes.endpoint import endpoint
from app.routes.request import Request
from app.routes.service import Service
from app.versioning.datastore import Data
from app.versioning.graph import MASTER, Instance, Repo, Version
from app.versioning.merge import Merge, merge_versions

_MERGE = '{"mergeType": "conflict-free", "parents": uuids, "note": text}'
_RESOLVE = '{"data": names, "parents": uuids, first of highest priority, "note": text}'


@endpoint("POST", "/api/repos", admin=True, body="alias, description, passcode, root", answer='{"root": uuid}')
async def post_repos(request: Request) -> Response:
    """Make a repo with one open version."""
    if request.service.settings.read_only:
        raise NotAllowed("the server is in read-only mode")
    config = Config(await request.json_object())
    repo = await request.service.datastore.repos.create(
        config.text("alias"), config.text("description"), config.text("passcode"), config.text("root")
    )
    return answers.json({"root": repo.root})


@endpoint("GET", "/api/repos/info", answer="an object: root UUID to repo")
async def get_repos_info(request: Request) -> Response:
    """All repos with their versions and instances; none for those who may not read."""
    if Right.READ not in request.rights:
        return answers.json({})
    service = request.service
    forest = await service.datastore.repos.forest()
    parts = [
        orjson.dumps(root) + b":" + await describe(service, repo, repo.leaf(MASTER))
        for root, repo in forest.repos.items()
    ]
    return Response(b"{" + b",".join(parts) + b"}", media_type="application/json")


@endpoint("HEAD", "/api/repo/{version}", media="text/plain", answer="names the root")
async def head_repo(request: Request) -> Response:
    """Whether a version exists."""
    assert request.repo is not None
    return answers.text(f"repo {request.repo.root}")


@endpoint("GET", "/api/repo/{version}/info", answer="a repo")
async def get_repo_info(request: Request) -> Response:
    """One repo, with the extents of its instances at this version."""
    assert request.repo is not None
    return Response(await describe(request.service, request.repo, request.version), media_type="application/json")


@endpoint("POST", "/api/repo/{version}/info", body="alias, description")
async def post_repo_info(request: Request) -> Response:
    """Change a repo's alias or description."""
    assert request.repo is not None
    config = Config(await request.json_object())
    alias = config.text("alias") if "alias" in config else None
    description = config.text("description") if "description" in config else None
    await request.service.datastore.repos.describe(request.repo.root, alias, description)
    return answers.empty()


@endpoint("POST", "/api/repo/{version}/instance", body="dataname, typename, settings", answer='{"result": text}')
async def post_instance(request: Request) -> Response:
    """Add a data instance; it is there by name in all versions of the repo."""
    assert request.repo is not None
    datastore = request.service.datastore
    if request.version.locked and not (request.is_admin or request.service.settings.full_write):
        raise Invalid(f"version {request.version.uuid} is locked")
    config = Config(await request.json_object())
    name, typename = config.required("dataname"), config.required("typename")
    datatype = DATATYPES.get(typename)
    if datatype is None:
        raise Invalid(f"data type {typename!r} is not supported by this server")
    tags = config.tags()
    instance = Instance(
        uuid.uuid4().hex,
        name,
        typename,
        request.version.uuid,
        versioned=config.flag("Versioned", True),
        shared=datatype.is_shared,
        compression=datatype.compressed_as(config, datatype.compression),
        checksum=config.checksum(),
        tags=tags,
        settings=await datatype.prepared(datatype.settings(config), datastore, request.is_admin),
        store=datastore.assign(request.repo.root, name, typename, tags or {}),
    )
    await datastore.repos.add_instance(request.repo.root, instance)
    return answers.json({"result": f"Added {name} [{typename}] to node {request.version.uuid}"})


@endpoint("GET", "/api/repo/{version}/branch-versions/{branch}", answer="UUIDs, the leaf first")
async def get_branch_versions(request: Request) -> Response:
    """The versions of a branch from its leaf back to the root."""
    assert request.repo is not None
    return answers.json(request.repo.branch_versions(request.path["branch"]))


@endpoint("GET", "/api/repo/{version}/log", answer='{"log": lines}')
async def get_repo_log(request: Request) -> Response:
    """The log of the repo."""
    assert request.repo is not None
    return answers.json({"log": list(request.repo.log)})


@endpoint("POST", "/api/repo/{version}/log", body='{"log": lines}')
async def post_repo_log(request: Request) -> Response:
    """Append to the log of the repo."""
    assert request.repo is not None
    await request.service.datastore.repos.add_log(request.repo.root, lines_of(await request.json_object()))
    return answers.empty()


@endpoint("POST", "/api/repo/{version}/merge", body=_MERGE, answer='{"child": uuid}')
async def post_merge(request: Request) -> Response:
    """Make a child of several locked versions. Refused, with a list, if they changed the same things differently."""
    body = await json_body(request)
    if body.get("mergeType") != "conflict-free":
        raise Invalid("mergeType must be conflict-free")
    return await _merged(request, body, [])


@endpoint("POST", "/api/repo/{version}/resolve", body=_RESOLVE, answer='{"child": uuid}')
async def post_resolve(request: Request) -> Response:
    """Make a child of several locked versions; in the instances named a conflict is won by the earlier parent."""
    body = await json_body(request)
    names = _words(body, "data")
    if not names:
        raise Invalid("name at least one data instance in data")
    assert request.repo is not None
    for name in names:
        if name not in request.repo.by_name:
            raise Unknown(f"invalid data instance name: {name!r} not found in repo {request.repo.root}")
    return await _merged(request, body, names)


async def _merged(request: Request, body: dict[str, Any], settled: list[str]) -> Response:
    datastore, repo = request.service.datastore, request.repo
    assert repo is not None
    note = body.get("note", "")
    if not isinstance(note, str):
        raise Invalid("note must be a string")
    parents = []
    for spec in _words(body, "parents"):
        home, version = await datastore.repos.resolve(spec)
        if home.root != repo.root:
            raise Invalid(f"version {spec!r} is not one of repo {repo.root}")
        parents.append(version.uuid)
    child = await merge_versions(datastore, repo, parents, note=note, merges=_merge_of, settled=settled)
    return answers.json({"child": child})


def _merge_of(instance: Instance) -> Merge:
    return DATATYPES[instance.typename].merge  # whoever cannot read an instance cannot merge it either


async def json_body(request: Request) -> dict[str, Any]:
    """The body, which must be a JSON object."""
    body = await request.json()
    if not isinstance(body, dict):
        raise Invalid("the body must be a JSON object")
    return body


def word(body: dict[str, Any], name: str) -> str:
    """A string of a body that must be there."""
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise Invalid(f"the body must be a JSON object with {name!r} as a string")
    return value


def _words(body: dict[str, Any], name: str) -> list[str]:
    words = body.get(name, [])
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise Invalid(f"{name} must be a list of strings")
    return words


def lines_of(body: dict[str, Any], *, required: bool = True) -> list[str]:
    """The `log` of a body: a list of strings."""
    lines = body.get("log")
    if lines is None and not required:
        return []
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise Invalid("the body must be a JSON object with a list of strings as log")
    return lines


async def describe(service: Service, repo: Repo, version: Version) -> bytes:
    """The JSON of a repo, as seen from one of its versions; remembered while nothing that it shows has changed."""
    datastore = service.datastore
    shown = [
        Data(datastore, repo, version, repo.by_name[name])
        for name in sorted(repo.by_name)
        if repo.by_name[name].typename in DATATYPES
    ]
    heads = [await data.head() for data in shown]
    counters = await datastore.catalog.counters_token()  # an instance's JSON shows its counters
    state = (repo, version, counters, datastore.repos.mutation_ids(repo.root).upcoming, *heads)
    known = service.described.get(repo.root)
    if known is not None and counters is not None and _is_same(known[0], state):
        return known[1]
    body = await _describe(service, repo, shown)
    service.described[repo.root] = state, body
    return body


def _is_same(before: tuple[object, ...], now: tuple[object, ...]) -> bool:
    return len(before) == len(now) and all(
        a is b or (a == b and type(a) in (bytes, int)) for a, b in zip(before, now, strict=True)
    )


async def _describe(service: Service, repo: Repo, shown: list[Data]) -> bytes:
    datastore = service.datastore
    instances = {data.instance.name: await DATATYPES[data.instance.typename].describe(data) for data in shown}
    numbers = {node.uuid: node.number for node in repo.versions.values()}
    next_mutation = datastore.repos.mutation_ids(repo.root).upcoming
    return orjson.dumps(
        {
            "Root": repo.root,
            "Alias": repo.alias,
            "Description": repo.description,
            "Log": list(repo.log),
            "Properties": {},
            "DataInstances": instances,
            "DAG": {
                "Root": repo.root,
                "Nodes": {
                    node.uuid: {
                        "Branch": node.branch,
                        "Note": node.note,
                        "Log": list(node.log),
                        "UUID": node.uuid,
                        "VersionID": node.number,
                        "Locked": node.locked,
                        "Parents": [numbers[parent] for parent in node.parents],
                        "Children": [numbers[child] for child in repo.children[node.uuid]],
                        "Created": node.created,
                        "Updated": node.updated,
                    }
                    for node in repo.versions.values()
                },
            },
            "MutationID": next_mutation,
            "SavedMutationID": next_mutation,
            "Created": repo.created,
            "Updated": repo.updated,
        }
    )
