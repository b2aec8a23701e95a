"""Object detection: RetinaNet or SSDLite on a backbone, COCO's average precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from fna.arch import MULTIPLE, A, Arch
from fna.arch.spaces import DETECTION_LAYERS
from fna.config import DetectionConfig, Detector
from fna.data.detection import views
from fna.data.detection.transforms import DetectionView
from fna.data.detection.views import Frame, collate, to_image
from fna.tasks import Task, load_model
from fna.tasks.box_drawing import draw_boxes
from fna.tasks.detection_scores import METRIC, TITLES, DetectionScores, records


def prepare(arch: A, config: Detector) -> A:
    """Give the backbone the taps that the model reads."""
    prepared: A = load_model(config).prepare(arch)
    return prepared


def build_head(arch: Arch, classes: int, config: Detector) -> nn.Module:
    """Build the detection head."""
    head: nn.Module = load_model(config).build_head(arch, classes, config)
    return head


def head_start(seed_state: Mapping[str, Tensor], config: Detector) -> dict[str, Tensor]:
    """Return what the seed has of the head already."""
    start: dict[str, Tensor] = load_model(config).head_start(seed_state, config)
    return start


def loss(output: Any, batch: Mapping[str, Any], config: Detector) -> tuple[Tensor, Tensor]:
    """Return the summed loss of classes and boxes, and the number of positive anchors."""
    total, number = load_model(config).loss(output, batch, config)
    return total, number


def distillation(output: Any, teacher: Any, batch: Mapping[str, Any], config: Detector) -> Tensor:
    """Return how far classes and boxes are from a teacher's, summed over the anchors that the loss takes."""
    total: Tensor = load_model(config).distillation(output, teacher, batch, config)
    return total


def train_view(data: Any, indices: Sequence[int], config: DetectionConfig) -> DetectionView:
    """Return the augmented samples of some images; without ``data.augment`` as the model is trained by its authors."""
    augment = config.data.augment or config.task.augment
    return DetectionView(data, indices, config.data, config.engine.rng_seed, augment)


def scored_size(config: DetectionConfig) -> tuple[int, int]:
    """Return the canvas that images are brought to: ``data.eval_size``, or the crop."""
    return config.data.eval_size or config.data.crop


def view(image_3HW: Tensor, truth: Any, config: DetectionConfig) -> tuple[Tensor, Frame]:
    """Return the image on the canvas, in its proportions or stretched, as the model needs it, and the way back."""
    canvas = config.data.eval_size or config.data.crop
    return views.view(image_3HW, canvas, letterbox=not config.task.stretches)


def predict(
    model: nn.Module, images_N3HW: Tensor, frames: Sequence[Frame], config: DetectionConfig
) -> Sequence[dict[str, Tensor]]:
    """Return the detections of each image on the CPU, best first.

    Args:
        model: in eval mode.
        images_N3HW: normalised views.
        frames: how they came from their images.
        config: ``evaluate.score_threshold``, ``nms`` and ``detections``.

    Returns:
        ``boxes`` (n, 4) as x0, y0, x1, y1 in pixels of the image, ``scores`` (n,) in [0, 1], ``labels`` (n,).
    """
    size_hw = (images_N3HW.shape[2], images_N3HW.shape[3])
    found = load_model(config.task).decode(model(images_N3HW), size_hw, config)
    return [back(detections, frame) for detections, frame in zip(found, frames, strict=True)]


def back(detections: Mapping[str, Tensor], frame: Frame) -> dict[str, Tensor]:
    """Bring boxes from a view to its image, on the CPU; what lies in the padding only is left out."""
    boxes_n4, scores_n, labels_n = (detections[key].cpu() for key in ("boxes", "scores", "labels"))
    boxes_n4 = to_image(boxes_n4.float(), frame)
    there = (boxes_n4[:, 2:] > boxes_n4[:, :2]).all(1)
    return {"boxes": boxes_n4[there], "scores": scores_n[there].float(), "labels": labels_n[there]}


TASK = Task(
    metric=METRIC,
    titles=TITLES,
    layers=DETECTION_LAYERS,
    train_view=train_view,
    collate=collate,
    prepare=prepare,
    head=build_head,
    head_start=head_start,
    loss=loss,
    distillation=distillation,
    scored_size=scored_size,
    view=view,
    predict=predict,
    scores=DetectionScores,
    draw=draw_boxes,
    records=records,
    multiple=MULTIPLE,
)
