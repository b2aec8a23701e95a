"""Semantic segmentation: DeepLabv3(+) on a backbone, cross entropy without void, mIoU over the classes that occur."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fna.arch import A, Arch, with_output_stride
from fna.arch.spaces import SEGMENTATION_LAYERS
from fna.config import DeepLab, SegmentationConfig
from fna.data.segmentation.transforms import TrainView, collate
from fna.nets.network import feature_info
from fna.tasks import Picture, Task, load_model
from fna.training import distributed

IGNORE = 255  # the label of pixels without a class, in every mask we hold
OPACITY = 0.5  # of a class's colour over the image
STRIPE = 4  # pixels; void is striped, which no class is
STRIPES_RGB = ((255, 255, 255), (96, 96, 96))
WRONG_RGB = (230, 60, 20)
TITLES = {
    **{"miou": "mIoU", "pixel_accuracy": "pixel accuracy"},
    **{"iou": "IoU", "precision": "precision", "recall": "recall"},
}


def prepare(arch: A, config: DeepLab) -> A:
    """Give the backbone the task's output stride."""
    return with_output_stride(arch, config.output_stride)


def build_head(arch: Arch, classes: int, config: DeepLab) -> nn.Module:
    """Build the segmentation head; rates default to 6, 12, 18 at stride 16 and twice that at stride 8."""
    rates = config.rates or ((12, 24, 36) if config.output_stride == 8 else (6, 12, 18))
    head: nn.Module = load_model(config)(feature_info(arch), classes, channels=config.channels, rates=rates)
    return head


def head_start(seed_state: Mapping[str, Tensor], config: DeepLab) -> dict[str, Tensor]:
    """Return no weights: a classifier knows nothing of pixels."""
    return {}


def train_view(data: Any, indices: Sequence[int], config: SegmentationConfig) -> TrainView:
    """Return the augmented crops of some images."""
    return TrainView(data, indices, config.data, config.engine.rng_seed)


def loss(logits_NCHW: Tensor, batch: Mapping[str, Any], config: DeepLab) -> tuple[Tensor, Tensor]:
    """Return the summed cross entropy over labelled pixels and their number; a crop without any gives 0, not NaN.

    With ``class_weights`` in the batch a pixel counts as its class does, in the number, too.
    """
    mask = batch["mask"].to(logits_NCHW.device, non_blocking=True).long()
    weights = batch.get("class_weights")
    # summed by torch.sum: cross_entropy's own sum has no deterministic kernel on CUDA
    losses_NHW = F.cross_entropy(logits_NCHW.float(), mask, weights, ignore_index=IGNORE, reduction="none")
    labelled = mask != IGNORE
    if weights is None:
        return losses_NHW.sum(), labelled.sum()
    return losses_NHW.sum(), torch.where(labelled, weights[torch.where(labelled, mask, 0)], 0).sum()


def distillation(logits_NCHW: Tensor, teacher_NCHW: Tensor, batch: Mapping[str, Any], config: DeepLab) -> Tensor:
    """Return the summed Kullback-Leibler divergence from a teacher's class probabilities over the labelled pixels."""
    learned, taught = (logits.float().log_softmax(1) for logits in (logits_NCHW, teacher_NCHW.detach()))
    divergence_NHW = F.kl_div(learned, taught, reduction="none", log_target=True).sum(1)
    labelled = batch["mask"].to(divergence_NHW.device, non_blocking=True) != IGNORE
    return torch.where(labelled, divergence_NHW, 0).sum()


def scored_size(config: SegmentationConfig) -> tuple[int, int] | None:
    """Return the size images are scored at: ``data.eval_scale`` x ``data.eval_size``; None: x their own."""
    return _scaled(config.data.eval_size, config.data.eval_scale) if config.data.eval_size else None


def _scaled(size_hw: tuple[int, int], scale: float) -> tuple[int, int]:
    """Return a size in whole pixels, at least 1."""
    return max(1, round(size_hw[0] * scale)), max(1, round(size_hw[1] * scale))


