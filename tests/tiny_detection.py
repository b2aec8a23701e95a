"""Detection in miniature: red and blue squares in COCO's format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fna.config import Config, make_config, merge

HEIGHT, WIDTH = 64, 96
NAMES = {3: "red", 8: "blue"}  # category ids with a gap
COLORS = {3: (220, 40, 40), 8: (40, 40, 220)}


def write_squares(root: Path, train: int = 12, val: int = 4) -> Path:
    """Write a data set of format ``coco``: two squares an image, and none in the first of each split."""
    rng = np.random.default_rng(0)
    for split, numbers in (("train", range(train)), ("val", range(train, train + val))):
        (root / "images" / split).mkdir(parents=True)
        annotations: list[dict[str, Any]] = []
        for i in numbers:
            image_HW3 = rng.normal(120, 12, (HEIGHT, WIDTH, 3))
            for half in range(2 if i > numbers[0] else 0):
                side = int(rng.integers(20, 36))
                x, y = half * WIDTH // 2 + int(rng.integers(0, 12)), int(rng.integers(0, HEIGHT - side))
                category = int(rng.choice(list(NAMES)))
                image_HW3[y : y + side, x : x + side] = COLORS[category]
                annotation = {"image_id": i, "category_id": category, "bbox": [x, y, side, side], "area": side**2}
                annotations.append({**annotation, "id": len(annotations) + 1, "iscrowd": 0})
            Image.fromarray(image_HW3.clip(0, 255).astype(np.uint8)).save(root / "images" / split / f"{i}.png")
        images = [{"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in numbers]
        categories = [{"id": number, "name": name} for number, name in NAMES.items()]
        document = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"instances_{split}.json").write_text(json.dumps(document))
    return root


def detection_config(root: Path, *overrides: str) -> Config:
    """Return the configuration of a run on `root`: 6 iterations of search, 6 of adaptation; RetinaNet's unless told."""
    small = {"channels": 16, "anchor_scale": 2.0}
    optimizer = {"name": "adamw", "lr": 0.001, "weight_decay": 1e-4, "warmup": 2, "clip": 35.0}
    data: dict[str, Any] = {
        "seed": {"name": "mobilenet_v2_035", "weights": None},
        "task": {"model": "retinanet", **({} if "task.model=ssdlite" in overrides else small)},
        "data": {
            **{"format": "coco", "root": str(root), "crop": [HEIGHT, WIDTH], "scale": [1.0, 1.0]},
            **{"augment": "resize", "color_jitter": 0.1},
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
