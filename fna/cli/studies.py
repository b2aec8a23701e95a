"""The commands that train many networks and hold them side by side: `fna front` and `fna study`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fna.cli.networks import AsJson, Quiet, example
from fna.cli.tables import show_json, show_table, table
from fna.cost.units import with_unit
from fna.errors import FnaError
from fna.progress import first_rank, quiet

JobArray = Annotated[
    str | None,
    typer.Option(
        "--job-array", metavar="K/N", help="Do the K-th of N parts, beside other processes.  [default: everything]"
    ),
]


def add_studies(app: typer.Typer) -> None:
    """Give `app` the commands."""
    app.command(
        epilog=example(
            "fna front runs/camvid --budgets 0.35x,0.5x,0.75x,1x",
            "fna front runs/camvid --budgets 10ms,20ms --search.latency_table latency.json --job-array 1/2",
            "fna front runs/camvid --budgets 0.5x --controls cut,narrowed,pruned_taylor",
            "fna front runs/camvid --budgets 0.5x --beside runs/camvid_mobilenet",
            "fna front runs/camvid --pick 0.5x",
        )
    )(front)
    app.command(
        epilog=example(
            "fna study from_super recipes/camvid_deeplabv3.yaml --data.root data/camvid --run runs/xii --rng-seeds 2",
            "fna study my_study.yaml leaves.yaml --run runs/mine --job-array 1/4",
        )
    )(study)


def front(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="RUN", show_default=False, help="A run that has searched.")],
    budgets: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Such as 0.35x,0.5x,0.75x,1x or 10ms,20ms.")
    ] = None,
    pick: Annotated[
        str | None, typer.Option(metavar="BUDGET", help="Print the best network within a cost, and train nothing.")
    ] = None,
    controls: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="Of cut, narrowed, pruned_taylor, pruned_norm.  [default: cut,narrowed]"),
    ] = None,
    beside: Annotated[
        list[Path] | None,
        typer.Option(metavar="RUN", help="Draw those of another run, too; give it as often as needed."),
    ] = None,
    array: JobArray = None,
    as_json: AsJson = False,
    no_words: Quiet = False,
) -> None:
    """Derive, adapt and score a network for each budget, from a run's one super network, beside what needs no search.

    That is the seed, the seed cut by hand to each budget, the seed with narrower expansions, and where they are asked
    for the fine-tuned seed pruned by Torch-Pruning and then trained until it has had as much time as the network of its
    budget, search included. Interrupted, the same command goes on. Settings of derivation, adaptation, scoring and
    hardware can be given.
    """
    if (budgets is None) == (pick is None):
        raise FnaError(
            "fna front takes --budgets 0.35x,0.5x,0.75x,1x to make a front, or --pick 0.5x to choose from it"
        )
    with quiet(as_json or no_words):
        from fna.runs.front import CONTROLS, make_front, pick_point

        if pick is not None:
            point = pick_point(folder, pick)
            return show_json(point) if as_json else _show_point(point)
        chosen = CONTROLS if controls is None else _parts(controls)
        done = make_front(folder, _parts(budgets or ""), ctx.obj, array, chosen, beside or ())
    if as_json:
        return show_json(done)
    show_table(table([_row(point, done["unit"]) for point in done["points"]]))
    if first_rank():
        for name, why in done["left_out"].items():
            print(f"left out: {name}; {why}")
        if done["missing"]:
            print(f"still to do: {', '.join(done['missing'])}")
        print(f"front: {folder / 'front' / 'front.html'}")


def study(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME|FILE", show_default=False, help="See fna list studies.")],
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", show_default=False, help="A YAML file of settings.")],
    folder: Annotated[
        Path | None, typer.Option("--run", metavar="DIR", help="Where all of it goes.  [default: runs/NAME]")
    ] = None,
    rng_seeds: Annotated[int, typer.Option(metavar="N", min=1, max=1000, help="Do every row N times.")] = 1,
    array: JobArray = None,
    as_json: AsJson = False,
    no_words: Quiet = False,
) -> None:
    """Do a study of the article on your own data: a table of runs, some of which share a super network.

    Interrupted, the same command goes on. A row is a run folder like any other.
    """
    from fna.config import load_config

    config = load_config(recipe, ctx.obj)
    with quiet(as_json or no_words):
        from fna.reporting.study import study_table
        from fna.runs.study import plan_study, read_study, run_study

        chosen, where = read_study(name), folder or Path("runs") / Path(name).stem
        done = run_study(chosen, plan_study(chosen, config, where, rng_seeds), where, array)
    if as_json:
        return show_json(done)
    head, rows = study_table(done)
    show_table(table([dict(zip(head, row, strict=True)) for row in rows], done["title"]))
    if first_rank():
        if done["missing"]:
            print(f"still to do: {', '.join(done['missing'])}")
        print(f"study: {where / 'study.html'}")


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _row(point: Mapping[str, Any], unit: str) -> dict[str, Any]:
    return {
        "network": point["name"],
        "budget": point["budget"],
        "cost": with_unit(point["costs"][unit], unit),
        "score": f"{100 * point['score']:.2f} %",
        "on the front": not point["dominated"],
    }


def _show_point(point: Mapping[str, Any]) -> None:
    """Print a network of a front."""
    if first_rank():
        costs = ", ".join(with_unit(cost, unit) for unit, cost in point["costs"].items())
        print(f"{point['name']}: score {100 * point['score']:.2f} %, {costs}")
        print(point["folder"])
