"""Views of detection data: laws of windows and boxes, determinism, batches, and torchvision as an oracle."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat

from fna.config import Config, make_config
from fna.data.augmenting import FILL_RGB
from fna.data.detection import DetectionData, DetectionListing
from fna.data.detection.listing import Box, Record
from fna.data.detection.transforms import cut_boxes, distort, draw_patch, draw_resize, seen_part
from fna.data.detection.views import Window, collate, to_image, to_view, turned
from fna.data.sampling import Loader, StepSampler
from fna.rng import generator
from fna.tasks.detection import train_view, view

LAWS = settings(max_examples=60, deadline=None)
SIZES = st.tuples(st.integers(1, 90), st.integers(1, 90))
CROPS = st.sampled_from([(32, 48), (48, 32), (40, 40)])
MODELS = ("retinanet", "ssdlite")


def drawn_pixels(path: Path) -> np.ndarray[Any, Any]:
    _, height, width = path.stem.split("_")
    return np.random.default_rng(int(height)).integers(0, 256, (int(height), int(width), 3), dtype=np.uint8)


def memory(sizes: list[tuple[int, int]], per_image: int = 4) -> DetectionData:
    """Data without files: boxes of classes a, b, c; the last of an image is a crowd, the second last difficult."""
    records = []
    for number, (height, width) in enumerate(sizes):
        rng = np.random.default_rng(number)
        boxes = []
        for k in range(per_image):
            x0, x1 = sorted(rng.uniform(0, width, 2))
            y0, y1 = sorted(rng.uniform(0, height, 2))
            box = (x0, y0, min(width, x1 + 0.1), min(height, y1 + 0.1))
            boxes.append(Box(f"{k}", box, k % 3, crowd=k == per_image - 1, difficult=k == per_image - 2))
        path = Path(f"{number}_{height}_{width}.png")
        records.append(Record(path.name, path, number, tuple(boxes)))
    return DetectionData(DetectionListing(records, ("a", "b", "c"), (1, 2, 3), read=drawn_pixels), "a test")


def configure(model: str = "retinanet", **data: Any) -> Config:
    return make_config({"task": {"model": model}, "data": {"crop": [32, 48], **data}})


# --- training views ---------------------------------------------------------------------------------------------------


@LAWS
@given(SIZES, CROPS, st.sampled_from(MODELS), st.integers(0, 1000), st.floats(0.1, 3))
def test_boxes_stay_inside_and_images_in_the_canvas(
    size: tuple[int, int], crop: tuple[int, int], model: str, epoch: int, scale: float
) -> None:
    data = memory([size], 6)
    sample = train_view(data, [0], configure(model, crop=list(crop), scale=[scale, 2 * scale]))[epoch, 0]
    image, boxes = sample["image"], sample["boxes"]
    height, width = image.shape[1:]
    canvas = crop if model == "ssdlite" else turned(crop, size)
    assert image.dtype == torch.uint8
    assert type(boxes) is Tensor
    assert boxes.dtype == torch.float32
    assert (height, width) == canvas if model == "ssdlite" else height <= canvas[0] and width <= canvas[1]
    assert len(boxes) == len(sample["labels"]) <= 4
    assert torch.isfinite(boxes).all()
    assert (boxes >= 0).all()
    assert (boxes[:, 2:] <= torch.tensor([width, height])).all()
    assert (boxes[:, 2:] - boxes[:, :2] >= 1 - 1e-4).all()


@pytest.mark.parametrize("model", MODELS)
def test_samples_are_a_function_of_seed_epoch_and_record(model: str) -> None:
    data = memory([(60, 80), (80, 60), (50, 50)])
    config = configure(model)
    view_of_all, view_of_last = train_view(data, [0, 1, 2], config), train_view(data, [2], config)
    torch.manual_seed(1)
    first = view_of_all[3, 2]
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = view_of_last[3, 0]
    assert torch.equal(state, torch.get_rng_state())  # the global generator is left alone
    assert first["index"] == second["index"] == 2
    assert all(torch.equal(first[key], second[key]) for key in ("image", "boxes", "labels"))
    assert not torch.equal(collate([first])["image"], collate([view_of_all[4, 2]])["image"])
    other = make_config({"task": {"model": model}, "data": {"crop": [32, 48]}, "engine": {"rng_seed": 1}})
    assert not torch.equal(collate([first])["image"], collate([train_view(data, [2], other)[3, 0]])["image"])


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_nothing(workers: int) -> None:
    data = memory([(60, 80)] * 4)
    training = train_view(data, range(4), configure())
    sampler = StepSampler(4, 2, 0, "weights", 0, 4)
    batches = list(Loader(training, workers, sampler, collate))
    for batch, keys in zip(batches, sampler, strict=True):
        want = collate([training[key] for key in keys])
        assert torch.equal(batch["image"], want["image"])
        assert torch.equal(batch["index"], want["index"])
        for key in ("boxes", "labels"):
            pairs = zip(batch[key], want[key], strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)


def test_crowd_and_difficult_boxes_are_not_learned() -> None:
    data = memory([(60, 80)], 2)  # both are marked
    still = configure(scale=[1.0, 1.0], flip=False, color_jitter=0.0)
    assert len(train_view(data, [0], still)[0, 0]["boxes"]) == 0
    assert len(data.truth(0)["boxes"]) == 2


def test_without_randomness_the_sample_is_the_view() -> None:
    data = memory([(60, 80), (80, 60), (33, 97)])
    config = configure(scale=[1.0, 1.0], flip=False, color_jitter=0.0)
    for index in range(3):
        sample = train_view(data, [index], config)[0, 0]
        image, truth = data.load(index)
        seen, frame = view(image, truth, config)
        height, width = sample["image"].shape[1:]
        assert torch.equal(sample["image"], seen[:, :height, :width])
        want = to_view(truth["boxes"][:2], frame)  # the others are marked
        want = want[(want[:, 2:] - want[:, :2] >= 1).all(1)]
        torch.testing.assert_close(sample["boxes"], want, atol=1e-3, rtol=0)


@LAWS
@given(SIZES, st.integers(0, 1000))
def test_a_flip_mirrors_image_and_boxes_and_two_change_nothing(size: tuple[int, int], epoch: int) -> None:
    data = memory([size])
    config = configure(color_jitter=0.0)
    flipped = train_view(data, [0], config)[epoch, 0]
    still = train_view(data, [0], configure(color_jitter=0.0, flip=False))[epoch, 0]
    width = still["image"].shape[2]
    mirrored = still["boxes"].clone()
    mirrored[:, [0, 2]] = width - mirrored[:, [2, 0]]
    mirrors = torch.equal(flipped["image"], still["image"].flip(2))
    assert mirrors or torch.equal(flipped["image"], still["image"])
    if not torch.equal(still["image"], still["image"].flip(2)):
        torch.testing.assert_close(flipped["boxes"], mirrored if mirrors else still["boxes"], atol=1e-4, rtol=0)
    twice = mirrored.clone()
    twice[:, [0, 2]] = width - twice[:, [2, 0]]
    torch.testing.assert_close(twice, still["boxes"], atol=1e-4, rtol=0)


def test_flips_are_as_frequent_as_not() -> None:
    data = memory([(32, 48)])
    config, still = configure(color_jitter=0.0, scale=[1.0, 1.0]), data.load(0)[0]
    flips = [not torch.equal(train_view(data, [0], config)[epoch, 0]["image"], still) for epoch in range(100)]
    assert 30 < sum(flips) < 70


def test_augment_overrides_the_model() -> None:
    data = memory([(60, 80)])
    for model, augment, exact in (("retinanet", "ssd", True), ("ssdlite", "resize", False)):
        training = train_view(data, [0], configure(model, augment=augment))
        sizes = {tuple(training[epoch, 0]["image"].shape) for epoch in range(20)}
        assert (sizes == {(3, 32, 48)}) == exact


# --- windows ----------------------------------------------------------------------------------------------------------


@LAWS
@given(SIZES, CROPS, st.floats(0.1, 3), st.integers(0, 1000))
def test_a_resize_window_is_what_torchvision_crops(
    size: tuple[int, int], crop: tuple[int, int], factor: float, seed: int
) -> None:
    window = draw_resize(size, crop, (factor, factor), generator(seed))
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator(seed))
    (y, x), (h, w) = window.start, window.size
    assert 0 <= y <= y + h <= size[0]
    assert 0 <= x <= x + w <= size[1]
    assert min(h, w) >= 1
    crops = {"top": y, "left": x, "height": h, "width": w, "size": list(window.resized)}
    assert torch.equal(window.paste(window.cut(image)), v2.functional.resized_crop(image, **crops, antialias=True))
    inside = torch.tensor([[x + 0.1 * w, y + 0.2 * h, x + 0.7 * w, y + 0.9 * h]])
    boxes = BoundingBoxes(inside, format=BoundingBoxFormat.XYXY, canvas_size=size)
    want = v2.functional.resized_crop(boxes, **crops)
    torch.testing.assert_close(window.move(inside), want.as_subclass(Tensor), atol=1e-3, rtol=1e-4)


@LAWS
@given(st.tuples(st.integers(20, 90), st.integers(20, 90)), st.integers(0, 1000))
def test_an_ssd_window_is_filled_where_there_is_no_image(size: tuple[int, int], seed: int) -> None:
    data = memory([size], 4)
    image, truth = data.load(0)
    window = draw_patch(size, truth["boxes"], (64, 64), generator(seed))
    assert window.canvas == (64, 64)
    canvas = window.paste(window.cut(image))
    assert canvas.shape == (3, 64, 64)
    (top, left), (tall, wide) = window.offset, window.resized
    assert top + tall <= 64
    assert left + wide <= 64
    outside = torch.ones(64, 64, dtype=torch.bool)
    outside[top : top + tall, left : left + wide] = False
    assert (canvas[:, outside] == torch.tensor(FILL_RGB, dtype=torch.uint8)[:, None]).all()


@LAWS
@given(st.integers(1, 90), st.integers(-200, 89), st.integers(1, 400), st.sampled_from([32, 64, 100]))
def test_a_part_is_stretched_to_the_canvas(length: int, start: int, side: int, canvas: int) -> None:
    start, end = min(start, length - 1), max(1, min(start, length - 1) + side)  # it shows something of the image
    first, size, resized, offset = seen_part(start, end, length, canvas)
    assert (first, first + size) == (max(0, start), min(length, end))
    assert 0 <= offset <= offset + resized <= canvas
    assert resized >= 1
    for place, on_canvas in ((first, offset), (first + size, offset + resized)):
        assert abs((place - start) * canvas / (end - start) - on_canvas) <= (0.501 if resized > 1 else 1.5)


def test_ssd_windows_keep_a_box_zoom_out_and_cut() -> None:
    boxes = torch.tensor([[10.0, 10, 40, 40], [50, 20, 78, 58]])
    windows = [draw_patch((60, 80), boxes, (60, 80), generator(seed)) for seed in range(200)]
    assert all(len(cut_boxes(boxes, window)[1]) >= 1 for window in windows)
    assert 60 < sum(window.resized != window.canvas for window in windows) < 130  # zoomed out, and not cut after it
    assert any(window.size != (60, 80) for window in windows)
    assert any(window.size == (60, 80) for window in windows)
    none = [draw_patch((60, 80), boxes[:0], (60, 80), generator(seed)) for seed in range(50)]
    assert all(window.size == (60, 80) for window in none)


def test_ssd_parts_overlap_as_drawn() -> None:
    """The IoU of the part with the best box is spread from little to all, as the drawn overlaps are."""
    boxes = torch.tensor([[10.0, 10, 70, 50]])
    best = []
    for seed in range(100):
        window = draw_patch((60, 80), boxes, (60, 80), generator(seed))
        (y, x), (h, w) = window.start, window.size
        if window.resized == window.canvas:
            best.append(float(box_iou(torch.tensor([[x, y, x + w, y + h]]).float(), boxes)))
    assert min(best) < 0.4
    assert max(best) > 0.7


@LAWS
@given(st.integers(0, 10_000))
def test_boxes_are_cut_where_their_centre_is_seen(seed: int) -> None:
    draws = generator(seed)
    corners = torch.rand((8, 2, 2), generator=draws).sort(1).values.flatten(1) * torch.tensor([80.0, 60, 80, 60])
    window = Window((10, 20), (30, 40), (60, 80), (0, 0), (60, 80))
    boxes, kept = cut_boxes(corners, window)
    centres = (corners[:, :2] + corners[:, 2:]) / 2
    seen = ((centres >= torch.tensor([20, 10])) & (centres < torch.tensor([60, 40]))).all(1)
    part = torch.stack([corners[:, 0].clamp(20, 60), corners[:, 1].clamp(10, 40)], 1)
    part = torch.cat([part, torch.stack([corners[:, 2].clamp(20, 60), corners[:, 3].clamp(10, 40)], 1)], 1)
    large = (2 * (part[:, 2:] - part[:, :2]) >= 1).all(1)
    assert kept.tolist() == (seen & large).nonzero()[:, 0].tolist()
    want = (part[kept] - torch.tensor([20.0, 10, 20, 10])) * 2
    torch.testing.assert_close(boxes.as_subclass(Tensor), want, atol=1e-3, rtol=0)


def test_distortion_changes_colours_only() -> None:
    image = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8, generator=generator(0))
    outcomes = [distort(image, generator(seed)) for seed in range(40)]
    assert all(out.shape == image.shape and out.dtype == torch.uint8 for out in outcomes)
    assert any(not torch.equal(out, image) for out in outcomes)
    assert all(torch.equal(distort(image, generator(seed)), outcomes[seed]) for seed in range(5))


# --- scoring views and batches ----------------------------------------------------------------------------------------


@LAWS
@given(SIZES, CROPS, st.sampled_from(MODELS), st.booleans())
def test_a_view_and_back_are_the_boxes(size: tuple[int, int], crop: tuple[int, int], model: str, own: bool) -> None:
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator(0))
    config = configure(model, **({"eval_size": list(crop)} if own else {"crop": list(crop)}))
    seen, frame = view(image, None, config)
    canvas = crop if model == "ssdlite" else turned(crop, size)
    assert seen.shape == (3, *(-(-side // 32) * 32 for side in canvas))
    assert seen.dtype == torch.uint8
    assert frame.size_hw == size
    boxes = torch.rand((5, 2, 2), generator=generator(1)).sort(1).values.flatten(1)
    boxes = boxes * torch.tensor(size[::-1] * 2)
    moved = to_view(boxes, frame)
    assert (moved[:, 2:] <= torch.tensor(canvas[::-1]) + 1e-3).all()
    torch.testing.assert_close(to_image(moved, frame), boxes, atol=1e-3, rtol=1e-4)
    everything = to_image(torch.tensor([[-9.0, -9, 999, 999]]), frame)
    assert everything.tolist() == [[0, 0, size[1], size[0]]]


def test_retinanet_keeps_proportions_and_pads_ssdlite_stretches() -> None:
    image = torch.full((3, 50, 100), 7, dtype=torch.uint8)
    seen, frame = view(image, None, configure("retinanet", crop=[100, 120]))
    assert frame.scale_hw == (1.2, 1.2)
    assert (seen[:, :60, :120] == 7).all()
    assert (seen[:, 60:] == torch.tensor(FILL_RGB, dtype=torch.uint8).view(3, 1, 1)).all()
    seen, frame = view(image, None, configure("ssdlite", crop=[100, 120]))
    assert frame.scale_hw == (2, 1.2)
    assert (seen[:, :100, :120] == 7).all()
    assert view(image.transpose(1, 2), None, configure("retinanet", crop=[120, 150]))[0].shape == (3, 160, 128)


@pytest.mark.parametrize("model", MODELS)
def test_an_image_is_scored_on_the_canvas_it_was_learned_on(model: str) -> None:
    """Maps of another size would lie elsewhere: of EfficientNet-Lite by half a cell."""
    data = memory([(120, 160)])
    config = configure(model, crop=[90, 120], scale=[1.0, 1.0], flip=False, color_jitter=0.0, augment="resize")
    batch = collate([train_view(data, [0], config)[0, 0]])
    image, _ = data.load(0)
    seen, frame = view(image, None, config)
    assert torch.equal(batch["image"][0], seen)
    torch.testing.assert_close(batch["boxes"][0], to_view(data.truth(0)["boxes"][:2], frame))  # the others are ignored


def test_batches_are_padded_to_a_multiple_of_32() -> None:
    data = memory([(60, 80), (80, 60)])
    still = configure(scale=[1.0, 1.0], flip=False, crop=[40, 70])
    samples = [train_view(data, [index], still)[0, 0] for index in range(2)]
    batch = collate(samples)
    assert batch["image"].shape == (2, 3, 64, 64)
    assert batch["image"].dtype == torch.uint8
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    assert batch["index"].tolist() == [0, 1]
    assert batch["index"].dtype == torch.int64
    for i, sample in enumerate(samples):
        _, height, width = sample["image"].shape
        assert torch.equal(batch["image"][i, :, :height, :width], sample["image"])
        rest = batch["image"][i].clone()
        rest[:, :height, :width] = torch.tensor(FILL_RGB, dtype=torch.uint8).view(3, 1, 1)
        assert (rest == torch.tensor(FILL_RGB, dtype=torch.uint8).view(3, 1, 1)).all()
        assert torch.equal(batch["boxes"][i], sample["boxes"])
        assert torch.equal(batch["labels"][i], sample["labels"])


def test_data_goes_to_worker_processes_that_are_not_forked() -> None:
    data = memory([(60, 80)])
    training = pickle.loads(pickle.dumps(train_view(data, [0], configure())))
    assert torch.equal(training[0, 0]["image"], train_view(data, [0], configure())[0, 0]["image"])
