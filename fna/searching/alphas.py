"""Architecture adaptation by gradient: weights on one sampled path, alphas on a mixture, cost held at the budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fna.arch import SuperArch
from fna.cost.madds import CostTable, path_cost
from fna.data.sampling import split_indices
from fna.errors import FnaError, pick
from fna.nets.supernet import Choice, Mixture, entropy, expected_cost, frozen_weights, sample_path
from fna.rng import generator
from fna.training import distributed
from fna.training.checkpoints import Checkpoints
from fna.training.engine import WeightStep, check_finite, fit, freeze_norms, global_mean, make_optimizer
from fna.training.setting import Setting, State, cpu_state, load_weights

Alphas = list[Tensor]
TINY = 1e-12  # loss below which its relative change means nothing


def objective(task_loss: Tensor, cost: Tensor, weight: float) -> Tensor:
    """Return the loss of the alphas, task + weight * lg cost.

    Args:
        task_loss: mean loss of the batch, a scalar.
        cost: expected cost of the searchable layers in 1e9 MAdds, a scalar.
        weight: the article's lambda.

    Implements: FNA++ Eq. (8).
    """
    return task_loss + weight * torch.log10(cost)


@dataclass
class Budget:
    """Holds the expected cost at a budget, in place of a fixed lambda.

    The penalty is an augmented Lagrangian of the constraint lg(cost / budget) = 0: its multiplier grows while the
    network is too dear and falls, below zero if need be, while it is too cheap. So neither all-skip nor all-largest is
    an attractor. It needs time: where the task's gradient is steep against `rate` and `weight`, a short search ends
    off the budget; `collapse` reports that, and the derivation keeps to the budget all the same.

    It is weighed against the relative change of the task's loss (the gradient of its logarithm). So one `rate` and
    `weight` serve every task, be its loss a cross entropy near 1 or the squared error of heatmaps near 0.001, beside
    which a penalty of fixed size would drown what the candidates are worth.

    Args:
        target: searchable MAdds to hold.
        rate: step size of the multiplier.
        weight: of the quadratic term.
        multiplier: the current price of a tenfold cost.
    """

    target: float
    rate: float
    weight: float
    multiplier: float = 0.0

    def penalty(self, cost: Tensor) -> Tensor:
        """Return the term to add to the task's loss, a scalar."""
        excess = torch.log10(cost / self.target)
        return self.multiplier * excess + self.weight * excess.square()

    def update(self, cost: float) -> None:
        """Move the multiplier after a step that ended at `cost`."""
        self.multiplier += self.rate * math.log10(cost / self.target)


# --- estimators of the alphas' gradient -----------------------------------------------------------


def mix_full(alphas: Alphas, draw: torch.Generator) -> Choice:
    """Mix all candidates by softmax(alpha), as the article does; time and memory of every candidate."""
    return [Mixture(tuple(range(len(a))), a.softmax(0)) if len(a) > 1 else 0 for a in alphas]


def mix_two_paths(alphas: Alphas, draw: torch.Generator) -> Choice:
    """Mix two candidates drawn from softmax(alpha), weighted between themselves (after ProxylessNAS, arXiv:1812.00332).

    Deviation: the article mixes all candidates; this costs at most two paths.
    """
    choice: list[int | Mixture] = []
    for a in alphas:
        if len(a) == 1:
            choice.append(0)
            continue
        pair = torch.multinomial(a.detach().float().cpu().softmax(0), 2, generator=draw).sort().values
        choice.append(Mixture(tuple(pair.tolist()), a[pair.to(a.device)].softmax(0)))
    return choice


def mix_gumbel(alphas: Alphas, draw: torch.Generator) -> Choice:
    """Run one candidate drawn by Gumbel-softmax, weight 1 forward and soft backward (GDAS, arXiv:1910.04465)."""
    choice: list[int | Mixture] = []
    for a in alphas:
        if len(a) == 1:
            choice.append(0)
            continue
        uniform = torch.rand(len(a), generator=draw).clamp(1e-9, 1 - 1e-7).to(a.device)
        soft = (a.log_softmax(0) - (-uniform.log()).log()).softmax(0)
        index = int(soft.argmax())
        choice.append(Mixture((index,), (1 + (soft[index] - soft[index].detach()))[None]))
    return choice


ESTIMATORS: dict[str, Callable[[Alphas, torch.Generator], Choice]] = {
    "full": mix_full,
    "two_path": mix_two_paths,
    "gumbel": mix_gumbel,
}


# --- the search -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Searched:
    """What a search ends with: logits per layer and candidate, the super network's state, and how it went."""

    alphas: list[list[float]]
    state: dict[str, Tensor]
    minutes: float
    warnings: tuple[str, ...]


