"""Reading and writing recipes: YAML, dotted overrides, and every mistake in plain words."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from fna.config.configs import Config, config_class
from fna.config.listing import owned_settings, settings
from fna.config.sections import section
from fna.config.strict_yaml import parse_yaml, write_yaml
from fna.errors import FnaError, nearest, quoted
from fna.files import read_text

NAMES = ("name", "model")  # of section `task`: they say whose the settings are


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration.

    Args:
        path: a YAML file, or None for the defaults.
        overrides: ``key.path=value`` texts, values in YAML (``search.epochs=5``); the last of equal keys counts.

    Raises:
        FnaError: naming each wrong key with its nearest right one, and each wrong value with what is expected.
    """
    data: Any = None
    if path is not None:
        if os.path.isdir(path):
            recipe = quoted(f"{Path(path).resolve().name}.yaml")
            raise FnaError(
                f"{path} is a folder; expected a recipe (.yaml); if the data are in it, have one written: fna data "
                f"{quoted(path)} --write-recipe {recipe}"
            )
        try:
            data = parse_yaml(read_text(Path(path)), str(path))
        except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a NUL in the name
            raise FnaError(f"cannot read the recipe {path}: {getattr(error, 'strerror', None) or error}") from error
        if not isinstance(data, dict | None):
            raise FnaError(f"{path} holds a {type(data).__name__}; expected sections such as 'seed:' and 'data:'")
    refuse_code(data or {}, overrides, str(path))
    return make_config(merge(data or {}, overrides), str(path or "the configuration"), overrides)


def refuse_code(data: Mapping[str, Any], overrides: Sequence[str], where: str) -> None:
    """Refuse settings of a file that name code, unless the user names it, too: files of others run nothing.

    Raises:
        FnaError: saying what to type if the code is trusted.
    """
    section = data.get("data")
    name = section.get("transform") if isinstance(section, Mapping) else None
    if name and not any(text.startswith("data.transform=") for text in overrides):
        raise FnaError(
            f"{where} names code to run, data.transform '{name}', and no file of fna runs code by itself; if you trust "
            f"it, type it, too: --data.transform {name} (or null, to go without)"
        )


