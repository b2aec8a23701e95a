"""Parameter remapping: hand the weights of one network to another of other depth, width, kernels or groups.

Remapping is a pure function of two architectures and a state dict (FNA++ section 3.1). Each rule answers one question:
*which source element does each destination element take?* The answer is an index, -1 where there is none, and one index
per named channel axis (`blocks.AXES`) serves every tensor that has the axis, norms and statistics included. What takes
nothing is new and follows the growth rule. To add a rule, write one function and name it in a table at the foot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from fna.arch import Arch, Block, SuperArch
from fna.blocks import AXES, Axes, ConvNormAct, parts
from fna.errors import FnaError, nearest, pick
from fna.network import build_stem
from fna.rng import generator


@dataclass(frozen=True)
class Strategy:
    """The rules of a remapping: at each level a name in its table, `DEPTH`, `WIDTH`, `KERNEL` and `GROWTH`."""

    depth: str = "last"
    width: str = "first"
    kernel: str = "centre"
    growth: str = "preserve"

    def __post_init__(self) -> None:
        for table, name, what in (
            (DEPTH, self.depth, "depth strategy"),
            (WIDTH, self.width, "width strategy"),
            (KERNEL, self.kernel, "kernel strategy"),
            (GROWTH, self.growth, "growth strategy"),
        ):
            pick(table, name, what)


@dataclass(frozen=True)
class Row:
    """Where one destination tensor comes from.

    Args:
        tensor: its name.
        source: the source tensor's name; None if it has none.
        rule: the rules used, joined by ", "; ``copy`` if none was needed, ``collect`` from a super network.
        copied: elements taken from the source.
        new: all other elements.
        dropped: elements of the source tensor left behind.
    """

    tensor: str
    source: str | None
    rule: str
    copied: int
    new: int
    dropped: int


@dataclass(frozen=True)
class Remapped:
    """The destination's weights, which share no memory with the source's, and a row for each tensor."""

    state: dict[str, Tensor]
    report: list[Row]


def remap(
    src: Arch | SuperArch,
    src_state: Mapping[str, Tensor],
    dst: Arch | SuperArch,
    strategy: Strategy | None = None,
    rng_seed: int = 0,
) -> Remapped:
    """Return weights for `dst` made from the weights of `src`.

    From an `Arch` every layer follows the strategy. From a `SuperArch` every layer takes the operation of its own label
    at its own position, whole (FNA++ section 5.1). Strides and dilations do not matter. The tail (``head.*``,
    ``classifier.*``) is copied if `src_state` holds one and `dst` is an `Arch` that has one.

    Args:
        src: the architecture of the source weights.
        src_state: all of its weights and no others; a tail may be there.
        dst: the architecture that wants weights.
        strategy: the rules; None is `Strategy()`.
        rng_seed: seed of the fresh values; each depends on it and on its tensor's name, nothing else.

    Raises:
        FnaError: `src_state` does not fit `src`, or `dst` cannot be reached from `src`.
    """
    strategy = strategy or Strategy()
    _check_state(src, src_state)
    if len(src.stages) != len(dst.stages):
        raise FnaError(
            f"the source has {len(src.stages)} stages, the destination {len(dst.stages)}: weights move stage by stage; "
            "give a destination with the stages of the source"
        )
    state: dict[str, Tensor] = {}
    report: list[Row] = []
    for source, unit, origin in _pairs(src, dst, strategy):
        weights = {tensor: src_state[f"{source.name}.{tensor}"].detach() for tensor in source.shapes}
        for row, value in _map_unit(source, weights, unit, origin, strategy, rng_seed):
            assert row.tensor not in state, f"{row.tensor} is written twice"
            state[row.tensor] = value
            report.append(row)
    tail = _tail(dst) if isinstance(dst, Arch) else {}
    if tail.keys() & src_state.keys():
        _check_tensors(src_state, tail, "or set head_channels and num_classes of the destination to 0")
        for name in tail:
            state[name] = src_state[name].detach().clone()
            report.append(Row(name, name, "copy", state[name].numel(), 0, 0))
    return Remapped(state, report)


def summarise(report: Sequence[Row]) -> dict[str, Any]:
    """Return what a remapping did, ready for JSON.

    `copied` and `new` are shares of the destination's elements, `dropped` of those of the source tensors read. `rules`
    says of each rule in how many layers it was used, and where: "stage.layer", "stem", "head" or "classifier".
    """
    copied, new, dropped = (sum(getattr(row, count) for row in report) for count in ("copied", "new", "dropped"))
    rules: dict[str, dict[str, None]] = {}  # layers in order, each once
    for row in report:
        place = row.tensor.split(".")
        layer = ".".join(place[1:3]) if place[0] == "stages" else place[0]
        for rule in row.rule.split(", "):
            rules.setdefault(rule, {})[layer] = None
    return {
        "copied": copied / (copied + new),
        "new": new / (copied + new),
        "dropped": dropped / max(copied + dropped, 1),
        "rules": {rule: {"layers": len(layers), "where": ", ".join(layers)} for rule, layers in rules.items()},
    }


# --- the rules ------------------------------------------------------------------------------------------------------


def map_depth(stage: Sequence[Block], layer: int) -> int:
    """Return the source layer for a destination layer: its own while there is one, then the last; -1 for none.

    Layers keep their position for life: where the source skips, the last block before stands in.

    Args:
        stage: the source's blocks.
        layer: position in the destination's stage, from 0.

    Implements: FNA++ Eq. (1).
    """
    return max((n for n, block in enumerate(stage[: layer + 1]) if block.kind != "skip"), default=-1)


def map_width(channels: int, wanted: int, tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the source channel of each of `wanted` channels: the first ones in order, -1 for the new.

    >>> map_width(2, 4, {}), map_width(4, 2, {})
    (tensor([ 0,  1, -1, -1]), tensor([0, 1]))

    Args:
        channels: channels of the source.
        wanted: channels of the destination.
        tensors: the source tensors whose first axis these channels are, for rules that rank them.

    Implements: FNA++ Eq. (2), (3).
    """
    index = torch.arange(wanted)
    return index.masked_fill_(index >= channels, -1)


