"""Human pose: SimpleBaseline on a backbone, joints as peaks of heatmaps, PCKh, PCK and OKS. A record is a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fna.arch import A, Arch, with_output_stride
from fna.arch.spaces import DETECTION_LAYERS
from fna.config import PoseConfig, SimpleBaseline
from fna.data.pose.transforms import Frame, PoseView, collate, view
from fna.nets.network import feature_info
from fna.tasks import Task, load_model
from fna.tasks.pose_drawing import draw
from fna.tasks.pose_scores import TITLES, PoseScores, person_score, result
from fna.tasks.simple_baseline import decode, distillation, loss, mirrored

COARSEST = 32  # crop pixels per pixel of the map the head starts from


def prepare(arch: A, config: SimpleBaseline) -> A:
    """Give the backbone the stride the head needs."""
    return with_output_stride(arch, COARSEST)


def build_head(arch: Arch, classes: int, config: SimpleBaseline) -> nn.Module:
    """Build the head for `classes` joints."""
    head: nn.Module = load_model(config)(feature_info(arch), classes, config.channels)
    return head


def head_start(seed_state: Mapping[str, Tensor], config: SimpleBaseline) -> dict[str, Tensor]:
    """Return no weights: a classifier knows nothing of joints."""
    return {}


def scored_size(config: PoseConfig) -> tuple[int, int]:
    """Return the size of every crop."""
    return config.data.crop


def predict(model: nn.Module, crops_N3HW: Tensor, frames: Sequence[Frame], config: PoseConfig) -> list[dict[str, Any]]:
    """Find the joints of a batch of persons.

    Args:
        model: in eval mode.
        crops_N3HW: normalised.
        frames: where in the images the crops are, and which joints a mirror swaps.
        config: ``evaluate.flip_test`` averages the heatmaps of a crop and its mirror image, where the joints a mirror
            swaps are known; ``evaluate.decode`` is the sub-pixel rule.

    Returns:
        For each person ``points``, float32 (K, 3): x, y in image pixels, score; ``box``, float32 (4,): x0, y0, width,
        height; ``score`` in [0, 1]; on the CPU.
    """
    heatmaps = model(crops_N3HW)
    swap = frames[0].swap
    if config.evaluate.flip_test and swap is not None:
        heatmaps = (heatmaps + mirrored(model(crops_N3HW.flip(3)), swap)) / 2
    points_NK3 = decode(heatmaps, config.evaluate.decode, config.task.sigma).detach().cpu()
    return [_person(points_K3, frame) for points_K3, frame in zip(points_NK3, frames, strict=True)]


def _person(points_K3: Tensor, frame: Frame) -> dict[str, Any]:
    """Return the prediction of a person from joints in its crop."""
    xy = frame.to_image(points_K3[:, :2].double())
    points = torch.cat([xy, points_K3[:, 2:].double()], 1)
    score = person_score(np.asarray(points_K3[:, 2], np.float64))
    return {"points": points.float(), "box": torch.as_tensor(frame.box, dtype=torch.float32), "score": score}


def records(prediction: Mapping[str, Any], image_id: Any, data: Any) -> list[dict[str, Any]]:
    """Return a person in COCO's results format."""
    return [result(prediction["points"].tolist(), prediction["score"], image_id)]


TASK = Task(
    metric="pck",
    titles=TITLES,
    layers=DETECTION_LAYERS,
    train_view=PoseView,
    collate=collate,
    prepare=prepare,
    head=build_head,
    head_start=head_start,
    loss=loss,
    distillation=distillation,
    scored_size=scored_size,
    view=view,
    predict=predict,
    scores=PoseScores,
    draw=draw,
    records=records,
)
