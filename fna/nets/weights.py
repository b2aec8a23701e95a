"""Weights as a dict: a network is an architecture and its state; names below ``backbone.`` and ``head.``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic

import torch
from torch import Tensor, nn

from fna.arch import A
from fna.arch.target import Form
from fna.errors import FnaError

State = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Network(Generic[A]):
    """An architecture and its weights.

    Args:
        arch: an `Arch`, or of a super network its `SuperArch`; undilated.
        state: weights by name: ``backbone.*`` and, once the network has learned the task, ``head.*``.
        head_width: channels of the head, x those of the settings.
        scale: side of what the network sees, x that of the settings.
        output_stride: pixels of that per pixel of the last feature map; None: that of the settings.
        tower_depth: convolutions in each tower of the head; None: those of the settings.
    """

    arch: A
    state: State
    head_width: float = 1.0
    scale: float = 1.0
    output_stride: int | None = None
    tower_depth: int | None = None

    @property
    def form(self) -> Form:
        """All but its architecture and weights."""
        return Form(self.head_width, self.scale, self.output_stride, self.tower_depth)


def load_weights(model: nn.Module, state: State, what: str) -> None:
    """Load weights strictly.

    Raises:
        FnaError: tensors are missing, unknown or of another shape.
    """
    own = model.state_dict()
    missing = sorted(set(own) - set(state))
    unknown = sorted(set(state) - set(own))
    misfit = sorted(k for k in set(own) & set(state) if own[k].shape != state[k].shape)
    for names, problem in ((missing, "lacks"), (unknown, "has unknown"), (misfit, "has wrongly shaped")):
        if names:
            raise FnaError(
                f"{what} {problem} {len(names)} tensors, the first '{names[0]}'; it belongs to another network"
            )
    model.load_state_dict(dict(state))


def take(state: State, prefix: str) -> dict[str, Tensor]:
    """Return the tensors below ``prefix.``, without it."""
    return {name.removeprefix(prefix + "."): t for name, t in state.items() if name.startswith(prefix + ".")}


def put(state: State, prefix: str) -> dict[str, Tensor]:
    """Return the tensors with ``prefix.`` before their names."""
    return {f"{prefix}.{name}": tensor for name, tensor in state.items()}


def backbone_only(state: State) -> dict[str, Tensor]:
    """Return the tensors of stem and stages, without those of a classifier."""
    return {name: tensor for name, tensor in state.items() if name.startswith(("stem.", "stages."))}


def cpu_state(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a model's state on the CPU, contiguous."""
    return {
        name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in model.state_dict().items()
    }
