"""How long things take, timed in turns.

Round by round and each round in another order, so that a machine that slows down or is busy for a while does so for
everything alike; the median of the rounds counts. On one thread of a CPU the clock is that thread's own, which stands
still while other programs have the processor.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

from fna.progress import bar
from fna.rng import generator

Call = Callable[[int], object]  # runs something so often, and waits for it
ROUNDS = 50
FEWEST = 3  # rounds, however long they take
WARM = 2  # runs before any is timed
SPAN = 2e6  # ns at least that are timed at once
MOST = 100  # runs at most that are timed at once


class Timed(NamedTuple):
    """Medians, ns a run each, and how many rounds they are of."""

    ns: dict[str, int]
    rounds: int


def time_in_turns(
    calls: Mapping[str, Call], device: str, rounds: int = ROUNDS, most_seconds: float = math.inf
) -> Timed:
    """Time things in turns.

    Args:
        calls: by name.
        device: the type of the device that computes, such as "cpu" or "cuda".
        rounds: how often each is timed.
        most_seconds: fewer rounds where all would take longer, but not fewer than `FEWEST`.
    """
    clock = time.thread_time_ns if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter_ns
    names, repeats, once = list(calls), dict[str, int](), 0
    samples: dict[str, list[float]] = {name: [] for name in names}
    for name, call in calls.items():
        call(WARM)
        ns = _ns(call, 1, clock)
        repeats[name] = min(MOST, max(1, math.ceil(SPAN / ns)))
        once += ns * (repeats[name] + 1)
    if once * rounds > most_seconds * 1e9:
        rounds = max(min(rounds, FEWEST), int(most_seconds * 1e9 / once))
    with bar(rounds, "timing") as progress:
        for turn in range(rounds):
            for i in torch.randperm(len(names), generator=generator(0, "latency", turn)).tolist():
                call, number = calls[names[i]], repeats[names[i]]
                call(1)  # what it reads is where it would be in a network: near
                samples[names[i]].append(_ns(call, number, clock) / number)
            progress.advance()
    return Timed({name: round(statistics.median(values)) for name, values in samples.items()}, rounds)


def _ns(call: Call, number: int, clock: Callable[[], int]) -> int:
    began = clock()
    call(number)
    return max(1, clock() - began)
