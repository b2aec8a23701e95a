"""SimpleBaseline (arXiv:1804.06208): three deconvolutions to a heatmap per joint, its Gaussian targets, and decoding.

Coordinates are continuous: the crop's first pixel covers 0 to 1, its centre is 0.5. Pixel (i, j) of a heatmap of stride
4 covers 4 x 4 pixels of the crop, and its centre is at x = 4 (j + 0.5), y = 4 (i + 0.5). Targets and decoding keep to
that to a fraction of a pixel, and so a mirrored crop has exactly the mirrored heatmaps.

Deviation: the original rounds a joint to the nearest heatmap pixel before drawing its Gaussian, multiplies coordinates
by the stride without the half pixel, and makes up for it by moving mirrored heatmaps by one pixel. Nothing is rounded
or moved here (arXiv:1911.07524 has the arithmetic).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fna.config import SimpleBaseline
from fna.errors import FnaError
from fna.nets.network import FeatureInfo

STRIDE = 4  # crop pixels per heatmap pixel
REACH = 3  # standard deviations; a joint farther outside the heatmap than its Gaussian reaches is no target
DARK_RADIUS = 2.5  # of DARK's smoothing kernel, in standard deviations
RIM = 3  # heatmap pixels from the rim where the zeros outside still bend DARK's smoothed maps by 0.1 pixel


class SimpleBaselineHead(nn.Module):
    """Three times deconvolution, norm, ReLU, then a 1x1 convolution to the joints.

    Args:
        feature_info: the backbone's features; the last, of stride 32, is read.
        classes: number of joints K.
        channels: width of the deconvolutions.

    Raises:
        FnaError: the last features have another stride than 32.
    """

    def __init__(self, feature_info: Sequence[FeatureInfo], classes: int, channels: int = 256) -> None:
        super().__init__()
        last = feature_info[-1]
        if last.stride != 8 * STRIDE:
            raise FnaError(f"SimpleBaseline reads features of stride 32, the backbone ends at stride {last.stride}")
        widths = (last.channels, channels, channels, channels)
        self.deconvs = nn.Sequential(*map(_deconv_norm_relu, widths, widths[1:]))
        self.joints = nn.Conv2d(channels, classes, 1)
        self._initialise()

    def forward(self, features: Sequence[Tensor], size_hw: tuple[int, int]) -> Tensor:
        """Return float32 heatmaps, (N, K, H / 4, W / 4); a Gaussian of height 1 is a joint.

        Args:
            features: one map per entry of `feature_info`.
            size_hw: size of the crop, multiples of 32.
        """
        maps = at_least_float32(self.deconvs(features[-1]))
        # Sub-pixel decoding compares neighbours, which 8 bits of precision would often make equal.
        with nullcontext() if maps.is_meta else torch.autocast(maps.device.type, enabled=False):
            heatmaps: Tensor = self.joints(maps)
        return heatmaps

    def _initialise(self) -> None:
        """Draw small weights as the original does: training starts at heatmaps of nearly 0."""
        for part in self.modules():
            if isinstance(part, nn.ConvTranspose2d | nn.Conv2d):
                nn.init.normal_(part.weight, std=0.001)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)


def _deconv_norm_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    deconvolution = nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False)
    return nn.Sequential(deconvolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def at_least_float32(x: Tensor) -> Tensor:
    """Return `x` in float32, or in float64 if it has that."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


# --- targets and loss -------------------------------------------------------------------------------------------------


