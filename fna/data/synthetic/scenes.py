"""Scenes of a synthetic street for demos and tests, each a function of (rng_seed, split, index).

They show what makes street images hard: things of many sizes, poses and colours that hide one another, textures,
shadows, haze, and light from noon to dusk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from fna.data.listing import Color
from fna.data.synthetic import objects
from fna.data.synthetic.background import Background, Street, draw_background, draw_camera, draw_street, smooth_noise
from fna.data.synthetic.canvas import SUPER, Canvas
from fna.data.synthetic.objects import CAR, JOINTS, PEDESTRIAN, SIGN
from fna.rng import derive_seed

CLASSES: dict[str, Color] = {
    "sky": (70, 130, 180),
    "building": (70, 70, 70),
    "road": (128, 64, 128),
    "pavement": (244, 35, 232),
    "tree": (107, 142, 35),
    "pole": (153, 153, 153),
    "sign": (220, 220, 0),
    "car": (0, 0, 142),
    "pedestrian": (220, 20, 60),
}
THINGS = (SIGN, CAR, PEDESTRIAN)  # classes that get boxes
MIN_PIXELS = 12  # a thing of which fewer are seen gets no box
SIZE_HW = (160, 224)
GRAIN = np.array([0, 0, 0, 0, 0.28, 0.08, 0.05, 0.05, 0.1], np.float32)  # strength of the texture of objects, by class


class Role(NamedTuple):
    """How many of a kind a scene has, the room each takes, and how near it comes, in metres."""

    few: int
    many: int
    radius: float
    near: float


CAST = {
    "car": Role(1, 5, 2.0, 7.0),
    "person": Role(1, 6, 0.5, 4.0),
    "tree": Role(0, 3, 0.7, 7.0),
    "sign": Role(1, 3, 0.4, 5.5),
    "lamp": Role(0, 2, 0.4, 7.0),
}
DRAW = {"person": objects.draw_person, "tree": objects.draw_tree, "sign": objects.draw_sign, "lamp": objects.draw_lamp}


@dataclass(frozen=True)
class Scene:
    """A street scene and all that is known about it.

    Attributes:
        image: RGB, uint8, (height, width, 3).
        mask: class ids, uint8, (height, width).
        boxes: what is seen of each thing, float32, (N, 4) as x0, y0, x1, y1 in pixels; x1 and y1 are exclusive.
        labels: class ids of the boxes, int64, (N,).
        keypoints: x, y in pixels and visibility, float32, (N, 14, 3) in the order of `JOINTS`. Visibility is 2 = seen,
            1 = hidden, 0 = outside the image; all is 0 for things that are not pedestrians.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    keypoints: NDArray[np.float32]


def scene(rng_seed: int, split: str, index: int, size_hw: tuple[int, int] = SIZE_HW) -> Scene:
    """Draw a scene.

    Args:
        rng_seed: of the data set.
        split: scenes of different splits differ.
        index: which scene of the split.
        size_hw: height, width in pixels; proportions near 3:4 look best.
    """
    rng = np.random.default_rng(derive_seed(rng_seed, "scene", split, index))
    camera, street = draw_camera(rng, size_hw), draw_street(rng)
    background = draw_background(rng, camera, street, size_hw)
    canvas = Canvas(camera, size_hw)
    _draw_objects(canvas, rng, street)
    parts_HW = np.asarray(canvas.numbers)[1::SUPER, 1::SUPER]
    classes = np.array([0, *(part.class_id for part in canvas.parts)], np.uint8)
    mask_HW = np.where(parts_HW > 0, classes[parts_HW], background.classes)
    image_HW3 = _develop(rng, background, canvas, parts_HW, mask_HW)
    return Scene(image_HW3, mask_HW, *_annotate(canvas, parts_HW))


def _draw_objects(canvas: Canvas, rng: np.random.Generator, street: Street) -> None:
    """Place objects where they belong, apart from one another, and draw them from far to near."""
    placed: list[tuple[float, float, str]] = []  # z, x, kind
    for kind, (few, many, radius, near) in CAST.items():
        for _ in range(rng.integers(few, many + 1)):
            for _ in range(6):
                far = (
                    np.exp(rng.uniform(0, np.log(street.end * 0.8 / near))) if rng.random() < 0.4 else rng.uniform(1, 3)
                )
                z, x = float(near * far), _across(kind, rng, street)
                if all(
                    math.hypot((z - z2) / 2, x - x2) > (radius + CAST[kind2].radius) / 1.2 for z2, x2, kind2 in placed
                ):
                    placed.append((z, x, kind))
                    break
    for z, x, kind in sorted(placed, reverse=True):
        if kind == "car":
            turn = np.pi / 2 if z > 9 and rng.random() < 0.2 else 0  # some come out of a side street
            yaw = (np.pi if x < sum(street.road) / 2 else 0) + turn + rng.normal(0, 0.08)
            objects.draw_car(canvas, rng, x, z, yaw)
        else:
            DRAW[kind](canvas, rng, x, z)


