"""The rules of a remapping: depth, width, groups, kernel, growth; the tables at the foot name them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from fna.arch import Block
from fna.remapping.apply import Growth, Kernel, Role, Width
from fna.remapping.tensors import Depth

NOISE = 0.01  # standard deviation of `grow_noise`, relative to fresh values

# --- the rules: depth -----------------------------------------------------------------------------------------------


def map_depth(stage: Sequence[Block], layer: int, block: Block | None = None) -> int:
    """Take the weights of the same layer, past the source's last layer those of the last.

    Layers keep their position for life: where the source skips, the last block before stands in. The function of the
    network is not preserved where layers are added (FNA++ section 5.3: it need not be).

    Args:
        stage: the source's blocks.
        layer: position in the destination's stage, from 0.
        block: the block there.

    Returns:
        The source's layer; -1 if there is nothing to take.

    Implements: FNA++ Eq. (1).
    """
    return max((n for n, block in enumerate(stage[: layer + 1]) if block.kind != "skip"), default=-1)


def map_depth_identity(stage: Sequence[Block], layer: int, block: Block) -> int | None:
    """Take the weights of the same layer; where the source has none, begin as an identity (Net2DeeperNet).

    The residual is the identity, the scale of the block's last norm 0 (FNA++ section 5.3; arXiv:1511.05641): adding
    such layers preserves the function exactly, under growth ``noise`` nearly. A ResNet block needs the activated input
    that every ResNet block hands on. A block without a residual, or of another kind than the source's, cannot be an
    identity: it follows `map_depth`.

    Args:
        stage: the source's blocks.
        layer: position in the destination's stage, from 0.
        block: the block there.

    Returns:
        The source's layer, -1 if there is nothing to take, None for a new layer.
    """
    last = map_depth(stage, layer)
    alike = last == -1 or stage[last].kind == block.kind
    return None if last != layer and alike and block.residual else last


# --- the rules: width -----------------------------------------------------------------------------------------------


def map_width(
    channels: int, wanted: int, tensors: Mapping[str, Tensor], generator: torch.Generator | None = None
) -> Tensor:
    """Take the first channels in order; those beyond them are new.

    Wider blocks compute the same function, exactly, with growth ``preserve`` or ``zero`` (FNA++ Eq. 12 to 16). Narrower
    ones do not; narrowing undoes widening.

    >>> map_width(2, 4, {}), map_width(4, 2, {})
    (tensor([ 0,  1, -1, -1]), tensor([0, 1]))

    Args:
        channels: channels of the source.
        wanted: channels of the destination.
        tensors: the source tensors whose first axis these channels are, in forward order, for rules that rank them.
        generator: the source of chance, for rules that draw.

    Returns:
        The source channel of each of `wanted` channels, -1 for a new one.

    Implements: FNA++ Eq. (2), (3).
    """
    index = torch.arange(wanted)
    return index.masked_fill_(index >= channels, -1)


def select_by_score(score_C: Tensor, wanted: int) -> Tensor:
    """Return the `wanted` channels of largest score in their own order; of equal ones the first.

    Where more are wanted than there are, all come in order and the others are new, as in `map_width`.

    >>> select_by_score(torch.tensor([0.5, 2.0, 1.0]), 2), select_by_score(torch.tensor([0.5, 2.0]), 3)
    (tensor([1, 2]), tensor([ 0,  1, -1]))

    Implements: FNA++ Algorithm 1.
    """
    if wanted >= len(score_C):
        return map_width(len(score_C), wanted, {})
    return score_C.sort(descending=True, stable=True).indices[:wanted].sort().values.cpu()


def score_bn(tensors: Mapping[str, Tensor]) -> Tensor:
    """Keep the channels of largest batch-norm scale |gamma|, in order.

    An axis may be written several times before it is read. The last norm counts, `depthwise_norm` of an mbconv block:
    its scale is what the projection sees. Nothing is preserved; wider blocks are those of `map_width`.

    Args:
        tensors: the tensors whose first axis is to be ranked, in forward order.

    Implements: FNA++ Eq. (10).
    """
    return [value for name, value in tensors.items() if value.dim() == 1 and name.endswith(".weight")][-1].float().abs()


def score_std(tensors: Mapping[str, Tensor]) -> Tensor:
    """Keep the channels whose weights have the largest standard deviation, in order.

    Of the convolutions that write the axis the last counts, as in `score_bn` (FNA++ section 5.4.2). Nothing is
    preserved; wider blocks are those of `map_width`.
    """
    return _last_weights(tensors).std(1, correction=0)


def score_l1(tensors: Mapping[str, Tensor]) -> Tensor:
    """Keep the channels whose weights have the largest L1 norm, in order.

    Of the convolutions that write the axis the last counts, as in `score_bn` (FNA++ section 5.4.2). Nothing is
    preserved; wider blocks are those of `map_width`.
    """
    return _last_weights(tensors).abs().sum(1)


def _last_weights(tensors: Mapping[str, Tensor]) -> Tensor:
    return [value for value in tensors.values() if value.dim() == 4][-1].float().flatten(1)


def _by(score: Callable[[Mapping[str, Tensor]], Tensor]) -> Width:
    """Return the width rule that keeps the channels of largest `score`."""

    def rule(channels: int, wanted: int, tensors: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        return select_by_score(score(tensors), wanted)

    rule.__doc__ = score.__doc__
    return rule


def map_width_replicated(
    channels: int, wanted: int, tensors: Mapping[str, Tensor], generator: torch.Generator
) -> Tensor:
    """Take all channels in order, then channels drawn at random again (Net2WiderNet).

    What reads a channel taken r times divides it by r, so that wider blocks compute the same function, exactly, under
    growth ``preserve`` and ``zero`` (arXiv:1511.05641, section 2.3). Channels that are copies of each other get equal
    gradients and never part; growth ``noise`` parts them. Narrower blocks take the first channels: Net2Net has no rule.
    The arguments are those of `map_width`.
    """
    again = torch.randint(channels, (max(wanted - channels, 0),), generator=generator)
    return torch.cat([torch.arange(min(channels, wanted)), again])


# --- the rules: groups and kernels ----------------------------------------------------------------------------------


def map_groups(weight_OIHW: Tensor, groups: int) -> Tensor:
    """Keep, of a plain convolution, the connections inside each group (only where a block wants groups).

    The others are lost: the function stays, exactly, where they are 0. To fewer groups it always does, and growing the
    number of groups undoes that. The article's i counts from 0 here, as its floor needs.

    Args:
        weight_OIHW: a plain convolution.
        groups: a divisor of O and I.

    Returns:
        The grouped convolution, (O, I / groups, k, k): each output channel with the inputs of its own group.

    Implements: FNA++ Eq. (4).
    """
    rows, columns = (size // groups for size in weight_OIHW.shape[:2])
    return torch.cat([weight_OIHW[g * rows : (g + 1) * rows, g * columns : (g + 1) * columns] for g in range(groups)])


def map_kernel(kernel: int, wanted: int) -> Tensor:
    """Take the central taps, or become the centre of the larger kernel.

    A larger kernel computes the same function, exactly (FNA++ Eq. 17 to 20); a smaller one does not, but shrinking
    undoes growing.

    >>> map_kernel(3, 5), map_kernel(5, 3)
    (tensor([-1,  0,  1,  2, -1]), tensor([1, 2, 3]))

    Args:
        kernel: side of the source's kernel.
        wanted: side of the destination's kernel.

    Returns:
        The source tap of each of `wanted` taps along a side, -1 for the new.

    Implements: FNA++ Eq. (5), (6).
    """
    index = torch.arange(wanted) + (kernel - wanted) // 2
    return index.masked_fill_((index < 0) | (index >= kernel), -1)


def map_kernel_dilated(kernel: int, wanted: int) -> Tensor:
    """Spread the taps over the larger kernel as a dilation does.

    A larger kernel computes what the old one would with dilation (wanted - 1) / (kernel - 1), and has its norm. Where
    that is no whole number (5 to 7), it is rounded down and the taps lie in the middle. The article only grows 3x3
    kernels; a smaller kernel here takes the taps that growing would fill, so that shrinking undoes growing.

    >>> map_kernel_dilated(3, 7), map_kernel_dilated(7, 3)
    (tensor([ 0, -1, -1,  1, -1, -1,  2]), tensor([0, 3, 6]))

    Args and Returns are those of `map_kernel`.

    Implements: FNA++ Eq. (11).
    """
    small, large = sorted((kernel, wanted))
    step = (large - 1) // (small - 1) if small > 1 else 1
    taps = torch.arange(small) * step + (large - 1 - step * (small - 1)) // 2
    return taps if wanted <= kernel else torch.full((wanted,), -1).index_copy_(0, taps, torch.arange(kernel))


# --- the rules: growth ----------------------------------------------------------------------------------------------


def grow_preserve(
    tensor: str, shape: tuple[int, ...], fan_out: int, generator: torch.Generator, role: Role = "new"
) -> Tensor | None:
    """Give new channels fresh values and what reads them 0: the same function, exactly, and all of it can learn.

    Deviation: the article sets both sides to 0, and then neither ever gets a gradient (`grow_zero`).

    Args:
        tensor: name inside the block, e.g. ``expand.weight``.
        shape: of what is asked for: (new, I, k, k) of a convolution, (new,) of a norm.
        fan_out: connections that leave an input channel; convolutions are He normal, of variance 2 / fan_out.
        generator: the source of chance.
        role: ``new``: the rows of new output channels. ``copy``: those of channels taken again (Net2Net). ``read``: the
            whole tensor, of which the columns that read new channels will be used; also the last norm's scale in a new
            layer (`map_depth_identity`).

    Returns:
        What is added to the 0 of ``new`` and ``read``, or to a ``copy``; None for nothing.
    """
    if role != "new":
        return None
    if len(shape) == 4:
        return torch.randn(shape, generator=generator) * math.sqrt(2 / fan_out)
    return torch.full(shape, float(tensor.endswith(("weight", "running_var"))))


def grow_zero(
    tensor: str, shape: tuple[int, ...], fan_out: int, generator: torch.Generator, role: Role = "new"
) -> Tensor | None:
    """Give new channels and what reads them 0, as the article says: the same function, exactly, but they never learn.

    The running variance is 1: that of a norm that has seen nothing. The arguments are those of `grow_preserve`.
    """
    return torch.full(shape, float(tensor.endswith("running_var"))) if role == "new" else None


def grow_noise(
    tensor: str, shape: tuple[int, ...], fan_out: int, generator: torch.Generator, role: Role = "new"
) -> Tensor | None:
    """Give new channels, what reads them, and copied channels slight noise: nearly the same function, all can learn.

    Weights and scales are normal, 1 % of fresh ones (FNA++ section 5.3 adds noise to new layers; arXiv:1511.05641 to
    copied channels). All else is that of `grow_zero`. The arguments are those of `grow_preserve`.
    """
    if not tensor.endswith("weight"):
        return grow_zero(tensor, shape, fan_out, generator, role)
    return torch.randn(shape, generator=generator) * NOISE * (math.sqrt(2 / fan_out) if len(shape) == 4 else 1)


# --- tables ---------------------------------------------------------------------------------------------------------

DEPTH: dict[str, Depth] = {
    "last": map_depth,
    "net2net": map_depth_identity,
}
WIDTH: dict[str, Width] = {
    "first": map_width,
    "bn": _by(score_bn),
    "std": _by(score_std),
    "l1": _by(score_l1),
    "net2net": map_width_replicated,
}
KERNEL: dict[str, Kernel] = {"centre": map_kernel, "dilate": map_kernel_dilated}
GROWTH: dict[str, Growth] = {"preserve": grow_preserve, "zero": grow_zero, "noise": grow_noise}
