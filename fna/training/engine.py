"""The training machinery every stage shares: optimizers and schedules, one step, one loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fna.config import EngineConfig, OptimizerConfig
from fna.errors import FnaError
from fna.nets.network import Model
from fna.progress import bar, say, shortly, tell
from fna.training import distributed
from fna.training.checkpoints import Checkpoints, first_not_finite
from fna.training.clock import NOTHING, Spent, Stopwatch
from fna.training.compute import Compute
from fna.training.readings import REMEDY, NotFiniteError, Readings, Row
from fna.training.sinks import check_log
from fna.training.tracking import Logs

Batch = dict[str, Any]
MISFIT = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)  # of a state of other structure
FEW = 3  # scores that a line shows
PLAN = {  # what of a phase must not change between its checkpoints
    "records": "records to train on",
    "steps_per_epoch": "iterations an epoch",
    "total_steps": "iterations in all",
}
PROCESSES = "processes"


# --- optimizers and schedules ---------------------------------------------------------------------


def make_optimizer(model: Model, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Build the optimizer of a model's weights; the head learns at ``head_lr`` times the rate.

    Parameters without gradient (frozen batch norms) are left out.
    """
    groups = [
        {"params": [p for p in part.parameters() if p.requires_grad], "scale": scale, "lr": config.lr * scale}
        for part, scale in ((model.backbone, 1.0), (model.head, config.head_lr))
    ]
    decay = config.weight_decay
    if config.name == "sgd":
        return torch.optim.SGD(groups, momentum=config.momentum, weight_decay=decay)
    if config.name == "rmsprop":
        return torch.optim.RMSprop(groups, momentum=config.momentum, weight_decay=decay, eps=config.eps)
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(groups, betas=config.betas, eps=config.eps, weight_decay=decay)


def learning_rate(config: OptimizerConfig, step: int, total_steps: int, steps_per_epoch: int) -> float:
    """Return the learning rate of an iteration: a pure function, so there is no scheduler to save.

    Args:
        config: schedule and warm-up.
        step: iteration from 0.
        total_steps: iterations of the whole training.
        steps_per_epoch: iterations per epoch.
    """
    progress = step / max(total_steps, 1)
    factor = 1.0
    if config.schedule == "poly":
        factor = (1 - progress) ** config.power
    elif config.schedule == "cosine":
        factor = (1 + math.cos(math.pi * progress)) / 2
    elif config.schedule == "step":
        factor = float(config.gamma ** sum(step >= s * steps_per_epoch for s in config.steps))
    if step < config.warmup:
        factor *= config.warmup_from + (1 - config.warmup_from) * step / config.warmup
    return config.lr * factor


# --- one step -------------------------------------------------------------------------------------


