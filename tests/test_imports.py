"""Imports go one way, stages do not know each other, and what needs no torch does not wait for it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fna

ROOT = Path(fna.__file__).parent

# A module may import modules of the rows above its own, none of its own row. A package counts as one module.
ORDER = (
    "errors progress rng",
    "arch checkpoint strict_yaml distributed depthwise",
    "config net_config folder logs tables blocks spaces cost",
    "network derive",
    "units",
    "mapping",
    "remap supernet seeds data",
    "tasks person_boxes",
    "engine",
    "training",
    "evaluate expand",
    "search adapt runs predict counting transfer",
    "figures",
    "reporting",
    "pipeline catalogue api cli_networks",
    "cli",
)
TOP = ("__init__", "__main__")  # the public names, and `python -m fna`: above everything
RANK = {name: rank for rank, row in enumerate(ORDER) for name in row.split()}
FILES = sorted(path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).stem not in TOP or path.parent != ROOT)


def module_of(path: Path) -> str:
    """The module or package directly under fna that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """The modules directly under fna that a file imports, also those it imports inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write the import in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            package, _, rest = name.partition(".")
            if package == "fna" and rest:
                yield rest.partition(".")[0]


def test_every_module_has_a_place() -> None:
    assert {module_of(path) for path in FILES} == set(RANK)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_go_one_way(path: Path) -> None:
    own = module_of(path)
    for name in imported(path):
        assert name == own or RANK.get(name, len(ORDER)) < RANK[own], f"{own} must not import {name}"


def test_no_torch_at_import() -> None:
    modules = [
        "errors",
        "arch",
        "net_config",
        "checkpoint",
        "config",
        "folder",
        "spaces",
        "cost",
        "derive",
        "tables",
        "catalogue",
        "counting",
        "transfer",
        "cli_networks",
        "cli",
    ]
    code = f"""
import importlib, sys
for module in {modules}:
    importlib.import_module("fna." + module)
    loaded = sys.modules.keys() & {{"torch", "timm", "torchvision", "matplotlib"}}
    assert not loaded, module + " imports " + ", ".join(loaded)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
