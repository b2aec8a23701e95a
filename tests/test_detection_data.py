"""Detection data: what every format reads, what is refused or mended and how that is said, and real data."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fna.config import DataConfig
from fna.data.detection import FORMATS, DetectionData, DetectionListing, open_data
from fna.data.detection import checks as rules
from fna.data.detection import listing as kinds
from fna.data.detection.checks import check_record
from fna.data.detection.listing import Box, Record
from fna.data.images import Images
from fna.errors import FnaError

H, W = 40, 60
FUZZ = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


# --- data sets made on the fly ----------------------------------------------------------------------------------------


def save(path: Path, number: int = 0, size_hw: tuple[int, int] = (H, W), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


BOXES = ([4, 5, 24, 25], [30, 10, 60, 40], [0, 0, 10, 20])  # the last reaches three rims, with the second's


def coco_json(n: int = 3) -> dict[str, Any]:
    """Image 10 i + 1 has the first i boxes; categories 3 and 7, in the wrong order, with a gap."""
    images = [{"id": 10 * i + 1, "file_name": f"{i}.jpg", "height": H, "width": W} for i in range(n)]
    annotations = [
        {
            "id": 100 * i + k,
            "image_id": 10 * i + 1,
            "category_id": (7, 3)[k % 2],
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "iscrowd": int(k == 2),
        }
        for i in range(n)
        for k, (x0, y0, x1, y1) in enumerate(BOXES[:i])
    ]
    categories = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def make_coco(root: Path, document: dict[str, Any] | None = None, n: int = 4) -> DataConfig:
    for i in range(n):
        save(root / "images" / "train" / f"{i}.jpg", i, mode="L" if i == 1 else "RGB")
    write(root / "annotations" / "instances_train.json", json.dumps(document or coco_json(n)))
    return DataConfig(format="coco", root=str(root))


def voc_object(name: str, corners: Any, more: str = "") -> str:
    sides = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
    return f"<object><name>{name}</name>{more}<bndbox>{sides}</bndbox></object>"


def voc_xml(objects: str, size_hw: tuple[int, int] = (H, W)) -> str:
    size = f"<size><width>{size_hw[1]}</width><height>{size_hw[0]}</height></size>"
    return f"<annotation>{size}{objects}</annotation>"


def make_voc(root: Path, n: int = 4) -> DataConfig:
    for i in range(n):
        save(root / "JPEGImages" / f"{i}.jpg", i)
        found = [
            voc_object(("dog", "cat")[k % 2], (x0 + 1, y0 + 1, x1, y1), "<difficult>1</difficult>" if k == 2 else "")
            for k, (x0, y0, x1, y1) in enumerate(BOXES[:i])
        ]
        write(root / "Annotations" / f"{i}.xml", voc_xml("".join(found)))
    write(root / "ImageSets" / "Main" / "train.txt", "".join(f"{i}\n" for i in range(n)))
    return DataConfig(format="voc", root=str(root), classes=("cat", "dog"))


def make_yolo(root: Path, n: int = 4) -> DataConfig:
    for i in range(n):
        save(root / "images" / "train" / f"{i}.png", i)
        lines = [
            f"{(1, 0)[k % 2]} {(x0 + x1) / 2 / W} {(y0 + y1) / 2 / H} {(x1 - x0) / W} {(y1 - y0) / H}"
            for k, (x0, y0, x1, y1) in enumerate(BOXES[:i])
        ]
        write(root / "labels" / "train" / f"{i}.txt", "\n".join(lines))
    write(root / "data.yaml", "names: [cat, dog]")
    return DataConfig(format="yolo", root=str(root))


def make_synthetic(root: Path) -> DataConfig:
    return DataConfig(format="synthetic", images=3)


MAKERS: dict[str, Callable[..., DataConfig]] = {
    "auto": lambda root: but(make_yolo(root), format="auto"),
    "coco": make_coco,
    "synthetic": make_synthetic,
    "voc": make_voc,
    "yolo": make_yolo,
}


def failure(config: DataConfig, split: str = "train") -> str:
    with pytest.raises(FnaError) as caught:
        open_data(config, split)
    return str(caught.value)


def but(config: DataConfig, **changes: Any) -> DataConfig:
    return config.model_copy(update=changes)


def corners(data: DetectionData, index: int) -> list[list[float]]:
    boxes: list[list[float]] = data.truth(index)["boxes"].tolist()
    return boxes


# --- formats ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_format_keeps_the_contract(tmp_path: Path, name: str) -> None:
    config = MAKERS[name](tmp_path)
    data = open_data(config, "train")
    assert data.skipped == []
    assert data.links == ()
    assert len(data.colors) == len(data.classes) == len(data.category_ids)
    assert (0, 0, 0) not in data.colors
    assert len(set(data.colors)) == len(data.colors)
    assert len({data.name(i) for i in range(len(data))}) == len(data) == len(data.groups)
    for index in range(len(data)):
        image, truth = data.load(index)
        n = len(truth["labels"])
        assert image.dtype == torch.uint8
        assert image.shape[0] == 3
        assert image.permute(1, 2, 0).is_contiguous()
        assert truth["boxes"].dtype == truth["area"].dtype == torch.float32
        assert truth["boxes"].shape == (n, 4)
        assert truth["labels"].dtype == torch.int64
        assert truth["crowd"].dtype == truth["difficult"].dtype == torch.bool
        assert truth["image_id"] == data.image_id(index)
        assert ((truth["labels"] >= 0) & (truth["labels"] < len(data.classes))).all()
        assert (truth["boxes"][:, 2:] > truth["boxes"][:, :2]).all()


@pytest.mark.parametrize("name", ["coco", "voc", "yolo"])
def test_formats_read_the_same_boxes(tmp_path: Path, name: str) -> None:
    data = open_data(MAKERS[name](tmp_path), "train")
    assert data.classes == ("cat", "dog")
    assert len(data) == 4
    for index in range(4):
        np.testing.assert_allclose(
            np.reshape(corners(data, index), (-1, 4)), np.reshape(BOXES[:index], (-1, 4)), atol=1e-4
        )
        assert data.truth(index)["labels"].tolist() == [1, 0, 1][:index]
    marked = {"coco": "crowd", "voc": "difficult"}.get(name)
    if marked:
        assert data.truth(3)[marked].tolist() == [False, False, True]


def test_a_format_of_another_task_is_refused_with_the_known_ones() -> None:
    said = failure(DataConfig(format="camvid"))
    assert "'camvid' is of segmentation, not of detection, whose formats are auto, coco, synthetic, voc, yolo;" in said


def test_chosen_classes_leave_others_alone(tmp_path: Path) -> None:
    for name in ("coco", "voc", "yolo"):
        config = but(MAKERS[name](tmp_path / name), classes=("dog",))
        data = open_data(config, "train")
        assert data.classes == ("dog",)
        assert [len(corners(data, i)) for i in range(4)] == [0, 1, 1, 2]
        assert "did you mean 'dog'" in failure(but(config, classes=("dogg",)))
        assert "more than once" in failure(but(config, classes=("dog", "dog")))
    assert open_data(but(make_synthetic(tmp_path), classes=("car",)), "train").classes == ("car",)


def test_upright_images_are_a_group(tmp_path: Path) -> None:
    config = make_yolo(tmp_path)
    save(tmp_path / "images" / "train" / "1.png", 0, (W, H))
    assert open_data(config, "train").groups == (0, 1, 0, 0)


# --- COCO -------------------------------------------------------------------------------------------------------------


def test_coco_ids_survive(tmp_path: Path) -> None:
    data = open_data(make_coco(tmp_path), "train")
    assert data.category_ids == (3, 7)
    assert [data.image_id(i) for i in range(4)] == [1, 11, 21, 31]


def test_coco_splits_may_be_files_and_folders_named(tmp_path: Path) -> None:
    config = make_coco(tmp_path)
    (tmp_path / "annotations" / "instances_train.json").rename(tmp_path / "mine.json")
    (tmp_path / "images").rename(tmp_path / "photos")
    assert "--data.image_folder" in failure(config, "mine.json")
    assert "photos" in failure(but(config, image_folder="photos"), "mine.json")
    assert len(open_data(but(config, image_folder="photos/train"), "mine.json")) == 4
    assert "mine.json" in failure(config, "train")  # the files that are there


def spoilt(key: str, position: int, **changes: Any) -> dict[str, Any]:
    document = coco_json(4)
    document[key][position].update(changes)
    return document


COCO_DEFECTS = {  # what is wrong -> document, kind, records left by fix, boxes left by fix
    "zero": (spoilt("annotations", 0, bbox=[4, 5, 0, 20]), rules.NO_AREA, 4, 5),
    "negative": (spoilt("annotations", 0, bbox=[24, 5, -20, 20]), rules.NEGATIVE, 4, 5),
    "nan": (spoilt("annotations", 0, bbox=[math.nan, 5, 20, 20]), rules.NOT_FINITE, 4, 5),
    "infinite": (spoilt("annotations", 0, bbox=[4, 5, math.inf, 20]), rules.NOT_FINITE, 4, 5),
    "huge": (spoilt("annotations", 0, bbox=[4, 5, 10**400, 20]), rules.NOT_FINITE, 4, 5),
    "outside": (spoilt("annotations", 0, bbox=[70, 5, 20, 20]), rules.OUTSIDE, 4, 5),
    "reaching": (spoilt("annotations", 0, bbox=[50, 5, 20, 20]), rules.REACHING_OUT, 4, 6),
    "text": (spoilt("annotations", 0, bbox=["4", "5", "20", "20"]), rules.NO_NUMBERS, 4, 5),
    "three": (spoilt("annotations", 0, bbox=[4, 5, 20]), rules.NO_NUMBERS, 4, 5),
    "no box": (spoilt("annotations", 0, bbox=None), rules.NO_NUMBERS, 4, 5),
    "class": (spoilt("annotations", 0, category_id=5), kinds.UNKNOWN_CLASS, 4, 5),
    "class type": (spoilt("annotations", 0, category_id=[3]), kinds.UNKNOWN_CLASS, 4, 5),
    "crowd": (spoilt("annotations", 0, iscrowd="no"), kinds.UNREADABLE_BOX, 4, 5),
    "image": (spoilt("annotations", 0, image_id=99), kinds.NO_IMAGE, 4, 5),
    "area": (spoilt("annotations", 0, area=math.nan), rules.BAD_AREA, 4, 6),
    "vast": (spoilt("annotations", 0, area=1e300), rules.BAD_AREA, 4, 6),  # infinite in float32
    "tiny": (spoilt("annotations", 0, area=1e-60), rules.BAD_AREA, 4, 6),  # 0 in float32
    "same id": (spoilt("annotations", 1, id=100), kinds.SAME_ID, 4, 6),
    "image id": (spoilt("images", 3, id="x"), kinds.BAD_IMAGE, 3, 3),
    "same image id": (spoilt("images", 2, id=31), kinds.BAD_IMAGE, 2, 1),
    "same image": (spoilt("images", 2, file_name="1.jpg"), kinds.SAME_IMAGE, 3, 4),
    "name": (spoilt("images", 3, file_name=""), kinds.BAD_IMAGE, 3, 3),
    "surrogate": (spoilt("images", 3, file_name="\ud800.jpg"), kinds.MISSING_IMAGE, 3, 3),
    "missing": (spoilt("images", 3, file_name="9.jpg"), kinds.MISSING_IMAGE, 3, 3),
    "size": (spoilt("images", 3, width=W + 1), rules.WRONG_SIZE, 3, 3),
}


@pytest.mark.parametrize("defect", sorted(COCO_DEFECTS))
def test_coco_defects_are_named_mended_or_left_out(tmp_path: Path, defect: str) -> None:
    document, kind, images, boxes = COCO_DEFECTS[defect]
    config = make_coco(tmp_path, document)
    message = failure(config)
    assert f"{kind}: " in message
    assert "--data.on_error fix" in message
    assert "--data.on_error skip" in message
    assert message.isascii()
    assert "Traceback" not in message
    fixed = open_data(but(config, on_error="fix"), "train")
    assert (len(fixed), sum(len(corners(fixed, i)) for i in range(len(fixed)))) == (images, boxes)
    assert fixed.skipped
    assert all(kind in line or "unknown image" in line for line in fixed.skipped)
    for index in range(len(fixed)):
        truth = fixed.truth(index)
        assert torch.isfinite(truth["boxes"]).all()
        assert (truth["area"] > 0).all()
        assert torch.isfinite(truth["area"]).all()
        assert (truth["boxes"] >= 0).all()
        assert (truth["boxes"][:, 2:] <= torch.tensor([W, H])).all()
    skipped = open_data(but(config, on_error="skip"), "train")
    assert len(skipped) <= images
    assert skipped.skipped


def test_numbers_that_are_texts_are_shown_in_quotes(tmp_path: Path) -> None:
    assert "image_id '99'" in failure(make_coco(tmp_path / "a", spoilt("annotations", 0, image_id="99")))
    crowd = spoilt("annotations", 0, iscrowd="2")
    assert "iscrowd is '2'; expected 0 or 1" in failure(make_coco(tmp_path / "b", crowd))


def test_a_box_with_the_id_and_place_of_another_is_dropped(tmp_path: Path) -> None:
    document = coco_json(4)
    document["annotations"].append(dict(document["annotations"][0]))
    fixed = open_data(but(make_coco(tmp_path, document), on_error="fix"), "train")
    assert [len(corners(fixed, i)) for i in range(4)] == [0, 1, 2, 3]


def test_boxes_are_cut_by_fix_and_a_pixel_of_slack_is_no_flaw(tmp_path: Path) -> None:
    document = spoilt("annotations", 0, bbox=[50, 5, 20, 20], area=400.0)
    fixed = open_data(but(make_coco(tmp_path / "a", document), on_error="fix"), "train")
    assert corners(fixed, 1) == [[50, 5, 60, 25]]
    assert fixed.truth(1)["area"].tolist() == [200]
    slack = open_data(make_coco(tmp_path / "b", spoilt("annotations", 0, bbox=[-1, 5, 62, 20])), "train")
    assert corners(slack, 1) == [[0, 5, 60, 25]]
    assert slack.skipped == []


def test_one_summary_counts_every_kind(tmp_path: Path) -> None:
    document = coco_json(4)
    for item, box in zip(document["annotations"], ([0, 0, 0, 0], [1, 1, 0, 0], [90, 0, 5, 5]), strict=False):
        item["bbox"] = box
    message = failure(make_coco(tmp_path, document))
    assert f"{rules.NO_AREA}: 2" in message
    assert f"{rules.OUTSIDE}: 1" in message
    assert "1.jpg, annotation 100" in message
    assert "2.jpg, annotation 201" in message
    assert "2 of 4 images" in message


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, "category 1 has the id"),
        ({"categories": [{"id": 3, "name": "a"}, {"id": 7, "name": "a"}]}, "category 1 has the id or the name"),
        ({"categories": [{"id": "one", "name": "a"}]}, "whole number 'id'"),
        ({"categories": []}, "no classes"),
        ({"annotations": []}, "none of the 4 images has a box"),
        ({"annotations": {}}, "expected a list"),
        ({"images": [3]}, "'images', item 0 is a int"),
        ({"images": []}, "no usable image of 0"),
    ],
)
def test_coco_files_that_make_no_sense(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    assert expected in failure(but(make_coco(tmp_path, coco_json(4) | changes), on_error="fix"))


def test_coco_files_that_are_no_json(tmp_path: Path) -> None:
    config = make_coco(tmp_path)
    path = tmp_path / "annotations" / "instances_train.json"
    for text, expected in (
        ('{"images": [', "line 1, column 13"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "holds a list"),
        ('{"imagse": []}', "has no 'annotations'"),
    ):
        write(path, text)
        assert expected in failure(config)
    path.write_bytes(b"\xff\xfe\x00")
    assert "cannot read" in failure(config)


# --- VOC --------------------------------------------------------------------------------------------------------------


def test_voc_counts_pixels_from_one(tmp_path: Path) -> None:
    config = make_voc(tmp_path)
    write(tmp_path / "Annotations" / "1.xml", voc_xml(voc_object("cat", (1, 1, W, H))))
    assert corners(open_data(config, "train"), 1) == [[0, 0, W, H]]
    write(tmp_path / "Annotations" / "1.xml", voc_xml(voc_object("cat", (0, 0, W, H))))  # counts from 0
    assert corners(open_data(config, "train"), 1) == [[0, 0, W, H]]


def test_voc_classes_agree_between_splits(tmp_path: Path) -> None:
    config = but(make_voc(tmp_path), classes=None)
    write(tmp_path / "ImageSets" / "Main" / "val.txt", "1\n")
    twenty = open_data(config, "val").classes
    assert len(twenty) == 20
    assert twenty == open_data(config, "train").classes
    write(tmp_path / "Annotations" / "0.xml", voc_xml(voc_object("yak", (1, 1, 9, 9))))
    assert open_data(config, "val").classes == open_data(config, "train").classes == ("cat", "dog", "yak")
    write(tmp_path / "ImageSets" / "Main" / "train.txt", "2\n3\n")
    write(tmp_path / "Annotations" / "1.xml", voc_xml(voc_object("gnu", (1, 1, 9, 9))))
    assert kinds.UNKNOWN_CLASS in failure(config, "val")


VOC_DEFECTS = {
    "zero": (voc_xml(voc_object("cat", (9, 9, 9, 9))), rules.NO_AREA),
    "negative": (voc_xml(voc_object("cat", (20, 9, 9, 20))), rules.NEGATIVE),
    "nan": (voc_xml(voc_object("cat", ("nan", 9, 20, 20))), rules.NOT_FINITE),
    "words": (voc_xml(voc_object("cat", ("left", 9, 20, 20))), kinds.UNREADABLE_BOX),
    "no box": (voc_xml("<object><name>cat</name></object>"), kinds.UNREADABLE_BOX),
    "difficult": (voc_xml(voc_object("cat", (1, 1, 9, 9), "<difficult>maybe</difficult>")), kinds.UNREADABLE_BOX),
    "outside": (voc_xml(voc_object("cat", (100, 9, 120, 20))), rules.OUTSIDE),
    "cut short": ("<annotation><object>", kinds.BAD_FILE),
    "empty": ("", kinds.BAD_FILE),
    "entity": ('<!DOCTYPE a [<!ENTITY b "cat">]><a><object><name>&b;</name></object></a>', kinds.BAD_FILE),
    "encoding": ('<?xml version="1.0" encoding="klingon"?><a/>', kinds.BAD_FILE),
    "size": (voc_xml(voc_object("cat", (1, 1, 9, 9)), (W, H)), rules.WRONG_SIZE),
}


@pytest.mark.parametrize("defect", sorted(VOC_DEFECTS))
def test_voc_defects_are_named_mended_or_left_out(tmp_path: Path, defect: str) -> None:
    text, kind = VOC_DEFECTS[defect]
    config = make_voc(tmp_path)
    write(tmp_path / "Annotations" / "2.xml", text)
    message = failure(config)
    assert f"{kind}: 1\n    2." in message
    fixed = open_data(but(config, on_error="fix"), "train")
    lost = kind in (kinds.BAD_FILE, rules.WRONG_SIZE)
    assert len(fixed) == 4 - lost
    assert len(fixed.skipped) == 2
    assert fixed.skipped[0] == f"{kind}: 1"
    assert fixed.skipped[1].startswith("2.jpg")
    skipped = open_data(but(config, on_error="skip"), "train")
    assert [skipped.name(i) for i in range(3)] == ["0.jpg", "1.jpg", "3.jpg"]
    assert skipped.image_id(2) == 4  # the numbers do not depend on what is left out


def test_voc_files_that_are_missing_or_said_to_be_nothing_wide(tmp_path: Path) -> None:
    config = make_voc(tmp_path)
    write(tmp_path / "Annotations" / "3.xml", voc_xml(voc_object("cat", (1, 1, 9, 9)), (0, 0)))
    (tmp_path / "Annotations" / "2.xml").unlink()
    (tmp_path / "JPEGImages" / "1.jpg").unlink()
    save(tmp_path / "JPEGImages" / "0.jpg").write_bytes(b"<html>")
    message = failure(config)
    for kind in (kinds.MISSING_FILE, kinds.MISSING_IMAGE, kinds.UNREADABLE_IMAGE):
        assert f"{kind}: 1" in message
    fixed = open_data(but(config, on_error="fix"), "train")
    assert len(fixed) == 1
    assert fixed.name(0) == "3.jpg"
    assert len(fixed.skipped) == 3 + 3  # kinds, then flaws


def test_voc_says_which_files_are_why_it_knows_no_classes(tmp_path: Path) -> None:
    config = make_voc(tmp_path)
    write(tmp_path / "Annotations" / "0.xml", "<annotation>")
    for i in (1, 2):
        write(tmp_path / "Annotations" / f"{i}.xml", "")
    (tmp_path / "Annotations" / "3.xml").unlink()
    for classes in (None, ("cat", "dog")):
        message = failure(but(config, classes=classes, on_error="fix"))
        assert "names no classes, as 4 of 4 annotation files are missing or bad" in message
        assert "1.xml: no element found" in message
        assert "3.xml: not in" in message
    write(tmp_path / "ImageSets" / "Main" / "train.txt", "".join(f"{i}\n" for i in range(20)))
    assert "9.xml" in failure(config)
    assert "... and 10 more" in failure(config)


def test_voc_lists_of_one_class(tmp_path: Path) -> None:
    config = make_voc(tmp_path)
    save(tmp_path / "JPEGImages" / "photo 1.jpg")
    write(tmp_path / "Annotations" / "photo 1.xml", voc_xml(voc_object("cat", (1, 1, 9, 9))))
    write(tmp_path / "ImageSets" / "Main" / "cat_train.txt", "0 -1\n2  1\n3.jpg 0\nphoto 1\n")
    data = open_data(but(config, train="cat_train"), "cat_train")
    assert [data.name(i) for i in range(len(data))] == ["0.jpg", "2.jpg", "3.jpg", "photo 1.jpg"]


# --- YOLO -------------------------------------------------------------------------------------------------------------


def test_yolo_folders_and_lists(tmp_path: Path) -> None:
    config = make_yolo(tmp_path)
    want = open_data(config, "train")
    names = [f"/somebody/else/images/train/{i}.png" if i % 2 else f"images/train/{i}.png" for i in range(4)]
    write(tmp_path / "mine.txt", "\n".join(names))
    listed = open_data(config, "mine")
    assert [corners(listed, i) for i in range(4)] == [corners(want, i) for i in range(4)]
    (tmp_path / "train").mkdir()
    (tmp_path / "images" / "train").rename(tmp_path / "train" / "images")
    (tmp_path / "labels" / "train").rename(tmp_path / "train" / "labels")
    write(tmp_path / "data.yaml", "train: ../train/images\nnames: {0: cat, 1: dog}")
    moved = open_data(config, "train")
    assert [corners(moved, i) for i in range(4)] == [corners(want, i) for i in range(4)]
    assert "no images of 'val'" in failure(config, "val")


def yolo_split(root: Path, place: str, *numbers: int) -> None:
    """Add images, and text files of one box."""
    for number in numbers:
        image = save(root / place / f"{number}.png", number)
        write(Path(str(image).replace("images", "labels")).with_suffix(".txt"), "0 0.5 0.5 0.5 0.5")


def yolo_images(root: Path, settings: str, split: str = "train", **more: Any) -> list[str]:
    """Return the images of a split, seen from the parent of the data set's folder."""
    write(root / "data.yaml", f"names: [cat, dog]\n{settings}")
    listing = FORMATS["yolo"].read(root, split, DataConfig(format="yolo", root=str(root), **more))
    assert all(record.boxes for record in listing.records)
    return [record.path.resolve().relative_to(root.parent.resolve()).as_posix() for record in listing.records]


