"""Sections of the report about scores: classes, curves, epochs, predictions."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fna.reporting import figures
from fna.reporting.parts import DASH, Part, Table, read_json, read_optional, signed
from fna.reporting.rows import TITLES, seed_first
from fna.runs.manifest import read_vouched

CONFUSED = 30  # classes of a confusion; of more, those with the most mistakes
PICTURE_SIZE = 640  # longest side of an embedded prediction, in pixels
ABSENT = "absent"  # of a class that the truth never has
VOID = (0, 0, 0)  # what has no class in a mask


def classes(folder: Path) -> Part:
    """Make the tables of scores by class, or by joint."""
    metrics = read_json(folder / "metrics.json")
    rows, part = seed_first(metrics["rows"]), Part()
    compared = all(name in rows for name in TITLES)
    unit, counts = _counts(rows)
    heads = [row["title"] for row in rows.values()]
    heads[2:2] = ["difference"] * compared
    for key, title in metrics["titles"].items():
        if not all(isinstance(row.get(key), Mapping) for row in rows.values()):
            continue
        cells = []
        for name in next(iter(rows.values()))[key]:
            values = [row[key].get(name) for row in rows.values()]
            missing = ABSENT if counts.get(name) == 0 else DASH
            texts = [missing if value is None else f"{100 * value:.1f}" for value in values]
            if compared:
                texts.insert(2, "" if None in values[:2] else signed(100 * (values[1] - values[0]), 1))
            cells.append((name, *texts, *([f"{counts[name]:,}"] if name in counts else [])))
        caption = (
            f"{title[:1].upper()}{title[1:]} on the validation split, in %; a dash: nothing it could be told of. Look "
            "at the rare ones: there a few hits or misses decide."
        )
        part.tables.append(Table(caption, (title, *heads, *([unit] if counts else [])), cells))
    if never := [name for name, number in counts.items() if number == 0]:
        part.warnings.append(
            f"the validation split has no {unit} of {', '.join(never)}: no score says anything about "
            f"{'it' if len(never) == 1 else 'them'}, and means are over the other classes"
        )
    return part


def _counts(rows: Mapping[str, Any]) -> tuple[str, dict[str, int]]:
    """Return what is counted, such as pixels, and how many of each class the truth has; empty: not known."""
    found: dict[str, dict[str, int]] = next((row["counts"] for row in rows.values() if row.get("counts")), {"": {}})
    ((unit, counts),) = found.items()
    return unit, counts


def curves(folder: Path) -> Part:
    """Draw the curves and the confusion that came with the scores."""
    rows, part = seed_first(read_json(folder / "metrics.json")["rows"]), Part()
    shown = {name: rows[name] for name in TITLES if name in rows} or rows
    drawn = {title: curve for row in shown.values() for title, curve in row.get("curves", {}).items()}
    for title, curve in drawn.items():
        panels = {
            row["title"]: {
                name: (np.array(xs, float), np.array(ys, float))
                for name, (xs, ys) in row["curves"][title]["lines"].items()
            }
            for row in shown.values()
            if title in row.get("curves", {})
        }
        part.draw(
            figures.draw_curves(panels, curve["x"], curve["y"]),
            f"{title}. Look for the curves that lie apart from the others.",
        )
    _draw_confusions(part, {row["title"]: row["confusion"] for row in shown.values() if row.get("confusion")})
    return part


def _draw_confusions(part: Part, confusions: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw the confusion of every network; of many classes those with the most mistakes of all networks together."""
    counts_NRC = np.array([confusion["counts"] for confusion in confusions.values()], float)
    for (title, confusion), counts_RC in zip(confusions.items(), counts_NRC, strict=True):
        rows, columns = confusion["rows"], confusion["columns"]
        caption = f"Confusion of the {title}. Look at what is missed, and at pairs that are mixed up."
        if len(rows) > CONFUSED:
            kept = _most_confused(counts_NRC.sum(0))
            caption += f" Of {len(rows)} rows and columns the {CONFUSED} with the most mistakes; others: all the rest."
            rows, columns = [rows[k] for k in kept], [*(columns[k] for k in kept), "others"]
            rest_R1 = np.delete(counts_RC[kept], kept, 1).sum(1, keepdims=True)
            counts_RC = np.hstack([counts_RC[np.ix_(kept, kept)], rest_R1])
        part.draw(figures.draw_confusion(counts_RC, rows, columns), caption)


