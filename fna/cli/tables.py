"""What commands print on stdout, from rank 0 only: tables for people and JSON for machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fna.cost.shares import moved
from fna.cost.units import with_unit
from fna.errors import quoted
from fna.progress import first_rank, say
from fna.reporting.rows import NUMBERS, epochs_text, is_chosen, minutes_text, never_found, optimistic, seed_first

if TYPE_CHECKING:
    from rich.table import Table

Row = Mapping[str, Any]


def results_table(metrics: Mapping[str, Any]) -> Table:
    """Compare the networks of a run, the fine-tuned seed first.

    Args:
        metrics: content of metrics.json. Networks that the search led to show its minutes beside their own.
    """
    metric, rows = metrics["metric"], seed_first(metrics["rows"])
    factors = {"head_width": "head width", "scale": "input scale"}
    numbers = [key for key in NUMBERS if len({row.get(key) for row in rows.values()}) > 1]
    chosen = any(map(is_chosen, rows.values()))
    varied = {key: head for key, head in factors.items() if any(row[key] != 1 for row in rows.values())}
    return table(
        [
            {
                "network": row["title"],
                **{head: f"{row[key]:g} x" for key, head in varied.items()},
                **{NUMBERS[key]: row.get(key) for key in numbers},
                "params": f"{row['params'] / 1e6:.3f} M",
                "MAdds": f"{row['madds'] / 1e9:.3f} G",
                f"{metrics['split']} {metrics['titles'][metric]}": f"{100 * row[metric]:.2f} %",
                **({"epoch": epochs_text(row)} if chosen else {}),
                "minutes": minutes_text(row, metrics["search_minutes"]),
            }
            for row in rows.values()
        ]
    )


def table(rows: Sequence[Row], title: str = "") -> Table:
    """Lay out rows that have the same columns."""
    from rich import box
    from rich.table import Table

    laid = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD)
    for column in rows[0] if rows else ():
        numbers = all(row[column] is None or type(row[column]) in (int, float) for row in rows)
        laid.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        laid.add_row(*map(_cell, row.values()))
    return laid


def _cell(value: Any) -> str:
    from rich.markup import escape

    if isinstance(value, bool | list | tuple):
        return escape(json.dumps(value))
    if isinstance(value, int):
        return f"{value:,}"
    return "" if value is None else escape(str(value))


def show_table(laid: Table) -> None:
    """Print a table; without a terminal plain and wide."""
    from rich.console import Console

    if first_rank():
        Console(width=None if sys.stdout.isatty() else 200).print(laid)


def show_json(data: Any) -> None:
    """Print JSON."""
    if first_rank():
        print(json.dumps(data, indent=2))


def show_result(result: Mapping[str, Any], folder: Path | None = None) -> None:
    """Print what a stage returned: the table if it scored networks, and all plain values, costs in its `unit`."""
    if "rows" in result:
        show_table(results_table(result))
    warnings = [*result.get("warnings", ())]
    if "rows" in result:
        warnings += never_found(result["rows"])
        warnings += optimistic(result["rows"], quoted(folder or "RUN")) if result["split"] == "val" else []
    for warning in warnings:
        say(f"warning: {warning}")
    if (compute := _compute(result)) and first_rank():
        print(f"compute: {compute}")
    for key, value in result.items():
        if first_rank() and isinstance(value, str | int | float) and key not in ("metric", "split"):
            print(f"{key}: {_plain(key, value, result.get('unit'))}")


def _compute(result: Mapping[str, Any]) -> str:
    """Say where the compute of a target, or of a run's FNA++ network, went against the seed; empty if none is there."""
    network = result["rows"].get("adapted", {}) if "rows" in result else result
    before, after = result.get("seed_madds_parts"), network.get("madds_parts")
    return moved(before, after) if before and after else ""


def _plain(key: str, value: str | float, unit: str | None) -> str:
    """Write a value to be read.

    >>> [_plain(key, 2**30, None) for key in ("peak_memory", "memory", "madds")], _plain("minutes", 0.2454426, None)
    (['1.00 GiB', '1073.74 MB', '1,073,741,824'], '0.2454')
    """
    if unit and key.endswith("cost"):
        return with_unit(float(value), unit)
    if key.endswith("peak_memory"):
        return f"{float(value) / 2**30:.2f} GiB"
    if key.endswith("memory"):  # of a network, not of training
        return with_unit(float(value), "B")
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else value
