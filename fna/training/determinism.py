"""Which kernels a GPU takes, and how they round: deterministic ones, for the same bits twice; TF32; sums in float32."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
    settings: Any = torch.utils.deterministic
    benchmark, fill = torch.backends.cudnn.benchmark, settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    settings.fill_uninitialized_memory = False  # nothing here reads what nobody wrote
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
        settings.fill_uninitialized_memory = fill


@contextmanager
def products(tf32: bool) -> Iterator[None]:
    """Settle how NVIDIA GPUs round in convolutions and matrix products; leaving restores what was.

    Sums of half precision are kept in float32. Flags that a caller has set by torch's newer names, which cannot be read
    by the older ones, are left alone.

    Args:
        tf32: round the factors of float32 products to 10 bits; False: float32 throughout.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    wanted = (
        (matmul, "allow_tf32", tf32),
        (cudnn, "allow_tf32", tf32),
        (matmul, "allow_bf16_reduced_precision_reduction", False),
        (matmul, "allow_fp16_reduced_precision_reduction", False),
    )
    before = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # some versions of torch warn of the older names
        for place, name, value in wanted:
            try:
                before.append((place, name, getattr(place, name)))
                setattr(place, name, value)
            except RuntimeError:
                continue
    try:
        yield
    finally:
        for place, name, value in before:
            setattr(place, name, value)
