"""Settings of the section `task`: a class per model. A model's name stands here, and nowhere else."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, Self

from fna.config.sections import AboveZero, OutputStride, Positive, Section, Several, TowerDepth, Two, note

MULTIPLE = 4  # what channels of a scaled head are rounded to
HW = tuple[int, int]


class TaskConfig(Section):
    """What the network is for, and what is put on the backbone.

    Attributes:
        code: where the model is: a head's class, or the module where it needs more than that; see `tasks.load_model`.
        article_classes: classes (without background) or joints in the article's tables.
        article_size_hw: height, width the article counts it at.
    """

    name: str
    model: str
    code: ClassVar[str]
    article_classes: ClassVar[int]
    article_size_hw: ClassVar[HW]

    @property
    def stride(self) -> int:
        """Input pixels per pixel of the backbone's last feature map."""
        return 32

    @property
    def depth(self) -> int | None:
        """Convolutions in each tower of the head; None: it has no towers."""
        return None

    def scaled(self, head_width: float) -> Self:
        """Return the settings of a head with `head_width` times the channels; 1: the same."""
        raise NotImplementedError(f"{self.model} has no width")

    def strided(self, output_stride: int) -> Self:
        """Return the settings of a network of another output stride."""
        raise NotImplementedError(f"{self.model} reads maps of fixed strides")

    def deepened(self, tower_depth: int) -> Self:
        """Return the settings of a head with towers of another depth."""
        raise NotImplementedError(f"the head of {self.model} has no towers")


class _OneWidth(TaskConfig):
    """A model whose head has one width."""

    channels: Positive = note(256, "channels of the ASPP, of the FPN and its towers, or of the deconvolutions")

    def scaled(self, head_width: float) -> Self:
        """Return the settings of a head with `head_width` times the channels; 1: the same."""
        return self.model_copy(update={"channels": scaled_channels(self.channels, head_width)})


class DeepLab(_OneWidth):
    """What the models of segmentation share."""

    name: Literal["segmentation"] = "segmentation"
    output_stride: OutputStride = note(16, "input pixels per pixel of the last feature map")
    rates: Several[Positive] | None = note(None, "ASPP rates; null: 6, 12, 18 at stride 16, doubled at 8")
    article_classes: ClassVar[int] = 19
    article_size_hw: ClassVar[HW] = (1024, 2048)

    @property
    def stride(self) -> int:
        """Input pixels per pixel of the backbone's last feature map."""
        return self.output_stride

    def strided(self, output_stride: int) -> Self:
        """Return the settings of a network of another output stride; given rates reach as far in pixels of the input.

        >>> DeepLabV3(rates=(6, 12, 18)).strided(8).rates, DeepLabV3().strided(8).rates
        ((12, 24, 36), None)
        """
        times = self.output_stride / output_stride
        rates = self.rates and tuple(max(1, round(rate * times)) for rate in self.rates)
        return self.model_copy(update={"output_stride": output_stride, "rates": rates})


class DeepLabV3(DeepLab):
    """A separable ASPP and a 1x1 classifier (arXiv:1706.05587)."""

    model: Literal["deeplabv3"] = "deeplabv3"
    code: ClassVar[str] = "fna.tasks.heads:DeepLabV3Head"


class DeepLabV3Plus(DeepLab):
    """A plain ASPP and a decoder with features of stride 4 (arXiv:1802.02611)."""

    model: Literal["deeplabv3plus"] = "deeplabv3plus"
    code: ClassVar[str] = "fna.tasks.heads:DeepLabV3PlusHead"


class Detector(TaskConfig):
    """What the models of detection share.

    Attributes:
        augment: what ``data.augment`` null means.
        stretches: whether an image is stretched to the canvas, or keeps its proportions.
    """

    name: Literal["detection"] = "detection"
    augment: ClassVar[Literal["resize", "ssd"]]
    stretches: ClassVar[bool]
    article_classes: ClassVar[int] = 80

    def anchor_sides(self, size_hw: HW) -> tuple[float, float]:
        """Return the sides of the smallest and the largest square anchor in pixels, of a canvas of a size."""
        raise NotImplementedError


