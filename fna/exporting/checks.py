"""An exported network held against the one it was made from, on real images: maps, predictions, scores, latency."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou

from fna.arch import MULTIPLE
from fna.errors import FnaError
from fna.exporting.graph import Deployed, Shape
from fna.exporting.standalone import Exported
from fna.stages.evaluate import evaluate
from fna.stages.predict import Finished, compute_of, predict
from fna.tasks import load_model, simple_baseline
from fna.tasks.problem import Problem
from fna.training.compute import Compute

TOLERANCE = 1e-4  # of a map's values, or of the largest of them where that is above 1
EQUAL = 0.999  # share of pixels, boxes or joints that must be the same; rounding decides between equal ones
ALIKE = 0.9  # the same for whole images: another library resizes them, which moves grey values and weak boxes
FEW = 20  # boxes; of more, the weakest come and go with rounding: only so many are kept
SURE_PX, SURE_IOU, SURE_SCORE = 1.0, 0.95, 0.01  # up to where joints and boxes are the same

Array = np.ndarray[Any, Any]


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


def check_maps(model: Finished, exported: Exported, views: Sequence[Tensor], shape: Shape) -> list[dict[str, Any]]:
    """Hold an exported network against torch: two sizes and two batches, or the fixed ones.

    Args:
        model: the network.
        exported: what was made of it.
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
            chosen = [views[i % len(views)] for i in range(number)]
            images_N3HW = torch.cat([F.interpolate(v[None], size_hw, mode="bilinear", antialias=True) for v in chosen])
            rows.append(_compare(model, exported, images_N3HW))
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
def _compare(model: Finished, exported: Exported, images_N3HW: Tensor) -> dict[str, Any]:
    images_NHW3 = images_N3HW.permute(0, 2, 3, 1).contiguous()
    ours = maps_of(model, images_N3HW)
    theirs = {name: torch.from_numpy(value) for name, value in exported.maps(images_NHW3.numpy()).items()}
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
    return [{"points": points_K3} for points_K3 in points_NK3]


def alike(task: str, ours: Any, theirs: Any, threshold: float = 0.0) -> float:
    """Return the share of an image's pixels, joints or boxes that two predictions agree on; 1 where there are none.

    Args:
        task: segmentation, detection or pose.
        ours: a prediction, and
        theirs: another.
        threshold: boxes are kept above it; those that barely are, or barely among the best, come and go with rounding.
    """
    if task == "segmentation":
        return float((torch.as_tensor(ours) == torch.as_tensor(theirs)).double().mean())
    a, b = ({key: torch.as_tensor(p[key]).double() for key in p if key != "box"} for p in (ours, theirs))
    if task == "pose":
        return float(((a["points"] - b["points"])[:, :2].abs() <= SURE_PX).all(1).double().mean())
    if not len(a["boxes"]) or not len(b["boxes"]):
        return float(len(a["boxes"]) == len(b["boxes"]))
    same = box_iou(a["boxes"], b["boxes"]) >= SURE_IOU
    same &= (a["scores"][:, None] - b["scores"]).abs() <= SURE_SCORE
    same &= a["labels"][:, None] == b["labels"]
    shares = [1.0]
    weakest = float(max(a["scores"].min(), b["scores"].min())) if max(same.shape) > FEW else 0.0
    floor = max(weakest, threshold) + SURE_SCORE
    for boxes, there in ((a, same.any(1)), (b, same.any(0))):
        firm = boxes["scores"] > floor
        shares.append(float(there[firm].double().mean()) if firm.any() else 1.0)
    return min(shares)


def _threshold(model: Finished) -> float:
    return float(getattr(model.problem.config.evaluate, "score_threshold", 0.0))


def check_images(model: Finished, exported: Exported, records: Sequence[tuple[Array, Mapping[str, Any]]]) -> float:
    """Return the share of `fna.predict`'s predictions that the program without torch makes, over whole images.

    Args:
        model: the network.
        exported: what was made of it.
        records: pixels of images, and of poses where the person is.

    Raises:
        FnaError: they differ by more than another library's resizing does.
    """
    shares = []
    for pixels_HW3, known in records:
        box = known["box"].tolist() if "box" in known else None
        ours, theirs = predict(model, pixels_HW3, box), exported.predict(pixels_HW3, box)
        shares.append(alike(model.task, ours, theirs, _threshold(model)))
    share = sum(shares) / len(shares)
    if share < ALIKE:
        raise FnaError(f"predict.py agrees with fna on {share:.2%} of what is in {len(shares)} images; nothing written")
    return share


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
def latencies(deployed: Deployed, exported: Sequence[Exported], view_3HW: Tensor, repeats: int = 20) -> list[float]:
    """Return ms per image, batch 1 (or the fixed one), of torch and of each exported network, measured in turns.

    Args:
        deployed: the network in torch.
        exported: what was made of it.
        view_3HW: uint8, sides of multiples of 32.
        repeats: runs of each; the median counts.
    """
    images_NHW3 = view_3HW.permute(1, 2, 0)[None].repeat(exported[0].size[0] or 1, 1, 1, 1).contiguous()
    plain = images_NHW3.numpy()
    runs: list[Any] = [lambda: deployed(images_NHW3), *(lambda e=e: e.maps(plain) for e in exported)]
    spent: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats + 2):
        for times, run in zip(spent, runs, strict=True):
            start = time.perf_counter()
            run()
            times.append(1000 * (time.perf_counter() - start))
    return [float(np.median(times[2:])) / len(plain) for times in spent]
