"""Detection end to end: views and back, drawing, learning, two processes, a whole run, and data with empty boxes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_distributed import close
from tiny import adapt_tiny, search_tiny
from tiny_deeper import opened
from tiny_detection import HEIGHT, NAMES, WIDTH, detection_config, write_squares
from torch import Tensor

from fna.arch import Arch
from fna.config import Config, load_config
from fna.data.detection import open_data
from fna.errors import FnaError
from fna.files import read_json
from fna.nets.network import Classifier
from fna.runs import pipeline
from fna.runs.saved import predict_images
from fna.seeds import load_seed
from fna.stages.evaluate import evaluate
from fna.tasks.detection import TASK, back
from fna.tasks.detection_scores import TITLES
from fna.training.sinks import read_log

BOTH = ("retinanet", "ssdlite")
LABELS = SimpleNamespace(classes=("red", "black"), colors=((200, 0, 0), (0, 0, 0)))


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("data") / "squares")


def config(*overrides: str) -> Config:
    return load_config(None, ["task.model=retinanet", "data.crop=[64, 96]", *overrides])


def boxes(*corners: list[float]) -> dict[str, Tensor]:
    n = len(corners)
    return {
        "boxes": torch.tensor(corners).reshape(-1, 4),
        "scores": torch.linspace(0.9, 0.5, n),
        "labels": torch.zeros(n, dtype=torch.int64),
    }


# --- views ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", BOTH)
@pytest.mark.parametrize("size", [(50, 75), (75, 50), (301, 120)])
def test_boxes_come_back_to_where_they_are_in_the_image(model: str, size: tuple[int, int]) -> None:
    height, width = size
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, 10:30, 5:45] = 255
    seen, frame = TASK.view(image, None, config(f"task.model={model}"))
    rows, columns = ((seen[0] > 127) & (seen[1] > 127) & (seen[2] > 127)).nonzero(as_tuple=True)
    inside = [float(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]
    found = back(boxes(inside), frame)["boxes"][0]
    torch.testing.assert_close(found, torch.tensor([5.0, 10, 45, 30]), atol=max(height / 64, width / 64), rtol=0)


def test_boxes_end_at_the_image_and_those_in_the_padding_are_dropped() -> None:
    _, frame = TASK.view(torch.zeros(3, 64, 64, dtype=torch.uint8), None, config())  # pixels 64 to 96 are padding
    found = back(boxes([70.0, 0, 90, 20], [50.0, 50, 90, 64], [64.0, 3, 64, 9]), frame)
    assert found["boxes"].tolist() == [[50.0, 50.0, 64.0, 64.0]]
    assert {len(values) for values in found.values()} == {1}


# --- the network ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1280, 96])
def test_the_seeds_last_convolution_starts_ssdlites(channels: int) -> None:
    arch = replace(load_seed("efficientnet_lite0", None).arch, head_channels=channels)
    task = config("task.model=ssdlite").task
    state = Classifier(arch).state_dict()
    start = TASK.head_start(state, task)
    with torch.device("meta"):
        head = TASK.head(TASK.prepare(arch, task), 3, task).state_dict()
    assert start
    assert {name: value.shape for name, value in start.items()} == {name: head[name].shape for name in start}
    torch.testing.assert_close(start["last.conv.weight"], state["head.conv.weight"])
    assert TASK.head_start(state, config().task) == {}


@pytest.mark.parametrize(("width", "starts"), [(0.5, True), (1.5, False)])
def test_a_narrower_ssdlite_starts_with_the_seeds_first_channels(width: float, starts: bool) -> None:
    arch = replace(load_seed("efficientnet_lite0", None).arch, head_channels=96)
    state, task = Classifier(arch).state_dict(), config("task.model=ssdlite", f"task.width={width}").task
    start = TASK.head_start(state, task)
    with torch.device("meta"):
        head = TASK.head(TASK.prepare(arch, task), 3, task).state_dict()
    assert head["last.conv.weight"].shape[0] == 96 * width
    assert head["extras.0.2.0.weight"].shape[0] == 512 * width
    assert bool(start) == starts
    assert {name: value.shape for name, value in start.items()} == {name: head[name].shape for name in start}
    for name, value in start.items():
        source = state[name.replace("last.", "head.")]
        assert torch.equal(value, source[:48] if source.ndim else source)


@pytest.mark.parametrize("model", BOTH)
def test_predictions_lie_in_their_images(squares: Path, model: str) -> None:
    settings = detection_config(squares, f"task.model={model}", "evaluate.score_threshold=0.0", "data.crop=[96, 96]")
    with opened(settings) as job:
        network = job.problem.build(job.seed.arch).eval()
        views, frames = zip(
            *(job.problem.task.view(job.data.val.load(i)[0], None, settings) for i in range(2)), strict=True
        )
        images = job.compute.images(torch.stack(views), job.seed.mean, job.seed.std)
        with torch.no_grad():
            found = job.problem.task.predict(network, images, frames, settings)
    for prediction in found:
        assert 0 < len(prediction["boxes"]) <= settings.evaluate.detections
        assert (prediction["boxes"] >= 0).all()
        assert (prediction["boxes"] <= torch.tensor([WIDTH, HEIGHT] * 2)).all()
        assert (prediction["scores"].diff() <= 0).all()
        assert set(prediction["labels"].tolist()) <= {0, 1}


# --- drawing ----------------------------------------------------------------------------------------------------------


def test_boxes_are_drawn_in_their_colours_into_a_copy() -> None:
    picture = np.full((200, 300, 3), 90, np.uint8)
    drawn = TASK.draw(picture, boxes([40.0, 60, 140, 180], [200.0, 100, 280, 190]), LABELS, config())
    assert (picture == 90).all()
    assert drawn.shape == picture.shape
    for x, y in ((40, 120), (139, 120), (90, 179), (200, 150), (240, 189)):
        assert drawn[y, x].tolist() == [200, 0, 0]
    assert (drawn[100:170, 60:120] == 90).all()
    assert (drawn[40:60, 40:70] != 90).any(), "the text stands above the box"


def test_weak_boxes_are_not_drawn_and_truth_always_is() -> None:
    picture = np.full((100, 100, 3), 90, np.uint8)
    weak = {**boxes([10.0, 40, 60, 90]), "scores": torch.tensor([0.2])}
    assert (TASK.draw(picture, weak, LABELS, config()) == picture).all()
    truth = {key: weak[key] for key in ("boxes", "labels")} | {"crowd": torch.tensor([True])}
    assert (TASK.draw(picture, truth, LABELS, config()) != picture).any()
    assert (TASK.draw(picture, boxes(), LABELS, config()) == picture).all()


@pytest.mark.parametrize("y0", [0.4, 0.7, 60.3])
def test_fractions_of_a_pixel_cut_no_letters_off(y0: float) -> None:
    picture = np.full((100, 100, 3), 90, np.uint8)
    drawn, rounded = (TASK.draw(picture, boxes([10.0, y, 60, 90]), LABELS, config()) for y in (y0, float(round(y0))))
    assert (drawn == 255).all(2).sum() == (rounded == 255).all(2).sum() > 0


@pytest.mark.parametrize("size", [(12, 12), (8, 300), (300, 8)])
def test_small_pictures_and_boxes_at_the_border_are_no_trouble(size: tuple[int, int]) -> None:
    height, width = size
    picture = np.zeros((*size, 3), np.uint8)
    edge = boxes([0.0, 0, width, height], [width - 1.0, height - 1.0, width, height], [3.0, 3, 3, 3])
    drawn = TASK.draw(picture, {**edge, "labels": torch.tensor([1, 0, 1])}, LABELS, config())
    assert drawn.shape == picture.shape
    assert (drawn == 255).any(), "a black class is drawn white"


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", BOTH)
def test_a_tiny_run_learns(squares: Path, tmp_path: Path, model: str) -> None:
    settings = detection_config(squares, f"task.model={model}", "adapt.epochs=8", "evaluate.every=8")
    with opened(settings) as job:
        found = search_tiny(job, tmp_path)
        adapted = adapt_tiny(job, tmp_path)
    assert all(np.isfinite(value) for row in found.evidence.values for value in row)
    assert all(
        tensor.isfinite().all() for state in (found.network.state, adapted.network.state) for tensor in state.values()
    )
    assert len(read_log(tmp_path / "search.csv")) == 6
    losses = [float(row["loss"]) for row in read_log(tmp_path / "adapt.csv")]
    assert np.mean(losses[-3:]) < 0.92 * np.mean(losses[:3])
    assert set(adapted.scores) == {*TITLES, "counts", "curves", "confusion", "results"}
    assert 0 <= adapted.scores["map"] <= 1


@pytest.mark.parametrize("model", BOTH)
def test_two_processes_equal_one(trained: Path, model: str) -> None:
    whole = torch.load(trained / model / "0-of-1.pt")
    for rank in (0, 1):
        part = torch.load(trained / model / f"{rank}-of-2.pt")
        close(part["searched"], whole["searched"], 1e-8)
        close(part["adapted"], whole["adapted"], 1e-8)
        assert part["scores"] == whole["scores"]
        for ours, theirs in zip(part["alphas"], whole["alphas"], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-6)


def test_splits_with_other_classes_are_refused(tmp_path: Path) -> None:
    root = write_squares(tmp_path)
    path = next(root.rglob("instances_val.json"))
    path.write_text(path.read_text().replace('"name": "', '"name": "other '))
    with pytest.raises(FnaError, match=r"the splits name different classes: '\w+' in 'train' is 'other \w+' in 'val'"):
        opened(detection_config(root)).__enter__()


# --- a whole run ------------------------------------------------------------------------------------------------------


def test_a_run_leaves_results_pictures_and_a_report(squares: Path, tmp_path: Path) -> None:
    layers = "space.layers=[2, 3, 4, 3, 3, 1]"
    settings = detection_config(
        squares, layers, "adapt.epochs=1", "evaluate.draw_threshold=0.0", "evaluate.score_threshold=0.0"
    )
    metrics = pipeline.run(tmp_path / "run", settings)
    row = metrics["rows"]["adapted"]
    assert metrics["metric"] == "map"
    assert set(TITLES) <= set(row)
    assert row["latency"]["ms"] > 0
    assert row["latency"]["device"].startswith("cpu, 1 thread,")
    assert sum(row["counts"]["boxes"].values()) == 6, "two in each image but the first"
    assert row["confusion"]["rows"] == [*NAMES.values(), "background"]
    results = read_json(tmp_path / "run" / "adapted" / "results.json")
    assert results
    assert {entry["category_id"] for entry in results} <= set(NAMES)
    assert {(entry["image_id"], entry["file_name"]) for entry in results} <= {(i, f"{i}.png") for i in range(12, 16)}
    page = (tmp_path / "run" / "report.html").read_text()
    assert all(word in page for word in ("AP50", "recall", "Confusion"))
    predicted = predict_images(tmp_path / "run", squares / "images" / "val", tmp_path / "out")
    assert sorted(predicted["files"]) == ["12.png", "13.png", "14.png", "15.png", "results.json"]
    with Image.open(tmp_path / "out" / "13.png") as picture:
        assert picture.size == (WIDTH, HEIGHT)
    results = read_json(tmp_path / "out/results.json")
    assert {"file_name", "image_id", "category_id", "bbox", "score"} <= set(results[0])
    assert {entry["category_id"] for entry in results} <= set(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["squares", "bccd"])
def test_a_resnet_runs_end_to_end(source: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The article's Table VII: kernels and groups of the blocks' convolutions, no skips."""
    root, overrides = tmp_path / "few", ["data.format=voc", "data.train=few", "data.on_error=fix"]
    if source == "squares":
        root, overrides = request.getfixturevalue("squares"), []
    else:
        copy_few(real(request.getfixturevalue("shared"), "bccd"), root)
    short = ("seed.name=resnet18", "space={}", "search.batch_size=2", "adapt.epochs=1", "adapt.batch_size=2")
    metrics = pipeline.run(tmp_path / "run", detection_config(root, *short, *overrides))
    target = Arch.from_json(read_json(tmp_path / "run" / "targets" / "derived.json")["arch"])
    assert {block.kind for _, block in target.layers()} == {"basic"}
    assert 0 <= metrics["rows"]["adapted"]["map"] <= 1


