"""The table of controls: what a run's network gains, and what of that its architecture, its weights or time bring.

No torch and no matplotlib at import.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fna.files import read_json
from fna.reporting.rows import CONTROLS, charged_minutes

NAMES = {title[1]: name for name, title in CONTROLS.items()}  # letter -> name of the adaptation
PAIRS = (  # the differences that are told, by letters: of the first row to the second
    *(("c", "a"), ("c", "b"), ("c", "d"), ("c", "e"), ("c", "f")),
    *(("d", "a"), ("b", "a")),
)
ABOUT = ("params", "madds", "epochs", "init", "head_width", "scale")
TODO = "still to do"


def compare(runs: Mapping[int, Path], left_out: Mapping[int, Mapping[str, str]] | None = None) -> dict[str, Any]:
    """Compare the rows of `CONTROLS` over runs of one recipe that differ in their RNG seed.

    Args:
        runs: run folder by RNG seed, finished or not.
        left_out: for each of them the rows that there cannot be, and why; None: what its controls.json says.

    Returns:
        JSON-ready: `metric` (its title), `entries` (a row of a run each), `missing` (sentences), `rows` (a row each:
        mean and spread), `differences` (of scores, as shares: mean, std and min over the runs that have both rows),
        `search_share` (minutes of the search / those of the seed's adaptation) and `madds_target_over_seed_max`.
    """
    entries, missing, metric, shares = [], [], "", []
    for rng_seed, folder in runs.items():
        metrics = _read(folder / "metrics.json") or {"rows": {}}
        why = (
            left_out[rng_seed] if left_out is not None else (_read(folder / "controls.json") or {}).get("left_out", {})
        )
        for name, title in CONTROLS.items():
            if name in metrics["rows"] and name not in why:
                metric = metrics["titles"][metrics["metric"]]
                entries.append(_entry(metrics, name, title))
            else:
                missing.append(f"RNG seed {rng_seed}, {title}: {why.get(name, TODO)}")
        if "baseline" in metrics["rows"] and metrics["search_minutes"]:
            shares.append(metrics["search_minutes"] / metrics["rows"]["baseline"]["minutes"])
    scores = {
        letter: {e["rng_seed"]: e["score"] for e in entries if e["row"] == CONTROLS[n]} for letter, n in NAMES.items()
    }
    madds = {
        letter: {e["rng_seed"]: e["madds"] for e in entries if e["row"] == CONTROLS[n]} for letter, n in NAMES.items()
    }
    times = [madds["c"][k] / madds["a"][k] for k in madds["c"] if k in madds["a"]]
    return {
        "rng_seeds": list(runs),
        "metric": metric,
        "entries": entries,
        "missing": missing,
        "rows": [_row(title, [e for e in entries if e["row"] == title]) for title in CONTROLS.values()],
        "differences": {
            f"{one}_minus_{other}": spread(
                [scores[one][k] - scores[other][k] for k in scores[one] if k in scores[other]]
            )
            for one, other in PAIRS
        },
        "search_share": statistics.mean(shares) if shares else None,
        "madds_target_over_seed_max": max(times, default=None),
    }


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return number, mean, standard deviation (None of fewer than two) and least of some values."""
    return {
        "number": len(values),
        "mean": statistics.mean(values) if values else None,
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "min": min(values, default=None),
    }


def _read(path: Path) -> Any:
    return read_json(path) if path.exists() else None


def _entry(metrics: Mapping[str, Any], name: str, title: str) -> dict[str, Any]:
    """Return a row of one run: the headline score, costs, and the other scores that are numbers."""
    row, metric = metrics["rows"][name], metrics["metric"]
    return {
        "row": title,
        "rng_seed": row["rng_seed"],
        "metric": metrics["titles"][metric],
        "score": row[metric],
        "minutes": row["minutes"] + charged_minutes(row, metrics["search_minutes"]),
        **{key: row[key] for key in ABOUT},
        "scores": {key: row[key] for key in metrics["titles"] if isinstance(row.get(key), float)},
    }


def _row(title: str, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a row over all runs: mean and spread of the score, means of what it costs."""
    means = {
        key: statistics.mean(entry[key] for entry in entries) if entries else None
        for key in ("params", "madds", "minutes", "epochs", "head_width", "scale")
    }
    return {
        "row": title,
        "score": spread([e["score"] for e in entries]),
        "init": sorted({e["init"] for e in entries}),
        **means,
    }
