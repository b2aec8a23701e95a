"""Narrower heads as slices of a wider one: the same weights, its first channels (width rule `first`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

Joined = Mapping[str, Sequence[int]]  # weight's name -> channels of each map that is joined to make its input


def joined(head: nn.Module) -> Joined:
    """Return which weights of a head read several maps joined, and how many channels each of them has."""
    found: Joined = getattr(head, "joined", {})
    return found


def slices(state: Mapping[str, Tensor], wide: nn.Module, narrow: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a narrow head as the first channels of a wide one's; views, but where maps are joined.

    Args:
        state: the wide head's parameters and buffers by name, or some of them.
        wide: the wide head, maybe on the meta device.
        narrow: the same head with fewer channels, maybe on the meta device.
    """
    many, few = joined(wide), joined(narrow)
    cut = {}
    for name, wanted in narrow.state_dict().items():
        if name not in state:
            continue
        tensor = state[name]
        if name in many:
            parts = tensor.split(list(many[name]), dim=1)
            tensor = torch.cat([part[:, :n] for part, n in zip(parts, few[name], strict=True)], 1)
        cut[name] = tensor[tuple(slice(size) for size in wanted.shape)]
    return cut


class SlimHead:
    """A head whose weights are slices of a wide one's: what trains it, trains them.

    No module of its own, so that a network which uses one now and then has the weights of the wide head only.

    Args:
        wide: the head that has the weights.
        narrow: the same head with fewer channels, on the meta device.
    """

    def __init__(self, wide: nn.Module, narrow: nn.Module) -> None:
        self.wide, self.narrow = wide, narrow

    def __call__(self, features: Sequence[Tensor], size_hw: tuple[int, int]) -> Any:
        """Return what a head with the sliced weights makes of the features; statistics run in the wide one."""
        state = {**dict(self.wide.named_parameters()), **dict(self.wide.named_buffers())}
        self.narrow.train(self.wide.training)
        return functional_call(self.narrow, slices(state, self.wide, self.narrow), (features, size_hw))
