"""Hardware: device, precision, processes; what a device needs done to a network is done when it is placed there."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fna.config import EngineConfig
from fna.errors import FnaError, nearest
from fna.nets.activation import lean
from fna.nets.network import Model
from fna.training import cpu, distributed
from fna.training.determinism import deterministic, products
from fna.training.heap import kept_pages
from fna.training.machine import cpus
from fna.training.pointwise import as_product
from fna.training.tracking import need_trackers

M = TypeVar("M", bound=nn.Module)
BESIDE_CPU, BESIDE_GPU = 2, 8  # processes that load data, unless they are told
AMPERE = (8, 0)  # the first GPUs that compute in bf16; torch emulates it on older ones


@dataclass(frozen=True)
class Compute:
    """Where and how tensors are computed."""

    device: torch.device
    dtype: torch.dtype | None  # of autocast; None: float32 throughout
    channels_last: bool
    world: distributed.World
    rng_seed: int = 0
    workers: int = 0  # processes that load data
    sync_bn: bool = True  # share batch statistics between processes
    one_shape: bool = False  # the first batch of a new size takes long, since operations are planned for it

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the precision context of a forward pass."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def place(self, model: nn.Module) -> nn.Module:
        """Move a model to the device and memory format, and give it what the device needs to train well."""
        return self.mended(self.move(model))

    def move(self, model: M) -> M:
        """Move a model to the device and memory format; its modules stay as those of a network that is loaded."""
        model.to(self.device)
        if self.channels_last:
            model.to(memory_format=torch.channels_last)
        return model

    def mended(self, module: M) -> M:
        """Give the layers of a module what training on the device needs."""
        for part in module.modules():
            lean(part)
            as_product(part, always=self.device.type != "cpu")
        if self.device.type == "cpu":
            cpu.mend(module)
        return module

    def parallel(self, model: Model, *, partial: bool) -> nn.Module:
        """Place `model` on the device and, under several processes, share statistics and gradients.

        Args:
            model: a task's network.
            partial: a step may use a part of the parameters only (a super network's path).
        """
        self.place(model)
        if self.world.size == 1:
            return model
        if self.sync_bn:
            distributed.share_statistics(model, self.device.type == "cuda")
        return distributed.replicate(model, self.device, partial=partial, sync_bn=self.sync_bn)

    def like_placed(self, head: nn.Module) -> nn.Module:
        """Give a head on the meta device, which borrows its weights, what `parallel` gives modules that have some."""
        self.mended(Model(nn.Identity(), head))
        if self.world.size > 1 and self.sync_bn:
            return distributed.share_statistics(head, self.device.type == "cuda")
        return head

    def images(self, images_N3HW: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
        """Move uint8 images to the device and normalise them as the seed expects.

        Args:
            images_N3HW: uint8 RGB.
            mean: per channel, of values in [0, 1].
            std: per channel, of values in [0, 1].
        """
        x = images_N3HW.to(self.device, non_blocking=True).float()
        x = (x - _channels(mean, self.device)) / _channels(std, self.device)
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last else x

    def truths(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Move what a loss reads of a batch to the device, but for the images; nothing waits for pinned memory."""

        def there(value: Any) -> Any:
            if isinstance(value, list):
                return [there(part) for part in value]
            return value.to(self.device, non_blocking=True) if isinstance(value, Tensor) else value

        return {key: value if key == "image" else there(value) for key, value in batch.items()}


@lru_cache(maxsize=16)
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return numbers of [0, 1], one a channel, as those of 8 bits, (1, 3, 1, 1); copied to a device once."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device).view(1, 3, 1, 1) * 255


@contextmanager
def computing(config: EngineConfig) -> Iterator[Compute]:
    """Join the other processes, if any, and settle device, precision and threads; leaving restores the threads.

    Raises:
        FnaError: the device, the precision or a package of ``engine.log`` is not there; or, later, an operation has no
            deterministic kernel, and ``engine.deterministic`` asks for one.
    """
    need_trackers(config.log)
    device = find_device(config.device)
    precision = find_precision(config.precision, device)
    with cpu_threads(config.threads), distributed.world(device.type == "cuda") as world:
        if device.type == "cuda":
            if world.size > 1:
                device = find_device(f"cuda:{world.local_rank}")
            torch.cuda.set_device(device)
        own = ("channels_last", "rng_seed", "sync_bn")
        heap = kept_pages() if device.type == "cpu" else nullcontext()
        with deterministic(config.deterministic), products(config.tf32), heap:
            settings = {key: getattr(config, key) for key in own} | {"workers": find_workers(config.workers, device)}
            yield Compute(device, precision, world=world, one_shape=device.type == "cuda", **settings)


@contextmanager
def cpu_threads(number: int) -> Iterator[None]:
    """Compute with so many CPU threads (0: as many as before), then again with as many as before."""
    before = torch.get_num_threads()
    if number:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def find_device(name: str) -> torch.device:
    """Return the device of a name: auto, cpu, cuda, cuda:1 ...

    Raises:
        FnaError: it is not there.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda:0" if gpus else "cpu"
    known = ["cpu", *(["cuda"] if gpus else []), *(f"cuda:{i}" for i in range(gpus))]
    if name not in known:
        raise FnaError(f"engine.device is '{name}'{nearest(name, known)}; there is: auto, {', '.join(known)}")
    return torch.device("cuda:0" if name == "cuda" else name)


def find_workers(given: int | str, device: torch.device) -> int:
    """Return the number of processes that load data: `given`, or for ``auto`` what suits the device.

    Beside a CPU that trains more would only slow it down. A GPU waits for fewer than its process has CPUs, one of which
    feeds it.
    """
    if given != "auto":
        return int(given)
    if device.type == "cpu":
        return BESIDE_CPU
    own = cpus() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(BESIDE_GPU, own - 1))


def _has_fast_bf16() -> bool:
    """Tell whether the CPU has instructions for bf16; an x86 without them emulates it, slower than float32."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def find_precision(name: str, device: torch.device) -> torch.dtype | None:
    """Return the type that autocast computes in, None for float32; ``auto``: a faster one, if the device is fast at it.

    Raises:
        FnaError: the device has none of that name.
    """
    if name == "fp16" and device.type != "cuda":
        raise FnaError("engine.precision fp16 needs CUDA; use bf16 or fp32 here")
    if name == "auto":
        if device.type == "cuda":
            name = "bf16" if torch.cuda.get_device_capability(device) >= AMPERE else "fp16"
        else:
            name = "bf16" if _has_fast_bf16() else "fp32"
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
