"""Carry out a remapping of one block: apply what the rules of `fna.remap` answer to its tensors; account for them.

A rule answers with an index. One index per channel axis serves every tensor that has the axis: rows of the tensors that
write these channels, columns of those that read them. A channel taken r times is divided by r where it is read, so that
the sum over channels stays. What has no source is new: 0, plus what the growth rule adds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from fna.arch.weights import COUNTER, Unit
from fna.rng import generator

Role = Literal["new", "read", "copy"]
Width = Callable[[int, int, Mapping[str, Tensor], torch.Generator], Tensor]
Kernel = Callable[[int, int], Tensor]
Growth = Callable[[str, tuple[int, ...], int, torch.Generator, Role], Tensor | None]


@dataclass(frozen=True)
class Rules:
    """The functions that answer, and the names of those that were chosen, by level.

    Args:
        order: the width rule of axes whose channels keep their order.
        width: the width rule of the others.
        groups: makes a grouped convolution of a plain one.
        kernel: the kernel rule.
        growth: the growth rule.
        names: of the rules at the levels "depth", "width", "kernel" and "growth".
    """

    order: Width
    width: Width
    groups: Callable[[Tensor, int], Tensor]
    kernel: Kernel
    growth: Growth
    names: Mapping[str, str]


@dataclass(frozen=True)
class Row:
    """Where one destination tensor comes from; `dataclasses.asdict` makes it a row of CSV or JSON.

    Args:
        tensor: its name.
        source: the source tensor's name; None if it has none.
        rule: the rules used, joined by ", "; ``copy`` if none was needed, ``collect`` from a super network.
        copied: elements taken from the source.
        new: all other elements.
        dropped: elements of the source tensor left behind.
        repeated: of the copied elements, those whose source had been taken before (Net2Net).
    """

    tensor: str
    source: str | None
    rule: str
    copied: int
    new: int
    dropped: int
    repeated: int = 0

    @property
    def shares(self) -> dict[str, float]:
        """Copied and new elements as shares of the tensor, dropped ones as a share of the source tensor."""
        size, source = self.copied + self.new, self.copied - self.repeated + self.dropped
        return {"copied": self.copied / size, "new": self.new / size, "dropped": self.dropped / max(source, 1)}


@dataclass(frozen=True)
class _Axis:
    """The channels of an axis that changes its size: source channels (-1: none), which are repeats, the rule's name."""

    index: Tensor
    repeats: Tensor
    rule: str


def map_unit(
    source: Unit, weights: Mapping[str, Tensor], unit: Unit, origin: Sequence[str], rules: Rules, rng_seed: int
) -> Iterator[tuple[Row, Tensor]]:
    """Yield every tensor of `unit` with its row.

    Args:
        source: the block to take from.
        weights: its tensors, named inside the block.
        unit: the block to fill.
        origin: the rules that chose `source`.
        rules: the rules inside the block.
        rng_seed: seed of new values and of draws.
    """
    axes = _map_axes(source, weights, unit, rules, rng_seed)
    dropped = {weight.part for weight in source.weights.values()} - {weight.part for weight in unit.weights.values()}
    origin = [*origin, *(f"{part} dropped" for part in sorted(dropped))]
    for tensor, wanted in unit.weights.items():
        name, known = f"{unit.name}.{tensor}", tensor in weights
        value = weights[tensor] if known else _identity(tensor, source, unit, like=next(iter(weights.values())))
        mapped, copied, taken, used = _map_tensor(tensor, value, source, unit, axes, rules)
        if used and _grow(mapped, tensor, unit, axes, rules.growth, rng_seed):
            used.append(f"growth {rules.names['growth']}")
        if known:
            rule = ", ".join([*origin, *used]) or "copy"
            counts = (copied, mapped.numel() - copied, value.numel() - taken, copied - taken)
            yield Row(name, f"{source.name}.{tensor}", rule, *counts), mapped
        else:
            rule = ", ".join([*origin, f"identity {wanted.part}", *used])
            yield Row(name, None, rule, 0, mapped.numel(), 0), mapped


def new_unit(unit: Unit, like: Tensor, rules: Rules, rng_seed: int) -> Iterator[tuple[Row, Tensor]]:
    """Yield every tensor, with its row, of a block with a residual that begins as the identity.

    All of it follows the growth rule; the scale of its last norm does so as a reader of new channels, so that it is 0.

    Args:
        unit: the block to fill.
        like: a tensor of the wanted device and type.
        rules: growth is used.
        rng_seed: seed of new values.
    """
    rule = f"depth {rules.names['depth']}, growth {rules.names['growth']}"
    last = [tensor for tensor, w in unit.weights.items() if len(w.shape) == 1 and tensor.endswith(".weight")][-1]
    for tensor, weight in unit.weights.items():
        name, shape = f"{unit.name}.{tensor}", weight.shape
        value = torch.zeros(shape, dtype=like.dtype if shape else torch.long, device=like.device)
        if shape:
            role: Role = "read" if tensor == last else "new"
            added = rules.growth(tensor, shape, _fan_out(value, tensor, unit), generator(rng_seed, name), role)
            value = value if added is None else value + added.to(value)
        yield Row(name, None, rule, 0, value.numel(), 0), value


