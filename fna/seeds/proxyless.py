"""ProxylessNAS (mobile) (arXiv:1812.00332, Figure 4) as its authors published it."""

from __future__ import annotations

from fna.arch import Arch, Stem
from fna.arch.net_config import from_net_config
from fna.seeds.variant import IMAGENET_MEAN, IMAGENET_STD, Naming, Variant, Weights, mbconv_names, named

NET_CONFIG = """
[[32, 16], ['k3_e1'], 1]|
[[16, 32], ['k5_e3', 'k3_e3'], 2]|
[[32, 40], ['k7_e3', 'k3_e3', 'k5_e3', 'k5_e3'], 2]|
[[40, 80], ['k7_e6', 'k5_e3', 'k5_e3', 'k5_e3'], 2]|
[[80, 96], ['k5_e6', 'k5_e3', 'k5_e3', 'k5_e3'], 1]|
[[96, 192], ['k7_e6', 'k7_e6', 'k7_e3', 'k7_e3'], 2]|
[[192, 320], ['k7_e6'], 1]
"""
PLACES = (1, 4, 4, 4, 4, 4, 1)  # layers of the searched space a stage; the second has two that do nothing


def proxyless_mobile() -> Arch:
    """Build the network; its skips are left out."""
    stages = from_net_config(NET_CONFIG).stages
    return Arch(Stem(32), stages, norm_eps=1e-3, head_channels=1280, num_classes=1000)


def proxyless_modules(arch: Arch) -> dict[str, str]:
    """Name the modules as https://github.com/mit-han-lab/proxylessnas does: it counts the layers that do nothing."""
    return _modules(arch, "mobile_inverted_conv", PLACES)


def compact_modules(arch: Arch) -> dict[str, str]:
    """Name them so with the layers that do nothing left out."""
    return _modules(arch, "mobile_inverted_conv", tuple(len(stage) for stage in arch.stages))


def ofa_modules(arch: Arch) -> dict[str, str]:
    """Name the modules as https://github.com/mit-han-lab/once-for-all does today."""
    return _modules(arch, "conv", PLACES)


def _modules(arch: Arch, conv: str, places: tuple[int, ...]) -> dict[str, str]:
    plain = tuple(f"{part}.{kind}" for part in ("depth_conv", "point_linear") for kind in ("conv", "bn"))
    inside = mbconv_names(("inverted_bottleneck.conv", "inverted_bottleneck.bn", *plain), plain)
    blocks = [f"blocks.{sum(places[:s]) + n}.{conv}" for (s, n), _ in arch.layers()]
    head = ("feature_mix_layer.conv", "feature_mix_layer.bn")
    return named(arch, ("first_conv.conv", "first_conv.bn"), blocks, inside, head, "classifier.linear")


NAMINGS: tuple[Naming, ...] = (proxyless_modules, compact_modules, ofa_modules)
FILE = "proxyless_mobile.pth"

SEEDS = {
    "proxyless_mobile": Variant(
        proxyless_mobile(),
        IMAGENET_MEAN,
        IMAGENET_STD,
        NAMINGS,
        (
            Weights(
                FILE,
                f"curl -LO https://raw.githubusercontent.com/han-cai/files/master/proxylessnas/{FILE}",
                "mit-han-lab/proxylessnas",
                "MIT",
                74.6,
            ),
        ),
    )
}
