"""Class weights: how much more the loss of a rare class counts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fna.errors import FnaError, nearest
from fna.tasks.labels import Labels


def class_weights(setting: Any, data: Any, labels: Labels) -> Tensor | None:
    """Return the weight of each class, (C,), or None where all count alike.

    Args:
        setting: of ``adapt.class_weights``: ``none``; ``balanced``, by all pixels or boxes / (classes x those of the
            class); a weight for each class, in order, or some by name, where the others have 1.
        data: the training split; its `class_counts` where balanced.
        labels: the classes.

    Raises:
        FnaError: the setting does not fit the classes.
    """
    names = labels.classes
    if setting == "none":
        return None
    if setting == "balanced":
        if not hasattr(data, "class_counts"):
            raise FnaError("adapt.class_weights is balanced, but these data have no class_counts(); give the weights")
        counts = torch.tensor(data.class_counts(), dtype=torch.float32)
        return torch.where(counts > 0, counts.sum() / (len(names) * counts.clamp_min(1)), 1.0)
    if isinstance(setting, dict):
        if unknown := [name for name in setting if name not in names]:
            raise FnaError(
                f"adapt.class_weights has '{unknown[0]}'{nearest(unknown[0], names)}; there is {', '.join(names)}"
            )
        setting = [setting.get(name, 1.0) for name in names]
    if len(setting) != len(names):
        raise FnaError(
            f"adapt.class_weights has {len(setting)} weights, but there are {len(names)} classes: {', '.join(names)}"
        )
    return torch.tensor(list(setting), dtype=torch.float32)
