"""RetinaNet (arXiv:1708.02002) on any backbone, from torchvision's parts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetClassificationHead, RetinaNetRegressionHead
from torchvision.ops import FeaturePyramidNetwork, sigmoid_focal_loss
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from fna.arch import A, Arch
from fna.config import DetectionConfig, RetinaNet
from fna.errors import FnaError
from fna.nets.network import FeatureInfo, feature_info, initialise
from fna.tasks.boxes import Matches, best, encode, match, positives, remembered, wide

STRIDES, OCTAVE = RetinaNet.strides, RetinaNet.octave
RATIOS = (0.5, 1.0, 2.0)  # height / width
CANDIDATES = 1000  # boxes per level that non-maximum suppression sees

LETTERBOX, AUGMENT = True, "resize"  # how images are brought to the canvas; to train, where `data.augment` is null
FOREGROUND, BACKGROUND = 0.5, 0.4  # intersection over union from which an anchor learns a box; below which, none
CODER = BoxCoder((1.0, 1.0, 1.0, 1.0))


def prepare(arch: A) -> A:
    """Take any backbone as it is."""
    return arch


def build_head(arch: Arch, classes: int, config: RetinaNet) -> nn.Module:
    """Build the head."""
    return RetinaNetHead(feature_info(arch), classes, config.channels, config.anchor_scale, config.tower_depth)


def head_start(seed_state: Mapping[str, Tensor], config: RetinaNet) -> dict[str, Tensor]:
    """Return no weights: a classifier knows nothing of boxes."""
    return {}


class RetinaNetHead(nn.Module):
    """Feature pyramid, classification and box towers; convolutions with bias and without norm.

    Args:
        feature_info: the backbone's features; those of strides 8, 16 and 32 are read.
        classes: number of classes.
        channels: width of the pyramid and the towers.
        anchor_scale: side of the smallest anchor / stride of its level.
        tower_depth: convolutions before the predictors, at most torchvision's 4.

    Raises:
        FnaError: a stride is missing, or anchors are smaller than a pixel.
    """

    def __init__(
        self,
        feature_info: Sequence[FeatureInfo],
        classes: int,
        channels: int = 256,
        anchor_scale: float = 4.0,
        tower_depth: int = 4,
    ) -> None:
        super().__init__()
        strides = [0 if info.tap else info.stride for info in feature_info]
        if not set(STRIDES[:3]) <= set(strides):
            raise FnaError(
                f"RetinaNet reads features of strides 8, 16 and 32, the backbone has {sorted(set(strides) - {0})}; "
                "choose an undilated network (task.output_stride 32)"
            )
        if min((cell[:, 2:] - cell[:, :2]).min() for cell in _generator(anchor_scale).cell_anchors) < 1:
            raise FnaError(f"task.anchor_scale {anchor_scale} makes anchors smaller than a pixel; choose 0.5 or more")
        self.levels = [strides.index(stride) for stride in STRIDES[:3]]
        self.anchor_scale = anchor_scale
        widths = [feature_info[i].channels for i in self.levels]
        top = LastLevelP6P7(widths[-1], channels)
        top.use_P5 = False  # torchvision reads P5 where C5 happens to have as many channels
        self.fpn = FeaturePyramidNetwork(widths, channels, top)
        number = len(OCTAVE) * len(RATIOS)
        self.classification = RetinaNetClassificationHead(channels, number, classes, prior_probability=0.01)
        self.regression = RetinaNetRegressionHead(channels, number)
        for head in (self.classification, self.regression):
            head.conv = head.conv[:tower_depth]
        self._initialise()

    def forward(self, features: Sequence[Tensor], size_hw: tuple[int, int]) -> dict[str, Tensor]:
        """Return ``logits``, (N, A, classes), ``deltas``, (N, A, 4), and ``anchors``, (A, 4): x0, y0, x1, y1 in px.

        Args:
            features: one map per entry of `feature_info`.
            size_hw: size of the image.
        """
        maps = list(self.fpn(OrderedDict((str(i), features[i]) for i in self.levels)).values())
        return {
            "logits": self.classification(maps),
            "deltas": self.regression(maps),
            "anchors": anchors(maps, self.anchor_scale),
        }

    def _initialise(self) -> None:
        """Draw the towers so that their input's scale reaches the predictors, and quiet predictors.

        Training starts at the prior of 0.01 for every score, however large the backbone's features are.

        Deviation: torchvision and the authors' release draw every weight with standard deviation 0.01. A tower of four
        such convolutions passes on 1 % of its input's scale with 256 channels, and less than 0.1 % with 64.
        """
        towers = (self.classification.conv, self.regression.conv)
        for tower, predictor in zip(towers, (self.classification.cls_logits, self.regression.bbox_reg), strict=True):
            initialise(tower)
            nn.init.normal_(predictor.weight, std=0.001)


def anchors(maps: Sequence[Tensor], scale: float) -> Tensor:
    """Return the anchors of all levels, finest first, (A, 4): x0, y0, x1, y1 in px.

    Nine to a cell, centred on multiples of the level's stride. (torchvision's detector spreads the cells evenly over
    the image instead, so that anchors move where a side is no multiple of 128.)

    Args:
        maps: a map per level of the pyramid; their sizes, device and precision are read.
        scale: side of a level's smallest anchor / its stride.
    """
    sizes = tuple((m.shape[2], m.shape[3]) for m in maps)
    return _anchors(sizes, scale, torch.promote_types(maps[0].dtype, torch.float32), maps[0].device)


@remembered
def _anchors(sizes: Sequence[tuple[int, int]], scale: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    generator = _generator(scale)
    generator.set_cell_anchors(dtype, device)
    grids = generator.grid_anchors([list(size) for size in sizes], [[stride, stride] for stride in STRIDES])
    return torch.cat(grids)


def _generator(scale: float) -> AnchorGenerator:
    """Return a fresh generator: it keeps the device it last worked on, which is the meta device while counting."""
    sizes = tuple(tuple(scale * stride * octave for octave in OCTAVE) for stride in STRIDES)
    return AnchorGenerator(sizes, (RATIOS,) * len(STRIDES))


def assign(iou_nA: Tensor, reached_n1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give an anchor the box it overlaps most, if that is enough, or if no anchor overlaps some box more; see `match`.

    The rule of torchvision's `Matcher`, which reads the device.
    """
    overlap_A, box_A = iou_nA.max(0)
    best_A = ((iou_nA == iou_nA.amax(1, keepdim=True)) & reached_n1).any(0)
    positive_A = best_A | (overlap_A >= FOREGROUND)
    return positive_A, (overlap_A >= BACKGROUND) & ~positive_A, box_A


