"""Annotations: what a write makes of them, how they are stored and shown, queries, schemas, pages."""

from __future__ import annotations

import asyncio
import json
import random
import re
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.core.errors import Invalid
from app.datatypes.neuronjson import documents, keys, pages, queries, reading, schemas, writing
from app.datatypes.neuronjson.documents import Show
from app.datatypes.neuronjson.pages import Page, Pages
from app.versioning.cache import Cache

T0, T1 = "2001-01-01T00:00:00Z", "2002-01-01T00:00:00Z"

scalars = st.one_of(
    st.booleans(), st.integers(-(1 << 63), (1 << 64) - 1), st.floats(allow_nan=False, allow_infinity=False), st.text()
)
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=6)
names = st.sampled_from(["a", "b", "type", "user", "", "\u03b3", "a_user", "b_time", "_user", "x_user", "bodyid_x"])
annotations = st.dictionaries(names, values).map(lambda fields: {**fields, "bodyid": 7})

#: The first text that hypothesis draws makes it read a table of all characters.
QUIET = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def update(old: dict[str, Any] | None, given: dict[str, Any], **options: Any) -> dict[str, Any]:
    return documents.updated(old, given, "bob", T1, **{"replace": False, **options})


@QUIET
@given(annotations)
def test_an_annotation_comes_back_and_is_shown_in_four_ways(document: dict[str, Any]) -> None:
    stored = documents.encode(document)
    assert documents.decode(stored) == document
    for show in Show:
        hidden = {"_user", "_time"} - set(show.suffixes)
        expected = {name: value for name, value in document.items() if not name.endswith(tuple(hidden) or ("\0",))}
        assert orjson.loads(documents.shown(stored, show)) == expected


@QUIET
@given(annotations, st.lists(names), st.sampled_from(list(Show)))
def test_selected_fields_bring_their_companions(document: dict[str, Any], wanted: list[str], show: Show) -> None:
    found = orjson.loads(documents.selected(documents.encode(document), wanted, show))
    asked = {"bodyid", *wanted, *(name + suffix for name in wanted for suffix in show.suffixes)}
    assert found == {name: value for name, value in document.items() if name in asked}


@pytest.mark.parametrize(
    ("old", "given", "options", "made"),
    [
        (None, {"a": 1}, {}, {"a": 1, "a_user": "bob", "a_time": T1}),
        (None, {"a": None}, {}, {"a_user": "bob", "a_time": T1}),
        (None, {"a_user": "x"}, {}, {"a_user": "x", "a_time": T1}),
        (None, {"user": 1}, {}, {"user": 1}),
        ({"a": 1, "a_user": "ann", "a_time": T0}, {"a": 1}, {}, {"a": 1, "a_user": "ann", "a_time": T0}),
        ({"a": 1, "a_user": "ann", "a_time": T0}, {"a": True}, {}, {"a": True, "a_user": "bob", "a_time": T1}),
        ({"a": 1}, {"a": 2, "a_user": None}, {}, {"a": 2, "a_user": "bob", "a_time": T1}),
        ({"a": 1, "a_user": "ann"}, {"a": None, "a_user": None}, {}, {"a_time": T1}),
        (
            {"a": 1, "a_user": "ann"},
            {"a": 2, "a_user": "eve", "a_time": T0},
            {},
            {"a": 2, "a_user": "eve", "a_time": T0},
        ),
        (
            {"o": {"x": 1, "y": 2}, "o_user": "ann"},
            {"o": {"y": 2, "x": 1}},
            {},
            {"o": {"x": 1, "y": 2}, "o_user": "ann"},
        ),
        ({"a": 1, "a_user": "ann"}, {"a": 2, "a_user": "eve"}, {"conditionals": ["a"]}, {"a": 1, "a_user": "ann"}),
        ({}, {"a": 2}, {"conditionals": ["a"]}, {"a": 2, "a_user": "bob", "a_time": T1}),
        (
            {"a": 1, "a_user": "ann", "a_time": T0, "b": 1},
            {"a": 1},
            {"replace": True},
            {"a": 1, "a_user": "ann", "a_time": T0},
        ),
        (
            {"a": 1, "user": 5},
            {"a": 1, "user": 5},
            {"replace": True},
            {"a": 1, "user": 5, "a_user": "bob", "a_time": T1},
        ),
        ({"a": 1}, {"a": 2}, {"replace": True, "conditionals": ["a"]}, {"a": 2, "a_user": "bob", "a_time": T1}),
    ],
)
def test_what_a_write_makes_of_an_annotation(old: Any, given: Any, options: Any, made: Any) -> None:
    body = {"bodyid": 7}
    before = None if old is None else {**body, **old}
    assert update(before, {**body, **given}, **options) == {**body, **made}
    assert before is None or before == {**body, **old}


