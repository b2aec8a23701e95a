"""The synthetic street: the same scene for the same arguments, and labels that agree with one another."""

from __future__ import annotations

import numpy as np
import pytest

from fna.config import SegmentationDataConfig as DataConfig
from fna.data.segmentation import open_data
from fna.data.synthetic import CLASSES, JOINTS, THINGS, scene

NAMES = tuple(CLASSES)
PEDESTRIAN = NAMES.index("pedestrian")
SCENES = [scene(7, "train", index) for index in range(24)]


def test_a_scene_is_a_function_of_its_arguments() -> None:
    again = scene(7, "train", 3)
    for name in ("image", "mask", "boxes", "labels", "keypoints"):
        np.testing.assert_array_equal(getattr(again, name), getattr(SCENES[3], name))
    for other in (scene(8, "train", 3), scene(7, "val", 3), scene(7, "train", 4)):
        assert (other.image != again.image).mean() > 0.5


@pytest.mark.parametrize("size_hw", [(128, 160), (192, 256), (97, 131)])
def test_shapes_and_types(size_hw: tuple[int, int]) -> None:
    drawn = scene(0, "val", 0, size_hw)
    n = len(drawn.boxes)
    assert (drawn.image.shape, drawn.image.dtype) == ((*size_hw, 3), np.uint8)
    assert (drawn.mask.shape, drawn.mask.dtype) == (size_hw, np.uint8)
    assert (drawn.boxes.shape, drawn.labels.shape, drawn.keypoints.shape) == ((n, 4), (n,), (n, len(JOINTS), 3))


def test_boxes_hold_their_class_and_touch_it_on_every_side() -> None:
    for drawn in SCENES:
        for (x0, y0, x1, y1), label in zip(drawn.boxes.astype(int), drawn.labels, strict=True):
            assert 0 <= x0 < x1 <= drawn.mask.shape[1]
            assert 0 <= y0 < y1 <= drawn.mask.shape[0]
            inside = drawn.mask[y0:y1, x0:x1] == label
            for side in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
                assert side.any()


def test_visible_joints_lie_on_pedestrians_and_inside_the_image() -> None:
    seen = 0
    for drawn in SCENES:
        for label, points in zip(drawn.labels, drawn.keypoints, strict=True):
            if label != PEDESTRIAN:
                assert not points.any()
                continue
            assert set(points[:, 2]) <= {0, 1, 2}
            assert not points[points[:, 2] == 0].any()
            for x, y, visibility in points:
                if visibility == 2:
                    assert drawn.mask[int(y), int(x)] == PEDESTRIAN
                    seen += 1
    assert seen > 200


def test_heads_are_above_ankles() -> None:
    for drawn in SCENES:
        for points in drawn.keypoints[drawn.labels == PEDESTRIAN]:
            if points[:, 2].all():
                assert points[JOINTS.index("head_top"), 1] < points[JOINTS.index("right_ankle"), 1]


def test_every_class_and_thing_occurs_in_many_scenes() -> None:
    for class_id, name in enumerate(NAMES):
        assert sum((drawn.mask == class_id).any() for drawn in SCENES) >= 12, name
    for thing in THINGS:
        assert sum(int((drawn.labels == thing).sum()) for drawn in SCENES) >= 20


def test_no_class_can_be_told_by_its_mean_colour_alone() -> None:
    """Learnable but not trivial: the nearest mean colour finds less than half of the pixels, class by class."""
    image = np.concatenate([drawn.image.reshape(-1, 3) for drawn in SCENES]).astype(np.float32)[::7]
    mask = np.concatenate([drawn.mask.reshape(-1) for drawn in SCENES])[::7]
    means = np.stack([image[mask == class_id].mean(0) for class_id in range(len(NAMES))])
    guess = np.square(image[:, None] - means).sum(2).argmin(1)
    recall = [(guess[mask == class_id] == class_id).mean() for class_id in range(len(NAMES))]
    assert 1 / len(NAMES) < np.mean(recall) < 0.5


def test_open_data_serves_the_scenes() -> None:
    data = open_data(DataConfig(format="synthetic", images=3, eval_size=(64, 96)), "train")
    drawn = scene(0, "train", 2, (64, 96))
    image, mask = data.load(2)
    assert (len(data), data.classes, data.name(2)) == (3, NAMES, "train_0002.png")
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), drawn.image)
    np.testing.assert_array_equal(mask.numpy(), drawn.mask)
