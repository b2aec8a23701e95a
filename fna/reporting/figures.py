"""Drawings for the report, as matplotlib figures and inline SVG. No torch, no pyplot, no global state.

`to_svg` turns the colours of `VARIABLES` into CSS variables, so the figures follow the page's light or dark scheme. The
other colours are readable on both and safe for the colour-blind (after Okabe and Ito).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fna.cost.units import Unit

INK, MUTED, RULE, PAPER = "#1c2024", "#6a717a", "#d4d8dd", "#fdfefe"
VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", RULE: "var(--rule)", PAPER: "var(--paper)"}
BLUE, ORANGE, GREEN, PINK, SKY, GOLD = "#1f83c4", "#d9702b", "#149a78", "#c46fa2", "#56b4e9", "#d69a16"
KERNEL_COLORS = {3: "#8cc9f0", 5: "#f2be4e", 7: "#e5824a", 9: "#d493b8"}
OTHER_KERNEL = "#c3c8ce"
CURVE_COLORS = (BLUE, ORANGE, GREEN, PINK, SKY, GOLD)  # once in lines, once in dashes
NETWORK_COLORS = {"baseline": ORANGE, "adapted": BLUE}  # controls take the others in turn
STYLE: dict[Any, Any] = {  # Any: matplotlib types the keys one by one
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.color": INK,
    "text.parse_math": False,  # a class called `$x$` stays what it is
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "figure.facecolor": "none",
    "figure.dpi": 160,  # of the parts that are pictures: dots of raw values, heat maps
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: sharp, searchable, in the page's font
}
MEAN = "mean"  # name of the curve that stands out
NAMED_CURVES = 2 * len(CURVE_COLORS)  # beside the mean; more than that cannot be told apart
EXTREMES = 3  # with more curves, so many of the largest and of the smallest area are named
NUMBERED_ROWS = 21  # of more, numbers in the cells cannot be read
MANY = 100_000  # counts of so many digits do not fit into a cell
Series = NDArray[np.float64]

# --- the search (article, Fig. 9) -----------------------------------------------------------------------------------


@rc_context(STYLE)
def draw_search(log: Mapping[str, Series], unit: Unit, budget: float | None = None) -> Figure:
    """Draw task loss, cost and the budget's multiplier over the steps of the search.

    Args:
        log: the columns of search.csv; NaN where a cell is empty.
        unit: of the costs.
        budget: cost allowed, or None.
    """
    step, known = log["step"], np.isfinite(log["multiplier"])
    moving = step[np.isfinite(log["alpha_loss"])]
    heights = (3, 3, 1.5) if known.any() else (3, 3)
    figure = Figure(figsize=(9, 0.2 + 0.8 * sum(heights)), layout="constrained")
    loss, cost, *held = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    size = 2.5 if len(step) > 500 else 5
    dots = {"linestyle": "none", "marker": ".", "markersize": size, "alpha": 0.3, "rasterized": True}
    for name, color, label in (("task_loss", BLUE, "weights' images"), ("alpha_loss", GREEN, "alphas' images")):
        there = np.isfinite(log[name])
        if there.any():
            loss.plot(step[there], log[name][there], color=color, **dots)
            loss.plot(step[there], _smooth(log[name][there]), color=color, linewidth=1.5, label=label)
    above: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0}  # it hides nothing
    loss.legend(**above, ncols=2)
    loss.set_ylabel("task loss")
    cost.plot(step, log["sampled_cost"] / unit.per, color=ORANGE, **dots)
    cost.plot([], [], ".", color=ORANGE, label="sampled path")  # the legend's, not as faint
    if moving.size:
        cost.plot(step, log["expected_cost"] / unit.per, color=BLUE, linewidth=1.5, label="expected")
    if budget is not None:
        cost.axhline(budget / unit.per, color=INK, linewidth=1, linestyle="--", label="budget")
    cost.set_ylabel(f"cost ({unit.word})")
    cost.legend(**above, ncols=3)
    for multiplier in held:
        marker = "." if known.sum() == 1 else ""  # one value alone makes no line
        multiplier.plot(step, log["multiplier"], color=GREEN, linewidth=1.5, marker=marker)
        multiplier.set_ylabel("multiplier")
    figure.axes[-1].set_xlabel("weight step of the search")
    figure.axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in figure.axes:
        if moving.size:
            axes.axvline(moving[0], color=MUTED, linewidth=0.8, linestyle=":")
    if moving.size:
        place = loss.get_xaxis_transform()  # x in steps, y in heights of the panel
        words, side = "\N{NO-BREAK SPACE}alphas start\N{NO-BREAK SPACE}", "left" if moving[0] < step.mean() else "right"
        loss.text(moving[0], 0.97, words, transform=place, ha=side, va="top", size=7.5, color=MUTED)
    figure.align_ylabels()
    return figure


def _smooth(values: Series) -> Series:
    """Running mean over a fiftieth of the values, at least five; fewer at both ends."""
    window = np.ones(min(len(values), max(5, len(values) // 50)))
    smooth: Series = np.convolve(values, window, "same") / np.convolve(np.ones_like(values), window, "same")
    return smooth


@rc_context(STYLE)
def draw_entropy(layers: Sequence[str], epochs: Series, entropy_LE: Series) -> Figure:
    """Draw the entropy of every layer's alphas over the epochs.

    Args:
        layers: names, in forward order.
        epochs: numbers of the epochs, shape (E,).
        entropy_LE: 0 (decided) to 1 (uniform), shape (L, E).
    """
    figure, axes = _heat_map(entropy_LE, layers, "entropy", (epochs[0] - 0.5, epochs[-1] + 0.5), 1.0)
    axes.set_ylabel("layer (stage.layer)")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch of the search")
    return figure


@rc_context(STYLE)
def draw_alphas(alphas: Mapping[str, Mapping[str, float]], chosen: Mapping[str, str] | None = None) -> Figure:
    """Draw the softmax of the final alphas, layer by candidate.

    Args:
        alphas: layer -> label of the candidate -> alpha.
        chosen: layer -> label of the derived candidate, marked with a dot.
    """
    layers = list(alphas)
    seen = list(dict.fromkeys(label for row in alphas.values() for label in row))
    labels = sorted(seen, key=lambda label: label == "skip")
    share_LC = np.full((len(layers), len(labels)), np.nan)
    for i, row in enumerate(alphas.values()):
        values = np.array(list(row.values()))
        weights = np.exp(values - values.max())
        share_LC[i, [labels.index(label) for label in row]] = weights / weights.sum()
    figure, axes = _heat_map(share_LC, layers, "softmax(alpha)", (-0.5, len(labels) - 0.5), None)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlabel("candidate")
    axes.set_ylabel("layer (stage.layer)")
    for layer, label in (chosen or {}).items():
        if layer in layers and label in labels:
            axes.plot(labels.index(label), layers.index(layer), "o", ms=7, mfc="white", mec="#111111", mew=1.2)
    return figure


@rc_context(STYLE)
def draw_candidates(costs: Series, losses: Series, names: Sequence[str], unit: Unit) -> Figure:
    """Draw the loss of candidates against their cost, and the least loss for each cost.

    Args:
        costs: of the candidates, shape (C,).
        losses: on held-out training images, shape (C,).
        names: what to write at a candidate, which is then ringed; empty: nothing.
        unit: of the costs.
    """
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    axes = figure.add_subplot(xlabel=f"cost ({unit.word})", ylabel="held-out loss")
    costs = costs / unit.per
    order = np.argsort(costs, kind="stable")
    least = np.minimum.accumulate(losses[order])
    axes.plot(costs[order], least, color=MUTED, linewidth=1, drawstyle="steps-post")
    axes.plot(costs, losses, ".", color=BLUE, markersize=5, alpha=0.6)
    for cost, loss, name in zip(costs, losses, names, strict=True):
        if name:
            axes.plot(cost, loss, "o", ms=9, mfc="none", mec=ORANGE, mew=1.6)
            axes.annotate(name, (cost, loss), (6, 6), textcoords="offset points", color=INK)
    return figure


def _heat_map(
    values_RC: Series, rows: Sequence[str], title: str, x: tuple[float, float], top: float | None, width: float = 5
) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, max(1.6, 0.19 * len(rows) + 1.0)), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(False)
    axes.set_facecolor(RULE)  # where a layer has no such candidate
    extent = (*x, len(rows) - 0.5, -0.5)
    image = axes.imshow(values_RC, vmin=0, vmax=top, extent=extent, aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(rows)), rows, size=7)
    axes.tick_params(length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    bar = figure.colorbar(image, ax=axes, fraction=0.045, pad=0.02, aspect=40, label=title)
    bar.outline.set_visible(False)
    return figure, axes


# --- the scores -----------------------------------------------------------------------------------------------------


@rc_context(STYLE)
def draw_scores(scores: Mapping[str, tuple[Series, Series]], titles: Mapping[str, str], metric: str) -> Figure:
    """Draw the validation score of every network over its epochs.

    Args:
        scores: name of the adaptation -> epochs, scores (0..1).
        titles: name -> what the legend says.
        metric: name of the score.
    """
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    axes = figure.add_subplot(xlabel="epoch", ylabel=f"{metric} (%)")
    for (name, (epochs, values)), style in zip(scores.items(), _network_styles(scores), strict=True):
        label = f"{titles.get(name, name)}: {100 * values[-1]:.1f}"
        axes.plot(epochs, 100 * values, marker="o", markersize=3, label=label, **style)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.margins(x=0.02 if max(len(epochs) for epochs, _ in scores.values()) > 1 else 0.5)
    figure.legend(loc="outside upper left", ncols=2)
    return figure


@rc_context(STYLE)
def draw_losses(losses: Mapping[str, tuple[Series, Series]], titles: Mapping[str, str]) -> Figure:
    """Draw the training loss of every network over its iterations.

    Args:
        losses: name of the adaptation -> iterations, losses.
        titles: name -> what the legend says.
    """
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.add_subplot(xlabel="iteration", ylabel="training loss")
    for (name, (steps, values)), style in zip(losses.items(), _network_styles(losses), strict=True):
        known = np.isfinite(values)
        axes.plot(steps[known], _smooth(values[known]), label=titles.get(name, name), **style)
    figure.legend(loc="outside upper left", ncols=2)
    return figure


def _network_styles(names: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield how the line of each network is drawn: the two that matter whole, all others in dashes."""
    others = cycle((GREEN, PINK, GOLD, SKY))
    for name in names:
        known = name in NETWORK_COLORS
        color = NETWORK_COLORS[name] if known else next(others)
        yield {"color": color, "linewidth": 2 if known else 1.3, "linestyle": "-" if known else "--"}


