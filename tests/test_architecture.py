"""The layers of the design: an import only points down, modules stay small, names say something."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
APP = ROOT / "app"
FILES = sorted(path for path in APP.rglob("*.py") if not path.name.endswith("_pb2.py"))

#: From the ground up; a module may import its own layer and those before it.
LAYERS = ["core", "kernels", "formats", "backends", "versioning", "datatypes", "routes"]
#: The composition root and the tools above the service; nothing below imports them.
TOP = ["settings", "bootstrap", "main", "cli", "serving", "protocol", "commands", "ingest", "demo"]
#: Layers that may read the settings' type: they are values, made at the top and passed down.
READS_SETTINGS = {"routes"}

VENDORS = {"tensorstore", "gcsfs", "s3fs", "google.cloud", "fsspec"}
#: Where vendors may be named beside `backends`: a snapshot is made of TensorStore's answers.
MAY_NAME_VENDORS = {"app/versioning/snapshot.py"}
LONGEST_MODULE = 500
LONGEST_FUNCTION = 60
#: Numba counts references at each call with arrays, which here costs more than the work of one row.
MAY_BE_LONGER = {"app/kernels/lz4_blocks.py:_matches"}
EMPTY_NAMES = {"utils", "util", "helpers", "common", "misc"}


def layer_of(path: Path) -> str:
    return path.relative_to(APP).parts[0].removesuffix(".py")


def imports_of(path: Path) -> list[str]:
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_point_down(path: Path) -> None:
    layer = layer_of(path)
    if layer in TOP or layer == "__init__":
        return
    allowed = set(LAYERS[: LAYERS.index(layer) + 1])
    if layer in READS_SETTINGS:
        allowed.add("settings")
    climbs = {
        name
        for name in imports_of(path)
        if name.startswith("app.") and name.split(".")[1] not in allowed and name != "app.__version__"
    }
    assert not climbs, f"{layer} imports from above: {climbs}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_starlette_stays_in_routes_and_vendors_in_backends(path: Path) -> None:
    layer, names = layer_of(path), imports_of(path)
    if layer not in ("routes", *TOP):
        assert not [name for name in names if name.split(".")[0] in ("starlette", "uvicorn")]
    if layer not in ("backends", *TOP) and str(path.relative_to(ROOT)) not in MAY_NAME_VENDORS:
        found = [name for name in names if any(name == vendor or name.startswith(vendor + ".") for vendor in VENDORS)]
        assert not found, f"vendors named outside of backends: {found}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    lines = text.count("\n")
    assert path.stem not in EMPTY_NAMES
    assert lines <= LONGEST_MODULE, f"{lines} lines: it probably holds two ideas"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if f"{path.relative_to(ROOT)}:{node.name}" in MAY_BE_LONGER:
                continue
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{node.name} has {length} lines"


def test_every_module_says_what_it_is_for() -> None:
    silent = [str(path.relative_to(ROOT)) for path in FILES if not ast.get_docstring(ast.parse(path.read_text()))]
    assert not silent


def test_the_map_of_the_code_names_every_module() -> None:
    found, folder = [], ""
    for line in (ROOT / "docs" / "architecture.md").read_text().splitlines():
        cells = re.fullmatch(r"\| (.*)\| (`.*`) \| .* \|", line)
        if cells:
            folder = cells[1].strip("` ") or folder
            found += [APP / folder / f"{name}.py" for name in re.findall(r"`(\w+)`", cells[2])]
    there = sorted(path for path in APP.rglob("*.py") if not path.stem.startswith("__"))
    assert sorted(found) == there, f"docs/architecture.md differs in {set(found) ^ set(there)}"
