"""The table of controls: what a run's network gains, and what of it its architecture, its weights or time bring."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fna.arch.target import Form
from fna.files import read_json
from fna.reporting.parts import DASH, MINUS, TIMES, Part, Table, signed
from fna.reporting.rows import CONTROLS, charged_minutes
from fna.runs.manifest import seed_folders

LETTERS = {title[1]: title for title in CONTROLS.values()}
PAIRS = (  # the differences that are told, by letters: of the first row to the second
    *(("c", "a"), ("c", "b"), ("c", "d"), ("c", "e"), ("c", "f")),
    *(("d", "a"), ("b", "a")),
)
MEANS = ("params", "madds", "minutes", "compute_minutes", "epochs", "head_width", "scale")
TODO = "still to do"
TIE = 0.0005  # of a score: less than a twentieth of a point is none

Compared = Mapping[str, Any]  # what `compare` returns


def compare(runs: Mapping[int, Path], left_out: Mapping[int, Mapping[str, str]] | None = None) -> dict[str, Any]:
    """Compare the rows of `CONTROLS` over runs of one recipe that differ in their RNG seed.

    Args:
        runs: run folder by RNG seed, finished or not.
        left_out: for each of them the rows that there cannot be, and why; None: what its controls.json says.

    Returns:
        See `join`.

    Raises:
        FnaError: a file of theirs is damaged.
    """
    entries: list[dict[str, Any]] = []
    missing, shares = [], {}
    for rng_seed, folder in runs.items():
        metrics = _read(folder / "metrics.json") or {"rows": {}}
        why = left_out[rng_seed] if left_out else (_read(folder / "controls.json") or {}).get("left_out", {})
        rows = {name: row for name, row in metrics["rows"].items() if name in CONTROLS and name not in why}
        for name, title in CONTROLS.items():
            if name in rows:
                entries.append(entry(metrics, rows[name], title, rng_seed))
            else:
                missing.append({"rng_seed": rng_seed, "row": title, "why": why.get(name, TODO)})
        if "baseline" in rows and metrics["search_compute_minutes"]:
            shares[rng_seed] = metrics["search_compute_minutes"] / rows["baseline"]["compute_minutes"]
    return join(list(runs), entries, missing, shares)


def join(
    rng_seeds: Sequence[int],
    entries: Sequence[Mapping[str, Any]],
    missing: Sequence[Mapping[str, Any]],
    search_shares: Mapping[int, float],
) -> dict[str, Any]:
    """Compare rows of runs that differ in their RNG seed.

    Args:
        rng_seeds: of the runs.
        entries: a row of a run each.
        missing: rows of a run that are not there: `rng_seed`, `row` (its title) and `why`.
        search_shares: by RNG seed: computing time of the search / that of the seed's adaptation.

    Returns:
        JSON-ready: the above, `search_share` being a mean, `metric` (its title), `rows` (a row each: mean and spread),
        `differences` (of scores, as shares, over the runs that have both rows; see `spread`) and
        `madds_target_over_seed_max`.
    """
    by_letter = {
        letter: {entry["rng_seed"]: entry for entry in entries if entry["row"] == title}
        for letter, title in LETTERS.items()
    }
    pairs = {
        (one, other): [(entry, by_letter[other][k]) for k, entry in by_letter[one].items() if k in by_letter[other]]
        for one, other in PAIRS
    }
    return {
        "rng_seeds": list(rng_seeds),
        "metric": next((entry["metric"] for entry in entries), ""),
        "entries": entries,
        "missing": missing,
        "rows": [_row(title, list(by_letter[letter].values())) for letter, title in LETTERS.items()],
        "differences": {
            f"{one}_minus_{other}": spread([a["score"] - b["score"] for a, b in both])
            for (one, other), both in pairs.items()
        },
        "search_share": statistics.mean(search_shares.values()) if search_shares else None,
        "search_shares": {str(k): share for k, share in search_shares.items()},
        "madds_target_over_seed_max": max((c["madds"] / a["madds"] for c, a in pairs["c", "a"]), default=None),
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


def entry(metrics: Mapping[str, Any], row: Mapping[str, Any], title: str, rng_seed: int) -> dict[str, Any]:
    """Return a row of one run: the headline score, costs, and the other scores that are numbers."""
    metric = metrics["metric"]
    return {
        "row": title,
        "rng_seed": rng_seed,
        "metric": metrics["titles"][metric],
        "score": row[metric],
        **{key: row[key] for key in ("params", "madds")},
        **{key: row[key] + charged_minutes(row, metrics[f"search_{key}"]) for key in ("minutes", "compute_minutes")},
        **{key: row.get(key) for key in ("epochs", "init", *Form._fields)},
        "scores": {key: row[key] for key in metrics["titles"] if isinstance(row.get(key), float)},
    }


def _row(title: str, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a row over all runs: mean and spread of the score, means of what it costs, where its weights come from."""
    means = {key: statistics.mean(entry[key] for entry in entries) if entries else None for key in MEANS}
    init = sorted({str(entry["init"]) for entry in entries})
    return {"row": title, "score": spread([entry["score"] for entry in entries]), "init": init, **means}


