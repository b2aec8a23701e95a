"""Export a finished network: traced, written, checked against torch on real images, and only then kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fna.arch import MULTIPLE
from fna.errors import FnaError, pick
from fna.exporting import standalone
from fna.exporting.checks import Run, check_maps, check_predictions, check_sizes, latencies, score
from fna.exporting.description import describe_export
from fna.exporting.graph import Deployed, Shape, trace
from fna.exporting.onnx_files import in_half, in_int8, make_onnx, need_onnx
from fna.exporting.pictures import Pictures, at_size, see
from fna.exporting.standalone import Exported
from fna.exporting.torch_files import make_program, make_script
from fna.files import write_bytes, write_json
from fna.progress import say
from fna.runs.saved import find_network, load
from fna.stages.predict import Finished
from fna.training import machine

SECTIONS = ("evaluate.", "data.")  # whose settings an export takes
CHECKED, CALIBRATED = 4, 64  # images
REPORT = "export.json"
SMALLER = {"fp16": "network_fp16.onnx", "int8": "network_int8.onnx"}
WORSE = 0.02  # a score lower by more than that is worth a warning


def export(
    path: str | Path,
    out: str | Path | None = None,
    *,
    to: str = "onnx",
    precision: str = "fp32",
    size: tuple[int, int] | None = None,
    batch: int | None = None,
    images: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Export a finished network and check what was exported.

    Args:
        path: as for `fna.load`.
        out: folder for the files; None: ``onnx`` (or what `to` says) beside the network.
        to: a name of `TARGETS`.
        precision: ``fp32``, or beside it ``fp16`` or ``int8``, which are scored.
        size: height and width in pixels, multiples of 32, that the network is fixed to; None: free.
        batch: images that it is fixed to; None: free.
        images: a folder of images, or one, to check on; None: those of the run that the network is in.
        overrides: ``evaluate.*`` and, of a run, ``data.*`` settings.

    Returns:
        What export.json says: files, checks, scores, latencies.

    Raises:
        FnaError: something is missing, or the export is not the network.
    """
    target = pick(TARGETS, to, "export")
    shape = _shape(size, batch)
    _settings(overrides)
    if precision not in ("fp32", *SMALLER) or (to != "onnx" and precision != "fp32"):
        raise FnaError(f"precision is '{precision}'; expected fp32, {', '.join(SMALLER)} (these are for --to onnx)")
    if to == "onnx":
        need_onnx()
    model = load(path, "cpu", [text for text in overrides if text.startswith("evaluate.")])
    file = find_network(Path(path).expanduser())
    pictures = Pictures(
        file.parent, Path(images) if images else None, [text for text in overrides if text.startswith("data.")]
    )
    views = see(model, pictures.records("val", CHECKED))
    _fits(model, views, size)  # before the tracing takes its time
    say(f"tracing the network for {to}: up to some minutes")
    deployed = Deployed(model)
    about = {"to": to, **describe_export(model), "shape": list(shape), "outputs": list(deployed.outputs)}
    made = {"fp32": target.make(deployed, shape, about)}
    say("checking what was made against torch")
    checks = _check(model, made["fp32"].run, views, shape, to)
    report: dict[str, Any] = {**about, "checks": checks}
    report["max_abs_error"] = max(row["max_abs_error"] for row in checks)
    report["predictions_equal"] = min(row["equal"] for row in checks)
    if to == "onnx":
        equal = check_predictions(model, Exported(made["fp32"].content), views)
        report["predictions_equal"] = min(report["predictions_equal"], equal)
    if precision != "fp32":
        say(f"making the network of {precision}")
        made[precision] = _smaller(made["fp32"], precision, model, about, pictures)
    names = {"fp32": target.file, **SMALLER}
    rows = {name: {"file": names[name], "bytes": len(one.content)} for name, one in made.items()}
    report |= _time(deployed, made, rows, at_size(views[0], check_sizes(views[0], shape)[0]), shape[0] or 1)
    if precision != "fp32" and pictures.run is not None:
        report |= _score(model, Exported(made[precision].content), rows[precision], pictures, precision)
    folder = Path(out) if out else file.parent / to
    return _keep(folder, made, {**report, "files": rows})


@dataclass(frozen=True)
class Made:
    """What was made of a network: the content of its file, and how to run it."""

    content: bytes
    run: Run


@dataclass(frozen=True)
class Target:
    """A kind of export: (network, shape, description) -> what is made of it; its file."""

    make: Callable[[Deployed, Shape, Mapping[str, Any]], Made]
    file: str


