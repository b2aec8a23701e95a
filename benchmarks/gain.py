"""What a recipe is worth: the FNA++ network beside its controls, for one RNG seed or several.

    python benchmarks/gain.py NAME RECIPE DATA RUN [--rng-seeds N] [--only K]... [--write] [key=value ...]

Does the recipe with all rows of `fna run --controls` in RUN/seed_0, RUN/seed_1 ... and writes
``results/gain_NAME.json``; the same command goes on with what was interrupted. The file is written anew after each RNG
seed, and says in `missing` which rows are not there and why. --only does some of the N seeds, say in another process;
--write does nothing but the file. DATA is the data set's folder, ``-`` where there is none.

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
from fna.reporting.controls import compare, sentences
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
    """Write what there is of a result."""
    compared = compare(folders)
    ratios = {
        f"{key}_{what}": difference[what]
        for key, difference in compared["differences"].items()
        for what in ("mean", "std", "min")
        if difference[what] is not None
    }
    ratios |= {
        key: compared[key] for key in ("madds_target_over_seed_max", "search_share") if compared[key] is not None
    }
    warnings, targets = [], []
    for rng_seed, folder in folders.items():
        metrics, target = (read_optional(folder / file) for file in ("metrics.json", "targets/derived.json"))
        warnings += [f"RNG seed {rng_seed}: {warning}" for warning in (metrics["warnings"] if metrics else ())]
        targets += [target] if target else []
    missing = [f"RNG seed {row['rng_seed']}, {row['row']}: {row['why']}" for row in compared["missing"]]
    more: dict[str, Any] = {"missing": missing, "warnings": warnings, "words": sentences(compared)}
    if targets:
        more |= {key: targets[0][key] for key in ("disagreements", "arch")}
        more["scales"] = [target["scale"] for target in targets]
    return record.write(name, compared["entries"], ratios, **more)


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
