"""What remapping sees of a network: its stem and blocks as named tensors with the channels behind their axes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from fna.arch import Arch, Block, SuperArch
from fna.errors import FnaError, nearest
from fna.nets.blocks import AXES, Axes, ConvNormAct, parts
from fna.nets.network import build_stem

Depth = Callable[[Sequence[Block], int, Block], int | None]


@dataclass(frozen=True)
class Unit:
    """A block, or the stem.

    Args:
        name: what its tensors' names begin with: ``stem``, ``stages.2.1`` or, in a super network, ``stages.2.1.k5e6``.
        axes: channel axes by part, a row of `blocks.AXES`.
        channels: by axis.
        shapes: by tensor, named inside the unit.
        norm_eps: epsilon of its batch norms.
    """

    name: str
    axes: Mapping[str, Axes]
    channels: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]]
    norm_eps: float

    def axes_of(self, tensor: str) -> tuple[str | None, str | None]:
        """Return the channel axes of a tensor's first two axes; None where there is none."""
        axes = (*self.axes[tensor.partition(".")[0]], None)
        return (axes[0] if self.shapes[tensor] else None), axes[1]

    def groups(self, tensor: str) -> int:
        """Return the groups of a tensor's input channels; 1 where these are no channel axis of the block."""
        axis = self.axes_of(tensor)[1]
        return self.channels[axis] // self.shapes[tensor][1] if axis else 1


def stem_unit(arch: Arch | SuperArch) -> Unit:
    """Return the stem of `arch`."""
    arch = arch.seed if isinstance(arch, SuperArch) else arch
    with torch.device("meta"):
        shapes = {tensor: tuple(value.shape) for tensor, value in build_stem(arch).state_dict().items()}
    channels = {"in": shapes["conv.weight"][1], "out": arch.stem.out_channels}
    return Unit("stem", {"conv": ("out", "in"), "norm": ("out",)}, channels, shapes, arch.norm_eps)


def block_units(arch: Arch | SuperArch) -> Iterator[tuple[int, int, Block, Unit]]:
    """Yield (stage, layer, block, unit) for every block but skips; of a super network, for every candidate."""
    norm_eps = (arch.seed if isinstance(arch, SuperArch) else arch).norm_eps
    for (s, n), layer in arch.layers():
        for block in (layer,) if isinstance(layer, Block) else layer:
            if block.kind == "skip":
                continue
            name = f"stages.{s}.{n}" if isinstance(layer, Block) else f"stages.{s}.{n}.{block.label}"
            sizes = {"in": block.in_channels, "out": block.out_channels}
            axes = {axis for part in AXES[block.kind].values() for axis in part if axis}
            channels = {axis: sizes.get(axis, block.hidden_channels) for axis in sorted(axes)}
            yield s, n, block, Unit(name, AXES[block.kind], channels, _shapes(block), norm_eps)


_shapes = lru_cache(maxsize=4096)(parts)  # building a block to read its shapes takes most of a small remapping's time


def pairs(src: Arch | SuperArch, dst: Arch | SuperArch, depth: Depth) -> Iterator[tuple[Unit | None, Unit, list[str]]]:
    """Yield (source, destination, rules that chose the source) for the stem and every block of `dst`.

    The source is None for a layer that is new.

    Args:
        src: whose blocks are taken; of a super network each layer takes the candidate of its own label.
        dst: whose blocks are filled.
        depth: the depth rule.

    Raises:
        FnaError: a layer has nothing to take.
    """
    yield stem_unit(src), stem_unit(dst), [] if isinstance(src, Arch) else ["collect"]
    units = {(s, n, block): unit for s, n, block, unit in block_units(src)}
    for s, n, block, unit in block_units(dst):
        if isinstance(src, Arch):
            layer, origin = _by_depth(src, s, n, block, depth)
            yield None if layer is None else units[s, layer, src.stages[s][layer]], unit, origin
            continue
        candidates = src.stages[s][n] if n < len(src.stages[s]) else ()
        chosen = next((units[s, n, b] for b in candidates if b.label == block.label), None)
        if chosen is None or chosen.shapes != unit.shapes:
            known = ", ".join(b.label for b in candidates) or "no such layer"
            raise FnaError(
                f"layer {s}.{n}: '{block.label}' ({block.kind}, {block.in_channels} to {block.out_channels} channels)"
                f" is not in the source super network (candidates: {known}); take one of them, or remap from the seed"
            )
        yield chosen, unit, ["collect"]


def _by_depth(src: Arch, s: int, n: int, block: Block, depth: Depth) -> tuple[int | None, list[str]]:
    """Return the layer of stage `s` of a plain source that `block`, layer `n`, takes, and the rules that chose it."""
    layer = depth(src.stages[s], n, block)
    if layer is None:
        return None, []
    if layer < 0:
        raise FnaError(
            f"layer {s}.{n} has nothing to take: stage {s} of the source begins with a skip; give it a block"
        )
    chosen = src.stages[s][layer]
    if chosen.kind != block.kind:
        raise FnaError(f"layer {s}.{n} is a '{block.kind}' block, the source's a '{chosen.kind}'; give both one kind")
    first = 0 == layer < n and (chosen.in_channels, chosen.stride) != (block.in_channels, block.stride)
    # The first block of a stage reads another input: copied to a later layer, its channels follow the width rule.
    return layer, ["depth last"] * (layer != n) + ["first block"] * first


def tail_shapes(arch: Arch) -> dict[str, tuple[int, ...]]:
    """Return the shapes of what follows the stages in a classifier: head convolution and linear layer."""
    shapes: dict[str, tuple[int, ...]] = {}
    if arch.head_channels:
        with torch.device("meta"):
            head = ConvNormAct(arch.out_channels, arch.head_channels, 1, 1, "relu", arch.norm_eps, arch.padding)
        shapes = {f"head.{tensor}": tuple(value.shape) for tensor, value in head.state_dict().items()}
    if arch.num_classes:
        shapes["classifier.weight"] = (arch.num_classes, arch.head_channels or arch.out_channels)
        shapes["classifier.bias"] = (arch.num_classes,)
    return shapes


def check_state(arch: Arch | SuperArch, state: Mapping[str, Tensor]) -> None:
    """Raise an `FnaError` unless `state` holds just the backbone weights of `arch`, and maybe a tail."""
    units = [stem_unit(arch), *(unit for _, _, _, unit in block_units(arch))]
    shapes = {f"{unit.name}.{tensor}": shape for unit in units for tensor, shape in unit.shapes.items()}
    check_tensors(state, shapes, "give the state dict of the source architecture")
    for name in state:
        if name not in shapes and not name.startswith(("head.", "classifier.")):
            raise FnaError(
                f"the source weights hold '{name}', which the source architecture has not{nearest(name, shapes)}; give "
                "the state dict of the source architecture"
            )


def check_tensors(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], advice: str) -> None:
    """Raise an `FnaError`, which ends with `advice`, unless `state` has a tensor of each of `shapes`."""
    for name, shape in shapes.items():
        if name not in state:
            raise FnaError(f"the source weights lack '{name}', of shape {shape}{nearest(name, state)}; {advice}")
        if tuple(state[name].shape) != shape:
            raise FnaError(f"source weight '{name}' has shape {tuple(state[name].shape)}, expected {shape}; {advice}")
