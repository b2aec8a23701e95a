"""What training does on a GPU, each figure beside the one it is measured by.

    python benchmarks/gpu.py DATA [--only PART ...] [--minutes 12] [--device cuda] [--tiny]

DATA holds camvid/ bccd/ lspet/, those of the recipes; seeds have fresh weights. Parts, and their ratios:

- identical: `runs_identical`, the share of pairs of runs with engine.deterministic that end with the same bits.
- first: `first_hundred`, the first 100 sampled steps of a super network / the next 100.
- library: `first_hundred_library`, the same with the library's 1x1 convolutions; `pointwise_vs_library`, the next 100
  with ours / with those.
- overhead: `super_step_overhead`, steps on sampled paths / those of the same networks built plain.
- candidate: `candidate_seconds`, the slowest of the first ten candidates: 8 batches of 32, then 2 held-out ones.
- adapt: `adapt_vs_bare_*`, images a second of an adaptation / of the same steps on one batch that is there; memory,
  and the share of the time in which the loop waits for a batch.
- smp: `vs_smp`, a step of segmentation_models_pytorch's network / of ours.
- theirs: `adapt_vs_theirs_*`, images a second of an adaptation / of a training loop as others write it, data and all:
  segmentation_models_pytorch's network behind torchvision's transforms, and torchvision's own SSDLite.
- deterministic: `deterministic_cost`, the step with engine.deterministic / without, of the task where it is largest.
- precision: `fp16_vs_bf16`, `tf32_vs_bf16`, `fp32_vs_bf16`, the step of the seed.

Each part is a process of its own, which has met no shape before. ``results/gpu.json`` is written after every part, and
keeps what is in it of the same card. After --minutes the part that runs is stopped, and no other begins. --tiny, on any
device, only shows that it works: it writes ``results/gpu_tiny.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import record
import torch
from rivals import SmpNetwork, detection_loop, segmentation_loop
from steps import plain_step, take_turns
from torch import nn

from fna.config import load_config
from fna.config.budgets import parse_budget
from fna.data.splits import Splits, open_data
from fna.errors import FnaError
from fna.nets.weights import cpu_state
from fna.rng import generator
from fna.searching.alphas import SearchLoop
from fna.searching.forms import SEEDS
from fna.searching.sampling import draw_path
from fna.searching.scoring import Scorer
from fna.seeds import Seed, load_seed
from fna.stages.adapt import AdaptLoop
from fna.stages.expand import expand, seed_network
from fna.tasks.problem import Problem
from fna.training.compute import Compute, computing, find_device
from fna.training.engine import WeightStep
from fna.training.pointwise import PointwiseConv2d

RECIPES = Path(__file__).parents[1] / "recipes"
TASKS = {"camvid": "camvid_deeplabv3", "bccd": "bccd_ssdlite", "lspet": "lspet_simplebaseline"}
TINY = ("data.crop=[64, 64]", "search.batch_size=4", "adapt.batch_size=4", "space.kernels=[3]", "engine.workers=0")
WARM = 3  # steps before any is timed
LIBRARY = ", 1x1 convolutions by the library"


@dataclass
class Bench:
    """Where data are, what computes, and what has been found so far.

    Args:
        data: the folder of the data sets.
        device: as ``engine.device``.
        tiny: little of everything.
    """

    data: Path
    device: str
    tiny: bool
    rows: list[dict[str, Any]] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)

    def often(self, number: int) -> int:
        """Return how often something is done."""
        return max(2, number // 25) if self.tiny else number

    def note(self, row: str, score: float, metric: str = "seconds") -> None:
        """Keep a number in place of one of its name."""
        self.rows = [other for other in self.rows if other["row"] != row]
        self.rows.append({"row": row, "rng_seed": 0, "metric": metric, "score": score})
        self.rows[-1] |= dict.fromkeys(("params", "madds", "minutes"))
        print(f"{row}: {score:.4g} {metric}", flush=True)

    def wait(self) -> None:
        """Wait for the device."""
        if find_device(self.device).type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, step: Callable[[int], object], number: int, start: int = 0) -> float:
        """Return the seconds that a step takes, of so many one after another."""
        self.wait()
        began = time.perf_counter()
        for i in range(start, start + number):
            step(i)
        self.wait()
        return (time.perf_counter() - began) / number

    def waited(self, step: Callable[[], object]) -> Callable[[], object]:
        """Return a step that ends when the device has done it."""
        return lambda: self.seconds(lambda _: step(), 1)

    @contextmanager
    def job(self, task: str, *overrides: str) -> Iterator[Job]:
        """Open a recipe on its data."""
        root = f"data.root={json.dumps(str(self.data / task))}"
        settings = [root, f"engine.device={self.device}", "adapt.recalibrate=0", *(TINY if self.tiny else ())]
        config = load_config(RECIPES / f"{TASKS[task]}.yaml", [*settings, *overrides])
        seed, data = load_seed(config.seed.name, None), open_data(config)
        with computing(config.engine) as compute:
            yield Job(Problem.of(config, data.val, seed), data, compute, seed)


@dataclass(frozen=True)
class Job:
    """What the loops take."""

    problem: Problem
    data: Splits
    compute: Compute
    seed: Seed

    def search(self) -> SearchLoop:
        """Begin a search."""
        grown = expand(self.seed, self.problem)
        costs = self.problem.costs(grown.arch)
        limit = costs.limit(parse_budget(self.problem.config.search.budget or 1.0), "search.budget")
        loop = SearchLoop(grown, self.problem, self.data.train, self.compute, costs, limit)
        loop.start(0)
        return loop

    def adapt(self) -> AdaptLoop:
        """Begin an adaptation of the seed."""
        network, config = seed_network(self.seed, self.problem), self.problem.config.adapt
        loop = AdaptLoop(network, self.problem, self.data, self.compute, config)
        loop.start(0)
        return loop


def each(call: Callable[..., object], *given: object) -> Callable[[int], object]:
    """Return a step that is the same call each time."""
    return lambda _: call(*given)


def stepper(loop: SearchLoop | AdaptLoop) -> Callable[[int], object]:
    """Return the iteration of a loop as `fit` takes it: numbers are read now and then."""
    return lambda step: list(loop.readings.take(step, loop.step(step), now=False))


def one_batch(step: WeightStep, batch: Any, images: torch.Tensor) -> Callable[[int], object]:
    """Return a step on a batch that is there."""
    return lambda i: list(step.readings.take(i, step(i, batch, images), now=False))


def waited_for(batches: Iterator[Any], waits: list[float]) -> Iterator[Any]:
    """Pass batches on and keep the seconds that each was waited for."""
    while True:
        began = time.perf_counter()
        batch = next(batches)
        waits.append(time.perf_counter() - began)
        yield batch


# --- parts ------------------------------------------------------------------------------------------------------------


def identical(bench: Bench) -> None:
    same, kinds = [], ("search", "adapt")
    for task in TASKS:
        for kind in kinds:
            try:
                with bench.job(task, "engine.deterministic=true") as job:
                    ends = {_end(getattr(job, kind)(), bench.often(50)) for _ in range(2)}
                same.append(len(ends) == 1)
            except FnaError as error:
                if "deterministic" not in str(error):
                    raise
                print(error)
                same.append(False)
            bench.note(f"{task}, {kind}: two runs end alike", float(same[-1]), "share")
    bench.ratios["runs_identical"] = sum(same) / len(same)


def _end(loop: SearchLoop | AdaptLoop, steps: int) -> str:
    """Return a digest of the weights after some steps."""
    for step in range(steps):
        stepper(loop)(step)
    state = cpu_state(loop.model)
    return sha256(b"".join(state[name].contiguous().numpy().tobytes() for name in sorted(state))).hexdigest()


def first(bench: Bench) -> None:
    bench.ratios["first_hundred"], _ = _first(bench, "")


def library(bench: Bench) -> None:
    bench.ratios["first_hundred_library"], steady = _first(bench, LIBRARY)
    ours = [row["score"] for row in bench.rows if row["row"] == f"a sampled step of the next {bench.often(100)}"]
    if ours:
        bench.ratios["pointwise_vs_library"] = ours[0] / steady


def _first(bench: Bench, kind: str) -> tuple[float, float]:
    """Return the seconds of a super network's first steps by those of the next, and these."""
    with bench.job("camvid") as job:
        loop = job.search()
        for part in loop.model.modules() if kind else ():
            if type(part) is PointwiseConv2d:
                part.__class__ = nn.Conv2d  # type: ignore[assignment]
        step, number = stepper(loop), bench.often(100)
        step(0)  # what CUDA itself needs once
        fresh, steady = (bench.seconds(step, number, start) for start in (1, 1 + number))
    bench.note(f"a sampled step of the first {number}{kind}", fresh)
    bench.note(f"a sampled step of the next {number}{kind}", steady)
    return fresh / steady, steady


