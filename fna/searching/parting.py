"""Which training images a search learns its weights from, and which it keeps for the alphas or for scoring."""

from __future__ import annotations

from typing import Any

from fna.config import SearchConfig
from fna.data.cutting import copies_of
from fna.data.sampling import split_indices
from fna.errors import FnaError
from fna.searching.forms import MEASURED


def part_records(data: Any, config: SearchConfig, rng_seed: int, processes: int) -> tuple[list[int], list[int]]:
    """Part the training records of a search; those of an image, and of its augmented copies, stay together.

    Args:
        data: the training data.
        config: the search.
        rng_seed: the run's seed.
        processes: that share a step.

    Returns:
        Indices for the weights, and those of the alphas or, with a chooser that scores candidates, held out for that.

    Raises:
        FnaError: one is smaller than a step needs; held-out images may be few, a batch of them is as small.
    """
    scores = config.chooser in MEASURED
    name = "held_out" if scores else "alpha_split"
    share = config.held_out if scores else config.alpha_split
    sources = [copies_of(data.name(record)) for record in range(len(data))]
    parts = split_indices(len(data), share, rng_seed, f"search.{name}", sources)
    needed = config.batch_size * processes
    for part, use in zip(parts, ("the weights", "" if scores else "the alphas"), strict=True):
        if use and len(part) < needed:
            fits = len(part) // processes
            remedy = f"type --search.batch_size {fits}, or give more images" if fits else "give more images"
            each = f" x {processes} processes" if processes > 1 else ""
            raise FnaError(
                f"search.{name} {share:g} of {len(data)} images leaves {len(part)} for {use}, but a step needs "
                f"{needed} (search.batch_size {config.batch_size}{each}): {remedy}"
            )
    return parts
