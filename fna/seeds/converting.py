"""Tensors of a file become a seed's state dict under our names, or the file is refused."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fna.arch import Arch, SuperArch
from fna.arch.weights import COUNTER, Shape, backbone_shapes, tail_shapes
from fna.errors import FnaError
from fna.progress import say
from fna.seeds.unwrapping import Keys, Part, pick_part, read_dicts
from fna.seeds.variant import Naming, Variant

if TYPE_CHECKING:
    from torch import Tensor


def read_weights(
    path: Path, arch: Arch, namings: Iterable[Naming], seeds: Mapping[str, Variant]
) -> tuple[Arch, dict[str, Tensor], str]:
    """Read the weights of a network from a file of anybody's, and say what of it was taken.

    Args:
        path: a safetensors file, or a state dict or checkpoint by torch: the tensors may lie in any dicts, below any
            prefix, under our names or those of `namings`.
        arch: the network.
        namings: names the tensors may have besides ours.
        seeds: those that a file which does not fit is compared with.

    Returns:
        The architecture with the head and the classifier that the file has; every tensor of it exactly once, float32
        (counters: int64), finite, contiguous; where in the file they were, '' where it holds nothing else. A missing
        ``num_batches_tracked`` (networks saved before torch 0.4.1) is 0.

    Raises:
        FnaError: tensors are missing, left over, of the wrong shape or kind, or not finite.
    """
    dicts, namings = read_dicts(path), tuple(namings)
    part, modules = _best_part(path, dicts, arch, namings)
    like, tensors, left_out = _with_top_of(part.tensors, arch, modules)
    shapes = backbone_shapes(like) | tail_shapes(like)
    names = {name: _renamed(name, modules) for name in shapes}
    faults = _misfits(tensors, names, shapes)
    if not part.score:
        begins = ", ".join(dict.fromkeys(f"'{naming(arch)['stem.conv']}.weight'" for naming in (_ours, *namings)))
        faults = [f"it begins with '{next(iter(tensors))}', expected one of {begins}"]
    if faults:
        own = _share(path, dicts, arch, namings)
        raise FnaError(f"{path} is of another network: {'; '.join(faults)}; {_nearest(path, dicts, own, seeds)}")
    notes = [*part.notes(), *([f"left out: its classifier, {left_out}, which no task needs"] if left_out else [])]
    if notes:
        say(f"{path}: {'; '.join(notes)}")
    return like, {n: _checked(tensors, theirs, shapes[n], path) for n, theirs in names.items()}, str(part)


def read_super(path: Path, arch: SuperArch) -> dict[str, Tensor]:
    """Read the weights of a whole super network, such as ``super.safetensors`` after a training elsewhere.

    Args:
        path: see `read_weights`; the tensors have our names.
        arch: the search space.

    Raises:
        FnaError: tensors are missing, of the wrong shape or kind, or not finite.
    """
    shapes = backbone_shapes(arch)
    tensors = pick_part(path, read_dicts(path), shapes).tensors
    own = {name: tensor for name, tensor in tensors.items() if name in shapes}
    if faults := _misfits(own, {name: name for name in shapes}, shapes):
        raise FnaError(f"{path} is of another super network: {'; '.join(faults)}; expected that of fna expand")
    return {name: _checked(own, name, shape, path) for name, shape in shapes.items()}


def _ours(arch: Arch) -> dict[str, str]:
    """Name the modules as we do."""
    tensors = backbone_shapes(arch) | tail_shapes(arch)
    return {module: module for module in dict.fromkeys(tensor.rpartition(".")[0] for tensor in tensors)}


def _best_part(
    path: Path, dicts: Mapping[Keys, Mapping[str, Tensor]], arch: Arch, namings: Iterable[Naming]
) -> tuple[Part, dict[str, str]]:
    """Return the tensors of a file that share most with a network, and the modules' names that they come under."""
    full = replace(arch, head_channels=arch.head_channels or 1, num_classes=arch.num_classes or 1)
    shapes = backbone_shapes(full) | tail_shapes(full)
    known = [naming(full) for naming in (_ours, *namings)]
    parts = [
        pick_part(path, dicts, {_renamed(name, modules): shape for name, shape in shapes.items()}) for modules in known
    ]
    return max(zip(parts, known, strict=True), key=lambda pair: pair[0].score)


