"""ResNet (arXiv:1512.03385, Table 1) as torchvision trains it: the stride of a bottleneck is on its 3x3 convolution."""

from __future__ import annotations

from fna.arch import Arch, Block, Stem
from fna.seeds.variant import IMAGENET_MEAN, IMAGENET_STD, Variant, Weights, resnet_modules, torchvision_weights

CHANNELS = (64, 128, 256, 512)


def resnet(kind: str, layers: tuple[int, int, int, int]) -> Arch:
    """Build the network.

    Args:
        kind: ``basic``, or ``bottleneck``, whose blocks put out four times as many channels.
        layers: blocks a stage.
    """
    stages = []
    in_channels = 64
    for s, (channels, number) in enumerate(zip(CHANNELS, layers, strict=True)):
        out_channels = channels if kind == "basic" else 4 * channels
        first = Block(kind, in_channels, out_channels, stride=1 if s == 0 else 2)
        later = Block(kind, out_channels, out_channels)
        stages.append((first, *[later] * (number - 1)))
        in_channels = out_channels
    stem = Stem(64, kernel=7, max_pool=True)
    return Arch(stem, tuple(stages), activation="relu", num_classes=1000)


def _variant(arch: Arch, *weights: Weights) -> Variant:
    return Variant(arch, IMAGENET_MEAN, IMAGENET_STD, (resnet_modules,), weights)


SEEDS = {
    "resnet18": _variant(
        resnet("basic", (2, 2, 2, 2)), torchvision_weights("resnet18-f37072fd.pth", 69.758, "timm/resnet18.tv_in1k")
    ),
    "resnet34": _variant(
        resnet("basic", (3, 4, 6, 3)), torchvision_weights("resnet34-b627a593.pth", 73.314, "timm/resnet34.tv_in1k")
    ),
    "resnet50": _variant(
        resnet("bottleneck", (3, 4, 6, 3)),
        torchvision_weights("resnet50-0676ba61.pth", 76.130, "timm/resnet50.tv_in1k"),
        torchvision_weights("resnet50-11ad3fa6.pth", 80.858, "timm/resnet50.tv2_in1k"),
    ),
    "resnet101": _variant(
        resnet("bottleneck", (3, 4, 23, 3)),
        torchvision_weights("resnet101-63fe2227.pth", 77.374, "timm/resnet101.tv_in1k"),
        torchvision_weights("resnet101-cd907fc2.pth", 81.886, "timm/resnet101.tv2_in1k"),
    ),
}
