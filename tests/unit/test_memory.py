"""What Python leaves out when it looks for garbage."""

import gc
from collections.abc import Iterator

import pytest

from app.core import memory


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    gc.callbacks.remove(memory._watch)
    gc.unfreeze()


def test_what_is_there_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SLOW_SECONDS", 3600.0)
    memory.settle()
    memory.settle()
    assert gc.callbacks.count(memory._watch) == 1
    left_out = gc.get_freeze_count()
    assert left_out > 10_000
    kept = [[number] for number in range(1000)]
    gc.collect()
    assert gc.get_freeze_count() <= left_out  # a quick search changes nothing
    assert len(kept) == 1000


def test_slow_searches_leave_out_more_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SLOW_SECONDS", 0.0)
    monkeypatch.setattr(memory, "_left", 0)
    memory.settle()
    monkeypatch.setattr(memory, "_left", 2)
    kept = []
    for is_more in (True, True, False):
        left_out = gc.get_freeze_count()
        kept.append([[number] for number in range(1000)])
        gc.collect(1)
        assert gc.get_freeze_count() <= left_out  # only what all searches look through is in the way
        gc.collect()
        assert (gc.get_freeze_count() > left_out + 900) == is_more
