"""SSDLite (arXiv:1801.04381, section 6.2; SSD: arXiv:1512.02325) on an MBConv backbone, from torchvision's parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSDScoringHead
from torchvision.ops import Conv2dNormActivation

from fna.arch import A, Arch, with_taps
from fna.arch.parts import conv_norm
from fna.config import DetectionConfig, SSDLite, scaled_channels
from fna.errors import FnaError
from fna.nets.blocks import ConvNormAct
from fna.nets.network import FeatureInfo, feature_info, initialise
from fna.tasks.boxes import Matches, best, encode, match, positives, remembered, wide

HEAD_CHANNELS = 1280  # of the 1x1 convolution where the seed has none
EXTRAS = (512, 256, 256, 128)  # channels of the levels after the backbone's two
RATIOS = ([2], [2, 3], [2, 3], [2, 3], [2], [2])  # besides 1, which has two sizes: 4, 6, 6, 6, 4, 4 boxes to a cell
SCALES = list(SSDLite.scales)  # as in the release
NEGATIVES = 3  # background anchors that learn, per positive one
CANDIDATES = 400  # boxes per class that non-maximum suppression sees

LETTERBOX, AUGMENT = False, "ssd"  # how images are brought to the canvas; to train, where `data.augment` is null
FOREGROUND = 0.5  # intersection over union from which an anchor learns a box
CODER = BoxCoder((10.0, 10.0, 5.0, 5.0))


class Norm(nn.BatchNorm2d):
    """Batch norm that also takes a training batch of one value per channel, which has no variance.

    The last maps are 1x1 at 320x320. Such a batch is normalised with the running statistics and leaves them alone.
    """

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the normalised map."""
        if self.training and x_NCHW.numel() == x_NCHW.shape[1]:
            return F.batch_norm(x_NCHW, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x_NCHW)


NORM = partial(Norm, eps=1e-3)


def prepare(arch: A) -> A:
    """Tap the block whose expansion the head reads."""
    return with_taps(arch)


def build_head(arch: Arch, classes: int, config: SSDLite) -> nn.Module:
    """Build the head; its first convolution is as wide as that before the seed's classifier, times ``width``."""
    channels = arch.head_channels or HEAD_CHANNELS
    return SSDLiteHead(feature_info(arch), classes, channels, arch.activation, arch.norm_eps, config.width)


