"""Help pages and the OpenAPI document, both made of the endpoints' descriptions."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from typing import Any

from app.datatypes.datatype import Datatype
from app.routes.endpoint import Endpoint, Parameter

_INSTANCE = "/api/node/{version}/{data}/"
_SCHEMAS: dict[str, dict[str, str]] = {
    "integer": {"type": "integer"},
    "flag": {"type": "boolean"},
    "text": {"type": "string"},
    "choice": {"type": "string"},
}


def full_path(described: Endpoint) -> str:
    """The whole path of an endpoint, placeholders included."""
    return described.path if described.path.startswith("/") else _INSTANCE + described.path


def type_help(typename: str, endpoints: Iterable[Endpoint]) -> str:
    """The endpoints of a datatype as plain text."""
    blocks = [f"Data of type {typename}\n{'=' * (13 + len(typename))}\n"]
    blocks += [_describe(described) for described in endpoints]
    return "\n".join(blocks)


def _describe(described: Endpoint) -> str:
    methods = described.method + (" (or POST)" if described.twin else "")
    lines = [f"{methods} {full_path(described)}", "", *(f"    {line.strip()}" for line in described.help.splitlines())]
    if described.body:
        lines.append(f"    Body: {described.body}")
    if described.answer:
        lines.append(f"    Answer: {described.answer} ({described.media})")
    if described.admin:
        lines.append("    For administrators only.")
    lines += [f"    ?{parameter.name}= {_explain(parameter)}" for parameter in described.query]
    return "\n".join([*lines, ""])


def _explain(parameter: Parameter) -> str:
    choices = f" One of: {', '.join(choice or '(empty)' for choice in parameter.choices)}." if parameter.choices else ""
    return f"{parameter.help}.{choices}"


def page(endpoints: Iterable[Endpoint], datatypes: Mapping[str, Datatype]) -> str:
    """The first help page."""
    types = "".join(f'<li><a href="/api/help/{name}">{name}</a></li>' for name in sorted(datatypes))
    listed = html.escape("\n".join(_describe(described) for described in endpoints))
    return (
        "<!doctype html><html><head><title>DVID Cloud</title><style>body{font:16px sans-serif;margin:2em auto;"
        "max-width:60em}pre{white-space:pre-wrap}</style></head><body><h1>DVID Cloud</h1>"
        "<p>A versioned data service for connectomics that speaks DVID's HTTP API. "
        'The same as <a href="/api/openapi.json">OpenAPI</a>.</p>'
        f"<h2>Datatypes</h2><ul>{types}</ul><h2>Server, repos and versions</h2><pre>{listed}</pre></body></html>"
    )


def openapi(general: Iterable[Endpoint], by_type: Mapping[str, Iterable[Endpoint]], version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document (https://spec.openapis.org/oas/v3.1.0)."""
    paths: dict[str, dict[str, Any]] = {}
    tagged = [("server", described) for described in general]
    tagged += [(typename, described) for typename, endpoints in by_type.items() for described in endpoints]
    for tag, described in tagged:
        path = full_path(described)
        variants = [path.replace("?}", "}").replace("*}", "}")]
        if path.endswith("?}"):
            variants.append(path.rsplit("/", 1)[0])
        for variant in variants:
            operations = paths.setdefault(variant, {})
            for method in {described.method, *(["POST"] if described.twin else [])}:
                present = operations.get(method.lower())
                if present is not None:
                    if tag not in present["tags"]:
                        present["tags"].append(tag)
                    continue
                operations[method.lower()] = _operation(tag, described, variant, method)
    info = {"title": "DVID Cloud", "version": version, "license": {"name": "BSD-3-Clause"}}
    return {"openapi": "3.1.0", "info": info, "paths": paths}


def _operation(tag: str, described: Endpoint, path: str, method: str) -> dict[str, Any]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    for parameter in described.query:
        schema: dict[str, Any] = dict(_SCHEMAS[parameter.kind])
        if parameter.choices:
            schema["enum"] = list(parameter.choices)
        parameters.append({"name": parameter.name, "in": "query", "description": parameter.help, "schema": schema})
    operation: dict[str, Any] = {
        "tags": [tag],
        "summary": described.help.split("\n")[0],
        "parameters": parameters,
        "responses": {
            "200": {"description": described.answer or "done", "content": {described.media: {}}},
            "4XX": {"description": "refused; the body says why", "content": {"text/plain": {}}},
        },
    }
    if described.body and method != "GET":
        operation["requestBody"] = {"description": described.body, "content": {"*/*": {}}}
    return operation
