"""Tensors of a file become a seed's state dict under our names, or the file is refused."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fna.arch import Arch
from fna.arch.weights import COUNTER, Shape, backbone_shapes, tail_shapes
from fna.errors import FnaError
from fna.seeds.variant import Naming

if TYPE_CHECKING:
    from torch import Tensor


def convert(state: Mapping[str, Tensor], arch: Arch, namings: Iterable[Naming], path: Path) -> dict[str, Tensor]:
    """Rename the tensors of a file to ours, whichever of the known names they have; strict.

    Args:
        state: the file's tensors. A ``module.`` before every name (torch's DataParallel puts it there) is ignored.
        arch: the network they must fit.
        namings: names they may have besides ours.
        path: the file, for messages.

    Returns:
        Every tensor of the network (`arch.weights`) exactly once, float32 (counters: int64), finite, contiguous. A
        missing ``num_batches_tracked`` (networks saved before torch 0.4.1) becomes 0.

    Raises:
        FnaError: tensors are missing, left over, of the wrong shape or kind, or not finite.
    """
    import torch

    state = without_prefix(state, "module.")
    shapes = backbone_shapes(arch) | tail_shapes(arch)
    names = _detect(state, shapes, [naming(arch) for naming in namings], path)
    missing = [n for n in names.values() if n not in state and not n.endswith(COUNTER)]
    extra = sorted(state.keys() - names.values())
    if missing or extra:
        problems = [f"{what} {_some(which)}" for what, which in (("without", missing), ("with", extra)) if which]
        raise FnaError(f"{path} does not fit the network: it is {' and '.join(problems)}")
    return {
        name: _checked(state[theirs], shapes[name], theirs, path) if theirs in state else torch.tensor(0)
        for name, theirs in names.items()
    }


def without_prefix(state: Mapping[str, Tensor], prefix: str) -> Mapping[str, Tensor]:
    """Drop `prefix` if every name begins with it."""
    if not all(name.startswith(prefix) for name in state):
        return state
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def with_top_of(state: Mapping[str, Tensor], arch: Arch, namings: Iterable[Naming]) -> Arch:
    """Give `arch` the head and the classifier that the tensors have; either may be absent.

    Args:
        state: the tensors, under our names or one of `namings`.
        arch: the network; a size it states stays, so that `convert` will refuse another.
        namings: names the tensors may have besides ours.
    """
    full = replace(arch, head_channels=arch.head_channels or 1, num_classes=arch.num_classes or 1)
    ours = {name: name for name in _modules(backbone_shapes(full) | tail_shapes(full))}
    known = [ours, *(naming(full) for naming in namings)]
    best = max(known, key=lambda names: sum(f"{theirs}.weight" in state for theirs in names.values()))
    head, classifier = state.get(f"{best['head.conv']}.weight"), state.get(f"{best['classifier']}.weight")
    return replace(
        arch,
        head_channels=0 if head is None else arch.head_channels or _length(head),
        num_classes=0 if classifier is None else arch.num_classes or _length(classifier),
    )


def _length(tensor: Tensor) -> int:
    return tensor.shape[0] if tensor.ndim else 1


def _modules(tensors: Iterable[str]) -> Iterable[str]:
    """Return the modules that tensors belong to, each once."""
    return dict.fromkeys(tensor.rpartition(".")[0] for tensor in tensors)


def _detect(
    state: Mapping[str, Tensor], tensors: Iterable[str], namings: Iterable[Mapping[str, str]], path: Path
) -> dict[str, str]:
    """Return the file's name for each of our tensors, by the naming that shares most names with the file."""
    known = [{tensor: tensor for tensor in tensors}]
    for theirs in namings:
        known.append({t: f"{theirs[module]}.{tail}" for t in known[0] for module, _, tail in [t.rpartition(".")]})
    best = max(known, key=lambda names: len(state.keys() & names.values()))
    if not state.keys() & best.values():
        begins = ", ".join(dict.fromkeys(f"'{next(iter(names.values()))}'" for names in known))
        raise FnaError(f"{path} is of another network: it begins with '{next(iter(state))}', expected one of {begins}")
    return best


def _checked(tensor: Tensor, shape: Shape, name: str, path: Path) -> Tensor:
    """Return a float32 (int64) copy of `tensor`, or say what is wrong with it."""
    import torch

    floats, integers = (torch.float16, torch.bfloat16, torch.float32, torch.float64), (torch.int32, torch.int64)
    known, expected = (integers, torch.int64) if name.endswith(COUNTER) else (floats, torch.float32)
    if tensor.shape != shape:
        raise FnaError(f"{path}: '{name}' has shape {tuple(tensor.shape)}, expected {shape}")
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
    if not plain or tensor.dtype not in known:
        raise FnaError(f"{path}: '{name}' holds {tensor.dtype} ({tensor.layout}), expected plain {expected}")
    copy = tensor.detach().to(expected, copy=True).contiguous()
    if not copy.isfinite().all():
        raise FnaError(f"{path}: '{name}' has values that are not finite (in float32); the file is no good")
    if name.endswith("running_var") and copy.min() < 0:
        raise FnaError(f"{path}: '{name}' has a negative variance; the file is no good")
    return copy


def _some(names: Collection[str]) -> str:
    """List the first few of `names`."""
    shown = ", ".join(f"'{name}'" for name in list(names)[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
