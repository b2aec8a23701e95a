"""What holds for every task and every model that it puts on a backbone."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch

from fna.arch import Arch, Block, Stem
from fna.cli.catalogue import models
from fna.config import CONFIGS, MODELS, TASKS, Config, TaskConfig, make_config
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
ALL = pytest.mark.parametrize(("model", "family"), [(model, family) for model in MODELS for family in ARCHS])


def network_of(config: TaskConfig, family: str = "mbconv") -> Model:
    task = load_task(config.name)
    backbone = Backbone(task.prepare(ARCHS[family], config))
    return Model(backbone, task.head(backbone.arch, 5, config))


def test_the_configuration_knows_every_model() -> None:
    assert list(MODELS) == [row["name"] for row in models()] == [model for own in TASKS.values() for model in own]
    assert set(CONFIGS) == set(MODELS)
    assert isinstance(Config(), CONFIGS[next(iter(MODELS))])


@pytest.mark.parametrize("model", MODELS)
def test_its_name_chooses_its_settings(model: str) -> None:
    config = make_config({"task": {"model": model}})
    assert config == Config(task=MODELS[model]()) == Config.model_validate({"task": {"model": model}})
    assert isinstance(config, CONFIGS[model])
    assert type(config.task) is MODELS[model]
    assert model in TASKS[config.task.name]
    assert make_config(config.model_dump(mode="json", by_alias=True)) == config
    assert pickle.loads(pickle.dumps(config)) == config, "workers get it"


@pytest.mark.parametrize("model", MODELS)
def test_its_head_can_be_narrowed(model: str) -> None:
    """`scaled` is what the target's head width becomes: params fall with it, and at 1 nothing changes."""
    config = MODELS[model]()
    params = [sum(p.numel() for p in network_of(config.scaled(width)).head.parameters()) for width in (0.25, 0.5, 1)]
    assert params == sorted(set(params))
    assert config.scaled(1) == config
    assert config.scaled(0.5).scaled(2) == config


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_there(name: str) -> None:
    task = load_task(name)
    assert isinstance(task, Task)
    assert task.metric in task.titles
    assert make_config({"task": {"name": name}}).task.model == TASKS[name][0]


@ALL
def test_a_model_learns_from_a_batch_and_an_image_without_truth_adds_no_term(model: str, family: str) -> None:
    config = MODELS[model]().scaled(0.03)
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
def test_distillation_is_the_distance_from_a_teacher_where_there_is_truth(model: str, family: str) -> None:
    config = MODELS[model]().scaled(0.03)
    task, batch = load_task(config.name), BATCHES[config.name]
    images = torch.randn(2, 3, *SIZE_HW, generator=torch.Generator().manual_seed(0))
    student, teacher = network_of(config, family), network_of(config, family)
    output, other = student(images), teacher(images)
    assert task.distillation(output, output, batch, config) == 0
    distance = task.distillation(output, other, batch, config)
    assert distance.shape == ()
    assert distance > 0
    distance.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters()), "the teacher does not learn"
    gradients = {name: parameter.grad for name, parameter in student.named_parameters()}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    rest = {key: value[1:] for key, value in batch.items()}
    nothing = (network.eval()(images[1:]) for network in (student, teacher))
    if model != "retinanet":  # all of whose anchors learn, from images of the background, too
        assert task.distillation(*nothing, rest, config) == 0


@ALL
def test_a_model_is_counted_without_being_run(model: str, family: str) -> None:
    config = MODELS[model]().scaled(0.03)
    network = network_of(config, family)
    cost = model_cost(network.backbone.arch, network.head.to("meta"), SIZE_HW)
    assert cost.params == sum(parameter.numel() for parameter in network.parameters())
    assert cost.madds > 0


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("model", TASKS["segmentation"])
def test_a_segmentation_model_scores_every_pixel_at_every_output_stride(model: str, output_stride: int) -> None:
    config = make_config({"task": {"model": model, "output_stride": output_stride, "channels": 8}}).task
    network = network_of(config).eval()
    with torch.no_grad():
        logits = network(torch.zeros(2, 3, *SIZE_HW))
    assert tuple(logits.shape) == (2, 5, *SIZE_HW)
    assert logits.dtype == torch.float32
