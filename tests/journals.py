"""How much waits in journals while a test runs: what the environment says, to servers as well as to stores of a test.

Journals are stored, and their files followed by others, only when much waits. With small ones tests of an ordinary size
get there: `pytest --journals small` gives them to all tests, the store `small` to those for every kind of store.
"""

from __future__ import annotations

import json
import os
import uuid
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from app.backends.limits import JournalLimits
from app.backends.store import StoreOptions

SMALL = JournalLimits(
    entry_bytes=8000, waiting_bytes=20_000, waiting_keys=60, passed_bytes=4000, file_bytes=60_000, looks=2
)
#: The setting `journal` of servers.
VARIABLE = "DVID_JOURNAL"


def chosen() -> JournalLimits:
    """The limits of journals that are opened from now on."""
    return JournalLimits(**json.loads(os.environ.get(VARIABLE, "{}")))


def choose(monkeypatch: pytest.MonkeyPatch, **limits: int) -> None:
    """Choose some of them."""
    monkeypatch.setenv(VARIABLE, json.dumps(asdict(chosen()) | limits))


def choose_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose the small ones."""
    choose(monkeypatch, **asdict(SMALL))


def are_small() -> bool:
    """Whether the small ones were chosen."""
    return chosen() == SMALL


def a_folder_or_memory() -> AbstractContextManager[str]:
    """The URL of an empty store: in memory, where there are no journals, unless they are to be small."""
    if are_small():
        return TemporaryDirectory(prefix="dvid-test-")
    return nullcontext(f"memory://{uuid.uuid4().hex}")


def store_options(**given: Any) -> StoreOptions:
    """Options of a store with journals such as servers have."""
    return StoreOptions(journal=chosen(), **given)
