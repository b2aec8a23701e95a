"""Where the compute is, in the report: the MAdds of stem, stages and head of the seed and of targets side by side."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib import rc_context
from matplotlib.figure import Figure

from fna.cost.shares import Parts, percent
from fna.cost.units import shown_in
from fna.reporting import figures
from fna.reporting.parts import DASH, Table

COLORS = (*figures.CURVE_COLORS, *figures.KERNEL_COLORS.values())
HEAD = figures.OTHER_KERNEL
LEGIBLE = 4  # % of the longest bar that a number needs


def shares_table(networks: Mapping[str, Parts]) -> Table:
    """Lay out MAdds by part.

    Args:
        networks: title -> MAdds by part, the seed's first.
    """
    unit = shown_in("MAdds")
    rows = []
    for part in _parts(networks):
        cells = [part]
        for parts in networks.values():
            here = part in parts
            cells += [f"{parts[part] / unit.per:.4f}", f"{percent(parts, part)} %"] if here else [DASH, DASH]
        rows.append(cells)
    whole = [cell for parts in networks.values() for cell in (f"{sum(parts.values()) / unit.per:.4f}", "")]
    head = [cell for title in networks for cell in (f"{title} (G)", "share")]
    caption = (
        "Multiply-adds of the stem, each stage and the head, at each network's own input size. Look for where a target "
        "spends what it saves elsewhere, and for what the head takes."
    )
    return Table(caption, ["part", *head], [*rows, ["whole network", *whole]])


@rc_context(figures.STYLE)
def draw_shares(networks: Mapping[str, Parts]) -> Figure:
    """Draw a bar for each network, as long as its MAdds, made of its parts; numbers are their shares in %.

    Args:
        networks: title -> MAdds by part, the seed's first.
    """
    unit, names = shown_in("MAdds"), _parts(networks)
    figure = Figure(figsize=(9, 1.1 + 0.42 * len(networks)), layout="constrained")
    axes = figure.subplots()
    longest = max(sum(parts.values()) for parts in networks.values())
    for y, parts in enumerate(networks.values()):
        left = 0
        for i, name in enumerate(names):
            madds = parts.get(name, 0)
            color = HEAD if name == "head" else COLORS[i % len(COLORS)]
            label = name if y == 0 else None
            axes.barh(y, madds / unit.per, 0.66, left / unit.per, color=color, edgecolor=figures.PAPER, label=label)
            if 100 * madds > LEGIBLE * longest:
                middle, text = (left + madds / 2) / unit.per, f"{percent(parts, name)}"
                axes.text(middle, y, text, ha="center", va="center", size=7.5, color="#111111")
            left += madds
    axes.set_yticks(range(len(networks)), list(networks))
    axes.invert_yaxis()
    axes.grid(False)
    axes.set_xlabel(unit.word)
    figure.legend(loc="outside upper left", ncols=len(names), fontsize=7.5, handlelength=1, columnspacing=1)
    return figure


def _parts(networks: Mapping[str, Parts]) -> list[str]:
    """Return the parts of all networks in forward order."""
    names = dict.fromkeys(name for parts in networks.values() for name in parts)
    stages = sorted((name for name in names if name.startswith("stage ")), key=lambda name: int(name.split()[1]))
    return [*(n for n in names if n == "stem"), *stages, *(n for n in names if n != "stem" and n not in stages)]
