"""What a search ends with: an architecture, and the form it is used in: head, input, last feature map. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from fna.arch import OUTPUT_STRIDES, Arch
from fna.errors import FnaError


class Form(NamedTuple):
    """How wide and deep a head, how large an input and how fine the last feature map is.

    Args:
        head_width: channels of the head, x those of the settings.
        scale: side of the input, x that of the settings.
        output_stride: input pixels per pixel of the last feature map; None: that of the settings.
        tower_depth: convolutions in each tower of the head; None: those of the settings.
    """

    head_width: float = 1.0
    scale: float = 1.0
    output_stride: int | None = None
    tower_depth: int | None = None

    @property
    def order(self) -> tuple[float, ...]:
        """What forms are sorted by."""
        return self.head_width, self.scale, self.output_stride or 0, self.tower_depth or 0


@dataclass(frozen=True)
class Target:
    """A network to adapt.

    Args:
        arch: the backbone, undilated.
        head_width: channels of the head, x those of the settings.
        scale: side of the input, x that of the settings.
        output_stride: input pixels per pixel of the last feature map; None: that of the settings.
        tower_depth: convolutions in each tower of the head; None: those of the settings.
    """

    arch: Arch
    head_width: float = 1.0
    scale: float = 1.0
    output_stride: int | None = None
    tower_depth: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("head width", self.head_width), ("scale", self.scale)):
            if not 0 < value < 100:
                raise FnaError(f"a target's {name} is {value}; expected a factor above 0, such as 1.25")
        if self.output_stride not in (None, *OUTPUT_STRIDES):
            raise FnaError(f"a target's output stride is {self.output_stride}; expected 8, 16, 32 or null")
        if self.tower_depth is not None and not isinstance(self.tower_depth, int):
            raise FnaError(f"a target's tower depth is {self.tower_depth!r}; expected a whole number or null")

    @property
    def form(self) -> Form:
        """All but its architecture."""
        return Form(self.head_width, self.scale, self.output_stride, self.tower_depth)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict; `from_json` is its inverse."""
        return {"arch": self.arch.to_json(), **self.form._asdict()}

    @classmethod
    def from_json(cls, data: Any) -> Target:
        """Build a Target from a dict that has the keys of `to_json`, and maybe others.

        Raises:
            FnaError: a key is missing or of the wrong type.
        """
        try:
            later = [data.get(key) for key in ("output_stride", "tower_depth")]  # earlier versions do not say
            return cls(Arch.from_json(data["arch"]), float(data["head_width"]), float(data["scale"]), *later)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise FnaError(f"not a target: {type(error).__name__} {error}") from error
