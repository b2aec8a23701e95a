"""Learn the joints of the synthetic street's pedestrians within the demo's time; the goal is a PCK@0.2 of 0.9.

    python benchmarks/pose_synthetic.py

The seed EfficientNet-Lite0 with a SimpleBaseline head, fine-tuned without a search. Nothing is read from a disk but the
seed's weights. The result is ``results/pose_synthetic.json``.
"""

from __future__ import annotations

import time

import record

import fna
from fna.config import make_config

GOAL = 0.9
CONFIG = make_config(
    {
        "seed": {"name": "efficientnet_lite0"},
        "task": {"model": "simple_baseline", "channels": 64, "sigma": 1.5},
        # Boxes are exact and people upright, here and where the network is scored: the mirror image is variety enough.
        "data": {
            **{"format": "synthetic", "images": 3000, "crop": [96, 64], "box_padding": 1.15},
            **{"scale": [1.0, 1.0], "rotation": 0.0, "half_body": 0.0, "color_jitter": 0.0},
        },
        "adapt": {
            **{"epochs": 25, "batch_size": 16, "recalibrate": 10},
            "optimizer": {
                **{"name": "adamw", "lr": 1e-3, "head_lr": 3.0, "weight_decay": 0.01, "schedule": "poly"},
                "warmup": 50,
            },
        },
        "evaluate": {"batch_size": 32, "every": 25, "decode": "dark"},
        "engine": {"device": "cpu"},
    }
)

if __name__ == "__main__":
    began = time.monotonic()
    seed, data = fna.load_seed(CONFIG.seed.name, CONFIG.seed.weights), fna.open_data(CONFIG)
    problem = fna.Problem.of(CONFIG, data.val, seed)
    with fna.computing(CONFIG.engine) as compute:
        adapted = fna.adapt(fna.seed_network(seed, problem), problem, data, compute)
    cost = problem.cost(seed.arch)
    scores = {k: v for k, v in adapted.scores.items() if isinstance(v, float)}
    row = {
        "row": "fine-tuned seed",
        "rng_seed": CONFIG.engine.rng_seed,
        **{"metric": "PCK@0.2 torso", "score": scores["pck_torso"], "params": cost.params, "madds": cost.madds},
        **{"minutes": adapted.spent.minutes, "epochs": CONFIG.adapt.epochs},
    }
    minutes = (time.monotonic() - began) / 60
    about = {"train": len(data.train), "val": len(data.val)}
    ratios = {"pck_torso": scores["pck_torso"], "pck_minutes": minutes}
    joints = adapted.scores["pck_joint"]
    path = record.write("pose_synthetic", [row], ratios, **about, goal=GOAL, scores=scores, pck_joint=joints)
    print(f"PCK@0.2 {scores['pck_torso']:.3f} (goal {GOAL}) in {minutes:.1f} minutes; {path}")
