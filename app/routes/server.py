"""Endpoints of the server itself: information, monitoring, control, help."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import orjson
from starlette.responses import RedirectResponse, Response

import app
from app.backends.traffic import object_bytes
from app.core.errors import Invalid
from app.datatypes import DATATYPES
from app.routes import answers, documentation
from app.routes.endpoint import Parameter, endpoint
from app.routes.request import Request
from app.versioning.datastore import Data
from app.versioning.graph import MASTER

#: What clients parse as the version of DVID whose API this is: `v` and numbers, above 0.8.24.15.
API_VERSION = "v1.0.0"
DATASTORE_VERSION = "0.11.0"


@endpoint("GET", "/interface", media="application/raml+yaml", answer="the RAML of the API")
async def get_interface(request: Request) -> Response:
    """A short machine-readable description; the OpenAPI document says much more."""
    body = "#%RAML 0.8\ntitle: DVID Cloud\nbaseUri: /api\n"
    body += "documentation:\n  - title: OpenAPI\n    content: /api/openapi.json\n"
    return Response(body, media_type="application/raml+yaml")


@endpoint("GET", "/interface/version", media="text/plain", answer="`v1`")
async def get_interface_version(request: Request) -> Response:
    """The version of the interface."""
    return answers.text("v1\n")


@endpoint("GET", "/api/help", media="text/html", answer="a page")
async def get_help(request: Request) -> Response:
    """The help: server, repo and node endpoints, and the datatypes."""
    service = request.service
    return Response(documentation.page(service.general.endpoints, DATATYPES), media_type="text/html")


@endpoint("GET", "/api/help/", media="text/html", answer="a page")
async def get_help_slash(request: Request) -> Response:
    """The help, as clients with a slash at the end ask for it."""
    return await get_help(request)


@endpoint("GET", "/api/help/{typename}", media="text/plain", answer="text")
async def get_type_help(request: Request) -> Response:
    """The endpoints of a datatype's instances."""
    typename = request.path["typename"]
    routes = request.service.by_type.get(typename)
    if routes is None:
        raise Invalid(f"there is no datatype {typename!r}")
    return answers.text(documentation.type_help(typename, routes.endpoints))


@endpoint("GET", "/api/openapi.json", answer="the OpenAPI 3.1 document")
async def get_openapi(request: Request) -> Response:
    """Every endpoint in the form that tools read."""
    service = request.service
    endpoints = {name: routes.endpoints for name, routes in service.by_type.items()}
    return answers.json(documentation.openapi(service.general.endpoints, endpoints, app.__version__))


@endpoint("GET", "/api/server/info", answer="an object of strings")
async def get_info(request: Request) -> Response:
    """Versions, storage and age of the server."""
    service = request.service
    settings = service.settings
    info = {
        "Cores": str(settings.cores),
        "Maximum Cores": str(settings.cores),
        "Datastore Version": DATASTORE_VERSION,
        "DVID Version": API_VERSION,
        "DVID Cloud Version": app.__version__,
        "Storage backend": service.datastore.store.url,
        "Server time": datetime.now(UTC).isoformat(),
        "Server uptime": f"{time.time() - service.started:.3f}s",
        "RPC Address": "",
        "Host": f"{settings.host}:{settings.port}",
        "Note": settings.note,
        "TOML location": "",
    }
    if settings.read_only:
        info["Mode"] = "read only"
    elif settings.full_write:
        info["Mode"] = "allow writes on committed nodes"
    return answers.json(info)


@endpoint("GET", "/api/server/note", media="text/plain", answer="text")
async def get_note(request: Request) -> Response:
    """The note of the configuration."""
    return answers.text(request.service.settings.note)


@endpoint("GET", "/api/server/config", admin=True, media="text/plain", answer="TOML")
async def get_config(request: Request) -> Response:
    """The settings in force, without secrets."""
    settings = request.service.settings.model_dump(mode="json")
    lines = [
        f"{key} = {orjson.dumps(value).decode()}" for key, value in settings.items() if not isinstance(value, dict)
    ]
    for key, value in settings.items():
        if isinstance(value, dict):
            lines += ["", f"[{key}]", *(f"{name} = {orjson.dumps(item).decode()}" for name, item in value.items())]
    return answers.text("\n".join(lines) + "\n")


@endpoint("GET", "/api/server/types", answer="an object: typename to URL")
async def get_types(request: Request) -> Response:
    """The datatypes that existing instances have."""
    forest = await request.service.datastore.repos.forest()
    used = {instance.typename for repo in forest.repos.values() for instance in repo.instances.values()}
    return answers.json({name: _url(name) for name in sorted(used) if name in DATATYPES})


@endpoint("GET", "/api/server/compiled-types", answer="an object: typename to URL")
async def get_compiled_types(request: Request) -> Response:
    """All datatypes that the server knows."""
    return answers.json({name: _url(name) for name in sorted(DATATYPES)})


def _url(typename: str) -> str:
    return DATATYPES[typename].url or f"github.com/janelia-flyem/dvid/datatype/{typename}"


@endpoint("GET", "/api/server/token", media="text/plain", answer="a token")
async def get_token(request: Request) -> Response:
    """Refused: tokens are made by operators, with `dvid-cloud token`."""
    raise Invalid("this server gives no tokens; its operators do")