def summarise(report: Sequence[Row]) -> dict[str, Any]:
    """Return what a remapping did, ready for JSON.

    `copied` and `new` are shares of the destination's elements, `dropped` of those of the source tensors read. `rules`
    says of each rule in how many layers it was used, and where: "stage.layer", "stem", "head" or "classifier".
    """
    counts = ("copied", "new", "dropped", "repeated")
    total = Row("", None, "", *(sum(getattr(row, count) for row in report) for count in counts))
    rules: dict[str, dict[str, None]] = {}  # layers in order, each once
    for row in report:
        place = row.tensor.split(".")
        layer = ".".join(place[1:3]) if place[0] == "stages" else place[0]
        for rule in row.rule.split(", "):
            rules.setdefault(rule, {})[layer] = None
    layers = {rule: {"layers": len(where), "where": ", ".join(where)} for rule, where in rules.items()}
    return {**total.shares, "rules": layers}


def _map_axes(source: Unit, weights: Mapping[str, Tensor], unit: Unit, rules: Rules, rng_seed: int) -> dict[str, _Axis]:
    """Return the channels of every axis whose size changes."""
    free = _free(source, unit)
    axes = {}
    for axis, wanted in unit.channels.items():
        channels = source.channels[axis]
        if wanted == channels:
            continue
        writers = {tensor: value for tensor, value in weights.items() if source.weights[tensor].axes[0] == axis}
        rule, name = (rules.width, rules.names["width"]) if axis in free else (rules.order, "first")
        index = rule(channels, wanted, writers, generator(rng_seed, unit.name, axis))
        axes[axis] = _Axis(index, _repeats(index), name)
    return axes


def _free(source: Unit, unit: Unit) -> set[str]:
    """Return the axes whose channels may stand in any order.

    Under every strategy the others keep theirs. "in" and "out" are shared with the neighbours; without a convolution
    that writes it from another, a hidden axis is the block's input (expansion 1); and at a grouped convolution the
    place of a channel decides what it reads and who reads it.
    """
    written: set[str | None] = set()
    grouped: set[str | None] = set()
    for block in (source, unit):
        for weight in block.weights.values():
            outputs, inputs = weight.axes
            if inputs:
                written.add(outputs)
                grouped |= {outputs, inputs} if weight.groups > 1 else set()
    return {axis for axis in unit.channels if axis.startswith("hidden")} & written - grouped


def _map_tensor(
    tensor: str, value: Tensor, source: Unit, unit: Unit, axes: Mapping[str, _Axis], rules: Rules
) -> tuple[Tensor, int, int, list[str]]:
    """Return `value` as `unit` wants it, 0 where it has nothing; elements copied; of how many; the rules used."""
    wanted, own = unit.weights[tensor], source.weights.get(tensor)
    shape, changed = wanted.shape, [axes.get(axis or "") for axis in wanted.axes]
    if not any(changed) and value.shape == shape:
        return value.clone(memory_format=torch.contiguous_format), value.numel(), value.numel(), []
    groups = (own.groups if own else 1, wanted.groups)
    resized = value.dim() == 4 and value.shape[-1] != shape[-1]
    taps = rules.kernel(value.shape[-1], shape[-1]) if resized else None
    places = [axis.index if axis else None for axis in changed]
    mapped = _take(_take(_move(value, places, groups, rules.groups), 2, taps), 3, taps)
    reads = changed[1]
    if reads and reads.repeats.any():
        times = reads.index[reads.index >= 0].bincount()[reads.index].to(mapped)
        mapped /= times[:, None, None]
    # Counting needs one tap of each kernel, and a source channel that is taken again is no other one.
    ones = torch.ones((*value.shape[:2], 1, 1) if value.dim() == 4 else value.shape, dtype=torch.bool)
    once = [axis.index.masked_fill(axis.repeats, -1) if axis else None for axis in changed]
    copied, taken = (int(_move(ones, which, groups, rules.groups).count_nonzero()) for which in (places, once))
    scale = math.prod(value.shape[2:]) if taps is None else int((taps >= 0).sum()) ** 2
    used = [f"width {name}" for name in dict.fromkeys(axis.rule for axis in changed if axis)]
    used += [f"groups {groups[0]} to {groups[1]}"] if groups[0] != groups[1] else []
    used += [f"kernel {rules.names['kernel']}"] if resized else []
    return mapped, copied * scale, taken * scale, used