class SearchLoop:
    """Alternates weight steps (one sampled path) and alpha steps (a mixture, weights frozen)."""

    def __init__(
        self,
        arch: SuperArch,
        state: State,
        table: CostTable,
        other_madds: int,
        budget: int | None,
        setting: Setting,
    ) -> None:
        self.setting, self.config, self.arch = setting, setting.config.search, arch
        self.table, self.other_madds = table, other_madds
        device = setting.compute.device
        self.costs = [torch.tensor(row, dtype=torch.float32, device=device) for row in table]
        self.fixed = sum(row[0] for row in table if len(row) == 1)  # MAdds of the layers without a choice
        self.model = setting.build(arch)
        load_weights(self.model, {**self.model.state_dict(), **state}, "the super network's start")
        if self.config.bn == "frozen":
            freeze_norms(self.model)
        self.network = setting.parallel(self.model, partial=True)
        draw = generator(setting.config.engine.rng_seed, "alphas")
        std = self.config.alpha.init_std
        self.alphas = [(std * torch.randn(len(row), generator=draw)).to(device).requires_grad_() for row in table]
        alpha = self.config.alpha
        self.alpha_optimizer = torch.optim.Adam(
            [a for a in self.alphas if len(a) > 1], lr=alpha.lr, betas=alpha.betas, weight_decay=alpha.weight_decay
        )
        self.budget = budget and Budget(float(budget), self.config.budget_rate, self.config.budget_weight)
        self.records = len(setting.train)
        self.parts = split_indices(self.records, self.config.alpha_split, setting.config.engine.rng_seed)
        self.steps_per_epoch = setting.sampler(self.parts[0], self.config.batch_size, "weights").steps_per_epoch
        setting.sampler(self.parts[1], self.config.batch_size, "alphas")  # refuses a part smaller than a batch
        self.total_steps = self.steps_per_epoch * self.config.epochs
        self.alpha_start = self.steps_per_epoch * self.config.alpha_start
        self.weight_step = WeightStep(
            self.network,
            make_optimizer(self.model, self.config.optimizer),
            self.config.optimizer,
            setting.loss,
            setting.compute,
            self.total_steps,
            self.steps_per_epoch,
        )

    def start(self, step: int) -> None:
        """Open both streams of batches at iteration `step`."""
        self.network.train()
        if self.config.bn == "frozen":
            freeze_norms(self.model)
        size = self.config.batch_size
        self.weight_batches = self.setting.batches(self.parts[0], size, "weights", step, self.total_steps)
        first, last = (self._alpha_steps_before(s) for s in (step, self.total_steps))
        self.alpha_batches = self.setting.batches(self.parts[1], size, "alphas", first, last)

    def _alpha_steps_before(self, step: int) -> int:
        return -(-max(step - self.alpha_start, 0) // self.config.cycle)

    def step(self, step: int) -> dict[str, float | None]:
        """Take a weight step and, once the alphas move, every ``cycle``-th time an alpha step."""
        active = step >= self.alpha_start
        draw = generator(self.setting.config.engine.rng_seed, "path", step)
        path = sample_path(self.arch, self.alphas if active else None, draw)
        batch, images = next(self.weight_batches)
        weights = self.weight_step(step, batch, images, path)
        alpha_loss = None
        if active and (step - self.alpha_start) % self.config.cycle == 0:
            alpha_loss = self.alpha_step(step)
        with torch.no_grad():
            expected = float(expected_cost(self.alphas, self.costs))
        return {
            "task_loss": weights["loss"],
            "alpha_loss": alpha_loss,
            "expected_madds": expected + self.other_madds,
            "sampled_madds": float(path_cost(self.table, path) + self.other_madds),
            "multiplier": self.budget.multiplier if self.budget and active else None,
            "lr": weights["lr"],
        }

    def alpha_step(self, step: int) -> float:
        """Move the alphas on held-out images, weights and running statistics untouched; return the task's loss."""
        setting = self.setting
        batch, images = next(self.alpha_batches)
        choice = ESTIMATORS[self.config.estimator](
            self.alphas, generator(setting.config.engine.rng_seed, "mixture", step)
        )
        with frozen_weights(self.model):
            with setting.compute.autocast():
                output = self.model(images, choice)
                loss_sum, weight = setting.loss(output, batch)
            task_loss, value = global_mean(loss_sum, weight, setting.compute)
            check_finite(value, "loss of the alphas", step, self.config.alpha.lr, batch)
            cost = expected_cost(self.alphas, self.costs)
            if self.budget:
                total = task_loss / max(value, TINY) + self.budget.penalty(cost)
            else:
                total = objective(task_loss, (cost - self.fixed) / 1e9, self.config.lambda_)
            self.alpha_optimizer.zero_grad(set_to_none=True)
            total.backward()
        gradients = [a.grad for a in self.alphas if a.grad is not None]
        distributed.average_(gradients)
        norm = float(torch.nn.utils.clip_grad_norm_(self.alphas, self.config.alpha.clip or math.inf))
        check_finite(norm, "gradient norm of the alphas", step, self.config.alpha.lr, batch)
        self.alpha_optimizer.step()
        if self.budget:
            with torch.no_grad():
                self.budget.update(float(expected_cost(self.alphas, self.costs)))
        return value

    def end_epoch(self, epoch: int) -> Mapping[str, Any]:
        """Return the relative entropy of each searchable layer."""
        values = entropy(self.alphas)
        names = [f"{s}.{n}" for (s, n), _ in self.arch.layers()]
        return {names[i]: values[i] for i in self.arch.searchable}

    def state(self) -> dict[str, Any]:
        """Return weights, momenta, alphas and the multiplier."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.weight_step.optimizer.state_dict(),
            "scaler": self.weight_step.scaler.state_dict(),
            "alphas": [a.detach() for a in self.alphas],
            "alpha_optimizer": self.alpha_optimizer.state_dict(),
            "multiplier": self.budget.multiplier if self.budget else 0.0,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Restore `state`."""
        load_weights(self.model, state["model"], "the checkpoint of the search")
        self.weight_step.optimizer.load_state_dict(state["optimizer"])
        self.weight_step.scaler.load_state_dict(state["scaler"])
        with torch.no_grad():
            for alpha, saved in zip(self.alphas, state["alphas"], strict=True):
                alpha.copy_(saved)
        self.alpha_optimizer.load_state_dict(state["alpha_optimizer"])
        if self.budget:
            self.budget.multiplier = state["multiplier"]


def search(
    arch: SuperArch,
    state: State,
    table: CostTable,
    other_madds: int,
    budget: int | None,
    setting: Setting,
    *,
    checkpoints: Checkpoints | None = None,
    logs: tuple[Path, Path] | None = None,
) -> Searched:
    """Adapt the architecture: train the super network and its alphas on the target task.

    Args:
        arch: the search space (undilated).
        state: the super network's weights, ``backbone.*`` and, if there, ``head.*``.
        table: MAdds per layer and candidate.
        other_madds: MAdds of the network outside the table (stem, head), for the logs.
        budget: MAdds of the table's layers to hold, or None for the article's fixed lambda.
        setting: task, data, hardware, configuration.
        checkpoints: where to keep the state to resume from.
        logs: CSV files of iterations and epochs.

    Raises:
        FnaError: bad numbers, too few images, or a collapse with ``engine.strict``.
    """
    pick(ESTIMATORS, setting.config.search.estimator, "estimator")
    loop = SearchLoop(arch, state, table, other_madds, budget, setting)
    minutes = fit(loop, checkpoints, logs, "search", setting.config.engine, setting.compute)
    warnings = tuple(collapse(arch, loop.alphas, loop.costs, budget))
    if warnings and setting.config.engine.strict:
        raise FnaError(" ".join(warnings))
    return Searched([a.detach().cpu().tolist() for a in loop.alphas], cpu_state(loop.model), minutes, warnings)


def collapse(arch: SuperArch, alphas: Alphas, costs: Sequence[Tensor], budget: int | None) -> list[str]:
    """Return warnings about alphas that ran away to skips or away from the budget."""
    warnings = []
    winners = [candidates[int(a.argmax())] for a, (_, candidates) in zip(alphas, arch.layers(), strict=True)]
    skippable = [
        i for i, (_, candidates) in enumerate(arch.layers()) if len(candidates) > 1 and candidates[-1].kind == "skip"
    ]
    skipped = sum(winners[i].kind == "skip" for i in skippable)
    if skippable and skipped > 0.9 * len(skippable):
        remedy = "a larger search.budget" if budget else "a budget in place of a lambda"
        warnings.append(
            f"the search collapsed: {skipped} of {len(skippable)} layers prefer to be skipped. "
            f"Train weights longer first (search.alpha_start), lower search.alpha.lr, or use {remedy}."
        )
    if budget:
        ratio = float(expected_cost(alphas, costs).detach()) / budget
        if not 0.8 <= ratio <= 1.25:
            warnings.append(
                f"the expected cost ended at {ratio:.2f} x the budget: raise search.budget_weight or search.budget_rate"
            )
    return warnings
