"""The command line: parse, call one function, show what it returns. Heavy imports wait until a command needs them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fna.errors import FnaError, pick
from fna.progress import first_rank, quiet
from fna.tables import show_json, show_result, show_table, table

if TYPE_CHECKING:
    from fna.arch import Arch
    from fna.cost import CostRow

STAGES = {  # what it does, an example's settings
    "expand": ("Grow the seed into a super network and remap its weights.", "--recipe recipes/camvid_deeplabv3.yaml"),
    "search": ("Adapt the architecture to the data.", "--engine.workers 4"),
    "derive": ("Choose the best architecture within the budget.", "--json"),
    "adapt": ("Fine-tune the derived network, or a control.", "--adapt.name control --adapt.arch seed"),
    "evaluate": ("Score every fine-tuned network of the run.", "--evaluate.mode sliding"),
    "report": ("Write report.html.", ""),
}
DEMO = (  # four to five minutes on two cores
    *("data.format=synthetic", "data.crop=[128, 160]", "data.images=96", "data.color_jitter=0"),
    *("search.epochs=8", "search.alpha_start=3", "search.optimizer={name: adamw, lr: 1e-3}", "search.alpha.lr=0.01"),
    *("adapt.epochs=9", "adapt.optimizer={name: adamw, lr: 1e-3}"),
)
TAKE_SETTINGS = ("run", "demo", *STAGES)
GRACE_SECONDS = 2  # for another process to report a mistake, before torchrun ends it because this one ended
UNDOTTED = ("baseline",)  # settings that are in no section

app = typer.Typer(
    rich_markup_mode=None,  # plain help: rich's panels cost half as much time again
    add_completion=False,
    pretty_exceptions_enable=False,  # a bug shows Python's own traceback
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", show_default=False, help="The run folder.")]
RunOption = typer.Option("--run", metavar="DIR", help="The run folder.")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars and no messages.")]


def _example(*lines: str) -> str:
    return "\n".join(("\b", "Example:", *(f"  {line.rstrip()}" for line in lines)))


@app.callback(
    invoke_without_command=True,
    epilog=_example("fna run recipes/camvid_deeplabv3.yaml --data.root data/camvid --run runs/camvid"),
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
    epilog=_example(
        "fna run recipes/camvid_deeplabv3.yaml --run runs/camvid --data.root data/camvid --search.budget 0.9",
        "torchrun --nproc-per-node 2 -m -- fna run recipes/cityscapes_deeplabv3.yaml --run runs/city",
    )
)
def run(
    ctx: typer.Context,
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", show_default=False, help="A YAML file of settings.")],
    folder: Annotated[Path, RunOption],
    as_json: AsJson = False,
    no_words: Quiet = False,
) -> None:
    """Do the whole job in a run folder, or go on with it: expand, search, derive, adapt, evaluate, report.

    Every setting can be changed by a dotted option. `fna list settings` shows them all.
    """
    _run(folder, recipe, ctx.obj, as_json, no_words)


@app.command(epilog=_example("fna demo --run runs/demo"))
def demo(
    ctx: typer.Context,
    folder: Annotated[Path, RunOption] = Path("runs/demo"),
    as_json: AsJson = False,
    no_words: Quiet = False,
) -> None:
    """Do the whole job on synthetic street scenes: some minutes, nothing to download."""
    _run(folder, None, [*DEMO, *ctx.obj], as_json, no_words)


def _run(folder: Path, recipe: Path | None, settings: Sequence[str], as_json: bool, no_words: bool) -> None:
    from fna.config import load_config

    config = load_config(recipe, settings)  # before torch is loaded: mistakes show at once
    from fna import pipeline

    with quiet(as_json or no_words):
        metrics = pipeline.run(folder, config)
        _show({**metrics, "report": str(folder / "report.html")}, as_json)


def _add_stage(name: str, text: str, example: str) -> None:
    @app.command(name, help=text, epilog=_example(f"fna {name} runs/camvid {example}"))
    def stage(
        ctx: typer.Context,
        folder: Folder,
        recipe: Annotated[
            Path | None, typer.Option(metavar="FILE", help="Settings of a new run.  [default: DIR/config.yaml]")
        ] = None,
        as_json: AsJson = False,
        no_words: Quiet = False,
    ) -> None:
        from fna.config import load_config

        config = load_config(recipe, ctx.obj) if recipe else None
        from fna import pipeline

        with quiet(as_json or no_words), pipeline.Run.open(folder, config, () if recipe else ctx.obj) as job:
            _show(pipeline.stage(job, name), as_json)


for _name, (_text, _settings) in STAGES.items():
    _add_stage(_name, _text, _settings)


@app.command(epilog=_example("fna predict runs/camvid --images photos --out labelled"))
def predict(
    folder: Folder,
    images: Annotated[Path, typer.Option(metavar="FOLDER", show_default=False, help="Images to label.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", show_default=False, help="Where the pictures go.")],
    name: Annotated[str, typer.Option(metavar="NAME", help="The adaptation to use.")] = "adapted",
    as_json: AsJson = False,
    no_words: Quiet = False,
) -> None:
    """Label images with a fine-tuned network of a run: one picture per image."""
    from fna import pipeline

    with quiet(as_json or no_words):
        _show(pipeline.predict(folder, images, out, name=name), as_json)


@app.command("list", epilog=_example("fna list seeds"))
def list_(
    what: Annotated[str | None, typer.Argument(show_default=False, help="One of these, or all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what there is: seeds, formats, strategies, spaces, optimizers, models, estimators, settings."""
    from fna.catalogue import CATALOGUE

    chosen = {what: pick(CATALOGUE, what, "list")} if what else CATALOGUE
    rows = {name: collect() for name, collect in chosen.items()}
    if as_json:
        return show_json(rows)
    for name, collect in chosen.items():
        show_table(table(rows[name], f"{name}: {(collect.__doc__ or '').rstrip('.')}"))


