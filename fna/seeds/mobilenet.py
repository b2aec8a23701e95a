"""MobileNetV2 (arXiv:1801.04381, Table 2) as torchvision and timm train it."""

from __future__ import annotations

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
    torchvision_weights,
)

ROWS = (
    Row(1, 16, 1, 1, 3),
    Row(6, 24, 2, 2, 3),
    Row(6, 32, 3, 2, 3),
    Row(6, 64, 4, 2, 3),
    Row(6, 96, 3, 1, 3),
    Row(6, 160, 3, 2, 3),
    Row(6, 320, 1, 1, 3),
)


def mobilenet_v2(width: float) -> Arch:
    """Scale the channels by `width`; the head only grows."""
    stem = round_channels(32 * width)
    stages = mbconv_stages(stem, [row._replace(channels=round_channels(row.channels * width)) for row in ROWS])
    return Arch(Stem(stem), stages, head_channels=round_channels(1280 * max(1.0, width)), num_classes=1000)


def torchvision_modules(arch: Arch) -> dict[str, str]:
    """Name the modules as torchvision does."""
    inside = mbconv_names(("0.0", "0.1", "1.0", "1.1", "2", "3"), ("0.0", "0.1", "1", "2"))
    blocks = [f"features.{i}.conv" for i, _ in enumerate(arch.layers(), start=1)]
    head = f"features.{len(blocks) + 1}"
    return named(arch, ("features.0.0", "features.0.1"), blocks, inside, (f"{head}.0", f"{head}.1"), "classifier.1")


def _variant(width: float, *weights: Weights) -> Variant:
    namings = (torchvision_modules, timm_modules)
    return Variant(mobilenet_v2(width), IMAGENET_MEAN, IMAGENET_STD, namings, weights)


SEEDS = {
    "mobilenet_v2": _variant(
        1.0,
        torchvision_weights("mobilenet_v2-b0353104.pth", 71.878),
        torchvision_weights("mobilenet_v2-7ebf99e0.pth", 72.154),
        timm_weights("mobilenetv2_100_ra-b33bc2c4.pth", "timm/mobilenetv2_100.ra_in1k", 72.976),
    ),
    "mobilenet_v2_035": _variant(0.35),
    "mobilenet_v2_050": _variant(
        0.5, timm_weights("mobilenetv2_050-3d30d450.pth", "timm/mobilenetv2_050.lamb_in1k", 65.95)
    ),
    "mobilenet_v2_075": _variant(0.75),
    "mobilenet_v2_140": _variant(
        1.4, timm_weights("mobilenetv2_140_ra-21a4e913.pth", "timm/mobilenetv2_140.ra_in1k", 76.52)
    ),
}
