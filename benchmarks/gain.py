"""What a recipe is worth: the FNA++ network beside its controls, for one RNG seed or several.

    python benchmarks/gain.py NAME RECIPE DATA RUN [--rng-seeds N] [--only K]... [--write] [key=value ...]

Does the recipe with all rows of `fna run --controls` in RUN/seed_0, RUN/seed_1 ... and writes
``results/gain_NAME.json``; the same command goes on with what was interrupted. The file is written anew after each RNG
seed, and says in `missing` which rows are not there and why. --only does some of the N seeds, say in another process;
--write does nothing but the file. Rows of an RNG seed without a folder in RUN stay in the file as they are: seeds may
be measured on several machines, and `elsewhere` says where and by what. DATA is the data set's folder, ``-`` where
there is none.

Ratios are differences of the headline score as shares: c_minus_a is the FNA++ network minus the fine-tuned seed, each
with its mean, its standard deviation over RNG seeds (of two or more) and its least.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import record

from fna.config import Config, load_config
from fna.errors import FnaError
from fna.reporting.controls import compare, join, sentences
from fna.reporting.parts import read_optional
from fna.runs.controls import repeat
from fna.runs.opening import open_jobs


def arguments(doc: str | None, *before: str) -> argparse.ArgumentParser:
    """Return what reads RECIPE DATA RUN [key=value ...], and words `before` them."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in before:
        parser.add_argument(name)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("data")
    parser.add_argument("run", type=Path)
    parser.add_argument("settings", nargs="*", metavar="key=value")
    return parser


@contextmanager
def told(parser: argparse.ArgumentParser) -> Iterator[None]:
    """End with a mistake's message and exit code 2."""
    try:
        yield
    except FnaError as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")


def configure(recipe: Path, data: str, settings: Sequence[str] = ()) -> Config:
    """Read a recipe for the data set of a folder; ``-``: the recipe needs none."""
    root = [] if data == "-" else [f"data.root={json.dumps(data)}"]
    return load_config(recipe, [*root, *settings])


def measure(name: str, config: Config, run: str | Path, rng_seeds: int = 1, only: Sequence[int] | None = None) -> Path:
    """Do a recipe with its controls for some RNG seeds and write ``results/NAME.json`` after each.

    Args:
        name: of the result.
        config: the settings.
        run: the folder of the run folders.
        rng_seeds: how many the result is of: 0, 1 ...
        only: those to do now; None: all.
    """
    jobs = open_jobs(Path(run), config, rng_seeds)
    folders = {rng_seed: path for rng_seed, (path, _) in jobs.items()}
    repeat(run, jobs, only=only, after=lambda: write(name, folders))
    return write(name, folders)


def write(name: str, folders: Mapping[int, Path]) -> Path:
    """Write what there is of a result, and what the file has of RNG seeds without a folder."""
    here = {rng_seed: folder for rng_seed, folder in folders.items() if folder.exists()}
    before = read_optional(record.RESULTS / f"{name}.json") or {"rows": [], "search_shares": {}, "found": {}}
    kept = sorted({row["rng_seed"] for row in before["rows"]} & (folders.keys() - here.keys()))
    own = compare({k: folder for k, folder in folders.items() if k not in kept})
    own["entries"] += [row for row in before["rows"] if row["rng_seed"] in kept]
    own["missing"] += [row for k in kept for row in _missing_before(before, k)]
    own["missing"].sort(key=lambda row: row["rng_seed"])
    shares, found = (
        {k: before[key][str(k)] for k in kept if str(k) in before[key]} for key in ("search_shares", "found")
    )
    compared = join(list(folders), own["entries"], own["missing"], shares | own["search_shares"])

    ratios = {
        f"{key}_{what}": difference[what]
        for key, difference in compared["differences"].items()
        for what in ("mean", "std", "min")
        if difference[what] is not None
    }
    ratios |= {
        key: compared[key] for key in ("madds_target_over_seed_max", "search_share") if compared[key] is not None
    }
    warnings = [warning for k in kept for warning in before["warnings"] if warning.startswith(f"RNG seed {k}:")]
    for rng_seed, folder in here.items():
        metrics, target = (read_optional(folder / file) for file in ("metrics.json", "targets/derived.json"))
        warnings += [f"RNG seed {rng_seed}: {warning}" for warning in (metrics["warnings"] if metrics else ())]
        found |= {rng_seed: {key: target[key] for key in ("arch", "disagreements")}} if target else {}
    more: dict[str, Any] = {
        "missing": [f"RNG seed {row['rng_seed']}, {row['row']}: {row['why']}" for row in compared["missing"]],
        "warnings": warnings,
        "words": sentences(compared),
        "search_shares": compared["search_shares"],
        "found": found,
        "elsewhere": _elsewhere(before, kept),
    }
    return record.write(name, sorted(compared["entries"], key=lambda row: row["rng_seed"]), ratios, **more)


def _missing_before(before: Mapping[str, Any], rng_seed: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of an RNG seed that a file said are missing."""
    begin = f"RNG seed {rng_seed}, "
    for line in before["missing"]:
        if line.startswith(begin):
            row, _, why = line.removeprefix(begin).partition(": ")
            yield {"rng_seed": rng_seed, "row": row, "why": why}


def _elsewhere(before: Mapping[str, Any], kept: Sequence[int]) -> dict[int, Any]:
    """Return how the rows of RNG seeds that are kept were measured, as their file said it first."""
    own = {key: before.get(key) for key in ("command", "threads", "machine", "date", "commit", "versions")}
    return {k: before["elsewhere"].get(str(k), own) for k in kept}


def main() -> None:
    parser = arguments(__doc__, "name")
    parser.add_argument("--rng-seeds", type=int, default=1)
    parser.add_argument("--only", type=int, action="append", metavar="K")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_intermixed_args()
    only = [] if given.write else given.only
    with told(parser):
        config = configure(given.recipe, given.data, given.settings)
        print(measure(f"gain_{given.name}", config, given.run, given.rng_seeds, only))


if __name__ == "__main__":
    main()
