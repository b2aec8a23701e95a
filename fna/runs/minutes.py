"""The minutes a network took, in one rule for tables, report and benchmarks. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def searched_minutes(metrics: Mapping[str, Any], row: Mapping[str, Any]) -> float:
    """Return the minutes of the search that a network is charged, beside its own.

    It pays for the search in full if its weights come from the super network or its architecture was derived.

    Args:
        metrics: content of metrics.json.
        row: the network's row in it.

    >>> metrics = {"search_minutes": 12.5}
    >>> searched_minutes(metrics, {"arch": "derived", "init": "seed"})
    12.5
    >>> searched_minutes(metrics, {"arch": "seed", "init": "seed"})
    0.0
    """
    charged = row["init"] == "super" or row["arch"] == "derived"
    return float(metrics.get("search_minutes") or 0) if charged else 0.0


def write_minutes(metrics: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """Write the minutes of a network, those of the search before its own.

    >>> write_minutes({"search_minutes": 12.5}, {"arch": "seed", "init": "super", "minutes": 3})
    '12.5 + 3.0'
    """
    searched = searched_minutes(metrics, row)
    return (f"{searched:.1f} + " if searched else "") + f"{row['minutes']:.1f}"
