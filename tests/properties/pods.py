"""Start pods (`worker.py`), let them begin at one moment, and read what they say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def pods(
    url: str, roles: Sequence[tuple[str, int]], durability: str = "process", first: int = 0
) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes with (role, count), begun together; those that still run at the end are killed."""
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.properties.worker", url, durability, role, str(number), str(times)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number, (role, times) in enumerate(roles, first)
    ]
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        yield children
    finally:
        for child in children:
            child.kill()
            child.communicate()


def finish(children: Sequence[subprocess.Popen[str]], seconds: float = 120.0) -> list[str]:
    """What the pods said, once all have ended well."""
    said = [child.communicate(timeout=seconds)[0] for child in children]
    assert [child.returncode for child in children] == [0] * len(children), said
    return said