@endpoint("GET", "/api/storage", admin=True, answer="an object: store to repos to instances to figures")
async def get_storage(request: Request) -> Response:
    """How much each instance holds at the leaf of master, by store: keys, bytes of nodes, large values and journal."""
    datastore = request.service.datastore
    found: dict[str, dict[str, dict[str, Any]]] = {datastore.store.url: {}}
    for repo in (await datastore.repos.forest()).repos.values():
        for instance in repo.instances.values():
            data = Data(datastore, repo, repo.leaf(MASTER), instance)
            owner = await data.trees.owner(data.folder, data.line)
            figures = {"Keys": 0, "NodeBytes": 0, "ValueBytes": 0, "JournalBytes": 0, "Version": ""}
            if owner is not None:
                figures = {**await owner.map.figures(), "Version": owner.version}
            repos = found.setdefault(data.trees.store.url, {})
            repos.setdefault(repo.root, {})[instance.name] = {"TypeName": instance.typename, **figures}
    return answers.json(found)


@endpoint("GET", "/api/server/groupcache", answer="an object of counters")
async def get_groupcache(request: Request) -> Response:
    """The cache of this process, under the names of DVID's. There are no peers: any process reads the store itself."""
    cache = request.service.datastore.cache
    main = {
        "Bytes": cache.size_bytes,
        "Items": cache.count,
        "Gets": cache.gets,
        "Hits": cache.hits,
        "Evictions": cache.evictions,
    }
    misses = cache.gets - cache.hits
    counters = {"Gets": cache.gets, "CacheHits": cache.hits, "Loads": misses, "LocalLoads": misses}
    no_peers = dict.fromkeys(("PeerLoads", "PeerErrors", "LoadsDeduped", "LocalLoadErrs", "ServerRequests"), 0)
    return answers.json({**counters, **no_peers, "MainCache": main, "HotCache": dict.fromkeys(main, 0)})


@endpoint("GET", "/api/load", answer="an object of integers")
async def get_load(request: Request) -> Response:
    """What this process does: bytes and requests in a second, since the last look at least a second ago."""
    service = request.service
    traffic = service.datastore.traffic()
    read, written = object_bytes()
    counters = {
        "file bytes read": read,
        "file bytes written": written,
        "key bytes read": sum(each.key_bytes_read for each in traffic),
        "key bytes written": sum(each.key_bytes_written for each in traffic),
        "value bytes read": sum(each.value_bytes_read for each in traffic),
        "value bytes written": sum(each.value_bytes_written for each in traffic),
        "GET requests": service.counts["GET"] + service.counts["HEAD"],
        "PUT requests": service.counts["POST"] + service.counts["PUT"],
    }
    now = {
        "handlers active": min(100, 100 * (service.active - 1) // service.workers.threads),
        "goroutines": len(asyncio.all_tasks()),
        "active CGo writes": 0,
        "pending log messages": 0,
    }
    return answers.json({**service.rates.per_second(counters), **now})


@endpoint("GET", "/api/heartbeat", media="text/plain", answer="`OK`")
async def get_heartbeat(request: Request) -> Response:
    """A sign of life; with `u` the user's ping is noted, and how long the answer took to begin."""
    await _ping(request)
    return answers.text("OK")


@endpoint("GET", "/api/user-latencies", answer="an object: user to latencies, or one user's latencies")
async def get_user_latencies(request: Request) -> Response:
    """Who pinged this server, when, and how many milliseconds the answers took to begin."""
    shared = request.service.shared
    if "u" not in request.raw_query:
        return answers.json({user: asdict(pings) for user, pings in shared.all_pings().items()})
    known = shared.pings(request.user)
    await _ping(request)
    return answers.json(asdict(known))


async def _ping(request: Request) -> None:
    if request.user:
        begun = time.perf_counter()
        await asyncio.sleep(0)  # other requests that are due go first: this is what an answer waits for
        request.service.shared.ping(request.user, round(1000 * (time.perf_counter() - begun)))


@endpoint("POST", "/api/server/settings", admin=True, body='{"throttle": "4"}', media="text/plain", answer="text")
async def post_settings(request: Request) -> Response:
    """Change how many throttled operations all processes of this server may run at once.

    `gc` is accepted for old clients.
    """
    wanted = {key.lower(): value for key, value in (await request.json_object()).items()}
    for key in ("throttle", "gc"):
        if key in wanted and not (isinstance(wanted[key], str) and wanted[key].isascii() and wanted[key].isdigit()):
            raise Invalid(f"the setting {key} must be a string of digits")
    said = ""
    if "throttle" in wanted:
        request.service.shared.places = int(wanted["throttle"])
        said = f"at most {wanted['throttle']} throttled operations\n"
    if "gc" in wanted:
        said += f"gc {wanted['gc']} has no meaning here\n"
    return answers.text(said)


@endpoint("POST", "/api/server/reload-auth", admin=True, media="text/plain", answer="text")
async def post_reload_auth(request: Request) -> Response:
    """Read the authorisation file again; other processes of this server notice a changed file within a second."""
    authority = request.service.authority
    return answers.text("there is no authorisation file\n" if authority is None else authority.reload())


@endpoint("POST", "/api/server/reload-blocklist", admin=True, media="text/plain", answer="text")
async def post_reload_blocklist(request: Request) -> Response:
    """Read the block list again; other processes of this server notice a changed file within a second."""
    return answers.text(request.service.block_list.reload())


@endpoint("GET", "/healthz", media="text/plain", answer="`ok`")
async def get_health(request: Request) -> Response:
    """The process lives."""
    return answers.text("ok\n")


@endpoint("GET", "/readyz", media="text/plain", answer="`ready`", query=[Parameter("verbose", "ignored")])
async def get_ready(request: Request) -> Response:
    """The store and the catalog answer."""
    await request.service.datastore.repos.refresh()
    return answers.text("ready\n")


@endpoint("GET", "/", media="text/html", answer="the help")
async def get_root(request: Request) -> Response:
    """To the help."""
    return RedirectResponse("/api/help", 307)
