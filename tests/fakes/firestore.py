"""A strict Firestore server over gRPC that keeps everything in memory.

It imitates google.firestore.v1.Firestore (https://cloud.google.com/firestore/docs/reference/rpc/google.firestore.v1)
as far as the Python client uses it, without Listen, Write and PartitionQuery. Answers were compared with Google's
emulator, with one difference on purpose: transactions are optimistic, as those of a server client on a database in
optimistic mode (https://cloud.google.com/firestore/docs/transaction-data-contention). A commit whose reads are no
longer true is ABORTED at once, where Google's emulator waits two seconds for a lock.

Every change makes a new version of a document and old versions stay readable for a minute, so a transaction sees the
database as it was when it began. One lock guards it all, so each call is atomic.

Run it by itself with ``python -m tests.fakes.firestore --port N``; it prints its host and port.
"""

from __future__ import annotations

import argparse
import functools
import math
import operator
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import grpc
from google.cloud.firestore_v1 import types
from google.protobuf import empty_pb2, timestamp_pb2
from google.rpc import code_pb2, status_pb2  # type: ignore[import-untyped]

KEEP_MICROS = 60_000_000
MAX_DOCUMENT = 1_048_576  # https://cloud.google.com/firestore/quotas#limits
MAX_REQUEST = 10 * 1_048_576
MAX_DEPTH = 20
SERVICE = "google.firestore.v1.Firestore"

Query: Any = types.StructuredQuery.pb()
Value: Any = types.Value.pb()
Document: Any = types.Document.pb()
Code = grpc.StatusCode


class FirestoreError(Exception):
    """An error answer."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


def invalid(message: str) -> FirestoreError:
    return FirestoreError(Code.INVALID_ARGUMENT, message)


class Version(NamedTuple):
    """A document from ``time`` on (microseconds); ``document`` is None from its deletion on. Never changed."""

    time: int
    document: Any


@dataclass
class Transaction:
    """A transaction under way: when it began, and what each of its reads saw."""

    time: int
    read_only: bool
    documents: dict[str, int] = field(default_factory=dict)
    queries: list[tuple[str, Any, list[tuple[str, int]]]] = field(default_factory=list)


# Values: their order (https://cloud.google.com/firestore/docs/manage-data/data-types#value_type_ordering), size
# (https://cloud.google.com/firestore/docs/storage-size) and places in a document.

RANK = {
    "null_value": 0,
    "boolean_value": 1,
    "integer_value": 2,
    "double_value": 2,
    "timestamp_value": 3,
    "string_value": 4,
    "bytes_value": 5,
    "reference_value": 6,
    "geo_point_value": 7,
    "array_value": 8,
    "map_value": 9,
}
LAST_RANK = 10


Key = tuple[int, Any]


def sort_key(value: Any) -> Key:
    """A key by which values compare and are equal as Firestore says; strings compare as their UTF-8."""
    kind = value.WhichOneof("value_type")
    plain: Any = getattr(value, kind) if kind else None
    rank = RANK.get(kind or "null_value", LAST_RANK)
    match kind:
        case "double_value" | "integer_value":
            return rank, (0, 0) if plain != plain else (1, plain)
        case "timestamp_value":
            return rank, (plain.seconds, plain.nanos)
        case "reference_value":
            return rank, tuple(map(id_key, plain.split("/")))
        case "geo_point_value":
            return rank, (plain.latitude, plain.longitude)
        case "array_value":
            return rank, tuple(sort_key(item) for item in plain.values)
        case "map_value":
            return rank, tuple((key, sort_key(plain.fields[key])) for key in sorted(plain.fields))
    return rank, 0 if kind == "null_value" else plain


def id_key(part: str) -> Key:
    """Numeric ids, written __id7__, come before all others; the client's recursive queries rely on it."""
    number = re.fullmatch(r"__id(-?\d+)__", part)
    return (0, int(number[1])) if number else (1, part)


def value_size(value: Any) -> int:
    kind = value.WhichOneof("value_type")
    plain: Any = getattr(value, kind) if kind else None
    match kind:
        case "string_value":
            return len(plain.encode()) + 1
        case "bytes_value":
            return len(plain)
        case "reference_value":
            return name_size(plain)
        case "array_value":
            return sum(value_size(item) for item in plain.values)
        case "map_value":
            return fields_size(plain.fields)
        case "geo_point_value":
            return 16
    return 1 if kind in ("null_value", "boolean_value") else 8


