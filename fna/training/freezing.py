"""What of a network does not learn."""

from __future__ import annotations

from typing import Any

from fna.errors import FnaError
from fna.nets.network import Model
from fna.training.norms import norms


def freeze_norms(model: Model) -> None:
    """Fix affine parameters and statistics of the backbone's batch norms; call again after every ``train()``."""
    for norm in norms(model.backbone):
        norm.eval()
        norm.requires_grad_(False)


def check_freeze(what: str | int, stages: int) -> None:
    """Raise an `FnaError` if more stages are to be frozen than there are."""
    if isinstance(what, int) and what > stages:
        raise FnaError(f"adapt.freeze is {what}, but this backbone has {stages} stages; for all: backbone")


def freeze(model: Model, what: str | int) -> None:
    """Let parts of the backbone learn no more, batch norms included; call again after every ``train()``.

    Args:
        model: its backbone is not a super network.
        what: ``none``, ``stem``, ``backbone``, or a number n: the stem and the first n stages.

    Raises:
        FnaError: there are fewer stages.
    """
    if what == "none":
        return
    backbone: Any = model.backbone
    stages = list(backbone.stages)
    number = what if isinstance(what, int) else 0 if what == "stem" else len(stages)
    check_freeze(what, len(stages))
    for part in (backbone.stem, *stages[:number]):
        part.eval()
        part.requires_grad_(False)
