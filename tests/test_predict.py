"""Predictions on a folder: whose boxes are read, and what a prediction of them holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_deeper import opened
from tiny_pose import JOINTS, pose_config, write_figures

from fna.checkpoint import read_json
from fna.errors import FnaError
from fna.predict import Labels, find_images, read_boxes, write_predictions

IMAGES = [Path("photos/a.jpg"), Path("photos/17.png")]
BOX = [1.0, 2.0, 30.0, 40.0]


def boxes_of(tmp_path: Path, content: Any) -> dict[str, list[Any]]:
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(content))
    return read_boxes(path, IMAGES)


@pytest.mark.parametrize(
    "content",
    [
        [{"file_name": "a.jpg", "bbox": BOX}, {"image_id": 17, "bbox": BOX}, {"image_id": 99, "bbox": BOX}],
        {
            "images": [{"id": 5, "file_name": "train/a.jpg"}, {"id": 6, "file_name": "17.png"}],
            "annotations": [{"image_id": 5, "bbox": BOX}, {"image_id": 6, "bbox": BOX}],
        },
    ],
    ids=["results", "annotations"],
)
def test_boxes_find_their_images(tmp_path: Path, content: Any) -> None:
    found = boxes_of(tmp_path, content)
    assert {name: [record["box"].tolist() for record in records] for name, records in found.items()} == {
        "a.jpg": [BOX],
        "17.png": [BOX],
    }


def test_numbers_find_the_files_of_coco(tmp_path: Path) -> None:
    """COCO's results call 000000000785.jpg 785."""
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps([{"image_id": 785, "category_id": 1, "bbox": BOX, "score": 0.9}]))
    assert set(read_boxes(path, [Path("000000000785.jpg"), Path("a.jpg")])) == {"000000000785.jpg"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"file_name": "a.jpg"}], "'bbox'; expected a list of objects with 'bbox'"),
        ([{"file_name": "a.jpg", "bbox": [1, 2, 0, 4]}], r"a.jpg is not \[x, y, width, height\]"),
        ([{"file_name": "a.jpg", "bbox": [1, 2, "x", 4]}], "is no COCO json"),
        (["a.jpg"], "is no COCO json"),
        (3, "is no COCO json"),
        ({"images": [1], "annotations": []}, "is no COCO json"),
        ({"images": [{"id": [1], "file_name": "a.jpg"}]}, "is no COCO json"),
        ([{"file_name": "a.jpg", "bbox": [1, 2, 10**400, 4]}], "is no COCO json"),
        ([{"file_name": "b.jpg", "bbox": BOX}], "has no box for any image, such as a.jpg"),
        ({}, "has no box for any image"),
    ],
)
def test_a_file_without_boxes_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(FnaError, match=message):
        boxes_of(tmp_path, content)


def test_each_box_is_a_person_and_an_image_without_one_is_one(tmp_path: Path) -> None:
    root = write_figures(tmp_path / "data")
    with opened(pose_config(root)) as setting:
        model = setting.compute.place(setting.build(setting.seed.arch))
        paths = find_images(
            next(path for path in (root / "images", root / "images" / "val") if any(path.glob("*.png")))
        )
        boxes = {paths[0].name: [{"box": torch.tensor(BOX)}] * 2}
        told = write_predictions(model, setting, paths[:2], tmp_path / "out", boxes)
    results = read_json(tmp_path / "out" / "results.json")
    assert told["files"] == [f"{path.stem}.png" for path in paths[:2]] + ["results.json"]
    assert [row["file_name"] for row in results] == [paths[0].name, paths[0].name, paths[1].name]
    assert all(len(row["keypoints"]) == 3 * len(JOINTS) for row in results)


@pytest.mark.parametrize("box", [[0.0, 0.0, 1e30, 1e30], [500.0, 0.0, 20.0, 20.0], [-9e5, 0.0, 1e6, 40.0]])
def test_boxes_that_are_not_in_the_image_are_refused(tmp_path: Path, box: list[float]) -> None:
    root = write_figures(tmp_path / "data")
    with opened(pose_config(root)) as setting:
        model = setting.compute.place(setting.build(setting.seed.arch))
        path = find_images(root / "images")[0]
        with pytest.raises(FnaError, match=f"a box of {path.name} cannot be a person's"):
            write_predictions(model, setting, [path], tmp_path / "out", {path.name: [{"box": torch.tensor(box)}]})


def test_labels_survive_json() -> None:
    labels = Labels(("a", "b"), ((1, 2, 3), (4, 5, 6)), ((0, 1),), (3, 7))
    assert Labels.from_json(json.loads(json.dumps(labels.to_json()))) == labels


def test_labels_of_an_older_run_are_its_colours() -> None:
    assert Labels.from_json({"colors": {"a": [1, 2, 3]}, "madds": 7}) == Labels(("a",), ((1, 2, 3),))


@pytest.mark.parametrize("record", [{}, {"colors": {"a": [1, 2]}}, {"colors": {"a": [1, 2, 3]}, "links": [3]}])
def test_damaged_labels_are_named(record: dict[str, Any]) -> None:
    with pytest.raises(FnaError, match="record of its classes is damaged"):
        Labels.from_json(record)
