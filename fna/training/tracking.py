"""Where the numbers of a training go: CSV files, which the report reads, and the trackers that ``engine.log`` names."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, Self

from fna.errors import FnaError
from fna.files import read_text, write_text
from fna.training.sinks import Log

PROJECT = "fna"  # of wandb, and the experiment of mlflow
HELD = 100  # iterations that are sent to mlflow at once


class Tracker(Protocol):
    """A place for the numbers of one phase; iterations go up, and one that is there already is not written again."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Take the numbers of an iteration, or of the epoch that ends with it."""

    def flush(self) -> None:
        """Put down what was taken so far: a checkpoint is about to vouch for it."""

    def close(self) -> None:
        """End."""


class Logs:
    """The logs of a phase: its two CSV files and its trackers. A context manager, which closes them.

    Args:
        paths: CSV files of iterations and of epochs; None: nothing is written anywhere.
        label: the phase.
        start: the iteration it begins or goes on at.
        steps_per_epoch: iterations an epoch.
        names: of `TRACKERS`, and ``csv``, which is always there.
    """

    def __init__(
        self, paths: tuple[Path, Path] | None, label: str, start: int, steps_per_epoch: int, names: Sequence[str]
    ) -> None:
        self._per_epoch = steps_per_epoch
        self._steps = Log(paths[0] if paths else None, start, "step")
        self._epochs = Log(paths[1] if paths else None, start // steps_per_epoch + 1, "epoch")
        self._trackers: dict[str, Tracker] = {}
        for name in names:
            if paths and name in TRACKERS:
                with _told(name):
                    self._trackers[name] = TRACKERS[name](paths[0], label, start)

    def step(self, step: int, row: Mapping[str, Any]) -> None:
        """Take the numbers of an iteration."""
        self._steps.write({"step": step, "epoch": step // self._per_epoch + 1, **row})
        self._track(step, row)

    def epoch(self, epoch: int, row: Mapping[str, Any]) -> None:
        """Take the numbers of an epoch."""
        self._epochs.write({"epoch": epoch, **row})
        self._track(epoch * self._per_epoch - 1, row)

    def _track(self, step: int, row: Mapping[str, Any]) -> None:
        numbers = {name: float(value) for name, value in row.items() if isinstance(value, int | float)}
        for name, tracker in self._trackers.items():
            with _told(name):
                tracker.log(step, numbers)

    def fingerprints(self) -> list[dict[str, Any] | None]:
        """Return what a checkpoint knows of the CSV files; what trackers hold back is put down."""
        for name, tracker in self._trackers.items():
            with _told(name):
                tracker.flush()
        return [self._steps.fingerprint(), self._epochs.fingerprint()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for name, tracker in self._trackers.items():
            with _told(name) if kind is None else suppress(Exception):  # what went wrong first is what is told
                tracker.close()


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Turn what a tracker raises into an `FnaError`: it is a program of others, not set up or out of reach."""
    try:
        yield
    except Exception as error:  # each has its own
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        raise FnaError(
            f"engine.log: {name} failed: {said}; set it up and type the same again, or leave it out: "
            "--engine.log '[csv]'"
        ) from error


def need_trackers(names: Sequence[str]) -> None:
    """Refuse trackers whose package is not there, before anything is trained.

    Raises:
        FnaError: naming what to type.
    """
    for name in names:
        if name in TRACKERS and find_spec(name) is None:
            raise FnaError(f"engine.log has {name}, which is not installed; type: pip install {name}")


class TensorBoard:
    """Event files in a folder ``tensorboard`` beside the CSV files."""

    def __init__(self, path: Path, label: str, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What an interrupted process wrote after its last checkpoint is struck out, as TensorBoard's readers know.
        self.writer: Any = SummaryWriter(str(path.parent / "tensorboard"), purge_step=start)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Add a scalar for each number."""
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Write the events out."""
        self.writer.flush()

    def close(self) -> None:
        """Close the file."""
        self.writer.close()


class Wandb:
    """A run of Weights & Biases, in its project ``fna``; ``WANDB_MODE=offline`` keeps it in a folder ``wandb``."""

    def __init__(self, path: Path, label: str, start: int) -> None:
        import wandb

        self.first = start
        known = _known(path, "wandb", start)
        folder = str(path.parent)
        self.run: Any = wandb.init(project=PROJECT, name=_title(path, label), dir=folder, id=known, resume="allow")
        _keep(path, "wandb", self.run.id)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Log the numbers; steps that the server has already it leaves as they are."""
        self.run.log(dict(numbers), step=step)

    def flush(self) -> None:
        """Nothing is held back: a process of its own sends it."""

    def close(self) -> None:
        """Finish the run."""
        self.run.finish()


class MlFlow:
    """A run of MLflow in its experiment ``fna``, where ``MLFLOW_TRACKING_URI`` says."""

    def __init__(self, path: Path, label: str, start: int) -> None:
        import mlflow
        from mlflow.entities import Metric

        self.client, self.metric = mlflow.MlflowClient(), Metric
        experiment = self.client.get_experiment_by_name(PROJECT)
        number = experiment.experiment_id if experiment else self.client.create_experiment(PROJECT)
        self.id: Any = _known(path, "mlflow", start)
        if self.id is None:
            self.id = self.client.create_run(number, run_name=_title(path, label)).info.run_id
            _keep(path, "mlflow", self.id)
        self.client.update_run(self.id, status="RUNNING")
        self.last: dict[str, int] = {}  # step by name that is there already
        for name in self.client.get_run(self.id).data.metrics:
            self.last[name] = max(row.step for row in self.client.get_metric_history(self.id, name))
        self.held: list[Any] = []

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Hold the numbers until there are enough to send."""
        now = int(time.time() * 1000)
        new = {name: value for name, value in numbers.items() if step > self.last.get(name, -1)}
        self.held += [self.metric(name, value, now, step) for name, value in new.items()]
        if len(self.held) >= HELD:
            self.flush()

    def flush(self) -> None:
        """Send what is held."""
        if self.held:
            self.client.log_batch(self.id, metrics=self.held)
            self.held = []

    def close(self) -> None:
        """Send the rest and end the run."""
        self.flush()
        self.client.set_terminated(self.id)


def _title(path: Path, label: str) -> str:
    """Name a run after the run folder and the phase: ``camvid/adapted``."""
    folder = path.resolve().parent
    return f"{(folder.parent if folder.name == label else folder).name}/{label}"


def _known(path: Path, tracker: str, start: int) -> str | None:
    """Return a tracker's own name of a phase that goes on; None: it begins."""
    file = path.with_suffix(f".{tracker}")
    return read_text(file).strip() if start and file.is_file() else None


def _keep(path: Path, tracker: str, name: str) -> None:
    """Keep a tracker's own name of a phase beside the CSV file."""
    write_text(path.with_suffix(f".{tracker}"), f"{name}\n")


TRACKERS: dict[str, Callable[[Path, str, int], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "mlflow": MlFlow,
}
