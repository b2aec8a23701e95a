"""Parameter adaptation: fine-tune any architecture from any weights under one schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fna.arch import Arch
from fna.config import AdaptConfig
from fna.data.splits import Splits
from fna.nets.weights import Network, State, cpu_state, load_weights
from fna.progress import say
from fna.stages.evaluate import evaluate
from fna.tasks.problem import Problem
from fna.tasks.weighting import class_weights
from fna.training.averaging import make_average
from fna.training.batches import Stream, make_sampler
from fna.training.checkpoints import Checkpoints
from fna.training.clock import Spent
from fna.training.compute import Compute
from fna.training.engine import WeightStep, fit, make_optimizer
from fna.training.freezing import freeze, freeze_norms
from fna.training.memory import in_memory
from fna.training.norms import recalibrate
from fna.training.readings import Readings, Row


@dataclass(frozen=True, eq=False)
class Tuned:
    """A fine-tuned network, its scores on the validation split, the time training took, the epoch that was kept.

    `frozen_params` of its parameters did not learn.
    """

    network: Network[Arch]
    scores: dict[str, Any]
    spent: Spent
    epoch: int
    frozen_params: int


class AdaptLoop:
    """Plain training of one network, scored on the validation split as it goes."""

    def __init__(
        self, network: Network[Arch], problem: Problem, data: Splits, compute: Compute, config: AdaptConfig
    ) -> None:
        self.problem, self.data, self.compute, self.config = problem, data, compute, config
        self.model = problem.build(network.arch)
        load_weights(self.model, {**self.model.state_dict(), **network.state}, f"the start of '{config.folder}'")
        weights_C = class_weights(config.class_weights, data.train, problem.labels)
        self.class_weights = None if weights_C is None else weights_C.to(compute.device)
        self._freeze()
        self.network = compute.parallel(self.model, partial=False)
        self.records = len(data.train)
        self.indices = range(self.records)
        sampler = make_sampler(data.train, self.indices, config.batch_size, "adapt", compute)
        self.steps_per_epoch, self.left_out = sampler.steps_per_epoch, sampler.left_out
        self.total_steps = self.steps_per_epoch * config.epochs
        self.average = make_average(self.model, config.ema)
        self.scores: dict[str, Any] = {}
        self.best: dict[str, Any] = {}  # epoch, score and state of the best epoch, if that is to be kept
        self.best_scores: dict[str, Any] = {}
        self.weight_step = WeightStep(
            self.network,
            make_optimizer(self.model, config.optimizer),
            config.optimizer,
            self._loss,
            compute,
            self.total_steps,
            self.steps_per_epoch,
            config.accumulate,
        )

    def start(self, step: int) -> None:
        """Recalibrate batch norms before the first iteration, then open the stream of batches."""
        config = self.config
        if step == 0 and config.recalibrate:
            warm = self._batches("recalibrate", 0, config.recalibrate)
            recalibrate(self.model, (images for _, images in warm), config.recalibrate, self.compute)
        self._train()
        self.batches = self._batches("adapt", step, self.total_steps)

    def _batches(self, purpose: str, first: int, last: int) -> Any:
        size = self.config.batch_size
        stream = Stream(self.problem, self.data.train, self.indices, size, purpose, self.compute)
        return stream.batches(first, last)

    def _train(self) -> None:
        self.network.train()
        self._freeze()

    def _freeze(self) -> None:
        if self.config.bn == "frozen":
            freeze_norms(self.model)
        freeze(self.model, self.config.freeze)

    def _loss(self, output: Any, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        if self.class_weights is not None:
            batch = {**batch, "class_weights": self.class_weights}
        return self.problem.loss(output, batch)

    @property
    def frozen_params(self) -> int:
        """The number of parameters that do not learn."""
        return sum(p.numel() for p in self.model.parameters() if not p.requires_grad)

    @property
    def readings(self) -> Readings:
        """Where the numbers of iterations are read."""
        return self.weight_step.readings

    def step(self, step: int) -> Row:
        """Take one iteration."""
        batch, images = next(self.batches)
        row = self.weight_step(step, batch, images)
        if self.average:
            self.average.update(self.model, step + 1)
        return row

    def end_epoch(self, epoch: int) -> Mapping[str, Any]:
        """Score the network every ``evaluate.every`` epochs and after the last."""
        if epoch % self.problem.config.evaluate.every and epoch != self.config.epochs:
            return {}
        self.scores = self.evaluate()
        self._train()
        metric = self.problem.task.metric
        score = float(self.scores[metric])
        if self.config.keep == "best" and (not self.best or score > self.best["score"]):
            self.best = {"epoch": epoch, "score": score, "state": cpu_state(self.shown)}
            self.best_scores = self.scores
        return {metric: self.scores[metric]}

    @property
    def shown(self) -> nn.Module:
        """What is scored and saved: the average of the weights, if there is one."""
        return self.average.module if self.average else self.model

    def evaluate(self) -> dict[str, Any]:
        """Score the network as it is."""
        return evaluate(self.shown, self.problem, self.data.val, self.compute, label=f"score {self.config.folder}")

    def kept(self) -> tuple[State, dict[str, Any], int]:
        """Return weights, scores and epoch of what is kept of a training that is over."""
        if not self.best:
            return cpu_state(self.shown), self.scores or self.evaluate(), self.config.epochs
        if not self.best_scores:  # found before an interruption
            load_weights(self.shown, self.best["state"], f"the best epoch of '{self.config.folder}'")
            self.best_scores = self.evaluate()
        return self.best["state"], self.best_scores, self.best["epoch"]

    def state(self) -> dict[str, Any]:
        """Return weights, momenta, the average and the best epoch so far."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.module.state_dict() if self.average else {},
            "best": self.best,
            "optimizer": self.weight_step.optimizer.state_dict(),
            "scaler": self.weight_step.scaler.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Restore `state`."""
        load_weights(self.model, state["model"], f"the checkpoint of '{self.config.folder}'")
        if self.average:
            average = state.get("average", {})
            load_weights(self.average.module, average, f"the average in the checkpoint of '{self.config.folder}'")
        self.best = state.get("best", {})
        self.weight_step.optimizer.load_state_dict(state["optimizer"])
        self.weight_step.scaler.load_state_dict(state["scaler"])


def adapt(
    network: Network[Arch],
    problem: Problem,
    data: Splits,
    compute: Compute,
    config: AdaptConfig | None = None,
    *,
    checkpoints: Checkpoints | None = None,
    logs: tuple[Path, Path] | None = None,
) -> Tuned:
    """Fine-tune a network on the training split; what has no weights starts fresh.

    Args:
        network: any architecture with any weights, ``backbone.*`` and ``head.*``; its scale is what it is trained at.
        problem: what it is for, at scale 1.
        data: training and validation split.
        compute: hardware and processes.
        config: another schedule than the problem's.
        checkpoints: where to keep the state to resume from.
        logs: CSV files of iterations and epochs.

    Raises:
        FnaError: bad numbers or too few images.
    """
    config = config or problem.config.adapt
    loop = AdaptLoop(network, problem.at(network), data, compute, config)
    with in_memory("adapt", config, problem.at(network), network.arch, compute):
        spent = fit(loop, checkpoints, logs, config.folder, problem.config.engine, compute)
    state, scores, epoch = loop.kept()
    if config.keep == "best":
        say(f"{config.folder}: kept epoch {epoch} of {config.epochs}, the best on the validation split")
    tuned = Network(network.arch, state, *network.form)
    return Tuned(tuned, scores, spent, epoch, loop.frozen_params)
