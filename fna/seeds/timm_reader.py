"""The modules of a network that timm built are read into an Arch, without code per model.

Whatever an Arch cannot express is refused by name: a seed that computes something else than its source would be worse
than none. Only names, shapes and settings are looked at, so the network can be on the meta device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from fna.arch import Arch, Block, Stem
from fna.seeds.variant import EXPANDS_TO_SAME

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T")

ACTIVATIONS = {"ReLU": "relu", "ReLU6": "relu6"}  # by the name of the module's class


class UnsupportedError(Exception):
    """A part of a network that an Arch cannot express; the message names it."""


def read_arch(model: Any) -> Arch:
    """Describe a network that timm built.

    Raises:
        UnsupportedError: a part of it cannot be expressed.
    """
    from timm.models.resnet import ResNet

    arch = _read_resnet(model) if isinstance(model, ResNet) else _read_efficientnet(model)
    stride = arch.stem.stride * (2 if arch.stem.max_pool else 1)
    for (s, n), block in arch.layers():
        stride *= block.stride
        if n > 0 and block.stride != 1:
            raise UnsupportedError(f"layer {n} of stage {s} has stride {block.stride}, where only the first layer may")
    if stride != arch.output_stride:
        raise UnsupportedError(f"its last features have stride {stride}, not {arch.output_stride}")
    return arch


# --- EfficientNet, which in timm is MobileNetV2, MNASNet, FBNet-C and Single-Path NAS too ----------------------------


def _read_efficientnet(model: Any) -> Arch:
    from timm.models.efficientnet import EfficientNet

    stages = tuple(
        tuple(_read_mbconv(block, f"blocks.{s}.{n}") for n, block in enumerate(stage))
        for s, stage in enumerate(model.blocks)
    )
    if type(model) is not EfficientNet:
        raise UnsupportedError(f"the layers after its blocks are those of a {type(model).__name__}")
    stem = _conv(model, "conv_stem", "", strides=(2,))
    _norms(model, ["bn1"], "")
    head_channels = 0
    if type(model.conv_head).__name__ != "Identity":
        head_channels = _pointwise(model, "conv_head", "").out_channels
        _norms(model, ["bn2"], "")
    return Arch(
        Stem(stem.out_channels, kernel=stem.kernel_size[0]),
        stages,
        activation=_activation(model),
        norm_eps=_norm_eps(model),
        padding=_padding(model),
        head_channels=head_channels,
        num_classes=_classes(model, "classifier"),
    )


def _read_mbconv(module: Any, where: str) -> Block:
    from timm.models._efficientnet_blocks import DepthwiseSeparableConv, InvertedResidual

    if type(module) not in (DepthwiseSeparableConv, InvertedResidual):
        raise UnsupportedError(f"{where} is a {type(module).__name__}")
    expands = type(module) is InvertedResidual
    convs = ("conv_pw", "conv_dw", "conv_pwl") if expands else ("conv_dw", "conv_pw")
    norms = [f"bn{i + 1}" for i in range(len(convs))]
    _nothing_else(module, (*convs, *norms, "drop_path"), where)
    depthwise = _conv(module, "conv_dw", where, depthwise=True)
    project = _pointwise(module, convs[-1], where)
    in_channels, hidden, expansion = depthwise.in_channels, depthwise.out_channels, 1.0
    if expands:
        in_channels = _pointwise(module, "conv_pw", where).in_channels
        expansion = EXPANDS_TO_SAME if hidden == in_channels else hidden / in_channels
    _norms(module, norms[:-1], where)
    _norms(module, norms[-1:], where, linear=True)
    block = Block(
        "mbconv",
        in_channels,
        project.out_channels,
        kernel=depthwise.kernel_size[0],
        stride=depthwise.stride[0],
        expansion=expansion,
    )
    if block.hidden_channels != hidden:
        raise UnsupportedError(f"{where} expands {in_channels} channels to {hidden}, which no expansion rounds to")
    _residual(where, module.has_skip, block.residual)
    return block


# --- ResNet ---------------------------------------------------------------------------------------------------------


def _read_resnet(model: Any) -> Arch:
    from torch import nn

    stages = tuple(
        tuple(
            _read_resnet_block(block, f"layer{s + 1}.{n}")
            for n, block in enumerate(model.get_submodule(f"layer{s + 1}"))
        )
        for s in range(4)
    )
    stem = _conv(model, "conv1", "", strides=(2,))
    _norms(model, ["bn1"], "", separate=True)
    pool = model.maxpool
    if type(pool) is not nn.MaxPool2d or (pool.kernel_size, pool.stride, pool.padding) != (3, 2, 1):
        raise UnsupportedError(f"maxpool is {pool}, not a 3x3 maximum of stride 2")
    return Arch(
        Stem(stem.out_channels, kernel=stem.kernel_size[0], max_pool=True),
        stages,
        activation=_activation(model),
        norm_eps=_norm_eps(model),
        padding=_padding(model),
        num_classes=_classes(model, "fc"),
    )


def _read_resnet_block(module: Any, where: str) -> Block:
    from timm.models.resnet import BasicBlock, Bottleneck

    if type(module) not in (BasicBlock, Bottleneck):
        raise UnsupportedError(f"{where} is a {type(module).__name__}")
    kind = "basic" if type(module) is BasicBlock else "bottleneck"
    numbers = range(1, 3 if kind == "basic" else 4)
    parts = [f"{part}{i}" for i in numbers for part in ("conv", "bn", "act")]
    _nothing_else(module, (*parts, "downsample", "drop_path"), where)
    if kind == "basic":
        first, last = _conv(module, "conv1", where), _conv(module, "conv2", where, strides=(1,))
        spatial, widths = first, (first.out_channels, last.in_channels)
    else:
        first, last = _pointwise(module, "conv1", where), _pointwise(module, "conv3", where)
        spatial = _conv(module, "conv2", where, grouped=True)
        widths = (first.out_channels, spatial.out_channels)
    _norms(module, [f"bn{i}" for i in numbers], where, separate=True)
    block = Block(
        kind,
        first.in_channels,
        last.out_channels,
        kernel=spatial.kernel_size[0],
        stride=spatial.stride[0],
        groups=spatial.groups,
    )
    if kind == "basic" and last.kernel_size[0] != 3:
        raise UnsupportedError(f"{where}.conv2 has a {last.kernel_size[0]}x{last.kernel_size[0]} kernel, not 3x3")
    if set(widths) != {block.hidden_channels}:
        raise UnsupportedError(f"{where} is {widths[0]} channels wide, where {block.hidden_channels} were expected")
    _residual(where, module.downsample is None, block.residual)
    if module.downsample is not None:
        names = [type(part).__name__ for part in module.downsample]
        if names != ["Conv2d", "BatchNorm2d"]:
            raise UnsupportedError(f"{where}.downsample is {' and '.join(names)}")
        _pointwise(module.downsample, "0", f"{where}.downsample", strides=(block.stride,))
    return block


# --- parts ----------------------------------------------------------------------------------------------------------


def _conv(
    module: Any,
    name: str,
    where: str,
    *,
    strides: Sequence[int] = (1, 2),
    depthwise: bool = False,
    grouped: bool = False,
) -> nn.Conv2d:
    """Return a square convolution without bias that keeps ceil(side / stride)."""
    from timm.layers.conv2d_same import Conv2dSame
    from torch import nn

    conv, path = getattr(module, name), f"{where}.{name}".lstrip(".")
    if type(conv) not in (nn.Conv2d, Conv2dSame):
        raise UnsupportedError(f"{path} is a {type(conv).__name__}")
    kernel, groups = conv.kernel_size[0], conv.in_channels if depthwise else 1
    same = type(conv) is Conv2dSame or conv.padding == (kernel // 2, kernel // 2)
    square = conv.kernel_size == (kernel, kernel) and kernel % 2 == 1 and conv.stride[0] == conv.stride[1]
    if not square or not same or conv.dilation != (1, 1) or conv.bias is not None or conv.stride[0] not in strides:
        raise UnsupportedError(f"{path} is {conv}")
    if (conv.groups != groups and not grouped) or (depthwise and conv.out_channels != conv.in_channels):
        raise UnsupportedError(f"{path} has {conv.groups} groups, where {groups} were expected")
    assert isinstance(conv, nn.Conv2d)
    return conv


def _pointwise(module: Any, name: str, where: str, strides: Sequence[int] = (1,)) -> nn.Conv2d:
    conv = _conv(module, name, where, strides=strides)
    if conv.kernel_size != (1, 1):
        raise UnsupportedError(
            f"{where}.{name}".lstrip(".") + f" has a {conv.kernel_size[0]}x{conv.kernel_size[1]} kernel"
        )
    return conv


def _norms(module: Any, names: Iterable[str], where: str, *, linear: bool = False, separate: bool = False) -> None:
    """Check batch normalisations and the activation after them: in them, none (`linear`), or a module (`separate`)."""
    from timm.layers.norm_act import BatchNormAct2d
    from torch import nn

    for name in names:
        norm, path = getattr(module, name), f"{where}.{name}".lstrip(".")
        if type(norm) is not (nn.BatchNorm2d if separate else BatchNormAct2d):
            raise UnsupportedError(f"{path} is a {type(norm).__name__}")
        act = getattr(module, name.replace("bn", "act")) if separate else norm.act
        if type(act).__name__ not in (["Identity"] if linear else ACTIVATIONS):
            raise UnsupportedError(f"{path} is followed by the activation {type(act).__name__}")


def _nothing_else(module: nn.Module, expected: Sequence[str], where: str) -> None:
    """Refuse parts such as squeeze-and-excitation (``se``) and anti-aliasing (``aa``)."""
    for name, part in module.named_children():
        if name not in expected and type(part).__name__ != "Identity":
            raise UnsupportedError(f"{where}.{name} is a {type(part).__name__}")


def _residual(where: str, has: bool, expected: bool) -> None:
    if has != expected:
        raise UnsupportedError(
            f"{where} {'adds' if has else 'does not add'} its input as it is; the blocks of an Arch do so exactly "
            "where the stride is 1 and the channels stay"
        )


def _activation(model: nn.Module) -> str:
    found = {name: type(part).__name__ for name, part in model.named_modules() if type(part).__name__ in ACTIVATIONS}
    return ACTIVATIONS[_common(found, "activation")]


def _norm_eps(model: nn.Module) -> float:
    from torch import nn

    found = {name: part.eps for name, part in model.named_modules() if isinstance(part, nn.BatchNorm2d)}
    return _common(found, "epsilon")


def _padding(model: nn.Module) -> str:
    """Return the padding of the strided convolutions; with stride 1 both paddings are the same."""
    from torch import nn

    found = {
        name: "same" if type(part).__name__ == "Conv2dSame" else "symmetric"
        for name, part in model.named_modules()
        if isinstance(part, nn.Conv2d) and part.stride != (1, 1) and part.kernel_size != (1, 1)
    }
    return _common(found, "padding")


def _common(found: Mapping[str, T], what: str) -> T:
    """Return the value that all have, or name one that differs."""
    (first, value), *others = found.items()
    for name, other in others:
        if other != value:
            raise UnsupportedError(f"{name} has the {what} {other}, {first} has {value}")
    return value


def _classes(model: Any, name: str) -> int:
    from torch import nn

    linear, pool = getattr(model, name), model.global_pool
    if type(linear) is nn.Identity:  # weights that were published without
        return 0
    if type(linear) is not nn.Linear or linear.bias is None or getattr(pool, "pool_type", "") != "avg":
        raise UnsupportedError(f"{name} is {linear} after {pool}, not a linear layer with bias after an average")
    return linear.out_features
