"""Predictions on a folder: whose boxes are read, and what a prediction of them holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import finished
from tiny_deeper import opened
from tiny_pose import JOINTS, pose_config, write_figures

from fna.data.decoding import to_pixels
from fna.data.pose.person_boxes import PersonBoxes, read_boxes
from fna.errors import FnaError
from fna.exporting import standalone
from fna.files import json_bytes, read_json
from fna.stages.labelling import write_predictions
from fna.stages.photos import find_images
from fna.stages.predict import Photo, predictions_of
from fna.stages.writing import FORMATS, Labelled
from fna.tasks.labels import Labels

IMAGES = [Path("photos/a.jpg"), Path("photos/17.png")]
BOX = [1.0, 2.0, 30.0, 40.0]


def boxes_of(tmp_path: Path, content: Any) -> PersonBoxes:
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
    assert {name: [record["box"].tolist() for record in records] for name, records in found.records.items()} == {
        "a.jpg": [BOX],
        "17.png": [BOX],
    }


def test_numbers_find_the_files_of_coco(tmp_path: Path) -> None:
    """COCO's results call 000000000785.jpg 785."""
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps([{"image_id": 785, "category_id": 1, "bbox": BOX, "score": 0.9}]))
    found = read_boxes(path, [Path("000000000785.jpg"), Path("a.jpg")])
    assert set(found.records) == {"000000000785.jpg"}
    assert found.image_ids == {"000000000785.jpg": 785}


def test_only_single_persons_count(tmp_path: Path) -> None:
    rows = [
        {"image_id": 17, "bbox": BOX, "category_id": 4, "score": 0.5},
        {"image_id": 17, "bbox": BOX, "category_id": 1},
        {"image_id": 17, "bbox": BOX, "category_id": 4, "iscrowd": 1},
    ]
    categories = [{"id": 1, "name": "car"}, {"id": 4, "name": "Person"}]
    named = boxes_of(tmp_path, {"annotations": rows, "categories": categories})
    assert [record["score"] for record in named.records["17.png"]] == [0.5]
    assert named.left_out == 2
    unnamed = boxes_of(tmp_path, rows)
    assert [record["score"] for record in unnamed.records["17.png"]] == [1]
    assert len(boxes_of(tmp_path, rows[:1]).records["17.png"]) == 1, "the only category there is"
    with pytest.raises(FnaError, match=r"has no person in any image, such as a.jpg .1 boxes are crowds"):
        boxes_of(tmp_path, rows[2:])
    posed = {"annotations": rows[:1], "categories": [{"id": 4, "name": "mouse", "keypoints": ["nose", "tail"]}]}
    assert len(boxes_of(tmp_path, posed).records["17.png"]) == 1, "what has joints is posed"


def test_boxes_of_cars_are_no_persons(tmp_path: Path) -> None:
    rows = [{"image_id": 17, "bbox": BOX, "category_id": 3}]
    with pytest.raises(FnaError, match=r"boxes of car, of no category 'person'; give the boxes of persons"):
        boxes_of(tmp_path, {"annotations": rows, "categories": [{"id": 3, "name": "car"}]})
    with pytest.raises(FnaError, match=r"persons, of no category 'person' \(did you mean 'persons'\?\)"):
        boxes_of(tmp_path, {"annotations": rows, "categories": [{"id": 3, "name": "persons"}]})


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
        ([{"file_name": "a.jpg", "bbox": "1234"}], r"a.jpg is not \[x, y, width, height\]"),
        ([{"file_name": "a.jpg", "bbox": BOX, "score": "high"}], "the score high of a box of a.jpg is not between"),
        ([{"file_name": "b.jpg", "bbox": BOX}], "has no person in any image, such as a.jpg"),
        ({}, "has no person in any image"),
    ],
)
def test_a_file_without_boxes_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(FnaError, match=message):
        boxes_of(tmp_path, content)


def test_each_box_is_a_person(tmp_path: Path) -> None:
    """An image without a box has nobody, and nothing is invented there; without boxes an image is a person."""
    root = write_figures(tmp_path / "data")
    with opened(pose_config(root)) as job:
        model = finished(job)
        paths = image_paths(root)[:2]
        box = torch.tensor(BOX)
        boxes = PersonBoxes(
            {paths[0].name: [{"box": box, "score": 1.0}, {"box": box, "score": 0.5}]}, {paths[0].name: 77}
        )
        told = write_predictions(model, job.compute, paths, tmp_path / "out", boxes)
        write_predictions(model, job.compute, paths, tmp_path / "whole", None)
    results = read_json(tmp_path / "out" / "results.json")
    assert told["files"] == [f"{path.stem}.png" for path in paths] + ["results.json"]
    assert [(row["file_name"], row["image_id"]) for row in results] == [(paths[0].name, 77)] * 2
    assert all(len(row["keypoints"]) == 3 * len(JOINTS) for row in results)
    assert results[1]["score"] == pytest.approx(results[0]["score"] / 2, abs=1e-6)
    untouched, pictured = (
        Image.open(path).convert("RGB") for path in (paths[1], tmp_path / "out" / f"{paths[1].stem}.png")
    )
    assert untouched.tobytes() == pictured.tobytes()
    assert [row["file_name"] for row in read_json(tmp_path / "whole" / "results.json")] == [path.name for path in paths]


