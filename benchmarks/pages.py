"""Write the tables of README.md and docs/results.md from ``benchmarks/results/*.json``.

    python benchmarks/pages.py            # write them
    python benchmarks/pages.py --check    # only tell whether they are up to date

A table stands between ``<!-- results:NAME -->`` and ``<!-- /results -->``; without a file NAME.json it is empty.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/results.md")
RESULTS = "benchmarks/results"
MARKER = re.compile(r"(<!-- results:(\w+) -->\n).*?(<!-- /results -->)", re.DOTALL)

MINUS = "\N{MINUS SIGN}"
PRECISIONS = ("bfloat16", "float32")
WAYS = {  # to train a super network; see ranking.py
    "anchored": "anchored paths, tied candidates (the default)",
    "untied": "anchored paths, candidates with weights of their own",
    "uniform": "uniform paths, candidates with weights of their own (the article's)",
}
MEANINGS = {  # ratio: what it is, and the aim
    "weight_step_overhead": (
        "weight step of the super network / training step of the same path built plainly",
        "≤ 1.03",
    ),
    "weight_step_vs_seed": ("weight step of the super network / training step of the seed", ""),
    "alpha_cheap_time": ("alpha step (`two_path`) / weight step, time", "≤ 1.0"),
    "alpha_cheap_memory": ("alpha step (`two_path`) / weight step, peak memory", "≤ 1.15"),
    "alpha_gumbel_time": ("alpha step (`gumbel`) / weight step, time", ""),
    "alpha_gumbel_memory": ("alpha step (`gumbel`) / weight step, peak memory", ""),
    "alpha_full_memory": ("alpha step (`full`) / weight step, peak memory", ""),
    "alpha_full_time": ("alpha step (`full`, the article's) / weight step, time", ""),
    "vs_smp": ("images per second of the seed / the same encoder in segmentation_models_pytorch", "≥ 1.3"),
    "candidates_growth": ("weight step with 13 candidates a layer / with 4", "≤ 1.1"),
    "loader_wait": ("share of an epoch spent waiting for data", "≤ 0.05"),
    "kept_forward": ("a forward pass without gradients as glibc does / with freed memory kept, time", ""),
    "kept_step": ("likewise, a training step", ""),
    "kept_memory": ("a process that keeps freed memory / one that does not, peak memory", ""),
    "runs_identical": ("share of pairs of runs with `engine.deterministic` that end with the same bits", "1"),
    "first_hundred": ("the first 100 sampled steps of a super network / the next 100", "≤ 2"),
    "super_step_overhead": ("steps on sampled paths / those of the same networks built plainly", "≤ 1.1"),
    "candidate_seconds": ("seconds of a candidate's score, the slowest of the first ten", "≤ 0.3"),
    "adapt_vs_bare_camvid": ("images per second of an adaptation / of its steps on one batch, CamVid", "≥ 0.8"),
    "adapt_vs_bare_bccd": ("likewise, BCCD", "≥ 0.8"),
    "adapt_vs_bare_lspet": ("likewise, Leeds Sports Pose", "≥ 0.8"),
    "adapt_vs_theirs_camvid": ("likewise / of segmentation_models_pytorch behind torchvision's transforms, CamVid", ""),
    "adapt_vs_theirs_bccd": ("images per second of an adaptation / of torchvision's own SSDLite and loop, BCCD", ""),
    "deterministic_cost": ("training step with `engine.deterministic` / without", "≤ 1.1"),
    "tf32_vs_bf16": ("training step in float32 with `engine.tf32` / in bf16", ""),
    "fp32_vs_bf16": ("training step in float32 without it / in bf16", ""),
    "fp16_vs_bf16": ("training step in fp16 / in bf16", ""),
    "train_ap50": ("RetinaNet on COCO 128: AP50 on the 64 images it learned by heart", "≥ 0.9"),
    "pck_torso": ("SimpleBaseline on synthetic pedestrians: PCK@0.2 of the torso on unseen ones", "≥ 0.9"),
    "pck_minutes": ("minutes that took, drawing included", "≤ 6"),
    "kills": ("SIGKILLs at random moments, each followed by a resume", "≥ 200"),
    "tasks": ("of so many tasks", "3"),
    "stages": ("in so many stages of a run", ""),
    "kills_while_writing": ("of these, while a file was being written", ""),
    "flips": ("bits flipped in files of run folders", "≥ 200"),
    "flips_named": ("share of these whose file is named", "1"),
    "identical": (
        "share of resumed runs that end with the weights, alphas and architecture of the unbroken run",
        "1",
    ),
    "negative_controls_caught": (
        "share of resumes from a changed state (a draw, a byte) that this comparison notices",
        "1",
    ),
}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table whose first column is text."""
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def networks(result: Mapping[str, Any]) -> str:
    """Compare networks: a row each."""
    rows = result["rows"]
    header = ("network", f"val {rows[0]['metric']}", "params", "MAdds", "minutes, search included")
    return table(
        header,
        [
            (
                row["row"],
                f"{100 * row['score']:.1f} %",
                f"{row['params'] / 1e6:.3f} M",
                f"{row['madds'] / 1e9:.3f} G",
                f"{row['minutes']:.1f}",
            )
            for row in rows
        ],
    )


