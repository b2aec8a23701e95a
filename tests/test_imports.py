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

# A module may import modules of the rows above its own, and what belongs to its own entry. A package is one entry, but
# for those of its modules that have an entry themselves.
ORDER = (
    "errors progress rng",
    "arch files config.strict_yaml config.budgets training.distributed training.clock training.machine",
    "runs.manifest integrations.hub",
    "arch.spaces arch.net_config arch.target training.sinks training.checkpoints runs.folder reporting.rows",
    "training.tracking training.determinism",
    "config arch.cutting",
    "cost",
    "data.stamps data.naming data.places data.transforming",
    "data.decoding data.cache data.hashes",
    "data.images data.listing data.coco_json data.sampling data.augmenting",
    "data.cutting data.recognising data.yolo_files",
    "data.synthetic",
    "data.segmentation data.detection data.pose",
    "data.index",
    "data",
    "runs.opening",
    "nets",
    "remapping seeds",
    "tasks",
    "tasks.detection tasks.segmentation tasks.pose",
    "tasks.problem",
    "training",
    "stages.evaluate",
    "searching.sampling searching.knapsack searching.found searching.estimators searching.forms searching.kept",
    "searching.choosing",
    "searching",
    "stages.expand stages.predict",
    "exporting.graph",
    "exporting.onnx_files",
    "stages",
    "runs.saved cli.counting cli.transfer cli.tables",
    "runs.run",
    "reporting",
    "runs",
    "exporting integrations",
    "cli",
)
TOP = ("__init__", "__main__")  # the public names, and `python -m fna`: above everything
RANK = {name: rank for rank, row in enumerate(ORDER) for name in row.split()}
FILES = sorted(path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).stem not in TOP or path.parent != ROOT)


def dotted(path: Path) -> str:
    """The name of a module below fna."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def entry(name: str) -> str | None:
    """The entry of `ORDER` that a module, or a symbol in one, belongs to: the longest that fits."""
    parts = name.split(".")
    return next((own for n in range(len(parts), 0, -1) if (own := ".".join(parts[:n])) in RANK), None)


def imported(path: Path) -> Iterator[str]:
    """What a file imports from fna, also inside functions: `data.images.Images`."""
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
                yield rest


def test_every_module_has_a_place() -> None:
    assert {entry(dotted(path)) for path in FILES} == set(RANK)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_go_one_way(path: Path) -> None:
    own = entry(dotted(path))
    for name in imported(path):
        other = entry(name)
        assert other == own or RANK.get(other, len(ORDER)) < RANK[own], f"{dotted(path)} must not import {name}"


def test_no_torch_at_import() -> None:
    modules = [
        "errors",
        "arch",
        "arch.net_config",
        "files",
        "config",
        "data.index",
        "data.segmentation",
        "data.detection",
        "data.pose",
        "data.pose.person_boxes",
        "data.surveying",
        "data.suggesting",
        "runs.folder",
        "runs.manifest",
        "arch.spaces",
        "cost.madds",
        "cost.units",
        "reporting.rows",
        "searching.knapsack",
        "runs.opening",
        "cli.tables",
        "cli.catalogue",
        "cli.counting",
        "cli.transfer",
        "cli.networks",
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


def test_nothing_is_imported_that_windows_lacks() -> None:
    posix = {"fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not posix.intersection(names), f"{path}:{node.lineno}"
