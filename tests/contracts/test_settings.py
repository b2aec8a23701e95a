"""The list of all settings is frozen: a new one, another default or another owner is a decision."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

import fna
from fna.cli.catalogue import settings as table
from fna.config import MODELS, TASKS, owned_settings, owner, settings

LIST = Path(__file__).parents[1] / "settings.txt"  # key, owner, default


def lines() -> list[str]:
    return [f"{key} | {owner(models)} | {json.dumps(default)}" for (key, default, _), models in owned_settings()]


def test_no_hidden_options() -> None:
    frozen = LIST.read_text(encoding="utf-8").splitlines()
    assert len(frozen) == len(set(frozen))
    new, gone = sorted(set(lines()) - set(frozen)), sorted(set(frozen) - set(lines()))
    assert not new, "add to tests/settings.txt, if it is meant:\n" + "\n".join(new)
    assert not gone, "take out of tests/settings.txt, if it is meant:\n" + "\n".join(gone)


def test_the_catalogue_shows_what_applies() -> None:
    assert {f"{row['name']} | {row['of']} | {json.dumps(row['default'])}" for row in table()} == set(lines())
    for model in MODELS:
        shown = {row["name"] for row in table(model)}
        assert shown == {key for key, _, _ in settings(model)}
        assert shown == {key for (key, _, _), models in owned_settings() if model in models}


@pytest.mark.parametrize(
    ("models", "said"),
    [(MODELS, "all"), (TASKS["detection"], "detection"), (("retinanet",), "retinanet")],
    ids=["all", "task", "model"],
)
def test_owners_are_named_in_short(models: tuple[str, ...], said: str) -> None:
    assert owner(tuple(models)) == said


def test_a_models_name_stands_in_one_place() -> None:
    """No other module compares, chooses or lists by it: it asks the model's settings."""
    root = Path(fna.__file__).parent
    found = [
        f"{path.relative_to(root)}:{node.lineno} '{node.value}'"
        for path in root.rglob("*.py")
        if path != root / "config" / "models.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in MODELS
    ]
    assert not found
