"""The building blocks of every backbone, and which tensor axis of each is which channel axis (`AXES`)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fna.arch import Block
from fna.nets.depthwise import DepthwiseConv2d, pad_amounts

Axes = tuple[str | None, ...]

# The channel axis behind each axis of a weight tensor: "in" and "out" belong to the block's interface, "hidden" and
# "hidden2" are its own. None is an axis that is no channel axis of the block (the input side of a depthwise kernel);
# the two spatial axes of a convolution follow and are not listed.
AXES: dict[str, dict[str, Axes]] = {
    "mbconv": {
        "expand": ("hidden", "in"),
        "expand_norm": ("hidden",),
        "depthwise": ("hidden", None),
        "depthwise_norm": ("hidden",),
        "project": ("out", "hidden"),
        "project_norm": ("out",),
    },
    "basic": {
        "conv1": ("hidden", "in"),
        "norm1": ("hidden",),
        "conv2": ("out", "hidden"),
        "norm2": ("out",),
        "shortcut": ("out", "in"),
        "shortcut_norm": ("out",),
    },
    "bottleneck": {
        "conv1": ("hidden", "in"),
        "norm1": ("hidden",),
        "conv2": ("hidden2", "hidden"),
        "norm2": ("hidden2",),
        "conv3": ("out", "hidden2"),
        "norm3": ("out",),
        "shortcut": ("out", "in"),
        "shortcut_norm": ("out",),
    },
    "skip": {},
}


class SameConv2d(nn.Conv2d):
    """A strided convolution padded as TensorFlow's ``SAME`` pads: the odd pixel goes to the bottom and right."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Convolve; the output side is ceil(input side / stride)."""
        x = F.pad(x_NCHW, pad_amounts(x_NCHW, self))
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


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
    if groups == in_channels == out_channels:
        return DepthwiseConv2d(in_channels, kernel, stride, dilation, padding == "same")
    kind = SameConv2d if padding == "same" and stride > 1 else nn.Conv2d
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


class ConvNormAct(nn.Module):
    """Convolution, batch normalisation, activation: the stem, and the 1x1 head before a classifier."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, act: str, norm_eps: float, padding: str
    ) -> None:
        super().__init__()
        self.conv = conv(in_channels, out_channels, kernel, stride=stride, padding=padding)
        self.norm = nn.BatchNorm2d(out_channels, norm_eps)
        self.act = activation(act)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the activated map, (N, out, ceil(H / stride), ceil(W / stride))."""
        out: Tensor = self.act(self.norm(self.conv(x_NCHW)))
        return out


class MBConv(nn.Module):
    """Inverted residual: 1x1 expansion, depthwise kxk, linear 1x1 projection (MobileNetV2, arXiv:1801.04381).

    Expansion 1 has no expansion convolution.
    """

    def __init__(self, block: Block, act: str, norm_eps: float, padding: str) -> None:
        super().__init__()
        hidden = block.hidden_channels
        self.expands = block.expansion != 1
        if self.expands:
            self.expand = conv(block.in_channels, hidden, 1)
            self.expand_norm = nn.BatchNorm2d(hidden, norm_eps)
        self.depthwise = conv(
            hidden,
            hidden,
            block.kernel,
            stride=block.stride,
            dilation=block.dilation,
            groups=hidden,
            padding=padding,
        )
        self.depthwise_norm = nn.BatchNorm2d(hidden, norm_eps)
        self.project = conv(hidden, block.out_channels, 1)
        self.project_norm = nn.BatchNorm2d(block.out_channels, norm_eps)
        self.act = activation(act)
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

    def __init__(self, block: Block, act: str, norm_eps: float, padding: str) -> None:
        super().__init__()
        out = block.out_channels
        self.conv1 = conv(
            block.in_channels,
            out,
            block.kernel,
            stride=block.stride,
            dilation=block.dilation,
            groups=block.groups,
            padding=padding,
        )
        self.norm1 = nn.BatchNorm2d(out, norm_eps)
        self.conv2 = conv(out, out, 3, dilation=block.dilation)
        self.norm2 = nn.BatchNorm2d(out, norm_eps)
        self.act = activation(act)
        _add_shortcut(self, block, norm_eps)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return (N, out, ceil(H / stride), ceil(W / stride))."""
        y = self.norm2(self.conv2(self.act(self.norm1(self.conv1(x_NCHW)))))
        out: Tensor = self.act(y + _shortcut(self, x_NCHW))
        return out


class Bottleneck(nn.Module):
    """ResNet's 1x1, kxk, 1x1 block with the stride on the middle one, as torchvision; width = out / 4."""

    def __init__(self, block: Block, act: str, norm_eps: float, padding: str) -> None:
        super().__init__()
        width, out = block.hidden_channels, block.out_channels
        self.conv1 = conv(block.in_channels, width, 1)
        self.norm1 = nn.BatchNorm2d(width, norm_eps)
        self.conv2 = conv(
            width,
            width,
            block.kernel,
            stride=block.stride,
            dilation=block.dilation,
            groups=block.groups,
            padding=padding,
        )
        self.norm2 = nn.BatchNorm2d(width, norm_eps)
        self.conv3 = conv(width, out, 1)
        self.norm3 = nn.BatchNorm2d(out, norm_eps)
        self.act = activation(act)
        _add_shortcut(self, block, norm_eps)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return (N, out, ceil(H / stride), ceil(W / stride))."""
        y = self.act(self.norm1(self.conv1(x_NCHW)))
        y = self.norm3(self.conv3(self.act(self.norm2(self.conv2(y)))))
        out: Tensor = self.act(y + _shortcut(self, x_NCHW))
        return out


def _add_shortcut(module: nn.Module, block: Block, norm_eps: float) -> None:
    if has_shortcut(block):
        module.shortcut = conv(block.in_channels, block.out_channels, 1, stride=block.stride)
        module.shortcut_norm = nn.BatchNorm2d(block.out_channels, norm_eps)


def _shortcut(module: nn.Module, x_NCHW: Tensor) -> Tensor:
    if not hasattr(module, "shortcut"):
        return x_NCHW
    out: Tensor = module.get_submodule("shortcut_norm")(module.get_submodule("shortcut")(x_NCHW))
    return out


def has_shortcut(block: Block) -> bool:
    """Whether a ResNet block projects its input: it does at the first layer of a stage that changes shape.

    In a dilated network the stride is 1 there, so the channels alone decide; torchvision does the same.
    """
    return block.stride != 1 or block.in_channels != block.out_channels


BLOCKS: dict[str, type[nn.Module]] = {"mbconv": MBConv, "basic": BasicBlock, "bottleneck": Bottleneck}


def build_block(block: Block, act: str, norm_eps: float, padding: str) -> nn.Module:
    """Build the module of `block`; a skip is an identity."""
    return nn.Identity() if block.kind == "skip" else BLOCKS[block.kind](block, act, norm_eps, padding)


def parts(block: Block) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight tensor of `block` by its name inside the block.

    >>> parts(Block("mbconv", 8, 8, expansion=3))["project.weight"]
    (8, 24, 1, 1)
    """
    with torch.device("meta"):
        module = build_block(block, "relu", 1e-5, "symmetric")
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