def test_equal_values_of_different_types_differ() -> None:
    assert not documents.is_same(1, True)
    assert not documents.is_same(1, 1.0)
    assert not documents.is_same("1", 1)
    assert documents.is_same([1, {"a": 1, "b": 2}], [1, {"b": 2, "a": 1}])


# ---------------------------------------------------------------- queries


def answer(query: Any, found: list[dict[str, Any]]) -> list[int]:
    parsed = queries.parse(json.dumps(query).encode())
    columns = dict(zip(parsed.names, queries.columns(found, parsed.names), strict=True))
    mask = parsed.mask(columns, (1 << len(found)) - 1)
    return [place for place in range(len(found)) if mask >> place & 1]


FOUND: list[dict[str, Any]] = [
    {"s": "LC10", "n": 5, "f": 1.5, "b": True, "l": ["a", "b"], "g": "(\u03b3)"},
    {"s": "LC12", "n": 1, "f": 2.0, "b": False, "l": ["b", 5, None], "g": r"a\d"},
    {"s": "", "n": -5, "l": [], "o": {"x": 1, "y": [2]}},
    {"n": (1 << 64) - 1, "l": [1.5, True]},
]


@pytest.mark.parametrize(
    ("query", "places"),
    [
        ({"s": "LC10"}, [0]),
        ({"s": "LC1"}, []),
        ({"s": ""}, [2]),
        ({"s": "re/^LC1[02]$"}, [0, 1]),
        ({"s": r"re/\d"}, [0, 1]),
        ({"s": "re/"}, [0, 1, 2]),
        ({"s": ["re/2$", ""]}, [1, 2]),
        ({"g": "re/\u03b3"}, [0]),
        ({"g": r"re/\\d"}, [1]),
        ({"f": 1.5}, [0]),
        ({"f": 2}, [1]),
        ({"f": [1.5, 2.0]}, [0, 1]),
        ({"b": True}, [0]),
        ({"b": False}, [1]),
        ({"n": 1}, [1]),
        ({"n": True}, []),
        ({"n": "re/5"}, []),
        ({"n": [(1 << 64) - 1, -5, "x"]}, [2, 3]),
        ({"l": "b"}, [0, 1]),
        ({"l": ["a", 1.5]}, [0, 3]),
        ({"l": True}, [3]),
        ({"l": "exists/1"}, [0, 1, 2, 3]),
        ({"o": {"y": [2], "x": 1}}, [2]),
        ({"o": "exists/0"}, [0, 1, 3]),
        ({"s": ["exists/0", "LC12"]}, [1, 3]),
        ({"s": None}, []),
        ({"s": []}, []),
        ({"s": "re/^LC", "b": False}, [1]),
        ([{"s": "LC10"}, {"n": -5}], [0, 2]),
        ([{}, {"s": "LC10"}], [0, 1, 2, 3]),
        ({"nosuch": "exists/0", "n": 5}, [0]),
    ],
)
def test_queries(query: Any, places: list[int]) -> None:
    assert answer(query, FOUND) == places