def map_groups(weight_OIHW: Tensor, groups: int) -> Tensor:
    """Return the grouped convolution inside a plain one: each output channel keeps the inputs of its own group.

    The article's i counts from 0 here, as its floor needs.

    Args:
        weight_OIHW: a plain convolution.
        groups: a divisor of O and I.

    Returns:
        The grouped convolution, (O, I / groups, k, k).

    Implements: FNA++ Eq. (4).
    """
    rows, columns = (size // groups for size in weight_OIHW.shape[:2])
    return torch.cat([weight_OIHW[g * rows : (g + 1) * rows, g * columns : (g + 1) * columns] for g in range(groups)])


def map_kernel(kernel: int, wanted: int) -> Tensor:
    """Return the source tap of each of `wanted` taps along a side, the centres on each other, -1 for the new.

    >>> map_kernel(3, 5), map_kernel(5, 3)
    (tensor([-1,  0,  1,  2, -1]), tensor([1, 2, 3]))

    Args:
        kernel: side of the source's kernel.
        wanted: side of the destination's kernel.

    Implements: FNA++ Eq. (5), (6).
    """
    index = torch.arange(wanted) + (kernel - wanted) // 2
    return index.masked_fill_((index < 0) | (index >= kernel), -1)


def grow_preserve(tensor: str, shape: tuple[int, ...], fan_out: int, generator: torch.Generator) -> Tensor:
    """Return fresh values for new output channels. What reads them is 0: the function stays, and all of it can learn.

    Deviation: the article sets both sides to 0, and then neither ever gets a gradient (`grow_zero`).

    Args:
        tensor: name inside the block, e.g. ``expand.weight``.
        shape: the new channels' share of the tensor: (new, I, k, k) of a convolution, (new,) of a norm.
        fan_out: connections that leave an input channel; convolutions are He normal, of variance 2 / fan_out.
        generator: the source of chance.
    """
    if len(shape) == 4:
        return torch.randn(shape, generator=generator) * math.sqrt(2 / fan_out)
    return torch.full(shape, float(tensor.endswith(("weight", "running_var"))))


def grow_zero(tensor: str, shape: tuple[int, ...], fan_out: int, generator: torch.Generator) -> Tensor:
    """Return 0 for new output channels, as the article says. The arguments are those of `grow_preserve`.

    The running variance is 1: that of a norm that has seen nothing.
    """
    return torch.full(shape, float(tensor.endswith("running_var")))


# --- one block ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Unit:
    """A block, or the stem, as remapping sees it: its tensors, and the channels behind their axes."""

    name: str  # "stem", "stages.2.1" or, in a super network, "stages.2.1.k5e6"
    axes: Mapping[str, Axes]
    channels: Mapping[str, int]  # by axis
    shapes: Mapping[str, tuple[int, ...]]  # by tensor
    norm_eps: float

    def axes_of(self, tensor: str) -> tuple[str | None, str | None]:
        """Return the channel axes of a tensor's first two axes; None where there is none."""
        axes = (*self.axes[tensor.partition(".")[0]], None)
        return (axes[0] if self.shapes[tensor] else None), axes[1]

    def groups(self, tensor: str) -> int:
        """Return the groups of a tensor's input channels; 1 where these are no channel axis of the block."""
        axis = self.axes_of(tensor)[1]
        return self.channels[axis] // self.shapes[tensor][1] if axis else 1


def _map_unit(
    source: _Unit, weights: dict[str, Tensor], unit: _Unit, origin: list[str], strategy: Strategy, rng_seed: int
) -> Iterator[tuple[Row, Tensor]]:
    """Yield every tensor of `unit` with its row; `origin` are the rules that chose `source`."""
    index = {}
    for axis, wanted in unit.channels.items():
        # "in" and "out" are shared with the neighbours, so their channels keep their order under every strategy.
        select = WIDTH[strategy.width] if axis.startswith("hidden") and wanted != source.channels[axis] else map_width
        ranked = {tensor: value for tensor, value in weights.items() if source.axes_of(tensor)[0] == axis}
        index[axis] = select(source.channels[axis], wanted, ranked)
    dropped = {_module(tensor) for tensor in source.shapes} - {_module(tensor) for tensor in unit.shapes}
    origin = origin + [f"{part} dropped" for part in sorted(dropped)]
    for tensor, shape in unit.shapes.items():
        name, known = f"{unit.name}.{tensor}", tensor in weights
        value = weights[tensor] if known else _identity(tensor, source, unit, like=next(iter(weights.values())))
        mapped, copied, rules = _map_tensor(tensor, value, source, unit, index, strategy)
        outputs, inputs = unit.axes_of(tensor)
        if outputs and (new := index[outputs] < 0).any():
            fan_out = mapped.numel() // unit.channels[inputs or outputs]
            channels = (int(new.sum()), *shape[1:])
            mapped[new] = GROWTH[strategy.growth](tensor, channels, fan_out, generator(rng_seed, name)).to(mapped)
        if known:
            rule = ", ".join(origin + rules) or "copy"
            row = Row(name, f"{source.name}.{tensor}", rule, copied, mapped.numel() - copied, value.numel() - copied)
        else:
            row = Row(name, None, ", ".join([*origin, f"identity {_module(tensor)}", *rules]), 0, mapped.numel(), 0)
        yield row, mapped


def _map_tensor(
    tensor: str, value: Tensor, source: _Unit, unit: _Unit, index: Mapping[str, Tensor], strategy: Strategy
) -> tuple[Tensor, int, list[str]]:
    """Return `value` in the shape that `unit` wants, 0 where it has nothing; the elements copied; the rules used."""
    shape, axes = unit.shapes[tensor], unit.axes_of(tensor)
    resized = [axis for axis in axes if axis and source.channels[axis] != unit.channels[axis]]
    if not resized and value.shape == shape:
        return value.clone(memory_format=torch.contiguous_format), value.numel(), []
    places = [index[axis] if axis else None for axis in axes]
    taps = KERNEL[strategy.kernel](value.shape[-1], shape[-1]) if len(shape) == 4 else None
    groups = (source.groups(tensor) if tensor in source.shapes else 1, unit.groups(tensor))
    move = partial(_move, places=places, taps=taps, groups=groups)
    rules = [f"width {strategy.width}"] if resized else []
    rules += [f"groups {groups[0]} to {groups[1]}"] if groups[0] != groups[1] else []
    rules += [f"kernel {strategy.kernel}"] if value.shape[2:] != shape[2:] else []
    rules += [f"growth {strategy.growth}"] if any(bool((index[axis] < 0).any()) for axis in resized) else []
    return move(value), int(move(torch.ones_like(value, dtype=torch.bool)).count_nonzero()), rules


def _move(value: Tensor, places: Sequence[Tensor | None], taps: Tensor | None, groups: tuple[int, int]) -> Tensor:
    """Take channels, groups and taps of one tensor; of a tensor of ones the result says what was taken."""
    if groups[0] > 1:  # a grouped convolution is a plain one with 0 between the groups
        rows, columns = value.shape[0] // groups[0], value.shape[1]
        plain = value.new_zeros(value.shape[0], columns * groups[0], *value.shape[2:])
        for g in range(groups[0]):
            plain[g * rows : (g + 1) * rows, g * columns : (g + 1) * columns] = value[g * rows : (g + 1) * rows]
        value = plain
    for axis, place in enumerate(places):
        value = _take(value, axis, place)
    if groups[1] > 1:
        value = map_groups(value, groups[1])
    return _take(_take(value, 2, taps), 3, taps)


def _take(value: Tensor, axis: int, index: Tensor | None) -> Tensor:
    """Return the tensor whose element i along `axis` is element ``index[i]`` of `value`, or 0 where that is -1."""
    if index is None or torch.equal(index, torch.arange(value.shape[axis])):
        return value
    shape = list(value.shape)
    shape[axis] = len(index)
    kept = (index >= 0).nonzero()[:, 0]
    taken = value.index_select(axis, index[kept].to(value.device))
    return taken if len(kept) == len(index) else value.new_zeros(shape).index_copy_(axis, kept.to(value.device), taken)


def _identity(tensor: str, source: _Unit, unit: _Unit, like: Tensor) -> Tensor:
    """Return a tensor of the pointwise convolution and norm that a source without them computes: the identity.

    An expansion-1 block has no `expand`, a ResNet block of one shape no `shortcut`. The activation after an identity
    `expand` still acts, so the function stays where the block's input lies in its linear range (relu6: 0 to 6).
    """
    channels = source.channels["in"]
    part, _, name = tensor.partition(".")
    if name == "num_batches_tracked":
        return torch.zeros((), dtype=torch.long, device=like.device)
    if not part.endswith("_norm"):
        return torch.eye(channels, dtype=like.dtype, device=like.device)[:, :, None, None]
    fill = {"weight": math.sqrt(1 + unit.norm_eps), "running_var": 1.0}.get(name, 0.0)
    return like.new_full((channels,), fill)


def _module(tensor: str) -> str:
    return tensor.partition(".")[0].removesuffix("_norm")


# --- which block takes which, and checks ----------------------------------------------------------------------------


_Pair = tuple[_Unit, _Unit, list[str]]


def _pairs(src: Arch | SuperArch, dst: Arch | SuperArch, strategy: Strategy) -> Iterator[_Pair]:
    """Yield (source, destination, rules that chose the source) for the stem and every block of `dst`."""
    yield _stem(src), _stem(dst), [] if isinstance(src, Arch) else ["collect"]
    units = {(s, n, block): unit for s, n, block, unit in _units(src)}
    for s, n, block, unit in _units(dst):
        if isinstance(src, Arch):
            layer, origin = _by_depth(src, s, n, block, strategy)
            yield units[s, layer, src.stages[s][layer]], unit, origin
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


def _by_depth(src: Arch, s: int, n: int, block: Block, strategy: Strategy) -> tuple[int, list[str]]:
    """Return the layer of stage `s` of a plain source that `block`, layer `n`, takes, and the rules that chose it."""
    layer = DEPTH[strategy.depth](src.stages[s], n)
    if layer < 0:
        raise FnaError(
            f"layer {s}.{n} has nothing to take: stage {s} of the source begins with a skip; give it a block"
        )
    chosen = src.stages[s][layer]
    if chosen.kind != block.kind:
        raise FnaError(f"layer {s}.{n} is a '{block.kind}' block, the source's a '{chosen.kind}'; give both one kind")
    first = 0 == layer < n and (chosen.in_channels, chosen.stride) != (block.in_channels, block.stride)
    # The first block of a stage reads another input: copied to a later layer, its channels follow the width rule.
    return layer, [f"depth {strategy.depth}"] * (layer != n) + ["first block"] * first


def _stem(arch: Arch | SuperArch) -> _Unit:
    """Return the stem of `arch`."""
    arch = arch.seed if isinstance(arch, SuperArch) else arch
    with torch.device("meta"):
        shapes = {tensor: tuple(value.shape) for tensor, value in build_stem(arch).state_dict().items()}
    channels = {"in": shapes["conv.weight"][1], "out": arch.stem.out_channels}
    return _Unit("stem", {"conv": ("out", "in"), "norm": ("out",)}, channels, shapes, arch.norm_eps)


def _units(arch: Arch | SuperArch) -> Iterator[tuple[int, int, Block, _Unit]]:
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
            yield s, n, block, _Unit(name, AXES[block.kind], channels, _shapes(block), norm_eps)


_shapes = lru_cache(maxsize=4096)(parts)  # building a block to read its shapes takes most of a small remapping's time


def _tail(arch: Arch) -> dict[str, tuple[int, ...]]:
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


def _check_state(arch: Arch | SuperArch, state: Mapping[str, Tensor]) -> None:
    """Raise an `FnaError` unless `state` holds just the backbone weights of `arch`, and maybe a tail."""
    units = [_stem(arch), *(unit for _, _, _, unit in _units(arch))]
    shapes = {f"{unit.name}.{tensor}": shape for unit in units for tensor, shape in unit.shapes.items()}
    _check_tensors(state, shapes, "give the state dict of the source architecture")
    for name in state:
        if name not in shapes and not name.startswith(("head.", "classifier.")):
            raise FnaError(
                f"the source weights hold '{name}', which the source architecture has not{nearest(name, shapes)}; give "
                "the state dict of the source architecture"
            )


def _check_tensors(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], advice: str) -> None:
    for name, shape in shapes.items():
        if name not in state:
            raise FnaError(f"the source weights lack '{name}', of shape {shape}{nearest(name, state)}; {advice}")
        if tuple(state[name].shape) != shape:
            raise FnaError(f"source weight '{name}' has shape {tuple(state[name].shape)}, expected {shape}; {advice}")


# --- tables ---------------------------------------------------------------------------------------------------------

DEPTH: dict[str, Callable[[Sequence[Block], int], int]] = {"last": map_depth}
WIDTH: dict[str, Callable[[int, int, Mapping[str, Tensor]], Tensor]] = {"first": map_width}
KERNEL: dict[str, Callable[[int, int], Tensor]] = {"centre": map_kernel}
GROWTH: dict[str, Callable[[str, tuple[int, ...], int, torch.Generator], Tensor]] = {
    "preserve": grow_preserve,
    "zero": grow_zero,
}
