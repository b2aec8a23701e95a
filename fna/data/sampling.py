"""Which records make which batch: a function of the step alone, so a run resumes anywhere and splits over ranks."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from fna.errors import FnaError
from fna.progress import say
from fna.rng import generator
from fna.training.machine import cpus

PATIENCE = 20 * 60  # seconds without a batch from the workers
AHEAD = 2  # batches a worker makes ahead, DataLoader's own number
SHARED = "/dev/shm"  # where processes hand on tensors (Linux)
PLENTY = 4 * 2**30  # bytes there that are not worth a look


class StepSampler(Sampler[list[tuple[int, int]]]):
    """A batch sampler over all steps of a training, so that worker processes start once.

    Every epoch is a new permutation of the records, f(rng_seed, purpose, epoch); the last incomplete batch is dropped.
    With several ranks, each takes its slice of the global batch of batch_size * world records. Of records in groups, a
    global batch takes one group, except where what is left of each group makes up the last batches.

    Args:
        n: number of records.
        batch_size: records per step and rank.
        rng_seed: the run's seed.
        purpose: what the steps are for ("weights"); other purposes, other orders.
        start_step: first step to yield, for a resumed run.
        end_step: the step to stop before.
        rank: this process.
        world: number of processes.
        groups: a number per record; () is one group.

    Raises:
        FnaError: there are fewer records than one step needs.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        rng_seed: int,
        purpose: str,
        start_step: int,
        end_step: int,
        rank: int = 0,
        world: int = 1,
        groups: Sequence[int] = (),
    ) -> None:
        self.steps_per_epoch = n // (batch_size * world)
        if self.steps_per_epoch == 0:
            processes = f" x {world} processes" if world > 1 else ""
            raise FnaError(
                f"{n} images for '{purpose}', but a step needs at least {batch_size * world} "
                f"(batch size {batch_size}{processes}); use a smaller batch size or more images"
            )
        self.n, self.batch_size, self.rng_seed, self.purpose = n, batch_size, rng_seed, purpose
        self.start_step, self.end_step, self.rank, self.world = start_step, end_step, rank, world
        self.groups = groups if len(set(groups)) > 1 else ()
        self.left_out = n - self.steps_per_epoch * batch_size * world  # records of an epoch, others in each

    def __len__(self) -> int:
        return max(0, self.end_step - self.start_step)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield a list of (epoch, position) per step."""
        epoch, order = -1, []
        for step in range(self.start_step, self.end_step):
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                order = self._order(generator(self.rng_seed, self.purpose, epoch))
            start = (step % self.steps_per_epoch * self.world + self.rank) * self.batch_size
            yield [(epoch, position) for position in order[start : start + self.batch_size]]

    def _order(self, draws: torch.Generator) -> list[int]:
        """Return the records of an epoch, those of a global batch next to each other."""
        order: list[int] = torch.randperm(self.n, generator=draws).tolist()
        if not self.groups:
            return order
        size, batches, rest = self.batch_size * self.world, [], []
        for group in sorted(set(self.groups)):
            members = [position for position in order if self.groups[position] == group]
            whole = len(members) // size * size
            batches += [members[start : start + size] for start in range(0, whole, size)]
            rest += members[whole:]
        batches += [rest[start : start + size] for start in range(0, len(rest) // size * size, size)]
        return [position for i in torch.randperm(len(batches), generator=draws).tolist() for position in batches[i]]


class Loader:
    """Samples of a view, made by worker processes ahead of time.

    Args:
        view: makes the samples.
        workers: processes, at most one a CPU this process may use, and on Linux those for whose batches there is memory
            to share; 0 makes the samples in this one. They are the same.
        batches: says which samples make which batch; None: every sample by itself, in order.
        collate: makes a batch of some samples.
        pinned: put the batches where a GPU can copy them from while it works.
    """

    def __init__(
        self,
        view: Dataset[Any],
        workers: int,
        batches: Sampler[Any] | None = None,
        collate: Callable[[Any], Any] | None = None,
        pinned: bool = False,
    ) -> None:
        self._view, self._batches, self._collate, self._pinned = view, batches, collate, pinned
        self._workers = min(workers, cpus())
        self._loader = self._made_by(self._workers)

    def _made_by(self, workers: int) -> DataLoader[Any]:
        linux = sys.platform == "linux"
        return DataLoader(
            self._view,
            batch_size=None if self._batches is None else 1,
            batch_sampler=self._batches,
            num_workers=workers,
            collate_fn=self._collate or _as_it_is,
            pin_memory=self._pinned,
            # fork shares the cache of decoded images; elsewhere each worker gets a copy
            multiprocessing_context="fork" if workers and linux else None,
            worker_init_fn=_leave_interrupts,
            timeout=PATIENCE if workers else 0,
            generator=torch.Generator(),  # or the DataLoader would draw from the global one
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches.

        Raises:
            FnaError: a record cannot be read any more, a worker process died or is silent, or they have too little
                memory to share.
        """
        if self._workers and sys.platform == "linux":
            self._fit_shared_memory()
        try:
            yield from self._loader
        except FnaError as error:  # from a worker it comes with the worker's traceback around it
            text = str(error).partition(f"{FnaError.__module__}.FnaError: ")[2]
            raise FnaError(text.strip() or str(error)) from None
        except RuntimeError as error:
            if "DataLoader timed out" in str(error):
                raise FnaError(
                    f"the data workers gave nothing for {PATIENCE // 60} minutes; if the images are on no slow disk, "
                    "they may lack memory to share: try --engine.workers 0, or docker run --shm-size 2g"
                ) from error
            if "DataLoader worker" not in str(error):
                raise
            raise FnaError(f"a data worker process died ({error}); out of memory? try --engine.workers 0") from error

    def _fit_shared_memory(self) -> None:
        """Take fewer workers where the batches that they make ahead do not fit into the memory that processes share."""
        try:
            free = shutil.disk_usage(SHARED).free
        except OSError:
            return
        if free >= PLENTY:
            return
        keys = next(iter(self._batches), None) if self._batches is not None else [0] * (len(self) > 0)
        if not keys:
            return
        batch = sum(_tensor_bytes(self._view[key]) for key in keys)
        needed, fit = self._workers * AHEAD * batch, free // (AHEAD * batch or 1)
        if needed <= free:
            return
        has = (
            f"{self._workers} data workers need {needed / 1e6:.0f} MB in {SHARED} for the batches they make ahead, "
            f"which has {free / 1e6:.0f} MB left"
        )
        if not fit:
            raise FnaError(f"{has}: type --engine.workers 0, or give the container --shm-size 2g")
        say(f"{has}: there will be {fit}; to have more, give the container --shm-size 2g")
        self._workers, self._loader = fit, self._made_by(fit)


