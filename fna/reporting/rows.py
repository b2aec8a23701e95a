"""The rows of a run's tables of scores: their order, their titles, and which of them the search is charged to.

No torch and no matplotlib at import.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, TypeVar

TITLES = {"baseline": "fine-tuned seed", "adapted": "FNA++ network"}  # in the order they are shown; controls follow
RANDOM, CUT = "control_random", "control_cut"  # targets that controls make, and their adaptations
PRUNED = "pruned"  # the target that a pruned control of a front makes
CONTROLS = {  # the rows of the table of controls, by the name of the adaptation
    "baseline": "(a) fine-tuned seed",
    "seed_long": "(b) fine-tuned seed, the run's total compute",
    "adapted": "(c) FNA++ network",
    "seed_super": "(d) seed's architecture, super network's weights",
    RANDOM: "(e) random architecture of the same cost, super network's weights",
    CUT: "(f) seed cut by hand to the same cost and input scale",
}
NUMBERS = {"output_stride": "output stride", "tower_depth": "tower depth"}  # of a form, where a task has them

T = TypeVar("T")


def seed_first(rows: Mapping[str, T]) -> dict[str, T]:
    """Order adaptations: the fine-tuned seed, the FNA++ network, the controls."""
    return {name: rows[name] for name in (*(n for n in TITLES if n in rows), *(n for n in rows if n not in TITLES))}


def charged_minutes(row: Mapping[str, Any], search_minutes: float | None) -> float:
    """Return the minutes of the search that a network needs beside its own: all or none.

    All, if its weights are the super network's or its architecture is a target of the run; none, if its architecture is
    the seed's, cut by hand, pruned or a file's (a path, or a name with an ending) and its weights are not searched
    either.

    Args:
        row: a row of metrics.json: `arch` and `init` as the settings of the adaptation name them.
        search_minutes: what the search took; None: there was none.
    """
    arch = PurePath(row["arch"])
    given = row["arch"] in ("seed", CUT, PRUNED) or arch.suffix != "" or arch.name != row["arch"]
    return search_minutes or 0.0 if row["init"] == "super" or not given else 0.0


def epochs_text(row: Mapping[str, Any]) -> str:
    """Write the epochs of a row, and which of them was kept where that was chosen.

    >>> epochs_text({"epochs": 20}), epochs_text({"epochs": 20, "keep": "best", "epoch": 7})
    ('20', '7 of 20')
    """
    return f"{row['epoch']} of {row['epochs']}" if is_chosen(row) else str(row["epochs"])


def is_chosen(row: Mapping[str, Any]) -> bool:
    """Tell whether a network is the best of its epochs on the validation split."""
    return row.get("keep") == "best"


def optimistic(rows: Mapping[str, Mapping[str, Any]], folder: str) -> list[str]:
    """Say which validation scores were also what a network was chosen by, in at most one sentence.

    Args:
        rows: of metrics.json.
        folder: of the run, as it is typed.
    """
    if not (chosen := [name for name, row in seed_first(rows).items() if is_chosen(row)]):
        return []
    return [
        f"validation scores are optimistic for {', '.join(chosen)}: the epoch that is kept was chosen by them "
        f"(adapt.keep: best); for scores on images that chose nothing, type: fna evaluate {folder} --split test"
    ]


def never_found(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say which classes, of which there are some, a run's network never predicts rightly, in at most one sentence.

    Args:
        rows: of metrics.json.

    >>> never_found({"adapted": {"recall": {"sky": 0.9, "pole": 0.0, "cat": None}}})
    ['the network never finds: pole; its score is that of the other classes']
    """
    row = rows.get("adapted", {})
    scores: Mapping[str, Any] = next((row[key] for key in ("recall", "ap50") if isinstance(row.get(key), Mapping)), {})
    names = [name for name, score in scores.items() if score == 0]
    return [f"the network never finds: {', '.join(names)}; its score is that of the other classes"] if names else []


def measured_text(latency: Mapping[str, Any]) -> str:
    """Say what a target's latency was predicted to be, and what it is.

    Args:
        latency: as targets/NAME.json has it.

    >>> measured_text({"predicted_ms": 30.0, "measured_ms": 31.5, "seed_measured_ms": 63.0})
    'takes 31.50 ms, predicted 30.00 ms (-4.8 %); the seed takes 63.00 ms, 2.00 x that'
    """
    predicted, measured = latency["predicted_ms"], latency["measured_ms"]
    if measured is None:
        return f"is predicted to take {predicted:.2f} ms; not measured here: {latency['why']}"
    error, faster = 100 * (predicted / measured - 1), latency["seed_measured_ms"] / measured
    seed = f"the seed takes {latency['seed_measured_ms']:.2f} ms, {faster:.2f} x that"
    return f"takes {measured:.2f} ms, predicted {predicted:.2f} ms ({error:+.1f} %); {seed}"


def minutes_text(row: Mapping[str, Any], search_minutes: float | None) -> str:
    """Write the minutes of a row, those of the search before its own.

    >>> minutes_text({"arch": "derived", "init": "super", "minutes": 6.0}, 12.0)
    '12.0 + 6.0'
    """
    charged = charged_minutes(row, search_minutes)
    return (f"{charged:.1f} + " if charged else "") + f"{row['minutes']:.1f}"