def test_yolo_splits_of_several_places(tmp_path: Path) -> None:
    root = tmp_path / "set"
    yolo_split(root, "more/images", 8, 9)
    yolo_split(root, "images/train", 1)
    yolo_split(root, "images/other", 2)
    write(root / "list.txt", "images/other/2.png")
    want = ["set/more/images/8.png", "set/more/images/9.png", "set/images/train/1.png", "set/images/other/2.png"]
    assert yolo_images(root, "train: [more/images, images/train, list.txt]") == want
    with pytest.raises(FnaError, match="'train' names images/tain"):
        yolo_images(root, "train: [more/images, images/tain]")
    for wrong in ("[]", "[3]", "3", "{a: b}", "''"):
        with pytest.raises(FnaError, match=r"'train' is .* expected a folder"):
            yolo_images(root, f"train: {wrong}")


def test_yolo_path_counts_where_it_is_a_folder_in_root(tmp_path: Path) -> None:
    root = tmp_path / "set"
    yolo_split(root, "sub/images/train", 1)
    write(root / "sub" / "list.txt", "./images/train/1.png")
    below, above = ["set/sub/images/train/1.png"], ["set/images/train/2.png"]
    for path in ("sub", "./sub/", root / "sub"):
        for train in ("train: images/train", "train: list.txt", ""):
            assert yolo_images(root, f"path: {path}\n{train}") == below
    yolo_split(root, "images/train", 2)
    assert yolo_images(root, "path: sub\ntrain: images/train") == below
    assert yolo_images(root, "path: sub\ntrain: ../images/train") == above
    for path in ("none", "/content/set", "..", f"{tmp_path}", "'\\0'", "[sub]", "set"):
        assert yolo_images(root, f"path: {path}\ntrain: images/train") == above


