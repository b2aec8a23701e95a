"""Torch-Pruning: channels are taken away until the budget holds, and what is left is a network like any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import Job, opened, tiny_config, write_images
from tiny_detection import detection_config, write_squares

from fna.arch import Arch, Block, Stem
from fna.arch.weights import backbone_shapes
from fna.config import Config
from fna.nets.weights import Network, cpu_state, take
from fna.searching.choosing import NoControlError
from fna.stages.expand import build, count
from fna.stages.prune import prune

MAKERS: dict[str, Callable[[Path], Config]] = {
    "deeplabv3": lambda root: tiny_config(write_images(root)),
    "retinanet": lambda root: detection_config(write_squares(root)),
}
TABLE = ((8, 8, 1, 1, 1), (8, 16, 2, 3, 2), (16, 24, 2, 3, 1), (24, 32, 2, 3, 1), (32, 32, 2, 3, 1))


def drawn(job: Job) -> Network[Arch]:
    return Network(job.seed.arch, cpu_state(job.problem.build(job.seed.arch)))


@pytest.mark.parametrize(("model", "importance"), [("deeplabv3", "taylor"), ("retinanet", "norm")])
def test_what_is_left_is_a_part_of_the_network_within_the_budget(model: str, importance: str, tmp_path: Path) -> None:
    with opened(MAKERS[model](tmp_path / "data"), table=TABLE) as job:
        network, before = drawn(job), torch.get_rng_state()
        limit = int(0.6 * count(network, job.problem).madds)
        pruned = prune(network, job.problem, job.data.train, job.compute, limit, importance=importance, steps=12)
        cost = count(pruned, job.problem)
        assert 0.7 * limit <= cost.madds <= limit
        assert cost.params == sum(p.numel() for p in build(pruned, job.problem).parameters())
        assert {n: tuple(t.shape) for n, t in take(pruned.state, "backbone").items()} == backbone_shapes(pruned.arch)
        old, new = (one.state["backbone.stem.conv.weight"] for one in (network, pruned))
        assert all(any(torch.equal(one, other) for other in old) for one in new), "filters are kept as they were"
        assert torch.equal(before, torch.get_rng_state())


def test_what_cannot_be_pruned_is_said(tmp_path: Path) -> None:
    with opened(tiny_config(write_images(tmp_path / "data"))) as job:
        with pytest.raises(NoControlError, match="still costs more than"):
            prune(drawn(job), job.problem, job.data.train, job.compute, 1000, importance="norm", steps=2)
        resnet = Arch(Stem(8), ((Block("basic", 8, 8),),))
        with pytest.raises(NoControlError, match="takes networks of mbconv blocks"):
            prune(Network(resnet, {}), job.problem, job.data.train, job.compute, 1000)
