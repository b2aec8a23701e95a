"""Architecture adaptation by gradient: weights on one sampled path, alphas on a mixture, cost held at the budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from fna.arch import LayerPath, SuperArch
from fna.arch.target import Form
from fna.config import SearchConfig
from fna.config.budgets import UNITS, parse_budget
from fna.cost.costs import Costs, find_measure
from fna.cost.units import shown_in
from fna.errors import FnaError, pick
from fna.nets.supernet import SuperBackbone, entropy, expected_cost, frozen_weights
from fna.nets.tying import tie
from fna.nets.weights import Network, cpu_state, load_weights
from fna.progress import say
from fna.rng import generator
from fna.searching.choosing import CHOOSERS
from fna.searching.collapsing import collapse
from fna.searching.distilling import Lesson, teach
from fna.searching.estimators import ESTIMATORS, tangent
from fna.searching.forms import MEASURED, SEEDS, Forms, allowed, slim_heads, strided_backbones
from fna.searching.found import Alphas, Evidence, Found
from fna.searching.halving import halve
from fna.searching.measured import measure
from fna.searching.parting import part_records
from fna.searching.penalty import Holder, objective
from fna.searching.sampling import SAMPLERS, Step
from fna.tasks.problem import Problem
from fna.training import distributed
from fna.training.batches import Stream, make_sampler
from fna.training.checkpoints import SCORES, Checkpoints
from fna.training.clock import Spent
from fna.training.compute import Compute
from fna.training.engine import WeightStep, fit, make_optimizer
from fna.training.freezing import freeze_norms
from fna.training.memory import in_memory
from fna.training.readings import Readings, Row, check_finite

TINY = 1e-12  # loss below which its relative change means nothing


class SearchLoop:
    """Alternates weight steps (one sampled path) and alpha steps (a mixture, weights frozen)."""

    def __init__(
        self,
        network: Network[SuperArch],
        problem: Problem,
        data: Any,
        compute: Compute,
        costs: Costs,
        limit: int | None,
        smaller: Sequence[int] = (),
    ) -> None:
        self.problem, self.data, self.compute = problem, data, compute
        self.config, self.arch, self.costs = problem.config.search, network.arch, costs
        self.learns_alphas = self.config.chooser not in MEASURED
        self.limit = limit
        self.limits = (limit, *smaller)  # that targets will be derived at
        self.forms = Forms.of(problem, costs, UNITS[costs.unit], network.arch, limit)
        self.table = [torch.tensor(row, dtype=torch.float32) for row in costs.table]
        self.fixed = sum(row[0] for row in costs.table if len(row) == 1)  # cost of the layers without a choice
        self.model = problem.build(network.arch)
        load_weights(self.model, {**self.model.state_dict(), **network.state}, "the super network's start")
        if self.config.bn == "frozen":
            freeze_norms(self.model)
        self.network = compute.parallel(self.model, partial=True)
        if self.config.tied:
            tie(self.model)
        self.slims = slim_heads(self.model, problem, network.arch.seed, self.forms, compute)
        own = cast(SuperBackbone, self.model.backbone)
        self.backbones = strided_backbones(own, problem, network.arch, self.forms, compute)
        self._make_alphas()
        self.overflowed = 0  # alpha steps that fp16 could not hold
        held = None if limit is None or not self.learns_alphas else float(limit - costs.other)
        self.holder = None if held is None else Holder(held, self.config.budget_rate, self.config.budget_weight)
        self.records = len(data)
        self.parts = part_records(data, self.config, compute.rng_seed, compute.world.size)
        size = self.config.batch_size
        sampler = make_sampler(data, self.parts[0], size, "weights", compute)
        self.steps_per_epoch, self.left_out = sampler.steps_per_epoch, sampler.left_out
        self.total_steps = self.steps_per_epoch * self.config.epochs
        self.alpha_start = self.steps_per_epoch * self.config.alpha_start if self.learns_alphas else self.total_steps
        self.weight_step = WeightStep(
            self.network,
            make_optimizer(self.model, self.config.optimizer),
            self.config.optimizer,
            problem.loss,
            compute,
            self.total_steps,
            self.steps_per_epoch,
        )

    def _make_alphas(self) -> None:
        """Draw the alphas; they live on the CPU, where paths are drawn, and go to the device as weights of maps."""
        alpha, draw = self.config.alpha, generator(self.compute.rng_seed, "alphas")
        rows = self.costs.table
        if all(len(row) == 1 for row in rows):
            raise FnaError(
                "the search space has a single candidate at every layer: there is nothing to search; give more "
                "--space.kernels, --space.expansions or --space.layers in another run"
            )
        self.alphas = [(alpha.init_std * torch.randn(len(row), generator=draw)).requires_grad_() for row in rows]
        self.alpha_optimizer = torch.optim.Adam(
            [a for a in self.alphas if len(a) > 1], lr=alpha.lr, betas=alpha.betas, weight_decay=alpha.weight_decay
        )

    def start(self, step: int) -> None:
        """Open both streams of batches at iteration `step`."""
        self.network.train()
        if self.config.bn == "frozen":
            freeze_norms(self.model)
        size, (own, others), compute = self.config.batch_size, self.parts, self.compute
        weights = Stream(
            self.problem, self.data, own, size, "weights", compute, lambda step: self.drawn_for(step)[0].scale
        )
        self.weight_batches = weights.batches(step, self.total_steps)
        first, last = (self._alpha_steps_before(s) for s in (step, self.total_steps))
        self.alpha_batches = Stream(self.problem, self.data, others, size, "alphas", compute).batches(first, last)

    def drawn_for(self, step: int) -> tuple[Form, Step]:
        """Return the form of a weight step and what its path is drawn for; an anchor runs the seed in any form."""
        draw = generator(self.compute.rng_seed, "form", step)
        anchor = self.config.sampler == "anchored" and float(torch.rand((), generator=draw)) < self.config.anchor
        limit = self.limits[int(torch.randint(len(self.limits), (), generator=draw))]
        form = self.forms.draw(limit, draw)
        return form, Step(self.arch, self.forms.costs[form], limit, self.config, anchor)

    def _alpha_steps_before(self, step: int) -> int:
        return -(-max(step - self.alpha_start, 0) // self.config.cycle)

    @property
    def readings(self) -> Readings:
        """Where the numbers of iterations are read."""
        return self.weight_step.readings

    def step(self, step: int) -> Row:
        """Take a weight step and, once the alphas move, every ``cycle``-th time an alpha step."""
        active = step >= self.alpha_start
        draw = generator(self.compute.rng_seed, "path", step)
        form, drawn_for = self.drawn_for(step)
        path = SAMPLERS[self.config.sampler](drawn_for, self.alphas if active else None, draw)
        batch, images = next(self.weight_batches)
        lesson = self._lesson(path, form, images)
        self._as(form, lesson)
        weights = self.weight_step(step, batch, images, path)
        self._as(SEEDS)
        alpha_loss = None
        if active and (step - self.alpha_start) % self.config.cycle == 0:
            alpha_loss = self.alpha_step(step)
        with torch.no_grad():
            expected = float(expected_cost(self.alphas, self.table)) + self.costs.other
        distance = lesson.distance if lesson else None
        return {
            "task_loss": weights["loss"] if distance is None else weights["loss"] - self.config.distill * distance,
            **({"distillation": distance} if self.config.distill else {}),
            "alpha_loss": alpha_loss,
            "expected_cost": expected if self.costs.additive else None,
            "sampled_cost": float(drawn_for.costs.whole(path)),
            "multiplier": self.holder.multiplier if self.holder and active else None,
            "lr": weights["lr"],
        }

    def _lesson(self, path: LayerPath, form: Form, images: Tensor) -> Lesson | None:
        """Return what the seed's path, head and all, teaches a step; None: it is that path, or nothing is taught."""
        seeds = SEEDS._replace(scale=form.scale)
        if not self.config.distill or (path, form) == (self.arch.seed_path(), seeds):
            return None
        self._as(seeds)
        output = teach(self.model, self.arch.seed_path(), images, self.compute)
        return Lesson(self.problem.at(form), output, self.config.distill)

    def _as(self, form: Form, lesson: Lesson | None = None) -> None:
        """Let the super network have a form until it is given another."""
        problem = self.problem.at(form)
        self.model.backbone = self.backbones[form.output_stride]
        self.model.slim = self.slims.get(form._replace(scale=1.0))
        problem.tune(self.model.slim.narrow if self.model.slim else self.model.head)
        self.weight_step.loss = lesson or problem.loss

    def alpha_step(self, step: int) -> float:
        """Move the alphas on held-out images, weights and running statistics untouched; return the task's loss."""
        config, compute, scaler = self.config, self.compute, self.weight_step.scaler
        batch, images = next(self.alpha_batches)
        choice = ESTIMATORS[config.estimator](self.alphas, generator(compute.rng_seed, "mixture", step))
        with frozen_weights(self.model):
            value, task_loss = tangent(self.model, self.problem, choice, images, batch, compute, scaler)
        if not math.isfinite(value):
            self.readings.settle()  # it may be the weights, and an earlier batch
        check_finite(value, "loss of the alphas", step, config.alpha.lr, batch)
        cost = expected_cost(self.alphas, self.table)
        if self.holder:
            total = task_loss / max(value, TINY) + self.holder.penalty(cost)
        else:
            total = objective(task_loss, (cost - self.fixed) / shown_in(self.costs.unit).per, config.lambda_)
        self.alpha_optimizer.zero_grad(set_to_none=True)
        total.backward()
        gradients = [a.grad for a in self.alphas if a.grad is not None]
        distributed.average_(gradients)
        norm = float(torch.nn.utils.clip_grad_norm_(self.alphas, config.alpha.clip or math.inf))
        if scaler.is_enabled() and not math.isfinite(norm):  # fp16 skips a step that overflows
            self.overflowed += 1
            return value
        check_finite(norm, "gradient norm of the alphas", step, config.alpha.lr, batch)
        self.alpha_optimizer.step()
        if self.holder:
            with torch.no_grad():
                self.holder.update(float(expected_cost(self.alphas, self.table)))
        return value

    def end_epoch(self, epoch: int) -> Mapping[str, Any]:
        """Return the relative entropy of each searchable layer, if alphas are learned."""
        if not self.learns_alphas:
            return {}
        values = entropy(self.alphas)
        names = [f"{s}.{n}" for (s, n), _ in self.arch.layers()]
        return {names[i]: values[i] for i in self.arch.searchable}

    def lost(self) -> list[str]:
        """Return a warning if alpha steps were skipped."""
        if not self.overflowed:
            return []
        steps = self._alpha_steps_before(self.total_steps)
        return [f"fp16 overflowed in {self.overflowed} of {steps} alpha steps, which were skipped: use bf16 or fp32"]

    def state(self) -> dict[str, Any]:
        """Return weights, momenta, alphas, the multiplier and how many alpha steps overflowed."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.weight_step.optimizer.state_dict(),
            "scaler": self.weight_step.scaler.state_dict(),
            "alphas": [a.detach() for a in self.alphas],
            "alpha_optimizer": self.alpha_optimizer.state_dict(),
            "multiplier": self.holder.multiplier if self.holder else 0.0,
            "overflowed": self.overflowed,
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
        self.overflowed = state.get("overflowed", 0)  # not in older checkpoints
        if self.holder:
            self.holder.multiplier = state["multiplier"]


def search(
    network: Network[SuperArch],
    problem: Problem,
    data: Any,
    compute: Compute,
    *,
    checkpoints: Checkpoints | None = None,
    logs: tuple[Path, Path] | None = None,
) -> Found:
    """Adapt the architecture: train a super network and its alphas on the target task (FNA++ section 3.2.2).

    Args:
        network: the super network, as `expand` made it.
        problem: what it is for; ``search.budget`` is what the expected cost is held at, null: the fixed lambda.
        data: the training split.
        compute: hardware and processes.
        checkpoints: where to keep the state to resume from.
        logs: CSV files of iterations and epochs.

    Raises:
        FnaError: bad numbers, too few images, a budget the space cannot meet, or a collapse with ``engine.strict``.
    """
    config = problem.config.search
    check_settings(config)
    budget = None if config.budget is None else parse_budget(config.budget)
    costs = problem.costs(network.arch, budget.cost if budget else "madds")
    limit = allowed(budget, problem, network.arch, costs, "search.budget") if budget else None
    loop = SearchLoop(
        network, problem, data, compute, costs, limit, smaller_limits(problem, network.arch, costs, limit)
    )
    held = None if limit is None else {"text": str(budget), "cost": limit}
    finest = max(loop.forms.choices, key=lambda form: form.scale / (form.output_stride or problem.config.task.stride))
    largest = problem.at(finest._replace(head_width=1.0, tower_depth=None))
    with in_memory("search", config, largest, network.arch.seed, compute):
        evidence, warnings, spent = _evidence(loop, checkpoints, logs)
    for warning in warnings:
        say(f"search: {warning}")
    trained = Network(network.arch, cpu_state(loop.model))
    return Found(trained, evidence, costs.unit, held, spent, config.sampler, config.chooser, warnings)


def _evidence(
    loop: SearchLoop, checkpoints: Checkpoints | None, logs: tuple[Path, Path] | None
) -> tuple[Evidence, tuple[str, ...], Spent]:
    """Train and choose; return what tells architectures apart, what looks wrong, and the time it took."""
    if loop.config.chooser == "halving":  # the super network stays as the seed left it
        return halve(loop, checkpoints)
    measured, engine = not loop.learns_alphas, loop.problem.config.engine
    spent = fit(loop, checkpoints, logs, "search", engine, loop.compute, keeps_end=measured)
    if measured:
        pool, warnings, scoring = measure(loop, checkpoints.path / SCORES if checkpoints else None)
        return pool, warnings, spent + scoring
    held_at = loop.holder.target if loop.holder else None
    warnings = (*collapse(loop.arch, loop.alphas, loop.table, held_at), *loop.lost())
    if warnings and engine.strict:
        raise FnaError(" ".join(warnings))
    return Alphas([a.detach().tolist() for a in loop.alphas]), warnings, spent


def smaller_limits(problem: Problem, space: SuperArch, costs: Costs, limit: int | None) -> list[int]:
    """Return what ``search.smaller_budgets`` allow, in the unit of the budget itself.

    Raises:
        FnaError: there is no budget, one is not below it or counts something else, or no network is within one.
    """
    limits = []
    for given in problem.config.search.smaller_budgets:
        budget = parse_budget(given)
        if limit is None or problem.config.search.chooser != "measured":
            raise FnaError("search.smaller_budgets need a search.budget and the chooser measured")
        if find_measure(budget.cost).unit != costs.unit:
            raise FnaError(f"search.smaller_budgets: {budget} counts another thing than search.budget ({costs.unit})")
        limits.append(allowed(budget, problem, space, costs, "search.smaller_budgets"))
        if limits[-1] >= limit:
            raise FnaError(f"search.smaller_budgets: {budget} is not below search.budget; swap them")
    return limits


def check_settings(config: SearchConfig) -> None:
    """Raise an `FnaError` unless all names of the settings are in their tables, and alphas can learn the budget's cost.

    Alphas are held at an expected cost (Eq. 9), which is a sum over the layers.
    """
    pick(ESTIMATORS, config.estimator, "estimator")
    pick(SAMPLERS, config.sampler, "sampler")
    pick(CHOOSERS, config.chooser, "chooser")
    budget = None if config.budget is None else parse_budget(config.budget)
    if budget and config.chooser not in MEASURED and find_measure(budget.cost).join is not sum:
        raise FnaError(
            f"search.budget {budget} is a peak, that of one layer, but search.chooser {config.chooser} learns alphas, "
            "under a cost that is a sum over the layers: type --search.chooser measured, or search within MAdds and "
            f"then give --derive.budget '{budget}'"
        )