def test_yolo_places_that_are_named_must_be_there(tmp_path: Path) -> None:
    root = tmp_path / "set"
    yolo_split(root, "sub/images/train", 1)
    yolo_split(root, "images/train", 2)
    (root / "images" / "empty").mkdir()
    for said, expected in (
        ("images/tain", "'train' names images/tain (did you mean 'images/train'?)"),
        ("images/tain", f"looked, from {root}, in sub/images/tain, images/tain;"),
        ("images/empty", "'train' names images/empty"),
        ("/content/set/images/tain", "sub/images/tain, images/tain, /content/set/images/tain;"),
        ("../xyz", "in xyz, sub/xyz, ../xyz;"),
    ):
        with pytest.raises(FnaError) as caught:
            yolo_images(root, f"path: sub\ntrain: {said}")
        assert expected in str(caught.value)
        assert "delete 'train'" in str(caught.value)


def test_yolo_looks_in_root_before_it_looks_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "set"
    yolo_split(tmp_path, "train/images", 1)
    (root / "images").mkdir(parents=True)
    for said in ("../train/images", f"{tmp_path}/train/images"):
        with pytest.raises(FnaError, match="outside the data's folder"):
            yolo_images(root, f"train: {said}")
        assert yolo_images(root, f"train: {said}", allow_outside=True) == ["train/images/1.png"]
    yolo_split(root, "train/images", 2)
    for said in ("../train/images", "../../train/images", f"{tmp_path}/train/images", f"{root}/train/images"):
        assert yolo_images(root, f"train: {said}") == ["set/train/images/2.png"]
    yolo_split(root, "sub/train/images", 3)
    monkeypatch.chdir(tmp_path)
    assert yolo_images(Path("set"), f"train: {root}/sub/train/images") == ["set/sub/train/images/3.png"]
    assert yolo_images(Path("set"), f"path: {root}/sub\ntrain: {root}/train/images") == ["set/train/images/2.png"]


