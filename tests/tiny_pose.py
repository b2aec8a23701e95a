"""Pose in miniature: figures of three coloured dots in COCO's format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fna.config import Config, make_config, merge

SIDE = 72  # of an image in pixels
JOINTS = {"left_dot": (230, 40, 40), "right_dot": (40, 40, 230), "nose": (40, 220, 40)}
RADIUS = 5


def write_figures(root: Path, train: int = 16, val: int = 6) -> Path:
    """Write a data set of format ``coco``: a figure an image; now and then a dot is not drawn and not labelled."""
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for split, number in (("train", train), ("val", val)):
        images, annotations = [], []
        for i in range(number):
            image_HW3 = rng.normal(120, 10, (SIDE, SIDE, 3))
            middle, across = rng.uniform(24, SIDE - 24, 2), rng.uniform(14, 18)
            places = middle + np.array([(across, 10), (-across, 10), (0, -14)]) + rng.normal(0, 1, (3, 2))
            points = []
            for k, ((x, y), color) in enumerate(zip(places, JOINTS.values(), strict=True)):
                labelled = (i + k) % 7 > 0
                if labelled:
                    image_HW3[(columns - x) ** 2 + (rows - y) ** 2 <= RADIUS**2] = color
                points += [x, y, 2] if labelled else [0, 0, 0]
            name, number_of = f"{split}{i}.png", {"id": i + 1, "image_id": i + 1, "category_id": 1}
            Image.fromarray(image_HW3.clip(0, 255).astype(np.uint8)).save(root / "images" / name)
            images.append({"id": i + 1, "file_name": name, "width": SIDE, "height": SIDE})
            box = [float(middle[0]) - 22, float(middle[1]) - 20, 44.0, 38.0]
            annotations.append({**number_of, "keypoints": points, "num_keypoints": 3, "bbox": box, "area": 1600.0})
        category = {"id": 1, "name": "figure", "keypoints": list(JOINTS), "skeleton": [[1, 3], [2, 3]]}
        document = {"images": images, "annotations": annotations, "categories": [category]}
        (root / f"person_keypoints_{split}.json").write_text(json.dumps(document))
    return root


def pose_config(root: Path, *overrides: str) -> Config:
    """Return the configuration of a run on `root`: 8 iterations of search, 8 of adaptation."""
    optimizer = {"name": "adamw", "lr": 0.003, "weight_decay": 1e-4, "warmup": 2}
    data: dict[str, Any] = {
        "seed": {"name": "mobilenet_v2_035", "weights": None},
        "task": {"model": "simple_baseline", "channels": 16, "sigma": 1.0},
        "data": {
            **{"format": "coco", "root": str(root), "crop": [64, 64], "scale": [0.9, 1.1]},
            **{"rotation": 20.0, "half_body": 0.0, "color_jitter": 0.1},
        },
        "space": {"kernels": [3, 5], "expansions": [3], "layers": [2, 2, 1, 1]},
        "search": {
            "sampler": "uniform",
            "chooser": "alphas",
            "epochs": 2,
            "alpha_start": 1,
            "batch_size": 2,
            "optimizer": optimizer,
            "alpha": {"lr": 0.02},
        },
        "adapt": {"epochs": 2, "batch_size": 4, "recalibrate": 2, "optimizer": optimizer},
        "baseline": False,
        "evaluate": {"every": 2},
        "engine": {"device": "cpu", "precision": "fp32", "threads": 1, "workers": 0},
    }
    return make_config(merge(data, overrides))
