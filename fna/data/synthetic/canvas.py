"""Where the objects of a synthetic street are drawn: colours and part numbers at once, in world coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fna.data.listing import Color
from fna.data.synthetic.background import Camera

SUPER = 2  # objects are drawn twice as large, for smooth outlines
Point = tuple[float, float, float]
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """Pixels of one class and distance: an object, or the pole of a sign; people have joints, world points (14, 3)."""

    class_id: int
    z: float
    joints: Points | None = None


@dataclass
class Canvas:
    """Pictures of one size: colours, the number of the part at each pixel (0 = none), and shadows on the ground."""

    camera: Camera
    size_hw: tuple[int, int]
    parts: list[Part] = field(default_factory=list)

    def __post_init__(self) -> None:
        size = (self.size_hw[1] * SUPER, self.size_hw[0] * SUPER)
        self.colors, self.numbers, self.shadows = Image.new("RGB", size), Image.new("L", size), Image.new("L", size)
        self._colors, self._numbers = ImageDraw.Draw(self.colors), ImageDraw.Draw(self.numbers)

    def begin(self, part: Part) -> None:
        """Draw this part from now on."""
        self.parts.append(part)

    def polygon(self, points: Sequence[Point], color: Color) -> None:
        """Fill a polygon of world points."""
        pixels = self._project(points)
        self._colors.polygon(pixels, color)
        self._numbers.polygon(pixels, len(self.parts))

    def limb(self, start: Point, end: Point, width: float, color: Color) -> None:
        """Draw a thick line with round ends, `width` in metres."""
        ends = self._project((start, end))
        pixels = max(1, round(width * self.camera.focal / start[2] * SUPER))
        self._colors.line(ends, color, pixels)
        self._numbers.line(ends, len(self.parts), pixels)
        if pixels > 3:
            for x, y in ends:
                self._ellipse(x, y, pixels / 2, pixels / 2, color)

    def disc(self, center: Point, radii: tuple[float, float], color: Color) -> None:
        """Fill an ellipse facing the camera, radii across and up in metres."""
        ((x, y),) = self._project((center,))
        rx, ry = (max(0.6, r * self.camera.focal / center[2] * SUPER) for r in radii)
        self._ellipse(x, y, rx, ry, color)

    def shadow(self, points: Sequence[Point]) -> None:
        """Darken a polygon on the ground."""
        ImageDraw.Draw(self.shadows).polygon(self._project(points), 255)

    def _ellipse(self, x: float, y: float, rx: float, ry: float, color: Color) -> None:
        box = (x - rx, y - ry, x + rx, y + ry)
        self._colors.ellipse(box, color)
        self._numbers.ellipse(box, len(self.parts))

    def _project(self, points: Sequence[Point]) -> list[tuple[float, float]]:
        """As `Camera.project`, in this picture's pixels; for a few points plain Python is faster than arrays."""
        center_x, center_y, focal = self.camera.x * SUPER, self.camera.y * SUPER, self.camera.focal * SUPER
        return [(center_x + focal * x / z, center_y - focal * (y - self.camera.height) / z) for x, y, z in points]


def shade(color: Sequence[float], factor: float) -> Color:
    """Return a lighter or darker colour."""
    r, g, b = (min(255, int(c * factor)) for c in color)
    return r, g, b


def tint(rng: np.random.Generator, colors: Sequence[Color]) -> Color:
    """Draw a colour, a little lighter or darker."""
    return shade(colors[int(rng.integers(len(colors)))], rng.uniform(0.75, 1.15))
