"""Crops of persons: pixels and joints go the same way, there and back, and every draw can be repeated."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms import v2

from fna.config import Config, make_config
from fna.data.augmenting import FILL_RGB
from fna.data.pose import PoseData, open_data
from fna.data.pose.listing import PoseListing, Record
from fna.data.pose.placing import Placing, cut
from fna.data.pose.transforms import Frame, PoseView, collate, half_box, move, view
from fna.errors import FnaError

H, W = 120, 160
CROP = (96, 64)
JOINTS = ("left_hip", "right_hip", "neck", "left_knee", "right_knee", "head_top", "left_hand", "right_hand", "nose")
LAWS = settings(max_examples=60, deadline=None)

boxes = st.tuples(st.floats(-40, 120), st.floats(-40, 90), st.floats(5, 200), st.floats(5, 200))
angles = st.floats(-180, 180)


def configure(flip_test: bool = True, **changes: Any) -> Config:
    sections = {"task": {"name": "pose"}, "evaluate": {"flip_test": flip_test}}
    return make_config({**sections, "data": {"crop": list(CROP), **changes}}, "a test")


def still(**changes: Any) -> Config:
    """A configuration that draws nothing."""
    plain = {"scale": [1.0, 1.0], "rotation": 0.0, "flip": False, "half_body": 0.0, "color_jitter": 0.0}
    return configure(**{**plain, **changes})


def truth_of(points: list[list[float]], box: tuple[float, ...]) -> dict[str, Any]:
    return {"points": torch.tensor(points), "box": torch.tensor(box), "joints": JOINTS[: len(points)]}


def memory(n: int = 4, points: Any = None, joints: tuple[str, ...] = JOINTS) -> PoseData:
    """Persons without files, each in an image of its own noise."""
    draws = np.random.default_rng(0)

    def place(number: int) -> Any:
        return points or [[*draws.uniform((30, 20), (120, 100)).tolist(), 2] for _ in joints]

    records = [Record(i, f"person {i}", place(i), [30, 20, 90, 80], id=i) for i in range(n)]
    paths = [Path(f"{i}.png") for i in range(n)]
    listing = PoseListing(
        joints, (), paths, [path.name for path in paths], records, read=lambda path: noise(int(path.stem))
    )
    return PoseData(listing, "a test")


def noise(number: int) -> Any:
    return np.random.default_rng(number).integers(0, 256, (H, W, 3), dtype=np.uint8)


# --- the matrix -------------------------------------------------------------------------------------------------------


@LAWS
@given(
    box=boxes,
    angle=angles,
    mirrored=st.booleans(),
    padding=st.floats(0.5, 3),
    xy=st.tuples(*[st.floats(-500, 500)] * 2),
)
def test_there_and_back_is_the_joint(box: Any, angle: float, mirrored: bool, padding: float, xy: Any) -> None:
    frame = Frame(Placing.around(box, CROP, padding).turned(angle, mirrored).matrix(CROP), torch.zeros(4))
    point = torch.tensor([xy], dtype=torch.float64)
    torch.testing.assert_close(frame.to_image(frame.to_crop(point)), point, atol=1e-3, rtol=0)
    assert frame.to_crop(point.float()).dtype == torch.float32


@LAWS
@given(box=boxes, padding=st.floats(1, 3))
def test_the_box_is_in_the_middle_and_fills_one_side(box: Any, padding: float) -> None:
    frame = Frame(Placing.around(box, CROP, padding).matrix(CROP), torch.zeros(4))
    x0, y0, width, height = box
    corners = torch.tensor([[x0, y0], [x0 + width, y0 + height]], dtype=torch.float64) - 0.5
    (left, top), (right, bottom) = frame.to_crop(corners).tolist()
    assert (left + right, top + bottom) == pytest.approx((CROP[1], CROP[0]))
    assert max((right - left) / CROP[1], (bottom - top) / CROP[0]) * padding == pytest.approx(1)


@LAWS
@given(box=boxes, angle=angles)
def test_a_full_turn_is_none_and_two_mirrors_are_none(box: Any, angle: float) -> None:
    place = Placing.around(box, CROP, 1.25)
    torch.testing.assert_close(place.turned(angle, False).matrix(CROP), place.turned(angle + 360, False).matrix(CROP))
    mirror = torch.tensor([[-1.0, 0, CROP[1]], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    once, never = place.turned(angle, True).matrix(CROP), place.turned(angle, False).matrix(CROP)
    torch.testing.assert_close(once @ mirror, never)
    torch.testing.assert_close(once @ mirror @ mirror, once)


@LAWS
@given(angle=angles, x=st.floats(0, 80), y=st.floats(0, 60))
def test_rotation_and_mirror_are_those_of_torchvisions_keypoints(angle: float, x: float, y: float) -> None:
    """An image of the crop's size, in place: torchvision turns about its middle, and mirrors."""
    size = (60, 80)
    points = tv_tensors.KeyPoints(torch.tensor([[x, y]], dtype=torch.float64), canvas_size=size)
    turned = v2.functional.rotate(points, -angle)
    frame = Frame(Placing.around((0, 0, 80, 60), size, 1).turned(angle, False).matrix(size), torch.zeros(4))
    ours = frame.to_crop(torch.tensor([[x, y]], dtype=torch.float64) - 0.5)
    torch.testing.assert_close(ours, torch.as_tensor(turned), atol=0.01, rtol=0)


