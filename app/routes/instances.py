"""Endpoints that instances of most datatypes have: information, help, tags, the log of mutations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from starlette.responses import Response

from app.core.errors import Invalid
from app.datatypes import DATATYPES
from app.routes import answers, documentation
from app.routes.endpoint import Parameter, endpoint
from app.routes.request import Request
from app.versioning import blobs
from app.versioning.datastore import Data
from app.versioning.graph import Instance


@endpoint("GET", "info", answer="the instance")
async def get_info(request: Request) -> Response:
    """The instance: general properties, those of its datatype, and its extents at this version."""
    return answers.json(await DATATYPES[request.data.instance.typename].describe(request.data))


@endpoint("GET", "help", media="text/plain", answer="text")
async def get_help(request: Request) -> Response:
    """The endpoints of this instance."""
    typename = request.data.instance.typename
    return answers.text(documentation.type_help(typename, request.service.by_type[typename].endpoints))


@endpoint("GET", "tags", answer='{"Tags": {...}}')
async def get_tags(request: Request) -> Response:
    """The tags of the instance."""
    return answers.json({"Tags": request.data.instance.tags})


@endpoint("POST", "tags", body="an object of strings", query=[Parameter("replace", "forget the present tags", "flag")])
async def post_tags(request: Request) -> Response:
    """Add tags, or replace them all. Tags are not versioned."""
    tags = await request.json_object()
    if not all(isinstance(value, str) for value in tags.values()):
        raise Invalid("tags must be a JSON object of strings")
    present = {} if request.query["replace"] else request.data.instance.tags
    await edit(request.data, tags={**(present or {}), **tags})
    return answers.empty()


@endpoint("POST", "sync", body='{"sync": "name,name"}', query=[Parameter("replace", "forget the present ones", "flag")])
async def post_sync(request: Request) -> Response:
    """Name the instances whose data this one looks at, beside those named before. Syncs are not versioned."""
    names = (await request.json_object()).get("sync")
    if not isinstance(names, str):
        raise Invalid("the body must be a JSON object with the names of instances as sync")
    data, datatype = request.data, DATATYPES[request.data.instance.typename]
    others = [data.sibling(name.strip()) for name in names.split(",") if name.strip()]
    for other in others:
        if other.instance.typename not in (datatype.syncs or ()):
            raise Invalid(f"{datatype.name} {data.instance.name!r} cannot be synced with a {other.instance.typename}")
    present = [] if request.query["replace"] else list(data.instance.syncs)
    chosen = list(dict.fromkeys([*present, *[other.instance.uuid for other in others]]))
    if datatype.most_syncs is not None and len(chosen) > datatype.most_syncs:
        raise Invalid(f"a {datatype.name} is synced with {datatype.most_syncs} instance at most; see replace")
    edited = await edit(data, syncs=chosen)
    added = [other for other in others if other.instance.uuid not in data.instance.syncs]
    if datatype.synced is not None and added:
        await datatype.synced(replace(data, instance=edited), added, request.author)
    return answers.empty()


@endpoint("POST", "blobstore", body="any bytes", answer='{"reference": text}', versioned=False)
async def post_blob(request: Request) -> Response:
    """Keep bytes under a reference made of them; the same for all instances of a store, and at every version."""
    reference = await blobs.put(request.data.trees.store, await request.body())
    return answers.json({"reference": reference})


@endpoint("GET", "blobstore/{reference}", media=answers.OCTETS, answer="the bytes")
async def get_blob(request: Request) -> Response:
    """The bytes that a reference stands for."""
    return answers.octets(await blobs.get(request.data.trees.store, request.path["reference"]))


@endpoint("GET", "mutations", answer="a list of records")
async def get_mutations(request: Request) -> Response:
    """What was done to the instance in exactly this version, oldest first."""
    return answers.json(await DATATYPES[request.data.instance.typename].messages(request.data))


@endpoint("GET", "mutations-range/{first}/{last}", answer="a list of records")
async def get_mutations_range(request: Request) -> Response:
    """What was done from version `last` back to version `first`, both included, the younger version first."""
    data, repos = request.data, request.service.datastore.repos
    _, first = await repos.resolve(request.path["first"])
    repo, last = await repos.resolve(request.path["last"])
    if repo.root != data.repo.root or first.uuid not in repo.versions:
        raise Invalid("both versions must be of the instance's repo")
    chain = data.in_version(last.uuid).line.versions
    oldest = data.in_version(first.uuid).home.uuid
    if oldest in chain:
        chain = chain[: chain.index(oldest) + 1]
    found: list[dict[str, Any]] = []
    for version in chain:
        found += await DATATYPES[data.instance.typename].messages(data.in_version(version))
    return answers.json(found)


async def edit(data: Data, **changes: Any) -> Instance:
    """Replace properties of an instance; these are not versioned."""
    return await data.datastore.repos.edit_instance(
        data.repo.root, data.instance.uuid, lambda instance: replace(instance, **changes)
    )
