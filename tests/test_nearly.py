"""Data that are nearly as expected are read as they are meant, or the difference is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fna.config import DetectionDataConfig, PoseDataConfig, SegmentationDataConfig
from fna.data import detection, pose, segmentation
from fna.data.detection.boxes import DetectionData
from fna.errors import FnaError
from fna.files import write_json
from fna.stages.photos import find_images


def picture(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(path, "JPEG" if path.suffix == ".jfif" else None)


def coco(root: Path, files: list[str], change: Callable[[dict[str, Any]], Any] = lambda document: None) -> Any:
    """Write two images of one cell each, called `files` on disk, and cell_0.png and cell_1.png in the json."""
    for number, name in enumerate(files):
        picture(root / name, number)
    document = {
        "images": [{"id": n + 1, "file_name": f"train/cell_{n}.png"} for n in range(2)],
        "annotations": [
            {"id": n + 1, "image_id": n + 1, "category_id": 1, "iscrowd": 0, "bbox": [5 + n, 5, 20, 30]}
            for n in range(2)
        ],
        "categories": [{"id": 1, "name": "cell"}],
    }
    change(document)
    write_json(root / "train.json", document)
    return detection.open_data(DetectionDataConfig(format="coco", root=str(root)), "train")


def boxes(data: DetectionData) -> list[list[float]]:
    return [data.truth(i)["boxes"].tolist()[0] for i in range(len(data))]


CELLS = [[5, 5, 25, 35], [6, 5, 26, 35]]


@pytest.mark.parametrize(
    ("files", "written"),
    [
        (["train/cell_0.PNG", "train/Cell_1.png"], "train/{}"),
        (["train/cell_0.png", "train/cell_1.png"], "train\\{}"),
        (["train/cell_0.png", "train/cell_1.png"], "D:\\data\\train\\{}"),
        (["train/cell_0.png", "train/cell_1.png"], "/home/else/{}"),
        (["images/train/cell_0.png", "images/train/cell_1.png"], "some/where/{}"),
        (["train/my cell_0.png", "train/my cell_1.png"], "train/my%20{}"),
    ],
)
def test_names_that_nearly_fit_are_tried_and_said(tmp_path: Path, files: list[str], written: str) -> None:
    def rename(document: dict[str, Any]) -> None:
        for number, image in enumerate(document["images"]):
            image["file_name"] = written.format(f"cell_{number}.png")

    data = coco(tmp_path, files, rename)
    assert boxes(data) == CELLS
    assert any("have other names than the annotations say" in line for line in data.skipped)
    again = detection.DetectionData.from_index(data.to_index(tmp_path), tmp_path, "again", 1.0)
    assert (again.load(1)[0] == data.load(1)[0]).all()


def test_a_name_that_may_be_either_is_none(tmp_path: Path) -> None:
    def rename(document: dict[str, Any]) -> None:
        document["images"][1]["file_name"] = "train/CELL.png"

    with pytest.raises(FnaError, match=r"missing images: 1"):
        coco(tmp_path, ["train/cell_0.png", "train/Cell.png", "train/cell.png"], rename)


def change(where: str, **values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda document: [item.update(values) for item in document[where]]


@pytest.mark.parametrize(
    "changed",
    [
        change("annotations", iscrowd=None),
        change("annotations", iscrowd="0"),
        change("annotations", iscrowd=False),
        change("annotations", id=1),  # they begin anew in every image
        change("annotations", category_id="1"),
        change("annotations", category_id=1.0),
        lambda d: [row.update(image_id=str(row["image_id"])) for row in d["annotations"]],
        lambda d: [row.update(id=f"{row['id']}") for row in d["images"]],
        lambda d: [row.update(id=float(row["id"])) for row in d["images"]],
        lambda d: d["categories"].insert(0, {"id": 0, "name": "cell", "supercategory": "none"}),
    ],
)
def test_what_means_the_same_is_read(tmp_path: Path, changed: Callable[[dict[str, Any]], Any]) -> None:
    data = coco(tmp_path, ["train/cell_0.png", "train/cell_1.png"], changed)
    assert boxes(data) == CELLS
    assert (data.classes, data.category_ids, data.skipped) == (("cell",), (1,), [])


def test_two_used_categories_of_one_name_are_refused(tmp_path: Path) -> None:
    def twice(document: dict[str, Any]) -> None:
        document["categories"].insert(0, {"id": 0, "name": "cell"})
        document["annotations"][0]["category_id"] = 0

    with pytest.raises(FnaError, match="has the id or the name of another one"):
        coco(tmp_path, ["train/cell_0.png", "train/cell_1.png"], twice)


# --- skeletons --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("skeleton", "links", "noted"),
    [
        ([[1, 2], [2, 3]], ((0, 1), (1, 2)), False),
        ([[0, 1], [1, 2]], ((0, 1), (1, 2)), False),  # counted from 0
        ([[0, 1], [1, 3]], ((0, 2),), True),  # neither: 0 names no joint
    ],
)
def test_skeletons_count_from_1_or_from_0(tmp_path: Path, skeleton: Any, links: Any, noted: bool) -> None:
    picture(tmp_path / "images" / "0.png")
    points = [9, 9, 2, 30, 40, 2, 20, 20, 2]
    person = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 50, 50], "keypoints": points}
    category = {"id": 1, "name": "person", "keypoints": ["nose", "neck", "tail"], "skeleton": skeleton}
    document = {"images": [{"id": 1, "file_name": "0.png"}], "annotations": [person], "categories": [category]}
    write_json(tmp_path / "train.json", document)
    data = pose.open_data(PoseDataConfig(format="coco", root=str(tmp_path), crop=(64, 64)), "train")
    assert data.links == links
    assert any("links of the skeleton" in line for line in data.skipped) == noted


# --- files beside each other ------------------------------------------------------------------------------------------


def test_a_json_beside_an_image_is_no_image(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "a.json").write_text("{}")
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.kron([[0, 1]], np.ones((64, 32))).astype(np.uint8)).save(tmp_path / "masks" / "a.png")
    (tmp_path / "masks" / "a.json").write_text("{}")
    (tmp_path / "train.txt").write_text("a\n")
    config = SegmentationDataConfig(format="folder", root=str(tmp_path), classes=("soil", "leaf"))
    assert segmentation.open_data(config, "train").name(0) == "a.png"


SIDE = "<xmin>11</xmin><ymin>6</ymin><xmax>40</xmax><ymax>30</ymax>"
XML = f"<annotation><object><name>cat</name><bndbox>{SIDE}</bndbox></object></annotation>"


def voc(root: Path, xml: bytes = XML.encode(), image: str = "a.png") -> DetectionData:
    for name in ("ImageSets/Main", "Annotations"):
        (root / name).mkdir(parents=True)
    picture(root / "JPEGImages" / image)
    (root / "Annotations" / "a.xml").write_bytes(xml)
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\n")
    return detection.open_data(DetectionDataConfig(format="voc", root=str(root)), "train")


def test_a_voc_image_has_a_json_beside_it_or_a_name_in_capitals(tmp_path: Path) -> None:
    (tmp_path / "a" / "JPEGImages").mkdir(parents=True)
    (tmp_path / "a" / "JPEGImages" / "a.json").write_text("{}")
    for root, image in (("a", "a.png"), ("b", "A.PNG"), ("c", "a.jfif")):
        assert len(voc(tmp_path / root, image=image)) == 1


def test_a_voc_folder_with_one_class_says_that_twenty_are_learned(tmp_path: Path) -> None:
    data = voc(tmp_path)
    assert len(data.classes) == 20
    assert any("has 1 of VOC's 20 classes" in line and "--data.classes '[cat]'" in line for line in data.skipped)


def test_xml_in_another_encoding_says_what_to_save_it_as(tmp_path: Path) -> None:
    xml = f'<?xml version="1.0" encoding="gbk"?>{XML.replace("cat", "猫")}'.encode("gbk")
    with pytest.raises(FnaError, match=r"its encoding is gbk: save it as UTF-8"):
        voc(tmp_path, xml)


def yolo(root: Path, split: str = "images/train") -> DetectionData:
    (root / "data.yaml").write_text(f"names: [cell]\ntrain: {split}")
    return detection.open_data(DetectionDataConfig(format="yolo", root=str(root)), "train")


def test_text_files_beside_their_images_and_in_labels_and_jfif(tmp_path: Path) -> None:
    for number, name in enumerate(("a.png", "b.jfif")):
        picture(tmp_path / "images" / "train" / name, number)
    (tmp_path / "images" / "train" / "a.txt").write_text("0 0.5 0.5 0.25 0.25")
    (tmp_path / "labels" / "train").mkdir(parents=True)
    (tmp_path / "labels" / "train" / "b.txt").write_text("0 0.5 0.5 0.5 0.5")
    assert boxes(yolo(tmp_path)) == [[24, 24, 40, 40], [16, 16, 48, 48]]
    assert [path.name for path in find_images(tmp_path / "images" / "train")] == ["a.png", "b.jfif"]


def test_lists_of_windows(tmp_path: Path) -> None:
    for number in range(3):
        picture(tmp_path / "images" / "train" / f"{number}.png", number)
        (tmp_path / "labels" / "train").mkdir(parents=True, exist_ok=True)
        (tmp_path / "labels" / "train" / f"{number}.txt").write_text("0 0.5 0.5 0.25 0.25")
    lines = ("images\\train\\0.png", ".\\images\\train\\1.png", "C:\\data\\images\\train\\2.png")
    (tmp_path / "list.txt").write_bytes("\ufeff".encode() + "\r\n".join(lines).encode())
    assert [yolo(tmp_path, "list.txt").name(i) for i in range(3)] == [f"images/train/{n}.png" for n in range(3)]
