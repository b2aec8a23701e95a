"""Stateless randomness: a block draws what its purpose says, and leaves every generator as it was."""

from __future__ import annotations

import pytest
import torch

from fna.rng import derive_seed, seeded


def test_a_seeded_block_draws_as_manual_seed_would_and_restores_the_generator() -> None:
    torch.manual_seed(derive_seed(3, "weights", 1))
    expected = torch.randn(5)
    torch.manual_seed(7)
    following = torch.randn(5)
    torch.manual_seed(7)
    with seeded(3, "weights", 1):
        assert torch.equal(torch.randn(5), expected)
    assert torch.equal(torch.randn(5), following)


def test_a_seeded_block_that_fails_restores_the_generator() -> None:
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="no"), seeded(3, "weights"):
        raise ValueError("no")
    assert torch.equal(torch.get_rng_state(), state)


def test_a_seeded_block_does_not_seed_other_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    with seeded(3, "weights"):
        pass
    assert seeds == []
    torch.manual_seed(3)
    assert seeds == [3]  # or the test would be blind


@pytest.mark.cuda
def test_a_seeded_block_leaves_cuda_alone() -> None:
    torch.cuda.manual_seed_all(5)
    expected = torch.randn(4, device="cuda")
    torch.cuda.manual_seed_all(5)
    with seeded(3, "weights"):
        pass
    assert torch.equal(torch.randn(4, device="cuda"), expected)
