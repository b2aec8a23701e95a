"""How paths are drawn while the super network's weights learn; `SAMPLERS` at the foot names the ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fna.arch import LayerPath, SuperArch

Sampler = Callable[[SuperArch, Sequence[Tensor] | None, torch.Generator], LayerPath]


def sample_path(arch: SuperArch, alphas: Sequence[Tensor] | None, generator: torch.Generator) -> LayerPath:
    """Draw one candidate per layer: uniformly until the alphas move, then from softmax(alpha), as the article does.

    Args:
        arch: the search space.
        alphas: one vector per layer (length = its candidates), or None before they move.
        generator: the source of chance, on the CPU.
    """
    path = []
    for i, (_, candidates) in enumerate(arch.layers()):
        n = len(candidates)
        probabilities = torch.ones(n) if alphas is None else alphas[i].detach().softmax(0)
        path.append(int(torch.multinomial(probabilities, 1, generator=generator)) if n > 1 else 0)
    return tuple(path)


SAMPLERS: dict[str, Sampler] = {"uniform": sample_path}