def test_yolo_remarks_on_images_and_text_files_that_are_alone(tmp_path: Path) -> None:
    config = make_yolo(tmp_path)

    def notes(split: str = "train") -> tuple[str, ...]:
        return FORMATS["yolo"].read(tmp_path, split, config).notes

    write(tmp_path / "labels" / "train" / "classes.txt", "cat\ndog")
    write(tmp_path / "part.txt", "images/train/1.png")
    assert notes() == notes("part") == ()
    (tmp_path / "labels" / "train" / "0.txt").unlink()
    (tmp_path / "labels" / "train" / "2.txt").unlink()
    write(tmp_path / "labels" / "train" / "7.txt", "0 0.5 0.5 0.5 0.5")
    alone = "1 of 4 text files have no image, e.g. labels/train/7.txt"
    assert notes() == ("2 of 4 images have no text file, e.g. images/train/0.png", alone)
    assert notes("part") == (alone,)
    data = open_data(config, "train")
    assert data.skipped == list(notes())
    assert [len(corners(data, i)) for i in range(4)] == [0, 1, 0, 3]


def test_yolo_text_files_beside_the_images(tmp_path: Path) -> None:
    for number in (1, 2):
        save(tmp_path / "photos" / "train" / f"{number}.png", number)
        write(tmp_path / "photos" / "train" / f"{number}.txt", "0 0.5 0.5 0.5 0.5")
    write(tmp_path / "photos" / "train" / "readme.txt", "hello")
    assert len(yolo_images(tmp_path, "train: photos/train")) == 2
    assert FORMATS["yolo"].read(tmp_path, "train", DataConfig(format="yolo", root=str(tmp_path))).notes == ()


