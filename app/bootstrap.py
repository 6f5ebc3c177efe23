"""The composition root: from settings to an application. The one place where concrete backends are chosen."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from urllib.parse import urlsplit

from app.backends.bucket_catalog import BucketCatalog
from app.backends.catalog import Catalog
from app.backends.store import Store, StoreOptions
from app.core.errors import Invalid
from app.datatypes import DATATYPES, imageblk
from app.routes import (
    annotation,
    annotation_plain,
    curation,
    imagetile,
    instances,
    keyvalue,
    labelsz,
    multichan16,
    neuronjson,
    nodes,
    precomputed,
    repos,
    roi,
    server,
    tarsupervoxels,
    volumes,
    zarr,
)
from app.routes import imageblk as images
from app.routes.endpoint import Endpoint, endpoints_of
from app.routes.labelmap import bodies, bulk, edits, history
from app.routes.labelmap import plain as label_plain
from app.routes.labelmap import sparse as label_sparse
from app.routes.labelmap import tables as label_tables
from app.routes.labelmap import voxels as label_voxels
from app.routes.service import Service
from app.settings import Settings
from app.versioning.datastore import Datastore

#: The modules with the endpoints of each datatype's instances.
ENDPOINTS: Mapping[str, list[ModuleType]] = {
    "annotation": [instances, annotation, annotation_plain],
    "keyvalue": [instances, keyvalue],
    "labelmap": [
        *(instances, volumes, label_voxels, bodies, label_sparse, label_tables, bulk, edits, history),
        *(precomputed, zarr, label_plain),
    ],
    "neuronjson": [instances, neuronjson],
    "labelsz": [instances, labelsz],
    "roi": [instances, roi],
    "tarsupervoxels": [instances, tarsupervoxels],
    "imagetile": [instances, imagetile],
    "multichan16": [instances, multichan16, precomputed, zarr],
    **{datatype.name: [instances, volumes, images, precomputed, zarr] for datatype in imageblk.DATATYPES},
}


def store_options(settings: Settings) -> StoreOptions:
    """How this process uses its stores."""
    return StoreOptions(
        durability=settings.durability,
        cache_bytes=settings.cache_bytes // 4,
        timeout_seconds=settings.store_timeout,
        max_staleness_seconds=settings.max_staleness,
        journal=settings.journal,
    )


def open_catalog(settings: Settings, store: Store) -> Catalog:
    """The catalog that the settings name: in the store itself, in another store, or in Firestore."""
    if not settings.catalog:
        return BucketCatalog(store)
    parts = urlsplit(settings.catalog)
    if parts.scheme != "firestore":
        return BucketCatalog(Store(settings.catalog, store_options(settings)))
    from app.backends.firestore_catalog import FirestoreCatalog  # its libraries take long to load

    if not parts.netloc:
        raise Invalid("the catalog's URL must be firestore://PROJECT[/DATABASE]")
    database = parts.path.strip("/") or "(default)"
    return FirestoreCatalog(parts.netloc, database=database, timeout_seconds=settings.store_timeout)


async def open_datastore(settings: Settings) -> Datastore:
    """The datastore that the settings describe, connected."""
    options = store_options(settings)
    store = Store(settings.store, options)
    catalog = open_catalog(settings, store)
    is_remote = store.is_remote or settings.catalog.startswith(("firestore:", "gs:", "s3:"))
    datastore = Datastore(
        store,
        catalog,
        options,
        stores=settings.stores,
        assignments=settings.assignments,
        sources=settings.sources,
        catalog_staleness=settings.max_staleness if is_remote else 0.0,
        cache_bytes=settings.cache_bytes,
    )
    await datastore.repos.refresh()
    return datastore


def endpoints() -> tuple[list[Endpoint], dict[str, list[Endpoint]]]:
    """All endpoints: of the server, and of each datatype's instances."""
    general = endpoints_of(server, repos, curation, nodes)
    by_type = {
        typename: [
            described
            for described in endpoints_of(*modules)
            if (described.path != "tags" or DATATYPES[typename].has_tags)
            and (described.path != "sync" or DATATYPES[typename].syncs is not None)
        ]
        for typename, modules in ENDPOINTS.items()
    }
    return general, by_type


def build(settings: Settings) -> Service:
    """The application."""
    general, by_type = endpoints()
    return Service(settings, lambda: open_datastore(settings), general, by_type)
