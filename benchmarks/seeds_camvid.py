"""Short CamVid runs through the whole pipeline from seeds of every kind of block: proof that it works, and no more.

    OMP_NUM_THREADS=1 python benchmarks/seeds_camvid.py DATA RUNS

DATA is the CamVid folder; every seed gets a run folder below RUNS. Two epochs of search and one of fine-tuning on crops
of 96x128: some minutes a seed on one core. The same command goes on with an interrupted run and does not repeat
finished ones. All seeds but EfficientNet-Lite1 start from random weights: nothing is said about accuracy.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import record

from fna.arch import Arch
from fna.config import load_config
from fna.reporting.rows import charged_minutes
from fna.runs import pipeline

RECIPE = Path(__file__).parents[1] / "recipes" / "camvid_deeplabv3.yaml"
WEIGHTS = {  # by seed
    "efficientnet_lite1": "pretrained",
    "mobilenet_v2": "random",
    "fbnet_c": "random",
    "proxyless_mobile": "random",
    "resnet18": "random",
}
SETTINGS = (
    *("data.crop=[96, 128]", "data.eval_size=[192, 256]", "engine.threads=1", "engine.workers=0"),
    *(
        "search.epochs=2",
        "search.sampler=uniform",
        "search.chooser=alphas",
        "search.alpha_start=1",
        "search.alpha.lr=0.05",
        "search.optimizer.warmup=5",
    ),
    *("adapt.epochs=1", "adapt.recalibrate=5", "adapt.optimizer.warmup=5", "evaluate.every=1"),
)


def run_seed(name: str, data: str, folder: Path) -> dict[str, Any]:
    """Run the whole pipeline from one seed, unless it is finished; return its row."""
    if not (folder / "report.html").exists():  # the last file of a run
        weights = "pretrained" if WEIGHTS[name] == "pretrained" else "null"
        seed = (f"seed.name={name}", f"seed.weights={weights}", f"data.root={json.dumps(data)}")
        pipeline.run(folder, load_config(RECIPE, [*seed, *SETTINGS]))
    metrics, target = (json.loads((folder / file).read_text()) for file in ("metrics.json", "targets/derived.json"))
    expanded = json.loads((folder / "remap.json").read_text())
    seed_arch = Arch.from_json(json.loads((folder / "seed.json").read_text())["arch"])
    arch = Arch.from_json(target["arch"])
    own = dict(seed_arch.layers())
    row = metrics["rows"]["adapted"]
    return {
        "row": name,
        "rng_seed": row["rng_seed"],
        "metric": "mIoU",
        "score": row["miou"] if WEIGHTS[name] == "pretrained" else None,
        "params": row["params"],
        "madds": row["madds"],
        "minutes": charged_minutes(row, metrics["search_minutes"]) + row["minutes"],
        "weights": WEIGHTS[name],
        "seed_madds": target["seed_madds"],
        "kinds": sorted({block.kind for _, block in arch.layers()}),
        "blocks": dict(Counter(block.label for _, block in arch.layers()).most_common()),
        "layers_unlike_the_seed": sum(
            block.label != (own[place].label if place in own else "skip") for place, block in arch.layers()
        ),
        "expansion_copied": expanded["copied"],
        "expansion_rules": {rule: used["layers"] for rule, used in expanded["rules"].items()},
        "warnings": metrics["warnings"],
    }


def main(data: str, runs: str) -> None:
    """Run every seed and write ``results/seeds_camvid.json``, again after each."""
    rows: list[dict[str, Any]] = []
    for name in WEIGHTS:
        rows.append(run_seed(name, data, Path(runs) / name))
        print(json.dumps(rows[-1]), flush=True)
        record.write(
            "seeds_camvid",
            rows,
            {},
            note="shows that the pipeline works on every kind of block; no claim about accuracy",
            settings=list(SETTINGS),
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
