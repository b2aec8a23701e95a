"""What a stage of training works with: the setting of a run, batches by iteration, and weights for a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from fna.arch import Arch, SuperArch
from fna.config import Config
from fna.data.listing import overlap
from fna.data.sampling import Loader, StepSampler
from fna.errors import FnaError
from fna.nets.network import Backbone, Model
from fna.nets.supernet import SuperBackbone
from fna.progress import say
from fna.rng import seeded
from fna.seeds import Seed
from fna.tasks import Task, load_task
from fna.training import distributed
from fna.training.engine import Batch, Compute

State = Mapping[str, Tensor]
REMARKS = 6  # on a split's data that the terminal shows


@dataclass(frozen=True)
class Setting:
    """What every stage shares: configuration, hardware, task, seed and the two splits."""

    config: Config
    compute: Compute
    task: Task
    seed: Seed
    train: Any
    val: Any

    @property
    def classes(self) -> int:
        """Number of classes of the data."""
        return len(self.train.classes)

    def build(self, arch: Arch | SuperArch) -> Model:
        """Build the task's network on `arch` with fresh weights that depend on ``engine.rng_seed`` only."""
        strided = self.task.prepare(arch, self.config.task)
        with seeded(self.config.engine.rng_seed, "initial weights"):
            backbone = SuperBackbone(strided) if isinstance(strided, SuperArch) else Backbone(strided)
            head = self.task.head(_seed(strided), self.classes, self.config.task)
        return Model(backbone, head)

    def loss(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the task's summed loss of a batch and the number of its terms."""
        return self.task.loss(output, batch, self.config.task)

    def head_start(self) -> dict[str, Tensor]:
        """Return what the seed knows of the task's head, as ``head.*``."""
        return put(self.task.head_start(self.seed.state or {}, self.config.task), "head")

    def meta_head(self, arch: Arch) -> nn.Module:
        """Build the task's head without memory, to count it."""
        strided = self.task.prepare(arch, self.config.task)
        with torch.device("meta"):
            return self.task.head(strided, self.classes, self.config.task)

    def parallel(self, model: Model, *, partial: bool) -> nn.Module:
        """Place `model` on the device and, under several processes, share statistics and gradients."""
        self.compute.place(model)
        if self.compute.world.size == 1:
            return model
        if self.config.engine.sync_bn:
            distributed.share_statistics(model, self.compute.device.type == "cuda")
        return distributed.replicate(model, self.compute.device, partial=partial, sync_bn=self.config.engine.sync_bn)

    def sampler(
        self, indices: Sequence[int], batch_size: int, purpose: str, steps: tuple[int, int] = (0, 0)
    ) -> StepSampler:
        """Return the order of `indices` for iterations ``steps[0]`` to ``steps[1]`` of one purpose."""
        world, rng_seed = self.compute.world, self.config.engine.rng_seed
        groups = [self.train.groups[i] for i in indices] if self.train.groups else ()
        return StepSampler(
            len(indices), batch_size, rng_seed, purpose, steps[0], steps[1], world.rank, world.size, groups
        )

    def batches(
        self, indices: Sequence[int], batch_size: int, purpose: str, start: int, end: int
    ) -> Iterator[tuple[Batch, Tensor]]:
        """Yield (batch, normalised images on the device) for the iterations from `start` to `end` (exclusive).

        A batch is a function of (rng seed, purpose, iteration): workers, processes and interruptions do not change it.
        """
        view = self.task.train_view(self.train, indices, self.config)
        sampler = self.sampler(indices, batch_size, purpose, (start, end))
        for batch in Loader(view, sampler, self.config.engine.workers, self.task.collate):
            names = [self.train.name(int(i)) for i in batch["index"]]
            yield {**batch, "names": names}, self.compute.images(batch["image"], self.seed.mean, self.seed.std)


def _seed(arch: Arch | SuperArch) -> Arch:
    return arch.seed if isinstance(arch, SuperArch) else arch


def open_data(config: Config, compute: Compute, seed: Seed) -> Setting:
    """Open and validate the data of a run.

    Raises:
        FnaError: the data set has problems, all of them listed, or its splits have different classes.
    """
    task = load_task(config.task.name)
    train = task.open_data(config.data, config.data.train)
    val = task.open_data(config.data, config.data.val)
    for split, data in ((config.data.train, train), (config.data.val, val)):
        if data.skipped:
            rest = len(data.skipped) - REMARKS
            more = f"; and {rest} more lines in metrics.json" if rest > 0 else ""
            say(f"data: split '{split}': {'; '.join(data.skipped[:REMARKS])}{more}")
    if train.classes != val.classes:
        odd = next(pair for pair in zip_longest(train.classes, val.classes) if pair[0] != pair[1])
        raise FnaError(
            f"the splits name different classes: '{odd[0]}' in '{config.data.train}' is '{odd[1]}' in "
            f"'{config.data.val}'; give both the same, in one order, or list them in data.classes"
        )
    both = overlap(train, val)
    if both:
        say(
            f"data: {len(both)} images are in both splits ({', '.join(both[:3])}): the score will flatter every network"
        )
    return Setting(config, compute, task, seed, train, val)


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
