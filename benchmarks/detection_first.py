"""A detection recipe: the FNA++ network beside its controls, under one schedule.

    python benchmarks/detection_first.py recipes/bccd_retinanet.yaml DATA RUN --out results/bccd_retinanet_first.json
    python benchmarks/detection_first.py recipes/bccd_ssdlite.yaml DATA RUN --out results/bccd_ssdlite_first.json

DATA is the data set's folder; the run lies in RUN/seed_0 (the same command goes on with an interrupted one). The rows
are those of gain.py; results go below benchmarks/results, whatever folder --out names.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gain import configure, measure

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("data")
    parser.add_argument("run")
    parser.add_argument("--out", type=Path, required=True, help="results/NAME.json")
    given = parser.parse_args()
    print(measure(given.out.stem, configure(given.recipe, given.data), given.run))
