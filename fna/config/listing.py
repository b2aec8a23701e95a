"""What there is to set: every setting with its default, its meaning and the models that have it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from fna.config.configs import CONFIGS, Config
from fna.config.models import MODELS, TASKS
from fna.config.sections import section
from fna.errors import pick

Setting = tuple[str, Any, str]  # dotted key, default, explanation


def settings(model: str | None = None) -> Iterator[Setting]:
    """Yield the settings of a model; None: of all, each key once, with the default of the first model that has it."""
    if model is not None:
        yield from _below(pick(CONFIGS, model, "model"))
        return
    seen: set[str] = set()
    for setting, _ in owned_settings():
        if setting[0] not in seen:
            seen.add(setting[0])
            yield setting


def owned_settings() -> list[tuple[Setting, tuple[str, ...]]]:
    """Return every setting and the models that have it; a key stands once for each default it has."""
    found: dict[str, tuple[Setting, list[str]]] = {}
    for model in MODELS:
        for key, default, text in settings(model):
            found.setdefault(repr((key, default)), ((key, default, text), []))[1].append(model)
    sections = list(Config.model_fields)
    rows = [(setting, tuple(models)) for setting, models in found.values()]
    return sorted(rows, key=lambda row: sections.index(row[0][0].partition(".")[0]))


def owner(models: tuple[str, ...]) -> str:
    """Say whose a setting is: ``all``, the tasks all of whose models have it, the other models.

    >>> owner(("deeplabv3", "deeplabv3plus", "retinanet"))
    'segmentation, retinanet'
    """
    if len(models) == len(MODELS):
        return "all"
    tasks = [task for task, own in TASKS.items() if set(own) <= set(models)]
    return ", ".join([*tasks, *(model for model in models if not any(model in TASKS[task] for task in tasks))])


def _below(kind: type[BaseModel], prefix: str = "") -> Iterator[Setting]:
    for name, field in kind.model_fields.items():
        inner = section(kind, name)
        if inner:
            yield from _below(inner, f"{prefix}{name}.")
        else:
            options = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
            said = [field.description or "", " | ".join(map(str, options)) if len(options) > 1 else ""]
            yield prefix + (field.alias or name), field.default, "; ".join(filter(None, said))
