"""Imports point downwards only (docs/architecture.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "viscum"

# From the top: a module may import from its own layer's package and from those below.
LAYERS = (
    {"cli"},
    {"controller"},
    {"lab", "status", "explain", "remote"},
    {"host"},
    {"start", "foreground", "drains", "planning"},
    {"change", "validate", "doctor", "flows", "preflight", "rights"},
    {"validate_run"},
    {"plan", "apply"},
    {"ops", "egress"},
    {"kernel"},
    {"evolve", "tenancy"},
    {"store"},
    {"hostconfig", "rarely", "slowly"},
    {"spec"},
    {"clock", "model"},
    {"names", "errors"},
)
LEVEL = {name: level for level, layer in enumerate(LAYERS) for name in layer}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if parts[0] not in ("__init__", "__main__", "bpf"):
            yield parts[0], path


def imported(path: Path) -> Iterator[tuple[str, bool]]:
    """(top module of ours, whether the import runs: TYPE_CHECKING blocks do not)."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            if node.module == "viscum":
                names = [f"viscum.{alias.name}" for alias in node.names]
            else:
                names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "viscum" and len(parts) > 1:
                yield parts[1], id(node) not in skipped


def test_every_module_has_a_layer() -> None:
    assert {name for name, _ in modules()} <= LEVEL.keys()


def test_imports_point_downwards() -> None:
    wrong = [
        f"{path.relative_to(SOURCE)} imports viscum.{other}"
        for name, path in modules()
        for other, runs in imported(path)
        if runs and other in LEVEL and other != name and LEVEL[other] < LEVEL[name]
    ]
    assert wrong == []


def test_only_the_cli_prints() -> None:
    wrong = [
        str(path.relative_to(SOURCE))
        for name, path in modules()
        if name not in ("cli", "lab") and path.name != "doc.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("print", "input")
    ]
    assert wrong == []


def test_the_kernel_is_touched_only_in_kernel() -> None:
    doors = {"ctypes", "fcntl", "socket", "subprocess"}
    allowed = {"store": {"fcntl"}, "validate": {"socket"}, "lab": doors, "cli": {"subprocess"}}
    wrong = []
    for name, path in modules():
        if name == "kernel":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            found: set[str] = set()
            if isinstance(node, ast.Import):
                found = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found = {node.module.split(".")[0]}
            wrong += [
                f"{path.relative_to(SOURCE)}: {door}"
                for door in found & doors - allowed.get(name, set())
            ]
    assert wrong == []


def test_the_node_loads_nothing_of_the_controller() -> None:
    """Nor what only the controller needs, whatever is installed."""
    code = (
        "import sys; from importlib import import_module; from viscum.cli.app import COMMANDS;"
        "[import_module(f'viscum.cli.{m}') for m in ('run', 'show', 'control', 'explain')];"
        "import viscum.host, viscum.status;"
        "print([m for m in sys.modules if m.split('.')[0] in"
        " ('asyncio', 'starlette', 'uvicorn', 'h11', 'anyio', 'dns', 'ssl', 'http', 'aioquic')"
        " or m.startswith('viscum.controller')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
