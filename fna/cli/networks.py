"""The commands about networks, without a run: `fna count` and `fna remap`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fna.cli.tables import show_json, show_table, table
from fna.errors import FnaError

if TYPE_CHECKING:
    from fna.cli.counting import Plan

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars and no messages.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", show_default=False, help="The run folder.")]
Name = Annotated[str | None, typer.Option(metavar="NAME", help="The adaptation of a run to use.  [default: adapted]")]
SETTINGS = {"count": ("task", "space"), "remap": ("remap", "space")}  # sections whose settings a command takes


def example(*lines: str) -> str:
    """Return a command's epilogue."""
    return "\n".join(("\b", "Example:", *(f"  {line.rstrip()}" for line in lines)))


def add_commands(app: typer.Typer) -> None:
    """Give `app` the commands of this module."""
    app.command(
        epilog=example(
            "fna count mobilenet_v2 --model deeplabv3 --classes 19 --size 1024x2048 --json",
            "fna count resnet50 --space det --detail",
        )
    )(count)
    app.command(
        "remap",
        epilog=example(
            "fna remap --from efficientnet_lite0 --to space:seg --out remapped",
            "fna remap --from runs/x/super.json --weights runs/x/found.safetensors --to runs/x/targets/derived.json",
        ),
    )(remap_files)


def count(
    ctx: typer.Context,
    network: Annotated[
        str, typer.Argument(metavar="SEED|FILE", show_default=False, help="A seed; or Arch JSON or net_config text.")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL|none", help="What is on the backbone (fna list models).  [default: with --space its task's]"
        ),
    ] = None,
    space: Annotated[
        str | None, typer.Option(metavar="seg|det|pose", help="Measure the search space of this task instead.")
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=100_000, help="Classes (no background) or joints.  [default: article's]"),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Height x width of the image.  [default: article's; none: 224x224]"),
    ] = None,
    output_stride: Annotated[
        int | None, typer.Option(metavar="8|16|32", help="Of the last features.  [default: 16 for segmentation, or 32]")
    ] = None,
    rule: Annotated[
        Literal["paper", "exact"], typer.Option(help="paper counts biases and full transposed grids, too.")
    ] = "paper",
    detail: Annotated[bool, typer.Option("--detail", help="Show every stage and layer.")] = False,
    as_json: AsJson = False,
) -> None:
    """Count the parameters and multiply-adds (MAdds) of a network, or measure a search space.

    A target's file is counted as it is used: at its input scale x the size, with its head and output stride.

    Settings of the sections task and space can be given, too, e.g. --space.kernels "[3, 5]".
    """
    from fna.arch import SuperArch
    from fna.cli.counting import make_plan, named_space
    from fna.cli.transfer import find_form, find_network

    settings = _allowed("count", ctx.obj or ())
    plan = make_plan(
        model,
        space,
        classes=classes,
        size_hw=size_hw(size) if size else None,
        output_stride=output_stride,
        rule=rule,
        settings=settings,
    )
    found = find_network(network)
    if space:
        seed = found.seed if isinstance(found, SuperArch) else found
        found = named_space(seed, space, plan)
    else:
        plan = plan.at(find_form(network))
    if isinstance(found, SuperArch):
        _show_space(network, found, plan, detail, as_json)
    else:
        _show_network(network, found, plan, detail, as_json)


def _show_network(network: str, arch: Any, plan: Plan, detail: bool, as_json: bool) -> None:
    from fna.cli.counting import count_memory, count_network, layer_rows, stage_rows
    from fna.cost.madds import total_cost
    from fna.cost.units import with_unit

    counted, memory = count_network(arch, plan), count_memory(arch, plan)
    total = total_cost(counted)
    layers, stages = layer_rows(counted), stage_rows(counted)
    if as_json:
        parts = {"stages": stages, "rows": layers} if detail else {}
        return show_json({"params": total.params, "madds": total.madds, "memory": memory, **parts})
    size = "x".join(map(str, plan.size_hw))
    if detail:
        show_table(table(layers, f"{network} at {size}, by layer"))
        show_table(table(stages, f"{network} at {size}, by stage"))
    print(f"{total.params:,} params, {total.madds / 1e9:.6f} G MAdds at {size} ({plan.rule} rule)")
    print(f"{with_unit(memory, 'B')} of maps at once, one image in float32, weights aside")