def ratios(result: Mapping[str, Any]) -> str:
    """Show ratios measured side by side, each with its aim."""
    rows = []
    for name, value in result["ratios"].items():
        meaning, aim = MEANINGS.get(name, (name.replace("_", " "), ""))
        rows.append((meaning, f"{value:g}" if float(value).is_integer() else f"{value:.3g}", aim))
    return table(("", "measured", "aim"), rows)


def precisions(result: Mapping[str, Any]) -> str:
    """Show ratios named ``PRECISION CASE`` with a row per case and a column per precision."""
    cases: dict[str, dict[str, str]] = {}
    others = []
    for name, value in result["ratios"].items():
        precision, _, case = name.partition(" ")
        if precision in PRECISIONS:
            cases.setdefault(case, {})[precision] = f"{value:.2f}"
        else:
            others.append((name, f"{value:.2f}", ""))
    rows = [(case, *(values.get(precision, "") for precision in PRECISIONS)) for case, values in cases.items()]
    return table(("", *PRECISIONS), [*rows, *others])


def seeds(result: Mapping[str, Any]) -> str:
    """Show what the expansion of every seed keeps and costs."""
    head = ("seed", "path against seed", "conversion", "expansion, s", "peak memory")
    rows = []
    for row in result["rows"]:
        error = row["conversion_error"]
        rows.append(
            (
                f"`{row['row']}`",
                f"{row['score']:.1g}",
                "" if error is None else f"{error:.1g}",
                f"{row['expand_seconds']:.2f}",
                f"{row['expand_memory']:.2f} x",
            )
        )
    return table(head, rows)


def spread(result: Mapping[str, Any]) -> str:
    """Compare networks over RNG seeds: mean and standard deviation of the score, means of the rest."""
    rows = _by_title(result)
    first = result["rows"][0]
    header = ("network", f"val {first['metric']}, {_seeds(rows[first['row']])}", "params", "MAdds", "minutes")
    return table(header, [(title, _score(runs), *_costs(runs)) for title, runs in rows.items()])


def gain(result: Mapping[str, Any]) -> str:
    """Compare a network (c) with its controls over RNG seeds, and say in words what that means."""
    header = ("network", f"val {result['rows'][0]['metric']}", f"(c) {MINUS} it, points", "RNG seeds")
    lines = []
    for title, runs in _by_title(result).items():
        mean, std = (result["ratios"].get(f"c_minus_{title[1]}_{what}") for what in ("mean", "std"))
        difference = "" if mean is None else f"{100 * mean:+.1f}".replace("-", MINUS)
        difference += "" if std is None else f" ± {100 * std:.1f}"
        scale = statistics.mean(run["scale"] for run in runs)
        lines.append((title, _score(runs), difference, str(len(runs)), f"{scale:g}", *_costs(runs)))
    whole = table((*header, "input scale", "params", "MAdds", "minutes, search included"), lines)
    elsewhere = [
        f"RNG seed {rng_seed} was measured before, at commit {by['commit']}: {by['date']}, {by['machine']}."
        for rng_seed, by in result["elsewhere"].items()
    ]
    return "\n".join([whole, "", *(f"- {sentence}" for sentence in [*result["words"], *elsewhere])])