# --- real data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "overrides"), [("coco128", ["data.format=coco"]), ("bccd", ["data.format=voc"])])
@pytest.mark.parametrize("split", ["train", "val"])
def test_the_truth_is_perfect(shared: Path, name: str, overrides: list[str], split: str) -> None:
    """Ground truth given as detections has an AP of 1 on real data, crowds and empty images included."""
    root = real(shared, name)
    settings = config(*overrides, f"data.root={root}", "data.on_error=fix", "data.cache_gb=0")
    data = open_data(settings.data, split)
    scores = TASK.scores(data, settings)
    for index in range(len(data)):
        truth: Any = data.load(index)[1]
        plain = ~truth["crowd"] & ~truth["difficult"]
        found = {key: truth[key][plain] for key in ("boxes", "labels")} | {"scores": torch.ones(int(plain.sum()))}
        scores.update([index], [found], [truth])
    result = scores.compute()
    for key in ("map", "map50", "map75", "voc_map50"):
        assert result[key] == pytest.approx(1), key
    counts = np.array(result["confusion"]["counts"])
    assert counts.sum() == counts.trace() > 50


def test_boxes_without_area_neither_stop_a_training_nor_spoil_it(shared: Path, tmp_path: Path) -> None:
    few = copy_few(real(shared, "bccd"), tmp_path / "few")
    overrides = ("data.format=voc", "data.train=few", "data.on_error=fix", "adapt.batch_size=2")
    settings = detection_config(few, *overrides)
    with opened(settings) as job:
        assert any("BloodImage_00343" in line for line in job.data.train.skipped)
        adapted = adapt_tiny(job, tmp_path / "run")
        scores = evaluate(job.problem.build(job.seed.arch), job.problem, job.data.val, job.compute)
    assert all(tensor.isfinite().all() for tensor in adapted.network.state.values())
    assert all(np.isfinite(float(row["loss"])) for row in read_log(tmp_path / "run" / "adapt.csv"))
    assert 0 <= scores["map"] <= 1


def real(shared: Path, name: str) -> Path:
    """The folder of a real data set; the test is skipped where it is absent."""
    root = shared / "data" / name
    if not root.is_dir():
        pytest.skip(f"the data set {name} is not in {root.parent}")
    return root


def copy_few(root: Path, to: Path) -> Path:
    """Copy six images of BCCD, the two with a box without area among them."""
    names = ["BloodImage_00343", "BloodImage_00338", *(f"BloodImage_0000{i}" for i in range(4))]
    for folder, ending in (("Annotations", "xml"), ("JPEGImages", "jpg")):
        (to / folder).mkdir(parents=True)
        for name in names:
            (to / folder / f"{name}.{ending}").write_bytes((root / folder / f"{name}.{ending}").read_bytes())
    (to / "ImageSets" / "Main").mkdir(parents=True)
    for split, part in (("few", names), ("val", names[1:3])):
        (to / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in part))
    return to
