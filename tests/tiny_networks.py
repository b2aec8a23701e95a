"""Untrained networks of every model in miniature, written as finished ones, and pictures for them to look at."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from fna.arch import Arch, Block, Stem
from fna.config import make_config
from fna.files import write_json, write_state
from fna.nets.weights import Network, cpu_state
from fna.runs.saved import KEY, TWIN, WEIGHTS, describe
from fna.seeds import IMAGENET_MEAN, IMAGENET_STD
from fna.tasks import load_task
from fna.tasks.labels import Labels
from fna.tasks.problem import Problem

HW = (64, 96)
ARCH = Arch(Stem(8), ((Block("mbconv", 8, 8),), *((Block("mbconv", 8, 8, stride=2, expansion=2),) for _ in range(4))))
NAMES = {"pose": ("left_hand", "right_hand", "nose")}
SETTINGS: dict[str, dict[str, Any]] = {
    "deeplabv3": {"channels": 16},
    "deeplabv3plus": {"channels": 16},
    "retinanet": {"channels": 16, "anchor_scale": 2.0},
    "ssdlite": {"width": 0.05},
    "simple_baseline": {"channels": 16},
}


def write_network(folder: Path, model: str, padding: str = "same", arch: Arch = ARCH, **changes: Any) -> Path:
    """Write an untrained network, whose answers differ from place to place, as a finished one."""
    settings = {"task": {"model": model, **SETTINGS[model]}, "data": {"crop": list(HW)}, **changes}
    config = make_config(settings)
    arch = replace(arch, padding=padding)
    labels = Labels(NAMES.get(config.task.name, ("a", "b", "c")), ((220, 0, 0), (0, 220, 0), (0, 0, 220)))
    problem = Problem(config, load_task(config.task.name), labels, HW, IMAGENET_MEAN, IMAGENET_STD)
    network = problem.build(arch)
    draws = torch.Generator().manual_seed(0)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean = 0.3 * torch.randn(part.num_features, generator=draws)
        elif isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            fan_in = part.weight[0].numel()
            part.weight.data = torch.randn(part.weight.shape, generator=draws) * (2 / fan_in) ** 0.5
    if model == "retinanet":  # not all scores are 1, and boxes not the whole image
        network.head.classification.cls_logits.weight.data *= 0.2
        network.head.regression.bbox_reg.weight.data *= 0.02
    network.eval()
    if config.task.name == "segmentation":  # no class is everywhere the likeliest
        with torch.no_grad():
            classifier = list(network.head.parameters())[-1]
            classifier.sub_(network(torch.randn(2, 3, *HW, generator=draws)).mean((0, 2, 3)))
    record = describe(Network(arch, {}), problem, {})
    write_state(folder / WEIGHTS, cpu_state(network), {KEY: json.dumps(record)})
    write_json(folder / TWIN, record)
    return folder


def write_photos(folder: Path, size: tuple[int, int] = HW) -> Path:
    """Write three pictures with something in them."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        small = rng.integers(0, 255, (6, 9, 3)).astype(np.uint8)
        Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder
