"""The still part of a synthetic street: road, pavements, house fronts and sky, one ray per pixel.

World coordinates are metres: X to the right, Y up from the ground, Z ahead. Image coordinates are pixels: x, y.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]
SKY, BUILDING, ROAD, PAVEMENT, TREE = range(5)
FACADES = np.array(
    [(178, 92, 74), (196, 176, 146), (150, 146, 140), (206, 198, 186), (120, 134, 150), (214, 170, 110), (96, 84, 78)],
    np.float32,
)
PAVINGS = np.array([(168, 164, 158), (150, 132, 118), (186, 178, 160), (140, 142, 148)], np.float32)
SKIES = np.array(  # zenith, horizon
    [[(70, 120, 200), (190, 215, 240)], [(150, 158, 168), (205, 208, 210)], [(92, 108, 160), (244, 196, 150)]],
    np.float32,
)
ASPHALT, PAVING, JOINT, KERB, PAINT = range(5)  # materials of the ground
PANES = 64  # sorts of window panes, a power of 2
TABLE = 128  # side of the noise textures, a power of 2


@dataclass(frozen=True)
class Camera:
    """A camera looking along Z: focal length and vanishing point (x, y) in pixels, height above ground in metres."""

    focal: float
    height: float
    x: float
    y: float

    def project(self, points_N3: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return image points (N, 2) of world points (N, 3) ahead of the camera."""
        scale = self.focal / points_N3[:, 2]
        return np.stack([self.x + points_N3[:, 0] * scale, self.y - (points_N3[:, 1] - self.height) * scale], 1)


@dataclass(frozen=True)
class Street:
    """Where things are across the street, as X in metres, and where it ends, as Z."""

    road: tuple[float, float]
    fronts: tuple[float, float]
    end: float


@dataclass(frozen=True)
class Background:
    """Colours 0..255 (height, width, 3), class ids and distance in metres (height, width), and the colour of haze."""

    image: Floats
    classes: NDArray[np.uint8]
    depth: Floats
    haze: Floats


def draw_camera(rng: np.random.Generator, size_hw: tuple[int, int]) -> Camera:
    """Draw a camera at the height of a person or of a car's roof."""
    height, width = size_hw
    return Camera(
        focal=width * rng.uniform(0.8, 1.0),
        height=rng.uniform(1.4, 2.3),
        x=width * rng.uniform(0.35, 0.65),
        y=height * rng.uniform(0.42, 0.54),
    )


def draw_street(rng: np.random.Generator) -> Street:
    """Draw a street of 2 to 3 lanes with a pavement on each side."""
    width, left = rng.uniform(6, 10), rng.uniform(0.3, 0.7)
    road = (-width * left, width * (1 - left))
    return Street(road, (road[0] - rng.uniform(2, 4.5), road[1] + rng.uniform(2, 4.5)), rng.uniform(35, 80))