# --- pixels -----------------------------------------------------------------------------------------------------------


@LAWS
@given(
    column=st.integers(40, 119),
    row=st.integers(30, 89),
    step=st.floats(0.3, 2.5),
    angle=st.just(0.0) | angles,
    mirrored=st.booleans(),
    shift=st.tuples(st.floats(-10, 10), st.floats(-10, 10)),
)
def test_a_bright_dot_lands_where_the_matrix_says(
    column: int, row: int, step: float, angle: float, mirrored: bool, shift: Any
) -> None:
    image = torch.tensor(FILL_RGB, dtype=torch.uint8).view(3, 1, 1).repeat(1, H, W)
    image[:, row - 2 : row + 3, column - 2 : column + 3] = 255
    place = Placing(column + shift[0] * step, row + shift[1] * step, step, angle, mirrored)
    wanted = Frame(place.matrix(CROP), torch.zeros(4)).to_crop(torch.tensor([[column, row]], dtype=torch.float64))[0]
    crop = cut(image, place, CROP)
    assert (tuple(crop.shape), crop.dtype) == ((3, *CROP), torch.uint8)
    light = crop[0].double() - FILL_RGB[0]
    ys, xs = (torch.arange(n) + 0.5 for n in CROP)
    found = torch.stack([(light.sum(0) * xs).sum(), (light.sum(1) * ys).sum()]) / light.sum()
    assert torch.linalg.norm(found - wanted) < 0.35


def test_dots_at_joints_land_at_the_joints_of_the_training_crops() -> None:
    """The whole way: scale, rotation, mirror with its swap, and half bodies; each joint has a colour of its own."""
    colors = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], dtype=torch.uint8)
    places = [[50, 40, 2], [100, 50, 2], [75, 90, 2], [60, 70, 1]]
    picture = np.zeros((H, W, 3), np.uint8)
    for (x, y, _), color in zip(places, colors, strict=True):
        picture[y - 2 : y + 3, x - 2 : x + 3] = color.numpy()
    joints = ("left_hip", "right_hip", "neck", "nose")
    records = [Record(0, "she", places, [40, 30, 70, 70])]
    data = PoseData(PoseListing(joints, (), [Path("a.png")], ["a.png"], records, read=lambda path: picture), "a test")
    views = PoseView(data, [0], configure(rotation=60.0, color_jitter=0.0))
    found = mirrored = 0
    for epoch in range(60):
        sample = views[epoch, 0]
        first = sample["points"]
        swapped = _color_at(sample["image"], first[0]) == [0, 255, 0] if first[0, 2] else False
        mirrored += swapped
        order = [1, 0, 2, 3] if swapped else [0, 1, 2, 3]
        for joint, place in zip(order, first, strict=True):
            if place[2] and 2 < place[0] < CROP[1] - 2 and 2 < place[1] < CROP[0] - 2:
                assert _color_at(sample["image"], place) == colors[joint].tolist()
                assert place[2] == places[joint][2]
                found += 1
    assert found > 150
    assert 15 < mirrored < 45


def _color_at(image_3hw: torch.Tensor, place: torch.Tensor) -> list[int]:
    """The colour at a joint, each channel on or off."""
    x, y = (min(int(value), size - 1) for value, size in zip(place[:2], CROP[::-1], strict=True))
    return [255 if value > 100 else 0 for value in image_3hw[:, y, x].tolist()]


@pytest.mark.parametrize("angle", [0.0, 33.0])
def test_shrinking_averages_pixels(angle: float) -> None:
    """Noise of one pixel is nearly gone at a sixth of the size; picking pixels would keep all of it."""
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)).permute(2, 0, 1)
    crop = cut(image, Placing(300, 300, 6.0, angle), (48, 48))
    assert image.double().std() > 70
    assert crop.double().std() < 15
    assert abs(crop.double().mean() - 127.5) < 3


