"""A seed of the user's own: an architecture from a file, and weights under our names or those of a known layout."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fna.arch import Arch
from fna.arch.net_config import load_arch
from fna.errors import FnaError
from fna.runs.manifest import read_vouched
from fna.seeds.finding import PRETRAINED, existing
from fna.seeds.variant import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Naming,
    Rgb,
    authors_modules,
    authors_sorted_modules,
    resnet_modules,
    timm_modules,
)

AUTHORS_NORM_EPS = 1e-3  # of their ImageNet networks; the net_config text does not say it


@dataclass(frozen=True)
class OwnSeed:
    """What a file says of a seed.

    Args:
        name: of the seed.
        arch: its architecture.
        mean: of the training images, RGB in [0, 1].
        std: of the training images, RGB in [0, 1].
        licence: SPDX name of its weights' licence, empty if unknown.
    """

    name: str
    arch: Arch
    mean: Rgb = IMAGENET_MEAN
    std: Rgb = IMAGENET_STD
    licence: str = ""


def read_own(path: Path) -> OwnSeed:
    """Read a seed file: an Arch as JSON, a run's ``seed.json`` or a target of its, or the authors' net_config text.

    A ``seed.json`` has the architecture under ``arch``, and maybe ``name``, ``mean``, ``std`` and ``licence``; without
    them: the file's name, ImageNet's statistics. A net_config text stands for a network as its authors train them:
    relu6, batch norm epsilon 1e-3.

    Raises:
        FnaError: the file holds none of these, cannot be read, or is a run's and not as the run left it.
    """
    try:
        data = json.loads(read_vouched(path))
    except (ValueError, RecursionError):  # text: `load_arch` will read it
        data = None
    record: Mapping[str, Any] = data if isinstance(data, dict) else {}
    try:
        arch = Arch.from_json(record["arch"]) if "arch" in record else load_arch(path)
    except FnaError as error:
        raise FnaError(error if str(path) in str(error) else f"{path}: {error}") from error
    if arch.output_stride != 32 or arch.taps:
        raise FnaError(f"{path} has a network that is dilated or tapped for a task; a seed is the plain network")
    if data is None or "net_config" in record:
        arch = replace(arch, norm_eps=AUTHORS_NORM_EPS)
    if "arch" not in record:
        return OwnSeed(path.stem, arch)
    mean, std = _rgb(path, record, "mean", IMAGENET_MEAN), _rgb(path, record, "std", IMAGENET_STD)
    if min(std) <= 0:
        raise FnaError(f"{path}: 'std' is {list(std)}, expected numbers above 0")
    return OwnSeed(_text(path, record, "name", path.stem), arch, mean, std, _text(path, record, "licence", ""))


def own_weights(path: Path, weights: str | Path) -> Path:
    """Return the file with the weights of a seed of the user's own.

    Args:
        path: the seed's file.
        weights: a file; or ``"pretrained"``: the safetensors file beside the seed's.

    Raises:
        FnaError: there is none.
    """
    if str(weights) != PRETRAINED:
        return existing(weights)
    file = path.with_suffix(".safetensors")
    if not file.is_file():
        raise FnaError(
            f"the weights of the seed {path} are not beside it ({file.name}); give them as  weights: PATH  , or "
            "start from random ones with  weights: null"
        )
    return file


def namings_of(arch: Arch) -> tuple[Naming, ...]:
    """Return the names that the weights of a network of this kind may come under."""
    kinds = {block.kind for _, block in arch.layers()} - {"skip"}
    if kinds == {"mbconv"}:
        return authors_modules, authors_sorted_modules, timm_modules
    return (resnet_modules,) if "mbconv" not in kinds else ()


def _text(path: Path, data: Mapping[str, Any], key: str, default: str) -> str:
    value = data.get(key, default)
    if not isinstance(value, str):
        raise FnaError(f"{path}: '{key}' is {value!r}, expected text")
    return value


def _rgb(path: Path, data: Mapping[str, Any], key: str, default: Rgb) -> Rgb:
    value = data.get(key, default)
    good = isinstance(value, list | tuple) and len(value) == 3
    if not good or not all(type(v) in (int, float) and math.isfinite(v) for v in value):
        raise FnaError(f"{path}: '{key}' is {value!r}, expected three numbers: RGB in [0, 1]")
    red, green, blue = map(float, value)
    return red, green, blue
