"""libdvid and neuclease, which no package index has, against our server: see docs/clients.md."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.running import ADMIN, running

SESSION = Path(__file__).with_name("flyem_session.py")


def test_libdvid_and_neuclease(tmp_path: Path) -> None:
    python = os.environ.get("DVID_CLIENTS_PYTHON")
    if not python:
        pytest.skip("NOT TESTED with libdvid and neuclease: DVID_CLIENTS_PYTHON names no Python that has them")
    with running(str(tmp_path / "store"), "--durability", "process") as server:
        answer = httpx.post(f"{server.url}/api/repos", params={"admintoken": ADMIN}, json={"alias": "flyem"})
        session = subprocess.run(
            [*python.split(), str(SESSION), server.url, answer.json()["root"]],
            env={**os.environ, "DVID_ADMIN_TOKEN": ADMIN, "PYTHONPATH": os.environ.get("DVID_CLIENTS_PATH", "")},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert session.returncode == 0, session.stdout + session.stderr
    assert session.stdout.endswith("all of it works\n")