def fields_size(fields: Any) -> int:
    return sum(len(key.encode()) + 1 + value_size(value) for key, value in fields.items())


def name_size(name: str) -> int:
    return sum(len(part.encode()) + 1 for part in name.split("/")[5:]) + 16


def check_value(value: Any, depth: int = 1, in_array: bool = False) -> None:
    """Refuse what Firestore refuses: arrays in arrays, reserved field names, more than 20 levels."""
    kind = value.WhichOneof("value_type")
    if depth > MAX_DEPTH:
        raise invalid("The value is nested too deeply")
    if kind == "array_value":
        if in_array:
            raise invalid("Cannot convert an array value in an array value.")
        for item in value.array_value.values:
            check_value(item, depth + 1, in_array=True)
    elif kind == "map_value":
        check_fields(value.map_value.fields, depth + 1)


def check_fields(fields: Any, depth: int = 1) -> None:
    for key, value in fields.items():
        if not key or len(key.encode()) > 1500:
            raise invalid("A field name has 1 to 1500 bytes")
        if re.fullmatch(r"__.*__", key) and key != "__type__":
            raise invalid(f"field name {key} is reserved")
        check_value(value, depth)


def field_path(text: str) -> list[str]:
    """The names in a field path, some of which may be quoted with backticks."""
    names = re.findall(r"`(?:[^`\\]|\\.)*`|[^.`]+", text)
    if ".".join(names) != text or not names:
        raise invalid(f"Invalid property path {text!r}")
    return [re.sub(r"\\(.)", r"\1", name[1:-1]) if name.startswith("`") else name for name in names]


def find(fields: Any, names: list[str]) -> Any:
    """The value at a field path, or None."""
    for at, name in enumerate(names):
        if name not in fields:
            return None
        value = fields[name]
        if at + 1 == len(names):
            return value
        fields = value.map_value.fields
    return None


def place(fields: Any, names: list[str], value: Any) -> None:
    """Put a value at a field path, or take it away if it is None; whatever is no map gives way to one."""
    for name in names[:-1]:
        if value is None and (name not in fields or not fields[name].HasField("map_value")):
            return
        if not fields[name].HasField("map_value"):
            fields[name].map_value.SetInParent()
        fields = fields[name].map_value.fields
    if value is None:
        fields.pop(names[-1], None)
    else:
        fields[names[-1]].CopyFrom(value)


def masked(document: Any, paths: Iterable[str]) -> Any:
    """A copy of a document with only these fields."""
    copy = Document(name=document.name, create_time=document.create_time, update_time=document.update_time)
    for path in paths:
        value = None if path == "__name__" else find(document.fields, field_path(path))
        if value is not None:
            place(copy.fields, field_path(path), value)
    return copy


def stamp(micros: int) -> Any:
    seconds, rest = divmod(micros, 1_000_000)
    return timestamp_pb2.Timestamp(seconds=seconds, nanos=rest * 1000)


def micros_of(timestamp: Any) -> int:
    return int(timestamp.seconds) * 1_000_000 + int(timestamp.nanos) // 1000


def check_name(name: str) -> str:
    """A document name, as https://cloud.google.com/firestore/quotas#collections_documents_and_fields has it."""
    parts = name.split("/")
    if len(parts) < 7 or parts[0::2][:2] != ["projects", "databases"] or parts[4] != "documents":
        raise invalid(f'Document name "{name}" is malformed')
    if len(parts) % 2 == 0:
        raise invalid(f'Document name "{name}" lacks an id at its end')
    for part in parts[5:]:
        if not part or part in (".", "..") or len(part.encode()) > 1500:
            raise invalid(f'Resource id "{part}" is invalid')
        if re.fullmatch(r"__.*__", part):
            raise invalid(f'Resource id "{part}" is invalid because it is reserved.')
    return name


# Queries: https://cloud.google.com/firestore/docs/reference/rpc/google.firestore.v1#structuredquery

FIELD_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "LESS_THAN": operator.lt,
    "LESS_THAN_OR_EQUAL": operator.le,
    "GREATER_THAN": operator.gt,
    "GREATER_THAN_OR_EQUAL": operator.ge,
}
INEQUALITIES = {*FIELD_OPERATORS, "NOT_EQUAL", "NOT_IN", "IS_NOT_NULL", "IS_NOT_NAN"}
MAX_CHOICES = {"IN": 30, "ARRAY_CONTAINS_ANY": 30, "NOT_IN": 10}


