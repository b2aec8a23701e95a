"""What a process does for test_distributed.py, alone or under torchrun.

two_processes.py train IMAGES OUT [key=value ...]   train on tiny networks; write what came out to OUT/RANK-of-SIZE.pt
two_processes.py fna ROOT ARGUMENTS ...             the command fna, in the folder ROOT/RANK
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from tiny import Job, adapt_tiny, opened, search_tiny, tiny_config
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fna.cli import main as fna
from fna.nets.supernet import SuperBackbone
from fna.stages.evaluate import evaluate
from fna.tasks.heads import ImagePooling
from fna.training.distributed import SyncBatchNormCPU, replicate, share_statistics


def normalised(job: Job, norm: nn.Module, x_NCHW: Tensor, weight_NCHW: Tensor) -> dict[str, Tensor]:
    """Pass this process's part of a batch through a norm and back; return the part's results and the norm's state."""
    world = job.compute.world
    own = slice(world.rank * len(x_NCHW) // world.size, (world.rank + 1) * len(x_NCHW) // world.size)
    x = x_NCHW[own].clone().requires_grad_()
    network = norm
    if world.size > 1:
        network = replicate(share_statistics(norm, cuda=False), job.compute.device, partial=False, sync_bn=True)
        assert isinstance(network, DistributedDataParallel)
    y = network(x)
    (y * weight_NCHW[own]).sum().mul(world.size).backward()  # gradients of parameters are averaged over processes
    assert x.grad is not None
    gradients = {f"{name}.grad": p.grad for name, p in norm.named_parameters() if p.grad is not None}
    return {"y": y.detach(), "x.grad": x.grad / world.size, **gradients, **norm.state_dict()}


def norms(job: Job) -> dict[str, dict[str, Tensor]]:
    """Run batch norms on an ordinary input, without momentum, on one image a process, and on a far mean in float32."""
    draw = torch.Generator().manual_seed(0)
    results = {}
    for name, momentum, shift, dtype in (
        ("ordinary", 0.1, 0.0, torch.float64),
        ("cumulative", None, 1.0, torch.float64),
        ("far mean", 0.1, 300.0, torch.float32),
    ):
        norm = nn.BatchNorm2d(5, momentum=momentum).to(dtype)
        with torch.no_grad():
            norm.weight.copy_(torch.rand(5, generator=draw))
            norm.bias.copy_(torch.rand(5, generator=draw))
        x, weight = torch.randn(2, 6, 5, 7, 3, generator=draw, dtype=dtype)
        results[name] = normalised(job, norm, x + shift, weight)
    pooling = ImagePooling(6, 5).double()  # its norm sees one value an image and channel
    with torch.no_grad():
        pooling.conv.weight.copy_(torch.randn(5, 6, 1, 1, generator=draw))
    x = torch.randn(2, 6, 4, 4, generator=draw, dtype=torch.float64)
    weight = torch.randn(2, 5, 1, 1, generator=draw, dtype=torch.float64)
    results["one image a process"] = normalised(job, pooling, x, weight)
    return results


def train(images: Path, out: Path, overrides: list[str]) -> None:
    """Search, adapt and score; other processes than the first get a folder of their own, which must stay empty."""
    paths: list[tuple[int, ...]] = []

    def note_path(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if isinstance(module, SuperBackbone) and all(isinstance(choice, int) for choice in arguments[1]):
            paths.append(tuple(arguments[1]))

    # Other processes than the first would never find a checkpoint due: it must not ask them.
    overrides = [*overrides, f"engine.checkpoint_seconds={1e6 if int(os.environ.get('RANK', '0')) else 0.0}"]
    with opened(tiny_config(images, *overrides), double=True) as job:
        world = job.compute.world
        folder = out / f"{world.rank}-of-{world.size}"
        results: dict[str, Any] = {"norms": norms(job)}
        hook = torch.nn.modules.module.register_module_forward_pre_hook(note_path)
        searched = search_tiny(job, folder)
        hook.remove()
        results |= {"paths": paths, "searched": searched.network.state, "alphas": searched.evidence.values}
        adapted = adapt_tiny(job, folder)
        results |= {"adapted": adapted.network.state, "scores": adapted.scores}
        fresh = job.problem.build(job.seed.arch)
        results["fresh scores"] = evaluate(
            job.compute.parallel(fresh, partial=False), job.problem, job.data.val, job.compute
        )
        assert any(isinstance(m, SyncBatchNormCPU) for m in fresh.modules()) == (world.size > 1)
    frozen = ("search.bn=frozen", "adapt.bn=frozen", "search.epochs=3", "adapt.epochs=1")
    with opened(tiny_config(images, *overrides, *frozen), double=True) as job:
        results["frozen searched"] = search_tiny(job, folder / "frozen").network.state
        results["frozen adapted"] = adapt_tiny(job, folder / "frozen").network.state
    with opened(tiny_config(images, *overrides, "engine.sync_bn=false", "adapt.epochs=1")) as job:
        adapted = adapt_tiny(job, folder / "own norms")
        results |= {"own norms adapted": adapted.network.state, "own norms scores": adapted.scores}
    with opened(tiny_config(images, *overrides)) as job:
        search_tiny(job, folder / "float32")
        adapt_tiny(job, folder / "float32")
    torch.save(results, out / f"{world.rank}-of-{world.size}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "train":
        train(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
    else:
        os.chdir(Path(sys.argv[2]) / os.environ["RANK"])
        sys.exit(fna(sys.argv[3:]))
