"""Writing over the network through DVID's own API, to this server or to any that speaks it."""

from __future__ import annotations

import asyncio
import getpass
import http.client
import json
import random
import re
import threading
import time
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import numpy as np

from app.core.errors import DvidError, Invalid, NeedsAdmin, StoreUnavailable, Unknown
from app.core.geometry import Box, Triple
from app.formats import compression
from app.ingest.progress import Extents
from app.ingest.target import LABELS, Array, Wanted, voxel_type
from app.kernels import lz4_labels

#: Answers after which the same request may succeed: the server, or something before it, is busy.
BUSY = frozenset({429, 502, 503, 504})
ATTEMPTS = 9
#: The unit of the pauses between them, which double up to 32 of it.
PAUSE_SECONDS = 0.5
TIMEOUT_SECONDS = 300.0


class Client:
    """A server's API: one connection for each thread, and patience with one that is busy or just starting anew."""

    def __init__(self, server: str, admin_token: str = "", *, attempts: int = ATTEMPTS) -> None:
        parts = urlsplit(server if "://" in server else f"http://{server}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Invalid(f"{server!r} is not the URL of a server")
        self.server = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self._prefix = parts.path.rstrip("/")
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port
        self._admin_token = admin_token
        self._attempts = attempts
        self._threads = threading.local()

    def call(
        self, method: str, path: str, body: Any = None, *, admin: bool = False, once: bool = False, **query: str
    ) -> bytes:
        """Send a request; a busy server is asked again for about a minute, unless the request must go out `once`."""
        if admin and self._admin_token:
            query["admintoken"] = self._admin_token
        url = f"{self._prefix}{path}" + (f"?{urlencode(query)}" if query else "")
        reason = ""
        for attempt in range(1 if once else self._attempts):
            if attempt:
                time.sleep(PAUSE_SECONDS * random.uniform(0.5, 1) * min(2**attempt, 32))
            try:
                status, answer = self._send(method, url, body)
            except (OSError, http.client.HTTPException) as error:
                reason = f"{self.server} does not answer: {error or type(error).__name__}"
                continue
            if status == 200:
                return answer
            text = answer[:500].decode(errors="replace").strip()
            reason = f"{method} {path}: {status} {text}"
            if status not in BUSY:
                raise (NeedsAdmin if status in (401, 403) else Invalid)(reason)
        raise StoreUnavailable(reason)

    def json(
        self, method: str, path: str, body: Any = None, *, admin: bool = False, once: bool = False, **query: str
    ) -> Any:
        """Send a request that is answered in JSON."""
        sent = None if body is None else json.dumps(body).encode()
        answer = self.call(method, path, sent, admin=admin, once=once, **query)
        try:
            return json.loads(answer) if answer.strip() else None
        except ValueError:
            raise Invalid(f"{self.server} does not speak DVID's API: {path} answered no JSON") from None

    def _send(self, method: str, url: str, body: Any) -> tuple[int, bytes]:
        for fresh in (False, True):
            connection = getattr(self._threads, "connection", None)
            is_reused = connection is not None
            if connection is None:
                kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
                connection = self._threads.connection = kind(self._host, self._port, timeout=TIMEOUT_SECONDS)
            try:
                connection.request(method, url, body)
                response = connection.getresponse()
                return response.status, response.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                self._threads.connection = None
                if fresh or not is_reused:  # an idle connection may have been closed by the other side
                    raise
        raise AssertionError


def find_repo(infos: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The repo of an alias, or of a prefix of the UUID of one of its versions."""
    repos = [info for info in infos.values() if info]
    found = [info for info in repos if info["Alias"] == name]
    if not found:
        found = [info for info in repos if any(uuid.startswith(name) for uuid in info["DAG"]["Nodes"])]
    if len(found) > 1:
        raise Invalid(f"more than one repo is called {name!r}: give the UUID of a version")
    return found[0] if found else None


def looks_like_uuid(name: str) -> bool:
    """Whether a repo's name can only be meant as a UUID, so that no repo is made of it."""
    return re.fullmatch(r"[0-9a-f]{32}", name) is not None


class HttpTarget:
    """An instance at a version, behind a server's API."""

    def __init__(self, client: Client, version: str, described: dict[str, Any]) -> None:
        base, extended = described["Base"], described["Extended"]
        self._client = client
        self.version = version
        self.typename: str = base["TypeName"]
        self.identity = f"{client.server} {base['DataUUID']} {version}"
        x, y, z = extended["BlockSize"]
        self.block: Triple = (z, y, x)
        self._path = f"/api/node/{version}/{quote(base['Name'], safe='')}"
        self._sender: dict[str, Any] = {"u": _user(), "app": "dvid-cloud-ingest"}

    async def extents(self) -> Extents | None:
        """First and last voxel x, y, z; None while it is empty."""
        described = await asyncio.to_thread(self._client.json, "GET", f"{self._path}/info")
        low, high = described["Extended"].get("MinPoint"), described["Extended"].get("MaxPoint")
        return None if low is None or high is None else (low, high)

    async def read(self, box: Box) -> Array:
        """What is there."""

        def get() -> Array:
            kind = voxel_type(self.typename)
            if self.typename != LABELS:
                raw = self._client.call("GET", self._raw(box))
            else:
                packed = self._client.call("GET", self._raw(box), compression="lz4", supervoxels="true")
                raw = compression.unlz4(packed, box.count * kind.itemsize)
            return np.frombuffer(bytearray(raw), kind).reshape(box.shape)

        return await asyncio.to_thread(get)

    async def write(self, box: Box, voxels: Array) -> None:
        """Replace what is there."""

        def post() -> None:
            if self.typename == LABELS:
                body = lz4_labels.compress(voxels)
                self._client.call("POST", self._raw(box), body.data, compression="lz4", **self._sender)
            else:
                self._client.call(
                    "POST", self._raw(box), np.ascontiguousarray(voxels).reshape(-1).view(np.uint8).data, **self._sender
                )

        await asyncio.to_thread(post)

    async def set_extents(self, extents: Extents) -> None:
        """Say where the data really end."""
        body = {"MinPoint": extents[0], "MaxPoint": extents[1]}
        await asyncio.to_thread(self._client.json, "POST", f"{self._path}/extents", body)

    async def close(self) -> None:
        """Nothing: connections end with the process."""

    def _raw(self, box: Box) -> str:
        size, offset = ("_".join(map(str, values[::-1])) for values in (box.shape, box.start))
        return f"{self._path}/raw/0_1_2/{size}/{offset}"


def open_target(client: Client, wanted: Wanted) -> HttpTarget:
    """The instance to write to; repo and instance are made where they are absent."""
    repo = open_repo(client, wanted.repo)
    version = wanted.version or f"{repo['Root']}:master"
    described = client.json("GET", f"/api/repo/{quote(version, safe=':~')}/info")
    if described["Root"] != repo["Root"]:
        raise Unknown(f"version {wanted.version} is not of repo {wanted.repo}")
    node = _resolved(described, version)
    if wanted.instance not in described["DataInstances"]:
        path = f"/api/repo/{node}/instance"
        client.json("POST", path, wanted.settings(), admin=True, once=True)
        described = client.json("GET", f"/api/repo/{node}/info")
    instance = described["DataInstances"][wanted.instance]
    if instance["Base"]["TypeName"] != wanted.typename:
        raise Invalid(f"{wanted.instance} is a {instance['Base']['TypeName']}, not a {wanted.typename}")
    return HttpTarget(client, node, instance)


def open_repo(client: Client, name: str) -> dict[str, Any]:
    """The repo of that name as the server describes it, made if there is none."""
    infos = client.json("GET", "/api/repos/info", once=True)  # a wrong address should be told at once
    found = find_repo(infos, name)
    if found is not None:
        return found
    if looks_like_uuid(name):
        raise Unknown(f"there is no version {name}")
    try:
        root = client.json("POST", "/api/repos", {"alias": name, "description": ""}, admin=True, once=True)["root"]
    except NeedsAdmin as error:
        raise NeedsAdmin(
            f"repo {name!r} does not exist, and only an administrator may make it (--admin-token)"
        ) from error
    found = find_repo(client.json("GET", "/api/repos/info"), root)
    if found is None:
        raise DvidError(f"the new repo {root} cannot be seen")
    return found


def _resolved(described: dict[str, Any], version: str) -> str:
    """The full UUID of a version: of the leaf of master, or of the one that a prefix names."""
    nodes = described["DAG"]["Nodes"]
    place, colon, branch = version.partition(":")
    if colon:
        name = "" if branch == "master" else branch
        members = [node for node in nodes.values() if node["Branch"] == name]
        if not members:
            raise Unknown(f"repo {described['Root']} has no branch {branch!r}")
        return str(max(members, key=lambda node: node["VersionID"])["UUID"])
    found = [uuid for uuid in nodes if uuid.startswith(place)]
    if len(found) != 1:
        raise Unknown(f"{version!r} names {len(found)} versions of repo {described['Root']}")
    return str(found[0])


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
