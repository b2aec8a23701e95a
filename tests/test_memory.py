"""Running out of memory: what was tried and what would fit is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import adapt_tiny, opened, search_tiny, tiny_config, write_images
from torch import Tensor

from fna.errors import FnaError
from fna.training.memory import device_memory, in_memory


def greedy(output: Tensor, batch: object, task: object) -> tuple[Tensor, Tensor]:
    """A loss that needs more memory than there is."""
    return torch.empty(1 << 50).sum(), torch.tensor(1)


@pytest.mark.parametrize(
    ("train", "overrides", "words"),
    [
        (adapt_tiny, [], ["adapt took 4 images of 64x64", "--adapt.batch_size 2,", "--adapt.accumulate 2 to keep"]),
        (adapt_tiny, ["adapt.accumulate=2"], ["adapt took 2 images", "--adapt.batch_size 1,", "--adapt.accumulate 4"]),
        (adapt_tiny, ["adapt.batch_size=1"], ["adapt took 1 images", "not one image fits", "--data.crop"]),
        (search_tiny, [], ["search took 2 images of 64x64", "--search.batch_size 1;"]),
    ],
)  # fmt: skip
def test_what_would_fit_is_said(tmp_path: Path, train: object, overrides: list[str], words: list[str]) -> None:
    config = tiny_config(write_images(tmp_path / "data"), *overrides)
    with opened(config) as job, pytest.raises(FnaError, match=r"cpu .* ran out of memory") as error:
        train(job.with_loss(greedy), tmp_path)  # type: ignore[operator]
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(("batch_size", "remedy"), [(4, "--evaluate.batch_size 2"), (1, "--engine.device cpu")])
def test_scoring_that_does_not_fit_says_so_also_while_training(tmp_path: Path, batch_size: int, remedy: str) -> None:
    config = tiny_config(write_images(tmp_path / "data"), f"evaluate.batch_size={batch_size}")
    with opened(config) as job:
        too_much = replace(job.problem.task, predict=lambda *given: torch.empty(1 << 50))
        greedy_there = replace(job, problem=replace(job.problem, task=too_much))
        with pytest.raises(FnaError, match=r"cpu .* ran out of memory") as error:
            adapt_tiny(greedy_there, tmp_path)
    height, width = job.problem.size_hw
    assert f"scoring took {batch_size} images of {height}x{width} at once; type {remedy}" in str(error.value)


def test_other_errors_pass(tmp_path: Path) -> None:
    config = tiny_config(write_images(tmp_path / "data"))
    with opened(config) as job:
        given = "search", config.search, job.problem, job.seed.arch, job.compute
        with pytest.raises(FnaError, match="ran out of memory"), in_memory(*given):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        with pytest.raises(RuntimeError, match="shapes differ"), in_memory(*given):
            raise RuntimeError("shapes differ")


def test_the_memory_of_this_machine_is_known() -> None:
    assert 1 << 28 < (device_memory(torch.device("cpu")) or 0) < 1 << 50
