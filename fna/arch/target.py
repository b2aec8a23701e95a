"""What a search ends with: an architecture, and how wide its head and how large its input is. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from fna.arch import Arch
from fna.errors import FnaError


class Form(NamedTuple):
    """How wide a head and how large an input is.

    Args:
        head_width: channels of the head, x those of the settings.
        scale: side of the input, x that of the settings.
    """

    head_width: float = 1.0
    scale: float = 1.0


@dataclass(frozen=True)
class Target:
    """A network to adapt.

    Args:
        arch: the backbone, undilated.
        head_width: channels of the head, x those of the settings.
        scale: side of the input, x that of the settings.
    """

    arch: Arch
    head_width: float = 1.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("head width", self.head_width), ("scale", self.scale)):
            if not 0 < value < 100:
                raise FnaError(f"a target's {name} is {value}; expected a factor above 0, such as 1.25")

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict; `from_json` is its inverse."""
        return {"arch": self.arch.to_json(), "head_width": self.head_width, "scale": self.scale}

    @classmethod
    def from_json(cls, data: Any) -> Target:
        """Build a Target from a dict that has the keys of `to_json`, and maybe others.

        Raises:
            FnaError: a key is missing or of the wrong type.
        """
        try:
            return cls(Arch.from_json(data["arch"]), float(data["head_width"]), float(data["scale"]))
        except (KeyError, TypeError, ValueError) as error:
            raise FnaError(f"not a target: {type(error).__name__} {error}") from error