def _tensor_bytes(sample: Any) -> int:
    """Return the memory of all tensors in nested containers."""
    if isinstance(sample, torch.Tensor):
        return sample.numel() * sample.element_size()
    parts = sample.values() if isinstance(sample, dict) else sample if isinstance(sample, list | tuple) else ()
    return sum(map(_tensor_bytes, parts))


def _leave_interrupts(worker: int) -> None:
    """Leave Ctrl-C, which a terminal sends to all processes, to the one that reads the batches and ends this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _as_it_is(sample: Any) -> Any:
    return sample


def split_indices(
    n: int, share: float, rng_seed: int, name: str = "search.alpha_split", sources: Sequence[str] = ()
) -> tuple[list[int], list[int]]:
    """Split records between weights and alphas, or what is held out in their place.

    Records of one source stay together, unless the second part would be less than half as large as it should be.

    Args:
        n: number of records.
        share: part of them that the alphas see, in (0, 1).
        rng_seed: the run's seed.
        name: of the setting that says `share`.
        sources: a name per record of what it was made of; (): each is of its own.

    Returns:
        Sorted indices for the weights, and for the alphas; every record is in one of them.

    Raises:
        FnaError: one of them would be empty.
    """
    alphas = round(n * share)
    if not 0 < alphas < n:
        raise FnaError(
            f"{name} {share:g} of {n} images leaves {n - alphas} for the weights and {alphas} beside them; "
            "both need at least 1: use more images or another share"
        )
    order = torch.randperm(n, generator=generator(rng_seed, "alpha_split")).tolist()
    groups: dict[str, list[int]] = {}
    for record in order:
        groups.setdefault(sources[record] if sources else str(record), []).append(record)
    taken: list[int] = []
    for group in groups.values():
        if len(taken) + len(group) <= alphas:
            taken += group
    if 2 * len(taken) < alphas:
        taken = order[:alphas]
    return sorted(set(order) - set(taken)), sorted(taken)
