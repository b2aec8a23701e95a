"""What holds for every task and every model that it puts on a backbone."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch

from fna.arch import Arch, Block, Stem
from fna.config import MODELS, TaskConfig
from fna.cost.madds import model_cost
from fna.nets.network import Backbone, Model
from fna.tasks import Task, load_task

SIZE_HW = (64, 96)
BATCHES: dict[str, dict[str, Any]] = {  # two images: something to learn, and nothing
    "segmentation": {"mask": torch.stack([torch.ones(SIZE_HW), torch.full(SIZE_HW, 255)]).to(torch.uint8)},
    "detection": {
        "boxes": [torch.tensor([[8.0, 8, 40, 40], [20, 10, 80, 60]]), torch.zeros(0, 4)],
        "labels": [torch.tensor([0, 4]), torch.zeros(0, dtype=torch.long)],
    },
    "pose": {"points": torch.tensor([[[20.0, 30, 2]] * 5, [[0.0, 0, 0]] * 5])},
}


STRIDED = [Block("mbconv", 8, 8, stride=2, expansion=2)] * 4
ARCHS = {
    "mbconv": Arch(Stem(8), ((Block("mbconv", 8, 8),), *((block,) for block in STRIDED))),
    "resnet": Arch(
        Stem(8, kernel=7, max_pool=True), tuple((Block("basic", 8, 8, stride=stride),) for stride in (1, 2, 2, 2))
    ),
}
ALL = pytest.mark.parametrize(
    ("model", "family"), [(model, family) for models in MODELS.values() for model in models for family in ARCHS]
)


def network_of(config: TaskConfig, family: str = "mbconv") -> Model:
    task = load_task(config.name)
    backbone = Backbone(task.prepare(ARCHS[family], config))
    return Model(backbone, task.head(backbone.arch, 5, config))


def test_the_configuration_knows_every_model() -> None:
    fields = TaskConfig.model_fields
    assert set(get_args(fields["name"].annotation)) == set(MODELS)
    assert set(get_args(fields["model"].annotation)) == {model for models in MODELS.values() for model in models}


@pytest.mark.parametrize("name", MODELS)
def test_every_task_is_there(name: str) -> None:
    task = load_task(name)
    assert isinstance(task, Task)
    assert task.metric in task.titles
    assert TaskConfig(name=name).model == MODELS[name][0]


@ALL
def test_a_model_learns_from_a_batch_and_an_image_without_truth_adds_no_term(model: str, family: str) -> None:
    config = TaskConfig(model=model, channels=8)
    task, network = load_task(config.name), network_of(config, family)
    batch = BATCHES[config.name]
    total, count = task.loss(network(torch.zeros(2, 3, *SIZE_HW)), batch, config)
    assert total.shape == count.shape == ()
    assert total.isfinite()
    assert count > 0
    total.backward()
    lost = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert not lost
    second = {key: value[1:] for key, value in batch.items()}
    _, none = task.loss(network.eval()(torch.zeros(1, 3, *SIZE_HW)), second, config)
    assert none == 0


@ALL
def test_a_model_is_counted_without_being_run(model: str, family: str) -> None:
    config = TaskConfig(model=model, channels=8)
    network = network_of(config, family)
    cost = model_cost(network.backbone.arch, network.head.to("meta"), SIZE_HW)
    assert cost.params == sum(parameter.numel() for parameter in network.parameters())
    assert cost.madds > 0


@pytest.mark.parametrize("output_stride", get_args(TaskConfig.model_fields["output_stride"].annotation))
@pytest.mark.parametrize("model", MODELS["segmentation"])
def test_a_segmentation_model_scores_every_pixel_at_every_output_stride(model: str, output_stride: int) -> None:
    network = network_of(TaskConfig(model=model, output_stride=output_stride, channels=8)).eval()
    with torch.no_grad():
        logits = network(torch.zeros(2, 3, *SIZE_HW))
    assert tuple(logits.shape) == (2, 5, *SIZE_HW)
    assert logits.dtype == torch.float32