def draw_background(rng: np.random.Generator, camera: Camera, street: Street, size_hw: tuple[int, int]) -> Background:
    """Paint the street without its objects."""
    height, width = size_hw
    dx_1W = (np.arange(width, dtype=np.float32) + np.float32(0.5 - camera.x))[None]
    dy_H1 = (np.arange(height, dtype=np.float32) + np.float32(0.5 - camera.y))[:, None]
    dx_1W[np.abs(dx_1W) < 0.1] = 0.1
    # what stands upright depends on the column alone: a house front at the side, or the end of the street
    side_1W = np.where(dx_1W > 0, np.float32(street.fronts[1]), np.float32(street.fronts[0]))
    wall_z_1W = np.minimum(np.float32(camera.focal) * side_1W / dx_1W, np.float32(street.end))
    at_end_1W = wall_z_1W >= street.end
    row_1W = np.where(dx_1W < 0, np.float32(200), np.float32(0))  # houses of the left row are others than of the right
    along_1W = np.where(at_end_1W, dx_1W * np.float32(street.end / camera.focal) + 500, wall_z_1W + row_1W)
    wall_y_HW = (camera.height - dy_H1 * (wall_z_1W / np.float32(camera.focal))).astype(np.float32, copy=False)
    ground_z_H1 = np.float32(camera.focal * camera.height) / np.maximum(dy_H1, 0.05)
    ground_x_HW = dx_1W * (ground_z_H1 / np.float32(camera.focal))

    fronts, is_green_1W, top_1W = _fronts(rng, along_1W, wall_y_HW)
    is_ground_HW = wall_y_HW < 0
    is_front_HW = (wall_y_HW < top_1W) & ~is_ground_HW
    ground = _ground(rng, street, ground_x_HW, ground_z_H1)
    colors = np.concatenate([ground.colors, fronts.colors])
    light_1W = np.where(at_end_1W, 0.9, np.where((dx_1W > 0) == (rng.random() < 0.5), 1.1, rng.uniform(0.6, 0.95)))
    light_HW = np.where(is_ground_HW, ground.light, fronts.light * light_1W.astype(np.float32))
    place_HW = np.where(is_ground_HW, ground_x_HW, along_1W), np.where(is_ground_HW, ground_z_H1, wall_y_HW)
    light_HW *= 1 + np.where(is_front_HW & is_green_1W, np.float32(0.3), np.float32(0.09)) * _grain(rng, *place_HW)
    material_HW = np.where(is_ground_HW, ground.material, fronts.material + len(ground.colors))
    sky_HW3, haze = _sky(rng, dy_H1, camera, size_hw)
    solid_HW = is_ground_HW | is_front_HW
    solid_HW3 = colors.take(material_HW, axis=0)
    solid_HW3 *= light_HW[..., None]
    image_HW3 = np.where(solid_HW[..., None], solid_HW3, sky_HW3)
    classes_HW = np.where(is_front_HW, np.where(is_green_1W, TREE, BUILDING), SKY).astype(np.uint8)
    classes_HW[is_ground_HW] = np.where(ground.material, PAVEMENT, ROAD)[is_ground_HW]
    classes_HW[is_ground_HW & (ground.material == PAINT)] = ROAD
    depth_HW = np.where(is_ground_HW, ground_z_H1, np.where(is_front_HW, wall_z_1W, 0))
    return Background(image_HW3, classes_HW, depth_HW, haze)


@dataclass(frozen=True)
class Surface:
    """A painted plane: an index into `colors` (M, 3), and brightness, both (height, width)."""

    material: NDArray[np.int16]
    light: Floats
    colors: Floats


def _fronts(rng: np.random.Generator, along_1W: Floats, up_HW: Floats) -> tuple[Surface, NDArray[np.bool_], Floats]:
    """Return the house fronts; of each column, whether a hedge is in place of a house, and its height in metres."""
    edges = np.cumsum(rng.uniform(6, 20, 80)).astype(np.float32)
    plot_1W = np.searchsorted(edges, along_1W)
    n = len(edges) + 1
    green = rng.random(n) < 0.2
    top_1W = np.where(green, rng.uniform(2.6, 7, n), rng.uniform(6, 20, n)).astype(np.float32)[plot_1W]
    plaster_N3 = FACADES[rng.integers(len(FACADES), size=n)] * rng.uniform(0.75, 1.15, (n, 1))
    plaster_N3[green] = rng.uniform((40, 70, 25), (90, 125, 60), (n, 3))[green]
    storey_1W = rng.uniform(2.7, 3.8, n).astype(np.float32)[plot_1W]
    bay_1W = along_1W / rng.uniform(1.6, 3.6, n).astype(np.float32)[plot_1W]
    share_1W = np.where(green, -1, rng.uniform(0.35, 0.9, n)).astype(np.float32)[plot_1W]  # of a bay that is window
    row_HW = up_HW / storey_1W
    row_floor_HW, bay_floor_1W = np.floor(row_HW), np.floor(bay_1W)
    window_HW = np.abs(row_HW - row_floor_HW - np.float32(0.55)) < 0.15 + share_1W / 5
    window_HW &= np.abs(bay_1W - bay_floor_1W - np.float32(0.5)) < share_1W / 2
    panes_N3 = np.array((46, 54, 66)) * rng.uniform(0.5, 2.2, (PANES, 1)) + rng.uniform(-8, 8, (PANES, 3))
    panes_N3[rng.random(PANES) < 0.08] = (250, 220, 150)  # somebody is at home
    pane_HW = (row_floor_HW.astype(np.int16) * 31 + bay_floor_1W.astype(np.int16) * 17) & (PANES - 1)
    material_HW = np.where(window_HW, pane_HW + n, plot_1W).astype(np.int16)
    cornice_HW = (up_HW > top_1W - np.float32(0.4)) & ~green[plot_1W]
    light_HW = np.where(cornice_HW, np.float32(0.7), np.float32(1))
    colors_M3 = np.concatenate([plaster_N3, panes_N3]).astype(np.float32)
    return Surface(material_HW, light_HW, colors_M3), green[plot_1W], top_1W