# --- in words ---------------------------------------------------------------------------------------------------------


def sentences(compared: Compared) -> list[str]:
    """Say what the architecture brings, what the weights, what more training, and whether (c) is the best.

    Args:
        compared: of `compare`.
    """
    differences, rows = compared["differences"], {row["row"][1]: row for row in compared["rows"]}
    said = []
    if differences["c_minus_a"]["number"]:
        scores = [f"{_score(rows[letter]['score'])} {compared['metric']}" for letter in "ca"]
        said.append(
            f"(c), the network found, scores {scores[0]}, and (a), the seed under the same schedule, {scores[1]}: "
            f"(c) {MINUS} (a) = {_points(differences['c_minus_a'])}."
        )
    for pair, words in (
        ("c_minus_d", "From the architecture, its input scale and head width included"),
        ("d_minus_a", "From the super network's weights"),
        ("b_minus_a", "What training (a) for the run's total compute buys"),
        ("c_minus_e", "Against a random architecture of the same cost"),
        ("c_minus_f", f"Against the seed cut by hand, weights from {_from(rows['f'])}"),
    ):
        if differences[pair]["number"]:
            one, other = pair[0], pair[-1]
            said.append(f"{words}: ({one}) {MINUS} ({other}) = {_points(differences[pair])}.")
    said += _verdict(compared)
    if share := compared["search_share"]:
        said.append(f"The search took {share:.2g} {TIMES} the computing time of the adaptation of (a).")
    return said + _missing(compared)


def _missing(compared: Compared) -> list[str]:
    """Name the rows that are not there, and why, those of one reason together."""
    grouped: dict[tuple[int, str], list[str]] = {}
    for row in compared["missing"]:
        grouped.setdefault((row["rng_seed"], row["why"]), []).append(row["row"][:3])
    return [
        f"Not there, RNG seed {rng_seed}: {', '.join(letters)}; {why}." for (rng_seed, why), letters in grouped.items()
    ]


def _verdict(compared: Compared) -> Iterator[str]:
    """Say which rows are ahead of (c), and how much is noise."""
    against = {key[-1]: value for key, value in compared["differences"].items() if key[0] == "c" and value["number"]}
    if not against:
        return
    ahead = {letter: value for letter, value in against.items() if value["mean"] < -TIE}
    listed = ", ".join(
        f"({letter}) is ahead by {_points({**value, 'mean': -value['mean']}, sign=False)}"
        for letter, value in sorted(ahead.items(), key=lambda item: float(item[1]["mean"]))
    )
    others = f"of (a) to ({max(LETTERS)})" if len(against) == len(LETTERS) - 1 else "of the rows that are there"
    yield f"(c) is not the best: {listed}." if ahead else f"(c) is the best {others}."
    number = len(compared["rng_seeds"])
    if number > 1:
        yield f"± is the standard deviation over {number} RNG seeds, or as many of them as there are."
    else:
        yield "One RNG seed: a point can be luck; --rng-seeds 3 shows the spread."


