"""Processes under torchrun: start-up, sums over ranks, and batch norms that share their statistics."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from fna.errors import FnaError

T = TypeVar("T")
LOST = ("Connection closed", "Connection reset", "Broken pipe", "remote process exited", "Timed out")  # of a peer


@dataclass(frozen=True)
class World:
    """This process among its peers: rank of size, and its place on the node."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def writes(self) -> bool:
        """Only rank 0 writes files and prints."""
        return self.rank == 0


@contextmanager
def world(cuda: bool, timeout_minutes: float = 30) -> Iterator[World]:
    """Join the processes torchrun started; alone where there are none.

    Args:
        cuda: whether tensors live on CUDA (nccl) or on the CPU (gloo).
        timeout_minutes: a peer silent for so long ends the job with an error.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "RANK" not in os.environ:
        yield World()
        return
    if not dist.is_initialized():
        limit = timedelta(minutes=timeout_minutes)
        store, rank, size = next(iter(rendezvous("env://", timeout=limit)))
        # torchrun may keep its store over restarts (--max-restarts), with the addresses of processes that are gone.
        own = dist.PrefixStore(f"restart_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)  # type: ignore[attr-defined]
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"  # both on CUDA: metrics and messages stay on the CPU
        dist.init_process_group(backend, timeout=limit, world_size=size, rank=rank, store=own)
        # Once, at the end: a second group of the same processes would find the addresses of the first.
        atexit.register(dist.destroy_process_group)
    try:
        yield World(dist.get_rank(), size, int(os.environ.get("LOCAL_RANK", "0")))
    except BaseException as error:
        # The others may wait for this process, so it must not wait for them.
        atexit.unregister(dist.destroy_process_group)
        if isinstance(error, RuntimeError) and any(sign in str(error) for sign in LOST):
            lost = FnaError(
                "another process of this job ended; if it gives no reason, it was killed (out of memory?): "
                "the same command goes on from the last checkpoint"
            )
            lost.reported_here = _is_first_error()
            raise lost from error
        if isinstance(error, FnaError):
            error.reported_here = _is_first_error()
        raise


def _is_first_error() -> bool:
    """Tell whether no other process of the job has met an error before."""
    return bool(dist.distributed_c10d._get_default_store().add("fna_errors", 1) == 1)


def total(values: Tensor) -> Tensor:
    """Return the sum of `values` over all processes (no gradient)."""
    values = values.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def average_(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its mean over all processes."""
    if not dist.is_initialized():
        return
    tensors = list(tensors)
    flat = torch.cat([t.reshape(-1) for t in tensors]) / dist.get_world_size()
    dist.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def share_buffers(model: nn.Module) -> None:
    """Give every process the first one's buffers; without shared batch statistics theirs drift apart."""
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def barrier() -> None:
    """Wait for all processes."""
    if dist.is_initialized():
        dist.barrier()


def gather(values: list[T]) -> list[T]:
    """Return the values of all processes on each of them, in the order of their ranks."""
    if not dist.is_initialized():
        return values
    parts: list[list[T]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, values)
    return [value for part in parts for value in part]


def first(value: T) -> T:
    """Return the first process's value on all of them, where they might see different ones: the files it writes."""
    return gather([value])[0]


def agree(error: str | None) -> None:
    """Raise `error` on every process if any has one, so that no process waits for a peer that stopped.

    Raises:
        FnaError: the first error of any process.
    """
    if dist.is_initialized():
        errors: list[str | None] = [None] * dist.get_world_size()
        dist.all_gather_object(errors, error)
        error = next((e for e in errors if e), None)
    if error:
        raise FnaError(error)


class SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes; its gradient is the sum of the processes' gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: D102
        return total(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: D102
        return total(gradient)


class SyncBatchNormCPU(nn.BatchNorm2d):
    """Batch normalisation over the batches of all processes, for gloo on CPUs, which torch's own does not support.

    Attributes:
        alone: whether this process keeps to itself for the time being; see `apart`.
    """

    alone = False

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Normalise with the mean and (biased) variance over all processes; running statistics as torch keeps them."""
        if not self.training or not dist.is_initialized() or self.alone:
            return super().forward(x_NCHW)
        x = x_NCHW.to(torch.promote_types(x_NCHW.dtype, torch.float32))
        # Mean and variance of each process, then of all (Chan): exact also where the mean is large.
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        own = torch.cat([mean, variance, x.new_full((1,), x.numel() / x.shape[1])])
        place = torch.arange(dist.get_world_size(), device=x.device) == dist.get_rank()
        rows: Tensor = SumOverProcesses.apply(place[:, None] * own)
        means, variances, counts = rows.split([len(mean), len(mean), 1], 1)
        count = counts.sum()
        mean = (means * counts).sum(0) / count
        variance = ((variances + (means - mean).square()) * counts).sum(0) / count
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                assert self.num_batches_tracked is not None
                self.num_batches_tracked += 1
                rate = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean, rate)
                self.running_var.lerp_(variance * count / (count - 1).clamp_min(1), rate)
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        out: Tensor = (x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)).to(x_NCHW.dtype)
        return out


def share_statistics(model: nn.Module, cuda: bool) -> nn.Module:
    """Turn every batch norm into one that shares its statistics over processes (timm's conversion on CUDA).

    That holds for those of subclasses, too, which take batches of a single value: all processes together have more.
    """
    if cuda:
        from timm.layers.norm_act import convert_sync_batchnorm

        converted: nn.Module = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return converted
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = SyncBatchNormCPU
    return model


@lru_cache(maxsize=1)
def _alone(world: object) -> Any:
    """Return a group of this process only, made once, by all of `world` at the same time."""
    return [dist.new_group([rank]) for rank in range(dist.get_world_size())][dist.get_rank()]


@contextmanager
def apart(model: nn.Module) -> Iterator[None]:
    """Inside, batch norms share nothing, so that each process may run something else."""
    if not dist.is_initialized():
        yield
        return
    own = _alone(dist.group.WORLD)
    shared: list[Any] = [m for m in model.modules() if isinstance(m, nn.SyncBatchNorm | SyncBatchNormCPU)]
    before = [(module, "process_group" if isinstance(module, nn.SyncBatchNorm) else "alone") for module in shared]
    values = [getattr(module, name) for module, name in before]
    for module, name in before:
        setattr(module, name, own if name == "process_group" else True)
    try:
        yield
    finally:
        for (module, name), value in zip(before, values, strict=True):
            setattr(module, name, value)


def replicate(model: nn.Module, device: torch.device, *, partial: bool, sync_bn: bool) -> nn.Module:
    """Wrap `model` so that gradients are averaged over processes.

    Args:
        model: on its device already.
        device: that device.
        partial: a step may use a part of the parameters only (a super network's path).
        sync_bn: batch statistics are shared, so buffers agree without being broadcast.
    """
    if not dist.is_initialized():
        return model
    devices = [device.index] if device.type == "cuda" else None
    network = DistributedDataParallel(model, device_ids=devices, find_unused_parameters=partial)
    network.broadcast_buffers = not sync_bn  # no argument: its name depends on the version of torch
    return network