def test_yolo_polygons_become_their_boxes(tmp_path: Path) -> None:
    config = make_yolo(tmp_path)
    write(tmp_path / "labels" / "train" / "1.txt", "0 0.1 0.1 0.5 0.2 0.3 0.75")
    np.testing.assert_allclose(corners(open_data(config, "train"), 1), [[6, 4, 30, 30]], atol=1e-5)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("0 0.5 0.5 0 0.1", rules.NO_AREA),
        ("0 0.5 0.5 -0.1 0.1", rules.NEGATIVE),
        ("0 nan 0.5 0.1 0.1", rules.NOT_FINITE),
        ("0 0.1 0.1 0.5 nan 0.4 0.6", rules.NOT_FINITE),
        ("0 5 0.5 0.1 0.1", rules.OUTSIDE),
        ("0 1 0.5 0.5 0.1", rules.REACHING_OUT),
        ("2 0.5 0.5 0.1 0.1", kinds.UNKNOWN_CLASS),
        ("-1 0.5 0.5 0.1 0.1", kinds.UNKNOWN_CLASS),
        ("0.5 0.5 0.5 0.1 0.1", kinds.UNKNOWN_CLASS),
        ("nan 0.5 0.5 0.1 0.1", kinds.UNKNOWN_CLASS),
        ("0 0.5 0.5 0.1 0.1 0.9", kinds.UNREADABLE_BOX),
        ("cat 0.5 0.5 0.1 0.1", kinds.UNREADABLE_BOX),
        ("0", kinds.UNREADABLE_BOX),
    ],
)
def test_yolo_defects(tmp_path: Path, line: str, kind: str) -> None:
    config = make_yolo(tmp_path)
    write(tmp_path / "labels" / "train" / "1.txt", f"0 0.5 0.5 0.5 0.5\n\n{line}\n")
    assert f"{kind}: 1\n    images/train/1.png, line 3" in failure(config)
    fixed = open_data(but(config, on_error="fix"), "train")
    assert len(corners(fixed, 1)) == 1 + (kind == rules.REACHING_OUT)
    assert len(fixed) == 4


