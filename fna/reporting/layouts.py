"""Drawings of architectures side by side, as in Fig. 7 of the article."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from fna.arch import Arch, Block
from fna.reporting.figures import INK, KERNEL_COLORS, MUTED, OTHER_KERNEL, PAPER, STYLE

SLOT, GAP, ROW = 1.0, 0.45, 2.5  # width of a layer, space between stages, height of a network; 1 = INCH inches
INCH = 0.33


@rc_context(STYLE)
def draw_archs(archs: Mapping[str, Arch]) -> Figure:
    """Draw networks above each other, the same layer in the same column.

    A block is a box: its colour is the kernel size (`KERNEL_COLORS`), its width the expansion. A skipped layer is just
    the line that runs through; stages are dashed frames with output channels above, stride and dilation below.

    Args:
        archs: title -> network; a network may have fewer layers in a stage than the others.
    """
    depths = [
        max(len(arch.stages[s]) if s < len(arch.stages) else 0 for arch in archs.values())
        for s in range(max(len(arch.stages) for arch in archs.values()))
    ]
    starts = [1.2 + sum(depths[:s]) * SLOT + s * GAP for s in range(len(depths))]
    width, height = starts[-1] + depths[-1] * SLOT + 0.5, ROW * len(archs)
    figure = Figure(figsize=(width * INCH, height * INCH))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(-0.3, width - 0.3), ylim=(-height, 0))
    axes.axis("off")
    widest = max(block.expansion for arch in archs.values() for _, block in arch.layers())
    for row, (title, arch) in enumerate(archs.items()):
        y = -ROW * row - 1.4
        axes.text(-0.05, y + 1.15, title, weight="bold", size=8, va="center")
        axes.plot([0, width - 0.7], [y, y], color=MUTED, linewidth=0.8, zorder=1)
        _box(axes, 0.4, y, 0.8, PAPER, "stem", f"conv\n{arch.stem.kernel}x{arch.stem.kernel}", INK)
        _beside(axes, 0.4, y, f"{arch.stem.out_channels} ch", f"S={arch.stem.stride}")
        for s, stage in enumerate(arch.stages):
            _draw_stage(axes, s, stage, starts[s], depths[s] * SLOT, y, widest)
    return figure


def _draw_stage(axes: Axes, s: int, stage: Sequence[Block], x: float, width: float, y: float, widest: float) -> None:
    frame = FancyBboxPatch(
        (x - 0.08, y - 0.52),
        width + 0.16,
        1.04,
        boxstyle="round,pad=0,rounding_size=0.12",
        linestyle=(0, (3, 2)),
        edgecolor=MUTED,
        facecolor="none",
        linewidth=0.7,
        label="stage",
    )
    axes.add_patch(frame)
    first = stage[0]
    spatial = [f"S={first.stride}"] * (first.stride > 1) + [f"D={first.dilation}"] * (first.dilation > 1)
    name = f"stage {s} · " if width > SLOT else ""
    _beside(axes, x + width / 2, y, f"{name}{first.out_channels} ch", " ".join(spatial))
    for n, block in enumerate(stage):
        if block.kind != "skip":
            share = block.expansion / widest if block.kind == "mbconv" else 1.0
            color = KERNEL_COLORS.get(block.kernel, OTHER_KERNEL)
            text = re.sub(r"(?<=\d)(?=[eg])", "\n", re.sub(r"(_\d)\d+", r"\1", block.label))  # pruned: any number
            _box(axes, x + (n + 0.5) * SLOT, y, 0.34 + 0.54 * share, color, "block", text, "#111111")


def _box(axes: Axes, x: float, y: float, width: float, fill: str, label: str, text: str, color: str) -> None:
    box = FancyBboxPatch(
        (x - width / 2, y - 0.4),
        width,
        0.8,
        boxstyle="round,pad=0,rounding_size=0.08",
        facecolor=fill,
        edgecolor=MUTED,
        linewidth=0.6,
        zorder=2,
        label=label,
    )
    axes.add_patch(box)
    axes.text(x, y, text, ha="center", va="center", size=7, linespacing=1.15, color=color, zorder=3)


def _beside(axes: Axes, x: float, y: float, above: str, below: str) -> None:
    axes.text(x, y + 0.7, above, ha="center", va="center", size=7, color=MUTED)
    axes.text(x, y - 0.74, below, ha="center", va="center", size=7, color=MUTED)
