"""CamVid: the FNA++ network beside its controls, under one schedule.

    python benchmarks/camvid_first.py DATA RUN

DATA is the CamVid folder; the run lies in RUN/seed_0 (the same command goes on with an interrupted one). The rows are
those of gain.py; the result is ``results/camvid_first.json``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gain import configure, measure

RECIPE = Path(__file__).parents[1] / "recipes" / "camvid_deeplabv3.yaml"

if __name__ == "__main__":
    data, run = sys.argv[1:]
    print(measure("camvid_first", configure(RECIPE, data), run))