@rc_context(STYLE)
def draw_curves(panels: Mapping[str, Mapping[str, tuple[Series, Series]]], x: str, y: str) -> Figure:
    """Draw curves beside each other, a panel per network, all with the same axes.

    Args:
        panels: title of the panel -> name of the curve -> xs, ys; the one called `MEAN` stands out.
        x: what the xs are.
        y: what the ys are.
    """
    figure = Figure(figsize=(4.5 * len(panels), 3.8), layout="constrained")
    axes_P = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    styles = _curve_styles(panels)
    lines = {}
    for axes, (title, curves) in zip(axes_P, panels.items(), strict=True):
        axes.set_title(title, size=9)
        axes.set_xlabel(x)
        for name, (xs, ys) in curves.items():
            (lines[styles[name]["label"]],) = axes.plot(xs, ys, **styles[name])
    axes_P[0].set_ylabel(y)
    labels = list(dict.fromkeys(style["label"] for style in styles.values()))
    column = 0.65 + 0.075 * max(map(len, labels), default=0)  # inches: a piece of line, then some 5 points a letter
    handles = [lines[label] for label in labels]
    figure.legend(handles, labels, loc="outside upper left", ncols=max(1, int(figure.get_figwidth() / column)))
    return figure


def _curve_styles(panels: Mapping[str, Mapping[str, tuple[Series, Series]]]) -> dict[str, dict[str, Any]]:
    """Return how each curve is drawn, in the order of the legend: the mean, the named ones, all others in grey.

    Of more than `NAMED_CURVES` only those with the largest and the smallest area under them are named: that of all
    panels together, so that a curve looks the same in each.
    """
    areas: dict[str, float] = {}
    for curves in panels.values():
        for name, (xs, ys) in curves.items():
            areas[name] = areas.get(name, 0) + float(np.diff(xs) @ (ys[1:] + ys[:-1])) / 2
    styles = {}
    if areas.pop(MEAN, None) is not None:
        styles[MEAN] = {"label": MEAN, "color": INK, "linewidth": 2.4, "zorder": 3}
    labels = {name: name for name in areas}
    if len(areas) > NAMED_CURVES:
        ranked = sorted(areas, key=lambda name: -areas[name])
        labels = {name: f"largest area: {name}" for name in ranked[:EXTREMES]}
        labels |= {name: f"smallest area: {name}" for name in ranked[-EXTREMES:]}
    for i, (name, label) in enumerate(labels.items()):
        dash, color = divmod(i, len(CURVE_COLORS))
        styles[name] = {"label": label, "color": CURVE_COLORS[color], "linestyle": ("-", "--")[dash], "linewidth": 1.4}
    grey = {"label": f"{len(areas) - len(labels)} others", "color": RULE, "linewidth": 0.7, "zorder": 1.5}
    return styles | {name: grey for name in areas if name not in labels}


