"""Export a finished network: traced, written, checked against torch on real images, and only then kept."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.nn import functional as F

from fna.arch import MULTIPLE
from fna.errors import FnaError, pick
from fna.exporting import standalone
from fna.exporting.checks import check_images, check_maps, check_sizes, latencies, score
from fna.exporting.description import describe_export
from fna.exporting.graph import Deployed, Shape, trace
from fna.exporting.onnx_files import in_half, in_int8, make_onnx, need_onnx
from fna.exporting.pictures import Pictures, see
from fna.exporting.standalone import Exported
from fna.files import write_bytes, write_json
from fna.progress import say
from fna.runs.saved import find_network, load
from fna.stages.predict import Finished

SECTIONS = ("evaluate.", "data.")  # whose settings an export takes
CHECKED, CALIBRATED = 4, 64  # images
REPORT = "export.json"
FILES = {"fp32": "network.onnx", "fp16": "network_fp16.onnx", "int8": "network_int8.onnx"}
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
    write = pick(TARGETS, to, "export")
    shape = _shape(size, batch)
    _settings(overrides)
    if precision not in FILES or (to != "onnx" and precision != "fp32"):
        raise FnaError(f"precision is '{precision}'; expected {', '.join(FILES)} (fp16 and int8 are for --to onnx)")
    if to == "onnx":
        need_onnx()
    model = load(path, "cpu", [text for text in overrides if text.startswith("evaluate.")])
    file = find_network(Path(path).expanduser())
    pictures = Pictures(
        file.parent, Path(images) if images else None, [text for text in overrides if text.startswith("data.")]
    )
    _fits(model, see(model, pictures.records("val", CHECKED)), size)  # before the tracing takes its time
    say(f"tracing the network for {to}: up to some minutes")
    deployed = Deployed(model)
    program = trace(deployed, shape)
    folder = Path(out) if out else file.parent / to
    report = {"to": to, **describe_export(model), "shape": list(shape)}
    return write(model, deployed, program, folder, report, pictures, precision)


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


def _write_program(
    model: Finished,
    deployed: Deployed,
    program: ExportedProgram,
    folder: Path,
    report: Mapping[str, Any],
    pictures: Pictures,
    precision: str,
) -> dict[str, Any]:
    """Write torch's own file of a traced network, once it computes what the network does."""
    view_3HW = see(model, pictures.records("val", 1))[0]
    size_hw = check_sizes(view_3HW, report["shape"])[0]
    image_13HW = F.interpolate(view_3HW[None], size_hw, mode="bilinear", antialias=True)
    images_NHW3 = image_13HW.permute(0, 2, 3, 1).repeat(report["shape"][0] or 2, 1, 1, 1)
    with torch.no_grad():
        pairs = zip(deployed(images_NHW3), program.module()(images_NHW3), strict=True)
        error = max(float((a.float() - b.float()).abs().max()) for a, b in pairs)
    if error:
        raise FnaError(f"the traced network differs from the network by {error:.3g}; nothing was written")
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    write_bytes(folder / "network.pt2", buffer.getvalue())
    done = {**report, "outputs": deployed.outputs, "files": {"fp32": {"file": "network.pt2"}}, "max_abs_error": error}
    write_json(folder / REPORT, done)
    return {**done, "out": str(folder)}


def _write_onnx(
    model: Finished,
    deployed: Deployed,
    program: ExportedProgram,
    folder: Path,
    report: Mapping[str, Any],
    pictures: Pictures,
    precision: str,
) -> dict[str, Any]:
    """Write ONNX files, once ONNX Runtime computes with them what torch does."""
    exact = make_onnx(program, deployed.outputs, report)
    records = pictures.records("val", CHECKED)
    views = see(model, records)
    kept = {"fp32": exact.SerializeToString()}
    say("checking the network against torch in ONNX Runtime")
    exported = {"fp32": Exported(kept["fp32"])}
    checks = check_maps(model, exported["fp32"], views, report["shape"])
    found: dict[str, Any] = {"outputs": deployed.outputs, "checks": checks}
    found["max_abs_error"] = max(row["max_abs_error"] for row in checks)
    found["predictions_equal"] = min(row["equal"] for row in checks)
    found["images_alike"] = check_images(model, exported["fp32"], records)
    if precision != "fp32":
        say(f"making the network of {precision}")
        kept[precision] = _smaller(exact, precision, model, report, pictures).SerializeToString()
        exported[precision] = Exported(kept[precision])
    rows = {name: {"file": FILES[name], "bytes": len(data)} for name, data in kept.items()}
    view = F.interpolate(views[0][None], check_sizes(views[0], report["shape"])[0])[0]
    torch_ms, *times = latencies(deployed, list(exported.values()), view)
    for name, ms in zip(rows, times, strict=True):
        rows[name]["latency_ms"] = round(ms, 3)
    found |= {"size_hw": list(view.shape[1:]), "torch_latency_ms": round(torch_ms, 3)}
    if precision != "fp32" and pictures.run is not None:
        found |= _score(model, exported, rows, pictures, precision)
    for name, data in kept.items():
        write_bytes(folder / FILES[name], data)
    write_bytes(folder / "predict.py", Path(standalone.__file__).read_bytes())
    done = {**report, **found, "files": rows}
    write_json(folder / REPORT, done)
    return {**done, "out": str(folder)}


def _smaller(exact: Any, precision: str, model: Finished, report: Mapping[str, Any], pictures: Pictures) -> Any:
    if precision == "fp16":
        return in_half(exact, report)
    shape = report["shape"]
    images = []
    for view_3HW in see(model, pictures.records("train", CALIBRATED)):
        size_hw = check_sizes(view_3HW, shape)[0]
        image = F.interpolate(view_3HW[None], size_hw, mode="bilinear", antialias=True)[0].permute(1, 2, 0)
        images.append(np.repeat(image.contiguous().numpy()[None], shape[0] or 1, 0))
    return in_int8(exact, report, images)


def _score(
    model: Finished, exported: Mapping[str, Exported], rows: dict[str, Any], pictures: Pictures, precision: str
) -> dict[str, Any]:
    """Return the scores of torch and of the smaller network on the validation split."""
    data, metric = pictures.split("val"), model.problem.task.metric
    before, after = score(model, data), score(model, data, exported[precision])
    rows[precision]["score"] = after
    found = {"metric": metric, "torch_score": before, "score_difference": after - before}
    if after < before - WORSE:
        found["warnings"] = [
            f"{precision} costs {100 * (before - after):.1f} points of {metric} ({100 * before:.1f} before, "
            f"{100 * after:.1f} after); fp32 is beside it"
        ]
    return found


TARGETS: dict[str, Callable[..., dict[str, Any]]] = {"onnx": _write_onnx, "torch_export": _write_program}