def _shape(size: tuple[int, int] | None, batch: int | None) -> Shape:
    if size is not None and (min(size) < 2 * MULTIPLE or any(side % MULTIPLE for side in size)):
        near = "x".join(str(max(2, -(-side // MULTIPLE)) * MULTIPLE) for side in size)
        raise FnaError(
            f"--size is {size[0]}x{size[1]}; exported networks see multiples of {MULTIPLE}, at least {2 * MULTIPLE}: "
            f"--size {near}"
        )
    if batch is not None and batch < 1:
        raise FnaError(f"--batch is {batch}; expected 1 or more images")
    return (batch, *(size or (None, None)))


def _fits(model: Finished, views: Sequence[Tensor], size: tuple[int, int] | None) -> None:
    """Refuse a size that the network does not see images at; of masks, a larger one is cut."""
    for view_3HW in views:
        seen = (view_3HW.shape[1], view_3HW.shape[2])
        smaller = size is not None and all(own <= side for own, side in zip(seen, size, strict=True))
        if size is not None and seen != size and not (smaller and model.task == "segmentation"):
            need = "x".join(str(-(-side // MULTIPLE) * MULTIPLE) for side in seen)
            raise FnaError(
                f"--size is {size[0]}x{size[1]}, and the network sees an image at {seen[0]}x{seen[1]}; "
                f"give --size {need}, or leave it out: sizes are free then"
            )


def _settings(overrides: Sequence[str]) -> None:
    for text in overrides:
        if not text.startswith(SECTIONS):
            raise FnaError(
                f"fna export takes no setting '--{text.partition('=')[0]}', only those of evaluate and data; "
                "type: fna export --help"
            )


def _onnx(deployed: Deployed, shape: Shape, about: Mapping[str, Any]) -> Made:
    return _in_onnx(make_onnx(trace(deployed, shape), deployed.outputs, about))


def _in_onnx(graph: Any) -> Made:
    content = graph.SerializeToString()
    return Made(content, Exported(content, threads=torch.get_num_threads()).maps)


def _program(deployed: Deployed, shape: Shape, about: Mapping[str, Any]) -> Made:
    return Made(*make_program(trace(deployed, shape), deployed.outputs, json.dumps(about)))


def _script(deployed: Deployed, shape: Shape, about: Mapping[str, Any]) -> Made:
    return Made(*make_script(deployed, shape, json.dumps(about)))


def _check(model: Finished, run: Run, views: Sequence[Tensor], shape: Shape, to: str) -> list[dict[str, Any]]:
    try:
        return check_maps(model, run, views, shape)
    except FnaError as error:
        if to != "torchscript" or None not in shape[1:]:
            raise
        height, width = check_sizes(views[0], shape)[0]
        raise FnaError(
            f"{error}. TorchScript keeps what it saw while tracing: fix it, --size {height}x{width}"
        ) from None


def _smaller(exact: Made, precision: str, model: Finished, about: Mapping[str, Any], pictures: Pictures) -> Made:
    import onnx

    graph, shape = onnx.load_from_string(exact.content), about["shape"]
    if precision == "fp16":
        return _in_onnx(in_half(graph, about))
    views = see(model, pictures.records("train", CALIBRATED))
    images = [_batch(at_size(view, check_sizes(view, shape)[0]), shape[0] or 1).numpy() for view in views]
    return _in_onnx(in_int8(graph, about, images))


def _batch(view_3HW: Tensor, number: int) -> Tensor:
    """Return a view so many times, (N, H, W, 3)."""
    return view_3HW.permute(1, 2, 0)[None].repeat(number, 1, 1, 1).contiguous()


def _time(
    deployed: Deployed, made: Mapping[str, Made], rows: Mapping[str, Any], view_3HW: Tensor, batch: int
) -> dict[str, Any]:
    """Put the latency of each network into its row; return torch's, and the size."""
    ours, *theirs = latencies(deployed, [one.run for one in made.values()], _batch(view_3HW, batch))
    for row, ms in zip(rows.values(), theirs, strict=True):
        row["latency_ms"] = ms
    return {
        "size_hw": list(view_3HW.shape[1:]),
        "torch_latency_ms": ours,
        "threads": torch.get_num_threads(),
        **({} if (busy := machine.load()) is None else {"load": round(busy, 2)}),
    }


def _score(
    model: Finished, exported: Exported, row: dict[str, Any], pictures: Pictures, precision: str
) -> dict[str, Any]:
    """Return the scores of torch and of the smaller network on the validation split."""
    data, metric = pictures.split("val"), model.problem.task.metric
    before, after = score(model, data), score(model, data, exported)
    row["score"] = after
    found = {"metric": metric, "torch_score": before, "score_difference": after - before}
    if after < before - WORSE:
        found["warnings"] = [
            f"{precision} costs {100 * (before - after):.1f} points of {metric} ({100 * before:.1f} before, "
            f"{100 * after:.1f} after); fp32 is beside it"
        ]
    return found


def _keep(folder: Path, made: Mapping[str, Made], report: Mapping[str, Any]) -> dict[str, Any]:
    """Write all there is of an export."""
    for name, one in made.items():
        write_bytes(folder / report["files"][name]["file"], one.content)
    if report["to"] == "onnx":
        write_bytes(folder / "predict.py", Path(standalone.__file__).read_bytes())
    write_json(folder / REPORT, report)
    return {**report, "out": str(folder)}


TARGETS = {
    "onnx": Target(_onnx, "network.onnx"),
    "torch.export": Target(_program, "network.pt2"),
    "torchscript": Target(_script, "network.ts"),
}