def test_a_crop_at_full_size_is_the_image_itself() -> None:
    image = torch.from_numpy(noise(3)).permute(2, 0, 1)
    assert torch.equal(cut(image, Placing(80, 60, 1.0), (H, W)), image)
    assert torch.equal(cut(image, Placing(80, 60, 1.0, 0, True), (H, W)), image.flip(2))
    clockwise = cut(image, Placing(80, 60, 1.0, 90), (W, H))  # Pillow rounds down when it turns
    torch.testing.assert_close(clockwise.float(), image.rot90(-1, (1, 2)).float(), atol=1, rtol=0)
    assert torch.equal(cut(image, Placing(80, 60, 1.0, 360), (40, 40)), image[:, 40:80, 60:100])


@LAWS
@given(place=st.builds(Placing, *[st.floats(-300, 400)] * 2, st.floats(0.01, 400), angles, st.booleans()))
def test_any_crop_has_the_right_size_and_is_filled_outside(place: Placing) -> None:
    image = torch.zeros(3, H, W, dtype=torch.uint8)
    crop = cut(image, place, (24, 32))
    assert (tuple(crop.shape), crop.dtype) == ((3, 24, 32), torch.uint8)
    assert crop.permute(1, 2, 0).is_contiguous()
    grid = torch.cartesian_prod(torch.arange(32) + 0.5, torch.arange(24) + 0.5).double()
    x, y = Frame(place.matrix((24, 32)), torch.zeros(4)).to_image(grid).T.view(2, 32, 24).transpose(1, 2)
    reach = 2 * max(1, place.step)
    outside = (x < -reach) | (y < -reach) | (x > W + reach) | (y > H + reach)
    inside = (x > reach) & (y > reach) & (x < W - reach) & (y < H - reach)
    fill = torch.tensor(FILL_RGB, dtype=torch.uint8).view(3, 1, 1).expand_as(crop)
    assert torch.equal(crop[:, outside], fill[:, outside])
    assert not crop[:, inside].any()


# --- joints -----------------------------------------------------------------------------------------------------------


def test_joints_outside_the_crop_lose_their_label() -> None:
    points = torch.tensor([[80.0, 60.0, 2], [0, 0, 2], [80, 60, 0], [81, 61, 1]])
    moved = move(points, Placing(80, 60, 1.0).matrix((20, 20)), (20, 20))
    assert moved.tolist() == [[10.5, 10.5, 2], [0, 0, 0], [0, 0, 0], [11.5, 11.5, 1]]


def test_joints_outside_the_image_are_not_learned_where_the_crop_shows_them() -> None:
    """Crops, wider than the image, are those of a person without the joint; half a body is not made of it either."""
    places = [[5.0 + 10 * i, 60.0, 2] for i in range(8)]
    outside, without = (memory(1, [*places, nose]) for nose in ([-20.0, 60.0, 2], [0, 0, 0]))
    assert outside.load(0)[1]["points"][8].tolist() == [-20, 60, 2]
    for half_body in (0.0, 1.0):
        config = still(half_body=half_body, box_padding=4.0)
        for epoch in range(4):
            a, b = (PoseView(data, [0], config)[epoch, 0] for data in (outside, without))
            assert torch.equal(a["points"], b["points"])
            assert torch.equal(a["image"], b["image"])
            assert a["points"][:8, 2].all()


def test_a_half_body_is_the_joints_of_one_half() -> None:
    lower = np.array([j.endswith(("hip", "knee")) for j in JOINTS])
    points = torch.tensor([[float(10 * i), float(i), 2.0] for i in range(9)])
    assert half_box(points, lower, upper=False) == (0.5, 0.5, 40.0, 4.0)
    assert half_box(points, lower, upper=True) == (20.5, 2.5, 60.0, 6.0)
    assert half_box(points, np.ones(9, bool), upper=True) == (0.5, 0.5, 80.0, 8.0)
    points[:2, 2] = 0
    assert half_box(points, lower, upper=True) is None


def test_half_bodies_are_cut_as_often_as_asked() -> None:
    data = memory()
    whole, halves = (PoseView(data, range(4), still(half_body=share)) for share in (0.0, 1.0))
    assert all(torch.equal(whole[0, i]["image"], whole[1, i]["image"]) for i in range(4))
    assert not any(torch.equal(whole[0, i]["image"], halves[0, i]["image"]) for i in range(4))