def field_value(document: Any, path: str) -> Any:
    if path == "__name__":
        return Value(reference_value=document.name)
    return find(document.fields, field_path(path))


def inequality_fields(where: Any) -> set[str]:
    match where.WhichOneof("filter_type"):
        case "composite_filter":
            return set().union(*(inequality_fields(each) for each in where.composite_filter.filters))
        case "field_filter" if operator_name(where.field_filter) in INEQUALITIES:
            return {where.field_filter.field.field_path}
        case "unary_filter" if operator_name(where.unary_filter) in INEQUALITIES:
            return {where.unary_filter.field.field_path}
    return set()


def operator_name(condition: Any) -> str:
    return str(condition.Operator.Name(condition.op))


def matches(where: Any, document: Any) -> bool:
    match where.WhichOneof("filter_type"):
        case None:
            return True
        case "composite_filter":
            combine = any if operator_name(where.composite_filter) == "OR" else all
            return bool(combine(matches(each, document) for each in where.composite_filter.filters))
        case "unary_filter":
            value = field_value(document, where.unary_filter.field.field_path)
            return value is not None and matches_unary(operator_name(where.unary_filter), value)
    condition = where.field_filter
    value = field_value(document, condition.field.field_path)
    return value is not None and matches_field(operator_name(condition), value, condition.value)


def matches_unary(name: str, value: Any) -> bool:
    null, nan = value.HasField("null_value"), math.isnan(value.double_value)
    return {"IS_NULL": null, "IS_NAN": nan, "IS_NOT_NULL": not null, "IS_NOT_NAN": not nan and not null}[name]


def matches_field(name: str, value: Any, operand: Any) -> bool:
    key, wanted = sort_key(value), sort_key(operand)
    choices = [sort_key(item) for item in operand.array_value.values]
    if name in MAX_CHOICES and not 1 <= len(choices) <= MAX_CHOICES[name]:
        raise invalid(f"'{name}' supports up to {MAX_CHOICES[name]} comparison values.")
    match name:
        case "EQUAL":
            return bool(key == wanted)
        case "NOT_EQUAL":
            return key != wanted and not value.HasField("null_value")
        case "IN":
            return key in choices
        case "NOT_IN":
            nothing = value.HasField("null_value") or any(choice[0] == RANK["null_value"] for choice in choices)
            return key not in choices and not nothing
        case "ARRAY_CONTAINS":
            return wanted in [sort_key(item) for item in value.array_value.values]
        case "ARRAY_CONTAINS_ANY":
            return any(sort_key(item) in choices for item in value.array_value.values)
    comparable = key[0] == wanted[0] and (key[1] != (0, 0) or wanted[1] == (0, 0))
    return comparable and FIELD_OPERATORS[name](key, wanted)


class Position:
    """A place in the order of a query's answers, that of a document or, with fewer values, of a cursor."""

    def __init__(self, keys: list[Key], descending: list[bool]) -> None:
        self.keys, self.descending = keys, descending

    def compare(self, other: Position) -> int:
        for mine, theirs, descending in zip(self.keys, other.keys, self.descending, strict=False):
            if mine != theirs:
                return -1 if (mine < theirs) != descending else 1
        return 0


def select(query: Any, documents: Iterable[Any]) -> list[Any]:
    """The documents that a query answers, whole, in its order."""
    orders = [(order.field.field_path, order.direction == Query.DESCENDING) for order in query.order_by]
    last = orders[-1][1] if orders else False
    named = {path for path, _ in orders}
    orders += [(path, last) for path in sorted(inequality_fields(query.where)) if path not in named]
    if "__name__" not in {path for path, _ in orders}:
        orders.append(("__name__", last))
    descending = [each for _, each in orders]
    for cursor in (query.start_at, query.end_at):
        if len(cursor.values) > len(orders):
            raise invalid("Cursor has too many values.")
    found = []
    for document in documents:
        values = [field_value(document, path) for path, _ in orders]
        if all(value is not None for value in values) and matches(query.where, document):
            found.append((Position([sort_key(value) for value in values], descending), document))
    found.sort(key=functools.cmp_to_key(lambda one, other: one[0].compare(other[0])))
    if query.HasField("start_at"):
        start = Position([sort_key(value) for value in query.start_at.values], descending)
        least = 0 if query.start_at.before else 1
        found = [each for each in found if each[0].compare(start) >= least]
    if query.HasField("end_at"):
        end = Position([sort_key(value) for value in query.end_at.values], descending)
        most = -1 if query.end_at.before else 0
        found = [each for each in found if each[0].compare(end) <= most]
    found = found[query.offset :]
    if query.HasField("limit"):
        found = found[: query.limit.value]
    return [document for _, document in found]


