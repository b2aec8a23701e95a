"""What the demo shows, for RNG seeds 0, 1 and 2: the FNA++ network beside the fine-tuned seed at no more cost.

    python benchmarks/demo.py RUNS [RNG_SEED ...]

Runs lie in RUNS/seed_0, RUNS/seed_1 and RUNS/seed_2; called again it goes on where it was. With RNG seeds it does these
only. The rows are those of gain.py, and so is the result, ``results/demo.json``; it is that of ``fna demo --controls
--rng-seeds 3`` on one thread.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gain import measure

from fna.cli import DEMO
from fna.config import load_config

RNG_SEEDS = 3

if __name__ == "__main__":
    config = load_config(None, [*DEMO, "engine.threads=1"])
    only = [int(word) for word in sys.argv[2:]] or None
    print(measure("demo", config, Path(sys.argv[1]), RNG_SEEDS, only))
