"""What of a network learns, and how much each class counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import adapt_tiny, opened, tiny_config, write_images
from torch.nn import functional as F

from fna.config import make_config
from fna.errors import FnaError
from fna.nets.weights import Network
from fna.stages.adapt import AdaptLoop
from fna.tasks import load_task
from fna.tasks.labels import Labels
from fna.tasks.weighting import class_weights

LABELS = Labels(("soil", "leaf", "stem"), ((0, 0, 0), (0, 9, 0), (9, 0, 0)))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "images")


# --- freezing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("what", "stages"), [("stem", 0), (2, 2), ("backbone", 4)])
def test_what_is_frozen_stays_and_the_rest_learns(what: Any, stages: int, images: Path, tmp_path: Path) -> None:
    with opened(tiny_config(images, f"adapt.freeze={what}", "adapt.epochs=1", "adapt.recalibrate=0")) as job:
        before = job.problem.build(job.seed.arch).state_dict()
        tuned = adapt_tiny(job, tmp_path)
    frozen = tuple(f"backbone.{part}." for part in ("stem", *(f"stages.{s}" for s in range(stages))))
    moved = {name for name, tensor in tuned.network.state.items() if not torch.equal(tensor, before[name])}
    assert not [name for name in moved if name.startswith(frozen)], "statistics of norms included"
    assert {name for name in before if not name.startswith(frozen) and name.endswith("weight")} <= moved
    numbers = (t.numel() for name, t in before.items() if name.startswith(frozen) and name.endswith(("weight", "bias")))
    assert tuned.frozen_params == sum(numbers)


def test_more_stages_than_there_are_cannot_be_frozen(images: Path, tmp_path: Path) -> None:
    with opened(tiny_config(images, "adapt.freeze=5")) as job, pytest.raises(FnaError, match="has 4 stages; for all"):
        adapt_tiny(job, tmp_path)


# --- class weights ----------------------------------------------------------------------------------------------------


def test_balanced_weights_are_those_of_the_pixels(images: Path) -> None:
    with opened(tiny_config(images, "adapt.class_weights=balanced")) as job:
        loop = AdaptLoop(Network(job.seed.arch, {}), job.problem, job.data, job.compute, job.config.adapt)
        names = (images / "train.txt").read_text().split()
        masks = [np.array(Image.open(images / "masks" / f"{name}.png")) for name in names]
        counts = np.bincount(np.concatenate([mask.reshape(-1) for mask in masks]))
        assert loop.class_weights is not None
        assert loop.class_weights.tolist() == pytest.approx(counts.sum() / (3 * counts))


def test_the_weighted_loss_is_torchs_own() -> None:
    task, config = load_task("segmentation"), make_config({}).task
    logits, mask = torch.randn(2, 3, 5, 5), torch.randint(0, 3, (2, 5, 5))
    mask[0, 0] = 255
    weights = torch.tensor([1.0, 3.0, 0.5])
    total, number = task.loss(logits, {"mask": mask, "class_weights": weights}, config)
    assert torch.allclose(total / number, F.cross_entropy(logits, mask, weights, ignore_index=255))
    plain = task.loss(logits, {"mask": mask}, config)
    alike = task.loss(logits, {"mask": mask, "class_weights": torch.ones(3)}, config)
    assert torch.allclose(plain[0] / plain[1], alike[0] / alike[1])


@pytest.mark.parametrize("model", ["retinanet", "ssdlite"])
def test_a_detectors_class_counts_as_its_weight_says(model: str) -> None:
    from tiny_networks import ARCH, SETTINGS

    from fna.tasks.problem import Problem

    config = make_config({"task": {"model": model, **SETTINGS[model]}, "data": {"crop": [64, 64]}})
    task = load_task("detection")
    problem = Problem(config, task, LABELS, (64, 64), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    output = problem.build(ARCH).train()(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    batch = {"boxes": [torch.tensor([[8.0, 8.0, 40.0, 44.0]])], "labels": [torch.tensor([1])]}

    def gradients(**more: Any) -> torch.Tensor:
        loss, _ = task.loss(output, {**batch, **more}, config.task)
        (found,) = torch.autograd.grad(loss, output["logits"], retain_graph=True)
        return found

    plain, alike = gradients(), gradients(class_weights=torch.ones(3))
    assert torch.allclose(plain, alike)
    tripled = gradients(class_weights=torch.tensor([1.0, 3.0, 1.0]))
    assert not torch.allclose(plain, tripled)
    if model == "retinanet":
        assert torch.allclose(tripled, plain * torch.tensor([1.0, 3.0, 1.0]), atol=1e-6)


def test_weights_by_name_leave_the_others_at_one() -> None:
    given = make_config({"adapt": {"class_weights": {"stem": 2}}}).adapt.class_weights
    assert class_weights(given, None, LABELS).tolist() == [1, 1, 2]
    listed = make_config({"adapt": {"class_weights": [1, 2, 0.5]}}).adapt.class_weights
    assert class_weights(listed, None, LABELS).tolist() == [1, 2, 0.5]
    assert class_weights("none", None, LABELS) is None


@pytest.mark.parametrize(
    ("given", "what"),
    [({"steam": 2.0}, "did you mean 'stem'"), ((1.0, 2.0), "2 weights, but there are 3"), ("balanced", "class_counts")],
)
def test_weights_that_do_not_fit_are_refused(given: Any, what: str) -> None:
    with pytest.raises(FnaError, match=what):
        class_weights(given, object(), LABELS)


def test_joints_have_no_weights() -> None:
    with pytest.raises(FnaError, match="joints have no classes"):
        make_config({"task": {"name": "pose"}, "adapt": {"class_weights": "balanced"}})
