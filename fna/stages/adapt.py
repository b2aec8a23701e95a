"""Parameter adaptation: fine-tune any architecture from any weights under one schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fna.arch import Arch
from fna.config import AdaptConfig
from fna.stages.evaluate import evaluate
from fna.training.checkpoints import Checkpoints
from fna.training.engine import WeightStep, fit, freeze_norms, make_optimizer, recalibrate
from fna.training.setting import Setting, State, cpu_state, load_weights


@dataclass(frozen=True)
class Adapted:
    """A fine-tuned network: its state, the scores after the last epoch and the minutes it took."""

    state: dict[str, Tensor]
    scores: dict[str, Any]
    minutes: float


class AdaptLoop:
    """Plain training of one network, scored on the validation split as it goes."""

    def __init__(self, arch: Arch, state: State, config: AdaptConfig, setting: Setting) -> None:
        self.setting, self.config = setting, config
        self.model = setting.build(arch)
        load_weights(self.model, {**self.model.state_dict(), **state}, f"the start of '{config.name}'")
        if config.bn == "frozen":
            freeze_norms(self.model)
        self.network = setting.parallel(self.model, partial=False)
        self.records = len(setting.train)
        self.indices = range(self.records)
        self.steps_per_epoch = setting.sampler(self.indices, config.batch_size, "adapt").steps_per_epoch
        self.total_steps = self.steps_per_epoch * config.epochs
        self.scores: dict[str, Any] = {}
        self.weight_step = WeightStep(
            self.network,
            make_optimizer(self.model, config.optimizer),
            config.optimizer,
            setting.loss,
            setting.compute,
            self.total_steps,
            self.steps_per_epoch,
        )

    def start(self, step: int) -> None:
        """Recalibrate batch norms before the first iteration, then open the stream of batches."""
        setting, config = self.setting, self.config
        if step == 0 and config.recalibrate:
            warm = setting.batches(self.indices, config.batch_size, "recalibrate", 0, config.recalibrate)
            recalibrate(self.model, (images for _, images in warm), config.recalibrate, setting.compute)
        self._train()
        self.batches = setting.batches(self.indices, config.batch_size, "adapt", step, self.total_steps)

    def _train(self) -> None:
        self.network.train()
        if self.config.bn == "frozen":
            freeze_norms(self.model)

    def step(self, step: int) -> Mapping[str, float | None]:
        """Take one iteration."""
        batch, images = next(self.batches)
        return self.weight_step(step, batch, images)

    def end_epoch(self, epoch: int) -> Mapping[str, Any]:
        """Score the network every ``evaluate.every`` epochs and after the last."""
        if epoch % self.setting.config.evaluate.every and epoch != self.config.epochs:
            return {}
        self.scores = self.evaluate()
        self._train()
        metric = self.setting.task.metric
        return {metric: self.scores[metric]}

    def evaluate(self) -> dict[str, Any]:
        """Score the network as it is."""
        return evaluate(self.model, self.setting, label=f"score {self.config.name}")

    def state(self) -> dict[str, Any]:
        """Return weights and momenta."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.weight_step.optimizer.state_dict(),
            "scaler": self.weight_step.scaler.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Restore `state`."""
        load_weights(self.model, state["model"], f"the checkpoint of '{self.config.name}'")
        self.weight_step.optimizer.load_state_dict(state["optimizer"])
        self.weight_step.scaler.load_state_dict(state["scaler"])


def adapt(
    arch: Arch,
    state: State,
    config: AdaptConfig,
    setting: Setting,
    *,
    checkpoints: Checkpoints | None = None,
    logs: tuple[Path, Path] | None = None,
) -> Adapted:
    """Fine-tune `arch` on the target task.

    Args:
        arch: any architecture (undilated).
        state: weights to start from, ``backbone.*`` and ``head.*``; what is not there starts fresh.
        config: schedule.
        setting: task, data, hardware, configuration.
        checkpoints: where to keep the state to resume from.
        logs: CSV files of iterations and epochs.

    Raises:
        FnaError: bad numbers or too few images.
    """
    loop = AdaptLoop(arch, state, config, setting)
    minutes = fit(loop, checkpoints, logs, config.name, setting.config.engine, setting.compute)
    return Adapted(cpu_state(loop.model), loop.scores or loop.evaluate(), minutes)
