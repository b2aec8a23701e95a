"""The building blocks of every backbone, built from their table of parts (`fna.arch.parts`)."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn import functional as F

from fna.arch import Block
from fna.arch.parts import Part, parts

Pads = tuple[int, int, int, int]  # left, right, top, bottom


class SameConv2d(nn.Conv2d):
    """A strided convolution padded as TensorFlow's ``SAME`` pads: the odd pixel goes to the bottom and right."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Convolve; the output side is ceil(input side / stride)."""
        x = F.pad(x_NCHW, pad_amounts(x_NCHW, self))
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def pad_amounts(x_NCHW: Tensor, conv: nn.Conv2d) -> Pads:
    """Return (left, right, top, bottom) of TensorFlow's ``SAME`` padding: the odd pixel goes right and bottom."""
    amounts: list[int] = []
    for axis in (1, 0):
        size, kernel = x_NCHW.shape[2 + axis], conv.kernel_size[axis]
        stride, dilation = conv.stride[axis], conv.dilation[axis]
        total = max((-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
        amounts += [total // 2, total - total // 2]
    return amounts[0], amounts[1], amounts[2], amounts[3]


def conv(
    in_channels: int,
    out_channels: int,
    kernel: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    padding: str = "symmetric",
) -> nn.Conv2d:
    """Build a convolution without bias, padded to keep ceil(side / stride)."""
    kind = SameConv2d if padding == "same" and stride > 1 and kernel > 1 else nn.Conv2d
    return kind(
        in_channels,
        out_channels,
        kernel,
        stride=stride,
        padding=dilation * (kernel - 1) // 2,
        dilation=dilation,
        groups=groups,
        bias=False,
    )


def activation(name: str) -> nn.Module:
    """Build the activation `name`, one of `arch.ACTIVATIONS`."""
    return nn.ReLU6(inplace=True) if name == "relu6" else nn.ReLU(inplace=True)


def add_parts(module: nn.Module, parts: Iterable[Part], norm_eps: float, padding: str) -> None:
    """Give `module` convolutions and their norms, under the names and in the order of the table."""
    for part in parts:
        module.add_module(
            part.name,
            conv(
                part.inputs.channels,
                part.out.channels,
                part.kernel,
                stride=part.stride,
                dilation=part.dilation,
                groups=part.groups,
                padding=padding,
            ),
        )
        module.add_module(part.norm, nn.BatchNorm2d(part.out.channels, norm_eps))


class ConvNormAct(nn.Module):
    """Convolution, batch normalisation, activation: the stem, and the 1x1 head before a classifier.

    Args:
        part: the convolution and the norm, made by `parts.conv_norm`.
        act: one of `arch.ACTIVATIONS`.
        norm_eps: epsilon of the norm.
        padding: one of `arch.PADDINGS`.
    """

    conv: nn.Module
    norm: nn.Module

    def __init__(self, part: Part, act: str, norm_eps: float, padding: str) -> None:
        super().__init__()
        add_parts(self, [part], norm_eps, padding)
        self.act = activation(act)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the activated map, (N, out, ceil(H / stride), ceil(W / stride))."""
        out: Tensor = self.act(self.norm(self.conv(x_NCHW)))
        return out


class MBConv(nn.Module):
    """Inverted residual: 1x1 expansion, depthwise kxk, linear 1x1 projection (MobileNetV2, arXiv:1801.04381).

    Expansion 1 has no expansion convolution.
    """

    expand: nn.Module
    expand_norm: nn.Module
    depthwise: nn.Module
    depthwise_norm: nn.Module
    project: nn.Module
    project_norm: nn.Module

    def __init__(self, block: Block, act: str, norm_eps: float, padding: str) -> None:
        super().__init__()
        add_parts(self, parts(block), norm_eps, padding)
        self.act = activation(act)
        self.expands = hasattr(self, "expand")
        self.residual = block.residual

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return (N, out, ceil(H / stride), ceil(W / stride))."""
        out: Tensor = self.contracted(x_NCHW, self.expanded(x_NCHW))
        return out

    def expanded(self, x_NCHW: Tensor) -> Tensor:
        """Return the expansion, (N, hidden, H, W): the first half of `forward`."""
        out: Tensor = self.act(self.expand_norm(self.expand(x_NCHW))) if self.expands else x_NCHW
        return out

    def contracted(self, x_NCHW: Tensor, expanded_NCHW: Tensor) -> Tensor:
        """Return the block's output from its input and its expansion: the second half of `forward`."""
        y = self.act(self.depthwise_norm(self.depthwise(expanded_NCHW)))
        y = self.project_norm(self.project(y))
        out: Tensor = x_NCHW + y if self.residual else y
        return out


class BasicBlock(nn.Module):
    """ResNet's two-convolution block (arXiv:1512.03385); kernel and groups apply to the first convolution."""

    conv1: nn.Module
    norm1: nn.Module
    conv2: nn.Module
    norm2: nn.Module

    def __init__(self, block: Block, act: str, norm_eps: float, padding: str) -> None:
        super().__init__()
        add_parts(self, parts(block), norm_eps, padding)
        self.act = activation(act)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return (N, out, ceil(H / stride), ceil(W / stride))."""
        y = self.norm2(self.conv2(self.act(self.norm1(self.conv1(x_NCHW)))))
        out: Tensor = self.act(y + _shortcut(self, x_NCHW))
        return out


class Bottleneck(nn.Module):
    """ResNet's 1x1, kxk, 1x1 block with the stride on the middle one, as torchvision; width = out / 4."""

    conv1: nn.Module
    norm1: nn.Module
    conv2: nn.Module
    norm2: nn.Module
    conv3: nn.Module
    norm3: nn.Module

    def __init__(self, block: Block, act: str, norm_eps: float, padding: str) -> None:
        super().__init__()
        add_parts(self, parts(block), norm_eps, padding)
        self.act = activation(act)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return (N, out, ceil(H / stride), ceil(W / stride))."""
        y = self.act(self.norm1(self.conv1(x_NCHW)))
        y = self.norm3(self.conv3(self.act(self.norm2(self.conv2(y)))))
        out: Tensor = self.act(y + _shortcut(self, x_NCHW))
        return out


def _shortcut(module: nn.Module, x_NCHW: Tensor) -> Tensor:
    """Return a ResNet block's input as its output wants it."""
    if not hasattr(module, "shortcut"):
        return x_NCHW
    out: Tensor = module.get_submodule("shortcut_norm")(module.get_submodule("shortcut")(x_NCHW))
    return out


BLOCKS: dict[str, type[nn.Module]] = {"mbconv": MBConv, "basic": BasicBlock, "bottleneck": Bottleneck}


def build_block(block: Block, act: str, norm_eps: float, padding: str) -> nn.Module:
    """Build the module of `block`; one without parts, a skip, is an identity."""
    return BLOCKS[block.kind](block, act, norm_eps, padding) if parts(block) else nn.Identity()
