"""The command line: parse, call one function, show what it returns. Heavy imports wait until a command needs them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fna.cli.exporting import add_export
from fna.cli.latency import add_latency
from fna.cli.networks import AsJson, Folder, Quiet, add_commands, example
from fna.cli.planning import add_plan
from fna.cli.predicting import add_predict
from fna.cli.streams import complain, flush_output, open_streams, refuse, refuse_once
from fna.cli.studies import JobArray, add_studies
from fna.cli.surveying import add_data
from fna.cli.tables import show_json, show_result, show_table, table
from fna.cli.words import split_settings
from fna.errors import FnaError, out_of_memory, pick, quoted
from fna.progress import first_rank, quiet

STAGES = {  # what it does, an example's settings
    "expand": ("Grow the seed into a super network and remap its weights.", "--recipe recipes/camvid_deeplabv3.yaml"),
    "search": ("Adapt the architecture to the data.", "--engine.workers 4"),
    "derive": ("Choose the best architecture within a budget.", "--derive.name half --derive.budget 0.5x"),
    "adapt": ("Fine-tune a derived network, or a control.", "--adapt.name half --adapt.arch half"),
    "evaluate": ("Score every fine-tuned network of the run.", "--evaluate.mode sliding"),
    "report": ("Write report.html.", ""),
}
DEMO = (  # some minutes on two cores
    *("data.format=synthetic", "data.crop=[128, 160]", "data.images=96", "data.color_jitter=0"),
    *("search.epochs=8", "search.candidates=40", "search.optimizer={weight_decay: 0.0, warmup: 0}"),
    *("adapt.epochs=9", "adapt.optimizer={weight_decay: 0.0, warmup: 0}"),
)
TAKE_SETTINGS = (
    *("run", "demo", "data", "plan", *STAGES, "controls", "predict", "export", "count", "remap"),
    *("latency", "front", "study"),
)
GO_ON = ("run", "demo", "search", "derive", "adapt", "controls", "front", "study")  # others start over
LESS_MEMORY = (
    "smaller batches (--search.batch_size, --adapt.batch_size), a smaller --data.crop and fewer --engine.workers take "
    "less; fna plan RECIPE says how much"
)

app = typer.Typer(
    rich_markup_mode=None,  # plain help: rich's panels cost half as much time again
    add_completion=False,
    pretty_exceptions_enable=False,  # a bug shows Python's own traceback
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

RunOption = typer.Option("--run", metavar="DIR", help="The run folder.")
Controls = Annotated[
    bool, typer.Option("--controls", help="Also the rows beside which the network is judged; see fna controls --help.")
]
Resume = Annotated[
    Literal["auto", "never"], typer.Option(help="Go on with what is there, or refuse to (never).", show_default=True)
]
RngSeeds = Annotated[
    int | None,
    typer.Option(
        "--rng-seeds",
        metavar="N",
        min=1,
        max=1000,
        help="Do all of it N times, search included, in DIR/seed_0, DIR/seed_1 ...  [default: once, in DIR]",
    ),
]


@app.callback(
    invoke_without_command=True,
    epilog=example("fna run recipes/camvid_deeplabv3.yaml --data.root data/camvid --run runs/camvid"),
)
def fna(
    ctx: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    """Fine-tune the architecture of a pretrained backbone for your task (FNA++)."""
    if version:
        from importlib.metadata import version as installed_version

        print(f"fna {installed_version('fna')}")
    elif ctx.invoked_subcommand is None:
        print(ctx.get_help())
    elif ctx.obj and ctx.invoked_subcommand not in TAKE_SETTINGS:
        command = f"fna {ctx.invoked_subcommand}"
        raise FnaError(f"{command} takes no setting '--{ctx.obj[0].partition('=')[0]}'; type: {command} --help")


@app.command(
    epilog=example(
        "fna run recipes/camvid_deeplabv3.yaml --run runs/camvid --data.root data/camvid --search.budget 0.9",
        "fna run recipes/camvid_deeplabv3.yaml --run runs/camvid3 --data.root data/camvid --controls --rng-seeds 3",
        "torchrun --nproc-per-node 2 -m -- fna run recipes/cityscapes_deeplabv3.yaml --run runs/city",
    )
)
def run(
    ctx: typer.Context,
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", show_default=False, help="A YAML file of settings.")],
    folder: Annotated[Path, RunOption],
    controls: Controls = False,
    rng_seeds: RngSeeds = None,
    resume: Resume = "auto",
    array: JobArray = None,
    as_json: AsJson = False,
    no_words: Quiet = False,
) -> None:
    """Do the whole job in a run folder, or go on with it: expand, search, derive, adapt, evaluate, report.

    Every setting can be changed by a dotted option. `fna list settings` shows them all.
    """
    _run(folder, recipe, ctx.obj, controls, rng_seeds, resume, as_json, no_words, array)


@app.command(epilog=example("fna demo --run runs/demo", "fna demo --write-data leaves"))
def demo(
    ctx: typer.Context,
    folder: Annotated[Path, RunOption] = Path("runs/demo"),
    write_data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Only write drawn plants, in a layout for every task.")
    ] = None,
    controls: Controls = False,
    rng_seeds: RngSeeds = None,
    resume: Resume = "auto",
    as_json: AsJson = False,
    no_words: Quiet = False,
) -> None:
    """Do the whole job on synthetic street scenes: some minutes, nothing to download."""
    if write_data is not None:
        return _write_data(write_data)
    _run(folder, None, [*DEMO, *ctx.obj], controls, rng_seeds, resume, as_json, no_words)


def _write_data(folder: Path) -> None:
    from fna.data.synthetic.writing import write_plants

    for path, about in write_plants(folder).items():
        print(f"{path}: {about}")
    print(f"next: fna data {quoted(folder)}")


def _run(
    folder: Path,
    recipe: Path | None,
    settings: Sequence[str],
    controls: bool,
    rng_seeds: int | None,
    resume: str,
    as_json: bool,
    no_words: bool,
    array: str | None = None,
) -> None:
    from fna.config import load_config

    if array and not rng_seeds:
        raise FnaError("--job-array shares out the RNG seeds of --rng-seeds N; give that, too")
    config = load_config(recipe, settings)  # before torch is loaded: mistakes show at once
    from fna.runs.opening import check_data, open_jobs, refuse_started

    if resume == "never":
        refuse_started(folder, "run", config)
    with quiet(as_json or no_words):
        jobs = open_jobs(folder, config, rng_seeds)
        if array:
            return _show(_repeat_part(folder, jobs, array, controls), as_json, folder)
        first = next(iter(jobs.values()))
        data = check_data(*first, ("train", "val"), _foresee)
        from fna.runs import pipeline
        from fna.runs.controls import repeat, run_controls

        if rng_seeds:
            result = repeat(folder, jobs, controls=controls, data=data)
        else:
            result = (run_controls if controls else pipeline.run)(folder, config, data=data)
        _show({**result, "report": str(folder / "report.html")}, as_json, folder)


def _repeat_part(folder: Path, jobs: Mapping[int, Any], array: str, controls: bool = True) -> dict[str, Any]:
    """Do some of the RNG seeds of a job, beside other processes."""
    from fna.runs.controls import repeat
    from fna.runs.jobs import share_of

    result = repeat(folder, jobs, only=share_of(list(jobs), array), controls=controls)
    return {**result, "report": str(folder / "report.html")}


@app.command(epilog=example("fna controls runs/camvid", "fna controls runs/camvid3 --engine.workers 4"))
def controls(
    ctx: typer.Context,
    folder: Folder,
    array: JobArray = None,
    as_json: AsJson = False,
    no_words: Quiet = False,
) -> None:
    """Judge a run's network (c), or those of several RNG seeds, beside what costs less work; go on where it stopped.

    (a) the seed under the same schedule, (b) for the run's total compute, (d) with the super network's weights, (e) a
    random architecture of the same cost, (f) the seed cut by hand to the same cost and input scale.
    """
    from fna.runs.opening import check_data, reopen_jobs

    with quiet(as_json or no_words):
        jobs = reopen_jobs(folder, ctx.obj)
        if array:
            return _show(_repeat_part(folder, jobs, array), as_json, folder)
        first = next(iter(jobs.values()))
        data = check_data(*first, ("train", "val"))
        from fna.runs.controls import repeat, run_controls

        result = run_controls(*first, data=data) if first[0] == folder else repeat(folder, jobs, data=data)
        _show({**result, "report": str(folder / "report.html")}, as_json, folder)


def _add_stage(name: str, text: str, settings: str) -> None:
    @app.command(name, help=text, epilog=example(f"fna {name} runs/camvid {settings}"))
    def stage(
        ctx: typer.Context,
        folder: Folder,
        recipe: Annotated[
            Path | None, typer.Option(metavar="FILE", help="Settings of a new run.  [default: DIR/config.yaml]")
        ] = None,
        resume: Resume = "auto",
        as_json: AsJson = False,
        no_words: Quiet = False,
    ) -> None:
        _stage(name, folder, recipe, ctx.obj, as_json, no_words, resume=resume)


def _stage(
    name: str,
    folder: Path,
    recipe: Path | None,
    settings: Sequence[str],
    as_json: bool,
    no_words: bool,
    resume: str = "auto",
    **more: Any,
) -> None:
    from fna.config import load_config
    from fna.runs.opening import NEEDS, check_data, refuse_started, settle_config

    config = settle_config(folder, load_config(recipe, settings) if recipe else None, () if recipe else settings)
    if resume == "never":
        refuse_started(folder, name, config)
    with quiet(as_json or no_words):
        needs = ["test"] if more.get("split") == "test" else NEEDS.get(name, ())
        data = check_data(folder, config, needs, _foresee)
        from fna.runs import pipeline
        from fna.runs.run import Run

        with Run.open(folder, config, data=data) as job:
            _show(pipeline.stage(job, name, **more), as_json, folder)


for _name, (_text, _settings) in STAGES.items():
    if _name != "evaluate":
        _add_stage(_name, _text, _settings)


@app.command(
    epilog=example(
        "fna evaluate runs/camvid --evaluate.mode sliding",
        "fna evaluate runs/camvid --split test",
        "fna evaluate runs/camvid --data.root /elsewhere/camvid",
    ),
)
def evaluate(
    ctx: typer.Context,
    folder: Folder,
    split: Annotated[Literal["val", "test"], typer.Option(help="What to score on; test is opened only here.")] = "val",
    as_json: AsJson = False,
    no_words: Quiet = False,
) -> None:
    """Score every fine-tuned network of the run, on the validation or the test split."""
    _stage("evaluate", folder, None, ctx.obj, as_json, no_words, split=split)


@app.command("list", epilog=example("fna list seeds", "fna list settings retinanet"))
def list_(
    what: Annotated[str | None, typer.Argument(show_default=False, help="One of these, or all.")] = None,
    model: Annotated[str | None, typer.Argument(show_default=False, help="Settings: only those of this model.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what there is: seeds, formats, models, strategies, samplers, choosers, costs, settings ..."""
    from fna.cli.catalogue import CATALOGUE, narrow, settings

    chosen = {what: pick(CATALOGUE, what, "list")} if what else CATALOGUE
    if model and what != "settings":
        raise FnaError(f"'{model}' is one word too many; only settings are those of a model: fna list settings {model}")
    rows = {name: settings(model) if model else collect() for name, collect in chosen.items()}
    if as_json:
        return show_json(rows)
    for name, collect in chosen.items():
        shown = [narrow(row) for row in rows[name]] if name == "seeds" else rows[name]
        show_table(table(shown, f"{name}: {(collect.__doc__ or '').rstrip('.')}"))


