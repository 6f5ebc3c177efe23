"""The workloads about bodies, each against a server with a small volume: what they ask for is there, and right."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import bodies
from benchmarks.client import Server as Client
from benchmarks.client import Target
from benchmarks.measure import measure
from benchmarks.volumes import Volume
from tests.running import ADMIN, Server


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    return Volume(folder=tmp_path_factory.mktemp("nothing"), edge=128)


@pytest.mark.parametrize("name", bodies.WORKLOADS)
def test_a_workload(
    folder_server: Server, volume: Volume, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bodies, "ROUNDS", 1)
    client = Client(Target.parse(folder_server.url), ADMIN)
    result = measure(bodies.WORKLOADS[name], client, volume, 0.05, 2)
    assert (result["check"], result["errors"], result["error_samples"]) == ("ok", 0, {})
    assert result["rate"] > 0
