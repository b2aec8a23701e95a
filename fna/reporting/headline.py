"""The first section of the report: what every network scores, on the validation and on the test split, and costs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fna.config import Config, make_config
from fna.cost.units import with_unit
from fna.errors import FnaError, quoted
from fna.reporting.parts import DAMAGES, DASH, TIMES, Part, Table, read_config, read_json, signed, unusable
from fna.reporting.rows import NUMBERS, charged_minutes, epochs_text, minutes_text, never_found, optimistic, seed_first
from fna.reporting.targets import Derived, counted_at, read_targets

Column = tuple[str, list[str]]  # head, cells

SHOWN = 8  # lines about changed, mended or left-out records
BESIDE = 3  # scores beside the headline in the first table; the others follow in their own
WORDS = ("network", "architecture", "weights from")
PURPOSES = {"train": "to train on", "val": "to score on", "test": "to test on"}
COUNTING = (
    "MAdds are the multiply-accumulates of all convolutions and linear layers of the network, head included, plus one "
    "per output element of a biased convolution; batch norms, activations, pooling, interpolation and additions count "
    "0. Parameters are the learnable ones: gamma and beta of batch norms in, running statistics out. Memory is the "
    "most that the maps of one image take at once in float32, weights aside."
)


def result(folder: Path) -> Part:
    """Make the headline table: the fine-tuned seed against the FNA++ network and all controls."""
    metrics, part = read_json(folder / "metrics.json"), Part()
    targets, rows = read_targets(folder, part), seed_first(metrics["rows"])
    base, adapted = rows.get("baseline"), rows.get("adapted")
    seed_madds = next((target.seed_madds for target in targets.values()), base["madds"] if base else None)
    splits = _splits(folder, metrics, part)
    caption = (
        f"Look at the difference to the fine-tuned seed, in points of {metrics['titles'][metrics['metric']]}; a row is "
        "one training, a point can be luck. Minutes are those of the search, if a network needs it, + adaptation."
        + _timed(rows)
        + _alike(rows)
        + _memory(metrics)
    )
    columns = [
        *_about(rows, seed_madds),
        *(column for split in splits for column in split.headline),
        *splits[0].others[:BESIDE],
        *_effort(rows, metrics["search_minutes"]),
    ]
    part.tables.append(_table(caption, columns, len(WORDS)))
    others = [column for split in splits for column in split.others] if len(splits) > 1 else splits[0].others[BESIDE:]
    if others:
        columns = [("network", [row["title"] for row in rows.values()]), *others]
        part.tables.append(_table("All other scores, in %.", columns, 1))
    if adapted:
        part.tiles = _tiles(adapted, base, seed_madds, metrics)
    if target := targets.get(adapted["arch"]) if adapted else next(iter(targets.values()), None):
        part.tiles.append(_budget_tile(target))
    part.warnings += [*never_found(rows), *optimistic(rows, quoted(folder))]
    part.warnings += dict.fromkeys(text for split in splits for text in split.warnings)
    part.notes += dict.fromkeys(
        [" ".join([COUNTING, *counted_at(targets)]), *(note for split in splits for note in split.notes)]
    )
    part.notes += [*_averaged(rows), *_unscored(folder, rows)]
    return part


# --- what a split says ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Split:
    """What metrics.json or metrics_test.json says, ready to be shown.

    Args:
        headline: the score that counts, and the differences in it to the fine-tuned seed.
        others: all other scores that are one number.
        warnings: sentences not to be missed.
        notes: sentences.
    """

    headline: list[Column]
    others: list[Column]
    warnings: list[str]
    notes: list[str]


def _splits(folder: Path, metrics: Mapping[str, Any], part: Part) -> list[_Split]:
    """Return what the validation and, if it was scored, the test split says; if that is damaged, warn of it."""
    config = None
    with suppress(FnaError):  # a damaged one is told of in its own section
        config = read_config(folder)
    names, test = list(seed_first(metrics["rows"])), folder / "metrics_test.json"
    if not test.exists():
        return [_read_split(metrics, names, config, "")]
    splits = [_read_split(metrics, names, config, "val ")]
    try:
        splits.append(_read_split(read_json(test), names, config, "test "))
    except DAMAGES as error:
        part.warnings.append(unusable(test.name, error, f"fna evaluate {quoted(folder)} --split test"))
    return splits


def _read_split(metrics: Mapping[str, Any], names: Sequence[str], config: Config | None, before: str) -> _Split:
    """Read the scores of a split.

    Args:
        metrics: content of metrics.json or metrics_test.json.
        names: of the networks, a row of the table each; one without scores here gets dashes.
        config: the run's.
        before: stands before the names of scores, to tell the splits apart.
    """
    rows, metric, titles = metrics["rows"], metrics["metric"], metrics["titles"]
    shares = {
        key: [rows[name][key] if name in rows else None for name in names]
        for key in titles
        if all(key in row and not isinstance(row[key], Mapping) for row in rows.values())
    }
    of_seed = rows["baseline"][metric] if "baseline" in rows else None
    differences = [
        DASH if name == "baseline" or of_seed is None or share is None else signed(100 * (share - of_seed))
        for name, share in zip(names, shares[metric], strict=True)
    ]
    columns = {key: (f"{before}{titles[key]} (%)", list(map(_percent, shares[key]))) for key in shares}
    headline = [columns.pop(metric), ("difference", differences)]
    warnings, notes = [str(text) for text in metrics["warnings"]], _settings(metrics, config, before)
    data, file = metrics.get("data", {}), "metrics_test.json" if before == "test " else "metrics.json"
    if changed := data.get("changed"):
        lines = "; ".join([*changed[:SHOWN], *_rest(changed, file)])
        warnings.append(f"the data changed during the run, which data.allow_change let pass: {lines}")
    notes += dict.fromkeys(note for row in rows.values() for note in row.get("notes", ()))
    if known := [f"{data[split]} {purpose}" for split, purpose in PURPOSES.items() if split in data]:
        notes.append(f"Records: {', '.join(known)}.")
    skipped = data.get("skipped", [])
    return _Split(headline, list(columns.values()), warnings, [*notes, *skipped[:SHOWN], *_rest(skipped, file)])


def _rest(lines: Sequence[str], file: str) -> list[str]:
    more = len(lines) - SHOWN
    return [f"... and {more} more lines of the kind in {file}."] if more > 0 else []


def _settings(metrics: Mapping[str, Any], config: Config | None, before: str) -> list[str]:
    """Say which settings the scoring had that are not the defaults, or not those of config.yaml."""
    default = make_config({"task": {"model": config.task.model}} if config else {})
    said = []
    for key, value in metrics.get("settings", {}).items():
        own = _setting(config, key) if config else value
        if value != own:
            said.append(f"{key} {_plain(value)} (config.yaml: {_plain(own)})")
        elif value != _setting(default, key):
            said.append(f"{key} {_plain(value)}")
    where = f"On {before.strip()} scored" if before else "Scored"
    return [f"{where} with {', '.join(said)}."] if said else []


def _setting(config: Config, key: str) -> Any:
    """Return the setting of a dotted name as JSON has it; None: there is no such setting."""
    value: Any = config.model_dump(mode="json", by_alias=True)
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _plain(value: Any) -> str:
    """Write a value as YAML has it, so that it can be typed as it is read."""
    return value if isinstance(value, str) else json.dumps(value)


# --- the table --------------------------------------------------------------------------------------------------------


def _table(caption: str, columns: Sequence[Column], words: int) -> Table:
    return Table(
        caption, [head for head, _ in columns], list(zip(*(cells for _, cells in columns), strict=True)), words
    )


def _about(rows: Mapping[str, Any], seed_madds: int | None) -> list[Column]:
    """Say what the networks are and cost; the head's width and the input's scale where they are not all the seed's."""
    listed = list(rows.values())
    columns = [
        (word, [str(row[key]) for row in listed]) for word, key in zip(WORDS, ("title", "arch", "init"), strict=True)
    ]
    for key, head in (("head_width", "head width"), ("scale", "input scale")):
        factors = [row.get(key, 1) for row in listed]
        if any(factor != 1 for factor in factors):
            columns.append((f"{head} {TIMES}", [f"{factor:g}" for factor in factors]))
    for key, head in NUMBERS.items():
        values = [str(row.get(key)) for row in listed]
        if len(set(values)) > 1:
            columns.append((head, values))
    columns.append(("params (M)", [f"{row['params'] / 1e6:.3f}" for row in listed]))
    if any(row.get("frozen_params") for row in listed):
        columns.append(("frozen (M)", [f"{row.get('frozen_params', 0) / 1e6:.3f}" for row in listed]))
    if all(row.get("memory") for row in listed):  # older folders do not say
        columns.append(("memory (MB)", [f"{row['memory'] / 1e6:.2f}" for row in listed]))
    return [
        *columns,
        ("MAdds (G)", [f"{row['madds'] / 1e9:.3f}" for row in listed]),
        (f"MAdds {TIMES} seed", [f"{row['madds'] / seed_madds:.3f}" if seed_madds else DASH for row in listed]),
    ]


