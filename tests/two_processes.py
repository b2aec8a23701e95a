"""Training on tiny networks by one process and by two under torchrun, for tests that compare them.

two_processes.py DATA OUT [JOB ...] [key=value ...]   of each job, or of those named, writes OUT/JOB/RANK-of-SIZE.pt
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import tiny
import tiny_deeper
import torch
from tiny import Job, adapt_tiny, search_tiny, tiny_config, write_images
from tiny_detection import detection_config, write_squares
from tiny_pose import pose_config, write_figures
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fna.config import Config
from fna.nets.supernet import SuperBackbone
from fna.stages.evaluate import evaluate
from fna.tasks.heads import ImagePooling
from fna.training.distributed import SyncBatchNormCPU, replicate, share_statistics

SECONDS = 240  # that no job may take


# --- jobs -------------------------------------------------------------------------------------------------------------


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


@contextmanager
def noted_paths() -> Iterator[list[tuple[int, ...]]]:
    """Collect the paths that super networks run meanwhile."""
    paths: list[tuple[int, ...]] = []

    def note(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if isinstance(module, SuperBackbone) and all(isinstance(choice, int) for choice in arguments[1]):
            paths.append(tuple(arguments[1]))

    hook = torch.nn.modules.module.register_module_forward_pre_hook(note)
    try:
        yield paths
    finally:
        hook.remove()


def segmentation(configure: Callable[..., Config], folder: Path) -> dict[str, Any]:
    """Search, adapt and score with shared, frozen and own statistics, and in float32."""
    # Other processes than the first would never find a checkpoint due: it must not ask them.
    seconds = f"engine.checkpoint_seconds={1e6 if int(os.environ.get('RANK', '0')) else 0.0}"
    with tiny.opened(configure(seconds), double=True) as job:
        on_cpu = job.compute.device.type == "cpu"
        results: dict[str, Any] = {"norms": norms(job)} if on_cpu else {}
        with noted_paths() as paths:
            searched = search_tiny(job, folder)
        results |= {"paths": paths, "searched": searched.network.state, "alphas": searched.evidence.values}
        adapted = adapt_tiny(job, folder)
        results |= {"adapted": adapted.network.state, "scores": adapted.scores}
        fresh = job.problem.build(job.seed.arch)
        results["fresh scores"] = evaluate(
            job.compute.parallel(fresh, partial=False), job.problem, job.data.val, job.compute
        )
        assert any(isinstance(m, SyncBatchNormCPU | nn.SyncBatchNorm) for m in fresh.modules()) == (
            job.compute.world.size > 1
        )
    frozen = ("search.bn=frozen", "adapt.bn=frozen", "search.epochs=3", "adapt.epochs=1")
    with tiny.opened(configure(seconds, *frozen), double=True) as job:
        results["frozen searched"] = search_tiny(job, folder / "frozen").network.state
        results["frozen adapted"] = adapt_tiny(job, folder / "frozen").network.state
    tried = ("search.bn=frozen", "search.epochs=2", "search.candidates=2", "search.trial=0.9")
    with tiny.opened(configure(seconds, *MEASURED, *tried), double=True) as job:
        results["frozen pool"] = search_tiny(job, folder / "tried").to_json()["candidates"]
    with tiny.opened(configure(seconds, "engine.sync_bn=false", "adapt.epochs=1")) as job:
        adapted = adapt_tiny(job, folder / "own norms")
        results |= {"own norms adapted": adapted.network.state, "own norms scores": adapted.scores}
    with tiny.opened(configure(seconds, "search.epochs=2", *MEASURED), double=True) as job:
        found = search_tiny(job, folder / "measured")
        results |= {"measured": found.network.state, "pool": found.to_json()["candidates"]}
    kept = ("adapt.ema=0.9", "adapt.keep=best", "evaluate.every=1", "adapt.epochs=3", "adapt.optimizer.name=adamw")
    for name, more in (("best", ()), ("own norms best", ("engine.sync_bn=false",))):
        with tiny.opened(configure(seconds, *kept, *more), double=True) as job:
            adapted = adapt_tiny(job, folder / name)
            results |= {f"{name} adapted": adapted.network.state, f"{name} scores": adapted.scores}
    with tiny.opened(configure(seconds, "search.epochs=3", "adapt.epochs=1")) as job:
        search_tiny(job, folder / "float32")
        adapt_tiny(job, folder / "float32")
    return results


def deeper(configure: Callable[..., Config], folder: Path) -> dict[str, Any]:
    """Search, adapt and score a task that reads features of stride 32."""
    with tiny_deeper.opened(configure(), double=True) as job:
        searched, adapted = search_tiny(job, folder), adapt_tiny(job, folder)
    states = {"searched": searched.network.state, "adapted": adapted.network.state}
    return {**states, "alphas": searched.evidence.values, "scores": adapted.scores}


class Training(NamedTuple):
    """A job: what it does, on which data, and its batch sizes, of all processes together."""

    run: Callable[[Callable[..., Config], Path], dict[str, Any]]
    configure: Callable[..., Config]
    data: str
    search_batch: int
    adapt_batch: int
    overrides: tuple[str, ...] = ()


MEASURED = (
    *("search.sampler=anchored", "search.chooser=measured", "search.candidates=9", "search.held_out=0.3"),
    *("space.input_scales=[1, 1.5]", "space.head_channels=[0.5, 1]", "space.expansions=[2, 3]"),
    *("space.output_strides=[8, 16]", "search.distill=0.5"),
)
SHORT = ("search.epochs=4", "adapt.epochs=2", "engine.checkpoint_steps=0", "data.crop=[32, 32]")
ONCE = "adapt.epochs=1"
JOBS = {
    "segmentation": Training(segmentation, tiny_config, "images", 4, 4, SHORT),
    "retinanet": Training(deeper, detection_config, "squares", 2, 4, ("task.model=retinanet", ONCE)),
    "ssdlite": Training(deeper, detection_config, "squares", 4, 4, ("task.model=ssdlite", ONCE)),
    "pose": Training(deeper, pose_config, "figures", 4, 4, (ONCE,)),
}


def train(data: Path, out: Path, names: Sequence[str] = (), overrides: Sequence[str] = ()) -> None:
    """Do jobs; other processes than the first get folders of their own, which must stay empty."""
    rank, size = (int(os.environ.get(key, default)) for key, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    for name in names or JOBS:
        job = JOBS[name]
        batches = (f"search.batch_size={job.search_batch // size}", f"adapt.batch_size={job.adapt_batch // size}")

        def configure(*more: str, job: Training = job, batches: tuple[str, ...] = batches) -> Config:
            return job.configure(data / job.data, *batches, *job.overrides, *overrides, *more)

        torch.save(job.run(configure, out / name / f"{rank}-of-{size}"), out / name / f"{rank}-of-{size}.pt")


# --- processes --------------------------------------------------------------------------------------------------------


def torchrun(*words: str | Path, processes: int = 2, port: int | None = None) -> list[str]:
    """Return the command; with a port, by the rendezvous that is torchrun's default, whose store outlives restarts."""
    meet = ("--standalone",) if port is None else ("--master-addr", "127.0.0.1", "--master-port", str(port))
    options = (*meet, "--local-addr", "127.0.0.1", "--nproc-per-node", str(processes))
    # Without "--" torchrun takes our --run for an abbreviation of its own options.
    return [sys.executable, "-m", "torch.distributed.run", *options, *map(str, words)]


