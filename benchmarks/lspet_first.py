"""LSPET: the fine-tuned seed, the seed given the whole run's compute, and the FNA++ network, under one schedule.

    python benchmarks/lspet_first.py DATA RUN

DATA is the folder of the data set, RUN the run folder (the same command goes on with an interrupted one). The rows are
those of first.py; the result is ``results/lspet_first.json``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from first import compare

RECIPE = Path(__file__).parents[1] / "recipes" / "lspet_simplebaseline.yaml"

if __name__ == "__main__":
    compare("lspet_first", RECIPE, *sys.argv[1:])