def merge(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return `data` with ``key.path=value`` overrides applied."""
    merged = dict(data)
    for text in overrides:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise FnaError(f"cannot read the override '{text}'; write --key.path VALUE, e.g. --search.epochs 5")
        *sections, last = key.split(".")
        inner = merged
        for name in sections:
            entry = inner.get(name) or {}
            if not isinstance(entry, Mapping):
                raise FnaError(f"cannot set '{key}': '{name}' is a value, not a section")
            inner[name] = dict(entry)
            inner = inner[name]
        # to YAML a colour without quotes is a comment
        inner[last] = value if value.startswith("#") else parse_yaml(value, f"the value of --{key}")
    return merged


def make_config(data: Mapping[str, Any], where: str = "the configuration", typed: Sequence[str] = ()) -> Config:
    """Validate plain data as a Config; see `load_config`.

    Args:
        data: sections.
        where: they are from, which is blamed for what is wrong.
        typed: the overrides among them, for which it is not.
    """
    try:
        kind = config_class(data)
    except FnaError as error:
        raise FnaError(_blamed([str(error)], where, typed)) from error
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise FnaError(_blamed(_explain_all(error, kind), where, typed)) from error


def dump_yaml(config: Config) -> str:
    """Write a configuration as YAML; `load_config` reads the same back."""
    return write_yaml(config.model_dump(mode="json", by_alias=True))


# --- mistakes in plain words ------------------------------------------------------------------------------------------


def _blamed(wrong: Sequence[str], where: str, typed: Sequence[str]) -> str:
    """Join what is wrong: first what is about a setting that was typed, then, with its name, what a file has."""
    keys = [text.partition("=")[0] for text in typed]
    own = [text for text in wrong if any(key in text for key in keys)]
    others = [text for text in wrong if text not in own]
    if others:
        others[0] = f"{where}: {others[0]}"
    return "; ".join([*own, *others][:5]) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")


def _explain_all(error: ValidationError, kind: type[Config]) -> list[str]:
    """Say pydantic's errors in plain words; those of one value that may be of several kinds are one mistake."""
    told: dict[str, list[tuple[list[str], Any]]] = {}
    for item in error.errors(include_url=False):
        place, inside = _placed([str(part) for part in item["loc"]], kind)
        told.setdefault(".".join(place), []).append((place + inside, item))
    wrong = []
    for key, items in told.items():
        deep = [(location, item) for location, item in items if ".".join(location) != key]
        if deep or any(len(location) == len(item["loc"]) for location, item in items):
            wrong += [_explain(item, location, kind) for location, item in deep or items]
        else:
            expected, hints = zip(*(_expected(item, location, kind) for location, item in items), strict=True)
            wrong.append(f"'{key}' is {_shown(items[0][1])}; expected {' or '.join(expected)}{''.join(hints)}")
    return wrong


def _placed(location: list[str], kind: type[Config]) -> tuple[list[str], list[str]]:
    """Split the place of an error into the setting's and what follows; of several kinds of value pydantic names one."""
    for length in range(1, len(location)):
        *outer, last = location[:length]
        field = (section(kind, *outer) or kind).model_fields.get(last)
        if field and _kinds(field) > 1:
            return location[:length], location[length + 1 :]
    return location, []


def _kinds(field: FieldInfo) -> int:
    """Return of how many kinds a value may be, null aside."""
    union = get_origin(field.annotation) in (Union, UnionType)
    return sum(part is not type(None) for part in get_args(field.annotation)) if union else 1


def _explain(item: Any, location: Sequence[str], kind: type[Config]) -> str:
    """Say one pydantic error in plain words, with the nearest key where a key is unknown."""
    key, message = ".".join(location), str(item["msg"])
    if item["type"] == "extra_forbidden":
        return _unknown(location, kind)
    if item["type"] == "value_error":
        return message.removeprefix("Value error, ")
    if item["type"] in ("budget", "told"):
        return f"{key}: {message}"
    if item["type"] == "missing":  # of a pair; the place is that of the item it lacks
        *place, _ = location
        return f"'{'.'.join(place)}' is {str(item.get('input'))[:80]}; expected a list of 2{_such_as(place, kind)}"
    expected, hint = _expected(item, location, kind)
    return f"'{key}' is {_shown(item)}; expected {expected}{hint}"


def _expected(item: Any, location: Sequence[str], kind: type[Config]) -> tuple[str, str]:
    """Return what a pydantic error expected, and the nearest of some words."""
    given, message = item.get("input"), str(item["msg"])
    expected = {
        "model_type": "a section with keys of its own",
        "tuple_type": f"a list{_such_as(location, kind, given)}",
        "dict_type": "a section of names and values",
        "too_long": f"a list of {item.get('ctx', {}).get('max_length')}{_such_as(location, kind)}",
        "string_pattern_mismatch": "a cell such as k5g2"
        if location[:2] == ["space", "cells"]
        else "a file name of letters, digits, '_', '.' and '-'",
        "invalid_key": "a key that is text",
        "string_type": "text (put it in quotes)" if isinstance(given, int | float) else "text",
        "bool_type": "true or false",
        "int_type": "a whole number",
        "float_type": "a number",
    }.get(item["type"], message.removeprefix("Input should be "))
    known = re.findall(r"'([^']*)'", item["ctx"]["expected"]) if item["type"] == "literal_error" else []
    return expected, nearest(str(given)[:80], known) if known else ""


def _shown(item: Any) -> str:
    given = item.get("input")
    return f"a {type(given).__name__}" if isinstance(given, dict | list) else repr(given)[:80]


def _such_as(location: Sequence[str], kind: type[Config], given: Any = None) -> str:
    """Return an example of a list: the default of the setting, else what was given, in brackets."""
    *outer, last = location
    field = (section(kind, *outer) or kind).model_fields.get(last)
    if field is None:  # one of several kinds of value
        return ""
    items = list(field.default) if isinstance(field.default, tuple) else []
    if not items and isinstance(given, str | int | float):
        items = [str(given)[:80]] * (1 if "..." in str(field.annotation) else 2)  # of any length, or a pair
    return f" such as [{', '.join(map(str, items))}]" if items else ""


def _unknown(location: Sequence[str], kind: type[Config]) -> str:
    """Answer a key that the model has not: whose it is or the nearest one, and what there is in its section."""
    key, (*outer, last) = ".".join(location), location
    fields = (section(kind, *outer) or kind).model_fields
    known = [field.alias or name for name, field in fields.items()]
    if outer not in (["task"], ["data"], ["evaluate"]):
        return f"unknown key '{key}'{nearest(last, known)}; known here: {', '.join(known)}"
    model = kind.model_fields["task"].default.model
    having = f"{model} has: {', '.join(name for name in known if name not in NAMES)}"
    others = [name for name, _, _ in settings() if name.startswith(f"{outer[0]}.")]
    hint = "" if key in others else nearest(last, known)
    for name in [] if hint else get_close_matches(key, others, n=1, cutoff=0.8):
        owners = [model for (own, _, _), models in owned_settings() if own == name for model in models]
        hint = f"{'' if name == key else nearest(key, [name])}; it is a setting of {_and(owners)}"
    return f"unknown key '{key}'{hint}; {having}"


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
