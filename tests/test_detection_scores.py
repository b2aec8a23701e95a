"""Detection metrics: equal to pycocotools, worked by hand, and right at the edges (no truth, no boxes, crowds)."""

from __future__ import annotations

import contextlib
import io
import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fna.config import Config, RetinaNet
from fna.reporting import figures
from fna.reporting.results import curves
from fna.tasks.detection_scores import (
    CURVES,
    TITLES,
    TWELVE,
    DetectionScores,
    area_under_curve,
    confusion,
    match_voc,
    records,
    score_images,
    voc_ap50,
)
from fna.training import distributed

IDS = (7, 3, 90)  # category ids with gaps, and not in the order of the classes
DATA = SimpleNamespace(classes=("cat", "dog", "owl"), category_ids=IDS)
BOX = [10.0, 10.0, 50.0, 50.0]
FAR = [200.0, 200.0, 260.0, 280.0]


def truth(*boxes: tuple[list[float], int], image_id: int = 1, crowd: Any = (), difficult: Any = ()) -> dict[str, Any]:
    corners = torch.tensor([box for box, _ in boxes]).reshape(-1, 4)
    return {
        "boxes": corners,
        "labels": torch.tensor([label for _, label in boxes], dtype=torch.int64),
        "crowd": torch.tensor([i in crowd for i in range(len(boxes))], dtype=torch.bool),
        "difficult": torch.tensor([i in difficult for i in range(len(boxes))], dtype=torch.bool),
        "area": (corners[:, 2:] - corners[:, :2]).prod(1),
        "image_id": image_id,
    }


def prediction(*boxes: tuple[list[float], int, float]) -> dict[str, Any]:
    return {
        "boxes": torch.tensor([box for box, _, _ in boxes]).reshape(-1, 4),
        "labels": torch.tensor([label for _, label, _ in boxes], dtype=torch.int64),
        "scores": torch.tensor([score for _, _, score in boxes]),
    }


def scored(*pairs: tuple[Any, Any], data: Any = DATA) -> dict[str, Any]:
    """Score (truth, prediction) pairs through the class the engine uses."""
    scores = DetectionScores(data, Config(task=RetinaNet()))
    for index, (true, found) in enumerate(pairs):
        scores.update([index], [found], [{**true, "image_id": index + 1}])
    result = scores.compute()
    json.dumps(result, allow_nan=False)
    return result


def random_scene(rng: np.random.Generator, images: int = 12, number: int = 8) -> list[tuple[Any, Any]]:
    """Boxes of all sizes, crowds among them, and detections: moved truths, of another class now and then, and noise."""
    pairs = []
    for _ in range(images):
        sizes = np.exp(rng.uniform(np.log(8), np.log(200), (rng.integers(0, number), 2)))
        corners = rng.uniform(0, 300, (len(sizes), 2))
        boxes = np.concatenate([corners, corners + sizes], 1)
        labels = rng.integers(0, 3, len(boxes))
        crowds = {i for i in range(len(boxes)) if rng.random() < 0.15}
        found = []
        for box, label in zip(boxes, labels, strict=True):
            for _ in range(rng.integers(0, 3)):
                moved = (box + rng.normal(0, 0.08, 4) * (box[2] - box[0])).tolist()
                moved[2:] = [max(a + 1, b) for a, b in zip(moved[:2], moved[2:], strict=True)]
                wrong = rng.random() < 0.2
                found.append((moved, int(label + wrong) % 3, round(float(rng.random()), 1)))  # tied scores
        found += [([5.0, 5.0, 40.0, 90.0], int(rng.integers(3)), float(rng.random()))] * int(rng.integers(0, 2))
        true = truth(*zip(boxes.tolist(), labels.tolist(), strict=True), crowd=crowds)
        pairs.append((true, prediction(*sorted(found, key=lambda f: -f[2]))))
    return pairs