def test_yolo_names(tmp_path: Path) -> None:
    config = make_yolo(tmp_path)
    for names in ("[cat, cat]", "[]", "{1: cat}", "cat", "[[a]]"):
        write(tmp_path / "data.yaml", f"names: {names}")
        assert "'names' is" in failure(config)
    (tmp_path / "data.yaml").unlink()
    assert "data.classes" in failure(config)
    assert open_data(but(config, classes=("a", "b")), "train").classes == ("a", "b")
    for file in (tmp_path / "labels" / "train").iterdir():
        file.unlink()
    assert "has a text file" in failure(but(config, classes=("a", "b")))


# --- laws and fuzz ----------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=6,
)


@given(st.lists(st.one_of(st.floats(), st.integers(), st.none(), st.text(max_size=3)), max_size=5), JSON)
def test_what_the_checks_let_through_is_inside_the_image(values: list[Any], area: Any) -> None:
    record = Record("a", Path("a"), 1, (Box("here", values, 0, area=area),))
    truth, found = check_record(record, (H, W), None)
    assert truth is not None
    assert len(truth.labels) <= 1
    assert found or len(truth.labels) == 1
    if len(truth.labels):
        x0, y0, x1, y1 = truth.boxes[0].tolist()
        assert 0 <= x0 < x1 <= W
        assert 0 <= y0 < y1 <= H
        assert 0 < truth.area[0] < math.inf


