"""Crops of persons: pure functions of (rng_seed, epoch, index), the same in any worker, rank or resumed run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fna.config import PoseConfig
from fna.data.augmenting import jitter
from fna.data.pose.checks import Box, inside
from fna.data.pose.joints import lower_body, mirror
from fna.data.pose.people import PoseData
from fna.data.pose.placing import Placing, cut
from fna.errors import FnaError
from fna.rng import generator

SCALE = (0.75, 1.25)  # where the configuration leaves it to us
TURNED = 0.6  # share of the crops that are rotated, as SimpleBaseline and HRNet do
HALF_JOINTS = 8  # labelled joints a person must have to be halved
HALF_LEAST = 3  # of them in the half that is kept
HALF_PADDING = 1.5 / 1.25  # HRNet gives half a body 1.5 times the extent of its joints, a whole one 1.25 its box


class Sample(TypedDict):
    """A training crop: image uint8 (3, h, w), points float32 (K, 3) in crop pixels, and the record's index."""

    image: Tensor
    points: Tensor
    index: int


class Batch(TypedDict):
    """Crops of a step: image uint8 (N, 3, h, w) in channels-last order, points float32 (N, K, 3), index int64 (N,)."""

    image: Tensor
    points: Tensor
    index: Tensor


@dataclass(frozen=True)
class Frame:
    """Where in its image a crop is.

    Attributes:
        matrix: crop pixels to image pixels, float64 (2, 3).
        box: x0, y0, width, height of the person in image pixels, float32 (4,).
        swap: for each joint, the joint a mirror puts in its place; None: not known, or no ``evaluate.flip_test``.
    """

    matrix: Tensor
    box: Tensor
    swap: tuple[int, ...] | None = None

    def to_image(self, xy_K2: Tensor) -> Tensor:
        """Return points of the crop in image pixels, of the same type."""
        moved = xy_K2.double() @ self.matrix[:, :2].T + self.matrix[:, 2]
        return moved.to(xy_K2.dtype)

    def to_crop(self, xy_K2: Tensor) -> Tensor:
        """Return points of the image in crop pixels, of the same type."""
        inverse = torch.linalg.inv(self.matrix[:, :2])
        moved: Tensor = (xy_K2.double() - self.matrix[:, 2]) @ inverse.T
        return moved.to(xy_K2.dtype)


class PoseView(Dataset[Sample]):
    """Augmented crops of some persons: half body, scale, rotation, mirror in one warp, then colour jitter.

    torchvision's KeyPoints carry neither visibility nor the swap of left and right, and its transforms warp the image
    once each; here one matrix moves pixels and joints. (The tests hold the matrix against torchvision's KeyPoints.)

    Args:
        data: where the persons are.
        indices: records of this view; a position is an index into them.
        config: of ``data``, crop, scale, rotation, flip, half_body, box_padding, color_jitter; ``task.joint_pairs``;
            ``evaluate.flip_test``.

    Raises:
        FnaError: `data.scale` is not a range of positive factors; or the joints to swap are not known, here or later
            in the flip test.
    """

    def __init__(self, data: PoseData, indices: Sequence[int], config: PoseConfig) -> None:
        low, high = self.scale = config.data.scale or SCALE
        if not 0 < low <= high:
            raise FnaError(
                f"data.scale is [{low:g}, {high:g}]; expected [smallest, largest] above 0, e.g. [0.75, 1.25]"
            )
        self.data = data
        self.indices = tuple(indices)
        self.config = config
        mirrors = config.data.flip or config.evaluate.flip_test  # the latter would fail after the first epoch
        self._swap = mirror(data.classes, config.task.joint_pairs) if mirrors else None
        self._lower = np.array(lower_body(data.classes))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """Return the crop of `key` = (epoch, position)."""
        epoch, position = key
        index = self.indices[position]
        config = self.config.data
        draws = generator(self.config.engine.rng_seed, "augment", epoch, index)
        half, upper, scale, turned, angle, mirrored = torch.rand(6, generator=draws).tolist()
        image_3HW, truth = self.data.load(index)
        points_K3 = learned(truth["points"], image_3HW)
        box, padding = _bounds(truth["box"]), config.box_padding
        if half < config.half_body:
            part = half_box(points_K3, self._lower, upper < 0.5)
            box, padding = (part, padding * HALF_PADDING) if part else (box, padding)
        low, high = self.scale
        place = Placing.around(box, config.crop, padding / (low + (high - low) * scale))
        angle = (2 * angle - 1) * config.rotation if turned < TURNED else 0.0
        place = place.turned(angle, config.flip and mirrored < 0.5)
        crop_3hw = cut(image_3HW, place, config.crop)
        points_K3 = move(points_K3, place.matrix(config.crop), config.crop)
        if place.mirrored:
            assert self._swap is not None
            points_K3 = points_K3[list(self._swap)]
        return {"image": jitter(crop_3hw, config.color_jitter, draws), "points": points_K3, "index": index}


