"""Time and memory of training steps, measured side by side in one run.

    python benchmarks/steps.py DATA

DATA is the CamVid folder. EfficientNet-Lite0 with DeepLabv3 at output stride 16, batch 8 of 240x320, the recipe's
precision and optimizer, two threads; `candidates_growth` on MobileNetV2, whose blocks are among its 4 candidates. Needs
segmentation-models-pytorch for `vs_smp`. Things that are compared take turns (A B A B ...), after a warm-up of each; a
ratio is one of sums of medians.

Memory is the largest resident size during three steps above that before them, each kind of step in its own process. A
weight step's includes the optimizer's state of the paths it trains.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import record
import torch
from rivals import SmpNetwork
from torch import Tensor, nn

from fna.arch import Arch
from fna.arch.spaces import make_space
from fna.config import Config, load_config
from fna.config.budgets import parse_budget
from fna.cost.costs import Costs
from fna.data.splits import Splits, open_data
from fna.nets.supernet import frozen_weights
from fna.nets.weights import Network
from fna.rng import generator
from fna.searching.alphas import SearchLoop
from fna.searching.estimators import ESTIMATORS
from fna.searching.sampling import draw_path
from fna.seeds import load_seed
from fna.stages.adapt import AdaptLoop
from fna.stages.expand import expand, seed_network
from fna.tasks.problem import Problem
from fna.training.compute import Compute, computing
from fna.training.engine import WeightStep, global_mean
from fna.training.heap import hand_back

RECIPE = Path(__file__).parents[1] / "recipes" / "camvid_deeplabv3.yaml"
PATHS, ROUNDS, DRAWS = 20, 8, 10
EXPANSIONS = (3, 4, 6)
FOUR, THIRTEEN = (3,), (3, 5, 7, 9)  # kernels; candidates a layer with skip

Step = Callable[[], Any]


def configure(data: str, *more: str) -> Config:
    """Return the recipe's configuration at the size of the benchmark, all batches of one shape."""
    own = ["data.crop=[240, 320]", "engine.threads=2", "space.input_scales=[1]", "space.head_channels=[1]"]
    return load_config(RECIPE, [f"data.root={json.dumps(data)}", *own, "search.chooser=alphas", *more])


@contextmanager
def searching(config: Config) -> Iterator[SearchLoop]:
    """Yield a search at its first iteration."""
    seed, data = load_seed(config.seed.name, config.seed.weights), open_data(config)
    problem = Problem.of(config, data.val, seed)
    grown = expand(seed, problem)
    costs = problem.costs(grown.arch)
    with computing(config.engine) as compute:
        limit = costs.limit(parse_budget(config.search.budget or 1.0), "search.budget")
        loop = SearchLoop(grown, problem, data.train, compute, costs, limit)
        loop.start(0)
        yield loop