def opens_or_says_why(config: DataConfig, split: str = "train") -> None:
    try:
        data = open_data(but(config, on_error="fix"), split)
    except FnaError:
        return
    for index in range(len(data)):
        assert torch.isfinite(data.load(index)[1]["boxes"]).all()


@FUZZ
@given(st.sampled_from(["images", "annotations", "categories"]), st.integers(0, 1), st.text(max_size=8), JSON, JSON)
def test_no_coco_json_breaks_the_reader(
    tmp_path: Path, key: str, position: int, odd: str, value: Any, other: Any
) -> None:
    if not (tmp_path / "images").exists():
        make_coco(tmp_path)
    document = coco_json(4)
    for name in list(document[key][position]):
        spoiled = json.loads(json.dumps(document))
        spoiled[key][position][name] = value
        if position:
            spoiled[odd] = spoiled[key]
            spoiled[key] = [*spoiled[key], other]
        write(tmp_path / "annotations" / "instances_train.json", json.dumps(spoiled))
        opens_or_says_why(DataConfig(format="coco", root=str(tmp_path)))


@FUZZ
@given(st.binary(max_size=60), st.integers(0, 400), st.booleans())
def test_no_annotation_file_breaks_its_reader(tmp_path: Path, junk: bytes, position: int, replace: bool) -> None:
    for name, file in (("voc", "Annotations/2.xml"), ("yolo", "labels/train/2.txt"), ("yolo", "data.yaml")):
        root = tmp_path / name
        if not root.exists():
            MAKERS[name](root)
        config, good = DataConfig(format=name, root=str(root)), (root / file).read_bytes()
        (root / file).write_bytes(junk if replace else good[:position] + junk + good[position + len(junk) :])
        opens_or_says_why(config)
        (root / file).write_bytes(good)


