"""Whole objects of a bucket, by gcsfs and s3fs: listing and copying what is not a tree or a volume."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from app.core.errors import Invalid, StoreUnavailable

SCHEMES = ("gs", "s3")
#: Requests that copy the pieces of one object at the same time.
TOGETHER = 8


def is_remote(url: str) -> bool:
    """Whether a URL names an object of a bucket."""
    return urlsplit(url).scheme in SCHEMES


def copy_to(url: str, folder: Path) -> Path:
    """Copy an object, or all objects below a prefix, into a local folder; the path of the copy.

    `url` is as that of a store: `gs://bucket/path`, `s3://bucket/path[?endpoint=...&region=...]`. Objects are
    streamed to disk, so their size does not matter. Blocks; call it from a command or a thread.
    """
    filesystem, path = _open(url)
    target = folder / os.path.basename(path.rstrip("/"))
    try:
        if filesystem.isdir(path):
            target.mkdir(parents=True, exist_ok=True)
            for name in filesystem.find(path, maxdepth=1):
                filesystem.get_file(name, str(target / os.path.basename(name)))
        else:
            filesystem.get_file(path, str(target))
    except FileNotFoundError:
        raise Invalid(f"{url} does not exist") from None
    except OSError as error:
        raise StoreUnavailable(f"{url}: {error}") from error
    return target


def _open(url: str) -> tuple[Any, str]:
    parts = urlsplit(url)
    path = f"{parts.netloc}/{parts.path.strip('/')}"
    try:
        if parts.scheme == "gs":
            import gcsfs

            emulator = os.environ.get("TENSORSTORE_GCS_HTTP_URL")
            if emulator:  # the server that the trees are pointed at
                return gcsfs.GCSFileSystem(project="p", token="anon", endpoint_url=emulator), path
            return gcsfs.GCSFileSystem(), path
        import s3fs

        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        options: dict[str, Any] = {"config_kwargs": {"max_pool_connections": TOGETHER}}
        if "endpoint" in query:
            options["endpoint_url"] = query["endpoint"]
        if "region" in query:
            options["client_kwargs"] = {"region_name": query["region"]}
        return s3fs.S3FileSystem(**options), path
    except ImportError as error:
        raise Invalid(f"{url}: {error.name} is missing; install dvid-cloud[gcs,s3]") from None
