"""Scores of candidates with the super network's weights on training images that it has not seen: loss, and metric."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fna.arch import LayerPath
from fna.arch.target import Form
from fna.nets.network import Model
from fna.nets.slim import slices
from fna.nets.supernet import path_network
from fna.searching.forms import SEEDS
from fna.searching.kept import Kept
from fna.stages.evaluate import evaluate
from fna.tasks.problem import Problem
from fna.training import distributed
from fna.training.batches import Stream, on_device
from fna.training.clock import Spent
from fna.training.engine import Batch
from fna.training.norms import recalibrate

if TYPE_CHECKING:
    from fna.searching.alphas import SearchLoop

Candidacy = tuple[LayerPath, Form]  # a network to score
HELD = 1000  # images at most that a network is scored on
SAVE_SECONDS = 10.0  # between writes of the scores so far


@dataclass
class Scorer:
    """Scores networks of a trained super network, each process some of them, all on the same batches.

    Args:
        loop: the search that trained it.
        file: where scores are kept, so that an interrupted choice goes on; None: nowhere.
        told: called after each scored network with its loss, or its metric.
    """

    loop: SearchLoop
    file: Path | None = None
    told: Callable[..., None] = lambda **number: None
    batches: dict[float, tuple[list[Batch], list[Batch]]] = field(default_factory=dict)
    heads: dict[Form, nn.Module] = field(default_factory=dict)
    saved: float = 0.0

    def __post_init__(self) -> None:
        self.kept = Kept(self.file, self.loop.compute, "losses", "metrics", "trained")
        self._by_batch: dict[str, list[float]] = self.kept.tables["losses"]
        self._metrics: dict[str, float] = self.kept.tables["metrics"]
        self._trained: dict[str, list[float]] = self.kept.tables["trained"]  # losses, of what was

    @property
    def spent(self) -> Spent:
        """The time so far, that before an interruption included."""
        return self.kept.spent

    def losses(self, path: LayerPath, form: Form) -> list[float]:
        """Return the loss of a network that has been scored on each of the held-out batches."""
        return self._by_batch[_key(path, form)]

    def last_losses(self, path: LayerPath, form: Form) -> list[float]:
        """Return the same after a trial, if there was one."""
        return self._trained.get(_key(path, form)) or self.losses(path, form)

    def is_measured(self, one: Candidacy) -> bool:
        """Tell whether the metric of a network is known."""
        return _key(*one) in self._metrics

    def metric(self, path: LayerPath, form: Form) -> float:
        """Return the metric of a network that has been measured."""
        return self._metrics[_key(path, form)]

    def loss(self, path: LayerPath, form: Form) -> float:
        """Return the mean loss of a network that has been scored."""
        values = self.losses(path, form)
        return math.fsum(values) / len(values)

    def score(self, wanted: Sequence[Candidacy]) -> None:
        """Score networks; those that have been are not scored again. The processes share the work."""
        world, new = self.loop.compute.world, []
        for one in dict.fromkeys(wanted):
            if _key(*one) in self._by_batch:
                self.told(loss=self.loss(*one))
            else:
                new.append(one)
        with distributed.apart(self.loop.model):
            for start in range(0, len(new), world.size):
                turn = new[start : start + world.size]
                own = [self._losses(*turn[world.rank])] if world.rank < len(turn) else []
                for one, values in zip(turn, distributed.gather(own), strict=True):
                    self._by_batch[_key(*one)] = values
                    self.told(loss=self.loss(*one))
                self._save()
        self._save(now=True)

    def measure(self, wanted: Sequence[Candidacy]) -> None:
        """Score networks by the task's metric on whole images, as `evaluate` does; all processes together."""
        for one in wanted:
            if not self.is_measured(one):
                with distributed.apart(self.loop.model):
                    network, problem = self._network(*one)
                self._metrics[_key(*one)] = self.held_metric(network, problem)
                self._save()
            self.tell(one)
        self._save(now=True)

    def keep(self, one: Candidacy, losses: list[float], metric: float | None) -> None:
        """Take in what a network reached after a trial: its loss on each of the held-out batches, and the metric."""
        assert metric is not None, "a trial that is over"
        self._trained[_key(*one)], self._metrics[_key(*one)] = losses, metric
        self._save(now=True)

    def tell(self, one: Candidacy) -> None:
        """Tell the metric of a network."""
        self.told(**{self.loop.problem.task.metric: self.metric(*one)})

    def shared(self, one: Candidacy) -> dict[str, Tensor]:
        """Return the shared weights of a network, with statistics of its own."""
        with distributed.apart(self.loop.model):
            return self._network(*one)[0].state_dict()

    def held_metric(self, network: nn.Module, problem: Problem) -> float:
        """Return the task's metric of any network on the held-out images."""
        loop = self.loop
        scores = evaluate(network, problem, loop.data, loop.compute, loop.parts[1][:HELD], label="score a finalist")
        return float(scores[problem.task.metric])

    def _save(self, now: bool = False) -> None:
        if now or time.monotonic() - self.saved > SAVE_SECONDS:
            self.kept.save()
            self.saved = time.monotonic()

    def _losses(self, path: LayerPath, form: Form) -> list[float]:
        """Return the loss of a network on each of the held-out batches."""
        network, problem = self._network(path, form)
        return self.held_losses(network, problem, form.scale)

    def held_losses(self, network: nn.Module, problem: Problem, scale: float) -> list[float]:
        """Return the loss of any network, in eval mode, on each of the held-out batches of an input scale."""
        sums = []
        for held in self._batches(scale)[1]:
            batch, images = on_device(held, problem, self.loop.compute)
            with torch.no_grad(), self.loop.compute.autocast():
                loss_sum, weight = problem.loss(network(images), batch)
            sums.append(torch.stack([loss_sum.double(), weight.double()]))
        return [loss_sum / max(weight, 1.0) for loss_sum, weight in torch.stack(sums).tolist()]

    def _network(self, path: LayerPath, form: Form) -> tuple[Model, Problem]:
        """Return a network with shared weights and statistics of its own, in eval mode, and its problem."""
        problem, compute, (warm, _) = self.loop.problem.at(form), self.loop.compute, self._batches(form.scale)
        network = path_network(Model(self.loop.backbones[form.output_stride], self.head(form)), path)
        problem.tune(network.head)
        recalibrate(network, (on_device(batch, problem, compute)[1] for batch in warm), len(warm), compute)
        return network.eval(), problem

    def head(self, form: Form) -> nn.Module:
        """Return a head of its own in some form, with the weights of the super network's."""
        form = form._replace(scale=1.0)
        if form not in self.heads:
            loop, arch = self.loop, self.loop.arch.seed
            narrow, wide = loop.problem.at(form).build_head(arch), loop.model.head
            narrow.load_state_dict(slices(wide.state_dict(), loop.problem.meta_head(arch), narrow))
            self.heads[form] = loop.compute.place(Model(nn.Identity(), narrow)).head  # type: ignore[assignment]
        return self.heads[form]

    def _batches(self, scale: float) -> tuple[list[Batch], list[Batch]]:
        """Return batches to recalibrate on and to score at one scale; the same samples at every scale.

        They are made once, and the same in every process, whatever their number. They stay on the host, in 8 bits.
        """
        if scale not in self.batches:
            loop, config = self.loop, self.loop.config
            alone = replace(loop.compute, world=distributed.World())
            size = min(config.batch_size * loop.compute.world.size, *map(len, loop.parts))

            def made(part: int, purpose: str, number: int) -> list[Batch]:
                stream = Stream(loop.problem, loop.data, loop.parts[part], size, purpose, alone, lambda step: scale)
                return list(stream.on_host(0, number))

            held = max(1, min(len(loop.parts[1]), HELD) // size)
            self.batches[scale] = made(0, "recalibrate", config.recalibrate), made(1, "held out", held)
        return self.batches[scale]


def _key(path: LayerPath, form: Form) -> str:
    stride = f"/{form.output_stride} " if form.output_stride else ""
    depth = f"^{form.tower_depth} " if form.tower_depth else ""
    return f"{form.scale:g} {form.head_width:g} {stride}{depth}" + " ".join(map(str, path))


def seed_of(loop: SearchLoop) -> Candidacy:
    """Return the seed as a candidate."""
    return loop.arch.seed_path(), SEEDS
