"""What RetinaNet and SSDLite share: which anchor learns which box, and which of many boxes are detections."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder, encode_boxes
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image

from fna.config import DetectionConfig


@dataclass(frozen=True)
class Matches:
    """What the anchors of a batch learn; how many learn a box is known on the device only.

    Args:
        positive: (N, A), whether an anchor learns a box; the others learn the background.
        ignored: (N, A), whether an anchor learns nothing: it overlaps a box too much for the background, too little for
            the box.
        boxes: (N, A, 4), the box a positive anchor learns, x0, y0, x1, y1 in px; of others the anchor itself.
        labels: (N, A), its class; of others 0.
    """

    positive: Tensor
    ignored: Tensor
    boxes: Tensor
    labels: Tensor


Assign = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


@torch.no_grad()
def match(assign: Assign, anchors_A4: Tensor, batch: Mapping[str, Any]) -> Matches:
    """Match the boxes of every image of a batch with the anchors; nothing is read of the device.

    A box that overlaps no anchor (without area, outside the image, not a number) is left out: a rule may give each box
    its best anchor, which for such a box would be an arbitrary one, or all of them.

    Args:
        assign: a model's rule: (intersection over union, (n, A), -1 in the rows of boxes that are left out; which are
            not, (n, 1)) -> the `positive` and the `ignored` anchors, and each one's box, a row; (A,) each.
        anchors_A4: the anchors, x0, y0, x1, y1 in px.
        batch: ``boxes`` and ``labels``, a tensor per image: (n, 4) in px and (n,).
    """
    found = []
    for boxes_n4, labels_n in zip(batch["boxes"], batch["labels"], strict=True):
        boxes_n4 = F.pad(boxes_n4.to(anchors_A4, non_blocking=True), (0, 0, 0, 1), value=torch.nan)  # never without one
        labels_n = F.pad(labels_n.to(anchors_A4.device, non_blocking=True), (0, 1))
        iou_nA = box_iou(boxes_n4, anchors_A4)
        reached_n1 = iou_nA.amax(1, keepdim=True) > 0  # False for NaN
        positive_A, ignored_A, box_A = assign(torch.where(reached_n1, iou_nA, -1), reached_n1)
        learned_A4 = torch.where(positive_A[:, None], boxes_n4[box_A], anchors_A4)
        found.append((positive_A, ignored_A, learned_A4, torch.where(positive_A, labels_n[box_A], 0)))
    return Matches(*(torch.stack(parts) for parts in zip(*found, strict=True)))


def encode(coder: BoxCoder, found: Matches, anchors_A4: Tensor) -> Tensor:
    """Return what the regression of every anchor should say, (N, A, 4); 0 where it learns no box."""
    boxes_M4 = found.boxes.flatten(0, 1)
    weights = _weights(coder.weights, boxes_M4.dtype, boxes_M4.device)  # the coder's own are copied again every time
    deltas_M4: Tensor = encode_boxes(boxes_M4, anchors_A4.repeat(len(found.boxes), 1), weights)
    return deltas_M4.view_as(found.boxes)


def best(
    boxes_n4: Tensor, scores_n: Tensor, labels_n: Tensor, size_hw: tuple[int, int], config: DetectionConfig
) -> dict[str, Tensor]:
    """Clip boxes to the image and keep the best of those that overlap: the detections of an image.

    Boxes outside the image, which clipping leaves without area, are dropped.

    Args:
        boxes_n4: x0, y0, x1, y1 in px.
        scores_n: their scores in [0, 1].
        labels_n: their classes; boxes of different classes do not suppress each other.
        size_hw: size of the image.
        config: ``evaluate.nms`` and ``evaluate.detections``.

    Returns:
        ``boxes``, ``scores`` and ``labels`` by falling score.
    """
    boxes_n4 = clip_boxes_to_image(boxes_n4, size_hw)
    inside = (boxes_n4[:, 2:] > boxes_n4[:, :2]).all(1)
    boxes_n4, scores_n, labels_n = boxes_n4[inside], scores_n[inside], labels_n[inside]
    keep = batched_nms(boxes_n4, scores_n, labels_n, config.evaluate.nms)[: config.evaluate.detections]
    return {"boxes": boxes_n4[keep], "scores": scores_n[keep], "labels": labels_n[keep]}


def remembered(build: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return `build` with the last few tensors that it made; they must not be changed in place.

    Args:
        build: a function of plain values, device and precision among them. While a network is traced for export, when
            tensors are not real, nothing is remembered.
    """
    kept = lru_cache(maxsize=16)(build)

    def recall(*values: Any) -> Tensor:
        if torch.compiler.is_compiling():
            return build(*values)
        with torch.inference_mode(False):  # so that training can use them, too
            return kept(*values)

    return recall


def wide(x: Tensor) -> Tensor:
    """Return `x` in float32, or as it is where that is more."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@remembered
def _weights(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device)


def positives(values_NA4: Tensor, found: Matches) -> Tensor:
    """Return the sum of the values of positive anchors."""
    return torch.where(found.positive[..., None], values_NA4, 0).sum()