# --- COCO -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rng_seed", [0, 1, 2])
def test_equals_pycocotools(rng_seed: int) -> None:
    pytest.importorskip("pycocotools", reason="the oracle is not installed: pip install pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    pairs = random_scene(np.random.default_rng(rng_seed), images=12 if rng_seed else 120, number=8 if rng_seed else 2)
    ours = scored(*pairs)
    annotations = [
        {
            "image_id": i + 1,
            "category_id": IDS[label],
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": area,
            "iscrowd": int(crowd),
        }
        for i, (true, _) in enumerate(pairs)
        for (x0, y0, x1, y1), label, area, crowd in zip(
            *(true[key].tolist() for key in ("boxes", "labels", "area", "crowd")), strict=True
        )
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO()
        gt.dataset = {
            "info": {},
            "images": [{"id": i + 1} for i in range(len(pairs))],
            "categories": [{"id": number, "name": name} for number, name in zip(IDS, DATA.classes, strict=True)],
            "annotations": [{"id": n + 1, **annotation} for n, annotation in enumerate(annotations)],
        }
        gt.createIndex()
        oracle = COCOeval(gt, gt.loadRes([dict(entry) for entry in ours["results"]]), "bbox")
        oracle.evaluate()
        oracle.accumulate()
        oracle.summarize()
    expected = [None if value < 0 else value for value in oracle.stats.tolist()]
    assert [ours[name] for name in TWELVE] == [e if e is None else pytest.approx(e, abs=1e-12) for e in expected]
    for k, name in enumerate(sorted(DATA.classes, key=lambda n: IDS[DATA.classes.index(n)])):
        precision = oracle.eval["precision"][:, :, k, 0, -1]
        assert ours["ap"][name] == pytest.approx(precision.mean(), abs=1e-12)
        assert ours["ap50"][name] == pytest.approx(precision[0].mean(), abs=1e-12)
        assert ours["curves"][CURVES]["lines"][name][1] == np.round(precision[0], 4).tolist()


def test_perfect_boxes_score_1_and_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    pairs = random_scene(np.random.default_rng(3))
    perfect = [
        (true, prediction(*((b, k, 1.0) for b, k in zip(true["boxes"].tolist(), true["labels"].tolist(), strict=True))))
        for true, _ in pairs
    ]
    result = scored(*perfect)
    for key in TITLES:
        value = result[key]
        values = list(value.values()) if isinstance(value, dict) else [value]
        if not key.startswith("mar_1"):  # not all boxes are among the first or the first ten
            assert values == pytest.approx([1.0] * len(values)), key
    assert capfd.readouterr() == ("", "")


def test_every_title_is_a_score_and_every_score_has_a_title() -> None:
    result = scored(*random_scene(np.random.default_rng(4)))
    assert set(result) == {*TITLES, "curves", "confusion", "counts", "results"}


def test_nothing_found_scores_0() -> None:
    result = scored((truth((BOX, 0)), prediction()))
    assert result["map"] == result["map50"] == result["voc_map50"] == result["ap"]["cat"] == 0
    assert result["ap"]["dog"] is result["ap50"]["dog"] is result["voc_ap50"]["dog"] is result["map_large"] is None
    assert list(result["curves"][CURVES]["lines"]) == ["cat"]
    assert result["results"] == []


def test_no_truth_at_all_scores_0_and_none() -> None:
    result = scored((truth(), prediction((BOX, 0, 0.9))), (truth(), prediction()))
    assert result["map"] == 0
    assert result["map50"] is result["voc_map50"] is None
    assert set(result["ap"].values()) == {None}
    assert result["curves"][CURVES]["lines"] == {}


def test_no_image_at_all() -> None:
    assert scored()["map"] == 0


def test_images_without_truth_count_what_is_found_there() -> None:
    good = (truth((BOX, 0)), prediction((BOX, 0, 0.5)))
    bad = (truth(), prediction((BOX, 0, 0.9)))
    assert scored(good, bad)["map50"] == pytest.approx(0.5)
    assert scored(good, (truth(), prediction()))["map50"] == pytest.approx(1)


@pytest.mark.parametrize("kind", ["crowd", "difficult"])
def test_crowd_and_difficult_boxes_count_neither_way(kind: str) -> None:
    true = truth((BOX, 0), (FAR, 0), **{kind: {1}})
    without, found = prediction((BOX, 0, 0.5)), prediction((FAR, 0, 0.9), (FAR, 0, 0.8), (BOX, 0, 0.5))
    for result in (scored((true, without)), scored((true, found))):
        assert result["map"] == pytest.approx(1)
        assert result["voc_map50"] == 1
        assert np.array(result["confusion"]["counts"]).sum() == 1


# --- processes --------------------------------------------------------------------------------------------------------


def test_processes_equal_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = random_scene(np.random.default_rng(5))
    whole, parts = scored(*pairs), [DetectionScores(DATA, Config(task=RetinaNet())) for _ in range(2)]
    for index, (true, found) in enumerate(pairs):
        parts[index % 2].update([index], [found], [{**true, "image_id": index + 1}])
    together = [image for part in parts for image in part.images]
    assert json.loads(json.dumps(together)) == together
    monkeypatch.setattr(distributed, "gather", lambda values: json.loads(json.dumps(together)))
    assert [part.compute() for part in parts] == [whole, whole]


# --- records ----------------------------------------------------------------------------------------------------------


def test_records_have_the_data_sets_own_numbers() -> None:
    found = prediction(([1.23456, 2.0, 11.0, 22.5], 1, 0.87654321))
    entry = {"image_id": 5, "category_id": 3, "bbox": [1.235, 2.0, 9.765, 20.5], "score": 0.876543}
    assert records(found, 5, DATA) == [entry]
    assert records(found, "a.jpg", SimpleNamespace(classes=DATA.classes))[0]["category_id"] == 2


# --- VOC --------------------------------------------------------------------------------------------------------------


def test_voc_ap_by_hand() -> None:
    near, off = [12.0, 12.0, 50.0, 50.0], [30.0, 30.0, 70.0, 70.0]
    result = scored(
        (truth((BOX, 0), (FAR, 0)), prediction((near, 0, 0.9), (off, 0, 0.8), (BOX, 0, 0.7), (FAR, 0, 0.6)))
    )
    # right, wrong (IoU 1/7), wrong (taken), right: precision 1 up to recall 1/2, then 2/4
    assert result["voc_map50"] == pytest.approx(0.5 * 1 + 0.5 * 0.5)


def test_voc_boxes_look_at_their_best_truth_only() -> None:
    """A second box on a found truth is wrong, even where it also overlaps a free one."""
    truths = np.array([[0.0, 0, 10, 10], [0, 2, 10, 12]])
    found = np.array([[0.0, 0, 10, 10], [0, 0.5, 10, 10.5], [0, 2, 10, 12]])
    assert match_voc(found, truths, np.array([False, False])) == [1, 0, 1]
    assert match_voc(found, truths, np.array([True, False])) == [-1, -1, 1]


def test_voc_iou_of_exactly_one_half_is_found() -> None:
    assert match_voc(np.array([[0.0, 0, 10, 5]]), np.array([[0.0, 0, 10, 10]]), np.array([False])) == [1]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.sampled_from([-1, 0, 1])), max_size=12), st.integers(0, 5))