def _from(row: Mapping[str, Any]) -> str:
    return " or ".join({"super": "the super network", "seed": "the seed"}.get(init, init) for init in row["init"])


def _score(value: Mapping[str, Any]) -> str:
    """Write a score in % with its spread."""
    if value["mean"] is None:
        return DASH
    return f"{100 * value['mean']:.1f}" + (f" ± {100 * value['std']:.1f}" if value["std"] is not None else "") + " %"


def _points(value: Mapping[str, Any], *, sign: bool = True) -> str:
    """Write a difference in points with its spread, and say where it is no more than that."""
    mean, std = 100 * value["mean"], value["std"]
    text = signed(mean, 1) if sign else f"{mean:.1f}"
    if std is None:
        return f"{text} points"
    return f"{text} ± {100 * std:.1f} points" + (", within the spread" if abs(mean) <= 100 * std else "")


# --- tables -----------------------------------------------------------------------------------------------------------


def table(compared: Compared) -> Table:
    """Make the table of controls: a row each, those that are missing with dashes."""
    several = len(compared["rng_seeds"]) > 1
    head = [
        *("network", f"val {compared['metric']}", f"(c) {MINUS} it, points"),
        *["RNG seeds"] * several,
        *("weights from", f"input scale {TIMES}", "params (M)", "MAdds (G)", "epochs", "minutes, search included"),
    ]
    rows = []
    for row in compared["rows"]:
        letter, there = row["row"][1], row["score"]["number"]
        difference = compared["differences"].get(f"c_minus_{letter}", {"number": 0})
        cells = [row["row"], _score(row["score"])]
        cells.append(_points(difference).partition(" points")[0] if difference["number"] else DASH)
        cells += [str(there)] * several
        if there:
            cells += [" or ".join(row["init"]), f"{row['scale']:g}", f"{row['params'] / 1e6:.3f}"]
            cells += [f"{row['madds'] / 1e9:.3f}", f"{row['epochs']:g}", f"{row['minutes']:.1f}"]
        rows.append([*cells, *[DASH] * (len(head) - len(cells))])
    caption = (
        f"All rows but (b) have the same schedule. (c) {MINUS} (d) is what the architecture brings, (d) {MINUS} (a) "
        f"what the super network's weights do, (b) {MINUS} (a) what more training does."
    )
    if several:
        caption += " Means over the RNG seeds; ± is the standard deviation."
    return Table(caption, head, rows)


def seeds_table(compared: Compared) -> Table:
    """Make the table of the scores of every row by RNG seed, in %."""
    scores = {(entry["row"], entry["rng_seed"]): f"{100 * entry['score']:.2f}" for entry in compared["entries"]}
    numbers = compared["rng_seeds"]
    rows = [(title, *(scores.get((title, k), DASH) for k in numbers)) for title in LETTERS.values()]
    caption = f"val {compared['metric']} in % by RNG seed. Look for rows that change places."
    return Table(caption, ("network", *(f"RNG seed {k}" for k in numbers)), rows)


def controls(folder: Path) -> Part:
    """Make the section of one run's controls."""
    rng_seed = next(iter(read_json(folder / "metrics.json")["rows"].values()))["rng_seed"]
    compared = compare({rng_seed: folder})
    return Part(tables=[table(compared)], notes=sentences(compared))


def several(folder: Path) -> Part:
    """Make the section of runs that differ in their RNG seed."""
    compared = compare(seed_folders(folder))
    return Part(tables=[table(compared), seeds_table(compared)], notes=sentences(compared))