def _most_confused(counts_CC: figures.Series) -> list[int]:
    """Return the classes most often taken for another, or another for them, in their order."""
    mistakes_C = counts_CC.sum(0) + counts_CC.sum(1) - 2 * counts_CC.diagonal()
    return sorted(np.argsort(-mistakes_C, kind="stable")[:CONFUSED].tolist())


def scores(folder: Path) -> Part:
    """Draw the validation scores and the training losses of all adaptations."""
    part, lines, metric = Part(), {}, ""
    for name in sorted(path.parent.name for path in folder.glob("*/scores.csv")):
        log = part.read_columns(folder, f"{name}/scores.csv")
        metric = next(column for column in log if column not in ("epoch", "minutes"))
        lines[name] = log["epoch"], log[metric]
    metrics = read_optional(folder / "metrics.json") or {"rows": {}, "titles": {}}
    titles = TITLES | {name: row["title"] for name, row in metrics["rows"].items()}
    metric = metrics["titles"].get(metric, metric)
    caption = (
        f"Validation {metric} by epoch. Look at how early the remapped network leads, and whether it still does at the "
        "end."
    )
    part.draw(figures.draw_scores(seed_first(lines), titles, metric), caption)
    losses = {}
    for name in lines:
        if (folder / name / "steps.csv").exists():
            log = part.read_columns(folder, f"{name}/steps.csv")
            losses[name] = log["step"], log["loss"]
    if losses:
        caption = (
            "Training loss by iteration, smoothed. Look for one that still falls at the end: longer would be better."
        )
        part.draw(figures.draw_losses(seed_first(losses), titles), caption)
    return part


def predictions(folder: Path) -> Part:
    """Show predictions beside image and truth (article, Fig. 10)."""
    pictures = folder / "predictions"
    errors = {f"{name}_errors": f"errors of the {title}" for name, title in TITLES.items()}
    titles = {"image": "image", "truth": "truth", **TITLES, **errors}
    kinds = [kind for kind in titles if any(pictures.glob(f"*_{kind}.png"))]
    numbers = sorted(path.name.removesuffix("_image.png") for path in pictures.glob("*_image.png"))
    colors = (read_optional(folder / "metrics.json") or {}).get("colors", {})
    notes = ["Validation images. Look at thin and small things, and at what one network alone gets right."]
    if any(kind in errors for kind in kinds):
        notes.append("Stripes are void, which has no class and does not count; errors are marked in a grey image.")
    return Part(
        key=[(f"rgb({r}, {g}, {b})", name) for name, (r, g, b) in colors.items()],
        columns=[titles[kind] for kind in kinds],
        pictures=[[_embed(pictures / f"{number}_{kind}.png", colors) for kind in kinds] for number in numbers],
        notes=notes,
    )


def _embed(path: Path, colors: Mapping[str, Sequence[int]]) -> str:
    """Return a picture as a data URI: a mask as PNG in its exact colours, another as JPEG; empty if missing.

    Args:
        path: the picture.
        colors: of the classes; a picture that has no other ones but black is a mask.
    """
    if not path.exists():
        return ""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(read_vouched(path))) as image:
        small = image.convert("RGB")
    seen = small.getcolors(len(colors) + 1)  # None: more than these
    mask = seen is not None and {color for _, color in seen} <= {VOID, *map(tuple, colors.values())}
    small.thumbnail((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.NEAREST if mask else Image.Resampling.LANCZOS)
    # Colour in full resolution (subsampling 0): coloured lines and letters are thin.
    small.save(buffer, "PNG" if mask else "JPEG", quality=88, subsampling=0, optimize=True)
    return f"data:image/{'png' if mask else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode()}"
