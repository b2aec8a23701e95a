"""Boxes with class and score drawn into a picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fna.config import DetectionConfig
from fna.tasks import Picture

Color = tuple[int, int, int]
SMALLEST_TEXT = 11  # pixels; below it letters run together
FAINT = 80  # colours of a smaller sum of R, G and B are lightened: a dark picture hides them


def draw_boxes(picture: Picture, boxes: Mapping[str, Any], data: Any, config: DetectionConfig) -> Picture:
    """Return a copy of a picture with boxes drawn in their class's colour.

    Args:
        picture: uint8 RGB, (H, W, 3).
        boxes: a prediction (``boxes``, ``scores``, ``labels``) or a truth (``boxes``, ``labels``, ``crowd``,
            ``difficult``, of which the last two are marked); corners x0, y0, x1, y1 in pixels.
        data: names and colours of the classes.
        config: ``evaluate.draw_threshold``: predictions below it are left out.
    """
    image = Image.fromarray(np.ascontiguousarray(picture))
    canvas = ImageDraw.Draw(image)
    height, width = picture.shape[:2]
    line = max(1, round(max(height, width) / 320))
    font = ImageFont.load_default(max(SMALLEST_TEXT, round(max(height, width) / 50)))
    texts = _texts(boxes, data, config)
    corners, labels = boxes["boxes"].tolist(), boxes["labels"].tolist()
    shown = [i for i in range(len(labels)) if texts[i] is not None]
    for i in shown:  # all outlines first, or they would cross out the texts
        x0, y0, x1, y1 = corners[i]
        canvas.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=_color(data, labels[i]), width=line)
    for i in reversed(shown):  # the best on top
        _write(canvas, texts[i] or "", (corners[i][0], corners[i][1]), _color(data, labels[i]), font, (width, height))
    return np.asarray(image)


def _texts(boxes: Mapping[str, Any], data: Any, config: DetectionConfig) -> list[str | None]:
    """Return what is written at each box; None: the box is not drawn."""
    names = [data.classes[label] for label in boxes["labels"].tolist()]
    if "scores" in boxes:
        scores = boxes["scores"].tolist()
        least = config.evaluate.draw_threshold
        return [f"{name} {score:.2f}" if score >= least else None for name, score in zip(names, scores, strict=True)]
    marks = {key: boxes[key].tolist() if key in boxes else [False] * len(names) for key in ("crowd", "difficult")}
    return [
        " ".join([name, *(f"({key})" for key, marked in marks.items() if marked[i])]) for i, name in enumerate(names)
    ]


def _color(data: Any, label: int) -> Color:
    red, green, blue = data.colors[label]
    if red + green + blue < FAINT:
        return 255, 255, 255
    return int(red), int(green), int(blue)


def _write(
    canvas: ImageDraw.ImageDraw, text: str, corner: tuple[float, float], color: Color, font: Any, size: tuple[int, int]
) -> None:
    """Write on a plate of the box's colour, above the box where there is room, and never outside the picture.

    Args:
        canvas: where to.
        text: class and score.
        corner: x0, y0 of the box in pixels.
        color: of the box.
        font: of the text.
        size: width, height of the picture in pixels.
    """
    left, top, right, bottom = canvas.textbbox((0, 0), text, font=font)
    wide, tall = right - left + 2, bottom - top + 2
    x0, y0 = map(round, corner)  # Pillow cuts letters off at fractions of a pixel
    x = min(max(x0, 0), max(size[0] - wide, 0))
    y = y0 - tall if y0 >= tall else min(max(y0, 0), max(size[1] - tall, 0))
    canvas.rectangle((x, y, x + wide - 1, y + tall - 1), fill=color)
    red, green, blue = color
    bright = 0.299 * red + 0.587 * green + 0.114 * blue > 140  # luma of ITU-R BT.601
    canvas.text((x + 1 - left, y + 1 - top), text, fill=(0, 0, 0) if bright else (255, 255, 255), font=font)
