"""Stateless randomness: every draw is a function of (seed, purpose, ...), so a resumed run draws what it would have."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(rng_seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed that depends on every argument.

    >>> derive_seed(0, "path", 1) == derive_seed(0, "path", 2)
    False
    """
    text = "/".join(str(part) for part in (rng_seed, *purpose))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(rng_seed: int, *purpose: str | int) -> torch.Generator:
    """Return a CPU generator for one purpose."""
    import torch

    return torch.Generator().manual_seed(derive_seed(rng_seed, *purpose))


@contextmanager
def seeded(rng_seed: int, *purpose: str | int) -> Iterator[None]:
    """Run a block that draws from torch's global CPU generator with a seed of its own; its state is restored.

    The generators of other devices are not touched, which ``torch.manual_seed`` would reseed.
    """
    import torch

    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(derive_seed(rng_seed, *purpose))
    try:
        yield
    finally:
        torch.default_generator.set_state(state)