def _effort(rows: Mapping[str, Any], search_minutes: float | None) -> list[Column]:
    listed = list(rows.values())
    columns = [
        ("minutes", [minutes_text(row, search_minutes) for row in listed]),
        ("epochs", [epochs_text(row) for row in listed]),
    ]
    if any(row.get("latency") for row in listed):
        texts = [f"{row['latency']['ms']:.3g}" if row.get("latency") else DASH for row in listed]
        columns.append(("ms, batch 1", texts))
    if not _alike(rows):
        columns.append(("RNG seed", [str(row["rng_seed"]) for row in listed]))
    return columns


def _memory(metrics: Mapping[str, Any]) -> str:
    """Say what memory training took at most; files of earlier versions do not know."""
    peaks = {"the search": metrics.get("search_peak_memory")}
    peaks["an adaptation"] = max((row.get("peak_memory", 0) for row in metrics["rows"].values()), default=0)
    told = [f"{peak / 2**30:.2f} GiB in {what}" for what, peak in peaks.items() if peak]
    return f" Memory at most: {', '.join(told)}." if told else ""


def _timed(rows: Mapping[str, Any]) -> str:
    """Say what the milliseconds are."""
    timed = [row["latency"] for row in rows.values() if row.get("latency")]
    if not timed:
        return ""
    devices = ", ".join(dict.fromkeys(one["device"] for one in timed))
    runs = ", ".join(dict.fromkeys(str(one["runs"]) for one in timed))
    return f" Milliseconds are the network's own, for one image of its size: the median of {runs} runs on {devices}."