def _with_top_of(
    tensors: Mapping[str, Tensor], arch: Arch, modules: Mapping[str, str]
) -> tuple[Arch, Mapping[str, Tensor], str]:
    """Give `arch` the head and the classifier that the tensors have; either may be absent.

    Returns:
        The architecture: a width of the head that it states stays, so that another is refused. The tensors without a
        classifier that does not fit, and that in words.
    """
    head = tensors.get(f"{modules['head.conv']}.weight")
    arch = replace(arch, head_channels=0 if head is None else arch.head_channels or _length(head))
    inside = f"{modules['classifier'].partition('.')[0]}."
    top = {name: tensor for name, tensor in tensors.items() if name.startswith(inside)}
    weight = top.get(f"{modules['classifier']}.weight")
    classes = arch.num_classes or (0 if weight is None else _length(weight))
    fitting = replace(arch, num_classes=classes)
    expected = {_renamed(n, modules): s for n, s in tail_shapes(fitting).items() if n.startswith("classifier.")}
    if classes and {name: tuple(tensor.shape) for name, tensor in top.items()} == expected:
        return fitting, tensors, ""
    others = {name: tensor for name, tensor in tensors.items() if name not in top}
    shown = next((f"'{name}' of {tuple(tensor.shape)}" for name, tensor in top.items()), "")
    return replace(arch, num_classes=0), others, shown


def _length(tensor: Tensor) -> int:
    return tensor.shape[0] if tensor.ndim else 1


def _renamed(name: str, modules: Mapping[str, str]) -> str:
    """Return a tensor's name with that of its module replaced."""
    module, _, tail = name.rpartition(".")
    return f"{modules[module]}.{tail}"


def _misfits(tensors: Mapping[str, Tensor], names: Mapping[str, str], shapes: Mapping[str, Shape]) -> list[str]:
    """Say which tensors are missing, left over or of another shape."""
    missing = [n for n in names.values() if n not in tensors and not n.endswith(COUNTER)]
    extra = sorted(tensors.keys() - names.values())
    faults = [f"it is {what} {_some(which)}" for what, which in (("without", missing), ("with", extra)) if which]
    there = [(name, theirs) for name, theirs in names.items() if theirs in tensors]
    misshapen = [(n, t) for n, t in there if tuple(tensors[t].shape) != shapes[n]]
    faults += [f"'{t}' has shape {tuple(tensors[t].shape)}, expected {shapes[n]}" for n, t in misshapen[:1]]
    return faults


class Share(NamedTuple):
    """How much a file has of a network: tensors that fit by name and shape, tensors of the network, of either."""

    fitting: int
    tensors: int
    either: int


def _share(path: Path, dicts: Mapping[Keys, Mapping[str, Tensor]], arch: Arch, namings: Iterable[Naming]) -> Share:
    """Compare the tensors of a file with a network's; counters, which fit anything, do not count."""
    part, modules = _best_part(path, dicts, arch, namings)
    shapes = backbone_shapes(arch) | tail_shapes(arch)
    theirs = {_renamed(name, modules): shape for name, shape in shapes.items() if not name.endswith(COUNTER)}
    own = {name: tuple(tensor.shape) for name, tensor in part.tensors.items() if not name.endswith(COUNTER)}
    return Share(len(own.items() & theirs.items()), len(theirs), len(own.keys() | theirs.keys()))


def _nearest(path: Path, dicts: Mapping[Keys, Mapping[str, Tensor]], own: Share, seeds: Mapping[str, Variant]) -> str:
    """Say how much of a file fits, and which seed it fits better."""
    said = f"{own.fitting} of the network's {own.tensors} tensors fit by name and shape"
    shares = {name: _share(path, dicts, seed.arch, seed.namings) for name, seed in seeds.items()}
    best, share = max(shares.items(), key=lambda pair: pair[1].fitting / pair[1].either)
    if share.fitting / share.either <= own.fitting / own.either:
        return f"{said}, and of no other seed more" if own.fitting else f"{said}, and none of any other seed"
    nearest = f"the nearest seed is '{best}', of whose {share.tensors} tensors fit {share.fitting}"
    return f"{said}; {nearest}: --seed.name {best}"


def _checked(tensors: Mapping[str, Tensor], name: str, shape: Shape, path: Path) -> Tensor:
    """Return a float32 (int64) copy of the tensor `name`, or say what is wrong with it; a missing counter is 0."""
    import torch

    floats, integers = (torch.float16, torch.bfloat16, torch.float32, torch.float64), (torch.int32, torch.int64)
    known, expected = (integers, torch.int64) if name.endswith(COUNTER) else (floats, torch.float32)
    if name not in tensors:
        return torch.tensor(0)
    tensor = tensors[name]
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
