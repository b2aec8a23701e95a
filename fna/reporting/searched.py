"""Sections of the report about the search: curves, evidence, remapping, configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fna.arch.target import Form
from fna.config import make_config
from fna.cost.units import shown_in
from fna.reporting import figures
from fna.reporting.parts import DASH, Part, Table, read_config, read_json, read_optional, task_settings
from fna.reporting.rows import NUMBERS
from fna.reporting.targets import Derived, read_targets
from fna.runs.manifest import read_vouched
from fna.runs.opening import flatten

BEST = 10  # candidates in the table
UNKNOWN = "unit known at the end"  # of the costs in search.csv, while the search goes on


def search(folder: Path) -> Part:
    """Draw the curves of the search (article, Fig. 9)."""
    part = Part()
    log = part.read_columns(folder, "search.csv")
    found = read_optional(folder / "found.json") or {}
    budget = found.get("budget")
    if np.isfinite(log["alpha_loss"]).any():
        caption = (
            "Task loss, cost of the drawn paths and its expectation under the alphas, and the multiplier that holds it "
            "to the budget. Look for an expectation that settles at the dashed line."
        )
    else:
        caption = "Task loss and cost of the paths drawn. Look for a loss that still falls at the end."
    drawing = figures.draw_search(log, shown_in(found.get("unit", UNKNOWN)), budget["cost"] if budget else None)
    part.draw(drawing, caption)
    return part


def evidence(folder: Path) -> Part:
    """Draw what targets are chosen by: how decided the layers are by epoch and the final alphas, or the candidates."""
    part = Part()
    if (folder / "entropy.csv").exists():
        log = part.read_columns(folder, "entropy.csv")
        epochs = log.pop("epoch")
        log.pop("minutes", None)
        caption = (
            "Entropy of each layer's alphas: 1 undecided, 0 decided. Look for rows that stay bright: any choice served."
        )
        part.draw(figures.draw_entropy(list(log), epochs, np.array(list(log.values()))), caption)
    found = read_optional(folder / "found.json")
    if found is None:
        part.notes.append("The final alphas appear here once the search has ended.")
        return part
    targets = read_targets(folder, Part())  # a damaged one is told of above
    if found["evidence"] == "candidates":
        _add_candidates(part, folder, found, targets)
        return part
    name, target = next(iter(targets.items()), ("", None))
    chosen = {f"{s}.{n}": block.label for (s, n), block in target.arch.layers()} if target else {}
    caption = "Softmax of the final alphas."
    if target:
        caption += f" A dot marks the choice of '{name}'. Look for dots off the brightest cell of their row."
    part.draw(figures.draw_alphas(found["layers"], chosen), caption)
    return part


def _add_candidates(part: Part, folder: Path, found: Mapping[str, Any], targets: Mapping[str, Derived]) -> None:
    """Draw all scored candidates and list the best; those that became targets bear their names."""
    unit, candidates = shown_in(found["unit"]), sorted(found["candidates"], key=lambda row: float(row["loss"]))
    names = {_identity(vars(target)): name for name, target in targets.items()}
    called = [names.get(_identity(row), "") for row in candidates]
    own, varied = task_settings(folder), [key for key in NUMBERS if any(r.get(key) for r in candidates)]
    costs, losses = (np.array([row[key] for row in candidates], float) for key in ("cost", "loss"))
    caption = (
        "Loss of every candidate on training images that the weights have not seen, against its cost; the line is the "
        "best there is for that cost or less, rings are targets. Look for where more cost buys little."
    )
    part.draw(figures.draw_candidates(costs, losses, called, unit), caption)
    rows = [
        (
            str(rank),
            name,
            f"{row['loss']:#.4g}",
            "" if row.get("score") is None else f"{100 * row['score']:.1f}",
            f"{row['cost'] / unit.per:.{unit.digits}f}",
            f"{row['head_width']:g}",
            f"{row['scale']:g}",
            *[str(row.get(key) or own.get(key, DASH)) for key in varied],
        )
        for rank, (row, name) in enumerate(zip(candidates, called, strict=True), 1)
        if rank <= BEST or name or row.get("score") is not None
    ]
    head = (
        *("rank", "target", "held-out loss", "held-out score (%)", f"cost ({unit.word})"),
        *("head width", "input scale", *(NUMBERS[key] for key in varied)),
    )
    caption = (
        f"The best of {len(candidates)} candidates by loss with shared weights, and the finalists, of which the task's "
        "metric decided: after a trial, unless search.trial is 0. Look at how far its scores lie apart, and whether "
        "the loss agrees with them."
    )
    part.tables.append(Table(caption, head, rows, words=2))


def _identity(network: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(network["path"]), *(network.get(key) for key in Form._fields)


def remapping(folder: Path) -> Part:
    """Say where the super network's weights came from."""
    report = read_json(folder / "remap.json")
    rows = [(rule, where["where"], str(where["layers"])) for rule, where in report["rules"].items()]
    caption = "Rules of the remapping and the layers they made. Look for anything that was not simply copied."
    shares = (
        f"Of the super network's weights {100 * report['copied']:.1f} % are copies from the seed and "
        f"{100 * report['new']:.1f} % new; {100 * report['dropped']:.1f} % of what was read from the seed was dropped."
    )
    return Part(tables=[Table(caption, ("rule", "layers", "number"), rows, words=2)], notes=[shares])


def configuration(folder: Path) -> Part:
    """Show the settings that are not the defaults, and all of them on demand."""
    text = read_vouched(folder / "config.yaml").decode()
    config = read_config(folder)
    assert config is not None, "it was read above"
    own, default = (
        flatten(one.model_dump(mode="json", by_alias=True))
        for one in (config, make_config({"task": {"model": config.task.model}}))
    )
    changed = {key: value for key, value in own.items() if value != default.get(key)}
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in changed.items()]
    return Part(text="\n".join(lines) or "All are the defaults.", folded=("all settings", text))