@pytest.mark.parametrize(
    "body", [b"", b"{", b"5", b'"x"', b"[]", b"[5]", b'{"a":"re/("}', b'{"a":["exists/2"]}', b"null"]
)
def test_what_is_no_query(body: bytes) -> None:
    with pytest.raises(Invalid):
        queries.parse(body)


@pytest.mark.parametrize(
    ("query", "bodies"),
    [
        ({"bodyid": 5}, [5]),
        ({"bodyid": [5, 3, 5]}, [5, 3, 5]),
        ([{"bodyid": 5}, {"bodyid": [1]}], [5, 1]),
        ({}, []),
        ({"bodyid": -1}, []),
        ({"bodyid": "5"}, None),
        ({"bodyid": 5, "a": 1}, None),
    ],
)
def test_queries_for_nothing_but_bodies(query: Any, bodies: list[int] | None) -> None:
    assert queries.parse(json.dumps(query).encode()).bodies == bodies


def test_a_pattern_takes_linear_time() -> None:
    assert answer({"s": "re/^(a+)+$"}, [{"s": "a" * 50_000 + "b"}]) == []


@pytest.mark.parametrize(
    "pattern",
    ["ab", "^ab", "ab*", "ab?c", "ab{0,1}", "ab+", "a|b", "^a|b", "(?i)AB", "(?i:A)b", "[ab]", r"\bab", "a.b", "",
     "a b-c",
     "^\u03b3x*", "x*", "^", "(ab)?", "a(b|c)", "\u0661+", "a{0}b", "ab$"],
)  # fmt: skip
def test_the_quick_look_before_a_pattern_changes_nothing(pattern: str) -> None:
    texts = [
        "",
        "a",
        "b",
        "ab",
        "xab",
        "AB",
        "aB",
        "ac",
        "a b-c",
        "abb",
        "\u03b3",
        "\u03b3xx",
        "\u0661",
        "a\nb",
        "cab c",
    ]
    compiled = re.compile(pattern)  # which says the same of all of these
    assert queries.Pattern(pattern).matching(texts) == [text for text in texts if compiled.search(text)]


# ---------------------------------------------------------------- schemas

SCHEMA = schemas.compiled(
    b'{"required": ["bodyid"], "properties": {"n": {"type": ["integer", "null"]}, "s": {"enum": ["x"]},'
    b' "o": {"properties": {"k": {"type": "integer"}}}, "m": {"type": "integer", "maximum": 9}}}'
)


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({"n": 5}, {"n": 5}),
        ({"n": "-5"}, {"n": -5}),
        ({"n": "18446744073709551615", "m": "9"}, {"n": 18446744073709551615, "m": 9}),
        ({"s": None}, {"s": None}),
        ({"n": "5x"}, None),
        ({"n": " 5"}, None),
        ({"m": "10"}, None),
        ({"s": "y", "n": "5"}, None),
        ({"o": {"k": "5"}}, None),
        ({"bodyid": None}, None),
    ],
)
def test_json_schema(given: Any, made: Any) -> None:
    document = {"bodyid": 1, **given}
    if made is None:
        with pytest.raises(Invalid):
            schemas.conforming(document, SCHEMA)
    else:
        assert schemas.conforming(document, SCHEMA) == {"bodyid": 1, **made}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b'{"type": 5}',
        b'{"pattern": "("}',
        b'{"$ref": "http://127.0.0.1:1/x"}',
        b'{"$ref": "file:///etc/passwd"}',
        b'{"$schema": "http://nosuch.example/schema"}',
    ],
)
def test_what_is_no_schema(text: bytes) -> None:
    with pytest.raises(Invalid):
        schemas.compiled(text)


# ---------------------------------------------------------------- pages