class RetinaNet(Detector, _OneWidth):
    """A feature pyramid with towers for classes and boxes (arXiv:1708.02002)."""

    model: Literal["retinanet"] = "retinanet"
    tower_depth: TowerDepth = note(4, "convolutions between the pyramid and the predictors, of scores and of boxes")
    anchor_scale: AboveZero = note(4.0, "side of the smallest anchor / stride of its level")
    strides: ClassVar[tuple[int, ...]] = (8, 16, 32, 64, 128)  # of the pyramid's levels P3 to P7
    octave: ClassVar[tuple[float, ...]] = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))  # sides of anchors / a level's smallest
    code: ClassVar[str] = "fna.tasks.retinanet"
    article_size_hw: ClassVar[HW] = (800, 1088)
    augment: ClassVar[Literal["resize", "ssd"]] = "resize"
    stretches: ClassVar[bool] = False

    @property
    def depth(self) -> int:
        """Convolutions in each tower of the head."""
        return self.tower_depth

    def deepened(self, tower_depth: int) -> Self:
        """Return the settings of a head with towers of another depth."""
        return self.model_copy(update={"tower_depth": tower_depth})

    def anchor_sides(self, size_hw: HW) -> tuple[float, float]:
        """Return the sides of the smallest and the largest square anchor in pixels."""
        return self.strides[0] * self.anchor_scale, self.strides[-1] * self.anchor_scale * self.octave[-1]


class SSDLite(Detector):
    """Separable predictors on six levels (arXiv:1801.04381)."""

    model: Literal["ssdlite"] = "ssdlite"
    width: AboveZero = note(1.0, "x the article's channels of the 1x1 convolution and of the levels after it")
    code: ClassVar[str] = "fna.tasks.ssdlite"
    article_size_hw: ClassVar[HW] = (320, 320)
    augment: ClassVar[Literal["resize", "ssd"]] = "ssd"
    stretches: ClassVar[bool] = True
    scales: ClassVar[tuple[float, ...]] = (0.1, 0.2, 0.38, 0.56, 0.74, 0.92, 1.1)  # x the image

    def anchor_sides(self, size_hw: HW) -> tuple[float, float]:
        """Return the sides of the smallest and the largest square default box in pixels, of a canvas of a size."""
        side = math.sqrt(size_hw[0] * size_hw[1])
        return self.scales[0] * side, math.sqrt(self.scales[-2] * self.scales[-1]) * side

    def scaled(self, head_width: float) -> Self:
        """Return the settings of a head with `head_width` times the channels; 1: the same."""
        return self.model_copy(update={"width": self.width * head_width})


class SimpleBaseline(_OneWidth):
    """Three deconvolutions to a heatmap per joint (arXiv:1804.06208)."""

    name: Literal["pose"] = "pose"
    model: Literal["simple_baseline"] = "simple_baseline"
    sigma: AboveZero = note(2.0, "standard deviation of the target Gaussians in heatmap pixels")
    joint_pairs: Several[Two[str]] | None = note(None, "joints that a mirror swaps; null: left_* with right_*")
    code: ClassVar[str] = "fna.tasks.simple_baseline:SimpleBaselineHead"
    article_classes: ClassVar[int] = 16
    article_size_hw: ClassVar[HW] = (256, 256)


def scaled_channels(channels: int, width: float) -> int:
    """Return `width` times the channels, in multiples of `MULTIPLE`; at width 1 exactly `channels`.

    >>> scaled_channels(1280, 0.3), scaled_channels(20, 1.0)
    (384, 20)
    """
    return channels if width == 1 else max(MULTIPLE, round(channels * width / MULTIPLE) * MULTIPLE)


MODELS: dict[str, type[TaskConfig]] = {  # the default first, of all and of each task
    settings.model_fields["model"].default: settings
    for settings in (DeepLabV3, DeepLabV3Plus, RetinaNet, SSDLite, SimpleBaseline)
}
TASKS: dict[str, tuple[str, ...]] = {  # task -> its models
    task: tuple(model for model, settings in MODELS.items() if settings.model_fields["name"].default == task)
    for task in dict.fromkeys(settings.model_fields["name"].default for settings in MODELS.values())
}
