"""Routing: a path's parts are walked down a tree of literals and placeholders, with no regular expressions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote_to_bytes

from app.routes.endpoint import Endpoint


@dataclass
class _Node:
    literals: dict[str, _Node] = field(default_factory=dict)
    placeholder: _Node | None = None
    #: What takes all segments that are left.
    rest: _Node | None = None
    methods: dict[str, tuple[Endpoint, tuple[tuple[int, str], ...]]] = field(default_factory=dict)


class Routes:
    """Endpoints by path and method."""

    def __init__(self, endpoints: Iterable[Endpoint] = ()) -> None:
        self._root = _Node()
        self.endpoints: list[Endpoint] = []
        for described in endpoints:
            self.add(described)

    def add(self, described: Endpoint) -> None:
        """Take up an endpoint; two for one method and path are a mistake of ours."""
        self.endpoints.append(described)
        parts = described.path.removeprefix("/").split("/")
        if parts[-1].endswith("?}"):
            self._insert(parts[:-1], described)
            parts[-1] = parts[-1][:-2] + "}"
        self._insert(parts, described)

    def _insert(self, parts: list[str], described: Endpoint) -> None:
        node, names = self._root, []
        for index, part in enumerate(parts):
            if part.endswith("*}"):
                names.append((index, part[1:-1]))
                node.rest = node = node.rest or _Node()
            elif part.startswith("{"):
                names.append((index, part[1:-1]))
                if node.placeholder is None:
                    node.placeholder = _Node()
                node = node.placeholder
            else:
                node = node.literals.setdefault(part, _Node())
        methods = [described.method]
        if described.method == "GET" and "HEAD" not in node.methods:
            methods.append("HEAD")
        if described.twin:
            methods.append("POST")
        for method in methods:
            present = node.methods.get(method)
            if present is not None and method == present[0].method:
                raise ValueError(f"two endpoints for {method} {described.path}")
            node.methods[method] = described, tuple(names)

    def find(self, parts: list[str]) -> dict[str, tuple[Endpoint, tuple[tuple[int, str], ...]]] | None:
        """The methods of a path, or None if no endpoint has it."""
        node, rest = self._root, self._root.rest
        for part in parts:
            following = node.literals.get(part) or node.placeholder
            if following is None:
                return rest.methods if rest is not None else None
            node = following
            rest = node.rest or rest
        if rest is not None and not node.methods:
            return rest.methods
        return node.methods or None


def values(parts: list[str], names: tuple[tuple[int, str], ...]) -> dict[str, str]:
    """What the placeholders of a path stand for; `path*` takes all that is left."""
    return {
        name.removesuffix("*"): "/".join(parts[index:]) if name.endswith("*") else parts[index] for index, name in names
    }


def query(text: bytes) -> dict[str, str]:
    """The parameters of a query string; the first of several with one name counts."""
    decoded = text.decode("latin-1")
    if "%" in decoded or "+" in decoded:
        return dict(reversed(parse_qsl(decoded, keep_blank_values=True)))
    found: dict[str, str] = {}
    for part in decoded.split("&"):  # several times quicker
        if part:
            name, _, value = part.partition("=")
            found.setdefault(name, value)
    return found


def split(path: bytes) -> list[str]:
    """The parts of a raw path after the first slash, each decoded by itself: `%2F` does not split.

    Bytes that are not UTF-8 survive as surrogates, so that any key can be named.
    """
    text = path.decode("latin-1")
    parts = text.split("/")[1:]
    if "%" in text:
        return [unquote_to_bytes(part).decode("utf-8", "surrogateescape") if "%" in part else part for part in parts]
    return parts
