"""Seeds: pretrained networks as an `Arch`, a state dict under our names, and where both come from.

A seed is a name of the tables below, a timm model (``timm/NAME``), or a file of the user's own. A family is one file
beside this one with a table ``SEEDS: dict[str, Variant]`` at its foot; `collect` gathers them. Nothing here touches the
network: weights are read from an installed package, a cache or a file.
"""

from __future__ import annotations

import os
import pkgutil
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from fna.arch import A, Arch, SuperArch
from fna.errors import FnaError, nearest
from fna.seeds.converting import read_super, read_weights
from fna.seeds.finding import PRETRAINED, existing, find_weights
from fna.seeds.from_timm import PREFIX, timm_variant
from fna.seeds.own import namings_of, own_weights, read_own
from fna.seeds.variant import IMAGENET_MEAN as IMAGENET_MEAN
from fna.seeds.variant import IMAGENET_STD as IMAGENET_STD
from fna.seeds.variant import Rgb, Variant

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Seed:
    """A network to start from.

    Args:
        name: its name.
        arch: the classification network, undilated. It lacks the head and the classifier that a user's file lacks.
        state: weights by our names (float32, CPU), or None: random weights.
        mean: to subtract from images, RGB in [0, 1].
        std: to divide images by, RGB in [0, 1].
        source: where the weights are from.
        licence: SPDX name of the weights' licence, empty if unknown.
        top1: published ImageNet top-1 accuracy in percent, if known.
    """

    name: str
    arch: Arch
    state: dict[str, Tensor] | None
    mean: Rgb
    std: Rgb
    source: str
    licence: str = ""
    top1: float | None = None


def collect() -> dict[str, Variant]:
    """Gather the tables ``SEEDS`` of the families in this folder."""
    seeds: dict[str, Variant] = {}
    for module in pkgutil.iter_modules(__path__):
        seeds |= getattr(import_module(f"{__name__}.{module.name}"), "SEEDS", {})
    return seeds


def load_seed(name: str, weights: str | Path | None = PRETRAINED) -> Seed:
    """Load a seed.

    Args:
        name: a name of the tables, such as ``efficientnet_lite0`` or ``mobilenet_v2``; a timm model of the MBConv
            family or a plain ResNet, such as ``timm/mnasnet_100`` or ``timm/resnet50.a1_in1k``; or a file with an
            architecture: Arch JSON, a run's ``seed.json``, or the authors' net_config text.
        weights: ``"pretrained"``, None (random weights), or a file (safetensors, or a state dict or checkpoint saved by
            torch) whose tensors have our names or those of a library the family knows, below any prefix. With a file as
            `name`, ``"pretrained"`` means the safetensors file beside it.

    Raises:
        FnaError: the name is unknown, or the weights are absent, damaged or of another network.

    Example:
        >>> load_seed("mobilenet_v2", weights=None).arch.out_channels
        320
    """
    path = own_file(name)
    if path:
        return _load_own(path, weights)
    variant = find_variant(name)
    if weights is None:
        return Seed(name, variant.arch, None, variant.mean, variant.std, "random weights")
    file, published = find_weights(name, variant, weights, collect())
    arch, state, where = read_weights(file, variant.arch, variant.namings, collect())
    source = published.file if published else " ".join(filter(None, (str(file), where)))
    licence, top1 = (published.licence, published.top1) if published else ("", None)
    return Seed(name, arch, state, variant.mean, variant.std, source, licence, top1)


def find_variant(name: str) -> Variant:
    """Return the seed `name` of the tables or of timm.

    Raises:
        FnaError: there is no such seed.
    """
    seeds = collect()
    if name.startswith(PREFIX):
        return timm_variant(name, seeds.values())
    if name not in seeds:
        raise FnaError(
            f"unknown seed '{name}'{nearest(name, seeds)}; known: {', '.join(sorted(seeds))}; "
            "also timm/NAME, and a file with an architecture"
        )
    return seeds[name]


def own_file(name: str) -> Path | None:
    """Return the path of a seed of the user's own, or None: `name` is one of the tables, timm's, or no file."""
    path = os.path.expanduser(name)
    return Path(path) if os.path.isfile(path) and name not in collect() else None


def backbone_weights(file: str | Path, arch: A) -> dict[str, Tensor]:
    """Return the weights of a backbone, or of a whole super network, that were trained elsewhere.

    Args:
        file: safetensors, or a state dict or checkpoint by torch.
        arch: what they are of.

    Raises:
        FnaError: there is no such file, or it is of another network.
    """
    if isinstance(arch, SuperArch):
        return read_super(existing(file), arch)
    return read_weights(existing(file), arch, namings_of(arch), collect())[1]


def _load_own(path: Path, weights: str | Path | None) -> Seed:
    own = read_own(path)
    if weights is None:
        return Seed(own.name, own.arch, None, own.mean, own.std, "random weights")
    file = own_weights(path, weights)
    arch, state, where = read_weights(file, own.arch, namings_of(own.arch), collect())
    licence = own.licence if str(weights) == PRETRAINED else ""
    return Seed(own.name, arch, state, own.mean, own.std, " ".join(filter(None, (str(file), where))), licence)
