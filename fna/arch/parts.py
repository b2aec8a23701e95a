"""What a block is made of: one table of convolutions and norms per kind of block. No torch here.

Whoever must know the inside of a block reads it here: the modules (`nets.blocks`), shapes and names of weights
(`arch.weights`), params and multiply-adds, remapping, and the names of other libraries. A new kind of block is an entry
of `KINDS`, and a class with a forward in `nets.blocks.BLOCKS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fna.arch import Arch, Block


class Axis(NamedTuple):
    """Channels that several weights share: "in" and "out" are the block's interface, other names its own."""

    name: str
    channels: int


@dataclass(frozen=True)
class Part:
    """A square convolution without bias, padded to keep ceil(side / stride), and the batch norm after it.

    Args:
        name: of the convolution in the block.
        norm: name of the batch norm.
        inputs: what it reads; the same axis as `out` in a depthwise convolution, whose weight has no such axis.
        out: what it writes.
        kernel: side of the kernel.
        stride: its stride.
        dilation: its dilation.
        groups: its groups.
        at_input: whether it works at the size of the block's input, before the stride; else at that of the output.
    """

    name: str
    norm: str
    inputs: Axis
    out: Axis
    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    at_input: bool = False

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the convolution's weight."""
        return self.out.channels, self.inputs.channels // self.groups, self.kernel, self.kernel

    @property
    def axes(self) -> tuple[str, str | None]:
        """Names of the channel axes behind the first two axes of that weight."""
        return self.out.name, None if self.inputs == self.out else self.inputs.name


@dataclass(frozen=True)
class Kind:
    """What blocks of a kind have in common.

    Args:
        parts: convolutions and norms of a block, in forward order: the order in which they are built and drawn.
        hidden: channels of the spatial convolution's output.
        choice: what tells candidates of a layer apart besides the kernel: ``expansion``, ``groups``, or nothing.
    """

    parts: Callable[[Block], Iterator[Part]]
    hidden: Callable[[Block], int]
    choice: str = "groups"


def _mbconv(block: Block) -> Iterator[Part]:
    inputs, hidden, out = _axes(block)
    if block.expansion != 1:
        yield Part("expand", "expand_norm", inputs, hidden, at_input=True)
    spatial = (block.kernel, block.stride, block.dilation, block.hidden_channels)
    yield Part("depthwise", "depthwise_norm", hidden, hidden, *spatial)
    yield Part("project", "project_norm", hidden, out)


def _basic(block: Block) -> Iterator[Part]:
    inputs, hidden, out = _axes(block)
    yield Part("conv1", "norm1", inputs, hidden, block.kernel, block.stride, block.dilation, block.groups)
    yield Part("conv2", "norm2", hidden, out, 3, dilation=block.dilation)
    yield from _shortcut(block)


def _bottleneck(block: Block) -> Iterator[Part]:
    inputs, hidden, out = _axes(block)
    hidden2 = Axis("hidden2", block.hidden_channels)
    yield Part("conv1", "norm1", inputs, hidden, at_input=True)
    yield Part("conv2", "norm2", hidden, hidden2, block.kernel, block.stride, block.dilation, block.groups)
    yield Part("conv3", "norm3", hidden2, out)
    yield from _shortcut(block)


def _shortcut(block: Block) -> Iterator[Part]:
    if not block.residual:
        inputs, _, out = _axes(block)
        yield Part("shortcut", "shortcut_norm", inputs, out, stride=block.stride)


def _skip(block: Block) -> Iterator[Part]:
    yield from ()


def _axes(block: Block) -> tuple[Axis, Axis, Axis]:
    return Axis("in", block.in_channels), Axis("hidden", block.hidden_channels), Axis("out", block.out_channels)


KINDS = {
    "mbconv": Kind(_mbconv, lambda block: round(block.in_channels * block.expansion), "expansion"),
    "basic": Kind(_basic, lambda block: block.out_channels),
    "bottleneck": Kind(_bottleneck, lambda block: block.out_channels // 4),
    "skip": Kind(_skip, lambda block: block.out_channels, ""),
}


@lru_cache(maxsize=4096)
def parts(block: Block) -> tuple[Part, ...]:
    """Return the convolutions and norms of `block` in forward order.

    >>> from fna.arch import Block
    >>> [(part.name, part.shape) for part in parts(Block("mbconv", 8, 16, expansion=3))]
    [('expand', (24, 8, 1, 1)), ('depthwise', (24, 1, 3, 3)), ('project', (16, 24, 1, 1))]
    """
    return tuple(KINDS[block.kind].parts(block))


def conv_norm(in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1) -> Part:
    """Return a convolution and norm that stand by themselves."""
    return Part("conv", "norm", Axis("in", in_channels), Axis("out", out_channels), kernel, stride)


def stem_part(arch: Arch) -> Part:
    """Return the first convolution of `arch`."""
    return conv_norm(3, arch.stem.out_channels, arch.stem.kernel, arch.stem.stride)


def head_part(arch: Arch) -> Part:
    """Return the 1x1 convolution before the classifier of `arch`, which has one if its head channels are not 0."""
    return conv_norm(arch.out_channels, arch.head_channels)