@rc_context(STYLE)
def draw_confusion(counts_RC: Series, rows: Sequence[str], columns: Sequence[str]) -> Figure:
    """Draw which truth was taken for what: the share of every row's total, in numbers where there is room.

    Args:
        counts_RC: how often, shape (rows, columns).
        rows: what was true.
        columns: what was predicted.
    """
    share_RC = counts_RC / np.maximum(counts_RC.sum(1, keepdims=True), 1)
    numbered, longest = len(rows) <= NUMBERED_ROWS, max(map(len, (*rows, *columns)))
    width = max(5, (0.3 if numbered else 0.19) * len(columns) + 0.06 * longest + 1.2)  # inches: cells, names, the rest
    figure, axes = _heat_map(share_RC, rows, "share of the row", (-0.5, len(columns) - 0.5), 1.0, width)
    axes.set_xticks(range(len(columns)), columns, size=7, rotation=90 if len(columns) * longest > 45 else 0)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if numbered:
        many = counts_RC.max() >= MANY  # pixels: their shares are of more use, in %
        for (r, c), count in np.ndenumerate(counts_RC):
            color, share = "#111111" if share_RC[r, c] > 0.5 else "#ffffff", 100 * share_RC[r, c]
            axes.text(c, r, f"{share:.0f}" if many else f"{count:.0f}", ha="center", va="center", size=7, color=color)
    return figure


# --- into the page --------------------------------------------------------------------------------------------------


def to_svg(figure: Figure) -> str:
    """Return a figure as an ``<svg>`` element for an HTML page that defines `VARIABLES`."""
    buffer = io.StringIO()
    with rc_context({**STYLE, "svg.hashsalt": "fna"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # every figure has an "axes_1"; nothing refers to them
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, variable)
    return svg