def view(image_3HW: Tensor, truth: Mapping[str, Any] | None, config: PoseConfig) -> tuple[Tensor, Frame]:
    """Return what the network sees of a person when it is scored.

    Args:
        image_3HW: RGB, uint8.
        truth: ``box``, x0, y0, width, height in pixels (without it the person fills the image), and ``joints``, the
            names, if the mirror is to be known; None: neither.
        config: ``data.crop`` (or ``data.eval_size``) and ``data.box_padding``, which the whole image gets none of;
            whether there is an ``evaluate.flip_test``.

    Returns:
        The crop, uint8 (3, h, w), and its frame.
    """
    size = config.data.eval_size or config.data.crop
    whole = (0.0, 0.0, float(image_3HW.shape[2]), float(image_3HW.shape[1]))
    truth = truth or {}
    box, padding = (_bounds(truth["box"]), config.data.box_padding) if "box" in truth else (whole, 1.0)
    place = Placing.around(box, size, padding)
    joints = truth.get("joints")
    swap = mirror(joints, config.task.joint_pairs) if joints and config.evaluate.flip_test else None
    return cut(image_3HW, place, size), Frame(place.matrix(size), torch.tensor(box, dtype=torch.float32), swap)


def learned(points_K3: Tensor, image_3HW: Tensor) -> Tensor:
    """Return the joints of an image with those unlabelled that are outside: a crop may show where they would be."""
    inside_K = inside(points_K3.numpy(), (image_3HW.shape[1], image_3HW.shape[2]))
    return torch.where(torch.from_numpy(inside_K)[:, None], points_K3, 0)


def half_box(points_K3: Tensor, lower_K: np.ndarray[Any, np.dtype[np.bool_]], upper: bool) -> Box | None:
    """Return the box around the joints of the upper or the lower body.

    Args:
        points_K3: x, y in image pixels, and visibility.
        lower_K: which joints are of the lower body.
        upper: which half is wanted; the other is taken if it has too few joints.

    Returns:
        x0, y0, width, height; None if the person or both halves have too few labelled joints, or none of them has an
        extent.
    """
    xy_K2, labelled_K = points_K3[:, :2].numpy(), points_K3[:, 2].numpy() > 0
    if labelled_K.sum() < HALF_JOINTS:
        return None
    for chosen_K in (~lower_K, lower_K) if upper else (lower_K, ~lower_K):
        own = xy_K2[labelled_K & chosen_K].astype(np.float64)
        if len(own) >= HALF_LEAST and (extent := np.ptp(own, 0)).max() >= 1:
            (x0, y0), (width, height) = (own.min(0) + 0.5).tolist(), extent.tolist()
            return (x0, y0, width, height)
    return None


def move(points_K3: Tensor, matrix: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Return joints of the image in crop pixels; those outside the crop lose their label, and the unlabelled are at 0.

    Args:
        points_K3: x, y in image pixels, and visibility.
        matrix: crop to image, (2, 3).
        size_hw: of the crop.
    """
    xy_K2 = Frame(matrix, matrix).to_crop(points_K3[:, :2])
    inside = (xy_K2 >= 0).all(1) & (xy_K2 <= xy_K2.new_tensor(size_hw[::-1])).all(1)
    moved = torch.cat([xy_K2, points_K3[:, 2:]], 1)
    return torch.where((inside & (points_K3[:, 2] > 0))[:, None], moved, 0)


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack crops; images keep their channels-last order in memory."""
    return {
        "image": torch.stack([sample["image"].permute(1, 2, 0) for sample in samples]).permute(0, 3, 1, 2),
        "points": torch.stack([sample["points"] for sample in samples]),
        "index": torch.tensor([sample["index"] for sample in samples]),
    }


def _bounds(box: Any) -> Box:
    x0, y0, width, height = (float(value) for value in box)
    return (x0, y0, width, height)