def view(image_3HW: Tensor, truth: Any, config: SegmentationConfig) -> tuple[Tensor, tuple[int, int]]:
    """Return the image at the size it is scored at, and the size it has."""
    own = (image_3HW.shape[1], image_3HW.shape[2])
    size = _scaled(config.data.eval_size or own, config.data.eval_scale)
    if own == size:
        return image_3HW, own
    return F.interpolate(image_3HW[None], size=size, mode="bilinear", antialias=True)[0], own


def predict(
    model: nn.Module, images_N3HW: Tensor, sizes: Sequence[tuple[int, int]], config: SegmentationConfig
) -> Sequence[Tensor]:
    """Return class ids on the CPU, (h, w) each; the arguments are those of `probabilities`."""
    return [scores_CHW.argmax(0).cpu() for scores_CHW in _scores(model, images_N3HW, sizes, config)]


def probabilities(
    model: nn.Module, images_N3HW: Tensor, sizes: Sequence[tuple[int, int]], config: SegmentationConfig
) -> Sequence[Tensor]:
    """Return the probability of each class on the CPU, (C, h, w) each.

    Args:
        model: in eval mode.
        images_N3HW: normalised, at the size images are scored at.
        sizes: (h, w) of each image as it was.
        config: ``evaluate.mode``: the whole image at once, or windows whose probabilities are averaged.
    """
    scores = _scores(model, images_N3HW, sizes, config)
    return [(part.softmax(0) if config.evaluate.mode == "whole" else part).cpu() for part in scores]


def _scores(
    model: nn.Module, images_N3HW: Tensor, sizes: Sequence[tuple[int, int]], config: SegmentationConfig
) -> Sequence[Tensor]:
    """Return logits, or probabilities of windows, at the size of each image: (C, h, w) each."""
    if config.evaluate.mode == "whole":
        scores: Tensor = model(images_N3HW).float()
    else:
        scores = slide(model, images_N3HW, config.evaluate.window or config.data.crop, config.evaluate.overlap)
    sizes = [(height, width) for height, width in sizes]  # lists, where torch before 2.12 has pinned them
    if len(set(sizes)) > 1:
        return [_resized(part[None], size)[0] for part, size in zip(scores, sizes, strict=True)]
    return list(_resized(scores, sizes[0]))


def _resized(scores_NCHW: Tensor, size: tuple[int, int]) -> Tensor:
    if scores_NCHW.shape[2:] == tuple(size):
        return scores_NCHW
    return F.interpolate(scores_NCHW, size=size, mode="bilinear", align_corners=False)


def slide(model: nn.Module, images_N3HW: Tensor, window: tuple[int, int], overlap: float) -> Tensor:
    """Return class probabilities averaged over overlapping windows, (N, C, H, W)."""
    height, width = images_N3HW.shape[2:]
    tall, wide = min(window[0], height), min(window[1], width)
    total: Tensor | None = None
    count = images_N3HW.new_zeros(height, width)
    for top, left in product(_offsets(height, tall, overlap), _offsets(width, wide, overlap)):
        part = model(images_N3HW[:, :, top : top + tall, left : left + wide]).float().softmax(1)
        if total is None:
            total = part.new_zeros(part.shape[0], part.shape[1], height, width)
        total[:, :, top : top + tall, left : left + wide] += part
        count[top : top + tall, left : left + wide] += 1
    assert total is not None, "an image has at least one window"
    return total / count