def _ground(rng: np.random.Generator, street: Street, x_HW: Floats, z_H1: Floats) -> Surface:
    """Return road and pavements, of the materials `ASPHALT` to `PAINT`."""
    (left, right), dash, tile = street.road, np.float32(rng.uniform(3, 7)), np.float32(rng.uniform(0.5, 1.2))
    paving = PAVINGS[rng.integers(len(PAVINGS))] * rng.uniform(0.8, 1.1)
    colors_M3 = np.stack(
        [
            rng.uniform(62, 118) + rng.uniform(-6, 6, 3),
            *(paving, paving * 0.8, np.full(3, rng.uniform(150, 215)), np.full(3, rng.uniform(190, 240))),
        ]
    )
    on_road_HW = (x_HW > left) & (x_HW < right)
    joint_HW = (_part(x_HW / tile) < 0.06) | (_part(z_H1 / tile) < 0.06)
    material_HW = np.where(on_road_HW, ASPHALT, np.where(joint_HW, JOINT, PAVING)).astype(np.int16)
    material_HW[~on_road_HW & (x_HW > left - 0.25) & (x_HW < right + 0.25)] = KERB
    paint_HW = (np.abs(x_HW - (left + right) / 2) < 0.09) & (_part(z_H1 / dash) < 0.55)
    if rng.random() < 0.4:  # lines along the edges
        paint_HW |= np.abs(np.abs(x_HW - (left + right) / 2) - ((right - left) / 2 - 0.28)) < 0.08
    if rng.random() < 0.35:  # a zebra crossing
        start = rng.uniform(5, 14)
        paint_HW |= on_road_HW & (z_H1 > start) & (z_H1 < start + 3) & (_part(x_HW) < 0.5)
    material_HW[paint_HW] = PAINT
    shade = street.fronts[0] + rng.uniform(0, 1.2) * (street.fronts[1] - street.fronts[0])  # of the houses
    dark_HW = (x_HW < shade) & (z_H1 > rng.uniform(0, 12))
    light_HW = np.where(dark_HW, np.float32(rng.uniform(0.55, 0.9)), np.float32(1))
    return Surface(material_HW, light_HW, colors_M3.astype(np.float32))


def _part(values: Floats) -> Floats:
    """Return the fractional part, faster than np.mod."""
    return values - np.floor(values)


def _sky(rng: np.random.Generator, dy_H1: Floats, camera: Camera, size_hw: tuple[int, int]) -> tuple[Floats, Floats]:
    """Return a sky with clouds, and its colour at the horizon."""
    zenith, horizon = (SKIES[rng.choice(len(SKIES), p=(0.5, 0.32, 0.18))] * rng.uniform(0.85, 1.08)).astype(np.float32)
    t_H11 = np.clip(-dy_H1 / np.float32(camera.y), 0, 1)[..., None] ** np.float32(0.7)
    clouds_HW = smooth_noise(rng, size_hw, 20) + np.float32(rng.uniform(-0.8, 0.8))
    cover_HW1 = np.clip(clouds_HW * np.float32(0.5), 0, 0.85)[..., None]
    clear_H13, cloud = horizon + (zenith - horizon) * t_H11, np.float32(rng.uniform(205, 245))
    sky_HW3 = (cloud - clear_H13) * cover_HW1
    sky_HW3 += clear_H13
    return sky_HW3, horizon


def _grain(rng: np.random.Generator, a_HW: Floats, b_HW: Floats) -> Floats:
    """Return noise fixed to surfaces: a random texture at surface coordinates in metres, in two sizes."""
    table = rng.standard_normal(TABLE * TABLE, dtype=np.float32)
    fine, coarse = (
        table.take(
            ((a_HW * scale).astype(np.int32) & (TABLE - 1)) * TABLE + ((b_HW * scale).astype(np.int32) & (TABLE - 1))
        )
        for scale in (np.float32(9), np.float32(1.3))
    )
    return fine + np.float32(0.7) * coarse


def smooth_noise(rng: np.random.Generator, size_hw: tuple[int, int], grain: int) -> Floats:
    """Return noise (height, width) of mean 0 and spots about `grain` pixels wide."""
    height, width = size_hw
    small = rng.standard_normal((height // grain + 2, width // grain + 2), dtype=np.float32)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR))
