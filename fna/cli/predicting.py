"""The command `fna predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fna.cli.networks import AsJson, Name, Quiet, example
from fna.cli.tables import show_json, show_result
from fna.progress import quiet


def add_predict(app: typer.Typer) -> None:
    """Give `app` the command."""
    app.command(
        epilog=example(
            "fna predict runs/camvid --images photos --out labelled",
            "fna predict runs/bccd --images 'cells/*.jpg' --out labelled --format overlay --format yolo --format csv",
            "fna predict bccd_network --images cell.jpg --out labelled --evaluate.score_threshold 0.3",
        )
    )(predict)


def predict(
    ctx: typer.Context,
    folder: Annotated[
        Path, typer.Argument(metavar="RUN|FOLDER", show_default=False, help="A run folder, or a network's folder.")
    ],
    images: Annotated[
        Path, typer.Option(metavar="FOLDER|FILE|'*.jpg'", show_default=False, help="Images or video frames to label.")
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", show_default=False, help="Where the files go.")],
    more: Annotated[  # of a pattern without quotes, the shell leaves the first name to --images, and the others here
        list[Path] | None, typer.Argument(metavar="", hidden=True)
    ] = None,
    name: Name = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="NAME",
            help="overlay; of masks png (class ids), npz (probabilities); of boxes and poses coco, yolo, csv. May be "
            "repeated.  [default: overlay, and png or coco]",
        ),
    ] = None,
    boxes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Persons' boxes as COCO json (pose).  [default: whole images]")
    ] = None,
    as_json: AsJson = False,
    no_words: Quiet = False,
) -> None:
    """Label images with a fine-tuned network, batch by batch: pictures, masks, boxes and poses as files.

    Settings of evaluate and engine can be given, too, e.g. --evaluate.batch_size 16.
    """
    from fna.runs.saved import predict_images

    with quiet(as_json or no_words):
        network = folder / name if name else folder
        done = predict_images(network, [images, *(more or ())], out, boxes, ctx.obj, formats or ())
        show_json(done) if as_json else show_result(done)
