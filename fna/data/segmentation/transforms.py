"""Training crops: pure functions of (rng_seed, epoch, index), the same in any worker, rank or resumed run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset
from torchvision.transforms import v2

from fna.config import SegmentationDataConfig
from fna.data.augmenting import FILL_RGB, jitter, uniform
from fna.data.listing import IGNORE
from fna.data.segmentation.pixels import SegmentationData
from fna.errors import FnaError
from fna.rng import generator

TRIES = 5  # crops drawn until one has a labelled pixel


class Crop(TypedDict):
    """A training sample: image uint8 (3, H, W), mask uint8 (H, W), and the record's index in the data."""

    image: Tensor
    mask: Tensor
    index: int


class Batch(TypedDict):
    """Crops of a step: image uint8 (N, 3, H, W) in channels-last order, mask uint8 (N, H, W), index int64 (N,)."""

    image: Tensor
    mask: Tensor
    index: Tensor


class TrainView(Dataset[Crop]):
    """Random crops of some records: resize by `scale`, crop, pad, flip, colour jitter.

    Args:
        data: where the records are.
        indices: records of this view; a position is an index into them.
        config: crop, scale, flip and color_jitter.
        rng_seed: the run's seed.

    Raises:
        FnaError: `scale` is not a range of positive factors.
    """

    def __init__(
        self, data: SegmentationData, indices: Sequence[int], config: SegmentationDataConfig, rng_seed: int
    ) -> None:
        low, high = self.scale = config.resize
        if not 0 < low <= high:
            raise FnaError(f"data.scale is [{low:g}, {high:g}]; expected [smallest, largest] above 0, e.g. [0.75, 2]")
        self.data = data
        self.indices = tuple(indices)
        self.config = config
        self.rng_seed = rng_seed

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: tuple[int, int]) -> Crop:
        """Return the crop of `key` = (epoch, position)."""
        epoch, position = key
        index = self.indices[position]
        draws = generator(self.rng_seed, "augment", epoch, index)
        image_3HW, mask_HW = self.data.load(index)
        for _ in range(TRIES):
            window = draw_window(tuple(mask_HW.shape), self.config.crop, self.scale, draws)
            crop_HW = window.cut_mask(mask_HW)
            if bool((crop_HW != IGNORE).any()):
                break
        crop_3HW = window.cut_image(image_3HW)
        if self.config.flip and uniform(draws) < 0.5:
            crop_3HW, crop_HW = v2.functional.horizontal_flip(crop_3HW), v2.functional.horizontal_flip(crop_HW)
        return {"image": jitter(crop_3HW, self.config.color_jitter, draws), "mask": crop_HW, "index": index}


def collate(crops: Sequence[Crop]) -> Batch:
    """Stack crops; images keep their channels-last order in memory."""
    return {
        "image": torch.stack([crop["image"].permute(1, 2, 0) for crop in crops]).permute(0, 3, 1, 2),
        "mask": torch.stack([crop["mask"] for crop in crops]),
        "index": torch.tensor([crop["index"] for crop in crops]),
    }


@dataclass(frozen=True)
class Window:
    """A region of an image and where it lands in the crop; all pairs are (vertical, horizontal) pixels.

    Only the region is resized, not the image: the same pixels as resizing first, but for the filter at its border.
    """

    start: tuple[int, int]
    size: tuple[int, int]
    resized: tuple[int, int]
    offset: tuple[int, int]
    crop: tuple[int, int]

    def cut_image(self, image_3HW: Tensor) -> Tensor:
        """Return the crop of an image, uint8 (3, *crop): bilinear with antialiasing, padded with `FILL_RGB`."""
        region: Tensor = v2.functional.resize(self._region(image_3HW), list(self.resized), antialias=True)
        if self.resized == self.crop:
            return region
        fill = torch.tensor(FILL_RGB, dtype=torch.uint8).view(3, 1, 1)
        return self._paste(region, fill.expand(3, *self.crop).clone())

    def cut_mask(self, mask_HW: Tensor) -> Tensor:
        """Return the crop of a mask, uint8 (*crop): nearest pixel, padded with `IGNORE`."""
        region = interpolate(self._region(mask_HW)[None, None], self.resized, mode="nearest-exact")[0, 0]
        if self.resized == self.crop:
            return region
        return self._paste(region, torch.full(self.crop, IGNORE, dtype=torch.uint8))

    def _region(self, pixels: Tensor) -> Tensor:
        (y, x), (h, w) = self.start, self.size
        return pixels[..., y : y + h, x : x + w]

    def _paste(self, region: Tensor, canvas: Tensor) -> Tensor:
        (y, x), (h, w) = self.offset, self.resized
        canvas[..., y : y + h, x : x + w] = region
        return canvas


def draw_window(
    size: tuple[int, ...], crop: tuple[int, int], scale: tuple[float, float], draws: torch.Generator
) -> Window:
    """Draw a window: the image resized by a factor uniform in `scale`, cropped, or padded where it is too small.

    Args:
        size: height, width of the image in pixels.
        crop: height, width of the crop in pixels.
        scale: smallest and largest factor.
        draws: where randomness comes from.
    """
    factor = scale[0] + (scale[1] - scale[0]) * uniform(draws)
    y, x = (_draw_axis(n, c, factor, draws) for n, c in zip(size, crop, strict=True))
    return Window((y[0], x[0]), (y[1], x[1]), (y[2], x[2]), (y[3], x[3]), crop)


def _draw_axis(length: int, crop: int, factor: float, draws: torch.Generator) -> tuple[int, int, int, int]:
    """Return start and size of the region, its size when resized, and its offset in the crop."""
    wanted = max(1, round(crop / factor))
    if wanted <= length:
        return _integer(length - wanted + 1, draws), wanted, crop, 0
    resized = min(crop, max(1, round(length * factor)))
    return 0, length, resized, _integer(crop - resized + 1, draws)


def _integer(stop: int, draws: torch.Generator) -> int:
    return int(torch.randint(stop, (), generator=draws))