add_data(app)
add_plan(app)
add_commands(app)  # count and remap
add_export(app)  # push and clean, too
add_predict(app)
add_latency(app)
add_studies(app)


def _foresee(config: Any) -> None:
    from fna.runs.foreseeing import foresee_settings  # loads torch

    foresee_settings(config)


def _show(result: Mapping[str, Any], as_json: bool, folder: Path) -> None:
    if as_json:
        show_json(result)
    elif "differences" in result:
        _show_controls(result)
    else:
        show_result(result, folder)


def _show_controls(compared: Mapping[str, Any]) -> None:
    """Print the table of controls, and what it says."""
    from fna.reporting.controls import sentences
    from fna.reporting.controls import table as controls_table

    made = controls_table(compared)
    show_table(table([dict(zip(made.head, row, strict=True)) for row in made.rows]))
    if first_rank():
        print("\n".join([*sentences(compared), f"report: {compared['report']}"]))


# --- the entry point --------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; None: the process's own.

    Returns:
        The exit code: 0, 2 after a mistake of the user (one message on stderr), 130 after Ctrl-C.
    """
    open_streams()
    argv = sys.argv[1:] if argv is None else argv
    try:
        code = _call(argv)
        flush_output()
    except FnaError as error:
        return refuse_once(error)
    except typer.TyperException as error:
        command = getattr(getattr(error, "ctx", None), "command_path", "") or _typed(argv)
        return refuse(f"{error.format_message()} (type: {command} --help)") if first_rank() else 2
    except OSError as error:  # of the system, and of nothing that we read or write: that is named by then
        with suppress(OSError):
            flush_output()
        return refuse(f"cannot write to {error.filename or 'standard output'}: {error.strerror or error}")
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0]
        return refuse(f"out of memory{f' ({reason})' if reason else ''}; {LESS_MEMORY}")
    return code


def _call(argv: Sequence[str]) -> int:
    """Do what the arguments say; return the exit code."""
    rest: list[str] = []
    try:
        rest, settings = split_settings(argv)
        code = app(rest, prog_name="fna", standalone_mode=False, obj=settings)
    except (KeyboardInterrupt, typer.Abort):  # the latter at a question
        code = 130
    if code == 130 and first_rank():
        goes_on = "; the same command goes on from the last checkpoint" if rest and rest[0] in GO_ON else ""
        complain(f"fna: interrupted{goes_on}")
    return code if isinstance(code, int) else 0


def _typed(argv: Sequence[str]) -> str:
    """Return the command that was typed, for messages: ``fna run``."""
    names = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    first = next(iter(split_settings(argv)[0]), "")
    return f"fna {first}" if first in names else "fna"
