"""A strict Google Cloud Storage server that keeps everything in memory.

It imitates the JSON API (https://cloud.google.com/storage/docs/json_api/v1) as far as TensorStore, gcsfs and
google-cloud-storage use it, and it keeps every precondition
(https://cloud.google.com/storage/docs/request-preconditions): other GCS emulators do not, and lose updates.
What it does not know it refuses with 501 instead of guessing.

All handlers are synchronous and run on one event loop, so each operation is atomic.

Run it by itself with ``python -m tests.fakes.gcs --port N``; it prints its URL. ``GET /_fake/log``
answers the access log as JSON and ``DELETE /_fake/log`` clears it.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import hashlib
import re
import time
import uuid
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from functools import cached_property
from http import HTTPStatus
from itertools import pairwise
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import google_crc32c
import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

CHUNK = 256 * 1024  # https://cloud.google.com/storage/docs/performing-resumable-uploads#chunked-upload
MAX_PAGE = 1000
SETTABLE = ("cacheControl", "contentDisposition", "contentEncoding", "contentLanguage", "contentType")
UNSUPPORTED = ("matchGlob", "versions", "softDeleted", "includeTrailingDelimiter", "includeFoldersAsPrefixes")


class GcsError(Exception):
    """An error answer (https://cloud.google.com/storage/docs/json_api/v1/status-codes)."""

    def __init__(self, status: int, reason: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.reason, self.message, self.headers = status, reason, message, headers

    def response(self) -> Response:
        detail = {"message": self.message, "domain": "global", "reason": self.reason}
        error = {"code": self.status, "message": self.message, "errors": [detail]}
        body = b"" if self.status == 304 else orjson.dumps({"error": error})
        return Response(body, self.status, self.headers, "application/json")


def not_found(what: str) -> GcsError:
    return GcsError(404, "notFound", f"No such object: {what}")


def not_implemented(what: str) -> GcsError:
    return GcsError(501, "notImplemented", f"{what} is not in the fake")


def bad_request(message: str) -> GcsError:
    return GcsError(400, "invalid", message)


class Access(NamedTuple):
    """One line of the access log; ``path`` is percent-decoded, ``query`` is as the client sent it."""

    method: str
    path: str
    query: str


class Call(NamedTuple):
    """One request, either of its own or a part of a batch."""

    method: str
    segments: list[str]
    params: dict[str, str]
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        try:
            value = orjson.loads(self.body or b"{}")
        except orjson.JSONDecodeError as error:
            raise bad_request(f"Parse Error: {error}") from error
        if not isinstance(value, dict):
            raise bad_request("The body is not a JSON object")
        return value

    @property
    def base_url(self) -> str:
        return f"http://{self.headers.get('host', '127.0.0.1')}"


@dataclass(frozen=True)
class Blob:
    """A live object. A change makes a new one; ``generation`` and ``created`` are microseconds."""

    bucket: str
    name: str
    data: bytes
    generation: int
    metageneration: int = 1
    updated: int = 0
    fields: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def crc32c(self) -> str:
        return base64.b64encode(google_crc32c.value(self.data).to_bytes(4, "big")).decode()

    @cached_property
    def md5(self) -> str:
        return base64.b64encode(hashlib.md5(self.data, usedforsecurity=False).digest()).decode()

    @property
    def etag(self) -> str:
        return base64.b64encode(b"%d/%d" % (self.generation, self.metageneration)).decode()

    def resource(self, base_url: str) -> dict[str, Any]:
        """The object resource (https://cloud.google.com/storage/docs/json_api/v1/objects#resource)."""
        path = f"/storage/v1/b/{self.bucket}/o/{quote(self.name, safe='')}"
        return {
            "kind": "storage#object",
            "id": f"{self.bucket}/{self.name}/{self.generation}",
            "selfLink": f"{base_url}{path}",
            "mediaLink": f"{base_url}/download{path}?generation={self.generation}&alt=media",
            "name": self.name,
            "bucket": self.bucket,
            "generation": str(self.generation),
            "metageneration": str(self.metageneration),
            "storageClass": "STANDARD",
            "size": str(len(self.data)),
            "md5Hash": self.md5,
            "crc32c": self.crc32c,
            "etag": self.etag,
            "timeCreated": rfc3339(self.generation),
            "updated": rfc3339(self.updated or self.generation),
            "timeStorageClassUpdated": rfc3339(self.generation),
            **self.fields,
        }


@dataclass
class Bucket:
    """A bucket: its objects by name, and the names in the order of their code points (that of UTF-8)."""

    name: str
    created: int
    metageneration: int = 1
    fields: dict[str, Any] = field(default_factory=dict)
    blobs: dict[str, Blob] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    def put(self, blob: Blob) -> Blob:
        if blob.name not in self.blobs:
            insort(self.names, blob.name)
        self.blobs[blob.name] = blob
        return blob

    def remove(self, name: str) -> None:
        del self.blobs[name]
        del self.names[bisect_left(self.names, name)]

    def live(self, name: str, generation: str | None = None) -> Blob:
        blob = self.blobs.get(name)
        if blob is None or (generation and generation != str(blob.generation)):
            raise not_found(f"{self.name}/{name}")
        return blob

    def resource(self, base_url: str) -> dict[str, Any]:
        """The bucket resource (https://cloud.google.com/storage/docs/json_api/v1/buckets#resource)."""
        return {
            "kind": "storage#bucket",
            "id": self.name,
            "selfLink": f"{base_url}/storage/v1/b/{self.name}",
            "name": self.name,
            "location": "US",
            "locationType": "multi-region",
            "storageClass": "STANDARD",
            "metageneration": str(self.metageneration),
            "etag": base64.b64encode(b"%d" % self.metageneration).decode(),
            "timeCreated": rfc3339(self.created),
            "updated": rfc3339(self.created),
            **self.fields,
        }


@dataclass
class Upload:
    """A resumable upload under way; ``done`` is the object it has become."""

    bucket: str
    name: str
    fields: dict[str, Any]
    params: dict[str, str]
    data: bytearray = field(default_factory=bytearray)
    done: Blob | None = None


def rfc3339(micros: int) -> str:
    seconds, fraction = divmod(micros, 1_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{fraction:06d}Z"


def integer(params: Mapping[str, str], key: str) -> int | None:
    value = params.get(key)
    if value is None:
        return None
    if not re.fullmatch(r"-?[0-9]{1,19}", value) or int(value) >= 2**63:
        raise bad_request(f"Invalid value '{value}' for {key}")
    return int(value)


def check(params: Mapping[str, str], blob: Blob | None, *, read: bool = False, prefix: str = "if") -> None:
    """Apply the four conditions; a missing object has generation 0 and no metageneration.

    https://cloud.google.com/storage/docs/request-preconditions#special-case and, for the answers 304 and 412,
    https://cloud.google.com/storage/docs/json_api/v1/objects/get#parameters
    """
    if not any(key.startswith(prefix) for key in params):
        return
    generation = blob.generation if blob else 0
    metageneration = blob.metageneration if blob else None
    for key, actual in (("GenerationMatch", generation), ("MetagenerationMatch", metageneration)):
        wanted = integer(params, prefix + key)
        if wanted is not None and wanted != actual:
            raise condition_failed(prefix + key)
    for key, actual in (("GenerationNotMatch", generation), ("MetagenerationNotMatch", metageneration)):
        wanted = integer(params, prefix + key)
        if wanted is not None and (wanted == actual or actual is None):
            raise condition_failed(prefix + key, 304 if read else 412)


def condition_failed(key: str, status: int = 412) -> GcsError:
    message = "At least one of the pre-conditions you specified did not hold."
    return GcsError(status, "conditionNotMet", f"{message} ({key})")


def ok(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), status, headers, "application/json; charset=UTF-8")


def writable(resource: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of an object resource that a caller may set."""
    fields = {key: resource[key] for key in SETTABLE if resource.get(key) is not None}
    if resource.get("metadata"):
        fields["metadata"] = {str(key): str(value) for key, value in resource["metadata"].items()}
    return fields


def successor(prefix: str) -> str:
    """The least string after all those that start with ``prefix``."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def header_block(text: bytes) -> tuple[dict[str, str], bytes, bytes]:
    """Split off MIME headers: the headers, the rest and the line end in use (gcsfs sends bare line feeds)."""
    end = re.search(rb"^\r?\n|\n\r?\n", text)
    if end is None:
        raise bad_request("A part of a multipart body has no end of headers")
    lines = text[: end.start()].decode("utf-8", "replace").splitlines()
    pairs = (line.partition(":") for line in lines if ":" in line)
    newline = b"\r\n" if b"\r" in end[0] or b"\r\n" in text[: end.start()] else b"\n"
    return {key.strip().lower(): value.strip() for key, _, value in pairs}, text[end.end() :], newline


def multipart(call: Call) -> Iterator[tuple[dict[str, str], bytes]]:
    """The parts of a multipart body (RFC 2046): headers and content of each."""
    match = re.search(r"boundary=\"?([^\";]+)", call.headers.get("content-type", ""))
    if not match:
        raise bad_request("Missing the boundary of a multipart body")
    mark = b"--" + re.escape(match[1].encode())
    ends = list(re.finditer(rb"(?:^|(?<=\n))" + mark + rb"(--)?[ \t]*(?:\r?\n|$)", call.body))
    if len(ends) < 2 or ends[-1][1] is None:
        raise bad_request("Malformed multipart body")
    for this, following in pairwise(ends):
        headers, content, newline = header_block(call.body[this.end() : following.start()])
        yield headers, content.removesuffix(newline)


class FakeGcs:
    """The server as an ASGI application; ``log`` is the access log, for tests to read and to clear."""

    def __init__(self) -> None:
        self.buckets: dict[str, Bucket] = {}
        self.uploads: dict[str, Upload] = {}
        self.log: list[Access] = []
        self._clock = 0

    def count(self, method: str | None = None, text: str = "") -> int:
        """How many logged requests have this method and ``text`` in their decoded path and query."""
        return sum(
            method in (None, entry.method) and text in f"{entry.path}?{unquote(entry.query)}"
            for entry in list(self.log)
        )

    def clear(self) -> None:
        """Forget all buckets, uploads and log lines."""
        self.buckets, self.uploads = {}, {}
        self.log.clear()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path = scope["raw_path"].decode("ascii")
        query = scope["query_string"].decode("ascii")
        headers = {key.decode("ascii"): value.decode("latin-1") for key, value in scope["headers"]}
        body = await Request(scope, receive).body()
        if path == "/_fake/log":
            response = self._serve_log(scope["method"])
        else:
            self.log.append(Access(scope["method"], unquote(path), query))
            response = self.answer(scope["method"], path, query, headers, body)
        await response(scope, receive, send)

    def answer(self, method: str, path: str, query: str, headers: dict[str, str], body: bytes) -> Response:
        """Answer one request; names in ``path`` are still percent-encoded, so "a%2Fb" is one segment."""
        segments = [unquote(part) for part in path.split("/")[1:]]
        call = Call(method, segments, dict(parse_qsl(query, keep_blank_values=True)), headers, body)
        try:
            return self._route(call)
        except GcsError as error:
            return error.response()

    def _serve_log(self, method: str) -> Response:
        if method == "DELETE":
            self.log.clear()
        return ok([access._asdict() for access in self.log])

    def _tick(self) -> int:
        self._clock = max(self._clock + 1, time.time_ns() // 1000)
        return self._clock

    def _route(self, call: Call) -> Response:
        handler: Callable[..., Response]
        match call.method, call.segments:
            case "POST", ["batch", "storage", "v1"]:
                return self._batch(call)
            case "POST" | "PUT" | "DELETE", ["upload", "storage", "v1", "b", bucket, "o"]:
                return self._upload(call, self._bucket(bucket))
            case "GET", ["download", "storage", "v1", "b", bucket, "o", name]:
                return self._media(call, self._bucket(bucket), name)
            case _, ["storage", "v1", "b", *rest]:
                pass
            case _:
                raise not_implemented(f"{call.method} {'/'.join(call.segments)}")
        match call.method, rest:
            case "GET", []:
                items = [self.buckets[name].resource(call.base_url) for name in sorted(self.buckets)]
                return ok({"kind": "storage#buckets", "items": items})
            case "POST", []:
                return self._create_bucket(call)
            case "GET" | "DELETE" | "PATCH", [bucket]:
                return self._on_bucket(call, self._bucket(bucket))
            case "GET", [bucket, "o"]:
                return self._list(call, self._bucket(bucket))
            case "GET", [bucket, "o", name]:
                handler = self._media if call.params.get("alt") == "media" else self._get
                return handler(call, self._bucket(bucket), name)
            case "DELETE", [bucket, "o", name]:
                return self._delete(call, self._bucket(bucket), name)
            case "PATCH" | "PUT", [bucket, "o", name]:
                return self._update(call, self._bucket(bucket), name)
            case "POST", [bucket, "o", name, "compose"]:
                return self._compose(call, self._bucket(bucket), name)
            case "POST", [bucket, "o", name, "rewriteTo" | "copyTo" as verb, "b", to, "o", new]:
                return self._copy(call, self._bucket(bucket), name, self._bucket(to), new, verb)
            case "POST", [bucket, "o", name, "moveTo" as verb, "o", new]:
                return self._copy(call, self._bucket(bucket), name, self._bucket(bucket), new, verb)
        raise not_found("/".join(call.segments))

    # Buckets: https://cloud.google.com/storage/docs/json_api/v1/buckets

    def _bucket(self, name: str) -> Bucket:
        bucket = self.buckets.get(name)
        if bucket is None:
            raise GcsError(404, "notFound", "The specified bucket does not exist.")
        return bucket

    def _create_bucket(self, call: Call) -> Response:
        resource = call.json()
        name = str(resource.pop("name", ""))
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", name):
            raise bad_request(f"Invalid bucket name: '{name}'")
        if name in self.buckets:
            raise GcsError(409, "conflict", "Your previous request to create the named bucket succeeded.")
        if (resource.get("versioning") or {}).get("enabled"):
            raise not_implemented("Versioning")
        self.buckets[name] = Bucket(name, self._tick(), fields=resource)
        return ok(self.buckets[name].resource(call.base_url))

    def _on_bucket(self, call: Call, bucket: Bucket) -> Response:
        stand_in = Blob("", bucket.name, b"", bucket.created, bucket.metageneration)
        check(call.params, stand_in, read=call.method == "GET")
        if call.method == "DELETE":
            if bucket.blobs:
                raise GcsError(409, "conflict", "The bucket you tried to delete is not empty.")
            del self.buckets[bucket.name]
            return Response(status_code=204)
        if call.method == "PATCH":
            bucket.fields.update(call.json())
            bucket.metageneration += 1
        return ok(bucket.resource(call.base_url))

    # Objects: https://cloud.google.com/storage/docs/json_api/v1/objects

    def _list(self, call: Call, bucket: Bucket) -> Response:
        """https://cloud.google.com/storage/docs/json_api/v1/objects/list ."""
        params = call.params
        for key in UNSUPPORTED:
            if params.get(key, "false") != "false":
                raise not_implemented(f"The parameter {key}")
        prefix, delimiter = params.get("prefix", ""), params.get("delimiter", "")
        stop = params.get("endOffset", "")
        start = max(prefix, params.get("startOffset", ""))
        if params.get("pageToken"):
            try:
                start = max(start, base64.urlsafe_b64decode(params["pageToken"]).decode())
            except ValueError as error:
                raise bad_request("Invalid pageToken") from error
        size = integer(params, "maxResults")
        if size is not None and size < 0:
            raise bad_request(f"Invalid value '{size}' for maxResults")
        size = min(size or MAX_PAGE, MAX_PAGE)
        items: list[dict[str, Any]] = []
        prefixes: list[str] = []
        token = None
        names, at = bucket.names, bisect_left(bucket.names, start)
        while at < len(names) and names[at].startswith(prefix) and not (stop and names[at] >= stop):
            name = names[at]
            if len(items) + len(prefixes) == size:
                token = base64.urlsafe_b64encode(name.encode()).decode()
                break
            cut = name.find(delimiter, len(prefix)) if delimiter else -1
            if cut < 0:
                items.append(bucket.blobs[name].resource(call.base_url))
                at += 1
            else:
                prefixes.append(name[: cut + len(delimiter)])
                at = bisect_left(names, successor(prefixes[-1]), at)
        answer: dict[str, Any] = {"kind": "storage#objects"}
        answer |= {"nextPageToken": token} if token else {}
        answer |= {"prefixes": prefixes} if prefixes else {}
        answer |= {"items": items} if items else {}
        return ok(answer)

    def _get(self, call: Call, bucket: Bucket, name: str) -> Response:
        """https://cloud.google.com/storage/docs/json_api/v1/objects/get , metadata only."""
        blob = bucket.live(name, call.params.get("generation"))
        check(call.params, blob, read=True)
        return ok(blob.resource(call.base_url), headers={"etag": blob.etag})

    def _media(self, call: Call, bucket: Bucket, name: str) -> Response:
        """objects/get with alt=media; gzip objects are unpacked for callers that do not accept gzip.

        https://cloud.google.com/storage/docs/transcoding
        """
        blob = bucket.live(name, call.params.get("generation"))
        check(call.params, blob, read=True)
        encoding = blob.fields.get("contentEncoding", "")
        headers = {
            "x-goog-generation": str(blob.generation),
            "x-goog-metageneration": str(blob.metageneration),
            "x-goog-hash": f"crc32c={blob.crc32c},md5={blob.md5}",
            "x-goog-stored-content-length": str(len(blob.data)),
            "x-goog-stored-content-encoding": encoding or "identity",
            "x-goog-storage-class": "STANDARD",
            "etag": blob.etag,
            "last-modified": formatdate(blob.generation // 1_000_000, usegmt=True),
            "cache-control": blob.fields.get("cacheControl", "private, max-age=0"),
        }
        content_type = blob.fields.get("contentType", "application/octet-stream")
        if encoding == "gzip" and "gzip" not in call.headers.get("accept-encoding", ""):
            return Response(gzip.decompress(blob.data), 200, headers, content_type)
        headers |= {"accept-ranges": "bytes"} | ({"content-encoding": encoding} if encoding else {})
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", call.headers.get("range", ""))
        backwards = match and match[1] and match[2] and int(match[2]) < int(match[1])
        if match is None or match[0] == "bytes=-" or backwards:
            return Response(blob.data, 200, headers, content_type)
        size = len(blob.data)
        first = int(match[1]) if match[1] else max(0, size - int(match[2]))
        last = min(int(match[2]), size - 1) if match[1] and match[2] else size - 1
        if first >= size:
            range_error = {"content-range": f"bytes */{size}"}
            raise GcsError(416, "requestedRangeNotSatisfiable", "Request range not satisfiable", range_error)
        headers["content-range"] = f"bytes {first}-{last}/{size}"
        return Response(blob.data[first : last + 1], 206, headers, content_type)

    def _delete(self, call: Call, bucket: Bucket, name: str) -> Response:
        blob = bucket.live(name, call.params.get("generation"))
        check(call.params, blob)
        bucket.remove(name)
        return Response(status_code=204)

    def _update(self, call: Call, bucket: Bucket, name: str) -> Response:
        """objects/patch (a null deletes, "metadata" is merged) and objects/update (all is replaced)."""
        blob = bucket.live(name, call.params.get("generation"))
        check(call.params, blob)
        resource = call.json()
        if call.method == "PATCH":
            custom = {**blob.fields.get("metadata", {}), **(resource.get("metadata") or {})}
            if "metadata" in resource and resource["metadata"] is None:
                custom = {}
            kept = {key: value for key, value in custom.items() if value is not None}
            resource = {**blob.fields, **resource, "metadata": kept}
        changed = replace(blob, fields=writable(resource), metageneration=blob.metageneration + 1, updated=self._tick())
        return ok(bucket.put(changed).resource(call.base_url))

    def _write(
        self, conditions: Mapping[str, str], bucket: Bucket, name: str, data: bytes, fields: dict[str, Any]
    ) -> Blob:
        """Make a new generation of an object; all ways to write end here."""
        check(conditions, bucket.blobs.get(name))
        return bucket.put(Blob(bucket.name, name, data, self._tick(), fields=fields))

    def _compose(self, call: Call, bucket: Bucket, name: str) -> Response:
        """https://cloud.google.com/storage/docs/json_api/v1/objects/compose ."""
        request = call.json()
        sources = request.get("sourceObjects", [])
        if not 1 <= len(sources) <= 32:
            raise bad_request("The number of source components must be between 1 and 32")
        parts = []
        for source in sources:
            blob = bucket.live(source["name"], source.get("generation"))
            wanted = source.get("objectPreconditions", {}).get("ifGenerationMatch")
            check({} if wanted is None else {"ifGenerationMatch": str(wanted)}, blob)
            parts.append(blob)
        destination = request.get("destination", {})
        fields = writable({"contentType": parts[0].fields.get("contentType"), **destination})
        blob = self._write(call.params, bucket, valid_name(name), b"".join(part.data for part in parts), fields)
        return ok(blob.resource(call.base_url))

    def _copy(self, call: Call, bucket: Bucket, name: str, to: Bucket, new: str, verb: str) -> Response:
        """objects/rewrite, objects/copy and objects/move; all finish in one call."""
        blob = bucket.live(name, call.params.get("sourceGeneration"))
        if verb == "moveTo" and name == new:
            raise bad_request("The source and the destination of a move are the same")
        check(call.params, blob, prefix="ifSource")
        fields = writable(call.json()) or dict(blob.fields)
        copied = self._write(call.params, to, valid_name(new), blob.data, fields)
        if verb == "moveTo":
            bucket.remove(name)
        resource = copied.resource(call.base_url)
        if verb != "rewriteTo":
            return ok(resource)
        size = str(len(blob.data))
        progress = {"totalBytesRewritten": size, "objectSize": size, "done": True}
        return ok({"kind": "storage#rewriteResponse", **progress, "resource": resource})

    # Uploads: https://cloud.google.com/storage/docs/uploads-downloads

    def _upload(self, call: Call, bucket: Bucket) -> Response:
        match call.method, call.params.get("uploadType"):
            case _, "resumable" if "upload_id" in call.params:
                return self._resume(call, bucket)
            case "POST", "media":
                resource = {"contentType": call.headers.get("content-type"), "name": call.params.get("name")}
                resource["contentEncoding"] = call.params.get("contentEncoding")
                return self._store(call, bucket, resource, call.body)
            case "POST", "multipart":
                parts = list(multipart(call))
                if len(parts) != 2:
                    raise bad_request("A multipart upload has two parts")
                (_, described), (media_headers, data) = parts
                resource = call._replace(body=described).json()
                resource.setdefault("contentType", media_headers.get("content-type"))
                return self._store(call, bucket, resource, data)
            case "POST", "resumable":
                return self._start(call, bucket)
        raise bad_request("Invalid uploadType")

    def _store(self, call: Call, bucket: Bucket, resource: dict[str, Any], data: bytes) -> Response:
        name = valid_name(resource.get("name") or call.params.get("name"))
        fields = writable(resource)
        digest = Blob(bucket.name, name, data, 0)
        for key, actual in (("md5Hash", "md5"), ("crc32c", "crc32c")):
            if resource.get(key) and resource[key] != getattr(digest, actual):
                raise bad_request(f"Provided {key} doesn't match the calculated one")
        return ok(self._write(call.params, bucket, name, data, fields).resource(call.base_url))

    def _start(self, call: Call, bucket: Bucket) -> Response:
        """https://cloud.google.com/storage/docs/performing-resumable-uploads#initiate-session ."""
        resource = call.json()
        name = valid_name(resource.get("name") or call.params.get("name"))
        check(call.params, bucket.blobs.get(name))
        resource.setdefault("contentType", call.headers.get("x-upload-content-type"))
        conditions = {key: value for key, value in call.params.items() if key.startswith("if")}
        session = uuid.uuid4().hex
        self.uploads[session] = Upload(bucket.name, name, writable(resource), conditions)
        query = urlencode({"uploadType": "resumable", "upload_id": session} | conditions)
        location = f"{call.base_url}/upload/storage/v1/b/{bucket.name}/o?{query}"
        return Response(b"", 200, {"location": location, "x-guploader-uploadid": session})

    def _resume(self, call: Call, bucket: Bucket) -> Response:
        """A chunk, a query or the end of a resumable upload.

        The conditions are those the session was started with, and they are checked again at the end.
        """
        upload = self.uploads.get(call.params["upload_id"])
        if upload is None or upload.bucket != bucket.name:
            raise GcsError(404, "notFound", "No such upload session")
        if call.method == "DELETE":
            del self.uploads[call.params["upload_id"]]
            return Response(status_code=499)
        if upload.done:
            return ok(upload.done.resource(call.base_url))
        total = self._append(call, upload)
        if total is None or len(upload.data) < total:
            received = {"range": f"bytes=0-{len(upload.data) - 1}"} if upload.data else {}
            return Response(b"", 308, received)
        upload.done = self._write(upload.params, bucket, upload.name, bytes(upload.data), upload.fields)
        upload.data = bytearray()
        return ok(upload.done.resource(call.base_url))

    def _append(self, call: Call, upload: Upload) -> int | None:
        """Take the new bytes of a chunk; the answer is the total size when the client has said it."""
        stated = call.headers.get("content-range")
        whole = f"bytes 0-{len(call.body)}/{len(call.body)}"
        match = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(?:(\d+)|\*)", stated or whole)
        if match is None:
            raise bad_request(f"Invalid Content-Range: {stated}")
        total = int(match[3]) if match[3] else None
        if match[1] is not None:
            first = int(match[1])
            if stated and int(match[2]) - first + 1 != len(call.body):
                raise bad_request("Content-Range does not agree with the size of the body")
            if first > len(upload.data):
                raise bad_request(f"Expected byte {len(upload.data)}, got {first}")
            end = first + len(call.body)
            if end != total and len(call.body) % CHUNK:
                raise bad_request("A chunk before the last must be a multiple of 256 KiB")
            if total is not None and end > total:
                raise bad_request("More bytes than the stated total")
            upload.data += call.body[len(upload.data) - first :]
        return total

    # Batches: https://cloud.google.com/storage/docs/batch

    def _batch(self, call: Call) -> Response:
        parts = list(multipart(call))
        if len(parts) > 100:
            raise bad_request("A batch may hold at most 100 calls")
        boundary = f"batch_{uuid.uuid4().hex}"
        answers = []
        for headers, content in parts:
            answer = self._batched(call, content)
            fields = "".join(f"{key.decode()}: {value.decode()}\r\n" for key, value in answer.raw_headers)
            content_id = headers.get("content-id", "<>").strip("<>")
            answers.append(
                f"--{boundary}\r\n"
                f"Content-Type: application/http\r\nContent-ID: <response-{content_id}>\r\n\r\n"
                f"HTTP/1.1 {answer.status_code} {HTTPStatus(answer.status_code).phrase}\r\n{fields}\r\n"
                f"{bytes(answer.body).decode()}\r\n"
            )
        body = "".join(answers) + f"--{boundary}--\r\n"
        return Response(body, 200, {"content-type": f"multipart/mixed; boundary={boundary}"})

    def _batched(self, call: Call, content: bytes) -> Response:
        line, _, rest = content.partition(b"\n")
        words = line.decode().split()
        if len(words) != 3:
            return bad_request("Malformed request line in a batch").response()
        url = urlsplit(words[1])
        if url.path.startswith(("/upload", "/download", "/batch")) or "alt=media" in url.query:
            return bad_request("Media and nested batches are not allowed in a batch").response()
        try:
            headers, body, _ = header_block(rest + b"\r\n\r\n")
        except GcsError as error:
            return error.response()
        self.log.append(Access(words[0], unquote(url.path), url.query))
        headers = {"host": call.headers.get("host", "")} | headers
        return self.answer(words[0], url.path, url.query, headers, body.strip())


def valid_name(name: Any) -> str:
    """https://cloud.google.com/storage/docs/objects#naming ."""
    if not isinstance(name, str) or not 0 < len(name.encode()) <= 1024:
        raise bad_request("An object name has 1 to 1024 bytes")
    if name in (".", "..") or "\r" in name or "\n" in name or name.startswith(".well-known/acme-challenge/"):
        raise bad_request(f"Disallowed object name: {name!r}")
    return name


def main() -> None:
    from tests.fakes import servers

    parser = argparse.ArgumentParser(description="a strict Google Cloud Storage server in memory")
    parser.add_argument("--port", type=int, default=0)
    servers.serve_asgi(FakeGcs(), parser.parse_args().port)


if __name__ == "__main__":
    main()