def seconds(step: Step) -> float:
    """Time one call."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def take_turns(steps: dict[str, Step], rounds: int) -> dict[str, float]:
    """Return the median seconds of each step, after one warm-up call of each."""
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(seconds(step))
    return {name: median(values) for name, values in times.items()}


def plain_step(loop: SearchLoop, model: nn.Module, batch: Any, images: Tensor) -> Step:
    """Return a training step of a plain network that is on the device, by the search's optimizer."""
    model.train()
    config = loop.config.optimizer
    groups = [{"params": list(model.parameters()), "scale": 1.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay)
    step = WeightStep(model, optimizer, config, loop.problem.loss, loop.compute, 100, 100)
    return lambda: step(50, batch, images)


def overhead(loop: SearchLoop, batch: Any, images: Tensor) -> dict[str, float]:
    """Compare steps on sampled paths with steps of the same architectures as plain networks: median seconds, summed."""
    total = {"super": 0.0, "plain": 0.0}
    for i in range(PATHS):
        path = draw_path(loop.arch, None, generator(1, "path", i))
        model = loop.problem.build(loop.arch.path_arch(path))
        steps: dict[str, Step] = {
            "super": partial(loop.weight_step, 50, batch, images, path),
            "plain": plain_step(loop, loop.compute.place(model), batch, images),
        }
        for name, value in take_turns(steps, 3).items():
            total[name] += value
    return total


def alpha_steps(loop: SearchLoop) -> dict[str, float]:
    """Return the median seconds of a weight step and of each kind of alpha step, on paths drawn anew each time."""
    count = iter(range(10**6))

    def weight_step() -> None:
        batch, images = batches[next(count) % len(batches)]
        path = draw_path(loop.arch, None, generator(2, "path", next(count)))
        began.append(time.perf_counter())
        loop.weight_step(50, batch, images, path)
        times["weight"].append(time.perf_counter() - began.pop())

    def alpha_step(name: str) -> None:
        batch, images = batches[next(count) % len(batches)]
        loop.alpha_batches = iter([(batch, images)])
        loop.config = loop.config.model_copy(update={"estimator": name})
        began.append(time.perf_counter())
        loop.alpha_step(next(count))
        times[name].append(time.perf_counter() - began.pop())

    began: list[float] = []
    times: dict[str, list[float]] = {name: [] for name in ("weight", *ESTIMATORS)}
    batches = [next(loop.alpha_batches) for _ in range(3)]
    for i in range(ROUNDS + 1):
        weight_step()
        for name in ESTIMATORS:
            if name != "full" or i < 4:  # the dear one less often
                alpha_step(name)
    return {name: median(values[1:]) for name, values in times.items()}


def quality(loop: SearchLoop, batch: Any, images: Tensor) -> list[dict[str, Any]]:
    """Compare each estimator's gradient of the task's loss with that of the full mixture, on one batch."""

    def gradient(name: str, draw: int) -> Tensor:
        choice = ESTIMATORS[name](loop.alphas, generator(3, name, draw))
        compute = loop.compute
        with frozen_weights(loop.model), compute.autocast():
            loss, _ = global_mean(*loop.problem.loss(loop.model(images, choice), batch), compute)
        wanted = [a for a in loop.alphas if len(a) > 1]
        parts = torch.autograd.grad(loss, wanted, allow_unused=True)
        return torch.cat([torch.zeros_like(a) if g is None else g for a, g in zip(wanted, parts, strict=True)])

    full = gradient("full", 0)
    rows = []
    for name in ("two_path", "gumbel"):
        draws = torch.stack([gradient(name, i) for i in range(DRAWS)])
        single = torch.cosine_similarity(draws, full[None]).mean()
        mean = torch.cosine_similarity(draws.mean(0), full, dim=0)
        rows += [
            {
                "row": f"{name}: cosine to the full gradient, mean of {DRAWS} draws",
                "metric": "cosine",
                "score": single.item(),
            },
            {"row": f"{name}: cosine to the full gradient, of their mean", "metric": "cosine", "score": mean.item()},
        ]
    return rows


def growth(data: str, batch: Any, images: Tensor) -> dict[str, float]:
    """Time the same 10 paths in a space of 4 and in one of 13 candidates a layer."""
    config = configure(data, "seed.name=mobilenet_v2", "seed.weights=null")
    seed, splits = load_seed("mobilenet_v2", None), open_data(config)
    problem = Problem.of(config, splits.val, seed)
    with computing(config.engine) as compute:
        layers = (4, 4, 6, 6, 4, 1)
        spaces = {
            name: make_space(seed.arch, layers=layers, kernels=kernels, expansions=EXPANSIONS)
            for name, kernels in (("4", FOUR), ("13", THIRTEEN))
        }
        loops = {
            name: SearchLoop(Network(space, {}), problem, splits.train, compute, _free(space), None)
            for name, space in spaces.items()
        }
        total = dict.fromkeys(spaces, 0.0)
        for loop in loops.values():
            loop.network.train()
        for i in range(10):
            arch: Arch = spaces["4"].path_arch(draw_path(spaces["4"], None, generator(4, "path", i)))
            steps: dict[str, Step] = {
                name: partial(loop.weight_step, 50, batch, images, loop.arch.path_of(arch))
                for name, loop in loops.items()
            }
            for name, value in take_turns(steps, 2).items():
                total[name] += value
    return total


def _free(space: Any) -> Costs:
    """Return costs of nothing."""
    return Costs("MAdds", [[0] * len(candidates) for _, candidates in space.layers()], 0, 1)


def waiting(config: Config, compute: Compute) -> dict[str, float]:
    """Measure an epoch of the seed's training with the real loader: seconds in all, and waiting for batches."""
    seed, data = load_seed(config.seed.name, config.seed.weights), open_data(config)
    problem = Problem.of(config, data.val, seed)
    schedule = config.adapt.model_copy(update={"recalibrate": 0})
    loop = AdaptLoop(seed_network(seed, problem), problem, Splits(data.train, data.val), compute, schedule)
    loop.start(0)
    batches, waited = loop.batches, []

    def timed() -> Iterator[Any]:
        while True:
            start = time.perf_counter()
            item = next(batches)
            waited.append(time.perf_counter() - start)
            yield item

    loop.batches = timed()
    start = time.perf_counter()
    for step in range(loop.steps_per_epoch):
        loop.step(step)
    return {"epoch": time.perf_counter() - start, "waiting": sum(waited), "first batch": waited[0]}


def resident(key: str) -> int:
    """Read a line of this process's status, in bytes: VmRSS now, VmHWM the largest since the last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024


def measure_memory(kind: str, data: str) -> None:
    """Print the peak above rest and the rest, in bytes, of three steps of one kind."""
    with searching(configure(data)) as loop:
        batches = [next(loop.weight_batches) for _ in range(3)]
        loop.alpha_batches = iter(batches)
        if kind != "weight":
            loop.config = loop.config.model_copy(update={"estimator": kind})
        hand_back()
        rest = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        for i, (batch, images) in enumerate(batches):
            if kind == "weight":
                loop.weight_step(50, batch, images, draw_path(loop.arch, None, generator(5, "path", i)))
            else:
                loop.alpha_step(i)
        print(json.dumps({"peak": resident("VmHWM") - rest, "rest": rest}))


def memory(data: str) -> dict[str, dict[str, int]]:
    """Measure each kind of step in a process of its own."""
    result = {}
    for kind in ("weight", *ESTIMATORS):
        command = [sys.executable, __file__, "--memory", kind, data]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        result[kind] = json.loads(out.splitlines()[-1])
    return result


def main(data: str) -> None:
    """Measure everything and write ``results/steps.json``."""
    peaks = memory(data)
    with searching(configure(data)) as loop:
        batch, images = next(loop.weight_batches)
        paths = overhead(loop, batch, images)
        alphas = alpha_steps(loop)
        cosines = quality(loop, batch, images)
        draw = iter(range(10**6))
        nets = take_turns(
            {
                "seed": plain_step(loop, loop.compute.place(loop.problem.build(loop.arch.seed)), batch, images),
                "smp": plain_step(loop, loop.compute.move(SmpNetwork(len(loop.problem.labels.classes))), batch, images),
                "path": lambda: loop.weight_step(
                    50, batch, images, draw_path(loop.arch, None, generator(6, "path", next(draw)))
                ),
            },
            2 * ROUNDS,
        )
        loading = waiting(loop.problem.config, loop.compute)
    sizes = growth(data, batch, images)
    ratios = {
        "weight_step_overhead": paths["super"] / paths["plain"],
        "alpha_cheap_time": alphas["two_path"] / alphas["weight"],
        "alpha_gumbel_time": alphas["gumbel"] / alphas["weight"],
        "alpha_full_time": alphas["full"] / alphas["weight"],
        "alpha_cheap_memory": peaks["two_path"]["peak"] / peaks["weight"]["peak"],
        "alpha_gumbel_memory": peaks["gumbel"]["peak"] / peaks["weight"]["peak"],
        "alpha_full_memory": peaks["full"]["peak"] / peaks["weight"]["peak"],
        "weight_step_vs_seed": nets["path"] / nets["seed"],
        "vs_smp": nets["smp"] / nets["seed"],
        "candidates_growth": sizes["13"] / sizes["4"],
        "loader_wait": loading["waiting"] / loading["epoch"],
    }
    timed = {
        **{f"{PATHS} sampled paths: {name}": value for name, value in paths.items()},
        **{f"{name} step": value for name, value in alphas.items()},
        **{f"training step: {name}": value for name, value in nets.items()},
        **{f"10 paths among {name} candidates a layer": value for name, value in sizes.items()},
        **{f"an epoch of the seed: {name}": value for name, value in loading.items()},
    }
    rows = [{"row": row, "metric": "seconds", "score": score} for row, score in timed.items()] + cosines
    rows += [
        {"row": f"{name} step: {what}", "metric": "bytes", "score": value}
        for name, values in peaks.items()
        for what, value in values.items()
    ]
    record.write("steps", rows, ratios, precision=str(loop.compute.dtype or torch.float32)[6:])
    print(json.dumps(ratios, indent=1))


if __name__ == "__main__":
    if sys.argv[1] == "--memory":
        measure_memory(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
