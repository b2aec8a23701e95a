"""How the alphas' gradient is estimated: which candidates an alpha step mixes; `ESTIMATORS` names them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fna.nets.supernet import Choice, Mixture
from fna.tasks.problem import Problem
from fna.training.compute import Compute
from fna.training.engine import Batch, global_mean

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


def tangent(
    model: nn.Module,
    problem: Problem,
    choice: Choice,
    images_N3HW: Tensor,
    batch: Batch,
    compute: Compute,
    scaler: torch.amp.GradScaler,
) -> tuple[float, Tensor]:
    """Return the mean loss of a mixture, and a scalar on the CPU whose gradient in the alphas is that of the loss.

    Alphas live on the CPU, where paths are drawn, and the next path may depend on them: so the device is read, once.

    Args:
        model: the super network, its weights frozen.
        problem: whose loss it is.
        choice: of `ESTIMATORS`, its weights on the CPU.
        images_N3HW: normalised, on the device.
        batch: the truth.
        compute: hardware and processes.
        scaler: of the weight steps; what overflows with fp16 gives infinity or NaN.
    """
    mixtures = [part for part in choice if isinstance(part, Mixture)]
    flat = torch.cat([part.weights for part in mixtures])
    weights = flat.detach().to(compute.device, non_blocking=True).requires_grad_()
    placed = iter(weights.split([len(part.weights) for part in mixtures]))
    there: list[Any] = [Mixture(p.indices, next(placed)) if isinstance(p, Mixture) else p for p in choice]
    with compute.autocast():
        loss, value = global_mean(*problem.loss(model(images_N3HW, there), batch), compute)
    (slope,) = torch.autograd.grad(scaler.scale(loss), weights)
    read = torch.cat([torch.stack([value, scaler.scale(torch.ones_like(value))]), slope]).cpu()
    return float(read[0]), (flat * (read[2:] / read[1])).sum()
