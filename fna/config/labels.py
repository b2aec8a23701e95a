"""What the values of masks are called in settings: whole numbers, or colours such as "#804000". No torch here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from fna.errors import FnaError

MOST = 2**16 - 1  # in a mask of 16 bits
COLOR = re.compile(r"#[0-9a-f]{6}", re.IGNORECASE)
EXAMPLE = "{0: background, 255: human}"
Label = int | str


def parse_label(value: Any) -> Label:
    """Return a label as it is compared: a whole number, or a colour in small letters.

    Raises:
        FnaError: it is neither.

    >>> parse_label("255"), parse_label("#80C000")
    (255, '#80c000')
    """
    if isinstance(value, str) and COLOR.fullmatch(value):
        return value.lower()
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 6:  # JSON has no other keys
        value = int(value)
    if type(value) is int and 0 <= value <= MOST:
        return value
    raise FnaError(f'{repr(value)[:80]} is no label; expected a whole number from 0 to {MOST}, or a colour: "#804000"')


def parse_labels(value: Any) -> dict[Label, str]:
    """Return the class of each label.

    Raises:
        FnaError: they are no such mapping, or numbers are mixed with colours.
    """
    if not isinstance(value, Mapping) or not value:
        raise FnaError(f"expected LABEL: CLASS, such as {EXAMPLE}, not {repr(value)[:80]}")
    try:
        labels = {parse_label(label): name for label, name in value.items()}
    except FnaError as error:
        raise FnaError(f"{error}; a mask's label comes first, then its class: {_turned(value)}") from error
    wrong = [label for label, name in labels.items() if not isinstance(name, str) or not name.strip()]
    if wrong:
        shown = repr(labels[wrong[0]])[:80]
        raise FnaError(f"the class of the label {wrong[0]} is {shown}; expected text (a number in quotes)")
    if len({type(label) for label in labels}) > 1:
        raise FnaError("numbers and colours are mixed; a mask is read either as the one or as the other")
    if len(labels) < len(value):
        raise FnaError("a label is there twice; expected each once")
    return labels


def _turned(value: Mapping[Any, Any]) -> str:
    """Return a mapping of classes to labels the other way round, if it is one; else an example."""
    pairs = [
        (label, name)
        for name, labels in value.items()
        for label in (labels if isinstance(labels, list | tuple) else [labels])
    ]
    try:
        return "{" + ", ".join(f"{quoted(parse_label(label))}: {name}" for label, name in pairs) + "}"
    except FnaError:
        return EXAMPLE


def quoted(label: Label) -> str:
    """Return a label as YAML wants it.

    >>> quoted("#804000"), quoted(7)
    ('"#804000"', '7')
    """
    return f'"{label}"' if isinstance(label, str) else str(label)


def _told(parse: Callable[[Any], Any]) -> BeforeValidator:
    """Return what has pydantic take a value through a function."""

    def check(value: Any) -> Any:
        try:
            return None if value is None else parse(value)
        except FnaError as error:
            raise PydanticCustomError("told", "{why}", {"why": str(error)}) from error

    return BeforeValidator(check)


def _parse_some(value: Any) -> tuple[Label, ...]:
    return tuple(map(parse_label, value if isinstance(value, list | tuple) else [value]))


LabelNames = Annotated[dict[Label, str] | None, _told(parse_labels)]
SomeLabels = Annotated[Annotated[tuple[Label, ...], Field(strict=False)] | None, _told(_parse_some)]
