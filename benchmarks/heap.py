"""What it saves a CPU to keep freed memory (`fna.training.heap`), and what memory that costs.

    python benchmarks/heap.py

EfficientNet-Lite0 under DeepLabv3 at output stride 16, a batch of 8 at 240x320 in float32, two threads:
a forward pass without gradients, as candidates are scored, and a training step. Either way has processes of its own,
which take turns (A B A B A B). Ratios are as glibc does / kept: above 1, keeping is faster; `kept_memory` is the
other way round, of the largest resident size.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from statistics import median

import record
import torch
from depthwise import deeplab
from steps import seconds

from fna.training.heap import kept_pages

WAYS: dict[str, Callable[[], AbstractContextManager[object]]] = {"as it is": nullcontext, "kept": kept_pages}
TURNS, TIMES = 3, 7


def measure(way: str) -> dict[str, float]:
    """Return the median seconds of each kind of pass, and the largest resident size in bytes."""
    torch.set_num_threads(2)
    model, images = deeplab()

    def forward() -> None:
        model.eval()
        with torch.no_grad():
            model(images)

    def step() -> None:
        model.train()
        model(images).square().mean().backward()
        model.zero_grad(set_to_none=True)

    found = {}
    with WAYS[way]():
        for name, run in {"forward": forward, "step": step}.items():
            run()
            found[name] = median(seconds(run) for _ in range(TIMES))
    return {**found, "memory": 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def main() -> None:
    """Measure and write ``results/heap.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", choices=WAYS, help="one way, in this process")
    given = parser.parse_args()
    if given.way:
        print(json.dumps(measure(given.way)))
        return
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(TURNS):
        for way, turns in found.items():
            command = [sys.executable, __file__, "--way", way]
            turns.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    middle = {way: {name: median(turn[name] for turn in turns) for name in turns[0]} for way, turns in found.items()}
    plain, kept = middle["as it is"], middle["kept"]
    ratios = {f"kept_{name}": plain[name] / kept[name] for name in ("forward", "step")}
    ratios["kept_memory"] = kept["memory"] / plain["memory"]
    rows = [
        {"row": f"{name}: {way}", "metric": "bytes" if name == "memory" else "seconds", "score": value}
        for way, numbers in middle.items()
        for name, value in numbers.items()
    ]
    record.write("heap", rows, ratios)
    print(json.dumps(ratios, indent=1))


if __name__ == "__main__":
    main()
