"""How the alphas' gradient is estimated: which candidates an alpha step mixes; `ESTIMATORS` at the foot names them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fna.nets.supernet import Choice, Mixture

Vectors = list[Tensor]  # a vector of logits per layer


def mix_full(alphas: Vectors, draw: torch.Generator) -> Choice:
    """Mix all candidates by softmax(alpha), as the article does; time and memory of every candidate."""
    return [Mixture(tuple(range(len(a))), a.softmax(0)) if len(a) > 1 else 0 for a in alphas]


def mix_two_paths(alphas: Vectors, draw: torch.Generator) -> Choice:
    """Mix two candidates drawn from softmax(alpha), weighted between themselves (after ProxylessNAS, arXiv:1812.00332).

    Deviation: the article mixes all candidates; this costs at most two paths.
    """
    choice: list[int | Mixture] = []
    for a in alphas:
        if len(a) == 1:
            choice.append(0)
            continue
        pair = torch.multinomial(a.detach().softmax(0), 2, generator=draw).sort().values
        choice.append(Mixture(tuple(pair.tolist()), a[pair].softmax(0)))
    return choice


def mix_gumbel(alphas: Vectors, draw: torch.Generator) -> Choice:
    """Run one candidate drawn by Gumbel-softmax, weight 1 forward and soft backward (GDAS, arXiv:1910.04465)."""
    choice: list[int | Mixture] = []
    for a in alphas:
        if len(a) == 1:
            choice.append(0)
            continue
        uniform = torch.rand(len(a), generator=draw).clamp(1e-9, 1 - 1e-7)
        soft = (a.log_softmax(0) - (-uniform.log()).log()).softmax(0)
        index = int(soft.argmax())
        choice.append(Mixture((index,), (1 + (soft[index] - soft[index].detach()))[None]))
    return choice


ESTIMATORS: dict[str, Callable[[Vectors, torch.Generator], Choice]] = {
    "full": mix_full,
    "two_path": mix_two_paths,
    "gumbel": mix_gumbel,
}
