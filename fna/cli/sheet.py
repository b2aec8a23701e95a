"""A sheet of samples with their truth drawn in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont

from fna.files import os_errors

if TYPE_CHECKING:
    from fna.config import Config

COLUMNS, ROWS = 3, 2
CELL = 400  # pixels, the longer side of a sample
TEXT = 14  # pixels
GAP = 8


def draw_sheet(config: Config, opened: Mapping[str, Any], path: Path) -> None:
    """Write a picture of six samples of the first split, evenly spread, and what the colours mean.

    Args:
        config: as surveyed.
        opened: data by split.
        path: an image file.
    """
    split, data = next(iter(opened.items()))
    by_name: dict[str, list[int]] = {}
    for index in range(len(data)):
        by_name.setdefault(data.name(index), []).append(index)
    names = [name for name, own in by_name.items() if any(any(data.facts(i).counts.values()) for i in own)]
    chosen = [names[round(k * (len(names) - 1) / (COLUMNS * ROWS - 1))] for k in range(COLUMNS * ROWS)]
    cells = [_cell(config, data, by_name[name], f"{split}: {name}") for name in dict.fromkeys(chosen)]
    wide, tall = max(cell.width for cell in cells), max(cell.height for cell in cells)
    rows = -(-len(cells) // COLUMNS)
    legend = _legend(data, COLUMNS * (wide + GAP) - GAP)
    sheet = Image.new("RGB", (legend.width, rows * (tall + GAP) + legend.height), "white")
    for k, cell in enumerate(cells):
        sheet.paste(cell, (k % COLUMNS * (wide + GAP), k // COLUMNS * (tall + GAP)))
    sheet.paste(legend, (0, rows * (tall + GAP)))
    with os_errors("write", path):
        sheet.save(path)


def _cell(config: Config, data: Any, indices: list[int], title: str) -> Image.Image:
    """Return an image with all its truths, made smaller, and its name above."""
    from fna.tasks import load_task

    records = [data.load(index) for index in indices]
    picture = records[0][0].permute(1, 2, 0).numpy()
    truths = [truth for _, truth in records]
    drawn = load_task(config.task.name).draw(picture, truths if len(truths) > 1 else truths[0], data, config)
    image = Image.fromarray(drawn)
    image.thumbnail((CELL, CELL), Image.Resampling.BOX)
    cell = Image.new("RGB", (image.width, image.height + TEXT + 4), "white")
    ImageDraw.Draw(cell).text((0, 0), title, "black", ImageFont.load_default(TEXT - 2))
    cell.paste(image, (0, TEXT + 4))
    return cell


def _legend(data: Any, width: int) -> Image.Image:
    """Return names of the classes beside their colours, in lines."""
    font = ImageFont.load_default(TEXT)
    places, x, y = [], 0, 0
    for name in data.classes:
        wide = round(font.getlength(name)) + 2 * TEXT
        if x and x + wide > width:
            x, y = 0, y + TEXT + 6
        places.append((x, y))
        x += wide
    legend = Image.new("RGB", (width, y + TEXT + 8), "white")
    pen = ImageDraw.Draw(legend)
    for (x, y), name, color in zip(places, data.classes, data.colors, strict=True):
        pen.rectangle((x, y + 3, x + TEXT - 4, y + TEXT - 1), fill=tuple(color), outline="black")
        pen.text((x + TEXT, y), name, "black", font)
    return legend