def _move(
    value: Tensor, places: Sequence[Tensor | None], groups: tuple[int, int], regroup: Callable[[Tensor, int], Tensor]
) -> Tensor:
    """Take channels and groups of one tensor; of a tensor of ones the result says what was taken."""
    if groups[0] > 1 and (groups[0] != groups[1] or any(place is not None for place in places)):
        value = _ungroup(value, groups[0])
    elif groups[0] == groups[1]:
        groups = (1, 1)
    for axis, place in enumerate(places):
        value = _take(value, axis, place)
    return regroup(value, groups[1]) if groups[1] > 1 else value


def _ungroup(weight_OIHW: Tensor, groups: int) -> Tensor:
    """Return a grouped convolution as a plain one: 0 between the groups."""
    rows, columns = weight_OIHW.shape[0] // groups, weight_OIHW.shape[1]
    plain = weight_OIHW.new_zeros(weight_OIHW.shape[0], columns * groups, *weight_OIHW.shape[2:])
    for g in range(groups):
        own = slice(g * rows, (g + 1) * rows)
        plain[own, g * columns : (g + 1) * columns] = weight_OIHW[own]
    return plain


def _take(value: Tensor, axis: int, index: Tensor | None) -> Tensor:
    """Return the tensor whose element i along `axis` is element ``index[i]`` of `value`, or 0 where that is -1."""
    if index is None:
        return value
    shape = list(value.shape)
    shape[axis] = len(index)
    kept = (index >= 0).nonzero()[:, 0]
    taken = value.index_select(axis, index[kept].to(value.device))
    return taken if len(kept) == len(index) else value.new_zeros(shape).index_copy_(axis, kept.to(value.device), taken)


def _repeats(index: Tensor) -> Tensor:
    """Return which elements of `index` name a channel that one before has named.

    >>> _repeats(torch.tensor([0, 1, 1, -1, 0, -1]))
    tensor([False, False,  True, False,  True, False])
    """
    values, inverse = index.unique(return_inverse=True)
    place = torch.arange(len(index))
    first = torch.full((len(values),), len(index)).scatter_reduce_(0, inverse, place, "amin")
    return (place > first[inverse]) & (index >= 0)


def _grow(mapped: Tensor, tensor: str, unit: Unit, axes: Mapping[str, _Axis], growth: Growth, rng_seed: int) -> bool:
    """Add what the growth rule gives to new channels, their readers and repeated ones; return if there are any."""
    shape, name, fan_out = tuple(mapped.shape), f"{unit.name}.{tensor}", _fan_out(mapped, tensor, unit)
    writes, reads = (axes.get(axis or "") for axis in unit.weights[tensor].axes)
    grown = False
    roles: tuple[tuple[Role, Tensor | None], ...] = (
        ("new", writes.index < 0 if writes else None),
        ("copy", writes.repeats if writes else None),
    )
    for role, where in roles:
        if where is not None and where.any():
            purpose = (name,) if role == "new" else (name, role)
            added = growth(tensor, (int(where.sum()), *shape[1:]), fan_out, generator(rng_seed, *purpose), role)
            grown |= role == "new" or added is not None
            if added is not None:
                mapped[where] += added.to(mapped)
    if reads and (reads.index < 0).any():
        grown = True
        added = growth(tensor, shape, fan_out, generator(rng_seed, name, "read"), "read")
        if added is not None:
            mapped += added.to(mapped) * _readers(shape, writes, reads).to(mapped)[:, :, None, None]
    return grown


def _readers(shape: tuple[int, ...], writes: _Axis | None, reads: _Axis) -> Tensor:
    """Return where a convolution's old outputs read new inputs, (outputs, inputs of a group)."""
    group = torch.arange(shape[0]) * (len(reads.index) // shape[1]) // shape[0]
    new = (reads.index < 0).view(-1, shape[1])[group]
    return new if writes is None else new & (writes.index >= 0)[:, None]


def _fan_out(value: Tensor, tensor: str, unit: Unit) -> int:
    """Return the connections that leave an input channel of a convolution; of a norm, 1."""
    outputs, inputs = unit.weights[tensor].axes
    axis = inputs or outputs
    return value.numel() // unit.channels[axis] if axis else 1


def _identity(tensor: str, source: Unit, unit: Unit, like: Tensor) -> Tensor:
    """Return a tensor of the pointwise convolution and norm that a source without them computes: the identity.

    An expansion-1 block has no `expand`, a ResNet block of one shape no `shortcut`. The activation after an identity
    `expand` still acts, so the function stays where the block's input lies in its linear range (relu6: 0 to 6).
    """
    channels = source.channels["in"]
    part, _, name = tensor.partition(".")
    if name == COUNTER:
        return torch.zeros((), dtype=torch.long, device=like.device)
    if part == unit.weights[tensor].part:
        return torch.eye(channels, dtype=like.dtype, device=like.device)[:, :, None, None]
    fill = {"weight": math.sqrt(1 + unit.norm_eps), "running_var": 1.0}.get(name, 0.0)
    return like.new_full((channels,), fill)