# Transforms: https://cloud.google.com/firestore/docs/reference/rpc/google.firestore.v1#fieldtransform


def transformed(transform: Any, old: Any, now: int) -> tuple[Any, Any]:
    """The new value of a field and the result that the write reports."""
    kind = transform.WhichOneof("transform_type")
    operand = getattr(transform, kind)
    match kind:
        case "set_to_server_value":
            new = Value(timestamp_value=stamp(now))
        case "increment":
            new = increased(old, operand)
        case "maximum" | "minimum":
            new = operand
            if old is not None and sort_key(old)[0] == RANK["integer_value"]:
                new = (max if kind == "maximum" else min)(old, operand, key=sort_key)
        case "append_missing_elements" | "remove_all_from_array":
            items = list(old.array_value.values) if old is not None else []
            if kind == "remove_all_from_array":
                gone = [sort_key(item) for item in operand.values]
                items = [item for item in items if sort_key(item) not in gone]
            else:
                for item in operand.values:
                    if sort_key(item) not in [sort_key(each) for each in items]:
                        items.append(item)
            new = Value()
            new.array_value.SetInParent()
            new.array_value.values.extend(items)
            return new, Value(null_value=0)
        case _:
            raise FirestoreError(Code.UNIMPLEMENTED, f"The transform {kind} is not in the fake")
    return new, new


def increased(old: Any, by: Any) -> Any:
    """The sum, held within 64 bits when both are integers; what is no number counts as nothing."""
    numbers = ("integer_value", "double_value")
    kind = by.WhichOneof("value_type")
    if kind not in numbers:
        raise invalid("An increment must be a number")
    old_kind = old.WhichOneof("value_type") if old is not None else None
    if old_kind not in numbers:
        return by
    total = getattr(old, old_kind) + getattr(by, kind)
    if kind == old_kind == "integer_value":
        return Value(integer_value=max(-(2**63), min(2**63 - 1, total)))
    return Value(double_value=total)