# --- views ------------------------------------------------------------------------------------------------------------


def test_a_training_crop_is_a_function_of_seed_epoch_and_record() -> None:
    data = memory()
    views, again = PoseView(data, range(4), configure()), PoseView(data, [2, 3], configure())
    other = PoseView(
        data, range(4), make_config({**configure().model_dump(by_alias=True), "engine": {"rng_seed": 1}}, "x")
    )
    for a, b in ((views[5, 2], again[5, 0]), (views[0, 3], again[0, 1])):
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["points"], b["points"])
        assert a["index"] == b["index"]
    for changed in (views[4, 2], views[5, 3], other[5, 2]):
        assert not torch.equal(changed["image"], views[5, 2]["image"])


def test_a_view_can_go_to_a_worker_process() -> None:
    config = configure(format="synthetic", images=3)
    views = PoseView(open_data(config.data, "train"), [0], config)
    assert torch.equal(pickle.loads(pickle.dumps(views))[1, 0]["image"], views[1, 0]["image"])


def test_without_augmentation_training_sees_what_is_scored() -> None:
    data, config = memory(), still()
    sample = PoseView(data, [1], config)[3, 0]
    image, truth = data.load(1)
    crop, frame = view(image, truth, config)
    assert torch.equal(sample["image"], crop)
    torch.testing.assert_close(frame.to_image(sample["points"][:, :2]), truth["points"][:, :2], atol=1e-3, rtol=0)
    assert frame.box.tolist() == [30, 20, 90, 80]


@pytest.mark.parametrize("flip", [False, True])
def test_the_flip_test_does_not_ask_whether_training_mirrors(flip: bool) -> None:
    image, truth = memory().load(0)
    assert view(image, truth, configure(flip=flip))[1].swap == (1, 0, 2, 4, 3, 5, 7, 6, 8)
    assert view(image, truth, configure(flip=flip, flip_test=False))[1].swap is None


def test_the_mirror_is_known_from_names_or_configuration() -> None:
    image, truth = memory().load(0)
    assert view(image, truth, configure())[1].swap == (1, 0, 2, 4, 3, 5, 7, 6, 8)
    told = make_config({"task": {"name": "pose", "joint_pairs": [["neck", "nose"]]}, "data": {"crop": list(CROP)}}, "x")
    assert view(image, truth, told)[1].swap == (0, 1, 8, 3, 4, 5, 6, 7, 2)
    assert PoseView(memory(), [0], told)._swap == (0, 1, 8, 3, 4, 5, 6, 7, 2)


def test_without_a_person_the_view_is_the_whole_image() -> None:
    image = torch.from_numpy(noise(1)).permute(2, 0, 1)
    crop, frame = view(image, None, configure(crop=[96, 128]))
    assert tuple(crop.shape) == (3, 96, 128)
    assert frame.to_image(torch.tensor([[0.0, 0.0], [128.0, 96.0]])).tolist() == [[-0.5, -0.5], [W - 0.5, H - 0.5]]
    assert (frame.box.tolist(), frame.swap) == ([0, 0, W, H], None)


def test_a_box_without_area_is_a_pixel() -> None:
    image = torch.from_numpy(noise(1)).permute(2, 0, 1)
    crop, frame = view(image, {"box": [20.0, 10.0, 0.0, 0.0]}, configure(crop=[32, 32], box_padding=1.0))
    assert tuple(crop.shape) == (3, 32, 32)
    assert float(torch.linalg.det(frame.matrix[:, :2])) == pytest.approx(1 / 32**2)


def test_names_that_no_mirror_can_swap_stop_the_run_only_if_it_mirrors() -> None:
    data = memory(joints=("left_ear", "nose"))
    for flip, flip_test in ((True, True), (True, False), (False, True)):  # the flip test would stop it after an epoch
        with pytest.raises(FnaError, match=r"no partner 'right_ear'.* --data\.flip false --evaluate\.flip_test"):
            PoseView(data, [0], configure(flip=flip, flip_test=flip_test))
    assert len(PoseView(data, [0], configure(flip=False, flip_test=False))) == 1


def test_batches() -> None:
    views = PoseView(memory(), [3, 1], configure())
    batch = collate([views[0, 0], views[0, 1]])
    assert (tuple(batch["image"].shape), batch["image"].dtype) == ((2, 3, *CROP), torch.uint8)
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    assert (tuple(batch["points"].shape), batch["points"].dtype) == ((2, 9, 3), torch.float32)
    assert batch["index"].tolist() == [3, 1]
    assert not math.isnan(float(batch["points"].sum()))