def gaussians(points_NK3: Tensor, size_hw: tuple[int, int], sigma: float) -> tuple[Tensor, Tensor]:
    """Draw the target heatmaps.

    Args:
        points_NK3: x, y in crop pixels, and visibility; 0 is a joint without label.
        size_hw: height, width of the heatmaps.
        sigma: standard deviation of the Gaussians in heatmap pixels.

    Returns:
        Heatmaps, (N, K, *size_hw), with a Gaussian of height 1 at each labelled joint, 0 elsewhere; and which joints
        are learned, bool (N, K): the labelled ones whose Gaussian reaches the heatmap.
    """
    height, width = size_hw
    x, y = (points_NK3[..., axis, None] / STRIDE - 0.5 for axis in (0, 1))  # in heatmap pixels, centres whole
    rows, columns = (torch.arange(n, device=points_NK3.device, dtype=points_NK3.dtype) for n in size_hw)
    reach = REACH * sigma
    near = (x > -reach) & (x < width - 1 + reach) & (y > -reach) & (y < height - 1 + reach)
    learned = near[..., 0] & (points_NK3[..., 2] > 0)
    across, down = (torch.exp(-((pixels - at) ** 2) / (2 * sigma**2)) for pixels, at in ((columns, x), (rows, y)))
    heatmaps = down[..., :, None] * across[..., None, :]
    # Not a product with the mask: the coordinates of an unlabelled joint may be anything, NaN included.
    return torch.where(learned[..., None, None], heatmaps, 0), learned


def loss(heatmaps_NKHW: Tensor, batch: Mapping[str, Any], config: SimpleBaseline) -> tuple[Tensor, Tensor]:
    """Return half the mean squared error of the heatmaps, summed over labelled joints, and their number.

    Deviation: the original's mean counts unlabelled joints, too, with an error of 0; here they do not enter.

    Args:
        heatmaps_NKHW: the head's output.
        batch: ``points``, (N, K, 3): x, y in crop pixels, and visibility.
        config: ``sigma``.
    """
    heatmaps = at_least_float32(heatmaps_NKHW)
    points = batch["points"].to(heatmaps.device, heatmaps.dtype, non_blocking=True)
    targets, learned = gaussians(points, (heatmaps.shape[2], heatmaps.shape[3]), config.sigma)
    error_NK = (heatmaps - targets).square().mean((2, 3)) / 2
    return torch.where(learned, error_NK, 0).sum(), learned.sum()


def distillation(
    heatmaps_NKHW: Tensor, teacher_NKHW: Tensor, batch: Mapping[str, Any], config: SimpleBaseline
) -> Tensor:
    """Return half the mean squared difference from a teacher's heatmaps, summed over the joints that `loss` takes."""
    heatmaps, taught = at_least_float32(heatmaps_NKHW), at_least_float32(teacher_NKHW).detach()
    points = batch["points"].to(heatmaps.device, heatmaps.dtype, non_blocking=True)
    _, learned = gaussians(points, (heatmaps.shape[2], heatmaps.shape[3]), config.sigma)
    error_NK = (heatmaps - taught).square().mean((2, 3)) / 2
    return torch.where(learned, error_NK, 0).sum()


# --- decoding ---------------------------------------------------------------------------------------------------------


def mirrored(heatmaps_NKHW: Tensor, swap: Sequence[int]) -> Tensor:
    """Return the heatmaps of a crop from those of its mirror image.

    Args:
        heatmaps_NKHW: of the mirror image.
        swap: for each joint, the joint that takes its place in the mirror (itself where there is none).
    """
    return heatmaps_NKHW.flip(3)[:, list(swap)]


def decode(heatmaps_NKHW: Tensor, rule: str, sigma: float) -> Tensor:
    """Find the joints.

    Args:
        heatmaps_NKHW: the head's output.
        rule: where in the highest pixel a joint is: ``quarter`` of a pixel towards the higher neighbour on each axis,
            as the original, or ``dark`` (arXiv:1910.06278), the top of the Gaussian that the pixels around suggest.
        sigma: standard deviation of the targets in heatmap pixels.

    Returns:
        x, y in crop pixels, and the score: the height of the peak. (N, K, 3), at least float32.
    """
    heatmaps = at_least_float32(heatmaps_NKHW)
    score, peak = heatmaps.flatten(2).max(2)
    row, column = peak // heatmaps.shape[3], peak % heatmaps.shape[3]
    offset = _quarter(heatmaps, row, column)
    if rule == "dark":
        offset = _dark(heatmaps, row, column, offset, sigma)
    xy = (torch.stack([column, row], -1) + offset + 0.5) * STRIDE
    return torch.cat([xy, score[..., None]], -1)


