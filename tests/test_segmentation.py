"""Segmentation: losses and scores against hand-worked cases and torchmetrics, windows that cover the image."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassJaccardIndex

from fna.config import Config, DeepLabV3, make_config
from fna.tasks.segmentation import (
    IGNORE,
    STRIPES_RGB,
    SegmentationScores,
    draw,
    draw_errors,
    loss,
    predict,
    scored_size,
    slide,
    view,
)


def scored(predictions: list[list[int]], truths: list[list[int]], classes: int = 3) -> dict[str, Any]:
    scores = SegmentationScores(SimpleNamespace(classes=tuple("abcdefgh"[:classes])), Config())
    scores.update([0], [torch.tensor(predictions)], [torch.tensor(truths)])
    return scores.compute()


def test_precision_recall_and_counts_are_the_confusions() -> None:
    result = scored([[0, 1], [1, 1]], [[0, 0], [1, IGNORE]])
    assert result["confusion"]["counts"] == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert result["precision"] == {"a": 1.0, "b": 0.5, "c": None}
    assert result["recall"] == {"a": 0.5, "b": 1.0, "c": None}
    assert result["counts"] == {"pixels": {"a": 2, "b": 1, "c": 0}}


def test_errors_are_marked_in_grey_and_void_is_none() -> None:
    image, truth = np.full((8, 12, 3), (90, 120, 150), np.uint8), torch.zeros(8, 12, dtype=torch.uint8)
    mask = truth.clone()
    mask[:, :4], truth[:, 8:] = 1, IGNORE
    picture = draw_errors(image, mask, truth)
    assert (picture[:, 4:8] == 120).all(), "right"
    assert len(set(picture[0, 0].tolist())) == 3, "wrong, in colour"
    assert {tuple(pixel) for pixel in picture[:, 8:].reshape(-1, 3).tolist()} == set(STRIPES_RGB)


def test_a_two_by_two_case() -> None:
    result = scored([[0, 1], [1, 1]], [[0, 0], [1, 1]], classes=2)
    assert result["iou"] == {"a": pytest.approx(1 / 2), "b": pytest.approx(2 / 3)}
    assert result["miou"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert result["pixel_accuracy"] == pytest.approx(3 / 4)


def test_void_pixels_do_not_count() -> None:
    assert scored([[0, 1], [1, 1]], [[0, IGNORE], [1, 1]], classes=2)["miou"] == 1


def test_a_class_absent_from_the_truth_is_no_zero() -> None:
    result = scored([[0, 1], [1, 2]], [[0, 1], [1, 1]])
    assert result["iou"] == {"a": 1.0, "b": pytest.approx(2 / 3), "c": None}
    assert result["miou"] == pytest.approx((1 + 2 / 3) / 2)


def test_the_mean_is_over_the_data_set_as_torchmetrics_has_it() -> None:
    draws = torch.Generator().manual_seed(0)
    truths = torch.randint(0, 4, (5, 12, 16), generator=draws)
    predictions = torch.where(torch.rand(truths.shape, generator=draws) < 0.6, truths, 3 - truths)
    scores, oracle = SegmentationScores(SimpleNamespace(classes=tuple("abcd")), Config()), MulticlassJaccardIndex(4)
    for truth, prediction in zip(truths, predictions, strict=True):
        scores.update([0], [prediction], [truth])
        oracle.update(prediction[None], truth[None])
    assert scores.compute()["miou"] == pytest.approx(float(oracle.compute()))


def test_a_crop_without_labels_costs_nothing_and_is_no_nan() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    total, count = loss(logits, {"mask": torch.full((1, 4, 4), IGNORE, dtype=torch.uint8)}, DeepLabV3())
    total.backward()
    assert (total.item(), count.item()) == (0, 0)
    assert logits.grad is not None
    assert not logits.grad.any()


def test_the_loss_is_the_sum_over_labelled_pixels() -> None:
    mask = torch.tensor([[[0, 1], [IGNORE, 2]]], dtype=torch.uint8)
    total, count = loss(torch.zeros(1, 3, 2, 2), {"mask": mask}, DeepLabV3())
    assert int(count) == 3
    assert total.item() == pytest.approx(3 * torch.log(torch.tensor(3.0)).item())


class PixelWise(nn.Module):
    """A network whose answer at a pixel depends on that pixel alone."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :1], -x[:, :1]], 1)


@pytest.mark.parametrize("size", [(20, 30), (16, 16), (17, 41), (8, 30)])
@pytest.mark.parametrize("overlap", [0.0, 1 / 3, 0.9])
def test_windows_cover_every_pixel(size: tuple[int, int], overlap: float) -> None:
    x = torch.randn(2, 3, *size)
    assert torch.allclose(slide(PixelWise(), x, (16, 16), overlap), PixelWise()(x).softmax(1), atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "seen"),
    [
        ({}, (20, 30)),
        ({"eval_scale": 1.5}, (30, 45)),
        ({"eval_scale": 0.5, "eval_size": [40, 50]}, (20, 25)),
        ({"eval_scale": 0.1}, (2, 3)),
    ],
)
def test_images_are_scored_at_a_multiple_of_their_size_and_labelled_at_their_own(
    settings: dict[str, Any], seen: tuple[int, int]
) -> None:
    config = make_config({"data": settings})
    image = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    shown, own = view(image, None, config)
    assert shown.shape == (3, *seen)
    assert own == (20, 30)
    assert scored_size(config) in (None, seen)
    assert predict(PixelWise(), shown[None].float(), [own], config)[0].shape == own


def test_a_class_is_mixed_with_the_image_and_void_is_striped() -> None:
    """Void looks like no class, not even like a black background."""
    image, mask = np.full((16, 16, 3), (200, 100, 0), np.uint8), torch.full((16, 16), IGNORE)
    mask[:, :8] = 0
    picture = draw(image, mask, SimpleNamespace(colors=((0, 0, 0),)), Config())
    assert (picture[:, :8] == (100, 50, 0)).all()
    assert {tuple(pixel) for pixel in picture[:, 8:].reshape(-1, 3).tolist()} == set(STRIPES_RGB)