def _show_space(network: str, space: Any, plan: Plan, detail: bool, as_json: bool) -> None:
    from fna.cli.counting import count_space

    counted = count_space(space, plan)
    cost = {
        "seed": counted.cost.seed,
        "uniform": counted.cost.uniform,
        "min": counted.cost.min,
        "max": counted.cost.max,
    }
    if as_json:
        return show_json(
            {
                "size": counted.size,
                "paths": counted.paths,
                "added": list(counted.added),
                "searchable_layers": counted.searchable,
                "searchable_madds": cost,
                "other_madds": counted.other,
                **({"rows": list(counted.rows)} if detail else {}),
            }
        )
    if detail:
        show_table(table([{**row, "candidates": " ".join(row["candidates"])} for row in counted.rows], network))
    size = "x".join(map(str, plan.size_hw))
    print(f"{counted.size:,} architectures ({counted.size:.1e}) by the article's table")
    if counted.added:
        print(f"{counted.paths:,} with the seed's own blocks ({', '.join(counted.added)})")
    print(f"searchable MAdds at {size}: " + ", ".join(f"{name} {madds / 1e9:.4f} G" for name, madds in cost.items()))
    print(f"all other MAdds: {counted.other / 1e9:.4f} G ({plan.model}, {plan.rule} rule)")


def remap_files(
    ctx: typer.Context,
    source: Annotated[
        str, typer.Option("--from", metavar="SEED|FILE", show_default=False, help="A seed, or an architecture's file.")
    ],
    target: Annotated[
        str,
        typer.Option(
            "--to", metavar="SEED|FILE|space:TASK", show_default=False, help="space:seg|det|pose: its super network."
        ),
    ],
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|pretrained|random",
            help="Of the source.  [default: pretrained; FILE.safetensors of FILE.json]",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write weights, architecture and report here.")
    ] = None,
    rng_seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of fresh values.")] = 0,
    detail: Annotated[bool, typer.Option("--detail", help="Show where every tensor comes from.")] = False,
    as_json: AsJson = False,
) -> None:
    """Hand the weights of one network to another of other depth, width, kernels or groups.

    The rules are settings, e.g. --remap.width l1 (fna list strategies).
    """
    from fna.arch import Arch
    from fna.cli.transfer import find_weights, fit_to_source, report_rows, write_remapped
    from fna.config import make_config, merge

    settings = _allowed("remap", ctx.obj or ())
    config = make_config(merge({}, settings), "fna remap")
    src, state = find_weights(source, weights, rng_seed)
    wanted = _destination(target, src, [s for s in settings if s.startswith("space.")])
    dst = fit_to_source(wanted, src, state)
    left_out = isinstance(dst, Arch) and dst.num_classes + dst.head_channels < wanted.num_classes + wanted.head_channels
    from fna.remapping import Strategy, remap, summarise

    done = remap(src, state, dst, Strategy(**config.remap.model_dump()), rng_seed)
    summary = summarise(done.report)
    files = write_remapped(out, dst, done.state, done.report, summary) if out else {}
    rows = report_rows(done.report)
    if as_json:
        return show_json({**summary, "tail_left_out": left_out, "files": files, **({"rows": rows} if detail else {})})
    if detail:
        shown = [{key: f"{v:.1%}" if isinstance(v, float) else v for key, v in row.items()} for row in rows]
        show_table(table(shown, f"{source} to {target}, by tensor"))
    rules = [{"rule": rule, **where} for rule, where in summary["rules"].items()]
    show_table(table(rules, f"{source} to {target}, by rule"))
    print(f"{summary['copied']:.1%} copied, {summary['new']:.1%} new; {summary['dropped']:.1%} of the source dropped")
    if left_out:
        print("the destination's head and classifier are left out: the source has none that fit")
    for name, file in files.items():
        print(f"{name}: {file}")


def _destination(target: str, src: Any, settings: Sequence[str]) -> Any:
    """Return the network that ``--to`` names; a space grows from the source's seed.

    Args:
        target: a seed, a file or ``space:TASK``.
        src: the source's architecture.
        settings: those of ``space``, which nothing but a space can take.
    """
    from fna.arch import SuperArch
    from fna.cli.counting import make_plan, named_space
    from fna.cli.transfer import find_network

    if target.startswith("space:"):
        task = target.removeprefix("space:")
        seed = src.seed if isinstance(src, SuperArch) else src
        return named_space(seed, task, make_plan(space=task, settings=settings))
    if settings:
        raise FnaError(f"--{settings[0].partition('=')[0]} needs a search space; give one with --to space:seg|det|pose")
    return find_network(target)


def _allowed(command: str, settings: Sequence[str]) -> Sequence[str]:
    """Return the settings of a command, or refuse one of another section."""
    for setting in settings:
        key = setting.partition("=")[0]
        if key.partition(".")[0] not in SETTINGS[command]:
            raise FnaError(
                f"fna {command} takes no setting '--{key}', only those of {' and '.join(SETTINGS[command])}; "
                f"type: fna {command} --help"
            )
    return settings


def size_hw(text: str) -> tuple[int, int]:
    """Return height and width from ``HEIGHTxWIDTH``."""
    height, _, width = text.partition("x")
    if not all(re.fullmatch(r"\d{1,5}", side) and int(side) for side in (height, width)):
        raise FnaError(f"--size is '{text}'; expected HEIGHTxWIDTH in pixels, at most 99999, e.g. --size 1024x2048")
    return int(height), int(width)
