"""Which kernels a GPU takes: deterministic ones, for the same bits twice; TF32, which is faster and coarser."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fna.errors import FnaError

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
REFUSED = " does not have a deterministic implementation"  # what torch says of an operation that has no such kernel


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Compute with deterministic algorithms only; leaving restores what was.

    cuBLAS reads the environment when a process first uses it, so that one who has used it before sets
    ``CUBLAS_WORKSPACE_CONFIG`` himself, as torch's error then says.

    Args:
        wanted: whether at all.

    Raises:
        FnaError: an operation has no deterministic kernel on the device; it is named.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault(WORKSPACE, ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        name, refused, _ = str(error).partition(REFUSED)
        if not refused:
            raise
        raise FnaError(
            f"engine.deterministic is true, but {name}{REFUSED} here; type --engine.deterministic false, or compute on "
            "the CPU: --engine.device cpu"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark


@contextmanager
def tf32(wanted: bool) -> Iterator[None]:
    """Let NVIDIA GPUs round the factors of float32 convolutions and matrix products to 10 bits; leaving restores it.

    Args:
        wanted: False: float32 throughout.
    """
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = wanted
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
