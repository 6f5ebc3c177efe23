"""A browser without a screen, and the demo as users start it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "pictures"
START_SECONDS = 180

#: Software rendering, and nothing that calls home.
FLAGS = [
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium. Playwright's event loop must end before other modules' tests run theirs."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("NO BROWSER TEST: Chromium is not installed (Debian: apt-get install chromium fonts-dejavu-core)")
    playwright = pytest.importorskip("playwright.sync_api", reason="NO BROWSER TEST: playwright is not installed")
    with playwright.sync_playwright() as tools:
        chromium = tools.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@dataclass
class Demo:
    """A running demo: the addresses that it printed, and what it says that it made."""

    server: str
    viewer: str
    made: dict[str, Any]
    process: subprocess.Popen[str]
    seconds: float


def start_demo(folder: Path, *arguments: str) -> Demo:
    """Start `dvid-cloud demo` and wait until it says where to look."""
    begun = time.monotonic()
    command = [sys.executable, "-m", "app.cli", "demo", "--store", str(folder), "--port", "0", "--no-browser"]
    process = subprocess.Popen(
        [*command, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored, if this runs in the background
    )
    assert process.stdout is not None
    said = {}
    for line in process.stdout:
        name, _, rest = line.partition(" ")
        said[name] = rest.strip()
        if name == "neuroglancer":
            made = json.loads(next(folder.glob("*/demo.json")).read_text())
            return Demo(said["server"], said["neuroglancer"], made, process, time.monotonic() - begun)
        assert time.monotonic() - begun < START_SECONDS, "the demo did not start"
    raise AssertionError(f"the demo ended with status {process.wait()}")


def end_demo(demo: Demo) -> int:
    """Press Ctrl-C, and return the status with which the demo ends."""
    demo.process.send_signal(signal.SIGINT)
    try:
        return demo.process.wait(60)
    finally:
        demo.process.kill()
        assert demo.process.stdout is not None
        demo.process.stdout.close()


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the demo keeps its data."""
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="session")
def demo(demo_folder: Path) -> Iterator[Demo]:
    """The demo with a small synthetic sample."""
    pytest.importorskip("neuroglancer", reason="NO DEMO TEST: neuroglancer is not installed")
    running = start_demo(demo_folder, "--shape", "160,150,128")
    yield running
    if running.process.poll() is None:
        end_demo(running)