def loss(output: Mapping[str, Tensor], batch: Mapping[str, Any], config: RetinaNet) -> tuple[Tensor, Tensor]:
    """Return the focal loss of all anchors plus the L1 loss of the positive ones, and the number of the positive.

    Deviation: L1, as torchvision; the authors' release has smooth L1 with beta 0.11.

    Args:
        output: what the head gives.
        batch: ``boxes`` in px and ``labels``, a tensor per image; maybe ``class_weights``, (C,).
        config: nothing is read from it.
    """
    logits_NAC, deltas_NA4 = wide(output["logits"]), wide(output["deltas"])
    found = match(assign, output["anchors"], batch)
    distances_NA4 = F.l1_loss(deltas_NA4, encode(CODER, found, output["anchors"]), reduction="none")
    focal = _focal(logits_NAC, found, batch.get("class_weights"))
    return focal + positives(distances_NA4, found), found.positive.sum()


def _focal(logits_NAC: Tensor, found: Matches, weights_C: Tensor | None) -> Tensor:
    """Sum up the focal loss, an image at a time: on a CPU a batch at once takes four times as long (80 classes)."""
    classes_NA = torch.where(found.positive, found.labels, -1)  # -1: background, no class
    every_class = torch.arange(logits_NAC.shape[2], device=logits_NAC.device)
    total = logits_NAC.new_zeros(())
    for logits_AC, classes_A, ignored_A in zip(logits_NAC, classes_NA, found.ignored, strict=True):
        targets_AC = (classes_A[:, None] == every_class).to(logits_AC)
        focal_AC = sigmoid_focal_loss(logits_AC, targets_AC, alpha=0.25, gamma=2.0)
        if weights_C is not None:
            focal_AC = focal_AC * weights_C
        total = total + focal_AC.sum(1).masked_fill(ignored_A, 0).sum()
    return total


def distillation(
    output: Mapping[str, Tensor], teacher: Mapping[str, Tensor], batch: Mapping[str, Any], config: RetinaNet
) -> Tensor:
    """Return what `loss` would be with a teacher's scores and boxes in place of the truth, summed.

    Scores are no labels, so the focal loss becomes the quality focal loss (arXiv:2006.04388).

    Args:
        output: what the head gives.
        teacher: what another network's head gives for the same images.
        batch: see `loss`; the truth says which anchors learn what.
        config: nothing is read from it.
    """
    found = match(assign, output["anchors"], batch)
    logits_NAC, deltas_NA4 = wide(output["logits"]), wide(output["deltas"])
    taught_NAC, boxes_NA4 = wide(teacher["logits"]).detach(), wide(teacher["deltas"]).detach()
    total = positives(F.l1_loss(deltas_NA4, boxes_NA4, reduction="none"), found)
    for logits_AC, taught_AC, ignored_A in zip(logits_NAC, taught_NAC, found.ignored, strict=True):
        scores_AC = taught_AC.sigmoid()
        entropy_AC = F.binary_cross_entropy_with_logits(logits_AC, scores_AC, reduction="none")
        focal_AC = entropy_AC * (logits_AC.sigmoid() - scores_AC).square()
        total = total + focal_AC.sum(1).masked_fill(ignored_A, 0).sum()
    return total


@torch.no_grad()
def decode(output: Mapping[str, Tensor], size_hw: tuple[int, int], config: DetectionConfig) -> list[dict[str, Tensor]]:
    """Return the detections of each image: ``boxes`` (n, 4) in px, ``scores`` and ``labels``, by falling score.

    Args:
        output: what the head gives.
        size_hw: size of the images.
        config: ``evaluate.score_threshold``, ``nms`` and ``detections``.
    """
    scores_NAC, deltas_NA4 = wide(output["logits"]).sigmoid(), wide(output["deltas"])
    cells = len(OCTAVE) * len(RATIOS)
    sizes = [cells * -(-size_hw[0] // stride) * -(-size_hw[1] // stride) for stride in STRIDES]
    classes = scores_NAC.shape[2]
    detections = []
    for scores_AC, deltas_A4 in zip(scores_NAC, deltas_NA4, strict=True):
        scores, picks, start = [], [], 0
        for scores_aC in scores_AC.split(sizes):
            flat = scores_aC.flatten()
            above = (flat > config.evaluate.score_threshold).nonzero()[:, 0]
            top = flat[above].topk(min(CANDIDATES, len(above)))
            scores.append(top.values)
            picks.append(above[top.indices] + start)
            start += len(flat)
        pick_n = torch.cat(picks)
        anchor_n = pick_n // classes
        boxes_n4 = CODER.decode_single(deltas_A4[anchor_n], output["anchors"][anchor_n])
        detections.append(best(boxes_n4, torch.cat(scores), pick_n % classes, size_hw, config))
    return detections