@pytest.mark.parametrize("box", [[0.0, 0.0, 1e30, 1e30], [500.0, 0.0, 20.0, 20.0], [-9e5, 0.0, 1e6, 40.0]])
def test_boxes_that_are_not_in_the_image_are_refused(tmp_path: Path, box: list[float]) -> None:
    root = write_figures(tmp_path / "data")
    with opened(pose_config(root)) as job:
        model = finished(job)
        paths = image_paths(root)[:2]
        boxes = PersonBoxes({path.name: [{"box": torch.tensor(box), "score": 1.0}] for path in paths[:1]})
        with pytest.raises(
            FnaError, match=f"1 of 2 images were left out.* a box of {paths[0].name} cannot be a person's"
        ):
            write_predictions(model, job.compute, paths, tmp_path / "out", boxes)
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == sorted(
        [f"{paths[1].stem}.png", "results.json"]
    )


def test_a_broken_image_does_not_keep_the_others_from_being_written(tmp_path: Path) -> None:
    root = write_figures(tmp_path / "data")
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes(b"<html>")
    (photos / "b.png").write_bytes(image_paths(root)[0].read_bytes())
    (photos / "c.png").mkdir()
    with opened(pose_config(root)) as job:
        model = finished(job)
        with pytest.raises(FnaError, match=r"1 of 2 images were left out, the others are in .*a\.png is not an image"):
            write_predictions(model, job.compute, find_images(photos), tmp_path / "out", None)
        assert [row["file_name"] for row in read_json(tmp_path / "out" / "results.json")] == ["b.png"]
        before = (photos / "b.png").read_bytes()
        with pytest.raises(FnaError, match="holds the images themselves, which would be overwritten"):
            write_predictions(model, job.compute, find_images(photos), photos / ".", None)
        with pytest.raises(FnaError, match="holds the images themselves, which would be overwritten"):
            write_predictions(model, job.compute, find_images(photos), photos.parent, None)
        with pytest.raises(FnaError, match=r"cannot make the folder --out .*b\.png: File exists; give another"):
            write_predictions(model, job.compute, find_images(photos), photos / "b.png", None)
    assert (photos / "b.png").read_bytes() == before


@pytest.mark.parametrize("values", [np.uint16, np.int32, np.float32])
def test_pixels_of_more_than_8_bits_are_not_clipped(values: type) -> None:
    with pytest.raises(FnaError, match="more than 8 bits"):
        to_pixels(Image.fromarray(np.zeros((4, 6), values)))
    with pytest.raises(ValueError, match="more than 8 bits"):  # of the program beside an exported network
        standalone._pixels(Image.fromarray(np.zeros((4, 6), values)))


def test_labels_have_no_joints_outside_the_image(tmp_path: Path) -> None:
    seen = {"points": torch.tensor([[-3.5, 5, 1], [9.5, 4.5, 1], [40, 5, 1]]), "box": torch.tensor([0.0, 0, 10, 10])}
    with opened(pose_config(write_figures(tmp_path / "data"))) as job:
        text = FORMATS["yolo"].make(job.problem, Labelled("a.png", 1, np.zeros((20, 20, 3), np.uint8), [seen]))
    assert text.split()[5:] == b"0 0 0 0.5 0.25 2 0 0 0".split()


def test_a_name_that_is_no_utf8_can_be_written() -> None:
    rows = [{"file_name": "caf\udce9.png"}]
    assert json.loads(json_bytes(rows)) == rows


def test_photos_without_a_person_are_not_held_back(tmp_path: Path) -> None:
    opened_so_far = []

    def photos() -> Iterator[Photo]:
        for number in range(50):
            opened_so_far.append(number)
            yield Photo(np.zeros((4, 4, 3), np.uint8), [], [], [])

    with opened(pose_config(write_figures(tmp_path / "data"))) as job:
        next(predictions_of(finished(job), photos(), job.compute))
        assert len(opened_so_far) <= job.config.evaluate.batch_size + 1


def test_a_folder_of_images_has_to_have_some(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    assert find_images(tmp_path / "a.jpg") == [tmp_path / "a.jpg"], "one image is fine, too"
    with pytest.raises(FnaError, match="nowhere does not exist"):
        find_images(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FnaError, match=r"no image .*\.tif"):
        find_images(tmp_path / "empty")


def image_paths(root: Path) -> list[Path]:
    return sorted(root.rglob("*.png"))


def test_labels_survive_json() -> None:
    labels = Labels(("a", "b"), ((1, 2, 3), (4, 5, 6)), ((0, 1),), (3, 7))
    assert Labels.from_json(json.loads(json.dumps(labels.to_json()))) == labels


@pytest.mark.parametrize("record", [{}, {"colors": {"a": [1, 2]}}, {"colors": {"a": [1, 2, 3]}, "links": [3]}])
def test_damaged_labels_are_named(record: dict[str, Any]) -> None:
    with pytest.raises(FnaError, match="record of the network's classes is damaged"):
        Labels.from_json(record)
