"""FBNet-C (arXiv:1812.03443, Figure 4): as the article counts it, and as timm trained it.

The two differ in the three blocks of expansion 1: timm's have an expansion convolution of as many channels as they
take in, the article's have none (its Table X is met only so). Weights are published for timm's alone.
"""

from __future__ import annotations

from dataclasses import replace

from fna.arch import Arch, Stem, with_blocks
from fna.arch.net_config import from_net_config
from fna.seeds.variant import EXPANDS_TO_SAME, IMAGENET_MEAN, IMAGENET_STD, Variant, timm_modules, timm_weights

NET_CONFIG = """
[[16, 16], ['k3_e1'], 1]|
[[16, 24], ['k3_e6', 'k3_e1', 'k3_e1'], 2]|
[[24, 32], ['k5_e6', 'k5_e3', 'k5_e6', 'k3_e6'], 2]|
[[32, 64], ['k5_e6', 'k5_e3', 'k5_e6', 'k5_e6'], 2]|
[[64, 112], ['k5_e6', 'k5_e6', 'k5_e6', 'k5_e3'], 1]|
[[112, 184], ['k5_e6', 'k5_e6', 'k5_e6', 'k5_e6'], 2]|
[[184, 352], ['k3_e6'], 1]
"""


def fbnet_c() -> Arch:
    """Build the network the article counts; the skip of its second stage is left out."""
    stages = from_net_config(NET_CONFIG).stages
    return Arch(Stem(16), stages, activation="relu", head_channels=1984, num_classes=1000)


def fbnetc_100() -> Arch:
    """Build timm's network."""
    arch = fbnet_c()
    expanding = [
        [replace(b, expansion=EXPANDS_TO_SAME) if b.expansion == 1 else b for b in stage] for stage in arch.stages
    ]
    return with_blocks(arch, expanding)


SEEDS = {
    "fbnet_c": Variant(
        fbnet_c(),
        IMAGENET_MEAN,
        IMAGENET_STD,
        (timm_modules,),
        hint="timm's are of the seed fbnetc_100, which has three expansion convolutions more",
    ),
    "fbnetc_100": Variant(
        fbnetc_100(),
        IMAGENET_MEAN,
        IMAGENET_STD,
        (timm_modules,),
        (timm_weights("fbnetc_100-c345b898.pth", "timm/fbnetc_100.rmsp_in1k", 75.124),),
    ),
}