class FakeSnapshot:
    """A dictionary of annotations that counts how many were read."""

    def __init__(self, contents: dict[int, bytes], cache: Cache) -> None:
        self.contents = contents
        self.cache = cache
        self.reads = 0

    async def keys(self, first: bytes, last: bytes) -> list[bytes]:
        return [key for key in map(keys.annotation, sorted(self.contents)) if first <= key < last]

    async def read(self, wanted: list[bytes]) -> list[bytes | None]:
        self.reads += len(wanted)
        return [self.contents.get(keys.body_of(key)) for key in wanted]

    get_many = read


async def listed(found: Pages, snapshot: Any) -> dict[int, bytes]:
    listed: dict[int, bytes] = {}
    async for page, stored in found.each(snapshot, Page.stored, lambda page, stored: stored):
        listed.update(zip(page.bodies, stored, strict=True))
    return listed


@pytest.mark.parametrize("limit", [1 << 24, 4000])
def test_pages_follow_changes_in_both_directions(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(pages, "PAGE", 4)
    monkeypatch.setattr(pages, "TOGETHER", 2)
    rng = random.Random(limit)

    async def scene() -> None:
        cache = Cache(limit)
        contents: dict[int, bytes] = {}
        history: list[tuple[FakeSnapshot, Pages]] = []
        found = await Pages.build(FakeSnapshot(contents, cache))  # type: ignore[arg-type]
        for step in range(300):
            touched = {rng.randrange(1, 80) for _ in range(rng.choice([1, 1, 2, 9]))}
            contents = contents.copy()
            for body in touched:
                contents.pop(body, None)
                if rng.random() < (0.8 if step % 100 < 60 else 0.2):
                    contents[body] = b"%d of %d" % (step, body)
            snapshot = FakeSnapshot(contents, cache)
            history.append((snapshot, found := await found.changed(snapshot, touched)))  # type: ignore[arg-type]
            assert await listed(found, snapshot) == contents
            assert found.count == len(contents)
            first, last = sorted(rng.randrange(0, 90) for _ in range(2))
            assert found.bodies(first, last) == [body for body in sorted(contents) if first <= body <= last]
            assert all(page.bodies for page in found.pages)
            assert len(found.pages) <= pages.SPARSE * (len(contents) // 4 + 1) + 2
            older, older_pages = history[rng.randrange(len(history))]
            assert await listed(older_pages, older) == older.contents
            differing = {body for body in range(1, 80) if older.contents.get(body) != contents.get(body)}
            assert await listed(await found.changed(older, differing), older) == older.contents  # type: ignore[arg-type]
        assert cache.size_bytes <= limit

    asyncio.run(scene())


def test_a_write_reads_nothing_but_what_it_touched() -> None:
    async def scene() -> None:
        cache = Cache(1 << 26)
        contents = {body: b"x%d" % body for body in range(1, 5001)}
        first = FakeSnapshot(contents, cache)
        found = await Pages.build(first)  # type: ignore[arg-type]
        assert first.reads == 0
        await listed(found, first)
        second = FakeSnapshot({**contents, 77: b"changed", 9000: b"new"}, cache)
        assert await listed(await found.changed(second, {77, 9000}), second) == second.contents  # type: ignore[arg-type]
        assert second.reads == 2

    asyncio.run(scene())


def test_bodies_are_numbers() -> None:
    assert writing.body_of("007") == 7
    assert reading.limits("0", "z") == (0, keys.MAX_BODY)
    assert reading.limits("!", "12") == (0, 12)
    for text in ("", "-1", "1.0", "+1", "1e3", "\u0663", "9" * 30, "9" * 5000, "18446744073709551616"):
        with pytest.raises(Invalid):
            writing.body_of(text)


def test_times_are_compared_as_times() -> None:
    early, late = "2001-03-04T05:06:07-05:00", "2001-03-04T11:06:07Z"
    assert documents.moment_of(early) < documents.moment_of(late)
    assert documents.moment_of("nonsense") < documents.moment_of(early)
    assert documents.moment_of(5) < documents.moment_of(early)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", documents.now())
