"""A function fits a screen, a file one sitting; `ls fna` shows what a newcomer can name."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import fna

ROOT = Path(fna.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
LINES = 50  # of a function, its docstring not counted
LONG = {("cli/networks.py", "count"), ("cli/networks.py", "remap_files")}  # a line for every option of a command
FILE_LINES = 400
LONG_FILES = {"reporting/figures.py"}  # a figure after the other, which know nothing of each other


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_functions_and_files_are_short(path: Path) -> None:
    name, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
    assert text.count("\n") <= FILE_LINES or name in LONG_FILES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and (name, node.name) not in LONG:
            docstring = ast.get_docstring(node, clean=False)
            lines = (node.end_lineno or 0) - node.lineno + 1 - (docstring.count("\n") + 1 if docstring else 0)
            assert lines <= LINES, f"{name}: {node.name} has {lines} lines"


def test_the_package_shows_few_entries() -> None:
    """Twenty for the README's verbs; `exporting` and `integrations`, what one does with the result."""
    assert len([entry for entry in ROOT.iterdir() if entry.name != "__pycache__"]) <= 22