def _around(heatmaps: Tensor, row: Tensor, column: Tensor, radius: int) -> Tensor:
    """Return the squares around pixels, (N, K, 2 radius + 1, 2 radius + 1); at the rim, pixels repeat."""
    n, k, height, width = heatmaps.shape
    steps = torch.arange(-radius, radius + 1, device=heatmaps.device)
    rows = (row[..., None] + steps).clamp(0, height - 1)
    columns = (column[..., None] + steps).clamp(0, width - 1)
    places = rows[..., :, None] * width + columns[..., None, :]
    return heatmaps.flatten(2).gather(2, places.flatten(2)).view(n, k, len(steps), len(steps))


def _quarter(heatmaps: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Return the offset x, y, (N, K, 2): a quarter pixel towards the higher of the two neighbours, 0 at the rim."""
    around = _around(heatmaps, row, column, 1)
    slope = torch.stack([around[..., 1, 2] - around[..., 1, 0], around[..., 2, 1] - around[..., 0, 1]], -1)
    height, width = heatmaps.shape[2:]
    inside = torch.stack([(column > 0) & (column < width - 1), (row > 0) & (row < height - 1)], -1)
    return torch.where(inside, slope.sign() / 4, 0)


def _dark(heatmaps: Tensor, row: Tensor, column: Tensor, fallback: Tensor, sigma: float) -> Tensor:
    """Return the offset x, y, (N, K, 2), of a Gaussian's top by a Newton step on the logarithm of the smoothed maps.

    Where that is no maximum within a pixel and a half, or too near to the rim, `fallback` stands.
    """
    logs = _around(_smooth(heatmaps, sigma), row, column, 2).clamp_min(1e-10).log()
    slope_x, slope_y = (logs[..., 2, 3] - logs[..., 2, 1]) / 2, (logs[..., 3, 2] - logs[..., 1, 2]) / 2
    bend_x = (logs[..., 2, 4] - 2 * logs[..., 2, 2] + logs[..., 2, 0]) / 4
    bend_y = (logs[..., 4, 2] - 2 * logs[..., 2, 2] + logs[..., 0, 2]) / 4
    twist = (logs[..., 3, 3] - logs[..., 3, 1] - logs[..., 1, 3] + logs[..., 1, 1]) / 4
    determinant = bend_x * bend_y - twist**2
    is_top = (determinant > 0) & (bend_x < 0)
    safe = torch.where(is_top, determinant, 1)
    offset = torch.stack([twist * slope_y - bend_y * slope_x, twist * slope_x - bend_x * slope_y], -1) / safe[..., None]
    height, width = heatmaps.shape[2:]
    inside = (column >= RIM) & (column < width - RIM) & (row >= RIM) & (row < height - RIM)
    trusted = is_top & inside & (offset.abs() < 1.5).all(-1)
    return torch.where(trusted[..., None], offset, fallback)


def _smooth(heatmaps: Tensor, sigma: float) -> Tensor:
    """Blur with a Gaussian of the targets' own width, which evens out the several peaks a trained network makes."""
    radius = max(1, round(DARK_RADIUS * sigma))
    steps = torch.arange(-radius, radius + 1, device=heatmaps.device, dtype=heatmaps.dtype)
    kernel = torch.exp(-(steps**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    n, k, height, width = heatmaps.shape
    maps = heatmaps.reshape(n * k, 1, height, width)
    with torch.autocast(maps.device.type, enabled=False):  # half precision would move the top by a tenth of a pixel
        maps = F.conv2d(maps, kernel.view(1, 1, 1, -1), padding=(0, radius))
        maps = F.conv2d(maps, kernel.view(1, 1, -1, 1), padding=(radius, 0))
    return maps.view(n, k, height, width)
