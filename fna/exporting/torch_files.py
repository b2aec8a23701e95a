"""Torch's own files of a network: a program of torch.export, and TorchScript for what still reads it."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence

import torch
from torch import nn
from torch.export import ExportedProgram

from fna.exporting.checks import Array, Run
from fna.exporting.graph import TRACED, Deployed, Shape

KEY = "fna.json"  # of the description among a file's extra files


def make_program(program: ExportedProgram, outputs: Sequence[str], about: str) -> tuple[bytes, Run]:
    """Return the file of a traced network as ``torch.export.load`` reads it, and how what was read is run.

    Args:
        program: of `graph.trace`.
        outputs: names of what it returns.
        about: the description, JSON.
    """
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={KEY: about})
    again = torch.export.load(io.BytesIO(buffer.getvalue()))
    return buffer.getvalue(), _runner(again.module(), outputs)


def make_script(deployed: Deployed, shape: Shape, about: str) -> tuple[bytes, Run]:
    """Return the file of a network as ``torch.jit.load`` reads it, and how what was read is run.

    Args:
        deployed: the network.
        shape: images, height and width in pixels; None: free.
        about: the description, JSON.
    """
    sizes = [size or free for size, free in zip(shape, TRACED, strict=True)]
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter(
            "ignore"
        )  # torch would rather have torch.export, and does not trust traces: they are checked
        script = torch.jit.trace(deployed, torch.zeros(*sizes, 3, dtype=torch.uint8), check_trace=False)
        torch.jit.save(script, buffer, _extra_files={KEY: about})
        again = torch.jit.load(io.BytesIO(buffer.getvalue()))
    return buffer.getvalue(), _runner(again, deployed.outputs)


def _runner(module: nn.Module, outputs: Sequence[str]) -> Run:
    """Return a function from uint8 images (N, H, W, 3) to maps by name."""

    def run(images_NHW3: Array) -> dict[str, Array]:
        with torch.no_grad():
            values = module(torch.from_numpy(images_NHW3))
        return {name: value.numpy() for name, value in zip(outputs, values, strict=True)}

    return run