def start(command: list[str], errors: Path) -> subprocess.Popen[bytes]:
    """Start a job on this machine only, with one thread a process."""
    loopback = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    with errors.open("ab") as file:
        return subprocess.Popen(command, env={**os.environ, **loopback, "PYTHONPATH": path}, stdout=file, stderr=file)


def end(job: subprocess.Popen[bytes], seconds: float = SECONDS) -> int:
    """Wait for a job; one that hangs is ended, and fails the test."""
    try:
        return job.wait(seconds)
    finally:
        if job.poll() is None:
            job.terminate()
            job.wait()


def train_both_ways(root: Path, names: Sequence[str] = (), overrides: Sequence[str] = ()) -> Path:
    """Do jobs in two processes and, side by side, in this one; return the folder of what came out."""
    write_images(root / "images", train=16, val=5)  # the processes score 3 and 2
    write_squares(root / "squares")
    write_figures(root / "figures")
    out = root / "out"
    for name in JOBS:
        (out / name).mkdir(parents=True)
    two = start(torchrun("--", __file__, root, out, *names, *overrides), root / "errors.txt")
    try:
        train(root, out, names, overrides)
    finally:
        code = end(two)
    assert code == 0, (root / "errors.txt").read_text()
    return out


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(
        *map(Path, sys.argv[1:3]),
        [word for word in sys.argv[3:] if "=" not in word],
        [word for word in sys.argv[3:] if "=" in word],
    )
