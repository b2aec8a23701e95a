"""Pictures of poses: skeletons over the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from fna.config import PoseConfig
from fna.tasks import Picture

SUPER = 2  # lines are drawn at twice the size and made smaller, so that they are smooth
THIN = 1 / 160  # width of a limb / longer side of the picture
BOX_RGB = (255, 255, 255)


def draw(picture: Picture, person: Any, data: Any, config: PoseConfig) -> Picture:
    """Draw a person's skeleton into a copy of a picture.

    Args:
        picture: RGB, uint8, (H, W, 3).
        person: a prediction, whose joints below ``evaluate.draw_threshold`` are left out, or a truth, whose joints
            without a label are left out and whose hidden ones are rings; or a list of them.
        data: ``colors`` of the joints, ``links`` between them.
        config: the threshold.
    """
    height, width = picture.shape[:2]
    canvas = Image.fromarray(picture).resize((SUPER * width, SUPER * height), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(canvas)
    thick = max(2 * SUPER, round(max(height, width) * SUPER * THIN))
    for one in person if isinstance(person, list) else [person]:
        _draw_person(pen, one, data, config.evaluate.draw_threshold, thick)
    smooth: Picture = np.asarray(canvas.reduce(SUPER)).copy()
    return smooth


def _draw_person(pen: ImageDraw.ImageDraw, person: Mapping[str, Any], data: Any, threshold: float, thick: int) -> None:
    points_K3 = np.asarray(person["points"], np.float64)
    predicted = "score" in person
    shown_K = points_K3[:, 2] >= threshold if predicted else points_K3[:, 2] > 0
    places = [_enlarged(x + 0.5, y + 0.5) for x, y in points_K3[:, :2].tolist()]  # 0 is the centre of a pixel
    x, y, w, h = (float(value) for value in person["box"])  # 0 is the rim of a pixel
    if w > 0 and h > 0:
        pen.rectangle((*_enlarged(x, y), *_enlarged(x + w, y + h)), outline=BOX_RGB, width=max(1, thick // 4))
    for a, b in data.links:
        if shown_K[a] and shown_K[b]:
            red, green, blue = ((first + last) // 2 for first, last in zip(data.colors[a], data.colors[b], strict=True))
            pen.line((*places[a], *places[b]), fill=(red, green, blue), width=thick)
    for k in np.flatnonzero(shown_K):
        hidden = not predicted and points_K3[k, 2] == 1
        _draw_joint(pen, places[k], thick, data.colors[k], hidden)


def _enlarged(x: float, y: float) -> tuple[float, float]:
    """Return where a point of the picture, 0 being its rim, is in the enlarged one, 0 being the centre of a pixel."""
    return SUPER * x - 0.5, SUPER * y - 0.5


def _draw_joint(
    pen: ImageDraw.ImageDraw, place: tuple[float, float], radius: int, color: Sequence[int], hidden: bool
) -> None:
    (x, y), ink = place, (color[0], color[1], color[2])
    box = (x - radius, y - radius, x + radius, y + radius)
    if hidden:
        pen.ellipse(box, outline=ink, width=max(1, radius // 2))
    else:
        pen.ellipse(box, fill=ink)