@app.command(epilog=_example("fna count mobilenet_v2 --model deeplabv3 --classes 19 --size 1024x2048 --json"))
def count(
    network: Annotated[
        str, typer.Argument(metavar="SEED|FILE", show_default=False, help="A seed; or Arch JSON or net_config text.")
    ],
    model: Annotated[
        Literal["deeplabv3", "deeplabv3plus", "none"], typer.Option(help="What is on the backbone.")
    ] = "deeplabv3",
    classes: Annotated[int, typer.Option(metavar="N", min=1, help="Classes of the model.")] = 19,
    size: Annotated[str, typer.Option(metavar="HxW", help="Height x width of the image.")] = "1024x2048",
    output_stride: Annotated[
        int | None, typer.Option(metavar="8|16|32", help="Of the last features.  [default: 16; model none: 32]")
    ] = None,
    rule: Annotated[Literal["paper", "exact"], typer.Option(help="paper counts additions of biases, too.")] = "paper",
    detail: Annotated[bool, typer.Option("--detail", help="Show every layer.")] = False,
    as_json: AsJson = False,
) -> None:
    """Count the parameters and multiply-adds (MAdds) of a network."""
    from fna.catalogue import find_arch
    from fna.cost import total_cost

    counted = _count_rows(find_arch(network), model, classes, _size_hw(size), output_stride, rule)
    total = total_cost(counted)
    rows = [
        {"layer": row.layer, "block": row.label, "out_hw": list(row.out_hw), **vars(row.cost)}  # params, madds
        for row in counted
    ]
    if as_json:
        return show_json({**vars(total), **({"rows": rows} if detail else {})})
    if detail:
        show_table(table(rows, f"{network} at {size}"))
    print(f"{total.params:,} params, {total.madds / 1e9:.6f} G MAdds at {size} ({rule} rule)")


def _size_hw(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise FnaError(f"--size is '{text}'; expected HEIGHTxWIDTH in pixels, e.g. --size 1024x2048")
    return int(height), int(width)


def _count_rows(
    arch: Arch, model: str, classes: int, size_hw: tuple[int, int], output_stride: int | None, rule: str
) -> list[CostRow]:
    """Count the backbone layer by layer, and the head as the last row."""
    from fna.arch import with_output_stride
    from fna.cost import Cost, CostRow, backbone_rows, model_cost, total_cost

    if model == "none":
        return backbone_rows(with_output_stride(arch, output_stride or arch.output_stride), size_hw)
    import torch

    from fna.config import make_config
    from fna.network import feature_info
    from fna.tasks import load_task

    config = make_config({"task": {"model": model, "output_stride": output_stride or 16}}, "fna count").task
    task = load_task(config.name)
    strided = task.prepare(arch, config)
    with torch.device("meta"):
        head = task.head(feature_info(strided), classes, config)
    rows = backbone_rows(strided, size_hw)
    backbone, whole = total_cost(rows), model_cost(strided, head, size_hw, rule)
    rest = Cost(whole.params - backbone.params, whole.madds - backbone.madds)
    return [*rows, CostRow("head", model, rest, size_hw)]


def _show(result: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(result)
    else:
        show_result(result)


# --- the entry point --------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; None: the process's own.

    Returns:
        The exit code: 0, 2 after a mistake of the user (one message on stderr), 130 after Ctrl-C.
    """
    try:
        rest, settings = split_settings(sys.argv[1:] if argv is None else argv)
        code = app(rest, prog_name="fna", standalone_mode=False, obj=settings)
    except FnaError as error:
        return _refuse_once(error)
    except typer.TyperException as error:
        command = getattr(getattr(error, "ctx", None), "command_path", "fna")
        return _refuse(f"{error.format_message()} (type: {command} --help)") if first_rank() else 2
    except KeyboardInterrupt:
        code = 130
    if code == 130 and first_rank():
        print("fna: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
    return code if isinstance(code, int) else 0


def _refuse_once(error: FnaError) -> int:
    """Report an error of several processes from one of them (before they have met: from the first of each node)."""
    if error.reported_here if error.reported_here is not None else os.environ.get("LOCAL_RANK", "0") == "0":
        return _refuse(str(error) + ("" if first_rank() else f" (rank {os.environ['RANK']})"))
    time.sleep(GRACE_SECONDS)
    return 2


def _refuse(message: str) -> int:
    print(f"fna: error: {message}", file=sys.stderr)
    return 2


def split_settings(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate settings, which can stand anywhere, from the other arguments.

    >>> split_settings(["run", "--search.epochs", "5", "recipe.yaml", "--data.root=x"])
    (['run', 'recipe.yaml'], ['search.epochs=5', 'data.root=x'])
    """
    rest, settings = [], []
    words = iter(argv)
    for word in words:
        key, sign, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not ("." in key or key in UNDOTTED):
            rest.append(word)
            continue
        value = value if sign else next(words, "--")
        if not sign and value.startswith("--"):
            raise FnaError(f"--{key} has no value; write --{key} VALUE (--{key}=VALUE if it begins with --)")
        settings.append(f"{key}={value}")
    return rest, settings
