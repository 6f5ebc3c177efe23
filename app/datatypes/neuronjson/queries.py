"""The query language: which annotations a client asks for.

A query is an object, all of whose fields must match, or a list of objects, one of which must. A value matches what is
equal to it, and a list of values what is equal to any of them. Strings that begin with `re/` are regular expressions
(RE2, which takes linear time; not anchored), `exists/1` and `exists/0` ask whether the field is there. A field that
holds a list matches if one of its items does. Numbers match by value, whatever their form: 2 is 2.0.

Annotations are matched many at a time: a set of them is an integer with a bit for each.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import re2

from app.core.errors import Invalid
from app.datatypes.neuronjson.documents import ID, Document

_PATTERN = "re/"
_EXISTS = "exists/"
_MAX_BODY = (1 << 64) - 1
#: How a pattern begins that matches nothing without these characters, and what may follow so that it may lack the last.
_LITERAL = re.compile(r"\^?((?:\w|[ ,:/-])+)")
_OPTIONAL = ("*", "?", "{")


class Column:
    """One field of some annotations: which of them have it, and which have a value."""

    __slots__ = ("masks", "present")

    def __init__(self) -> None:
        self.present = 0
        self.masks: dict[Hashable, int] = {}

    def add(self, value: Any, bit: int) -> None:
        """Take up the field of the annotation with this bit; None is a field that is not there."""
        if value is None:
            return
        self.present |= bit
        for item in value if type(value) is list else (value,):
            place = key_of(item)
            self.masks[place] = self.masks.get(place, 0) | bit

    def replaced(self, values: Mapping[int, Any]) -> Column:
        """The same with other values for some annotations, by their bits."""
        changed = 0
        for bit in values:
            changed |= bit
        made = Column()
        made.present = self.present & ~changed
        made.masks = {place: rest for place, mask in self.masks.items() if (rest := mask & ~changed)}
        for bit, value in values.items():
            made.add(value, bit)
        return made

    @property
    def size_bytes(self) -> int:
        """About how much memory it takes."""
        return 250 + 150 * len(self.masks) + sum(len(key) for key in self.masks if isinstance(key, str))


def columns(documents: Sequence[Document], names: Sequence[str]) -> list[Column]:
    """The columns of some fields."""
    made = [Column() for _ in names]
    bit = 1
    for document in documents:
        for name, column in zip(names, made, strict=True):
            column.add(document.get(name), bit)
        bit <<= 1
    return made


def key_of(value: Any) -> Hashable:
    """What stands for a value in a dictionary: equal for equal JSON, and true is not 1."""
    if isinstance(value, str):
        return value
    if type(value) is int or type(value) is float:
        return value
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


class Pattern:
    """A regular expression, and some characters without which it matches nothing: looking for them is quicker."""

    def __init__(self, text: str) -> None:
        options = re2.Options()
        options.log_errors = False
        try:
            self._compiled = re2.compile(text, options)
        except re2.error as error:
            reason = error.args[0].decode("utf-8", "replace") if error.args else "unknown"
            raise Invalid(f"{text!r} is not a regular expression: {reason}") from None
        self._known: dict[str, bool] = {}
        begin = _LITERAL.match(text)
        self._needed = ""
        if begin is not None and "|" not in text and "(?" not in text:
            self._needed = begin[1][:-1] if text[begin.end() :].startswith(_OPTIONAL) else begin[1]

    def matching(self, texts: Sequence[str]) -> list[str]:
        """The texts in which the expression matches somewhere."""
        needed, known, found = self._needed, self._known, list[str]()
        for text in texts if not needed else [text for text in texts if needed in text]:
            does = known.get(text)
            if does is None:
                does = known[text] = self._compiled.search(text) is not None
            if does:
                found.append(text)
        return found


@dataclass
class Condition:
    """What one field must be: any of some values, or a match of any of some patterns, or there, or not there."""

    name: str
    values: list[Hashable] = field(default_factory=list)
    patterns: list[Pattern] = field(default_factory=list)
    is_there: bool = False
    is_absent: bool = False

    def mask(self, column: Column, candidates: int) -> int:
        """Which candidates among the annotations of a column satisfy this."""
        found = column.present if self.is_there else 0
        if self.is_absent:
            found |= ~column.present
        for value in self.values:
            found |= column.masks.get(value, 0)
        missing = candidates & ~found
        if self.patterns and missing:
            masks = column.masks
            texts = [text for text, mask in masks.items() if mask & missing and type(text) is str]
            for pattern in self.patterns:
                for text in pattern.matching(texts):
                    found |= masks[text]
        return found & candidates


@dataclass(frozen=True)
class Query:
    """Any of several lists of conditions."""

    alternatives: Sequence[Sequence[Condition]]
    #: If nothing but body ids is asked for: these, in the order of the request.
    bodies: Sequence[int] | None

    @property
    def names(self) -> list[str]:
        """The fields that it looks at."""
        return sorted({condition.name for conditions in self.alternatives for condition in conditions})

    def mask(self, found: Mapping[str, Column], everything: int) -> int:
        """Which annotations match, by the columns of their fields."""
        matching = 0
        for conditions in self.alternatives:
            mask = everything
            for condition in conditions:
                if mask:
                    mask = condition.mask(found[condition.name], mask)
            matching |= mask
        return matching


def parse(body: bytes) -> Query:
    """The query in a request's body; `Invalid` if it is none."""
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Invalid(f"the query is not JSON: {error}") from None
    objects = given if isinstance(given, list) else [given]
    if not objects or not all(isinstance(each, dict) for each in objects):
        raise Invalid("a query must be a JSON object, or a list of at least one")
    bodies: list[int] | None = []
    for each in objects:
        listed = each.get(ID, []) if each.keys() <= {ID} else None
        listed = listed if isinstance(listed, list) else [listed]
        if bodies is None or not all(type(body) is int for body in listed):
            bodies = None
            break
        bodies += [body for body in listed if 0 < body <= _MAX_BODY]
    alternatives = [[_condition(name, value) for name, value in each.items()] for each in objects]
    for conditions in alternatives:  # patterns are dear, and fewer annotations are left for the last ones
        conditions.sort(key=lambda condition: bool(condition.patterns))
    return Query(alternatives, bodies)


def _condition(name: str, given: Any) -> Condition:
    condition = Condition(name)
    for value in given if isinstance(given, list) else [given]:
        if isinstance(value, str) and value.startswith(_PATTERN):
            condition.patterns.append(Pattern(value[len(_PATTERN) :]))
        elif isinstance(value, str) and value.startswith(_EXISTS):
            wanted = value[len(_EXISTS) :]
            if wanted not in ("0", "1"):
                raise Invalid(f"{value!r} must be {_EXISTS}0 or {_EXISTS}1")
            condition.is_there |= wanted == "1"
            condition.is_absent |= wanted == "0"
        elif value is not None:
            condition.values.append(key_of(value))
    return condition
