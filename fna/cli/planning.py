"""The command `fna plan`: what a recipe would mean on each seed, before anything is trained."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fna.cli.networks import AsJson, example
from fna.cli.tables import show_json, show_table, table
from fna.cost.units import with_unit
from fna.progress import quiet, say
from fna.training.machine import load

if TYPE_CHECKING:
    from fna.config import Config
    from fna.runs.planning import SeedPlan


def add_plan(app: typer.Typer) -> None:
    """Give `app` the command."""
    app.command(
        epilog=example(
            "fna plan recipes/camvid_deeplabv3.yaml --data.root data/camvid",
            "fna plan recipes/coco_ssdlite.yaml --images 118287 --all --no-time",
            "fna plan leaves.yaml --search.budget 0.5x --json",
        )
    )(plan)


def plan(
    ctx: typer.Context,
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", show_default=False, help="A YAML file of settings.")],
    images: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="So many images to train on; the data are not opened then."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All seeds, also those whose weights are not here.")] = False,
    timed: Annotated[bool, typer.Option("--time/--no-time", help="Time some training steps of each seed.")] = True,
    as_json: AsJson = False,
) -> None:
    """Compare the seeds on this machine for a recipe before anything is trained.

    For each: parameters and MAdds of the whole network, its search space and what that reaches, whether the recipe's
    budget can be met, memory and minutes. Every setting can be changed by a dotted option.
    """
    from fna.config import load_config

    config = load_config(recipe, ctx.obj)
    with quiet(as_json):
        from fna.runs.planning import command, find_basis
        from fna.runs.planning import plan as make_plan
        from fna.training.compute import computing

        with computing(config.engine) as compute:
            basis = find_basis(config, images)
            plans, remarks = make_plan(basis, compute, every=every, timed=timed)
    commands = {row.name: command(str(recipe), row, ctx.obj) for row in plans if row.shrink}
    size_hw = basis.problem.size_hw
    if as_json:
        rows = [{**asdict(row), "command": commands.get(row.name)} for row in plans]
        return show_json({"size_hw": list(size_hw), "images": basis.train, "seeds": rows, "remarks": remarks})
    _show(config, size_hw, plans, every)
    for remark in [*remarks, *_remarks(plans)]:
        say(remark)
    if commands:
        print("A larger seed, searched within the budget of the recipe's:")
        for line in commands.values():
            print(f"  {line}")


def _show(config: Config, size_hw: tuple[int, int], plans: Sequence[SeedPlan], every: bool) -> None:
    height, width = size_hw
    where = f"{config.task.model}, scored at {height} x {width}, trained at {_size(config.data.crop)}"
    show_table(table([_row(row, every) for row in plans], f"{where}, {config.adapt.batch_size} images a step"))


def _row(row: SeedPlan, every: bool) -> dict[str, Any]:
    """Return a row of the table, as text."""
    budget = "none" if not row.why_not else "cannot be met"
    if row.limit is not None:
        budget = with_unit(row.limit, row.unit)
    return {
        "seed": f"{row.name}{' (the recipe)' * row.recipe}",
        **({"here": {True: "yes", False: "no", None: "?"}[row.here]} if every else {}),
        "params": f"{row.params / 1e6:.2f} M",
        "MAdds": f"{row.madds / 1e9:.3f} G",
        "space": f"{row.space:.1e}",
        "MAdds in it": f"{row.min_madds / 1e9:.3g} to {row.max_madds / 1e9:.3g} G",
        "budget": budget,
        "maps": with_unit(row.peak, "B"),
        "memory": f"{row.memory / 2**30:.1f} GiB",
        "minutes": _minutes(row),
    }


def _minutes(row: SeedPlan) -> str:
    if row.search_minutes is None or row.adapt_minutes is None:
        return ""
    return f"{row.search_minutes:.3g} + {row.adapt_minutes:.3g}"


def _remarks(plans: Sequence[SeedPlan]) -> list[str]:
    """Say why budgets cannot be met, and what the minutes are."""
    said = [f"{row.name}: {row.why_not}" for row in plans if row.why_not]
    if any(row.search_minutes is not None for row in plans):
        said.append(
            "minutes are those of search + adaptation of the target, estimated from some steps of the seed on this "
            "machine; the fine-tuned seed beside it takes about as long as the target again (--baseline false: none)"
        )
        if (busy := load()) is not None and busy > (cores := os.cpu_count() or 1):
            said.append(f"this machine is busy (load {busy:.1f} on {cores} cores): minutes are as of now")
    return [
        *said,
        "maps are what one image takes at once in a finished network; memory is that of a training step, beside what "
        "Python and its libraries take",
    ]


def _size(size_hw: tuple[int, int]) -> str:
    return f"{size_hw[0]} x {size_hw[1]}"
