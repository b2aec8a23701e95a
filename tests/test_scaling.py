"""Networks of another head width and input scale: all that is in pixels follows, and is counted and seen there."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fna.arch.target import Form, Target
from fna.config import MODELS, TASKS, make_config
from fna.config.scaling import at_form
from fna.seeds import load_seed
from fna.tasks import load_task
from fna.tasks.labels import Labels
from fna.tasks.problem import Problem

CROP = {"segmentation": (96, 128), "detection": (96, 128), "pose": (64, 64)}
ARCH = load_seed("mobilenet_v2_035", weights=None).arch


def make_problem(model: str, **sections: Any) -> Problem:
    """A problem without data."""
    name = MODELS[model].model_fields["name"].default
    data = {"crop": CROP[name], **sections.pop("data", {})}
    config = make_config({"task": {"model": model}, "data": data, **sections})
    joints = ("head", "left_hand", "right_hand")
    task = load_task(name)
    size_hw = task.scored_size(config) or CROP[name]
    return Problem(config, task, Labels(joints, ((0, 0, 0),) * 3), size_hw, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("model", "given", "expected"),
    [
        ("deeplabv3", {"data": {"scale": [0.5, 2]}}, {"data": {"scale": (0.75, 3.0), "eval_scale": 1.5}}),
        ("deeplabv3plus", {"evaluate": {"window": [64, 80]}}, {"evaluate": {"window": (96, 120)}}),
        ("retinanet", {"data": {"scale": [0.5, 2]}}, {"task": {"anchor_scale": 6.0}, "data": {"scale": (0.5, 2.0)}}),
        ("ssdlite", {"data": {"eval_size": [64, 80]}}, {"data": {"eval_size": (96, 120)}}),
        ("simple_baseline", {"task": {"sigma": 2.0}}, {"task": {"sigma": 3.0}, "data": {"scale": None}}),
    ],
)
def test_what_is_in_pixels_follows_the_input(model: str, given: Any, expected: Any) -> None:
    config = make_config({**given, "task": {"model": model, **given.get("task", {})}})
    scaled = at_form(config, Form(scale=1.5))
    for section, settings in expected.items():
        for key, value in settings.items():
            assert getattr(getattr(scaled, section), key) == value
    assert scaled.data.crop == ((352, 480) if model == "simple_baseline" else (360, 480))


@pytest.mark.parametrize("model", MODELS)
def test_costs_follow_the_input_also_where_a_size_to_count_at_is_given(model: str) -> None:
    for sections in ({}, {"search": {"cost_size": CROP[make_problem(model).config.task.name]}}):
        problem = make_problem(model, **sections)
        plain, larger = (problem.at(Target(ARCH, scale=scale)).cost(ARCH) for scale in (1.0, 2.0))
        assert larger.params == plain.params
        assert larger.madds == pytest.approx(4 * plain.madds, rel=0.05)
        narrow = problem.at(Target(ARCH, head_width=0.5)).cost(ARCH)
        assert narrow.params < plain.params
        assert narrow.madds < plain.madds


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_predictions_are_in_the_image_whatever_the_scale(model: str, scale: float) -> None:
    unsure = {"evaluate": {"score_threshold": 0}} if model in TASKS["detection"] else {}
    problem = make_problem(model, **unsure).at(Target(ARCH, scale=scale))
    image_3HW = torch.randint(0, 256, (3, 50, 70), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    network = problem.build(ARCH).eval()
    view_3HW, frame = problem.view(image_3HW, {})
    if problem.config.task.name == "segmentation":
        assert view_3HW.shape[1:] == (round(50 * scale), round(70 * scale))
    with torch.no_grad():
        (prediction,) = problem.predict(network, (view_3HW / 255)[None], [frame])
    if problem.config.task.name == "segmentation":
        assert prediction.shape == (50, 70)
    elif problem.config.task.name == "detection":
        assert len(prediction["boxes"])
        assert (prediction["boxes"] >= 0).all()
        assert (prediction["boxes"] <= torch.tensor([70, 50, 70, 50])).all()
    else:
        assert prediction["box"].tolist() == [0, 0, 70, 50]
        assert (prediction["points"][:, :2] - torch.tensor([35.0, 25.0])).abs().max() < 70
