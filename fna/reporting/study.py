"""The table of a study as Markdown and as a page, with its curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from fna.reporting.figures import BLUE, STYLE, Series, draw_curves, draw_scores
from fna.reporting.page import render
from fna.reporting.parts import DAMAGES, DASH, Part, Table, signed
from fna.reporting.searched import search
from fna.reporting.targets import side_by_side

ADAPTED = "adapted"  # folder of a row's network in its run's
SEARCHES = 4  # of which curves are drawn
ARTICLE = "the article"
HEAD = ("row", "difference to the first", "RNG seeds", ARTICLE, "params (M)", "MAdds (G)", "minutes")


def study_table(study: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of a study's table, rows that are missing with dashes.

    What the article found is a column where some row has it.

    Args:
        study: content of study.json.
    """
    first = study["rows"][0]["score"]["mean"]
    rows = []
    for row in study["rows"]:
        score = row["score"]
        cells = [row["title"], *[DASH] * 2, str(score["number"]), row["article"] or DASH, *[DASH] * 3]
        if score["number"]:
            cells[1] = f"{100 * score['mean']:.2f}" + (
                f" ± {100 * score['std']:.2f}" if score["std"] is not None else ""
            )
            cells[2] = DASH if first is None else signed(100 * (score["mean"] - first))
            cells[5:] = [f"{row['params'] / 1e6:.3f}", f"{row['madds'] / 1e9:.3f}", f"{row['minutes']:.1f}"]
        rows.append(cells)
    head = [HEAD[0], f"val {study['metric']} (%)", *HEAD[1:]]
    shown = [i for i, name in enumerate(head) if name != ARTICLE or any(row["article"] for row in study["rows"])]
    return [head[i] for i in shown], [[cells[i] for i in shown] for cells in rows]


def study_markdown(study: Mapping[str, Any]) -> str:
    """Return the table of a study as Markdown."""
    head, rows = study_table(study)
    lines = [f"# {study['title']}", "", _line(head), _line(["---", *["--:"] * (len(head) - 1)]), *map(_line, rows), ""]
    lines += [_caption(study)]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _caption(study: Mapping[str, Any]) -> str:
    caption = f"Means over RNG seeds {', '.join(map(str, study['rng_seeds']))}; ± is the standard deviation. "
    caption += "Minutes are those of the search, if a row needs it, + adaptation."
    return caption + (f" Still to do: {', '.join(study['missing'])}." if study["missing"] else "")


def study_page(folder: Path, study: Mapping[str, Any], curves: Mapping[str, Path]) -> str:
    """Return the page of a study.

    Args:
        folder: of the study.
        study: content of study.json.
        curves: title of a row -> a run folder whose loss and score are drawn against epochs; empty: none.
    """
    head, rows = study_table(study)
    part = Part(tables=[Table(_caption(study), head, rows)])
    if any(row["entries"] for row in study["rows"]):
        part.draw(_draw(study), "A dot is a run, a bar the mean of a row. Look for rows whose dots overlap.")
    sections = [("Table", part, "")]
    if curves:
        sections.append(("Loss and score against epochs, the first RNG seed", _curves(curves), ""))
    runs = {
        f"{row['title']}, RNG seed {entry['rng_seed']}": Path(entry["folder"])
        for row in study["rows"]
        for entry in row["entries"]
    }
    if runs:
        networks = {title: run / ADAPTED for title, run in runs.items()}
        sections.append(("Architectures", side_by_side(next(iter(runs.values())), networks), ""))
    searched = [title for title, run in runs.items() if (run / "search.csv").exists()]
    sections += [(f"The search of {title}", search(runs[title]), "") for title in searched[:SEARCHES]]
    return render(study["title"] or folder.resolve().name, folder, sections)


@rc_context(STYLE)
def _draw(study: Mapping[str, Any]) -> Figure:
    """Draw the scores of all rows and RNG seeds."""
    rows = [row for row in study["rows"] if row["entries"]][::-1]
    figure = Figure(figsize=(8, 0.9 + 0.4 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for y, row in enumerate(rows):
        scores = [100 * entry["score"] for entry in row["entries"]]
        axes.plot(scores, [y] * len(scores), "o", color=BLUE, alpha=0.6)
        axes.plot([100 * row["score"]["mean"]] * 2, [y - 0.3, y + 0.3], color=BLUE, linewidth=1.5)
    axes.set(xlabel=f"val {study['metric']} (%)", yticks=range(len(rows)), yticklabels=[row["title"] for row in rows])
    return figure


def _curves(folders: Mapping[str, Path]) -> Part:
    """Draw training loss and validation score of some runs against epochs (article, Fig. 4)."""
    part = Part()
    losses: dict[str, tuple[Series, Series]] = {}
    scores: dict[str, tuple[Series, Series]] = {}
    metric = "score"
    for title, folder in folders.items():
        try:
            steps, epochs = (part.read_columns(folder, f"adapted/{name}.csv") for name in ("steps", "scores"))
        except DAMAGES:
            continue  # it is still to do
        metric = next(name for name in epochs if name != "epoch")
        per_epoch = len(steps["loss"]) / max(epochs["epoch"])
        number = np.floor(np.arange(len(steps["loss"])) / per_epoch)
        known = np.unique(number)
        losses[title] = known + 1, np.array([steps["loss"][number == epoch].mean() for epoch in known])
        scored = np.isfinite(epochs[metric])
        scores[title] = epochs["epoch"][scored], epochs[metric][scored]
    if losses:
        part.draw(draw_curves({"training loss": losses}, "epoch", "loss"), "Mean training loss of each epoch.")
        part.draw(draw_scores(scores, {}, metric), "Look for where a row that starts ahead is caught up with.")
    return part
