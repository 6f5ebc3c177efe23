"""The CPU time of a server and its children, as the benchmarks count it."""

from __future__ import annotations

import os
import subprocess
import sys

from benchmarks.processes import cpu_seconds

BUSY = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"


def test_the_time_of_children_is_counted() -> None:
    before = cpu_seconds(os.getpid())
    command = [sys.executable, "-c", BUSY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert cpu_seconds(child.pid) >= 0.28
        assert cpu_seconds(os.getpid()) - before >= 0.28
        child.communicate("\n")