class FakeFirestore:
    """The service; each method of the API is a method here, from a request to a response or several."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.log: list[str] = []
        self._clock = 0
        self.clear()

    def clear(self) -> None:
        """Forget all documents, transactions and log lines."""
        with self.lock:
            self._versions: dict[str, list[Version]] = {}
            self._collections: dict[str, dict[str, None]] = {}
            self._transactions: dict[bytes, Transaction] = {}
            self.log.clear()

    # Documents and time

    def _tick(self) -> int:
        self._clock = max(self._clock + 1, time.time_ns() // 1000)
        return self._clock

    def _at(self, name: str, moment: int) -> Any:
        """The document as it was, or None."""
        for version in reversed(self._versions.get(name, ())):
            if version.time <= moment:
                return version.document
        return None

    def _store(self, name: str, document: Any, now: int) -> None:
        versions = self._versions.setdefault(name, [])
        versions.append(Version(now, document))
        while len(versions) > 1 and versions[1].time < now - KEEP_MICROS:
            del versions[0]
        self._collections.setdefault(name.rpartition("/")[0], {})[name] = None

    def _in_collections(self, parent: str, query: Any, moment: int) -> Iterator[Any]:
        """The documents among which a query selects."""
        if len(query.from_) != 1:
            raise invalid("A query names one collection")
        source = query.from_[0]
        wanted = f"{parent}/{source.collection_id}"
        paths = [wanted] if wanted in self._collections else []
        if source.all_descendants:
            inside, last = f"{parent}/", f"/{source.collection_id}"
            paths = [
                path
                for path in self._collections
                if path.startswith(inside) and (not source.collection_id or path.endswith(last))
            ]
        for path in paths:
            for name in self._collections[path]:
                document = self._at(name, moment)
                if document is not None:
                    yield document

    def _moment(self, request: Any) -> tuple[int, Transaction | None, bytes]:
        """When a read reads, the transaction it is in, and the id of that if it begins here."""
        match request.WhichOneof("consistency_selector"):
            case "transaction":
                transaction = self._transaction(request.transaction)
                return transaction.time, transaction, b""
            case "new_transaction":
                key = self._begin(request.new_transaction)
                return self._transactions[key].time, self._transactions[key], key
            case "read_time":
                return self._past(request.read_time), None, b""
        return self._tick(), None, b""

    def _past(self, timestamp: Any) -> int:
        moment = micros_of(timestamp)
        if moment < self._tick() - KEEP_MICROS:
            raise FirestoreError(Code.FAILED_PRECONDITION, "The requested snapshot version is too old.")
        return moment

    # Reads

    def BatchGetDocuments(self, request: Any) -> Iterator[Any]:
        moment, transaction, begun = self._moment(request)
        response = types.BatchGetDocumentsResponse.pb()
        if begun:
            yield response(transaction=begun)
        for name in dict.fromkeys(request.documents):
            document = self._at(check_name(name), moment)
            if transaction:
                transaction.documents[name] = micros_of(document.update_time) if document else 0
            if document is None:
                yield response(missing=name, read_time=stamp(moment))
                continue
            if request.HasField("mask"):
                document = masked(document, request.mask.field_paths)
            yield response(found=document, read_time=stamp(moment))

    def _query(self, parent: str, query: Any, moment: int, transaction: Transaction | None) -> list[Any]:
        if query.HasField("find_nearest"):
            raise FirestoreError(Code.UNIMPLEMENTED, "find_nearest is not in the fake")
        found = select(query, self._in_collections(parent, query, moment))
        if transaction:
            seen = [(document.name, micros_of(document.update_time)) for document in found]
            transaction.queries.append((parent, query, seen))
        return found

    def RunQuery(self, request: Any) -> Iterator[Any]:
        response = types.RunQueryResponse.pb()
        moment, transaction, begun = self._moment(request)
        query = request.structured_query
        found = self._query(request.parent, query, moment, transaction)
        if begun or not found:
            yield response(transaction=begun, read_time=stamp(moment))
        for document in found:
            if query.HasField("select"):
                document = masked(document, [each.field_path for each in query.select.fields])
            yield response(document=document, read_time=stamp(moment))

    def RunAggregationQuery(self, request: Any) -> Iterator[Any]:
        moment, transaction, begun = self._moment(request)
        asked = request.structured_aggregation_query
        found = self._query(request.parent, asked.structured_query, moment, transaction)
        response = types.RunAggregationQueryResponse.pb()(transaction=begun, read_time=stamp(moment))
        for number, aggregation in enumerate(asked.aggregations, 1):
            alias = aggregation.alias or f"field_{number}"
            response.result.aggregate_fields[alias].CopyFrom(aggregate(aggregation, found))
        yield response

    def ListDocuments(self, request: Any) -> Any:
        """In the order of names; with show_missing also names that only have collections below them."""
        moment, _, _ = self._moment(request)
        response = types.ListDocumentsResponse.pb()()
        if request.order_by and request.order_by != "__name__":
            raise FirestoreError(Code.UNIMPLEMENTED, "ListDocuments with order_by is not in the fake")
        inside = f"{request.parent}/{request.collection_id}/"
        documents = {name: self._at(name, moment) for name in self._collections.get(inside[:-1], ())}
        if request.show_missing:
            for path, names in self._collections.items():
                if path.startswith(inside) and any(self._at(name, moment) for name in names):
                    documents.setdefault(inside + path.removeprefix(inside).partition("/")[0], None)
            shown = [name for name in documents if documents[name] or self._has_below(name, moment)]
        else:
            shown = [name for name in documents if documents[name]]
        shown = sorted(name for name in shown if name > request.page_token)
        size = request.page_size or 300
        for name in shown[:size]:
            document = documents[name] or Document(name=name)
            if request.HasField("mask"):
                document = masked(document, request.mask.field_paths)
            response.documents.append(document)
        if len(shown) > size:
            response.next_page_token = shown[size - 1]
        return response

    def _has_below(self, name: str, moment: int) -> bool:
        return any(
            path.startswith(f"{name}/") and any(self._at(each, moment) for each in names)
            for path, names in self._collections.items()
        )

    def ListCollectionIds(self, request: Any) -> Any:
        moment, _, _ = self._moment(request)
        inside = f"{request.parent}/"
        ids = {
            path.removeprefix(inside).partition("/")[0]
            for path, names in self._collections.items()
            if path.startswith(inside) and any(self._at(name, moment) for name in names)
        }
        return types.ListCollectionIdsResponse.pb()(collection_ids=sorted(ids))

    # Transactions

    def BeginTransaction(self, request: Any) -> Any:
        return types.BeginTransactionResponse.pb()(transaction=self._begin(request.options))

    def _begin(self, options: Any) -> bytes:
        read_only = options.HasField("read_only")
        past = read_only and options.read_only.HasField("read_time")
        key = uuid.uuid4().bytes
        moment = self._past(options.read_only.read_time) if past else self._tick()
        self._transactions[key] = Transaction(moment, read_only)
        return key

    def _transaction(self, key: bytes) -> Transaction:
        transaction = self._transactions.get(key)
        if transaction is None:
            raise invalid("Transaction is invalid or closed.")
        if transaction.time < self._tick() - KEEP_MICROS and not transaction.read_only:
            del self._transactions[key]
            raise FirestoreError(Code.ABORTED, "The transaction has expired.")
        return transaction

    def Rollback(self, request: Any) -> Any:
        self._transactions.pop(request.transaction, None)
        return empty_pb2.Empty()

    def _validate(self, transaction: Transaction) -> None:
        """Abort unless all that the transaction has read is still so."""
        contention = FirestoreError(Code.ABORTED, "Too much contention on these documents. Please try again.")
        now = self._clock
        for name, seen in transaction.documents.items():
            document = self._at(name, now)
            if (micros_of(document.update_time) if document else 0) != seen:
                raise contention
        for parent, query, result in transaction.queries:
            found = select(query, self._in_collections(parent, query, now))
            if [(document.name, micros_of(document.update_time)) for document in found] != result:
                raise contention

    # Writes

    def Commit(self, request: Any) -> Any:
        if request.transaction:
            transaction = self._transaction(request.transaction)
            del self._transactions[request.transaction]
            if transaction.read_only and request.writes:
                raise invalid("Cannot modify entities in a read-only transaction.")
            if not transaction.read_only:
                self._validate(transaction)
        now = self._tick()
        changed: dict[str, Any] = {}
        results = [self._apply(write, changed, now) for write in request.writes]
        for name, document in changed.items():
            self._store(name, document, now)
        return types.CommitResponse.pb()(write_results=results, commit_time=stamp(now))

    def BatchWrite(self, request: Any) -> Any:
        """Each write by itself, so some may fail; no document may occur twice."""
        response = types.BatchWriteResponse.pb()()
        names = [write_name(write) for write in request.writes]
        if len(set(names)) < len(names):
            raise invalid("the same document cannot be written more than once in a single request")
        for write in request.writes:
            now = self._tick()
            changed: dict[str, Any] = {}
            result, status = types.WriteResult.pb()(), status_pb2.Status()
            try:
                result = self._apply(write, changed, now)
            except FirestoreError as error:
                status = status_pb2.Status(code=code_pb2.Code.Value(error.code.name), message=error.message)
            for name, document in changed.items():
                self._store(name, document, now)
            response.write_results.append(result)
            response.status.append(status)
        return response

    def _apply(self, write: Any, changed: dict[str, Any], now: int) -> Any:
        """Work out one write on top of those before it in the same request.

        A write that changes nothing keeps the update_time, as WriteResult says.
        """
        name = check_name(write_name(write))
        old = changed[name] if name in changed else self._at(name, now)
        check_precondition(write.current_document, old, name)
        result = types.WriteResult.pb()()
        if write.WhichOneof("operation") == "delete":
            if old is not None:
                changed[name] = None
            return result
        new = Document(name=name)
        if old is not None and (write.HasField("update_mask") or write.HasField("transform")):
            new.CopyFrom(old)
        if write.HasField("update_mask"):
            for path in write.update_mask.field_paths:
                place(new.fields, field_path(path), find(write.update.fields, field_path(path)))
        elif write.HasField("update"):
            new.MergeFrom(Document(fields=write.update.fields))
        for transform in [*write.transform.field_transforms, *write.update_transforms]:
            names = field_path(transform.field_path)
            value, reported = transformed(transform, find(new.fields, names), now)
            place(new.fields, names, value)
            result.transform_results.append(reported)
        check_fields(new.fields)
        size = name_size(name) + fields_size(new.fields) + 32
        if size > MAX_DOCUMENT:
            raise invalid(
                f"Document '{name}' cannot be written because its size ({size:,} bytes) exceeds the maximum "
                f"allowed size of {MAX_DOCUMENT:,} bytes."
            )
        new.ClearField("update_time")
        new.create_time.CopyFrom(old.create_time if old is not None else stamp(now))
        new.update_time.CopyFrom(stamp(now))
        if old is not None and dict(old.fields) == dict(new.fields):
            new = old
        else:
            changed[name] = new
        result.update_time.CopyFrom(new.update_time)
        return result


def write_name(write: Any) -> str:
    match write.WhichOneof("operation"):
        case "update":
            return str(write.update.name)
        case "delete":
            return str(write.delete)
        case "transform":
            return str(write.transform.document)
    raise invalid("A write needs an operation")


def check_precondition(condition: Any, old: Any, name: str) -> None:
    """https://cloud.google.com/firestore/docs/reference/rpc/google.firestore.v1#precondition ."""
    match condition.WhichOneof("condition_type"):
        case "exists" if condition.exists and old is None:
            raise FirestoreError(Code.NOT_FOUND, f"No document to update: {name}")
        case "exists" if not condition.exists and old is not None:
            raise FirestoreError(Code.ALREADY_EXISTS, f"Document already exists: {name}")
        case "update_time":
            stored = micros_of(old.update_time) if old is not None else 0
            wanted = micros_of(condition.update_time)
            if stored != wanted:
                message = f"the stored version ({stored}) does not match the required base version ({wanted})"
                raise FirestoreError(Code.FAILED_PRECONDITION, message)


