"""What is typed, word by word: settings can stand anywhere among the other arguments."""

from __future__ import annotations

import os
from collections.abc import Sequence

from fna.errors import FnaError

UNDOTTED = ("baseline",)  # settings that are in no section


def split_settings(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate settings, which can stand anywhere, from the other arguments; a path's ``~`` is the home folder.

    >>> split_settings(["run", "--search.epochs", "5", "recipe.yaml", "--data.root=x"])
    (['run', 'recipe.yaml'], ['search.epochs=5', 'data.root=x'])
    """
    rest, settings = [], []
    words = iter(argv)
    for word in words:
        key, sign, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not ("." in key or key in UNDOTTED):
            rest.append(f"--{key}={_at_home(value)}" if word.startswith("--") and sign else _at_home(word))
            continue
        value = value if sign else next(words, "--")
        if not sign and value.startswith("--"):
            raise FnaError(f"--{key} has no value; write --{key} VALUE (--{key}=VALUE if it begins with --)")
        settings.append(f"{key}={_at_home(value)}")
    return rest, settings


def _at_home(word: str) -> str:
    """Return a word whose beginning ``~/`` is the home folder: shells leave that of ``--run=~/x`` alone."""
    return os.path.expanduser(word) if word.startswith("~/") else word
