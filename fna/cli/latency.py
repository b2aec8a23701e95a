"""The command `fna latency`: what blocks and networks take on a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fna.cli.networks import AsJson, Quiet, example, size_hw
from fna.cli.tables import show_json
from fna.cost.units import with_unit
from fna.errors import FnaError
from fna.progress import first_rank, quiet

if TYPE_CHECKING:
    from fna.config import Config
    from fna.stages.latency import Bench


def add_latency(app: typer.Typer) -> None:
    """Give `app` the command."""
    app.command(
        epilog=example(
            "fna latency recipes/camvid_deeplabv3.yaml --data.root data/camvid --size 360x480 --check 30",
            "fna latency leaves.yaml --device cuda --table gpu.json",
            "fna latency runs/camvid/adapted --backend onnxruntime",
        )
    )(latency)


def latency(
    ctx: typer.Context,
    what: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|SEED|NETWORK",
            show_default=False,
            help="What to measure the space of; or a finished network.",
        ),
    ],
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
    threads: Annotated[int, typer.Option(min=0, max=1024, help="CPU threads; 0: torch's choice.")] = 1,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Of the image at input scale 1.  [default: the recipe's]")
    ] = None,
    backend: Annotated[str, typer.Option(metavar="torch|onnxruntime", help="What runs the network.")] = "torch",
    table: Annotated[Path, typer.Option(metavar="FILE", help="Kept there; what it has is not measured again.")] = Path(
        "latency.json"
    ),
    number: Annotated[
        int | None, typer.Option("--check", metavar="N", min=2, max=1000, help="Measure N random networks, too.")
    ] = None,
    rounds: Annotated[int, typer.Option(metavar="N", min=1, max=10_000, help="How often each is timed.")] = 50,
    as_json: AsJson = False,
    no_words: Quiet = False,
) -> None:
    """Measure the latency of every distinct block of a recipe's search space, at batch size 1, for budgets in ms.

    The file is what --search.latency_table takes. A finished network is measured as a whole. Settings of the recipe
    can be given, too; engine.precision is fp32 here unless given.
    """
    given = dict(text.split("=", 1) for text in ctx.obj)
    own = {"device": device, "threads": threads, "backend": backend}
    if network := Path(what).is_dir():
        allowed = [key for key in given if key != "engine.precision"]
        if allowed or size or number:
            raise FnaError("a finished network has its size and settings; leave out --size, --check and its settings")
    from fna.config import load_config

    overrides = [*ctx.obj, *([f"search.cost_size={list(size_hw(size))}"] if size else [])]
    config = load_config(None, ctx.obj) if network else _recipe(what, overrides)
    own["precision"] = config.engine.precision if "engine.precision" in given else "fp32"
    with quiet(as_json or no_words):
        from fna.stages.latency import bench

        with bench(**own) as here:  # type: ignore[arg-type]
            if network:
                done = _measure_network(Path(what), table, here, rounds)
            else:
                done = _measure_space(config, table, here, number, rounds)
    if as_json:
        return show_json(done)
    _show(done)


def _recipe(what: str, overrides: Sequence[str]) -> Config:
    """Return the settings of a recipe's file, or the defaults on a seed."""
    from fna.config import load_config

    if what.endswith((".yaml", ".yml")) or Path(what).is_file():
        return load_config(Path(what), overrides)
    return load_config(None, [f"seed.name={what}", *overrides])


def _measure_space(config: Config, file: Path, here: Bench, number: int | None, rounds: int) -> dict[str, Any]:
    """Measure what a table lacks of a recipe's space; check it where that is asked for."""
    from dataclasses import replace

    from fna.cost.latency import LatencyTable, read_latencies, said
    from fna.runs.planning import find_basis, space_of
    from fna.searching.forms import forms_of
    from fna.seeds import load_seed
    from fna.stages.latency import check, measure_space

    basis, seed = find_basis(config), load_seed(config.seed.name, None)
    settings = config.model_copy(update={"search": config.search.model_copy(update={"latency_table": str(file)})})
    problem = replace(basis.problem, config=settings)
    space = space_of(problem, seed.arch)
    before = read_latencies(file) if file.exists() else LatencyTable(here.machine, {}, str(file))
    after = measure_space(problem, space, forms_of(settings), before, here, rounds)
    costs = problem.costs(space, "latency")
    done: dict[str, Any] = {
        "table": str(file),
        "machine": said(here.machine),
        "size_hw": list(problem.given_hw),
        "measured": len(after.ns) - len(before.ns),
        "known": len(before.ns),
        "seed_ms": costs.seed / 1e6,
        "space_ms": [end / 1e6 for end in costs.range],
        "remarks": list(basis.remarks),
    }
    return done | ({"check": check(problem, space, after, here, number, rounds)} if number else {})


def _measure_network(path: Path, file: Path, here: Bench, rounds: int) -> dict[str, Any]:
    """Measure a finished network, beside what a table of this machine predicts."""
    from fna.arch.target import Target
    from fna.cost.latency import differences, layers_ns, read_latencies, said
    from fna.runs.saved import load
    from fna.stages.latency import conditions

    model = load(path)
    problem, target = model.problem, Target(model.arch)  # the problem is at its own head width and scale already
    ns = here.time({"network": here.network(problem, target)}, rounds)["network"]
    done = {"machine": said(here.machine), "size_hw": list(problem.given_hw), "measured_ms": ns / 1e6}
    if file.exists() and not differences((latencies := read_latencies(file)).machine, here.machine):
        try:
            layers = layers_ns(problem.prepared(model.arch), problem.counted_hw(model.arch), latencies)
            done["predicted_ms"] = (latencies.of(problem.rest_name(model.arch)) + layers) / 1e6
        except FnaError as error:
            done["not_predicted"] = str(error)
    return done | conditions(rounds)


def _show(done: Mapping[str, Any]) -> None:
    """Print what was measured."""
    if not first_rank():
        return
    size = "x".join(map(str, done["size_hw"]))
    for remark in done.get("remarks", ()):
        print(remark)
    print(f"machine: {done['machine']}")
    if "table" not in done:
        print(f"measured: {done['measured_ms']:.2f} ms at {size} (load {done['load']})")
        if "predicted_ms" in done:
            print(f"predicted: {done['predicted_ms']:.2f} ms")
        return
    print(f"blocks and heads: {done['measured']} measured, {done['known']} known before")
    low, high = (with_unit(1e6 * end, "ns") for end in done["space_ms"])
    print(f"seed: {done['seed_ms']:.2f} ms at {size}; the space reaches from {low} to {high}")
    if checked := done.get("check"):
        print(
            f"check: {len(checked['networks'])} random networks, predicted within {checked['error_percent']:.1f} % on "
            f"average ({checked['error_percent_max']:.1f} % at most), R2 {checked['r2']:.3f}, Kendall's tau "
            f"{checked['kendall_tau']:.3f} (load {checked['load']})"
        )
    print(f"use it: --search.latency_table {done['table']} --search.budget '{0.7 * done['seed_ms']:.3g} ms'")
