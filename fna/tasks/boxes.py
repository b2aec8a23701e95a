"""What RetinaNet and SSDLite share: which anchor learns which box, and which of many boxes are detections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import Matcher
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image

from fna.config import DetectionConfig


@dataclass(frozen=True)
class Matches:
    """What the anchors of a batch learn.

    Args:
        positive: (N, A), whether an anchor learns a box; the others learn the background.
        ignored: (N, A), whether an anchor learns nothing: it overlaps a box too much for the background, too little for
            the box.
        anchors: (P, 4), the positive anchors of all images, in the order of ``positive.nonzero()``; x0, y0, x1, y1 in
            px.
        boxes: (P, 4), the box each of them learns.
        labels: (P,), its class.
    """

    positive: Tensor
    ignored: Tensor
    anchors: Tensor
    boxes: Tensor
    labels: Tensor


@torch.no_grad()
def match(matcher: Matcher, anchors_A4: Tensor, batch: Mapping[str, Any]) -> Matches:
    """Match the boxes of every image of a batch with the anchors.

    A box that overlaps no anchor (without area, outside the image, not a number) is left out: matchers give each box
    its best anchor, which for such a box would be an arbitrary one, or all of them.

    Args:
        matcher: torchvision's matcher; its answer per anchor is a box, or negative.
        anchors_A4: the anchors, x0, y0, x1, y1 in px.
        batch: ``boxes`` and ``labels``, a tensor per image: (n, 4) in px and (n,).
    """
    found, boxes, labels = [], [], []
    before = 0
    for boxes_n4, labels_n in zip(batch["boxes"], batch["labels"], strict=True):
        iou_nA = box_iou(boxes_n4.to(anchors_A4), anchors_A4)
        reached = iou_nA.amax(1) > 0  # False for NaN
        boxes.append(boxes_n4.to(anchors_A4)[reached])
        labels.append(labels_n.to(anchors_A4.device)[reached])
        if len(boxes[-1]):
            box_A = matcher(iou_nA[reached])
            found.append(torch.where(box_A >= 0, box_A + before, box_A))
            before += len(boxes[-1])
        else:
            found.append(labels[-1].new_full((len(anchors_A4),), Matcher.BELOW_LOW_THRESHOLD))
    found_NA = torch.stack(found)
    positive_NA = found_NA >= 0
    chosen = found_NA[positive_NA]
    return Matches(
        positive_NA,
        found_NA == Matcher.BETWEEN_THRESHOLDS,
        anchors_A4.expand(len(found), -1, -1)[positive_NA],
        torch.cat(boxes)[chosen],
        torch.cat(labels)[chosen],
    )


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


def wide(x: Tensor) -> Tensor:
    """Return `x` in float32, or as it is where that is more."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def guard_narrow(module: nn.Module) -> None:
    """Make the strided 3x3 convolutions of a module safe for maps one pixel wide.

    In bfloat16 on a CPU the weight's gradient of such a convolution holds memory that nobody wrote (torch 2.14). The
    second column that is added is what the padding has there, so nothing else changes.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3) and part.stride == (2, 2):
            part.register_forward_pre_hook(_widen)


def _widen(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    (x_NCHW,) = inputs
    if x_NCHW.shape[3] > 1:
        return inputs
    last = x_NCHW.is_contiguous(memory_format=torch.channels_last)
    wider_NCHW = F.pad(x_NCHW, (0, 1))
    return (wider_NCHW.contiguous(memory_format=torch.channels_last) if last else wider_NCHW,)
