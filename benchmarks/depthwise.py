"""Forward and backward of depthwise convolutions on the CPU: ours against the library's, and a whole training step.

    python benchmarks/depthwise.py

Shapes are those of EfficientNet-Lite0 at output stride 16 for a batch of 8 at 240x320, two threads, channels_last.
Ratios are library / ours: above 1, ours is faster. `auto` is the precision that fna takes on this machine: a processor
without instructions for bf16 emulates it.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import record
import torch
from steps import take_turns
from torch import nn

from fna.arch import with_output_stride
from fna.nets.blocks import conv
from fna.nets.network import Backbone, Model
from fna.seeds import load_seed
from fna.tasks.heads import DeepLabV3Head
from fna.training import depthwise
from fna.training.compute import Compute, find_precision
from fna.training.distributed import World

CPU = Compute(torch.device("cpu"), None, True, World())
DTYPES = (torch.bfloat16, torch.float32)
CASES = (  # channels, height, width, kernel, stride, dilation
    *((96, 120, 160, 3, 2, 1), (144, 60, 80, 5, 2, 1), (240, 30, 40, 5, 1, 1), (240, 30, 40, 3, 2, 1)),
    *((480, 15, 20, 3, 1, 1), (480, 15, 20, 5, 1, 1), (480, 15, 20, 7, 1, 1), (672, 15, 20, 5, 1, 1)),
    *((1152, 15, 20, 3, 1, 2), (1152, 15, 20, 5, 1, 2), (1152, 15, 20, 7, 1, 2)),
)


def deeplab() -> tuple[nn.Module, torch.Tensor]:
    """Return the seed under DeepLabv3 at output stride 16, placed, and a batch."""
    backbone = Backbone(with_output_stride(load_seed("efficientnet_lite0", None).arch, 16))
    model = CPU.place(Model(backbone, DeepLabV3Head(backbone.feature_info, 11)))
    return model, torch.randn(8, 3, 240, 320).contiguous(memory_format=torch.channels_last)


def library(step: Callable[[], object]) -> Callable[[], object]:
    """Return `step` with the library's own gradients."""

    def native() -> None:
        ours = depthwise._by_us
        depthwise._by_us = lambda *_: False
        try:
            step()
        finally:
            depthwise._by_us = ours

    return native


def main() -> None:
    """Measure and write ``results/depthwise.json``."""
    torch.set_num_threads(2)
    rows, ratios = [], {}
    for dtype in DTYPES:
        for channels, height, width, kernel, stride, dilation in CASES:
            geometry = {"stride": stride, "dilation": dilation, "groups": channels}
            layer = CPU.place(conv(channels, channels, kernel, padding="same", **geometry)).to(dtype)
            x = torch.randn(8, channels, height, width, dtype=dtype).contiguous(memory_format=torch.channels_last)
            x.requires_grad_()

            def step(layer: nn.Module = layer, x: torch.Tensor = x) -> None:
                y = layer(x)
                y.backward(torch.ones_like(y))

            times = take_turns({"ours": step, "library": library(step)}, 5)
            name = f"{str(dtype)[6:]} {channels}x{height}x{width} k{kernel} s{stride} d{dilation}"
            ratios[name] = times["library"] / times["ours"]
            rows += [{"row": f"{name}: {who}", "metric": "seconds", "score": value} for who, value in times.items()]
    model, images = deeplab()
    for dtype in DTYPES:

        def whole(dtype: torch.dtype = dtype) -> None:
            with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
                model(images).float().square().mean().backward()
            model.zero_grad(set_to_none=True)

        times = take_turns({"ours": whole, "library": library(whole)}, 5)
        name = f"{str(dtype)[6:]} whole training step of the seed"
        ratios[name] = times["library"] / times["ours"]
        rows += [{"row": f"{name}: {who}", "metric": "seconds", "score": value} for who, value in times.items()]
    record.write("depthwise", rows, ratios, auto=str(find_precision("auto", CPU.device) or torch.float32)[6:])
    print(json.dumps(ratios, indent=1))


if __name__ == "__main__":
    main()
