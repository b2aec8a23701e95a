"""The page of a front: score against cost, and which networks others beat at no more cost."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from fna.cost.units import shown_in, with_unit
from fna.reporting.figures import BLUE, GOLD, GREEN, INK, MUTED, ORANGE, PINK, STYLE
from fna.reporting.page import render
from fna.reporting.parts import DASH, Part, Table
from fna.reporting.targets import side_by_side

KINDS = {  # what is said of a kind, its colour and mark
    "found": ("found by the search", BLUE, "o"),
    "seed": ("fine-tuned seed", ORANGE, "s"),
    "cut": ("seed cut by hand", GREEN, "^"),
    "narrowed": ("seed, expansions narrowed", PINK, "v"),
    "pruned_taylor": ("seed pruned by Torch-Pruning, Taylor", GOLD, "D"),
    "pruned_norm": ("seed pruned by Torch-Pruning, norm", GOLD, "d"),
}


def dominated(points: Sequence[Mapping[str, Any]], unit: str) -> list[dict[str, Any]]:
    """Return points by cost, each with whether another is as good for less, or better for no more.

    Args:
        points: with ``score`` and ``costs``.
        unit: of the costs that count.
    """

    def beats(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        a, b = ((p["costs"][unit], -p["score"]) for p in (one, other))
        return a != b and a[0] <= b[0] and a[1] <= b[1]

    ordered = sorted(points, key=lambda point: (point["costs"][unit], -point["score"], point["name"]))
    return [{**point, "dominated": any(beats(other, point) for other in ordered)} for point in ordered]


@rc_context(STYLE)
def draw_front(front: Mapping[str, Any]) -> Figure:
    """Draw score against cost; what is dominated is hollow, a line joins what is not."""
    shown, figure = shown_in(front["unit"]), Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    best = [point for point in front["points"] if not point["dominated"]]
    axes.plot(*_places(best, front["unit"]), color=MUTED, linewidth=1, drawstyle="steps-post", zorder=1)
    for kind, (label, color, mark) in KINDS.items():
        points = [point for point in front["points"] if point["kind"] == kind]
        for point in points:
            fill = "none" if point["dominated"] else color
            x, y = _places([point], front["unit"])
            axes.plot(x, y, mark, color=color, markerfacecolor=fill, label=label if point is points[0] else None)
            axes.annotate(_label(point), (x[0], y[0]), (4, 4), textcoords="offset points", fontsize=7, color=INK)
    axes.set(xlabel=f"cost of the whole network ({shown.word})", ylabel=f"val {front['metric']} (%)")
    if front["points"]:
        axes.legend(loc="best")
    return figure


def _label(point: Mapping[str, Any]) -> str:
    """Return what stands beside a mark: the budget, and of another run its name."""
    return " ".join(text for text in (Path(point.get("of", "")).name, point["budget"]) if text)


def _places(points: Sequence[Mapping[str, Any]], unit: str) -> tuple[list[float], list[float]]:
    per = shown_in(unit).per
    return [point["costs"][unit] / per for point in points], [100 * point["score"] for point in points]


def front_png(front: Mapping[str, Any]) -> bytes:
    """Return the drawing as a PNG on white."""
    buffer = io.BytesIO()
    draw_front(front).savefig(buffer, format="png", dpi=160, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def front_page(folder: Path, front: Mapping[str, Any]) -> str:
    """Return the page of a front, which refers to no other file."""
    part, units = Part(), list(front["seed"])
    caption = (
        "A mark is a network. A filled one is on the front: no other is as good for less. Look for hand cuts that are "
        "on it, and for how far found networks are above them."
    )
    part.draw(draw_front(front), caption)
    head = ("network", "kind", "budget", f"val {front['metric']} (%)", *map(_column, units), "on the front", "folder")
    part.tables.append(
        Table("All networks, the cheapest first.", head, [_row(p, units) for p in front["points"]], words=3)
    )
    part.notes += [f"Left out: {name}; {why}." for name, why in front["left_out"].items()]
    part.notes += [f"Still to do: {', '.join(front['missing'])}."] if front["missing"] else []
    networks = {_title(p, front["unit"]): Path(p["folder"]) for p in front["points"] if not p["dominated"]}
    sections = [("Score against cost", part, ""), ("Architectures on the front", side_by_side(folder, networks), "")]
    return render(f"Front of {folder.resolve().name}", folder, sections)


def _title(point: Mapping[str, Any], unit: str) -> str:
    return f"{point['name']} · {with_unit(point['costs'][unit], unit)} · {100 * point['score']:.2f} %"


def _column(unit: str) -> str:
    return shown_in(unit).word


def _row(point: Mapping[str, Any], units: Sequence[str]) -> tuple[str, ...]:
    costs = (with_unit(point["costs"][u], u).split()[0] if u in point["costs"] else DASH for u in units)
    about = (point["name"], KINDS[point["kind"]][0], point["budget"] or DASH)
    where = "/".join(Path(point["folder"]).parts[-3:])
    return (*about, f"{100 * point['score']:.2f}", *costs, "no" if point["dominated"] else "yes", where)
