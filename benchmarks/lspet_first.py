"""LSPET: the FNA++ network beside its controls, under one schedule.

    python benchmarks/lspet_first.py DATA RUN

DATA is the folder of the data set; the run lies in RUN/seed_0 (the same command goes on with an interrupted one). The
rows are those of gain.py; the result is ``results/lspet_first.json``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gain import configure, measure

RECIPE = Path(__file__).parents[1] / "recipes" / "lspet_simplebaseline.yaml"

if __name__ == "__main__":
    data, run = sys.argv[1:]
    print(measure("lspet_first", configure(RECIPE, data), run))
