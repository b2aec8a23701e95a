"""docs/paper.md and the code say the same: which symbol is which equation, and where we depart from the article."""

from __future__ import annotations

import ast
import pkgutil
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import fna

ROOT = Path(fna.__file__).parent
PAPER = ROOT.parent / "docs" / "paper.md"
IMPLEMENTS = re.compile(r"Implements: FNA\+\+ (.+)\.$")
NUMBERS = {*map(str, range(1, 12)), "Algorithm 1"}  # Eq. 12 to 20 are laws, in the tests of remapping


def documented(path: Path) -> Iterator[tuple[str, str]]:
    """Every symbol of a file, its dotted name within fna, with its docstring."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    prefix = ".".join(part for part in parts if part != "__init__")

    def walk(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            yield name, ast.get_docstring(node) or ""
            for child in node.body:
                yield from walk(child, f"{name}.{getattr(child, 'name', '')}")

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), prefix)


def enclosing(path: Path, line: int) -> str:
    """The dotted name within fna of the innermost function or class around a line."""
    parts = [part for part in path.relative_to(ROOT).with_suffix("").parts if part != "__init__"]
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    around = [
        node
        for node in nodes
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.lineno <= line <= (node.end_lineno or 0)
    ]
    return ".".join([*parts, *(node.name for node in sorted(around, key=lambda node: node.lineno))])


def section(title: str) -> str:
    """The text below a heading of docs/paper.md."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAPER.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found, f"docs/paper.md has no section '{title}'"
    return found[1]


def equation_table() -> dict[str, str]:
    """Equation number, or "Algorithm 1" -> symbol, as docs/paper.md has it."""
    rows = re.findall(r"^\| ([\d, ]+?|Algorithm \d) +\|.*\| `([\w.]+)` +\|", section("Equations"), re.MULTILINE)
    return {number: symbol for numbers, symbol in rows for number in numbers.split(", ")}


def implemented() -> list[tuple[str, str]]:
    """(equation number or "Algorithm 1", symbol) of every "Implements:" line in a docstring."""
    found = []
    for path in ROOT.rglob("*.py"):
        for symbol, docstring in documented(path):
            match = IMPLEMENTS.search(docstring)
            assert ("Implements:" in docstring) == bool(match), f"{symbol}: its docstring must end with the line"
            if match:
                found += [(number, symbol) for number in re.findall(r"Algorithm \d|(?<=\()\d+(?=\))", match[1])]
    return found


def test_each_equation_is_implemented_once() -> None:
    assert Counter(number for number, _ in implemented()) == Counter(NUMBERS)


def test_the_equation_table_is_true() -> None:
    assert equation_table() == dict(implemented())


@pytest.mark.parametrize("symbol", sorted(set(equation_table().values())))
def test_symbols_import(symbol: str) -> None:
    assert callable(pkgutil.resolve_name(f"fna.{symbol}"))


def test_every_deviation_is_listed() -> None:
    marked = {
        enclosing(path, line)
        for path in ROOT.rglob("*.py")
        for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if "Deviation:" in text
    }
    listed = re.findall(r"^\| `([\w.]+)` +\|", section("Deviations"), re.MULTILINE)
    assert sorted(listed) == sorted(marked), "docs/paper.md lists exactly what the code marks with 'Deviation:'"
