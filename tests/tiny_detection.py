"""Detection in miniature: red and blue squares in COCO's format, and a seed of ten small layers that reaches stride 32.

Under torchrun, or alone:
tiny_detection.py IMAGES OUT [key=value ...]   search, adapt and score; write what came out to OUT/RANK-of-SIZE.pt
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tiny import STAGES, Double, adapt_tiny, search_tiny

from fna.arch import Arch, Block, Stem
from fna.config import Config, make_config, merge
from fna.engine import computing
from fna.seeds import IMAGENET_MEAN, IMAGENET_STD, Seed
from fna.training import Setting, open_data

HEIGHT, WIDTH = 64, 96
NAMES = {3: "red", 8: "blue"}  # category ids with a gap
COLORS = {3: (220, 40, 40), 8: (40, 40, 220)}
DEEPER = (*STAGES, (32, 40, 2, 3, 1))  # in, out, stride, expansion, layers


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
    """Return the configuration of a run on `root`: 6 iterations of search, 6 of adaptation."""
    optimizer = {"name": "adamw", "lr": 0.001, "weight_decay": 1e-4, "warmup": 2, "clip": 35.0}
    data: dict[str, Any] = {
        "seed": {"name": "mobilenet_v2_035", "weights": None},
        "task": {"model": "retinanet", "channels": 16, "anchor_scale": 2.0},
        "data": {
            **{"format": "coco", "root": str(root), "crop": [HEIGHT, WIDTH], "scale": [1.0, 1.0]},
            **{"augment": "resize", "color_jitter": 0.1},
        },
        "space": {"kernels": [3, 5], "expansions": [3], "layers": [2, 2, 1, 1]},
        "search": {"epochs": 2, "alpha_start": 1, "batch_size": 2, "optimizer": optimizer, "alpha": {"lr": 0.02}},
        "adapt": {"epochs": 2, "batch_size": 4, "recalibrate": 2, "optimizer": optimizer},
        "baseline": False,
        "evaluate": {"every": 2},
        "engine": {"device": "cpu", "precision": "fp32", "threads": 1, "workers": 0},
    }
    return make_config(merge(data, overrides))


def deeper_seed() -> Seed:
    """Return a seed of ten layers without weights, whose last stage has stride 32."""
    stages = tuple(
        tuple(
            Block("mbconv", before if n == 0 else after, after, stride=stride if n == 0 else 1, expansion=expansion)
            for n in range(layers)
        )
        for before, after, stride, expansion, layers in DEEPER
    )
    return Seed("deeper", Arch(Stem(8), stages), None, IMAGENET_MEAN, IMAGENET_STD, "drawn", "", None)


@contextmanager
def opened(config: Config, *, double: bool = False) -> Iterator[Setting]:
    """Open a setting on the deeper seed, under torchrun among the other processes."""
    with computing(config.engine) as compute:
        yield open_data(config, Double(**vars(compute)) if double else compute, deeper_seed())


def train(images: Path, out: Path, overrides: list[str]) -> None:
    """Search, adapt and score in float64; other processes than the first get a folder of their own."""
    with opened(detection_config(images, *overrides), double=True) as setting:
        world = setting.compute.world
        folder = out / f"{world.rank}-of-{world.size}"
        searched = search_tiny(setting, folder)
        adapted = adapt_tiny(setting, folder)
        results = {"searched": searched.state, "alphas": searched.alphas, "adapted": adapted.state}
        torch.save({**results, "scores": adapted.scores}, out / f"{world.rank}-of-{world.size}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
