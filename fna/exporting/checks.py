"""An exported network held against the one it was made from, on real images: maps, predictions, scores, latency."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fna.arch import MULTIPLE
from fna.errors import FnaError
from fna.exporting.description import describe_export
from fna.exporting.graph import Deployed, Shape
from fna.exporting.pictures import at_size
from fna.exporting.standalone import Exported
from fna.stages.evaluate import evaluate
from fna.stages.predict import Finished, compute_of, predict
from fna.tasks import load_model, simple_baseline
from fna.tasks.problem import Problem
from fna.training.compute import Compute
from fna.training.turns import time_in_turns

TOLERANCE = 1e-4  # of maps, or of their largest value where that is above 1; of scores; of places, x the object's side
EQUAL = 0.999  # share of pixels, boxes or joints that must be the same; rounding decides between equal ones
FEW = 20  # boxes; of more, the weakest come and go with rounding: only so many are kept

Array = np.ndarray[Any, Any]
Run = Callable[[Array], Mapping[str, Array]]  # images, uint8 (N, H, W, 3) -> maps by name


class Runtime(nn.Module):
    """An exported network in a network's place: uint8 images in, what the head gives out."""

    def __init__(self, exported: Exported) -> None:
        super().__init__()
        self.exported = exported
        self.names = [name for name in exported.outputs if name != "labels"]

    def forward(self, images_N3HW: Tensor) -> Any:
        """Run images of any size: padded to what the network takes, and a map of their pixels cut again."""
        count, (height, width) = len(images_N3HW), images_N3HW.shape[2:]
        batch, *fixed = self.exported.size
        sides = [side or -(-own // MULTIPLE) * MULTIPLE for side, own in zip(fixed, (height, width), strict=True)]
        if sides[0] < height or sides[1] < width:
            raise FnaError(f"the network is fixed to {sides[0]}x{sides[1]}, an image is {height}x{width}")
        fill = torch.tensor(self.exported.about["fill_rgb"], dtype=torch.uint8)
        canvas_NHW3 = fill.repeat(count, *sides, 1)
        canvas_NHW3[:, :height, :width] = images_N3HW.permute(0, 2, 3, 1)
        step = batch or count
        parts = [self._run(canvas_NHW3[start : start + step].numpy(), step) for start in range(0, count, step)]
        maps = {name: torch.cat([part[name] for part in parts]) for name in self.names if name != "anchors"}
        if "anchors" in self.names:
            return {**maps, "anchors": parts[0]["anchors"]}
        (output,) = maps.values()
        return output[..., :height, :width] if self.names == ["logits"] else output

    def _run(self, images_NHW3: Array, batch: int) -> dict[str, Tensor]:
        """Run at most `batch` images; the last is repeated where there are fewer."""
        count = len(images_NHW3)
        full = np.concatenate([images_NHW3, *([images_NHW3[-1:]] * (batch - count))])
        maps = {name: torch.from_numpy(value) for name, value in self.exported.maps(full, self.names).items()}
        return {name: value if name == "anchors" else value[:count] for name, value in maps.items()}


def check_maps(model: Finished, run: Run, views: Sequence[Tensor], shape: Shape) -> list[dict[str, Any]]:
    """Hold an exported network against torch: two sizes and two batches, or the fixed ones.

    Args:
        model: the network.
        run: what was made of it.
        views: what it sees of real images, uint8 (3, H, W) each.
        shape: images, height and width that are fixed; None: free.

    Returns:
        A row per size and batch: ``shape``, ``max_abs_error``, ``largest`` value of all maps, and the share of
        ``equal`` predictions.

    Raises:
        FnaError: they differ.
    """
    rows = []
    for size_hw in check_sizes(views[0], shape):
        for number in (shape[0],) if shape[0] else (1, 2):
            chosen = [at_size(views[i % len(views)], size_hw) for i in range(number)]
            rows.append(_compare(model, run, torch.stack(chosen)))
    return rows


def check_sizes(view_3HW: Tensor, shape: Shape) -> list[tuple[int, int]]:
    """Return the sizes to compare at: that of the views, in multiples of 32, and about two thirds of it."""
    if shape[1] and shape[2]:
        return [(shape[1], shape[2])]
    height, width = (-(-side // MULTIPLE) * MULTIPLE for side in view_3HW.shape[1:])
    smaller = [max(2 * MULTIPLE, side * 2 // 3 // MULTIPLE * MULTIPLE) for side in (height, width)]
    return [(height, width), (smaller[0], smaller[1])]


def maps_of(model: Finished, images_N3HW: Tensor) -> dict[str, Tensor]:
    """Return what torch gives for uint8 images, by the names of what is exported."""
    output: Any = model(compute_of(model).images(images_N3HW, model.mean, model.std))
    if model.task == "segmentation":
        return {"logits": output, "labels": output.argmax(1).to(torch.uint8)}
    return dict(output) if isinstance(output, Mapping) else {"heatmaps": output}


@torch.no_grad()
def _compare(model: Finished, run: Run, images_N3HW: Tensor) -> dict[str, Any]:
    images_NHW3 = images_N3HW.permute(0, 2, 3, 1).contiguous()
    ours = maps_of(model, images_N3HW)
    theirs = {name: torch.from_numpy(value) for name, value in run(images_NHW3.numpy()).items()}
    errors = {name: float((ours[name] - theirs[name]).abs().max()) for name in ours if name != "labels"}
    largest = {name: float(ours[name].abs().max()) for name in errors}
    size_hw = (images_N3HW.shape[2], images_N3HW.shape[3])
    pairs = zip(*(_read(model, maps, size_hw) for maps in (ours, theirs)), strict=True)
    equal = [alike(model.task, a, b, _threshold(model)) for a, b in pairs]
    row: dict[str, Any] = {
        "shape": list(images_NHW3.shape[:3]),
        "max_abs_error": max(errors.values()),
        "equal": min(equal),
    }
    for name, error in errors.items():
        if not error <= TOLERANCE * max(1.0, largest[name]):
            raise FnaError(
                f"the export is not the network: at {row['shape']} (images, height, width) '{name}' differs by "
                f"{error:.3g}, its largest value is {largest[name]:.3g}; nothing was written"
            )
    if row["equal"] < EQUAL:
        raise FnaError(
            f"the export is not the network: at {row['shape']} only {row['equal']:.2%} of its predictions are torch's; "
            "nothing was written"
        )
    return {**row, "largest": max(largest.values())}


def _read(model: Finished, maps: Mapping[str, Tensor], size_hw: tuple[int, int]) -> Sequence[Any]:
    """Return the predictions of each image, in pixels of the view."""
    config: Any = model.problem.config
    if model.task == "segmentation":
        return list(maps["labels"])
    if model.task == "detection":
        found: Sequence[Any] = load_model(config.task).decode(maps, size_hw, config)
        return found
    points_NK3 = simple_baseline.decode(maps["heatmaps"], config.evaluate.decode, config.task.sigma)
    box = torch.tensor([0, 0, size_hw[1], size_hw[0]])
    return [{"points": points_K3, "box": box} for points_K3 in points_NK3]


def alike(task: str, ours: Any, theirs: Any, threshold: float = 0.0, tolerance: float = TOLERANCE) -> float:
    """Return the share of an image's pixels, joints or boxes that two predictions agree on; 1 where there are none.

    Args:
        task: segmentation, detection or pose.
        ours: a prediction, and
        theirs: another.
        threshold: boxes are kept above it; those that barely are, or barely among the best, come and go with rounding.
        tolerance: up to where scores are the same, and places, x the longer side of the box or person.
    """
    if task == "segmentation":
        return float((torch.as_tensor(ours) == torch.as_tensor(theirs)).double().mean())
    a, b = ({key: torch.as_tensor(p[key]).double() for key in p} for p in (ours, theirs))
    if task == "pose":
        reach = tolerance * float(a["box"][2:].max())
        return float(((a["points"] - b["points"])[:, :2].abs() <= reach).all(1).double().mean())
    if not len(a["boxes"]) or not len(b["boxes"]):
        return float(len(a["boxes"]) == len(b["boxes"]))
    side_n = (a["boxes"][:, 2:] - a["boxes"][:, :2]).amax(1)
    same = (a["boxes"][:, None] - b["boxes"]).abs().amax(2) <= tolerance * side_n[:, None]
    same &= (a["scores"][:, None] - b["scores"]).abs() <= tolerance
    same &= a["labels"][:, None] == b["labels"]
    shares = [1.0]
    weakest = float(max(a["scores"].min(), b["scores"].min())) if max(same.shape) > FEW else 0.0
    floor = max(weakest, threshold) + tolerance
    for boxes, there in ((a, same.any(1)), (b, same.any(0))):
        firm = boxes["scores"] > floor
        shares.append(float(there[firm].double().mean()) if firm.any() else 1.0)
    return min(shares)


def _threshold(model: Finished) -> float:
    return float(getattr(model.problem.config.evaluate, "score_threshold", 0.0))


def check_predictions(model: Finished, exported: Exported, views: Sequence[Tensor]) -> float:
    """Return the share of `fna.predict`'s predictions that the program without torch makes.

    Args:
        model: the network.
        exported: what was made of it.
        views: what it sees of images, uint8 (3, H, W). They are the images here: nothing is left to resize, which
            another library does otherwise, so that all else must be the same.

    Raises:
        FnaError: they differ.
    """
    size_hw = check_sizes(views[0], (None, exported.size[1], exported.size[2]))[0]
    twin, program = _unscaled(model, size_hw), copy.copy(exported)
    program.about = describe_export(twin)
    shares = []
    for view_3HW in views:
        pixels_HW3 = at_size(view_3HW, size_hw).permute(1, 2, 0).contiguous().numpy()
        shares.append(alike(model.task, predict(twin, pixels_HW3), program.predict(pixels_HW3), _threshold(model)))
    if min(shares) < EQUAL:
        raise FnaError(f"predict.py agrees with fna on {min(shares):.2%} of what is in an image; nothing was written")
    return min(shares)


def _unscaled(model: Finished, size_hw: tuple[int, int]) -> Finished:
    """Return the network as one that sees images of a size as they are."""
    config: Any = model.problem.config
    if model.task == "pose":  # crops are of that size
        return model
    scale = {"eval_scale": 1.0} if model.task == "segmentation" else {}
    data = config.data.model_copy(update={"eval_size": size_hw, **scale})
    problem = replace(model.problem, config=config.model_copy(update={"data": data}))
    return Finished(model.network, problem, model.record)


class _Unchanged(Compute):
    """Hands images on as they are: the exported network has the normalisation inside."""

    def images(self, images_N3HW: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
        """Return uint8 images."""
        return images_N3HW


def score(model: Finished, data: Any, exported: Exported | None = None) -> float:
    """Return the headline score of a network, or of what was exported of it, on a split."""
    compute = replace(compute_of(model), workers=0)
    problem: Problem = model.problem
    if exported is None:
        scores = evaluate(model, problem, data, compute, label="score torch")
    else:
        scores = evaluate(Runtime(exported), problem, data, _Unchanged(**vars(compute)), label="score export")
    return float(scores[problem.task.metric])


@torch.no_grad()
def latencies(deployed: Deployed, runs: Sequence[Run], images_NHW3: Tensor) -> list[float]:
    """Return ms per image of torch and of each exported network, measured in turns.

    Args:
        deployed: the network in torch.
        runs: what was made of it.
        images_NHW3: uint8, a batch of one (or the fixed one), sides of multiples of 32.
    """
    plain = images_NHW3.numpy()
    every: list[Callable[[], object]] = [partial(deployed, images_NHW3), *(partial(run, plain) for run in runs)]
    calls = {str(i): partial(_often, one) for i, one in enumerate(every)}
    return [round(ns / 1e6 / len(plain), 3) for ns in time_in_turns(calls, "cpu").ns.values()]


def _often(run: Callable[[], object], number: int) -> None:
    for _ in range(number):
        run()