def test_area_is_that_of_the_drawn_curve(found: list[tuple[float, int]], missed: int) -> None:
    total = max(1, sum(verdict == 1 for _, verdict in found) + missed)
    ours = area_under_curve(np.array([s for s, _ in found]), np.array([v for _, v in found], int), total)
    points, hits, seen = [(0.0, 0.0)], 0, 0
    for _, verdict in sorted((f for f in found if f[1] >= 0), key=lambda f: -f[0]):
        hits, seen = hits + verdict, seen + 1
        points.append((hits / total, hits / seen))
    steps = pairwise(points)
    area = sum((b[0] - a[0]) * max(p for r, p in points if r >= b[0] and p) for a, b in steps if b[0] > a[0])
    assert ours == pytest.approx(area)
    assert 0 <= ours <= 1


# --- confusion --------------------------------------------------------------------------------------------------------


def test_confusion_counts_every_truth_once() -> None:
    result = scored(
        (
            truth((BOX, 0), (FAR, 1), ([300.0, 0.0, 340.0, 40.0], 2)),
            prediction((BOX, 0, 0.9), (BOX, 1, 0.8), (FAR, 2, 0.5), (BOX, 0, 0.1)),
        )
    )["confusion"]
    assert result["rows"] == result["columns"] == ["cat", "dog", "owl", "background"]
    assert result["counts"] == [
        [1, 0, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 0, 1],  # not found
        [0, 1, 0, 0],  # found twice; 0.1 is below draw_threshold
    ]


@pytest.mark.parametrize("rng_seed", [6, 7])
def test_confusion_adds_up(rng_seed: int) -> None:
    pairs = random_scene(np.random.default_rng(rng_seed))
    counts = np.array(scored(*pairs)["confusion"]["counts"])
    labels = np.concatenate([true["labels"][~true["crowd"]].numpy() for true, _ in pairs])
    assert counts[:3].sum(1).tolist() == np.bincount(labels, minlength=3).tolist()
    assert counts[3, 3] == 0


