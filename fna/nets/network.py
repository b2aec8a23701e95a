"""Networks from an `Arch`: the multi-scale backbone that every task uses, and the classifier a seed came from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from fna.arch import Arch, levels, padded
from fna.arch.parts import head_part, stem_part
from fna.nets.blocks import ConvNormAct, build_block


@dataclass(frozen=True)
class FeatureInfo:
    """One feature map of a backbone.

    Args:
        channels: its channels.
        stride: input pixels per pixel.
        stage: the stage that gives it.
        tap: whether it is the expansion of the stage's first block, not the stage's output.
    """

    channels: int
    stride: int
    stage: int
    tap: bool = False


def feature_info(arch: Arch) -> tuple[FeatureInfo, ...]:
    """Describe the feature maps of `arch`: one per resolution level (see `arch.levels`), and its taps in between."""
    info = []
    stride = arch.stem.stride * (2 if arch.stem.max_pool else 1)
    last = levels(arch)
    for s, stage in enumerate(arch.stages):
        if s in arch.taps:
            info.append(FeatureInfo(stage[0].hidden_channels, stride, s, tap=True))
        stride *= stage[0].stride
        if s in last:
            info.append(FeatureInfo(stage[-1].out_channels, stride, s))
    return tuple(info)


class Backbone(nn.Module):
    """A convolutional backbone with multi-scale features.

    Args:
        arch: the architecture; weights are named ``stem.*`` and ``stages.S.N.*`` after it.
        stem: the module of the first convolution, and
        blocks: those of all layers, by stage, where they exist already; without them fresh ones are built and drawn.
    """

    def __init__(
        self, arch: Arch, stem: nn.Module | None = None, blocks: Iterable[Iterable[nn.Module]] | None = None
    ) -> None:
        super().__init__()
        self.arch = arch
        self.feature_info = feature_info(arch)
        self.stem = stem or build_stem(arch)
        self.pool = build_pool(arch)
        fresh = ((build_block(b, arch.activation, arch.norm_eps, arch.padding) for b in s) for s in arch.stages)
        self.stages = nn.ModuleList(nn.Sequential(*stage) for stage in blocks or fresh)
        if blocks is None:
            initialise(self)

    def forward(self, x_N3HW: Tensor) -> list[Tensor]:
        """Return the feature maps described by `feature_info`, finest first."""
        features = []
        x = self.pool(self.stem(x_N3HW))
        outputs = {info.stage for info in self.feature_info if not info.tap}
        for s, stage in enumerate(self.stages):
            block: Any
            for n, block in enumerate(stage.children()):
                if n == 0 and s in self.arch.taps:
                    features.append(block.expanded(x))
                    x = block.contracted(x, features[-1])
                else:
                    x = block(x)
            if s in outputs:
                features.append(x)
        return features


class Classifier(nn.Module):
    """The network a seed was trained as: a backbone, a 1x1 head convolution, global pooling and a linear layer.

    Its state dict has the names of a seed's weights: ``stem.* stages.* head.* classifier.*``.
    """

    def __init__(self, arch: Arch) -> None:
        super().__init__()
        backbone = Backbone(arch)
        self.stem, self.pool, self.stages = backbone.stem, backbone.pool, backbone.stages
        self.head: nn.Module = nn.Identity()
        if arch.head_channels:
            self.head = ConvNormAct(head_part(arch), arch.activation, arch.norm_eps, arch.padding)
            initialise(self.head)
        self.classifier = nn.Linear(arch.head_channels or arch.out_channels, arch.num_classes)

    def forward(self, x_N3HW: Tensor) -> Tensor:
        """Return class scores, (N, num_classes)."""
        x = self.pool(self.stem(x_N3HW))
        for stage in self.stages:
            x = stage(x)
        scores: Tensor = self.classifier(self.head(x).mean((2, 3)))
        return scores


class Model(nn.Module):
    """A task's network: a backbone (or super network) and a head that reads its features.

    Images are first padded bottom and right to the size that `arch.padded` says.

    Args:
        backbone: a `Backbone` or a `supernet.SuperBackbone`.
        head: called with the features and the size of the image.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.slim: Callable[..., Any] | None = None  # a narrower head made of `head`, to be used in its place

    def forward(self, images_N3HW: Tensor, choice: Sequence[Any] | None = None) -> Any:
        """Return what the head makes of the features.

        Args:
            images_N3HW: normalised images.
            choice: for a super network, what each layer runs (see `supernet.SuperBackbone`).
        """
        height, width = images_N3HW.shape[2:]
        arch: Any = self.backbone.arch
        size_hw = padded(arch, (height, width))
        if size_hw != (height, width):
            images_N3HW = F.pad(images_N3HW, (0, size_hw[1] - width, 0, size_hw[0] - height))
        features = self.backbone(images_N3HW) if choice is None else self.backbone(images_N3HW, choice)
        output = (self.slim or self.head)(features, size_hw)
        if isinstance(output, Tensor) and output.shape[2:] == size_hw:  # a score for every pixel
            return output[..., :height, :width]
        return output


def build_stem(arch: Arch) -> ConvNormAct:
    """Build the first convolution of `arch`."""
    return ConvNormAct(stem_part(arch), arch.activation, arch.norm_eps, arch.padding)


def build_pool(arch: Arch) -> nn.Module:
    """Build what follows the stem of `arch`: a max pooling, or nothing."""
    return nn.MaxPool2d(3, 2, 1) if arch.stem.max_pool else nn.Identity()


def initialise(module: nn.Module) -> None:
    """Draw fresh convolution weights as torchvision does (He, fan out); norms keep weight 1, bias 0."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and not part.weight.is_meta:  # to draw what is not there takes torch long
            nn.init.kaiming_normal_(part.weight, mode="fan_out")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