class SSDLiteHead(nn.Module):
    """The classifier's 1x1 convolution, four smaller levels, and separable predictors of six levels in all.

    Every convolution is without bias and has a batch norm, the predictors' last one too: with that, and only with
    that, the paper's params and MAdds are met exactly.

    Args:
        feature_info: the backbone's features; the last is read, and the tap (see `fna.arch.with_taps`), or in a ResNet,
            which has none, the features of stride 16.
        classes: number of classes; the background becomes class 0 of the logits.
        head_channels: channels of the 1x1 convolution ``last`` (see `head_start`).
        activation: its activation, the seed's.
        norm_eps: epsilon of its batch norm, the seed's.
        width: x `head_channels` and the channels of the smaller levels.

    Raises:
        FnaError: neither a tap nor features of stride 16.
    """

    def __init__(
        self,
        feature_info: Sequence[FeatureInfo],
        classes: int,
        head_channels: int = 1280,
        activation: str = "relu6",
        norm_eps: float = 1e-3,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        sources = [i for i, info in enumerate(feature_info) if info.tap]
        sources = sources or [i for i, info in enumerate(feature_info) if info.stride == 16]
        if not sources:
            strides = sorted({info.stride for info in feature_info})
            raise FnaError(f"SSDLite reads features of stride 16, the backbone has {strides}; choose another seed")
        self.source = sources[-1]
        first, *levels = (scaled_channels(channels, width) for channels in (head_channels, *EXTRAS))
        self.last = ConvNormAct(conv_norm(feature_info[-1].channels, first), activation, norm_eps, "symmetric")
        widths = [feature_info[self.source].channels, first, *levels]
        self.extras = nn.ModuleList(map(_extra, widths[1:], levels))
        numbers = [2 + 2 * len(ratios) for ratios in RATIOS]
        self.classification = _predictors(widths, numbers, classes + 1)
        self.regression = _predictors(widths, numbers, 4)
        initialise(self.last)

    def forward(self, features: Sequence[Tensor], size_hw: tuple[int, int]) -> dict[str, Tensor]:
        """Return ``logits``, (N, A, 1 + classes), ``deltas``, (N, A, 4), and ``anchors``, (A, 4): x0, y0, x1, y1 in px.

        Args:
            features: one map per entry of `feature_info`.
            size_hw: size of the image.
        """
        maps = [features[self.source], self.last(features[-1])]
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return {
            "logits": self.classification(maps),
            "deltas": self.regression(maps),
            "anchors": anchors(maps, size_hw),
        }


def _extra(in_channels: int, out_channels: int) -> nn.Module:
    """Build a level: 1x1 to half the channels, depthwise 3x3/2, 1x1."""
    half = out_channels // 2
    block = nn.Sequential(_conv(in_channels, half), _conv(half, half, 3, 2, half), _conv(half, out_channels))
    return _quiet(block)


def _predictors(widths: Sequence[int], numbers: Sequence[int], columns: int) -> nn.Module:
    """Build a depthwise 3x3 and a linear 1x1 per level, whose outputs are joined to (N, A, columns)."""
    modules = [
        nn.Sequential(_conv(width, width, 3, 1, width), _conv(width, number * columns, act=None))
        for width, number in zip(widths, numbers, strict=True)
    ]
    head: nn.Module = SSDScoringHead(_quiet(nn.ModuleList(modules)), columns)
    return head


def _conv(
    in_channels: int,
    out_channels: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    act: type[nn.Module] | None = nn.ReLU6,
) -> nn.Module:
    module: nn.Module = Conv2dNormActivation(
        in_channels, out_channels, kernel, stride, groups=groups, norm_layer=NORM, activation_layer=act
    )
    return module


def _quiet(module: nn.Module) -> nn.Module:
    """Draw small weights, as the release and torchvision do."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.normal_(part.weight, std=0.03)
    return module


def head_start(seed_state: Mapping[str, Tensor], config: SSDLite) -> dict[str, Tensor]:
    """Return the weights of ``last`` that a seed has: those of the 1x1 convolution before its classifier.

    A narrower one begins with the first of its channels; a wider one from nothing.
    """
    start = {name.removeprefix("head."): value for name, value in seed_state.items() if name.startswith("head.")}
    channels = max((len(value) for value in start.values() if value.ndim), default=0)
    kept = scaled_channels(channels, config.width)
    if kept > channels:
        return {}
    return {f"last.{name}": value[:kept] if value.ndim else value for name, value in start.items()}


def anchors(maps: Sequence[Tensor], size_hw: tuple[int, int]) -> Tensor:
    """Return the default boxes of all levels, finest first, (A, 4): x0, y0, x1, y1 in px.

    Args:
        maps: a map per level; their sizes, device and precision are read.
        size_hw: size of the image; the boxes scale with it.
    """
    sizes = tuple((m.shape[2], m.shape[3]) for m in maps)
    return _anchors(sizes, size_hw, torch.promote_types(maps[0].dtype, torch.float32), maps[0].device)


@remembered
def _anchors(
    sizes: Sequence[tuple[int, int]], size_hw: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> Tensor:
    blank = torch.empty((), dtype=dtype, device=device)
    images = ImageList(blank.expand(1, 3, *size_hw), [size_hw])
    generator = DefaultBoxGenerator([list(ratios) for ratios in RATIOS], scales=SCALES)
    with torch.device("cpu"):  # torchvision draws them there, and moves them
        boxes: Tensor = generator(images, [blank.expand(1, 1, *size) for size in sizes])[0]
    return boxes


def assign(iou_nA: Tensor, reached_n1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give an anchor the box it overlaps most, if that is enough, and each box its best anchor; see `match`.

    The rule of torchvision's `SSDMatcher`: of boxes that share their best anchor, the last has it.
    """
    overlap_A, box_A = iou_nA.max(0)
    box_n, anchor_A = (torch.arange(n, device=iou_nA.device) for n in iou_nA.shape)
    claimed_nA = (anchor_A == iou_nA.argmax(1, keepdim=True)) & reached_n1
    claim_A = torch.where(claimed_nA, box_n[:, None], -1).amax(0)
    positive_A = (claim_A >= 0) | (overlap_A >= FOREGROUND)
    return positive_A, torch.zeros_like(positive_A), torch.where(claim_A >= 0, claim_A, box_A)


def loss(output: Mapping[str, Tensor], batch: Mapping[str, Any], config: SSDLite) -> tuple[Tensor, Tensor]:
    """Return cross entropy of positives and hardest negatives plus smooth L1 of the boxes, and the positives' number.

    The negatives of an image are its `NEGATIVES` most wrong background anchors per positive one, so an image without
    boxes adds nothing (SSD, section 2.2).

    Args:
        output: what the head gives.
        batch: ``boxes`` in px and ``labels``, a tensor per image; maybe ``class_weights``, (C,), of the positives.
        config: nothing is read from it.
    """
    logits_NAC, deltas_NA4 = wide(output["logits"]), wide(output["deltas"])
    found = match(assign, output["anchors"], batch)
    entropy_NA, learned_NA = _entropy(logits_NAC, found, batch.get("class_weights"))
    distances_NA4 = F.smooth_l1_loss(deltas_NA4, encode(CODER, found, output["anchors"]), reduction="none")
    return torch.where(learned_NA, entropy_NA, 0).sum() + positives(distances_NA4, found), found.positive.sum()


def _entropy(logits_NAC: Tensor, found: Matches, weights_C: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the cross entropy of every anchor, and which of them learn: the positives and the hardest negatives."""
    positive_NA = found.positive
    targets_NA = torch.where(positive_NA, found.labels + 1, 0)
    entropy_NA = F.cross_entropy(logits_NAC.flatten(0, 1), targets_NA.flatten(), reduction="none").view_as(targets_NA)
    if weights_C is not None:
        entropy_NA = entropy_NA * torch.cat([weights_C.new_ones(1), weights_C])[targets_NA]
    order_NA = entropy_NA.detach().masked_fill(positive_NA, -torch.inf).argsort(1, descending=True)
    hard_NA = order_NA.argsort(1) < NEGATIVES * positive_NA.sum(1, keepdim=True)
    return entropy_NA, positive_NA | hard_NA


def distillation(
    output: Mapping[str, Tensor], teacher: Mapping[str, Tensor], batch: Mapping[str, Any], config: SSDLite
) -> Tensor:
    """Return the Kullback-Leibler divergence from a teacher's classes plus smooth L1 from its boxes, summed.

    Args:
        output: what the head gives.
        teacher: what another network's head gives for the same images.
        batch: see `loss`; the anchors that it takes are compared.
        config: nothing is read from it.
    """
    logits_NAC, deltas_NA4 = wide(output["logits"]), wide(output["deltas"])
    taught_NAC, boxes_NA4 = wide(teacher["logits"]).detach(), wide(teacher["deltas"]).detach()
    found = match(assign, output["anchors"], batch)
    with torch.no_grad():
        _, learned_NA = _entropy(logits_NAC, found, None)
    learned, taught = (logits.log_softmax(2) for logits in (logits_NAC, taught_NAC))
    divergence_NA = F.kl_div(learned, taught, reduction="none", log_target=True).sum(2)
    distances_NA4 = F.smooth_l1_loss(deltas_NA4, boxes_NA4, reduction="none")
    return torch.where(learned_NA, divergence_NA, 0).sum() + positives(distances_NA4, found)


@torch.no_grad()
def decode(output: Mapping[str, Tensor], size_hw: tuple[int, int], config: DetectionConfig) -> list[dict[str, Tensor]]:
    """Return the detections of each image: ``boxes`` (n, 4) in px, ``scores`` and ``labels``, by falling score.

    Args:
        output: what the head gives.
        size_hw: size of the images.
        config: ``evaluate.score_threshold``, ``nms`` and ``detections``.
    """
    scores_NAC = wide(output["logits"]).softmax(2)[:, :, 1:]
    detections = []
    for scores_AC, deltas_A4 in zip(scores_NAC, wide(output["deltas"]), strict=True):
        top = scores_AC.topk(min(CANDIDATES, len(scores_AC)), dim=0)
        candidate, label_n = (top.values > config.evaluate.score_threshold).nonzero(as_tuple=True)
        anchor_n = top.indices[candidate, label_n]
        boxes_n4 = CODER.decode_single(deltas_A4[anchor_n], output["anchors"][anchor_n])
        detections.append(best(boxes_n4, top.values[candidate, label_n], label_n, size_hw, config))
    return detections