@FUZZ
@given(st.text(max_size=12))
def test_no_split_or_list_breaks_a_reader(tmp_path: Path, text: str) -> None:
    for name in ("coco", "voc", "yolo"):
        root = tmp_path / name
        if not root.exists():
            MAKERS[name](root)
        config = DataConfig(format=name, root=str(root))
        opens_or_says_why(config, text)
        if name != "coco":
            list_of = root / ("ImageSets/Main/odd.txt" if name == "voc" else "odd.txt")
            list_of.write_bytes(text.encode("utf-8", "replace"))
            opens_or_says_why(config, "odd")


def test_images_do_not_depend_on_the_cache(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{i}.png", i) for i in range(3)] + [tmp_path / "none.png"]
    kept, fresh = Images(paths, "a test"), Images(paths, "a test", cache_gb=0.0)
    for position in range(3):
        assert (kept.load(position) == fresh.load(position)).all()
        assert kept.sizes[position] == fresh.sizes[position] == (H, W)
    assert list(kept.problems) == [3]
    assert "missing" in kept.problems[3]
    assert len(kept) == 4


def test_data_without_files() -> None:
    records = [Record(f"{i}.png", Path(f"{i}.png"), i, (Box("one", (1, 2, 3, 4), 0),)) for i in range(2)]
    listing = DetectionListing(records, ("a",), (1,), read=lambda path: np.zeros((H, W, 3), np.uint8))
    assert len(DetectionData(listing, "a test")) == 2


# --- real data --------------------------------------------------------------------------------------------------------


def real(shared: Path, name: str) -> str:
    folder = shared / "data" / name
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return str(folder)


@pytest.mark.parametrize(
    ("split", "images", "boxes", "named"),
    [("train", 205, 2804, "BloodImage_00343.jpg"), ("val", 87, 1137, "BloodImage_00338.jpg")],
)
def test_bccd(shared: Path, split: str, images: int, boxes: int, named: str) -> None:
    config = DataConfig(format="voc", root=real(shared, "bccd"), cache_gb=0.0)
    message = failure(config, split)
    assert f"{rules.NO_AREA}: 1" in message
    assert named in message
    assert f"1 of {images} images" in message
    data = open_data(but(config, on_error="fix"), split)
    assert len(data) == images
    assert data.classes == ("Platelets", "RBC", "WBC")
    assert sum(len(data.truth(i)["labels"]) for i in range(images)) == boxes
    assert data.skipped[0] == f"{rules.NO_AREA}: 1"
    assert named in data.skipped[1]
    assert len(data.skipped) == 2


@pytest.mark.parametrize(("split", "images", "boxes", "crowds"), [("train", 64, 545, 6), ("val", 48, 379, 5)])
def test_coco128(shared: Path, split: str, images: int, boxes: int, crowds: int) -> None:
    data = open_data(DataConfig(format="coco", root=real(shared, "coco128"), cache_gb=0.0), split)
    truths = [data.truth(i) for i in range(len(data))]
    assert (len(data), len(data.classes)) == (images, 80)
    assert data.category_ids[-1] == 90
    assert sum(len(truth["labels"]) for truth in truths) == boxes
    assert sum(int(truth["crowd"].sum()) for truth in truths) == crowds
    assert set(data.groups) == {0, 1}
    assert data.skipped == []
