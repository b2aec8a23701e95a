"""What the training crops of every task have in common."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms import v2

FILL_RGB = (124, 116, 104)  # mean colour of ImageNet: nearly 0 after any seed's normalisation


def jitter(image_3HW: Tensor, strength: float, draws: torch.Generator) -> Tensor:
    """Change brightness, contrast and saturation by factors uniform in 1 -/+ `strength`."""
    if strength == 0:
        return image_3HW
    for adjust in (v2.functional.adjust_brightness, v2.functional.adjust_contrast, v2.functional.adjust_saturation):
        image_3HW = adjust(image_3HW, 1 + strength * (2 * uniform(draws) - 1))
    return image_3HW


def uniform(draws: torch.Generator) -> float:
    """Draw a number from [0, 1)."""
    return float(torch.rand((), generator=draws))