def speed(result: Mapping[str, Any]) -> str:
    """Compare a network found within milliseconds with the seed, and predictions with measurements."""
    lines = [
        (
            *(
                row["row"],
                _score([row]),
                f"{row['scale']:g}",
                f"{row['params'] / 1e6:.2f} M",
                f"{row['madds'] / 1e9:.3f} G",
            ),
            *(f"{row[key]:.1f}" for key in ("predicted_ms", "measured_ms")),
        )
        for row in result["rows"]
    ]
    head = ("network", "val mIoU", "input scale", "params", "MAdds", "ms, predicted", "ms, measured")
    own, number = result["ratios"], len(result["check"]["networks"])
    said = (
        f"{number} random networks of the space: predicted within {own['error_percent']:.1f} % on average, "
        f"{own['error_percent_max']:.1f} % at most; R2 {own['r2']:.3f}, Kendall's tau {own['kendall_tau']:.3f}."
    )
    return "\n".join([table(head, lines), "", said])


def budgets(result: Mapping[str, Any]) -> str:
    """Compare networks of several budgets with what needs no search: a row each, the dearest first."""
    rows = sorted(result["rows"], key=lambda row: -row["madds"])
    whole = next(row["madds"] for row in rows if row["row"] == "seed")
    head = ("network", f"val {rows[0]['metric']}", "MAdds", "x the seed's", "params", "input scale", "minutes")
    lines = []
    for row in rows:
        params, madds, minutes = _costs([row])
        lines.append(
            (row["row"], _score([row]), madds, f"{row['madds'] / whole:.2f}", params, f"{row['scale']:g}", minutes)
        )
    said = [f"Not there: {', '.join([*result['missing'], *result['left_out']])}."]
    return "\n\n".join([table(head, lines), *(said if result["missing"] or result["left_out"] else [])])


def iterations(result: Mapping[str, Any]) -> str:
    """Show what an iteration of each recipe takes, and its whole schedule: a row each."""
    cells: dict[str, dict[tuple[str, str], float]] = {}
    for row in result["rows"]:
        recipe, _, what = row["row"].partition(": ")
        cells.setdefault(recipe, {})[what, row["metric"]] = row["score"]
    columns = {
        **{(f"{kind} step", "seconds"): (f"{kind} step, ms", 1e3) for kind in ("weight", "alpha", "adaptation")},
        **{(f"{kind} step", "bytes"): (f"{kind} step, GiB", 2**-30) for kind in ("weight", "alpha", "adaptation")},
        **{(stage, "hours"): (f"{stage}, GPU-hours", 1.0) for stage in ("search", "adaptation")},
    }
    lines = [
        (f"`{recipe}`", *(f"{own[key] * times:.3g}" if key in own else "" for key, (_, times) in columns.items()))
        for recipe, own in cells.items()
    ]
    return table(("recipe", *(title for title, _ in columns.values())), lines)


def ranking(result: Mapping[str, Any]) -> str:
    """Show how well super networks rank architectures, then what each architecture is and scores."""
    rows, numbers = sorted(result["rows"], key=lambda row: -row["score"]), result["ratios"]
    taus = [
        (title, *(f"{numbers[key]:.2f}".replace("-", MINUS) for key in (f"tau_{way}", f"tau_{way}_metric")))
        for way, title in WAYS.items()
    ]
    head = ("super network", "tau of the held-out loss", f"tau of the held-out {rows[0]['metric']}")
    lines = [
        (
            row["row"].removeprefix("architecture "),
            _score([row]),
            f"{row['scale']:g}",
            f"{row['head_width']:g}",
            *_costs([row])[:2],
            *(f"{row['shared'][way]['loss']:.3f}" for way in WAYS),
        )
        for row in rows
    ]
    what = ("architecture", f"val {rows[0]['metric']}", "input scale", "head width", "params", "MAdds")
    return "\n\n".join([table(head, taus), table((*what, *(f"loss, {way}" for way in WAYS)), lines)])


