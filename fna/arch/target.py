"""What a search ends with: an architecture, how wide its head, how large its input, how fine its last map. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from fna.arch import OUTPUT_STRIDES, Arch
from fna.errors import FnaError


class Form(NamedTuple):
    """How wide a head, how large an input and how fine the last feature map is.

    Args:
        head_width: channels of the head, x those of the settings.
        scale: side of the input, x that of the settings.
        output_stride: input pixels per pixel of the last feature map; None: that of the settings.
    """

    head_width: float = 1.0
    scale: float = 1.0
    output_stride: int | None = None

    @property
    def order(self) -> tuple[float, ...]:
        """What forms are sorted by."""
        return self.head_width, self.scale, self.output_stride or 0


@dataclass(frozen=True)
class Target:
    """A network to adapt.

    Args:
        arch: the backbone, undilated.
        head_width: channels of the head, x those of the settings.
        scale: side of the input, x that of the settings.
        output_stride: input pixels per pixel of the last feature map; None: that of the settings.
    """

    arch: Arch
    head_width: float = 1.0
    scale: float = 1.0
    output_stride: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("head width", self.head_width), ("scale", self.scale)):
            if not 0 < value < 100:
                raise FnaError(f"a target's {name} is {value}; expected a factor above 0, such as 1.25")
        if self.output_stride not in (None, *OUTPUT_STRIDES):
            raise FnaError(f"a target's output stride is {self.output_stride}; expected 8, 16, 32 or null")

    @property
    def form(self) -> Form:
        """All but its architecture."""
        return Form(self.head_width, self.scale, self.output_stride)

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
            stride = data.get("output_stride")  # targets of earlier versions do not say
            return cls(Arch.from_json(data["arch"]), float(data["head_width"]), float(data["scale"]), stride)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise FnaError(f"not a target: {type(error).__name__} {error}") from error
