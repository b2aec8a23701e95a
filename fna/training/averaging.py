"""A running average of a network's weights while it trains: timm's, with a decay that is right for short schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from timm.utils.model_ema import ModelEmaV3


def make_average(model: nn.Module, decay: float | None) -> ModelEmaV3 | None:
    """Begin an exponential moving average of everything in a model's state, running statistics of batch norms included.

    Iteration n = 1, 2 ... has the decay min(`decay`, 1 - n^(-2/3)): the first weights are forgotten at once, and the
    average reaches over the last n^(2/3) iterations (22 of 100, 100 of 1000) until `decay` takes over. So a schedule
    that is short for its decay (0.999 is reached after 31,600 iterations) is not held back by where it began.

    Statistics are averaged and not recomputed: they change slowly, and that needs no further images. Counters are
    copied.

    Args:
        model: placed; each process averages its own, which is the same in all.
        decay: in [0, 1); 0 or None: no average.
    """
    if not decay:
        return None
    from timm.utils.model_ema import ModelEmaV3  # timm takes a second to import

    return ModelEmaV3(model, decay=decay, use_warmup=True)