def study(result: Mapping[str, Any]) -> str:
    """Compare the rows of a study on data sets side by side, over RNG seeds."""
    data = {row["data"]: row["metric"] for row in result["rows"]}
    cells: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in result["rows"]:
        cells.setdefault((row["row"], row["article"]), []).append(row)
    own = any(article for _, article in cells)
    lines = [
        (title, *([article] if own else []), *(_score([run for run in runs if run["data"] == name]) for name in data))
        for (title, article), runs in cells.items()
    ]
    seeds = {name: len({row["rng_seed"] for row in result["rows"] if row["data"] == name}) for name in data}
    head = (f"{name}, {metric}, RNG seeds: {seeds[name]}" for name, metric in data.items())
    said = [f"Not done: {', '.join(result['missing'])}."] if result["missing"] else []
    return "\n\n".join([table(("row", *(["the article's"] if own else []), *head), lines), *said])


def _by_title(result: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(result["rows"], key=lambda row: str(row["row"])):
        rows.setdefault(row["row"], []).append(row)
    return rows


def _seeds(runs: Sequence[Any]) -> str:
    return f"{len(runs)} RNG seeds" if len(runs) > 1 else "1 RNG seed"


def _score(runs: Sequence[Mapping[str, Any]]) -> str:
    scores = [100 * run["score"] for run in runs]
    if not scores:
        return ""
    return f"{statistics.mean(scores):.1f}" + (f" ± {statistics.stdev(scores):.1f} %" if len(scores) > 1 else " %")


def _costs(runs: Sequence[Mapping[str, Any]]) -> tuple[str, str, str]:
    params, madds, minutes = (statistics.mean(run[key] for run in runs) for key in ("params", "madds", "minutes"))
    return f"{params / 1e6:.2f} M", f"{madds / 1e9:.3f} G", f"{minutes:.1f}"


TABLES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "demo": spread,
    "bccd_retinanet_first": networks,
    "bccd_ssdlite_first": networks,
    "lspet_first": networks,
    "coco128_overfit": ratios,
    "pose_synthetic": ratios,
    "seeds": seeds,
    "steps": ratios,
    "gpu": ratios,
    "recipes": iterations,
    "heap": ratios,
    "resume": ratios,
    "latency": speed,
    "depthwise": precisions,
    "gain_camvid_budgets": budgets,
    "gain_camvid_parts": study,
}
# How the names of results begin of which there are any number.
MANY = {"gain_": gain, "ranking_": ranking, "study_": study}


def render(text: str, results: Path, root: str = "") -> str:
    """Return a page with its tables filled.

    Args:
        text: the page.
        results: the folder of the result files.
        root: how the page's links begin to lead to the repository's root, such as ``../``.
    """

    def fill(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        path = results / f"{name}.json"
        if not path.exists():
            return begin + end
        result = json.loads(path.read_text(encoding="utf-8"))
        lay_out = TABLES.get(name) or next(how for begins, how in MANY.items() if name.startswith(begins))
        source = f"[`{name}.json`]({root}{RESULTS}/{name}.json)"
        versions = f"torch {result['versions']['torch']}"
        return f"{begin}\n{lay_out(result)}\n\n{source}, {result['date']}, {result['machine']}, {versions}.\n\n{end}"

    return MARKER.sub(fill, text)


def main(argv: Sequence[str]) -> int:
    """Write the pages, or with ``--check`` tell whether they are up to date; return the exit code."""
    stale = 0
    for page in PAGES:
        old = (ROOT / page).read_text(encoding="utf-8")
        new = render(old, ROOT / RESULTS, "../" * page.count("/"))
        if "--check" not in argv:
            (ROOT / page).write_text(new, encoding="utf-8")
        elif new != old:
            print(f"the tables of {page} are not those of {RESULTS}; type: python benchmarks/pages.py")
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
