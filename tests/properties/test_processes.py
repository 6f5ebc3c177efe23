"""Several processes write to one tree: no update is lost, no read is torn."""

from __future__ import annotations

import asyncio

import pytest

from app.versioning import log
from tests.properties import worker
from tests.properties.pods import finish, pods


async def contents(url: str) -> tuple[dict[bytes, bytes], list[log.Record]]:
    trees = worker.open_trees(url)
    snapshot = await trees.head(worker.FOLDER, worker.LINE)
    return dict(await snapshot.items(b"", b"\xff")), await log.records(snapshot, "root")


def run(url: str, scale: int) -> None:
    counting, filling, overwriting = 15 * scale, 10 * scale, 8 * scale
    with pods(
        url,
        [
            ("count", counting),
            ("count", counting),
            ("fill", filling),
            ("fill", filling),
            ("overwrite", overwriting),
            ("overwrite", overwriting),
            ("watch", 2 * counting),
        ],
    ) as children:
        finish(children)
    found, records = asyncio.run(contents(url))
    assert [found[key] for key in (*worker.COUNTERS, *worker.PAIR)] == [b"%d" % (2 * counting)] * 5
    own = [key for key in found if key.startswith(b"own/")]
    assert own == [b"own/%04d/%d" % (step, number) for step in range(filling) for number in (2, 3)]
    assert all(set(found[key]) == {int(key[-1:])} for key in own)
    rows = [key for key in found if key.startswith(b"row/")]
    assert len(rows) == worker.ROWS
    assert len({key.rpartition(b"=")[2] for key in rows}) == 1
    assert int(rows[0].rpartition(b".")[2]) == overwriting - 1
    assert len(records) == 2 * (counting + filling + overwriting)


def test_no_update_is_lost_and_no_read_is_torn(shared_url: str) -> None:
    run(shared_url, 2)


@pytest.mark.torture
def test_no_update_is_lost_and_no_read_is_torn_for_long(shared_url: str) -> None:
    run(shared_url, 40)