def _alike(rows: Mapping[str, Any]) -> str:
    """Say which RNG seed all rows have, if it is one."""
    seeds = {row["rng_seed"] for row in rows.values()}
    return f" The RNG seed of all is {seeds.pop()}." if len(seeds) == 1 else ""


def _averaged(rows: Mapping[str, Any]) -> list[str]:
    """Name the networks whose weights are averages."""
    decays = {row["title"]: row["ema"] for row in rows.values() if row.get("ema")}
    said = ", ".join(f"{title} ({decay:g})" for title, decay in decays.items())
    return [f"Weights that are running averages, with their decay (adapt.ema): {said}."] if said else []


def next_steps(folder: Path) -> Part:
    """Say what to type next, with this run's path."""
    run, rows = quoted(folder), seed_first(read_json(folder / "metrics.json")["rows"])
    network = run if "adapted" in rows else quoted(folder / next(iter(rows)))
    steps = [
        (f"fna predict {network} --images PHOTOS --out LABELLED", "label new images"),
        (f"fna export {network} --to onnx", "run the network without fna and torch"),
        (f"fna derive {run} --derive.name half --derive.budget 0.5x", "another target from the same search"),
        (f"fna adapt {run} --adapt.arch half", "fine-tune it"),
    ]
    if "seed_long" not in rows:
        steps.insert(0, (f"fna controls {run}", "what the architecture, the weights and more training each bring"))
    if not (folder / "metrics_test.json").exists():
        steps.append((f"fna evaluate {run} --split test", "once, at the end: images that chose nothing"))
    return Part(text="\n".join(f"# {why}\n{command}" for command, why in steps))


def _percent(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:.2f}"


def _unscored(folder: Path, rows: Mapping[str, Any]) -> list[str]:
    """Name the networks that were adapted since the scores were made."""
    new = [name for path in sorted(folder.glob("*/network.json")) if (name := path.parent.name) not in rows]
    return [f"Not scored yet: {', '.join(new)}. To score, type: fna evaluate {quoted(folder)}"] if new else []


# --- the tiles --------------------------------------------------------------------------------------------------------


def _tiles(
    row: Mapping[str, Any], base: Mapping[str, Any] | None, seed_madds: int | None, metrics: Mapping[str, Any]
) -> list[tuple[str, str, str]]:
    metric, searched = metrics["metric"], charged_minutes(row, metrics["search_minutes"])
    score, params = 100 * row[metric], row["params"]
    against = f"{signed(score - 100 * base[metric], 1)} points vs the seed" if base else row["title"]
    return [
        (metrics["titles"][metric], f"{score:.1f} %", against),
        (
            "MAdds",
            f"{row['madds'] / 1e9:.2f} G",
            f"{row['madds'] / seed_madds:.3f} {TIMES} the seed" if seed_madds else "",
        ),
        ("Parameters", f"{params / 1e6:.2f} M", f"{params / base['params']:.3f} {TIMES} the seed" if base else ""),
        ("Time", f"{searched + row['minutes']:.1f} min", f"{searched:.1f} search, {row['minutes']:.1f} adapt"),
    ]


def _budget_tile(target: Derived) -> tuple[str, str, str]:
    if target.budget is None:
        return "Budget", "none", "argmax of the alphas" if target.argmax_cost is not None else "the best candidate"
    allowed = target.budget["cost"]
    verdict = "met" if target.cost <= allowed else "exceeded"
    return "Budget", verdict, f"{100 * target.cost / allowed:.1f} % of {with_unit(allowed, target.unit)}"
