"""What commands print on stdout, from rank 0 only: tables for people and JSON for machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fna.progress import first_rank, say
from fna.runs.minutes import write_minutes

if TYPE_CHECKING:
    from rich.table import Table

Row = Mapping[str, Any]


def results_table(metrics: Mapping[str, Any]) -> Table:
    """Compare the networks of a run, the fine-tuned seed first.

    Args:
        metrics: content of metrics.json. Networks that the search led to show its minutes beside their own.
    """
    metric = metrics["metric"]
    order = {"baseline": 0, "adapted": 1}
    rows = []
    for _, row in sorted(metrics["rows"].items(), key=lambda item: order.get(item[0], 2)):
        rows.append(
            {
                "network": row["title"],
                "params": f"{row['params'] / 1e6:.3f} M",
                "MAdds": f"{row['madds'] / 1e9:.3f} G",
                metrics["titles"][metric]: f"{100 * row[metric]:.2f} %",
                "minutes": write_minutes(metrics, row),
            }
        )
    return table(rows)


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


def show_result(result: Mapping[str, Any]) -> None:
    """Print what a stage returned: the table if it scored networks, and all plain values."""
    if "rows" in result:
        show_table(results_table(result))
    for warning in result.get("warnings", ()):
        say(f"warning: {warning}")
    for key, value in result.items():
        if first_rank() and isinstance(value, str | int | float) and key != "metric":
            print(f"{key}: {value:,}" if isinstance(value, int) else f"{key}: {value}")