def _offsets(size: int, window: int, overlap: float) -> list[int]:
    """Evenly spaced window starts that cover `size` with at least the given overlap."""
    step = max(int(window * (1 - overlap)), 1)
    number = -(-(size - window) // step) + 1
    return [round(i * (size - window) / max(number - 1, 1)) for i in range(number)]


class SegmentationScores:
    """Mean intersection over union and pixel accuracy from the confusion matrix of all pixels.

    Void pixels do not count, and a class without a pixel in the truth has no IoU and stays out of the mean.
    """

    def __init__(self, data: Any, config: SegmentationConfig) -> None:
        self.classes: tuple[str, ...] = data.classes
        self.matrix = torch.zeros(len(self.classes), len(self.classes), dtype=torch.int64)  # truth, prediction

    def update(self, indices: Sequence[int], predictions: Sequence[Tensor], truths: Sequence[Tensor]) -> None:
        """Add predictions, (h, w) each, and as many masks."""
        for prediction, truth in zip(predictions, truths, strict=True):
            labelled = truth != IGNORE
            pairs = len(self.matrix) * truth[labelled].long() + prediction[labelled]
            self.matrix += torch.bincount(pairs, minlength=self.matrix.numel()).view_as(self.matrix)

    def compute(self) -> dict[str, Any]:
        """Return ``miou`` and ``pixel_accuracy``; by class ``iou``, ``precision`` and ``recall``; all in [0, 1].

        A class that is absent from the truth has no IoU and no recall, one that is never predicted no precision (None).
        ``confusion`` and ``counts`` are in pixels.
        """
        matrix = distributed.total(self.matrix).double()
        hits, truth, guessed = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
        iou = hits / (truth + guessed - hits)
        present = truth > 0
        return {
            "miou": float(iou[present].mean()) if present.any() else 0.0,
            "iou": {name: float(v) if p else None for name, v, p in zip(self.classes, iou, present, strict=True)},
            "pixel_accuracy": float(hits.sum() / matrix.sum().clamp_min(1)),
            "precision": self._by_class(hits, guessed),
            "recall": self._by_class(hits, truth),
            "confusion": {"rows": [*self.classes], "columns": [*self.classes], "counts": matrix.long().tolist()},
            "counts": {"pixels": dict(zip(self.classes, truth.long().tolist(), strict=True))},
        }

    def _by_class(self, hits_C: Tensor, of_C: Tensor) -> dict[str, float | None]:
        pairs = zip(self.classes, hits_C.tolist(), of_C.tolist(), strict=True)
        return {name: hits / of if of else None for name, hits, of in pairs}


def draw(picture: Picture, mask_HW: Tensor, data: Any, config: SegmentationConfig) -> Picture:
    """Lay the colours of class ids over a picture; void, which is no class, is striped."""
    ids_HW = np.asarray(mask_HW.cpu(), np.int64)
    palette = np.zeros((IGNORE + 1, 3), np.uint8)
    palette[: len(data.colors)] = data.colors
    mixed = (1 - OPACITY) * picture + OPACITY * palette[ids_HW]
    return _with_void(mixed.round().astype(np.uint8), ids_HW)


def draw_errors(picture: Picture, mask_HW: Tensor, truth_HW: Tensor) -> Picture:
    """Lay a colour over the pixels of another class than the true one, in a grey image; void is striped."""
    grey = picture.mean(2, keepdims=True).repeat(3, 2)
    wrong_HW1 = np.asarray(mask_HW.cpu() != truth_HW.cpu())[..., None]
    mixed = np.where(wrong_HW1, 0.3 * grey + 0.7 * np.array(WRONG_RGB), grey).round().astype(np.uint8)
    return _with_void(mixed, np.asarray(truth_HW.cpu()))


def _with_void(picture: Picture, ids_HW: np.ndarray[Any, Any]) -> Picture:
    rows, columns = np.indices(ids_HW.shape)
    stripes = np.array(STRIPES_RGB, np.uint8)[(rows + columns) // STRIPE % 2]
    return np.where((ids_HW == IGNORE)[..., None], stripes, picture)


TASK = Task(
    metric="miou",
    titles=TITLES,
    layers=SEGMENTATION_LAYERS,
    train_view=train_view,
    collate=collate,
    prepare=prepare,
    head=build_head,
    head_start=head_start,
    loss=loss,
    distillation=distillation,
    scored_size=scored_size,
    view=view,
    predict=predict,
    probabilities=probabilities,
    scores=SegmentationScores,
    draw=draw,
    draw_errors=draw_errors,
)
