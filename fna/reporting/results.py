"""Sections of the report about scores: the table, classes, curves, predictions."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from fna import figures
from fna.checkpoint import read_json
from fna.reporting.parts import DASH, TIMES, TITLES, Part, Table, giga, read_optional, seed_first, signed

PICTURE_SIZE = 640  # longest side of an embedded prediction, in pixels
HEAD = (
    "network", "architecture", "weights from", "params (M)", "MAdds (G)", f"MAdds {TIMES} seed", "mIoU (%)",
    "difference", "pixel acc. (%)", "minutes", "epochs", "RNG seed"
)  # fmt: skip
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
    cells = [
        (
            row["title"],
            str(row["arch"]),
            str(row["init"]),
            f"{row['params'] / 1e6:.3f}",
            f"{row['madds'] / 1e9:.3f}",
            f"{row['madds'] / seed_madds:.3f}" if seed_madds else DASH,
            f"{100 * row['miou']:.2f}",
            signed(100 * (row["miou"] - base["miou"])) if base and row is not base else DASH,
            f"{100 * row['pixel_accuracy']:.2f}",
            _minutes(row, metrics["search_minutes"]),
            str(row["epochs"]),
            str(row["rng_seed"]),
        )
        for row in rows.values()
    ]
    caption = (
        "Look at the difference to the fine-tuned seed, in points of mIoU; a row is one training, a point can be luck. "
        "Minutes are those of the search, if a network needs it, + adaptation."
    )
    part = Part(tables=[Table(caption, HEAD, cells, words=3)], warnings=[str(text) for text in metrics["warnings"]])
    if "adapted" in rows:
        part.tiles = _tiles(rows["adapted"], base, seed_madds, metrics["search_minutes"])
    if target:
        part.tiles.append(_budget_tile(target["madds"], target["budget"]))
    size = target.get("size_hw") if target else None
    part.notes.append(
        COUNTING + (f" Counted at {size[0]} {TIMES} {size[1]} pixels (height {TIMES} width)." if size else "")
    )
    if data := metrics.get("data"):
        skipped = f"; {len(data['skipped'])} left out as unreadable" if data["skipped"] else ""
        part.notes.append(f"{data['train']} images to train on, {data['val']} to score on{skipped}.")
    return part


def _minutes(row: Mapping[str, Any], search_minutes: float | None) -> str:
    searched = search_minutes is not None and (row["init"] == "super" or row["arch"] == "derived")
    return (f"{search_minutes:.1f} + " if searched else "") + f"{row['minutes']:.1f}"


def _tiles(
    row: Mapping[str, Any], base: Mapping[str, Any] | None, seed_madds: int | None, search_minutes: float | None
) -> list[tuple[str, str, str]]:
    score, params = 100 * row["miou"], row["params"]
    against = f"{signed(score - 100 * base['miou'], 1)} points vs the seed" if base else row["title"]
    minutes = row["minutes"] + (search_minutes or 0)
    return [
        ("mIoU", f"{score:.1f} %", against),
        (
            "MAdds",
            f"{row['madds'] / 1e9:.2f} G",
            f"{row['madds'] / seed_madds:.3f} {TIMES} the seed" if seed_madds else "",
        ),
        ("Parameters", f"{params / 1e6:.2f} M", f"{params / base['params']:.3f} {TIMES} the seed" if base else ""),
        ("Time", f"{minutes:.1f} min", f"{search_minutes or 0:.1f} search, {row['minutes']:.1f} adapt"),
    ]


def _budget_tile(madds: int, budget: int | None) -> tuple[str, str, str]:
    if budget is None:
        return "Budget", "none", "argmax of the alphas"
    verdict = "met" if madds <= budget else "exceeded"
    return "Budget", verdict, f"{100 * madds / budget:.1f} % of {giga(budget)}"


def classes(folder: Path) -> Part:
    """Make the table of IoU by class."""
    rows = seed_first(read_json(folder / "metrics.json")["rows"])
    compared = all(name in rows for name in TITLES)
    cells = []
    for name in next(iter(rows.values()))["iou"]:
        values = [row["iou"].get(name) for row in rows.values()]
        texts = [DASH if value is None else f"{100 * value:.1f}" for value in values]
        if compared:
            texts.insert(2, DASH if None in values[:2] else signed(100 * (values[1] - values[0]), 1))
        cells.append((name, *texts))
    titles = [row["title"] for row in rows.values()]
    titles[2:2] = ["difference"] * compared
    caption = "IoU in %; a dash: the class is absent. Look at the rare classes: a few objects there move the mean."
    return Part(tables=[Table(caption, ("class", *titles), cells)])


def scores(folder: Path) -> Part:
    """Draw the validation scores of all adaptations."""
    part, curves = Part(), {}
    for path in sorted(folder.glob("*_scores.csv")):
        log = part.read_columns(path)
        curves[path.name.removesuffix("_scores.csv")] = log["epoch"], log["miou"]
    metrics = read_optional(folder / "metrics.json") or {"rows": {}}
    titles = TITLES | {name: row["title"] for name, row in metrics["rows"].items()}
    caption = (
        "Validation mIoU by epoch. Look at how early the remapped network leads, and whether it still does at the end."
    )
    part.draw(figures.draw_scores(seed_first(curves), titles), caption)
    return part


def predictions(folder: Path) -> Part:
    """Show predictions beside image and truth (article, Fig. 10)."""
    pictures = folder / "predictions"
    titles = {"image": "image", "truth": "truth", **TITLES}
    kinds = [kind for kind in titles if any(pictures.glob(f"*_{kind}.png"))]
    numbers = sorted(path.name.removesuffix("_image.png") for path in pictures.glob("*_image.png"))
    metrics = read_optional(folder / "metrics.json") or {}
    return Part(
        key=[(f"rgb({r}, {g}, {b})", name) for name, (r, g, b) in metrics.get("colors", {}).items()],
        columns=[titles[kind] for kind in kinds],
        pictures=[[_embed(pictures / f"{number}_{kind}.png", kind == "image") for kind in kinds] for number in numbers],
        notes=["Images of the validation split. Look at thin and small things, and at the borders of large ones."],
    )


def _embed(path: Path, photo: bool) -> str:
    """Return a picture as a data URI: a photo as JPEG, a mask as PNG in its exact colours; empty if missing."""
    if not path.exists():
        return ""
    buffer = io.BytesIO()
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.LANCZOS if photo else Image.Resampling.NEAREST)
    small.save(buffer, "JPEG" if photo else "PNG", quality=88, optimize=True)
    return f"data:image/{'jpeg' if photo else 'png'};base64,{base64.b64encode(buffer.getvalue()).decode()}"
