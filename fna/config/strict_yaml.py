"""YAML for settings: plain values as in YAML 1.2, no objects, no duplicate keys. No torch here."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from fna.errors import FnaError

MOST = 100_000  # values in a file
BREAKS = "\x85\u2028\u2029"
PLAIN = (  # tag, how its plain values look, their first characters
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9]\d*)", list("-+0123456789")),
    ("float", r"[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+.")),
)


class _Loader(yaml.SafeLoader):
    """Knows no tags but those of plain values, lists and mappings; merge keys are ordinary ones."""


class _Dumper(yaml.SafeDumper):
    """Quotes text that either YAML 1.1 or `_Loader` would read as something else."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if not isinstance(key, Hashable):
            raise FnaError(f"line {line}: a key is a name, not a {type(key).__name__}")
        if key in result:
            raise FnaError(f"line {line}: the key '{key}' occurs twice; keep one of them")
        result[key] = loader.construct_object(value_node, deep=True)
    return result


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    """Escape the rarer line breaks, which PyYAML writes as they are and reads as spaces."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if set(text) & set(BREAKS) else None)


_Dumper.add_representer(str, _text)
_KNOWN = {None, *(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq"))}
_Loader.yaml_constructors = {tag: f for tag, f in yaml.SafeLoader.yaml_constructors.items() if tag in _KNOWN}
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Loader.yaml_implicit_resolvers = {}
for _class in (_Loader, _Dumper):
    for _tag, _pattern, _first in PLAIN:
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)


def _refuse_bomb(node: yaml.Node | None) -> None:
    """Refuse text whose aliases, written out, are more than `MOST` values, or contain themselves."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(inner: yaml.Node) -> int:
        if id(inner) in open_nodes:
            raise FnaError(f"line {inner.start_mark.line + 1}: a recursive alias, of what it is in")
        if id(inner) not in sizes:
            open_nodes.add(id(inner))
            parts = inner.value if isinstance(inner, yaml.CollectionNode) else ()
            flat = [part for pair in parts for part in (pair if isinstance(pair, tuple) else (pair,))]
            sizes[id(inner)] = 1 + sum(map(size, flat))
            open_nodes.discard(id(inner))
        return sizes[id(inner)]

    if node is not None and size(node) > MOST:
        raise FnaError(f"it holds more than {MOST} values, aliases written out; settings are few")


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML: `1e-3` is a number, `no` and `010` are text, and nothing is ever executed.

    Raises:
        FnaError: beginning with `where`.

    >>> parse_yaml("{lr: 1e-3, flip: no}", "recipe.yaml")
    {'lr': 0.001, 'flip': 'no'}
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            _refuse_bomb(node)
            return None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError as error:
        raise FnaError(f"{where} is nested too deeply") from error
    except yaml.MarkedYAMLError as error:
        place = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise FnaError(f"{where} is not valid YAML{place}: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, KeyError) as error:  # the last two: `!!int x`, `!!bool x`
        raise FnaError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from error
    except FnaError as error:
        raise FnaError(f"{where}: {error}") from error


def write_yaml(data: Any) -> str:
    """Write plain data; `parse_yaml` returns the same."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
