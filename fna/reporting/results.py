"""Sections of the report about scores: the table, classes, curves, predictions."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fna.files import read_json
from fna.reporting import figures
from fna.reporting.parts import DASH, TIMES, TITLES, Part, Table, giga, read_optional, seed_first, signed
from fna.runs.minutes import searched_minutes, write_minutes

SHOWN = 8  # lines about mended or left-out records
CONFUSED = 30  # classes of a confusion; of more, those with the most mistakes
PICTURE_SIZE = 640  # longest side of an embedded prediction, in pixels
VOID = (0, 0, 0)  # what has no class in a mask
WORDS = ("network", "architecture", "weights from")
BESIDE = 3  # scores beside the headline in the first table; the others follow in their own
COUNTING = (
    "MAdds are the multiply-accumulates of all convolutions and linear layers of the network, head included, plus one "
    "per output element of a biased convolution; batch norms, activations, pooling, interpolation and additions count "
    "0. Parameters are the learnable ones: gamma and beta of batch norms in, running statistics out."
)


def result(folder: Path) -> Part:
    """Make the headline table: the fine-tuned seed against the FNA++ network and all controls."""
    metrics, target = read_json(folder / "metrics.json"), read_optional(folder / "target.json")
    rows = seed_first(metrics["rows"])
    base = rows.get("baseline")
    seed_madds = target["seed_madds"] if target else base["madds"] if base else None
    metric, titles = metrics["metric"], metrics["titles"]
    others = [key for key in _numbers(metrics) if key != metric]
    beside = others[:BESIDE]
    cells = [
        (
            row["title"],
            str(row["arch"]),
            str(row["init"]),
            f"{row['params'] / 1e6:.3f}",
            f"{row['madds'] / 1e9:.3f}",
            f"{row['madds'] / seed_madds:.3f}" if seed_madds else DASH,
            f"{100 * row[metric]:.2f}",
            signed(100 * (row[metric] - base[metric])) if base and row is not base else DASH,
            *(_percent(row[key]) for key in beside),
            write_minutes(metrics, row),
            str(row["epochs"]),
            f"{1000 * row['seconds_per_image']:.0f}",
            str(row["rng_seed"]),
        )
        for row in rows.values()
    ]
    caption = (
        f"Look at the difference to the fine-tuned seed, in points of {titles[metric]}; a row is one training, a point "
        "can be luck. Minutes are those of the search, if a network needs it, + adaptation. Milliseconds are those of "
        "scoring an image on this machine, metric included."
    )
    head = (
        *(*WORDS, "params (M)", "MAdds (G)", f"MAdds {TIMES} seed", f"{titles[metric]} (%)", "difference"),
        *(f"{titles[key]} (%)" for key in beside),
        *("minutes", "epochs", "ms/image", "RNG seed"),
    )
    part = Part(
        tables=[Table(caption, head, cells, words=len(WORDS))], warnings=[str(text) for text in metrics["warnings"]]
    )
    if len(others) > BESIDE:
        cells = [(row["title"], *(_percent(row[key]) for key in others)) for row in rows.values()]
        part.tables.append(Table("All other scores, in %.", ("network", *(titles[key] for key in others)), cells))
    if "adapted" in rows:
        part.tiles = _tiles(rows["adapted"], base, seed_madds, metrics)
    if target:
        part.tiles.append(_budget_tile(target["madds"], target["budget"]))
    size = target.get("size_hw") if target else None
    part.notes.append(
        COUNTING + (f" Counted at {size[0]} {TIMES} {size[1]} pixels (height {TIMES} width)." if size else "")
    )
    part.notes += dict.fromkeys(note for row in rows.values() for note in row.get("notes", ()))
    if data := metrics.get("data"):
        part.notes.append(f"{data['train']} records to train on, {data['val']} to score on.")
        part.notes += data["skipped"][:SHOWN]
        if len(data["skipped"]) > SHOWN:
            part.notes.append(f"... and {len(data['skipped']) - SHOWN} more lines of the kind in metrics.json.")
    return part


def _numbers(metrics: Mapping[str, Any]) -> list[str]:
    """Return the scores that are one number (or None) in every row, in the order of their titles."""
    rows = metrics["rows"].values()
    return [key for key in metrics["titles"] if all(key in row and not isinstance(row[key], Mapping) for row in rows)]


def _percent(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:.2f}"


def _tiles(
    row: Mapping[str, Any], base: Mapping[str, Any] | None, seed_madds: int | None, metrics: Mapping[str, Any]
) -> list[tuple[str, str, str]]:
    metric, searched = metrics["metric"], searched_minutes(metrics, row)
    score, params = 100 * row[metric], row["params"]
    against = f"{signed(score - 100 * base[metric], 1)} points vs the seed" if base else row["title"]
    return [
        (metrics["titles"][metric], f"{score:.1f} %", against),
        (
            "MAdds",
            f"{row['madds'] / 1e9:.2f} G",
            f"{row['madds'] / seed_madds:.3f} {TIMES} the seed" if seed_madds else "",
        ),
        ("Parameters", f"{params / 1e6:.2f} M", f"{params / base['params']:.3f} {TIMES} the seed" if base else ""),
        ("Time", f"{searched + row['minutes']:.1f} min", f"{searched:.1f} search, {row['minutes']:.1f} adapt"),
    ]


def _budget_tile(madds: int, budget: int | None) -> tuple[str, str, str]:
    if budget is None:
        return "Budget", "none", "argmax of the alphas"
    verdict = "met" if madds <= budget else "exceeded"
    return "Budget", verdict, f"{100 * madds / budget:.1f} % of {giga(budget)}"


def classes(folder: Path) -> Part:
    """Make the tables of scores by class, or by joint."""
    metrics = read_json(folder / "metrics.json")
    rows, part = seed_first(metrics["rows"]), Part()
    compared = all(name in rows for name in TITLES)
    heads = [row["title"] for row in rows.values()]
    heads[2:2] = ["difference"] * compared
    for key, title in metrics["titles"].items():
        if not all(isinstance(row.get(key), Mapping) for row in rows.values()):
            continue
        cells = []
        for name in next(iter(rows.values()))[key]:
            values = [row[key].get(name) for row in rows.values()]
            texts = [DASH if value is None else f"{100 * value:.1f}" for value in values]
            if compared:
                texts.insert(2, DASH if None in values[:2] else signed(100 * (values[1] - values[0]), 1))
            cells.append((name, *texts))
        caption = (
            f"{title} in %; a dash: absent from the truth. Look at the rare ones: there a few hits or misses decide."
        )
        part.tables.append(Table(caption, (title, *heads), cells))
    return part


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
    if not part.drawings:
        part.notes.append("This task's scores come without curves.")
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
    """Draw the validation scores of all adaptations."""
    part, lines, metric = Part(), {}, ""
    for path in sorted(folder.glob("*_scores.csv")):
        log = part.read_columns(path)
        metric = next(column for column in log if column not in ("epoch", "minutes"))
        lines[path.name.removesuffix("_scores.csv")] = log["epoch"], log[metric]
    metrics = read_optional(folder / "metrics.json") or {"rows": {}, "titles": {}}
    titles = TITLES | {name: row["title"] for name, row in metrics["rows"].items()}
    metric = metrics["titles"].get(metric, metric)
    caption = (
        f"Validation {metric} by epoch. Look at how early the remapped network leads, and whether it still does at the "
        "end."
    )
    part.draw(figures.draw_scores(seed_first(lines), titles, metric), caption)
    return part


def predictions(folder: Path) -> Part:
    """Show predictions beside image and truth (article, Fig. 10)."""
    pictures = folder / "predictions"
    titles = {"image": "image", "truth": "truth", **TITLES}
    kinds = [kind for kind in titles if any(pictures.glob(f"*_{kind}.png"))]
    numbers = sorted(path.name.removesuffix("_image.png") for path in pictures.glob("*_image.png"))
    colors = (read_optional(folder / "metrics.json") or {}).get("colors", {})
    return Part(
        key=[(f"rgb({r}, {g}, {b})", name) for name, (r, g, b) in colors.items()],
        columns=[titles[kind] for kind in kinds],
        pictures=[[_embed(pictures / f"{number}_{kind}.png", colors) for kind in kinds] for number in numbers],
        notes=["Validation images. Look at thin and small things, and at what one network alone gets right."],
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
    with Image.open(path) as image:
        small = image.convert("RGB")
    seen = small.getcolors(len(colors) + 1)  # None: more than these
    mask = seen is not None and {color for _, color in seen} <= {VOID, *map(tuple, colors.values())}
    small.thumbnail((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.NEAREST if mask else Image.Resampling.LANCZOS)
    # Colour in full resolution (subsampling 0): coloured lines and letters are thin.
    small.save(buffer, "PNG" if mask else "JPEG", quality=88, subsampling=0, optimize=True)
    return f"data:image/{'png' if mask else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode()}"
