"""The commands `fna export`, `fna push` and `fna clean`: what one does with a finished run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fna.cli.networks import AsJson, Folder, Name, Quiet, example, size_hw
from fna.cli.tables import show_json
from fna.errors import FnaError
from fna.progress import first_rank, quiet, say


def add_export(app: typer.Typer) -> None:
    """Give `app` the commands."""
    app.command(
        "export",
        epilog=example(
            "fna export runs/camvid --to onnx",
            "fna export runs/bccd --precision int8 --batch 1 --size 256x320 --data.root data/bccd",
            "fna export bccd_network --images photos --out exported",
        ),
    )(export_network)
    app.command("push", epilog=example("fna push runs/camvid me/camvid-fna --private"))(push_network)
    app.command("clean", epilog=example("fna clean runs/camvid", "fna clean runs/camvid --yes"))(clean_run)


def export_network(
    ctx: typer.Context,
    folder: Annotated[
        Path, typer.Argument(metavar="RUN|FOLDER", show_default=False, help="A run folder, or a network's folder.")
    ],
    to: Annotated[Literal["onnx", "torch.export", "torchscript"], typer.Option(help="What to write.")] = "onnx",
    name: Name = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the files go.  [default: beside the network]")
    ] = None,
    precision: Annotated[Literal["fp32", "fp16", "int8"], typer.Option(help="Write this, too, and score it.")] = "fp32",
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Fix height and width, multiples of 32.  [default: free]")
    ] = None,
    batch: Annotated[int | None, typer.Option(metavar="N", help="Fix the images of a batch.  [default: free]")] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="FOLDER|FILE", help="Images to check on.  [default: the run's data]")
    ] = None,
    as_json: AsJson = False,
    no_words: Quiet = False,
) -> None:
    """Write a fine-tuned network for other programs: uint8 pixels in, maps out, checked against torch on real images.

    Settings of evaluate and, for a run, of data can be given, too.
    """
    hw = size_hw(size) if size else None  # mistakes show before torch is loaded
    from fna.exporting.export import export

    with quiet(as_json or no_words):
        path = folder / name if name else folder
        done = export(path, out, to=to, precision=precision, size=hw, batch=batch, images=images, overrides=ctx.obj)
        if as_json:
            return show_json(done)
        _show(done)


def _show(done: dict[str, Any]) -> None:
    """Print what was written and how it was checked."""
    if not first_rank():
        return
    for warning in done.get("warnings", ()):
        say(f"warning: {warning}")
    print(f"max_abs_error: {done['max_abs_error']:.3g} to torch, on real images")
    for row in done.get("checks", ()):
        images, height, width = row["shape"]
        print(f"  {images} x {height}x{width}: error {row['max_abs_error']:.3g}, {row['equal']:.4%} predictions equal")
    size = "x".join(map(str, done["size_hw"]))
    print(f"latency_ms: torch {done['torch_latency_ms']:.3g} at {size}, one image, {done['threads']} threads")
    for precision, row in done["files"].items():
        words = [f"{row['latency_ms']:.3g} ms"]
        if "score" in row:
            words.append(f"{done['metric']} {row['score']:.4f}, torch {done['torch_score']:.4f}")
        print(f"{precision}: {Path(done['out']) / row['file']}{' (' + ', '.join(words) + ')' if words else ''}")


def push_network(
    ctx: typer.Context,
    folder: Annotated[
        Path, typer.Argument(metavar="RUN|FOLDER", show_default=False, help="A run folder, or a network's folder.")
    ],
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", show_default=False, help="A repository of the hub.")],
    name: Name = None,
    private: Annotated[bool, typer.Option("--private", help="A new repository is not for everyone to see.")] = False,
) -> None:
    """Put a fine-tuned network on the Hugging Face hub, with a card made from its run's results.

    `fna.load` and `fna predict` take it from there as hf://OWNER/NAME.
    """
    from fna.integrations.pushing import push

    print(push(folder / name if name else folder, repo, private=private))


def clean_run(
    ctx: typer.Context,
    folder: Folder,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Free the disk space of a finished run: what only serves to search, derive or adapt more.

    Fine-tuned networks, targets' architectures, settings, logs, scores and reports stay.
    """
    from fna.runs.cleaning import clean, find_heavy

    files = find_heavy(folder)
    if not files:
        return print(f"{folder} holds nothing to free")
    for file, size in files.items():
        print(f"{size / 1e6:10.1f} MB  {file}")
    print(f"{sum(files.values()) / 1e6:10.1f} MB  in all; the run can be scored, reported and used, but not go on")
    if not (yes or sys.stdin.isatty()):
        raise FnaError("nobody is there to ask; type --yes to remove these files")
    if yes or typer.confirm("Remove these files?"):
        clean(folder, files)
        print("removed")
