"""What holds for every task and every model that it puts on a backbone."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from fna.arch import Arch, Block, Stem
from fna.config import TaskConfig
from fna.network import Backbone, Model
from fna.tasks import Task, load_task

SIZE_HW = (64, 96)
TASKS = get_args(TaskConfig.model_fields["name"].annotation)
MODELS = get_args(TaskConfig.model_fields["model"].annotation)


def small_arch() -> Arch:
    blocks = [Block("mbconv", 8, 8, stride=2, expansion=2)] * 4
    return Arch(Stem(8), ((Block("mbconv", 8, 8),), *((block,) for block in blocks)))


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_there(name: str) -> None:
    task = load_task(name)
    assert isinstance(task, Task)
    assert task.metric


@pytest.mark.parametrize("output_stride", get_args(TaskConfig.model_fields["output_stride"].annotation))
@pytest.mark.parametrize("model", MODELS)
def test_a_model_scores_every_pixel_at_every_output_stride(model: str, output_stride: int) -> None:
    config = TaskConfig(model=model, output_stride=output_stride, channels=8)
    task = load_task(config.name)
    backbone = Backbone(task.prepare(small_arch(), config))
    network = Model(backbone, task.head(backbone.feature_info, 5, config)).eval()
    with torch.no_grad():
        logits = network(torch.zeros(2, 3, *SIZE_HW))
    assert tuple(logits.shape) == (2, 5, *SIZE_HW)
    assert logits.dtype == torch.float32
    loss, weight = task.loss(logits, {"mask": torch.zeros(2, *SIZE_HW, dtype=torch.uint8)})
    assert loss.shape == weight.shape == ()
    assert loss.isfinite()
