"""A run folder, opened: its settings, hardware and data, and reading and writing the files of its stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fna.arch import Arch, SuperArch
from fna.config import Config
from fna.data.index import open_splits, recall
from fna.data.splits import Splits
from fna.errors import FnaError
from fna.nets.weights import Network
from fna.progress import say
from fna.runs.folder import Folder
from fna.runs.opening import keep_config, open_indexed, settle_config
from fna.searching.found import Found
from fna.seeds import Seed, load_seed
from fna.stages.expand import with_head
from fna.tasks.problem import Problem
from fna.training import distributed
from fna.training.checkpoints import Checkpoints
from fna.training.compute import Compute, computing


class Run:
    """A run folder opened by one process of a job; see `open`."""

    def __init__(self, folder: Folder, config: Config, compute: Compute, data: Mapping[str, Any]) -> None:
        self.folder, self.config, self.compute = folder, config, compute
        self.path = folder.path
        self.writes = compute.world.writes
        self._data = dict(data)

    @classmethod
    @contextmanager
    def open(
        cls,
        path: str | Path,
        config: Config | None = None,
        overrides: Sequence[str] = (),
        data: Mapping[str, Any] | None = None,
    ) -> Iterator[Run]:
        """Open (or start) a run.

        Args:
            path: the folder.
            config: the configuration of a new run, or of the one to go on with; None: the folder's own.
            overrides: ``key=value`` changes to it.
            data: splits that `opening.check_data` has opened already, by name.

        Raises:
            FnaError: the folder is foreign, in use or unwritable, or was made with another configuration.
        """
        path = Path(path).expanduser()
        config = settle_config(path, config, overrides)
        with computing(config.engine) as compute:
            folder, error = None, None
            if compute.world.writes:
                try:
                    folder = Folder.open(path)
                    keep_config(folder, config)
                except FnaError as problem:
                    error = str(problem)
            try:
                distributed.agree(error)
                folder = folder or Folder.open(path, writer=False)
                run = cls(folder, config, compute, data or {})
                run.share_data()
                yield run
            finally:
                if folder:
                    folder.close()

    # --- what the stages work with

    @cached_property
    def seed(self) -> Seed:
        """The pretrained network: once it is expanded, the folder's own copy."""
        if not self.folder.finished("expand"):
            return load_seed(self.config.seed.name, self.config.seed.weights)
        about = self.read_json("seed.json", "expand")
        state = self.read_state("seed.safetensors", "expand") if about.pop("trained") else None
        mean, std = (tuple(about.pop(key)) for key in ("mean", "std"))
        return Seed(arch=Arch.from_json(about.pop("arch")), state=state, mean=mean, std=std, **about)

    @property
    def seed_arch(self) -> Arch:
        """The seed's architecture, once it is expanded; its weights are not read."""
        return Arch.from_json(self.read_json("seed.json", "expand")["arch"])

    def data(self, *splits: str) -> list[Any]:
        """Open splits, of ``train``, ``val`` and ``test``; those that are open already are not opened again.

        Raises:
            FnaError: they are missing, have flaws, or changed since the run began.
        """
        names = [getattr(self.config.data, split) for split in splits]
        missing = [name for name in names if name not in self._data]
        if missing:
            self._data |= self._open(missing)
        return [self._data[name] for name in names]

    def recalled(self, split: str) -> Any:
        """Return a split that need not be there any more, for what is said of it; None: it was never opened."""
        name = getattr(self.config.data, split)
        if name in self._data:
            return self._data[name]
        return recall(self.config.task.name, self.config.data, name, self.path / "data")

    def share_data(self) -> None:
        """Open in all processes what the first has opened already, so that all go on alike."""
        missing = [name for name in distributed.first(list(self._data)) if name not in self._data]
        self._data |= open_splits(self.config.task.name, self.config.data, missing, self.path / "data", write=False)

    def _open(self, names: Sequence[str]) -> dict[str, Any]:
        """Open splits by name: the first process checks and indexes them, the others read its indices."""
        task, data, folder, writes = self.config.task.name, self.config.data, self.path / "data", self.writes
        opened, error = {}, None
        if writes:
            try:
                opened = open_indexed(self.folder, self.config, names)
            except FnaError as problem:
                error = str(problem)
        distributed.agree(error)
        return opened if writes else open_splits(task, data, names, folder, write=False)

    @property
    def splits(self) -> Splits:
        """Training and validation data."""
        return Splits(*self.data("train", "val"))

    @cached_property
    def problem(self) -> Problem:
        """What the network is for; once the seed is expanded no data are needed to know."""
        if self.finished("expand"):
            return Problem.from_json(self.read_json("problem.json", "expand"), self.config)
        return Problem.of(self.config, self.data("val", "train")[0], self.seed)

    @cached_property
    def space(self) -> SuperArch:
        """The search space, undilated."""
        return SuperArch.from_json(self.read_json("super.json", "expand"))

    def expanded(self) -> Network[SuperArch]:
        """Return the super network as the seed left it."""
        state = self.read_state("super.safetensors", "expand")
        return Network(self.space, with_head(state, self.seed, self.problem))

    def found(self) -> Found:
        """Return what the search ended with."""
        network = Network(self.space, self.read_state("found.safetensors", "search"))
        return Found.from_json(self.read_json("found.json", "search"), network)

    # --- files

    def finished(self, stage: str) -> bool:
        """Tell whether a stage is finished, as the first process sees it: another may look when it has gone on."""
        return distributed.first(self.folder.finished(stage))

    def read_json(self, name: str, stage: str) -> Any:
        """Read a file that `stage` wrote."""
        return self.folder.read_json(stage, name)

    def read_state(self, name: str, stage: str) -> dict[str, Tensor]:
        """Read the weights that `stage` wrote."""
        return self.folder.read_state(stage, name)

    def names(self, stage: str) -> list[str]:
        """Return the names under which a stage is finished: adaptations, targets."""
        return [name.removeprefix(f"{stage}:") for name in self.folder.stages() if name.startswith(f"{stage}:")]

    def begin(self, stage: str, *, computes: bool = True) -> None:
        """Say that a stage is under way, so that what was recorded of its files, logs too, holds no more.

        Args:
            stage: its name.
            computes: whether its weights depend on device, precision, threads and version of torch; if these are others
                than before in the run, that is said, here and with the scores.
        """
        if self.writes:
            self.folder.forget(stage)
            change = self.folder.note_machine(stage, describe(self.compute)) if computes else ""
            if change:
                say(change)

    def write(
        self,
        stage: str,
        files: Mapping[str, Any],
        info: Mapping[str, Any] | None = None,
        logs: Sequence[Path] = (),
    ) -> None:
        """Write a stage's files (state dicts, JSON, text, bytes by type and ending) and mark it finished, on rank 0.

        Args:
            stage: its name.
            files: content by name.
            info: what else the record shall say, JSON-ready.
            logs: what the stage has written already, on its way.
        """
        if self.writes:
            for name, content in files.items():
                self.folder.write(name, content)
            self.folder.commit(stage, list(files), info, [log.relative_to(self.path).as_posix() for log in logs])
        distributed.barrier()

    def checkpoints(self, phase: str) -> Checkpoints:
        """Return where a phase keeps the state to resume from."""
        return Checkpoints(self.path / "checkpoints" / phase)

    def clear(self, phase: str) -> None:
        """Remove the checkpoints of a finished phase."""
        if self.writes:
            self.checkpoints(phase).clear()


def describe(compute: Compute) -> dict[str, str]:
    """Return what weights depend on beside settings, data and seed."""
    cuda = compute.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(compute.device) if cuda else str(compute.device),
        "precision": str(compute.dtype or torch.float32).removeprefix("torch."),
        "threads": "any" if cuda else str(torch.get_num_threads()),
        "processes": str(compute.world.size),
        "torch": torch.__version__,
    }


def seed_json(seed: Seed) -> dict[str, Any]:
    """Return all of a seed but its weights, ready for JSON."""
    about = {key: getattr(seed, key) for key in ("name", "mean", "std", "source", "licence", "top1")}
    return {**about, "trained": seed.state is not None, "arch": seed.arch.to_json()}
