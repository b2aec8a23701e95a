"""Segmentation heads: DeepLabv3 with a separable ASPP, and DeepLabv3+."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fna.errors import FnaError
from fna.nets.blocks import conv
from fna.nets.network import FeatureInfo, initialise
from fna.nets.upsampling import upsample

RATES = (6, 12, 18)  # dilations of the ASPP at output stride 16 (DeepLabv3, arXiv:1706.05587)


class DeepLabV3Head(nn.Module):
    """DeepLabv3's head as MobileNet-sized networks use it: an ASPP of separable convolutions and a 1x1 classifier.

    Args:
        feature_info: the backbone's features; the last is read.
        classes: number of classes.
        channels: width of the ASPP.
        rates: dilations of the atrous branches (DeepLab doubles them at output stride 8).
    """

    def __init__(
        self,
        feature_info: Sequence[FeatureInfo],
        classes: int,
        channels: int = 256,
        rates: Sequence[int] = RATES,
    ) -> None:
        super().__init__()
        last = feature_info[-1]
        self.aspp = ASPP(last.channels, channels, rates, separable=True)
        self.joined = {"aspp.project.0.weight": (channels,) * (len(rates) + 2)}
        self.classifier = nn.Conv2d(channels, classes, 1)
        _initialise(self)

    def forward(self, features: Sequence[Tensor], size_hw: tuple[int, int]) -> Tensor:
        """Return float32 logits, (N, classes, *size_hw).

        Args:
            features: one map per entry of `feature_info`.
            size_hw: size of the image.
        """
        return upsample_logits(self.classifier(self.aspp(features[-1])), size_hw, self.training)


class DeepLabV3PlusHead(nn.Module):
    """DeepLabv3+ (arXiv:1802.02611): a plain ASPP, and a decoder that joins it with the features of stride 4.

    Args:
        feature_info: the backbone's features; the last one and the one of stride 4 are read.
        classes: number of classes.
        channels: width of the ASPP and the decoder.
        low_channels: width of the projected features of stride 4.
        rates: dilations of the atrous branches (DeepLab doubles them at output stride 8).

    Raises:
        FnaError: no features of stride 4.
    """

    def __init__(
        self,
        feature_info: Sequence[FeatureInfo],
        classes: int,
        channels: int = 256,
        low_channels: int = 48,
        rates: Sequence[int] = RATES,
    ) -> None:
        super().__init__()
        strides = [info.stride for info in feature_info]
        if 4 not in strides:
            raise FnaError(
                f"DeepLabv3+ joins features of stride 4, the backbone has strides {strides}; choose model deeplabv3"
            )
        last = feature_info[-1]
        self.low = strides.index(4)
        self.aspp = ASPP(last.channels, channels, rates, separable=False)
        self.joined = {
            "aspp.project.0.weight": (channels,) * (len(rates) + 2),
            "decoder.0.0.weight": (channels, low_channels),
        }
        self.low_project = _conv_norm_relu(feature_info[self.low].channels, low_channels)
        # One of the two has a bias: with it, and only with it, the paper's params and MAdds are met exactly.
        self.decoder = nn.Sequential(
            _conv_norm_relu(channels + low_channels, channels, 3),
            _conv_norm_relu(channels, channels, 3, bias=True),
        )
        self.classifier = nn.Conv2d(channels, classes, 1)
        _initialise(self)

    def forward(self, features: Sequence[Tensor], size_hw: tuple[int, int]) -> Tensor:
        """Return float32 logits, (N, classes, *size_hw).

        Args:
            features: one map per entry of `feature_info`.
            size_hw: size of the image.
        """
        low = self.low_project(features[self.low])
        deep = self.aspp(features[-1])
        high = upsample(deep, (low.shape[2], low.shape[3]), self.training).to(deep.dtype)
        return upsample_logits(self.classifier(self.decoder(torch.cat([high, low], 1))), size_hw, self.training)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: a 1x1 branch, one atrous 3x3 branch per rate, an image-pooling branch.

    Args:
        in_channels: input channels.
        channels: channels of every branch and of the output.
        rates: dilations of the atrous branches.
        separable: whether an atrous branch is depthwise 3x3 + 1x1 (norm and ReLU after both) or a full 3x3.
    """

    def __init__(self, in_channels: int, channels: int, rates: Sequence[int], separable: bool) -> None:
        super().__init__()

        def atrous(rate: int) -> nn.Module:
            if not separable:
                return _conv_norm_relu(in_channels, channels, 3, dilation=rate)
            depthwise = _conv_norm_relu(in_channels, in_channels, 3, dilation=rate, groups=in_channels)
            return nn.Sequential(depthwise, _conv_norm_relu(in_channels, channels))

        self.branches = nn.ModuleList([_conv_norm_relu(in_channels, channels), *map(atrous, rates)])
        self.pooling = ImagePooling(in_channels, channels)
        self.project = _conv_norm_relu(channels * (len(rates) + 2), channels)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return (N, channels, H, W)."""
        maps = [branch(x_NCHW) for branch in self.branches]
        # An expanded 1x1 map would make torch.cat leave channels_last for all of them; a map like the others does not.
        maps.append(torch.zeros_like(maps[0]) + self.pooling(x_NCHW))
        out: Tensor = self.project(torch.cat(maps, 1))
        return out


class ImagePooling(nn.Module):
    """Global average, 1x1 convolution, norm, ReLU.

    The norm sees one value per channel and image. A training batch of one image has no variance there, so it is
    normalised with the running statistics (and leaves them alone), as at evaluation. SyncBN, whose batch spans the
    processes, is left to itself.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = conv(in_channels, channels, 1)
        self.norm: nn.Module = nn.BatchNorm2d(channels)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return (N, channels, 1, 1)."""
        y = self.conv(x_NCHW.mean((2, 3), keepdim=True))
        norm = self.norm
        if type(norm) is nn.BatchNorm2d and norm.training and len(y) == 1:
            y = F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        else:
            y = norm(y)
        return F.relu(y, inplace=True)


def upsample_logits(logits_NCHW: Tensor, size_hw: tuple[int, int], training: bool) -> Tensor:
    """Return bilinearly upsampled logits as the loss wants them: float32, (N, classes, *size_hw), contiguous.

    The conversion happens on the small map, where it is free; together with the cross entropy that is the fastest of
    the layouts and precisions on a CPU.
    """
    return upsample(logits_NCHW.float().contiguous(), size_hw, training)


def _conv_norm_relu(
    in_channels: int, out_channels: int, kernel: int = 1, *, dilation: int = 1, groups: int = 1, bias: bool = False
) -> nn.Sequential:
    convolution = conv(in_channels, out_channels, kernel, dilation=dilation, groups=groups)
    if bias:
        convolution.bias = nn.Parameter(torch.zeros(out_channels))
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def _initialise(head: DeepLabV3Head | DeepLabV3PlusHead) -> None:
    """He everywhere; a quiet classifier, so that training starts at a loss of log(classes)."""
    initialise(head)
    nn.init.normal_(head.classifier.weight, std=0.01)