def aggregate(aggregation: Any, found: list[Any]) -> Any:
    """Count, sum or average; the average of nothing is null."""
    kind = aggregation.WhichOneof("operator")
    if kind == "count":
        up_to = aggregation.count.up_to.value if aggregation.count.HasField("up_to") else len(found)
        return Value(integer_value=min(len(found), up_to))
    path = getattr(aggregation, kind).field.field_path
    values = [field_value(document, path) for document in found]
    kinds = [value.WhichOneof("value_type") for value in values if value is not None]
    numbers = [
        getattr(value, value.WhichOneof("value_type"))
        for value in values
        if value is not None and value.WhichOneof("value_type") in ("integer_value", "double_value")
    ]
    if kind == "avg":
        return Value(double_value=sum(numbers) / len(numbers)) if numbers else Value(null_value=0)
    return Value(double_value=sum(numbers)) if "double_value" in kinds else Value(integer_value=sum(numbers))


UNARY = ("Commit", "BatchWrite", "BeginTransaction", "Rollback", "ListDocuments", "ListCollectionIds")
STREAMING = ("BatchGetDocuments", "RunQuery", "RunAggregationQuery")


def handlers(service: FakeFirestore) -> grpc.GenericRpcHandler:
    """Generic handlers, so no generated servicer is needed."""

    def serve(name: str, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            with service.lock:
                service.log.append(name)
                answer = getattr(service, name)(request)
                return iter(list(answer)) if name in STREAMING else answer
        except FirestoreError as error:
            context.abort(error.code, error.message)

    methods = {}
    for name in (*UNARY, *STREAMING):
        wrap = grpc.unary_stream_rpc_method_handler if name in STREAMING else grpc.unary_unary_rpc_method_handler
        methods[name] = wrap(
            functools.partial(serve, name),
            request_deserializer=getattr(types, f"{name}Request").pb().FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )
    return grpc.method_handlers_generic_handler(SERVICE, methods)


def serve(service: FakeFirestore, host: str, port: int = 0) -> tuple[grpc.Server, str]:
    """Start a server and say where it listens."""
    options = [("grpc.max_receive_message_length", MAX_REQUEST), ("grpc.so_reuseport", 0)]
    server = grpc.server(ThreadPoolExecutor(2, "firestore"), [handlers(service)], options=options)
    bound = server.add_insecure_port(f"{host}:{port}")
    server.start()
    return server, f"{host}:{bound}"


def main() -> None:
    from tests.fakes.servers import HOST

    parser = argparse.ArgumentParser(description="a strict Firestore server in memory")
    parser.add_argument("--port", type=int, default=0)
    server, address = serve(FakeFirestore(), HOST, parser.parse_args().port)
    print(address, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