@dataclass
class WeightStep:
    """An iteration of the weights: forward, global loss, backward, clipping, update; bad numbers are met in `readings`.

    A batch may go through the network in several `parts`, one after another, which takes less memory. The gradients are
    those of the whole batch, but for batch norms, which see a part at a time.
    """

    model: nn.Module  # possibly wrapped for several processes
    optimizer: torch.optim.Optimizer
    config: OptimizerConfig
    loss: Callable[[Any, Batch], tuple[Tensor, Tensor]]
    compute: Compute
    total_steps: int
    steps_per_epoch: int
    parts: int = 1
    scaler: torch.amp.GradScaler = field(init=False)
    readings: Readings = field(init=False)

    def __post_init__(self) -> None:
        self.readings = Readings.of(self.compute.device)
        self.scaler = torch.amp.GradScaler(self.compute.device.type, enabled=self.compute.dtype is torch.float16)

    def __call__(self, step: int, batch: Batch, images_N3HW: Tensor, *choice: Any) -> dict[str, float | Tensor]:
        """Take one step and return ``loss``, which is still on the device, and ``lr``. With fp16 the scaler reads.

        Raises:
            NotFiniteError: on a CPU: the loss or a gradient is not finite; weights keep their last good values.
        """
        rate = learning_rate(self.config, step, self.total_steps, self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        self.optimizer.zero_grad(set_to_none=True)
        value = self._backward(batch, images_N3HW, *choice)
        self.readings.check(value, "loss", step, rate, batch)
        self.scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = nn.utils.clip_grad_norm_(parameters, self.config.clip or math.inf)
        if not self.scaler.is_enabled() or self.scaler.get_scale() < 1:  # fp16 skips a step that overflows
            self.readings.check(norm, "gradient norm", step, rate, batch)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return {"loss": value, "lr": rate}

    def _backward(self, batch: Batch, images_N3HW: Tensor, *choice: Any) -> Tensor:
        """Compute the gradients of the mean loss over all parts and processes; return that mean.

        How many terms there are in all is known after the last part only. Until then all parts are divided by the
        number of the first, and that is set right in the end.
        """
        parts, sums = list(_parts(batch, images_N3HW, self.parts)), list[Tensor]()
        for part, (own, images) in enumerate(parts):
            with self._shared(part == len(parts) - 1):
                with self.compute.autocast():
                    loss_sum, weight = self.loss(self.model(images, *choice), own)
                sums.append(global_sums(loss_sum, weight))
                unit = sums[0][1].clamp_min(1)
                self.scaler.scale(loss_sum * (self.compute.world.size / unit)).backward()
        total = torch.stack(sums).sum(0)
        count = total[1].clamp_min(1)
        if len(parts) > 1:
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter.grad *= unit / count
        return total[0] / count

    def _shared(self, now: bool) -> AbstractContextManager[Any]:
        """Return a context in which gradients are averaged over processes `now`, or kept until a later time."""
        return nullcontext() if now or not isinstance(self.model, DistributedDataParallel) else self.model.no_sync()


def _parts(batch: Batch, images_N3HW: Tensor, number: int) -> Iterator[tuple[Batch, Tensor]]:
    """Cut a batch, all of whose values have an item an image, into `number` parts or fewer."""
    size = -(-len(images_N3HW) // number)
    for start in range(0, len(images_N3HW), size):
        own = slice(start, start + size)
        yield {key: value[own] for key, value in batch.items()} if number > 1 else batch, images_N3HW[own]


def global_sums(loss_sum: Tensor, weight: Tensor) -> Tensor:
    """Return summed loss and number of its terms over all processes, (2,)."""
    return distributed.total(torch.stack([loss_sum.detach().float(), weight.float()]))


def global_mean(loss_sum: Tensor, weight: Tensor, compute: Compute) -> tuple[Tensor, Tensor]:
    """Return this process's share of the mean loss over all processes, and that mean.

    The shares are scaled so that their gradients, averaged over processes, are the gradient of the global mean: the
    result does not depend on how a batch is spread.

    Args:
        loss_sum: summed loss of this process, a scalar.
        weight: number of terms in it (pixels, boxes), a scalar.
        compute: the processes.
    """
    sums = global_sums(loss_sum, weight)
    count = sums[1].clamp_min(1)
    return loss_sum * (compute.world.size / count), sums[0] / count


# --- one loop -------------------------------------------------------------------------------------


class Loop(Protocol):
    """What a phase of training gives to `fit`."""

    records: int  # the training split has
    left_out: int  # records that make no whole batch at the end of an epoch, others in each
    total_steps: int
    steps_per_epoch: int

    @property
    def readings(self) -> Readings:
        """Where the numbers of its iterations are read."""

    def step(self, step: int) -> Row:
        """Take one iteration; return the row to log."""

    def end_epoch(self, epoch: int) -> Mapping[str, Any]:
        """Called after epoch `epoch` (1, 2, ...); return the row of the epoch's log, maybe empty."""

    def state(self) -> dict[str, Any]:
        """Return all that a checkpoint must hold: nested dicts of tensors and plain values."""

    def load(self, state: dict[str, Any]) -> None:
        """Restore `state`."""

    def start(self, step: int) -> None:
        """Begin (or go on) at iteration `step`: open the data loaders there."""


def fit(
    loop: Loop,
    checkpoints: Checkpoints | None,
    logs: tuple[Path, Path] | None,
    label: str,
    config: EngineConfig,
    compute: Compute,
    keeps_end: bool = False,
) -> Spent:
    """Run a loop to its end, from its last checkpoint if it has one.

    Checkpoints are written at the ends of epochs, but not more often than every ``config.checkpoint_seconds``, and
    besides, if asked for, every ``config.checkpoint_steps`` iterations.

    Args:
        loop: the phase.
        checkpoints: where its state is kept, or None.
        logs: CSV files of iterations and of epochs, or None.
        label: name on the progress bar.
        config: when to write checkpoints, and which trackers log.
        compute: the processes.
        keeps_end: whether the end is a checkpoint, too, because more is done with it.

    Returns:
        The time of training, that before an interruption included.

    Raises:
        FnaError: the checkpoint is of another number of processes, records or iterations.
    """
    plan = {key: int(getattr(loop, key)) for key in PLAN}
    start, spent = _go_on(loop, checkpoints, logs, label, plan, compute)
    watch = Stopwatch(compute.device.type, spent)
    saved, every = time.monotonic(), config.checkpoint_steps
    writes = compute.world.writes
    log = Logs(logs if writes else None, label, start, loop.steps_per_epoch, config.log)
    epochs = -(-loop.total_steps // loop.steps_per_epoch)
    rest = f", of which an epoch leaves out {loop.left_out}, others each time" if loop.left_out else ""
    tell(f"{label}: {loop.total_steps} iterations in {epochs} epochs, {loop.records} records{rest}")
    losses: list[float] = []
    loop.start(start)
    with log, bar(loop.total_steps, label, start) as progress, _dumped(loop, checkpoints if writes else None):
        for step in range(start, loop.total_steps):
            row, done = loop.step(step), step + 1
            ends, last = done % loop.steps_per_epoch == 0, done == loop.total_steps
            asked = (bool(every) and done % every == 0) or (keeps_end and last)
            for at, numbers in loop.readings.take(step, row, now=ends or asked or last):
                loss = numbers.get("loss", numbers.get("task_loss"))
                losses += [] if loss is None else [loss]
                log.step(at, numbers)
                progress.advance(1, **{k: v for k, v in numbers.items() if v is not None})
            if ends:
                epoch = done // loop.steps_per_epoch
                scores = loop.end_epoch(epoch)
                minutes = watch.read().minutes
                left = minutes / done * (loop.total_steps - done)
                _tell_epoch(f"{label}: epoch {epoch} of {epochs}", losses, scores, minutes, left)
                losses.clear()
                if scores:
                    log.epoch(epoch, {"minutes": round(minutes, 4), **scores})
            due = ends and time.monotonic() - saved >= config.checkpoint_seconds
            if checkpoints and writes and (asked or due):
                about = {"spent": watch.read().to_json(), "processes": compute.world.size, "plan": plan}
                _check_state(loop, done)
                checkpoints.save(done, {"loop": loop.state(), **about, "logs": log.fingerprints()})
                saved = time.monotonic()
        _check_state(loop, loop.total_steps)
    return watch.read()


def _go_on(
    loop: Loop,
    checkpoints: Checkpoints | None,
    logs: tuple[Path, Path] | None,
    label: str,
    plan: Mapping[str, int],
    compute: Compute,
) -> tuple[int, Spent]:
    """Bring a loop to its last checkpoint, if it has one; return the iteration to go on at, and the time spent."""
    latest = checkpoints.load_latest() if checkpoints else None
    if not latest:
        return 0, NOTHING
    start, state = latest
    assert checkpoints is not None
    with _of_this_structure(checkpoints, start):
        spent, processes, began = (
            Spent.from_json(state["spent"]),
            int(state["processes"]),
            {k: int(state["plan"][k]) for k in PLAN},
        )
    check_as_begun(label, {**began, PROCESSES: processes}, {**plan, PROCESSES: compute.world.size})
    for log, recorded in zip(logs or (), state.get("logs", ()), strict=False):
        if recorded and compute.world.writes:
            check_log(log, recorded, start)
    with _of_this_structure(checkpoints, start):
        loop.load(state["loop"])
    say(f"{label}: going on at iteration {start} of {loop.total_steps}")
    return start, spent


@contextmanager
def _of_this_structure(checkpoints: Checkpoints, step: int) -> Iterator[None]:
    """Turn what a state of another structure raises into an `FnaError`."""
    try:
        yield
    except MISFIT as error:
        raise FnaError(
            f"the checkpoint of iteration {step} in {checkpoints.path} is of another structure than this version of "
            f"fna saves ({type(error).__name__}: {str(error)[:200]}); use the version that wrote it, or delete "
            "this folder to begin the phase again"
        ) from error


@contextmanager
def _dumped(loop: Loop, checkpoints: Checkpoints | None) -> Iterator[None]:
    """Keep batch and state of an iteration whose numbers went bad, and name the file."""
    try:
        yield
    except NotFiniteError as error:
        kept = {"what": str(error), "batch": error.batch, "state": loop.state()}
        path = checkpoints.dump(error.step, kept) if checkpoints else None
        raise FnaError(f"{error}{f'; batch and state are in {path}' if path else ''}") from error


def _check_state(loop: Loop, done: int) -> None:
    """Refuse a state that is not finite: running statistics are not seen by the loss, nor is the last update."""
    fault = first_not_finite(loop.state())
    if fault:
        raise NotFiniteError(
            f"after iteration {done} of {loop.total_steps} there is NaN or infinity in {fault}. It is not saved, the "
            f"last checkpoint is kept: {REMEDY}",
            done,
            {},
        )


def _tell_epoch(what: str, losses: Sequence[float], scores: Mapping[str, Any], minutes: float, left: float) -> None:
    """Print a line for who has no bar: the mean loss of an epoch, its scores that are numbers, time spent and left."""
    numbers = {"loss": sum(losses) / len(losses)} if losses else {}
    if len(scores) <= FEW:  # not the entropies of all layers
        numbers |= {name: value for name, value in scores.items() if isinstance(value, int | float)}
    shown = "".join(f", {name} {value:.4g}" for name, value in numbers.items())
    tell(f"{what}{shown}, {shortly(minutes)}, ETA {shortly(left)}")


def check_as_begun(label: str, began: Mapping[str, int], now: Mapping[str, int]) -> None:
    """Refuse other data, another length or number of processes: iterations would mean other batches, at other rates.

    Args:
        label: of the phase.
        began: its numbers by the names of `PLAN`, and `PROCESSES`, at its beginning.
        now: likewise.

    Raises:
        FnaError: one is another.
    """
    _same_world(label, began[PROCESSES], now[PROCESSES])
    changed = [f"{began[key]} {what}, now there are {now[key]}" for key, what in PLAN.items() if began[key] != now[key]]
    if changed:
        raise FnaError(
            f"'{label}' began with {'; '.join(changed)}: go on with the data and settings it began with, "
            "or start a new run folder"
        )


def _same_world(label: str, began: int, now: int) -> None:
    """Refuse another number of processes: iterations would mean other batches."""
    if began != now:
        how = "without torchrun" if began == 1 else f"torchrun --nproc-per-node {began} -m -- fna ... (on one node)"
        raise FnaError(
            f"'{label}' began with {began} process{'es' if began > 1 else ''}, now there are {now}; "
            f"go on with as many: {how}; or start a new run folder"
        )
