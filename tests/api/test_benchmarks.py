"""The workloads about bodies and versions, each against a server with a small volume: they get what they ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import bodies, registry, versions
from benchmarks.client import Server as Client
from benchmarks.client import Target
from benchmarks.measure import measure
from benchmarks.volumes import Volume
from tests.running import ADMIN, Server


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    return Volume(folder=tmp_path_factory.mktemp("nothing"), edge=128)


@pytest.mark.parametrize("name", [*bodies.WORKLOADS, *versions.WORKLOADS])
def test_a_workload(
    folder_server: Server, volume: Volume, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bodies, "ROUNDS", 1)
    for constant, number in (("ROUNDS", 2), ("VERSIONS", 5), ("BEFORE", 7)):
        monkeypatch.setattr(versions, constant, number)
    client = Client(Target.parse(folder_server.url), ADMIN)
    result = measure(registry.WORKLOADS[name], client, volume, 0.05, 2)
    assert (result["check"], result["errors"], result["error_samples"]) == ("ok", 0, {})
    assert result["rate"] > 0