def _across(kind: str, rng: np.random.Generator, street: Street) -> float:
    """Draw where across the street something is: cars in a lane or parked, people mostly on the pavement, ..."""
    (left, right), (front_left, front_right) = street.road, street.fronts
    if kind == "car":
        quarter = (right - left) / 4
        return float(rng.choice([left + 1.2, left + quarter, right - quarter, right - 1.2]) + rng.uniform(-0.2, 0.2))
    if kind == "person" and rng.random() < 0.3:
        return float(rng.uniform(left, right))
    on_left = rng.random() < 0.5
    if kind in ("person", "tree"):
        return float(
            rng.uniform(front_left + 0.4, left - 0.3) if on_left else rng.uniform(right + 0.3, front_right - 0.4)
        )
    return left - 0.4 if on_left else right + 0.4


def _develop(
    rng: np.random.Generator,
    background: Background,
    canvas: Canvas,
    parts_HW: NDArray[np.uint8],
    mask_HW: NDArray[np.uint8],
) -> NDArray[np.uint8]:
    """Lay the objects over the background; add texture, haze, light, blur and noise."""
    (height, width), pixels = canvas.size_hw, parts_HW.size
    covered = canvas.numbers.point([0] + [255] * 255).reduce(SUPER)
    see_through_HW1 = 1 - np.asarray(covered, np.float32)[..., None] / 255
    see_through_HW1 *= (
        1 - np.float32(rng.uniform(0.2, 0.4)) * np.asarray(canvas.shadows, np.float32)[1::SUPER, 1::SUPER, None]
    )
    grain_HW = np.where(parts_HW > 0, GRAIN[mask_HW], 0) * smooth_noise(rng, canvas.size_hw, 2)
    image = np.asarray(canvas.colors.reduce(SUPER)) * (1 + grain_HW)[..., None]
    image += background.image * see_through_HW1
    depth = np.array([0, *(part.z for part in canvas.parts)], np.float32)
    depth_HW = np.where(parts_HW > 0, depth[parts_HW], background.depth)
    clear_HW1 = np.exp(depth_HW * np.float32(-1 / rng.uniform(60, 400)))[..., None]
    image -= background.haze
    image *= clear_HW1
    image += background.haze
    levels_256 = np.arange(256) / 255  # light and its colour, then contrast
    light_3 = rng.uniform(0.6, 1.12) * rng.uniform(0.93, 1.07, 3)
    curves = 255 * np.clip(light_3[:, None] * levels_256, 0, 1) ** rng.uniform(0.8, 1.25)
    photo = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).point(curves.astype(int).ravel().tolist())
    photo = photo.filter(ImageFilter.BoxBlur(rng.uniform(0.1, 0.5)))
    noise = rng.standard_normal(pixels + 2 * 997, dtype=np.float32) * np.float32(rng.uniform(1.5, 6))
    image[:] = np.asarray(photo)
    for channel, shift in enumerate((0, 997, 1994)):  # three views of the same noise look like three
        image[..., channel] += noise[shift : shift + pixels].reshape(height, width)
    return np.clip(image, 0, 255, out=image).astype(np.uint8)


def _annotate(
    canvas: Canvas, parts_HW: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    """Return boxes, labels and keypoints of the things that are seen; see `Scene`."""
    boxes, labels, keypoints = [], [], []
    height, width = canvas.size_hw
    for number, part in enumerate(canvas.parts, 1):
        seen_HW = parts_HW == number
        if part.class_id not in THINGS or seen_HW.sum() < MIN_PIXELS:
            continue
        ys, xs = np.flatnonzero(seen_HW.any(1)), np.flatnonzero(seen_HW.any(0))
        boxes.append((xs[0], ys[0], xs[-1] + 1, ys[-1] + 1))
        labels.append(part.class_id)
        points_J3 = np.zeros((len(JOINTS), 3), np.float32)
        if part.joints is not None:
            points_J3[:, :2] = canvas.camera.project(part.joints)
            column, row = np.floor(points_J3[:, :2].T).astype(int)
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            points_J3[inside, 2] = np.where(seen_HW[row[inside], column[inside]], 2, 1)
            points_J3[~inside] = 0
        keypoints.append(points_J3)
    return (
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(labels, np.int64),
        np.array(keypoints, np.float32).reshape(-1, len(JOINTS), 3),
    )