def overhead(bench: Bench) -> None:
    total = {"super": 0.0, "plain": 0.0}
    with bench.job("camvid") as job:
        loop = job.search()
        batch, images = next(loop.weight_batches)
        for i in range(bench.often(20)):
            path = draw_path(loop.arch, None, generator(1, "path", i))
            network = loop.compute.place(loop.problem.build(loop.arch.path_arch(path)))
            plain = plain_step(loop, network, batch, images)
            steps: dict[str, Callable[[], object]] = {
                "super": bench.waited(partial(loop.weight_step, 50, batch, images, path)),
                "plain": bench.waited(plain),
            }
            for name, value in take_turns(steps, bench.often(100) // 10 or 1).items():
                total[name] += value
    for name, value in total.items():
        bench.note(f"{bench.often(20)} sampled paths: {name}", value)
    bench.ratios["super_step_overhead"] = total["super"] / total["plain"]


def candidate(bench: Bench) -> None:
    with bench.job("camvid", "search.recalibrate=8", *(() if bench.tiny else ("search.batch_size=32",))) as job:
        loop = job.search()
        scorer = Scorer(loop)
        scorer._batches(1.0)  # of all candidates
        times = []
        for i in range(bench.often(10)):
            wanted = [(draw_path(loop.arch, None, generator(2, "path", i)), SEEDS)]
            times.append(bench.seconds(each(scorer.score, wanted), 1))
            bench.note(f"candidate {i + 1}", times[-1])
    bench.ratios["candidate_seconds"] = max(times)


def adapt(bench: Bench) -> None:
    for task in TASKS:
        with bench.job(task) as job:
            loop, number = job.adapt(), bench.often(100)
            size = job.problem.config.adapt.batch_size
            bench.seconds(stepper(loop), WARM)
            if job.compute.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            waits: list[float] = []
            loop.batches = waited_for(loop.batches, waits)
            ours = size / bench.seconds(stepper(loop), number, WARM)
            waiting = sum(waits) * ours / size / number
            if job.compute.device.type == "cuda":
                bench.note(f"{task}: adaptation, memory", torch.cuda.max_memory_allocated(), "bytes")
            step = one_batch(loop.weight_step, *next(loop.batches))
            bench.seconds(step, WARM)
            bare = size / bench.seconds(step, number)
        bench.note(f"{task}: adaptation", ours, "images/s")
        bench.note(f"{task}: adaptation, waiting for batches", waiting, "share")
        bench.note(f"{task}: the same steps on one batch", bare, "images/s")
        bench.ratios[f"adapt_vs_bare_{task}"] = ours / bare


def smp(bench: Bench) -> None:
    with bench.job("camvid") as job:
        loop = job.search()
        batch, images = next(loop.weight_batches)
        nets = {
            "ours": loop.compute.place(loop.problem.build(loop.arch.seed)),
            "smp": loop.compute.move(SmpNetwork(len(loop.problem.labels.classes))),
        }
        steps = {name: bench.waited(plain_step(loop, net, batch, images)) for name, net in nets.items()}
        times = take_turns(steps, bench.often(50))
    for name, value in times.items():
        bench.note(f"training step: {name}", value)
    bench.ratios["vs_smp"] = times["smp"] / times["ours"]


def theirs(bench: Bench) -> None:
    for task, rival in {"camvid": segmentation_loop, "bccd": detection_loop}.items():
        with bench.job(task) as job:
            size, number = job.problem.config.adapt.batch_size, bench.often(100)
            loops = {
                "ours": stepper(job.adapt()),
                "theirs": each(next, rival(job.problem, job.data.train, job.compute)),
            }
            for step in loops.values():
                bench.seconds(step, WARM)
            speeds = {name: size / bench.seconds(step, number, WARM) for name, step in loops.items()}
        for name, value in speeds.items():
            bench.note(f"{task}: training with data, {name}", value, "images/s")
        bench.ratios[f"adapt_vs_theirs_{task}"] = speeds["ours"] / speeds["theirs"]


def deterministic(bench: Bench) -> None:
    costs = []
    for task in TASKS:
        times = {wanted: _seed_step(bench, task, f"engine.deterministic={wanted}") for wanted in ("false", "true")}
        for wanted, value in times.items():
            bench.note(f"{task}: training step, engine.deterministic {wanted}", value)
        costs.append(times["true"] / times["false"])
    bench.ratios["deterministic_cost"] = max(costs)


def precision(bench: Bench) -> None:
    kinds = {"bf16": ("bf16", "true"), "tf32": ("fp32", "true"), "fp32": ("fp32", "false")}
    if find_device(bench.device).type == "cuda":
        kinds["fp16"] = ("fp16", "true")
    times = {
        name: _seed_step(bench, "camvid", f"engine.precision={dtype}", f"engine.tf32={tf32}")
        for name, (dtype, tf32) in kinds.items()
    }
    for name, value in times.items():
        bench.note(f"training step in {name}", value)
        if name != "bf16":
            bench.ratios[f"{name}_vs_bf16"] = value / times["bf16"]


def _seed_step(bench: Bench, task: str, *overrides: str) -> float:
    """Return the seconds of a training step of the seed on one batch."""
    with bench.job(task, *overrides) as job:
        loop = job.adapt()
        step = one_batch(loop.weight_step, *next(loop.batches))
        bench.seconds(step, WARM)
        return bench.seconds(step, bench.often(50))


PARTS = {
    part.__name__: part
    for part in (identical, first, library, overhead, candidate, adapt, smp, theirs, deterministic, precision)
}


def main() -> None:
    """Measure the parts and write the results after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    if len(given.only) > 1:
        apart(given)
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when a process first multiplies
    device, name = find_device(given.device), "gpu_tiny" if given.tiny else "gpu"
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    bench, file = Bench(given.data, given.device, given.tiny), record.RESULTS / f"{name}.json"
    before = json.loads(file.read_text()) if file.exists() else {}
    if before.get("device") == card:
        bench.rows, bench.ratios = before["rows"], before["ratios"]
    try:
        PARTS[given.only[0]](bench)
    except FnaError as error:
        parser.exit(2, f"{given.only[0]}: {error}\n")
    record.write(name, bench.rows, bench.ratios, device=card)
    print(json.dumps(bench.ratios, indent=1))


def apart(given: argparse.Namespace) -> None:
    """Measure parts, each in a process of its own, as long as there is time."""
    began = time.monotonic()
    for part in given.only:
        left = 60 * given.minutes - (time.monotonic() - began)
        command = [sys.executable, __file__, str(given.data), "--only", part, "--device", given.device]
        try:
            subprocess.run([*command, *(["--tiny"] if given.tiny else [])], timeout=max(left, 0), check=False)
        except subprocess.TimeoutExpired:
            print(f"{part}: left out or unfinished, --minutes {given.minutes:g} are over", flush=True)


if __name__ == "__main__":
    main()
