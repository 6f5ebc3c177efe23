"""The ASGI application: finds the endpoint, the version and the data of a request, and answers for what goes wrong."""

from __future__ import annotations

import hmac
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.core.errors import DvidError, NeedsAdmin, NeedsToken, NotAllowed
from app.core.work import Workers
from app.routes import authority, errors
from app.routes.answers import WHOLE
from app.routes.authority import Authority, Right
from app.routes.blocklist import BlockList, source_address
from app.routes.endpoint import Endpoint
from app.routes.rates import Rates
from app.routes.request import Request
from app.routes.router import Routes, query, split, values
from app.routes.shared import Shared
from app.routes.static import Static
from app.settings import Settings
from app.versioning.datastore import Datastore

logger = logging.getLogger(__name__)

_EXPOSED = b"Accept-Ranges, Content-Encoding, Content-Length, Content-Range, ETag"
_IN_GZIP = (b"content-encoding", b"gzip")
_FOR_EVER = (b"cache-control", b"public, max-age=31536000, immutable")
_ASK_AGAIN = (b"cache-control", b"no-cache")
#: Signs of life are given to everybody.
_UNGATED = frozenset({"/api/load", "/api/heartbeat", "/api/user-latencies"})
_NOT_FOUND = "404 page not found\n"


class Service:
    """What handlers share, and the way to them.

    `general` holds the endpoints whose paths begin with a slash, `by_type` those of each datatype's instances.
    """

    def __init__(
        self,
        settings: Settings,
        open_datastore: Callable[[], Awaitable[Datastore]],
        general: Iterable[Endpoint],
        by_type: Mapping[str, Iterable[Endpoint]],
    ) -> None:
        self.settings = settings
        self._open = open_datastore
        self._datastore: Datastore | None = None
        self.general = Routes(general)
        self.by_type = {typename: Routes(endpoints) for typename, endpoints in by_type.items()}
        self.workers = Workers(settings.threads)
        self.started = time.time()
        self.counts: Counter[str] = Counter()
        self.active = 0
        self.rates = Rates()
        self.shared = Shared(settings.shared)
        self.block_list = BlockList(settings.block_list_file)
        self.authority = Authority(settings) if settings.auth != "none" else None
        self._static = Static(settings)
        #: The JSON of each repo, and the state that it shows.
        self.described: dict[str, tuple[tuple[object, ...], bytes]] = {}
        self._admin_token = settings.admin_token.get_secret_value().encode()
        self._any_origin = "*" in settings.cors_domains

    @property
    def datastore(self) -> Datastore:
        """Repos and data; there once the application has started."""
        assert self._datastore is not None
        return self._datastore

    async def startup(self) -> None:
        """Connect to the store and the catalog."""
        self._datastore = await self._open()

    async def shutdown(self) -> None:
        """Finish the commits under way."""
        if self._datastore is not None:
            await self._datastore.close()
        self.workers.close()
        self.shared.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection's request, or take part in starting and stopping."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self.startup()
                except DvidError as error:
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.shutdown()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        method: str = scope["method"]
        self.counts[method] += 1
        self.active += 1
        try:
            response = await self._respond(scope, receive)
        except DvidError as error:
            response = errors.answer(error, scope["path"])
        except ClientDisconnect:
            return
        except Exception:
            logger.exception("%s %s failed", method, scope["path"])
            response = Response(f"internal error ({scope['path']}).\n", 500, media_type="text/plain")
        finally:
            self.active -= 1
        self._add_cors(scope, response)
        if type(response).__call__ is Response.__call__ and response.background is None:
            whole = scope.get("extensions", {}).get(WHOLE)
            if whole is not None and whole(response.status_code, response.raw_headers, response.body):
                return
        await response(scope, receive, send)

    async def _respond(self, scope: Scope, receive: Receive) -> Response:
        parts = split(scope["raw_path"])
        text = scope["query_string"]
        raw_query = query(text) if text else {}
        request = Request(scope, receive, self, raw_query)
        if self.settings.block_list_file and (refusal := self._blocked(request)) is not None:
            return refusal
        if raw_query.get("admintoken") and self._admin_token:
            request.is_admin = hmac.compare_digest(raw_query["admintoken"].encode(), self._admin_token)
        if self.authority is not None:
            self._authorise(request, self.authority, parts)
        is_instance = False
        methods = self.general.find(parts)
        if methods is None and len(parts) > 4 and parts[0] == "api" and parts[1] == "node":
            is_instance = True
            version, name = parts[2], parts[3]
            parts = [part for part in parts[4:] if part]
            if not parts:
                return self._nothing(scope, split(scope["raw_path"]))
            if scope["method"] == "OPTIONS":
                return Response(b"", 200, {"Allow": "GET, HEAD, POST, PUT, DELETE, OPTIONS"})
            data = await self.datastore.data(version, name)
            request.bind(data.repo, data.version, data)
            routes = self.by_type.get(data.instance.typename)
            methods = routes.find(parts) if routes is not None else None
            if methods is None:
                help_url = f"/api/help/{data.instance.typename}"
                raise NotAllowed(f"{'/'.join(parts)!r} is not an endpoint of data {name!r}; see {help_url}")
        if methods is None:
            return self._nothing(scope, parts)
        if scope["method"] == "OPTIONS":
            return Response(b"", 200, {"Allow": ", ".join([*methods, "OPTIONS"])})
        found = methods.get(scope["method"])
        if found is None:
            reason = f"{scope['method']} is not a method of this endpoint ({scope['path']}).\n"
            # Instances of a real DVID answer 400 here, and its clients look for that.
            status = 400 if is_instance else 405
            return Response(reason, status, {"Allow": ", ".join(methods)}, "text/plain")
        described, names = found
        request.path = values(parts, names)
        if not is_instance and "version" in request.path:
            repo, node = await self.datastore.repos.resolve(request.path["version"])
            request.bind(repo, node)
        self._check(request, described)
        request.query = described.parse(raw_query) if raw_query else described.defaults
        if raw_query.get("throttle") in ("true", "on") and described.is_throttled(request.path):
            with self.shared.place():
                response = await described.handler(request)
        else:
            response = await described.handler(request)
        if is_instance and self.settings.allow_timing:
            response.headers["Timing-Allow-Origin"] = "*"
        if request.snapshot is not None and request.method in ("GET", "HEAD") and response.status_code == 200:
            return self._tagged(request, response, scope)
        return response

    def _check(self, request: Request, described: Endpoint) -> None:
        """Refuse what the endpoint's description and the server's mode do not allow."""
        if request.rights is not Right.ALL and request.repo is not None:
            authority.check(request.rights, Right.WRITE if described.writes else Right.READ)
        if described.admin and not request.is_admin:
            raise NeedsAdmin("only an administrator may do this: give the right admintoken")
        if described.writes and not request.is_admin:
            if self.settings.read_only:
                raise NotAllowed("the server is in read-only mode")
            if (
                described.versioned
                and request._data is not None
                and request._data.is_locked
                and not self.settings.full_write
            ):
                raise NotAllowed(f"cannot {request.method} to locked version {request.version.uuid}")

    def _authorise(self, request: Request, authority: Authority, parts: list[str]) -> None:
        """Find what a request may do with repos; without a token it may only ask for a list of none."""
        if request.is_admin or request.method == "OPTIONS":
            return
        request.rights = Right.NONE
        if parts[:3] == ["api", "repos", "info"]:
            with suppress(NeedsToken):
                request.rights = authority.rights(request.header(b"authorization"))
        elif parts[:2] in (["api", "repo"], ["api", "node"]):
            request.rights = authority.rights(request.header(b"authorization"))

    def _blocked(self, request: Request) -> Response | None:
        """The refusal of a client that the block list names."""
        if request.scope["path"] in _UNGATED:
            return None
        forwarded = request.header(b"forwarded"), request.header(b"x-forwarded-for")
        reason = self.block_list.reason(request.user, source_address(*forwarded, request.scope.get("client")))
        return None if reason is None else Response(reason + "\n", 429, media_type="text/plain")

    def _nothing(self, scope: Scope, parts: list[str]) -> Response:
        """The answer at a path that is no endpoint's."""
        found = self._static.find(parts) if scope["method"] in ("GET", "HEAD") else None
        return found or Response(_NOT_FOUND, 404, media_type="text/plain")

    def _tagged(self, request: Request, response: Response, scope: Scope) -> Response:
        """Name the state that the answer was made of; a locked version's, asked by its full name, never changes."""
        data, snapshot = request.data, request.snapshot
        assert snapshot is not None
        generations, is_final = b"%d" % snapshot.generation, data.is_final
        for other, read in request.others:
            generations += b"-%d" % read.generation
            is_final = is_final and other.is_final
        form = b".gzip" if _IN_GZIP in response.raw_headers else b""  # where Accept-Encoding decides, tags must differ
        tag = b'"%b.%b%b"' % (data.tag, generations, form)
        is_final = is_final and f"/api/node/{data.version.uuid}/" in scope["path"]
        headers = [(b"etag", tag), _FOR_EVER if is_final else _ASK_AGAIN]
        if request.raw_header(b"if-none-match") == tag:
            response = Response(b"", 304)
        response.raw_headers += headers
        return response

    def _add_cors(self, scope: Scope, response: Response) -> None:
        origin = None
        if not self._any_origin or scope["method"] == "OPTIONS":
            origin = next((value for key, value in scope["headers"] if key == b"origin"), None)
        if not self._any_origin:
            if origin is None or origin.decode("latin-1") not in self.settings.cors_domains:
                return
            response.raw_headers += [(b"access-control-allow-origin", origin), (b"vary", b"Origin")]
        else:
            response.raw_headers.append((b"access-control-allow-origin", b"*"))
        response.raw_headers.append((b"access-control-expose-headers", _EXPOSED))
        if scope["method"] == "OPTIONS":
            wanted = next((value for key, value in scope["headers"] if key == b"access-control-request-headers"), b"*")
            response.raw_headers += [
                (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, DELETE, OPTIONS"),
                (b"access-control-allow-headers", wanted),
                (b"access-control-max-age", b"86400"),
            ]