def test_a_box_without_area_is_no_trouble() -> None:
    flat = [10.0, 10.0, 10.0, 40.0]
    result = scored((truth((flat, 0), (BOX, 0)), prediction((flat, 0, 0.9), (BOX, 0, 0.8))))
    assert 0 < result["map50"] < 1
    images = [{"boxes": [flat], "labels": [0], "crowd": [False], "difficult": [False], "results": []}]
    assert voc_ap50(images, 1, (1,)) == [0.0]
    assert confusion(images, 1, (1,), 0.5).tolist() == [[0, 1], [0, 0]]


def test_scores_of_images_do_not_depend_on_the_order_of_classes() -> None:
    pairs = random_scene(np.random.default_rng(8))
    ours = scored(*pairs)
    swapped = SimpleNamespace(classes=("owl", "cat", "dog"), category_ids=(90, 7, 3))

    def shift(boxes: dict[str, Any]) -> dict[str, Any]:
        return {**boxes, "labels": (boxes["labels"] + 1) % 3}

    theirs = scored(*((shift(true), shift(found)) for true, found in pairs), data=swapped)
    for name in TITLES:
        assert theirs[name] == pytest.approx(ours[name])


def test_nothing_to_score_is_scored() -> None:
    assert score_images([], ("a",), (1,), 0.5)["confusion"]["counts"] == [[0, 0], [0, 0]]


# --- in the report ----------------------------------------------------------------------------------------------------


def test_the_mean_curve_comes_first_and_stands_out() -> None:
    lines = scored(*random_scene(np.random.default_rng(9)))["curves"][CURVES]["lines"]
    assert list(lines) == [figures.MEAN, *DATA.classes]
    figure = figures.draw_curves({"a": {name: (np.array(x), np.array(y)) for name, (x, y) in lines.items()}}, "x", "y")
    mean, *others = figure.axes[0].lines
    assert mean.get_linewidth() > max(line.get_linewidth() for line in others)
    assert mean.get_zorder() > max(line.get_zorder() for line in others)
    assert [text.get_text() for text in figure.legends[0].texts] == list(lines)


def test_of_many_curves_the_extremes_are_named() -> None:
    recalls = np.linspace(0, 1, 101)
    lines = {name: (recalls, np.full(101, k / 80)) for k, name in enumerate(f"class {k}" for k in range(80))}
    panel = {figures.MEAN: (recalls, recalls), **lines}
    figure = figures.draw_curves({"a": panel, "b": panel}, "recall", "precision")
    named = [*(f"largest area: class {k}" for k in (79, 78, 77)), *(f"smallest area: class {k}" for k in (2, 1, 0))]
    assert [text.get_text() for text in figure.legends[0].texts] == ["mean", *named, "74 others"]
    for axes in figure.axes:
        colors = [line.get_color() for line in axes.lines]
        assert colors.count(figures.RULE) == 74
        assert len(set(colors)) == 8


def test_a_report_without_truth_has_no_curves() -> None:
    assert figures.draw_curves({"a": {}}, "recall", "precision").axes[0].lines[:] == []


@pytest.mark.parametrize("classes", [2, 6, 21, 60])
def test_names_and_counts_of_a_confusion_do_not_overlap(classes: int) -> None:
    names = ["tennis racket"] * classes
    figure = figures.draw_confusion(np.full((classes, classes), 5000.0), names, names)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    for texts in (axes.get_xticklabels(), axes.texts[:classes]):
        assert all(a.get_window_extent().x1 < b.get_window_extent().x0 for a, b in pairwise(texts))


def test_of_many_classes_the_most_confused_are_shown(tmp_path: Path) -> None:
    names = [*(f"class {k}" for k in range(80)), "background"]
    counts = np.diag([5] * 80 + [0])
    counts[40:69, 80] = 9  # 29 classes are missed most often; the background is the thirtieth
    counts[40, 3] = 7
    row = {"title": "net", "confusion": {"rows": names, "columns": names, "counts": counts.tolist()}}
    (tmp_path / "metrics.json").write_text(json.dumps({"rows": {"adapted": row}}), encoding="utf-8")
    ((svg, caption, _),) = curves(tmp_path).drawings
    assert "Of 81 rows and columns the 30 with the most mistakes" in caption
    shown = [name for name in names if f">{name}<" in svg]
    assert shown == [*names[40:69], "background"]
    assert ">others<" in svg  # class 3, for one
