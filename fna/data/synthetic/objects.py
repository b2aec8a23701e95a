"""What moves and stands in a synthetic street: cars, people with joints, trees, signs, lamps; drawn back to front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fna.data.listing import Color
from fna.data.synthetic.background import TREE
from fna.data.synthetic.canvas import Canvas, Part, Point, Points, shade, tint

POLE, SIGN, CAR, PEDESTRIAN = range(5, 9)

JOINTS = (  # in the order of the Leeds Sports Pose data set
    *("right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle"),
    *("right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist", "neck", "head_top"),
)
LIMBS = (  # two joints, and width as share of the height: shins and thighs, forearms and upper arms
    *((0, 1, 0.062), (1, 2, 0.088), (5, 4, 0.062), (4, 3, 0.088)),
    *((6, 7, 0.042), (7, 8, 0.052), (11, 10, 0.042), (10, 9, 0.052)),
)
SKINS: tuple[Color, ...] = ((236, 196, 170), (198, 148, 112), (142, 96, 68), (90, 60, 46))
CLOTHES: tuple[Color, ...] = (
    *((36, 40, 52), (180, 40, 44), (44, 78, 140), (206, 200, 190), (66, 96, 62), (226, 180, 60), (120, 92, 76)),
    *((60, 60, 62), (150, 84, 130), (70, 140, 150)),
)
HAIR: tuple[Color, ...] = ((36, 40, 52), (120, 92, 76), (60, 60, 62))
PAINTS: tuple[Color, ...] = (
    *((172, 26, 32), (30, 54, 116), (212, 214, 216), (34, 36, 40), (128, 134, 140), (222, 184, 50), (36, 92, 66)),
    *((238, 238, 234), (98, 44, 40), (76, 118, 156)),
)
RED, WHITE, BLUE, YELLOW, BLACK = (200, 28, 34), (236, 236, 232), (28, 74, 160), (240, 196, 44), (30, 30, 34)
SIGNS = (  # rim, inside, mark
    *((RED, WHITE, BLACK), (WHITE, BLUE, WHITE), (WHITE, RED, WHITE), (RED, RED, WHITE), (BLUE, BLUE, WHITE)),
    (WHITE, YELLOW, WHITE),
)
SHAPES = ((3, math.pi / 2), (4, math.pi / 4), (8, math.pi / 8), (16, 0.0))  # corners, angle of the first
RING = tuple((math.cos(turn * math.pi / 5), math.sin(turn * math.pi / 5)) for turn in range(10))


# --- cars -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Body:
    """A car seen from its side: points (along, up) as shares of length and height, from rear to front over the roof."""

    length: float
    height: float
    profile: tuple[tuple[float, float], ...]
    glass: tuple[int, ...]  # segments of the profile
    windows: tuple[tuple[float, float], ...]


BODIES = (
    Body(
        *(4.5, 1.45),
        ((-0.5, 0.2), (-0.5, 0.62), (-0.37, 0.66), (-0.22, 0.98), (0.12, 1), (0.28, 0.64), (0.5, 0.52), (0.5, 0.2)),
        (2, 4),
        ((-0.34, 0.67), (-0.2, 0.93), (0.1, 0.94), (0.25, 0.65)),
    ),
    Body(
        *(3.8, 1.5),
        ((-0.5, 0.2), (-0.5, 0.6), (-0.42, 0.95), (0.08, 1), (0.27, 0.62), (0.5, 0.5), (0.5, 0.2)),
        (1, 3),
        ((-0.42, 0.64), (-0.37, 0.92), (0.06, 0.94), (0.23, 0.64)),
    ),
    Body(
        *(5.2, 2.2),
        ((-0.5, 0.15), (-0.5, 0.96), (-0.46, 1), (0.28, 1), (0.42, 0.55), (0.5, 0.5), (0.5, 0.15)),
        (3,),
        ((0.08, 0.58), (0.08, 0.9), (0.26, 0.92), (0.38, 0.58)),
    ),
)


def draw_car(canvas: Canvas, rng: np.random.Generator, x: float, z: float, yaw: float) -> None:
    """Draw a car, a hatchback or a van: a profile pulled to its width; yaw 0 shows the rear."""
    body = BODIES[rng.integers(len(BODIES))]
    length, height = body.length * rng.uniform(0.92, 1.08), body.height * rng.uniform(0.95, 1.1)
    car = Frame(x, z, math.cos(yaw), math.sin(yaw), rng.uniform(0.84, 0.96), length, height)
    paint, glass = tint(rng, PAINTS), shade((52, 62, 76), rng.uniform(0.6, 1.6))
    canvas.shadow(car.place([(-1.15, -0.55, 0), (1.15, -0.55, 0), (1.15, 0.55, 0), (-1.15, 0.55, 0)]))
    canvas.begin(Part(CAR, z))
    for along in (-0.42, 0.42):  # tyres, seen below the bumper
        for side in (-1, 1):
            canvas.polygon(car.rectangle(0.68 * side, 0.95 * side, along, 0, 0.25), (20, 20, 22))
    for number, (a, b) in enumerate(pairwise(body.profile)):
        strip = car.place([(-1, *a), (1, *a), (1, *b), (-1, *b)])
        back, up = (b[1] - a[1]) * height, (b[0] - a[0]) * length
        if car.shows(strip[0], (0, -back, up), canvas.camera.height):
            light = 0.8 + 0.35 * up / math.hypot(back, up)
            canvas.polygon(strip, glass if number in body.glass else shade(paint, light))
            if number in (0, len(body.profile) - 2):
                lamps = (214, 30, 26) if number == 0 else (248, 244, 214)
                canvas.polygon(car.rectangle(-0.92, -0.62, a[0], 0.42, 0.54), lamps)
                canvas.polygon(car.rectangle(0.62, 0.92, a[0], 0.42, 0.54), lamps)
                canvas.polygon(car.rectangle(-0.28, 0.28, a[0], 0.26, 0.36), (226, 226, 214))
    for side in (-1, 1):
        face = car.place([(side, *point) for point in body.profile])
        if car.shows(face[0], (side, 0, 0), canvas.camera.height):
            canvas.polygon(face, shade(paint, 0.88))
            canvas.polygon(car.place([(side, *point) for point in body.windows]), glass)
            for along in (-0.3, 0.31):
                for radius, color in ((0.33, (22, 22, 24)), (0.18, (140, 142, 146))):
                    rim = [(along + radius / length * c, (0.33 + radius * s) / height) for c, s in RING]
                    canvas.polygon(car.place([(side * 1.02, *point) for point in rim]), color)


@dataclass(frozen=True)
class Frame:
    """A box on the ground, turned by yaw; points in it are lateral, along, up: shares of half width, length, height."""

    x: float
    z: float
    cos: float
    sin: float
    half_width: float
    length: float
    height: float

    def place(self, points: Sequence[Point]) -> list[Point]:
        """Return world points."""
        return [
            (
                self.x + lateral * self.half_width * self.cos + along * self.length * self.sin,
                up * self.height,
                self.z - lateral * self.half_width * self.sin + along * self.length * self.cos,
            )
            for lateral, along, up in points
        ]

    def rectangle(self, left: float, right: float, along: float, low: float, high: float) -> list[Point]:
        """Return the corners of a rectangle across the box."""
        return self.place([(left, along, low), (right, along, low), (right, along, high), (left, along, high)])

    def shows(self, point: Point, normal: Point, eye: float) -> bool:
        """Whether a face through a world point, with an outward normal in metres of this frame, faces the camera."""
        lateral, along, up = normal
        across, ahead = lateral * self.cos + along * self.sin, along * self.cos - lateral * self.sin
        return across * -point[0] + up * (eye - point[1]) + ahead * -point[2] > 0


# --- people -----------------------------------------------------------------------------------------------------------


def draw_pose(rng: np.random.Generator, height: float) -> Points:
    """Draw a standing, walking, waving or bending person.

    Args:
        rng: where randomness comes from.
        height: of the person, in metres.

    Returns:
        Joints (14, 3) in metres: to the person's right, ahead, up.
    """
    stride, lean = rng.uniform(-0.6, 0.6), rng.choice([rng.uniform(-0.05, 0.15), rng.uniform(0.5, 1.0)], p=(0.9, 0.1))
    joints = np.zeros((14, 3))
    for side, hip, knee, ankle in ((1, 2, 1, 0), (-1, 3, 4, 5)):
        swing, bend = side * stride, rng.uniform(0, 0.15) + max(0, -side * stride) * rng.uniform(0.3, 1.5)
        joints[hip] = (side * 0.055, 0, 0)
        joints[knee] = joints[hip] + 0.245 * np.array([0, np.sin(swing), -np.cos(swing)])
        joints[ankle] = joints[knee] + 0.24 * np.array([0, np.sin(swing - bend), -np.cos(swing - bend)])
    spine = np.array([0, np.sin(lean), np.cos(lean)])
    joints[12], joints[13] = 0.32 * spine, 0.32 * spine + 0.17 * np.array([0, np.sin(lean / 2), np.cos(lean / 2)])
    for side, shoulder, elbow, wrist in ((1, 8, 7, 6), (-1, 9, 10, 11)):
        away = rng.uniform(1.2, 2.8) if rng.random() < 0.15 else rng.uniform(0.05, 0.3)  # 15%: an arm is up
        swing, bend = -side * stride * rng.uniform(0.5, 1.2), rng.uniform(0.1, 0.9)
        joints[shoulder] = 0.29 * spine + (side * 0.115, 0, 0)
        for joint, start, length, angle in ((elbow, shoulder, 0.17, swing), (wrist, elbow, 0.155, swing + bend)):
            step = np.array([side * np.sin(away), np.sin(angle) * np.cos(away), -np.cos(angle) * np.cos(away)])
            joints[joint] = joints[start] + length * step
    joints[:, 2] += 0.035 - min(joints[0, 2], joints[5, 2])
    return joints * height


def draw_person(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """Draw a person turned anyhow, dressed anyhow."""
    height = rng.uniform(1.5, 1.92) if rng.random() < 0.8 else rng.uniform(1.0, 1.4)
    yaw = rng.uniform(0, 2 * np.pi)
    right, ahead, up = draw_pose(rng, height).T
    joints_J3 = np.stack(
        [x + right * np.cos(yaw) + ahead * np.sin(yaw), up, z - right * np.sin(yaw) + ahead * np.cos(yaw)], 1
    )
    joints: list[Point] = [(a, b, c) for a, b, c in joints_J3.tolist()]
    skin, shirt, trousers, hair = (tint(rng, colors) for colors in (SKINS, CLOTHES, CLOTHES, HAIR))
    sleeve = shirt if rng.random() < 0.6 else skin
    canvas.shadow([(x + 0.4 * c, 0, z + 0.3 * s) for c, s in RING])
    canvas.begin(Part(PEDESTRIAN, z, joints_J3))
    neck, top = joints[12], joints[13]
    inks = (trousers, trousers, trousers, trousers, skin, sleeve, skin, sleeve)
    limbs = [(joints[a], joints[b], width * height, ink) for (a, b, width), ink in zip(LIMBS, inks, strict=True)]
    limbs.sort(key=lambda limb: -limb[0][2] - limb[1][2])
    behind = [limb for limb in limbs if limb[0][2] + limb[1][2] > 2 * neck[2]]
    for start, end, width, ink in behind:
        canvas.limb(start, end, width, shade(ink, 0.8))
    canvas.limb(_between(joints[2], joints[3]), _between(joints[8], joints[9]), 0.12 * height, shirt)
    canvas.polygon([joints[8], joints[9], joints[3], joints[2]], shirt)
    for start, end, width, ink in limbs[len(behind) :]:
        canvas.limb(start, end, width, ink)
    for a, b, c in (joints[0], joints[5]):
        canvas.disc((a, b - 0.015 * height, c), (0.04 * height, 0.022 * height), shade(trousers, 0.5))
    canvas.limb(neck, _between(neck, top), 0.05 * height, skin)
    canvas.disc(_between(neck, top, 0.75), (0.055 * height, 0.062 * height), hair)
    if np.cos(yaw) < 0.3:  # the face shows
        canvas.disc(_between(neck, top, 0.58), (0.047 * height, 0.052 * height), skin)


def _between(a: Point, b: Point, share: float = 0.5) -> Point:
    return a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1]), a[2] + share * (b[2] - a[2])


# --- things that stand ------------------------------------------------------------------------------------------------


def draw_tree(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """Draw a trunk under a heap of leaves, round, tall or spread."""
    trunk, spread, tall = rng.uniform(1.8, 3.2), rng.uniform(0.8, 1.9), rng.uniform(0.8, 2.2)
    low, high = ((42, 74, 22), (112, 132, 56)) if rng.random() < 0.85 else ((150, 90, 20), (200, 150, 50))
    leaf = rng.uniform(low, high).tolist()
    canvas.shadow([(x + spread * c, 0, z + 0.8 * spread * s) for c, s in RING])
    canvas.begin(Part(TREE, z))
    _draw_post(canvas, x, z, trunk + tall, rng.uniform(0.08, 0.16), shade((94, 74, 56), rng.uniform(0.6, 1.2)))
    for light in np.linspace(0.6, 1.3, 16).tolist():
        angle, radius, size = (
            rng.uniform(0, 2 * np.pi),
            np.sqrt(rng.random()) * (1.2 - 0.4 * light),
            rng.uniform(0.3, 0.6),
        )
        across, up = spread * radius * np.cos(angle), tall * radius * np.sin(angle)
        center = (x + across, trunk + tall + up + 0.3 * light, z)
        canvas.disc(center, (spread * size, tall * size), shade(leaf, light * rng.uniform(0.85, 1.15)))


def draw_sign(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """Draw a traffic sign or a traffic light on its pole."""
    top, size = rng.uniform(2.1, 3.0), rng.uniform(0.32, 0.5)
    canvas.begin(Part(POLE, z))
    _draw_post(canvas, x, z, top, 0.05, shade((128, 130, 132), rng.uniform(0.6, 1.2)))
    canvas.begin(Part(SIGN, z))

    def plate(points: Sequence[tuple[float, float]], color: Color) -> None:
        canvas.polygon([(x + size * a, top + size * b, z) for a, b in points], color)

    if rng.random() < 0.2:  # a traffic light
        plate(((-0.5, -1.1), (0.5, -1.1), (0.5, 1.1), (-0.5, 1.1)), (28, 30, 30))
        lit = rng.integers(3)
        for lamp, color in enumerate(((240, 50, 40), (250, 190, 50), (60, 230, 120))):
            ink = color if lamp == lit else shade(color, 0.25)
            canvas.disc((x, top + (0.7 - 0.7 * lamp) * size, z), (0.27 * size, 0.27 * size), ink)
        return
    corners, turn = SHAPES[rng.integers(len(SHAPES))]
    angles = [turn + 2 * math.pi * corner / corners for corner in range(corners)]
    rim, inside, mark = (shade(color, rng.uniform(0.85, 1.05)) for color in SIGNS[rng.integers(len(SIGNS))])
    plate([(math.cos(angle), math.sin(angle)) for angle in angles], rim)
    plate([(0.7 * math.cos(angle), 0.7 * math.sin(angle)) for angle in angles], inside)
    plate(((-0.35, -0.08), (0.35, -0.08), (0.35, 0.1), (-0.35, 0.1)), mark)


def draw_lamp(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """Draw a street lamp; its arm reaches over the road."""
    top, color = rng.uniform(4, 6.5), shade((92, 96, 98), rng.uniform(0.5, 1.3))
    canvas.begin(Part(POLE, z))
    _draw_post(canvas, x, z, top, 0.07, color)
    canvas.limb((x, top, z), (x - math.copysign(0.9, x), top + 0.2, z), 0.09, color)


def _draw_post(canvas: Canvas, x: float, z: float, top: float, half: float, color: Color) -> None:
    canvas.polygon([(x - half, 0, z), (x + half, 0, z), (x + half, top, z), (x - half, top, z)], color)
