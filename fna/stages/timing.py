"""How long a network takes for one image, on the device it is on."""

from __future__ import annotations

from typing import Any

import torch

from fna.stages.predict import Finished
from fna.training.compute import Compute
from fna.training.turns import time_in_turns

MOST_SECONDS = 20.0


@torch.no_grad()
def latency(model: Finished, compute: Compute) -> dict[str, Any]:
    """Measure a network by itself: one image of the size that it sees, without reading, resizing and scores.

    Args:
        model: on it.
        compute: the hardware it is on.

    Returns:
        ``ms``, the median; ``runs`` that it is of; ``size_hw`` and ``device``.
    """
    height, width = model.problem.size_hw
    images_N3HW = torch.zeros(1, 3, height, width, dtype=torch.uint8)
    x = compute.images(images_N3HW, model.mean, model.std)

    def call(number: int) -> None:
        with compute.autocast():
            for _ in range(number):
                model(x)
        if compute.device.type == "cuda":
            torch.cuda.synchronize(compute.device)

    timed = time_in_turns({"network": call}, compute.device.type, most_seconds=MOST_SECONDS)
    ms = round(timed.ns["network"] / 1e6, 3)
    return {"ms": ms, "runs": timed.rounds, "size_hw": [height, width], "device": _device(compute)}


def _device(compute: Compute) -> str:
    """Say what computes."""
    precision = "fp32" if compute.dtype is None else str(compute.dtype).removeprefix("torch.")
    if compute.device.type == "cuda":
        return f"{torch.cuda.get_device_name(compute.device)}, {precision}"
    threads = torch.get_num_threads()
    return f"{compute.device.type}, {threads} thread{'s' * (threads > 1)}, {precision}"
