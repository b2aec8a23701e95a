"""Data of your own that offer what the protocol `fna.tasks.Data` asks for, and nothing else, are learned and scored."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_every_model import ARCHS
from torch import Tensor

from fna.config import MODELS, make_config
from fna.nets.network import Backbone, Model
from fna.tasks import load_task

SIZE_HW = (64, 96)
TRUTHS: dict[str, Any] = {
    "segmentation": torch.ones(SIZE_HW, dtype=torch.uint8),
    "detection": {"boxes": torch.tensor([[8.0, 8, 48, 48], [20, 10, 80, 60]]), "labels": torch.tensor([0, 1])},
    "pose": {"points": torch.tensor([[20.0, 30, 2], [60, 40, 1]]), "box": torch.tensor([10.0, 20, 60, 40])},
}


class Minimal:
    """Two records of one truth."""

    classes = ("left_ear", "right_ear")
    colors = ((255, 0, 0), (0, 255, 0))
    links: tuple[tuple[int, int], ...] = ()
    groups: tuple[int, ...] = ()

    def __init__(self, task: str) -> None:
        self.truth = TRUTHS[task]
        self.skipped: list[str] = []

    def __len__(self) -> int:
        return 2

    def load(self, index: int) -> tuple[Tensor, Any]:
        return torch.full((3, *SIZE_HW), 100 + index, dtype=torch.uint8), self.truth

    def name(self, index: int) -> str:
        return f"{index}.png"


@pytest.mark.parametrize("model", MODELS)
def test_minimal_data_are_learned_and_scored(model: str) -> None:
    config = make_config({"task": {"model": model}, "data": {"crop": list(SIZE_HW)}})
    task, data = load_task(config.task.name), Minimal(config.task.name)
    backbone = Backbone(task.prepare(ARCHS["mbconv"], config.task))
    network = Model(backbone, task.head(backbone.arch, len(data.classes), config.task))
    view = task.train_view(data, range(2), config)
    batch = task.collate([view[0, 0], view[0, 1]])
    total, count = task.loss(network(batch["image"].float()), batch, config.task)
    assert total.isfinite()
    assert count > 0
    network.eval()
    scores = task.scores(data, config)
    with torch.no_grad():
        for index in range(2):
            image, truth = data.load(index)
            seen, frame = task.view(image, truth, config)
            scores.update([index], task.predict(network, seen[None].float(), [frame], config), [truth])
    assert 0 <= scores.compute()[task.metric] <= 1


def test_things_of_which_nothing_is_said_are_as_large_as_their_boxes_and_count() -> None:
    """Perfect predictions score 1, and images and persons are numbered from 1."""
    config = make_config({"task": {"model": "retinanet"}})
    scores = load_task("detection").scores(Minimal("detection"), config)
    truth = TRUTHS["detection"]
    scores.update([0, 1], [{**truth, "scores": torch.ones(2)}] * 2, [truth] * 2)
    found = scores.compute()
    assert found["map"] == pytest.approx(1)
    assert found["map_medium"] == pytest.approx(1)
    assert found["map_small"] is None
    assert {row["image_id"] for row in found["results"]} == {1, 2}

    config = make_config({"task": {"model": "simple_baseline"}})
    scores = load_task("pose").scores(Minimal("pose"), config)
    truth = TRUTHS["pose"]
    scores.update([0, 1], [{"points": truth["points"], "score": 1.0}] * 2, [truth] * 2)
    found = scores.compute()
    assert found["pck"] == found["pck_box"] == 1
    assert [row["image_id"] for row in found["results"]] == [1, 2]
