"""Data as labelling tools and people leave them: read with at most one command, and no file moved."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from fna.cli import main
from fna.config import make_config
from fna.config.data import SplitConfig
from fna.data.cutting import cut
from fna.data.index import open_splits
from fna.data.pose.lsp import JOINTS
from fna.errors import FnaError

H, W = 40, 48
CUT = {"split": {"val": 0.2, "test": 0.2}}
SPLITS = {"train": "train", "val": "valid", "test": "test"}  # as Roboflow calls them
NAMES = {"train": 6, "val": 3, "test": 2}


def picture(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (H, W, 3), np.uint8)).save(path)


def mask(path: Path, seed: int = 0, values: tuple[int, ...] = (0, 1, 2)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    chosen = np.random.default_rng(seed).choice(np.array(values, np.uint8), (H, W))
    Image.fromarray(chosen).save(path)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def xml(path: Path, name: str = "cell") -> None:
    box = "<bndbox><xmin>5</xmin><ymin>6</ymin><xmax>25</xmax><ymax>30</ymax></bndbox>"
    size = f"<size><width>{W}</width><height>{H}</height><depth>3</depth></size>"
    write(path, f"<annotation>{size}<object><name>{name}</name>{box}</object></annotation>")


def coco(names: list[str], root: bool = True, **keypoints: Any) -> str:
    images = [{"id": i, "file_name": name, "height": H, "width": W} for i, name in enumerate(names)]
    person = {"keypoints": [10, 10, 2, 20, 20, 2], "num_keypoints": 2} if keypoints else {}
    found = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [4, 5, 20, 20], "area": 400, "iscrowd": 0, **person}
        for i in range(len(names))
    ]
    above = [{"id": 0, "name": "cells", "supercategory": "none"}] if root else []
    categories = [*above, {"id": 1, "name": "cell", "supercategory": "cells", **keypoints}]
    return json.dumps({"images": images, "annotations": found, "categories": categories})


# --- one maker a layout; returns the settings, if any must be typed ---------------------------------------------------


def roboflow_coco(root: Path, **joints: Any) -> dict[str, Any]:
    for split, folder in SPLITS.items():
        names = [f"{split}{i}_jpg.rf.{i:032x}.jpg" for i in range(NAMES[split])]
        for i, name in enumerate(names):
            picture(root / folder / name, i)
        write(root / folder / "_annotations.coco.json", coco(names, **joints))
    write(root / "README.roboflow.txt", "exported")
    return {}


def roboflow_keypoints(root: Path) -> dict[str, Any]:
    return roboflow_coco(root, keypoints=["left_ear", "right_ear"], skeleton=[[1, 2]])


def cvat_coco(root: Path) -> dict[str, Any]:
    names = [f"{i}.png" for i in range(11)]
    for i, name in enumerate(names):
        picture(root / "images" / "default" / name, i)
    write(root / "annotations" / "instances_default.json", coco(names, root=False))
    return CUT


def label_studio_coco(root: Path) -> dict[str, Any]:
    names = [f"images/3f{i}-photo.jpg" for i in range(11)]
    for i, name in enumerate(names):
        picture(root / name, i)
    write(root / "result.json", coco(names, root=False))
    return CUT


def roboflow_voc(root: Path) -> dict[str, Any]:
    for split, folder in SPLITS.items():
        for i in range(NAMES[split]):
            picture(root / folder / f"{split}{i}_jpg.rf.{i:032x}.jpg", i)
            xml(root / folder / f"{split}{i}_jpg.rf.{i:032x}.xml")
    return {}


def labelimg(root: Path) -> dict[str, Any]:
    for i in range(11):
        picture(root / f"photo {i}.JPG", i)
        xml(root / f"photo {i}.xml")
    picture(root / "not labelled.jpg", 99)
    return CUT


def cards(root: Path) -> dict[str, Any]:
    for split, number in (("train", 8), ("test", 3)):
        for i in range(number):
            picture(root / "images" / split / f"IMG_{split}{i}.JPG", i)
            xml(root / "images" / split / f"IMG_{split}{i}.xml")
        write(root / "images" / f"{split}_labels.csv", "filename,width\n")
    return {"split": {"val": 0.15}}


def kangaroo(root: Path, annotations: str = "annots", name: str = "kangaroo") -> dict[str, Any]:
    for i in range(11):
        picture(root / "images" / f"{i:05d}.jpg", i)
        xml(root / annotations / f"{i:05d}.xml", name)
    return CUT


def raccoon(root: Path) -> dict[str, Any]:
    write(root / "data" / "raccoon_labels.csv", "filename,width\n")
    return kangaroo(root, "annotations", "raccoon")


def flat_yolo(root: Path) -> dict[str, Any]:
    for i in range(11):
        picture(root / "images" / f"{i}.jpg", i)
        write(root / "labels" / f"{i}.txt", "0 0.5 0.5 0.25 0.25\n")
    write(root / "labels" / "classes.txt", "cell\n")
    return {**CUT, "classes": ["cell"]}


def roboflow_yolo(root: Path, line: str = "0 0.5 0.5 0.25 0.25", more: str = "") -> dict[str, Any]:
    for split, folder in SPLITS.items():
        for i in range(NAMES[split]):
            picture(root / folder / "images" / f"{split}{i}.jpg", i)
            write(root / folder / "labels" / f"{split}{i}.txt", f"{line}\n")
    places = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n"
    write(root / "data.yaml", f"{places}names: [cell]\nnc: 1\n{more}")
    return {}


def yolo_polygons(root: Path) -> dict[str, Any]:
    return roboflow_yolo(root, "0 0.1 0.1 0.9 0.2 0.5 0.8")


def yolo_joints(root: Path) -> dict[str, Any]:
    return roboflow_yolo(root, "0 0.5 0.5 0.5 0.5 0.4 0.4 2 0.6 0.6 1", "kpt_shape: [2, 3]\nflip_idx: [1, 0]\n")


def deeplabcut_animals(root: Path) -> dict[str, Any]:
    animals = [(animal, part) for animal in ("m1", "m2") for part in ("snout", "tail")]
    head = {
        "scorer": ["me"] * 8,
        "individuals": [animal for animal, _ in animals for _ in "xy"],
        "bodyparts": [part for _, part in animals for _ in "xy"],
        "coords": ["x", "y"] * 4,
    }
    lines = [",".join([name, "", "", *cells]) for name, cells in head.items()]
    for i in range(11):
        picture(root / "labeled-data" / "cage" / f"img{i:03d}.png", i)
        lines.append(f"labeled-data,cage,img{i:03d}.png,5,6,20,21,,,30,31")
    write(root / "labeled-data" / "cage" / "CollectedData_me.csv", "\n".join(lines))
    return {"split": {"test": 0.2}}


def lsp(root: Path) -> dict[str, Any]:
    for i in range(11):
        picture(root / "images" / f"im{i + 1:05d}.jpg", i)
    joints_14x3xN = np.ones((14, 3, 11))
    joints_14x3xN[:, :2] += np.arange(14 * 2).reshape(14, 2, 1)
    savemat(root / "joints.mat", {"joints": joints_14x3xN})
    return CUT


OWN = {"classes": ["soil", "crop", "weed"]}


def roboflow_masks(root: Path) -> dict[str, Any]:
    for split, folder in SPLITS.items():
        for i in range(NAMES[split]):
            picture(root / folder / f"{split}{i}_jpg.rf.{i:032x}.jpg", i)
            mask(root / folder / f"{split}{i}_jpg.rf.{i:032x}_mask.png", i)
        write(root / folder / "_classes.csv", "Pixel Value, Class\n0, soil\n1, crop\n2, weed\n")
    return {}


def ade(root: Path) -> dict[str, Any]:
    for split, folder in (("train", "training"), ("val", "validation"), ("test", "testing")):
        for i in range(NAMES[split]):
            picture(root / "images" / folder / f"ADE_{split}_{i}.jpg", i)
            mask(root / "annotations" / folder / f"ADE_{split}_{i}.png", i)
    return OWN


def mmseg(root: Path) -> dict[str, Any]:
    for split, count in NAMES.items():
        for i in range(count):
            picture(root / "img_dir" / split / f"{split}{i}.jpg", i)
            mask(root / "ann_dir" / split / f"{split}{i}.png", i)
    return OWN


def pascal_context(root: Path) -> dict[str, Any]:
    for split, count in NAMES.items():
        names = [f"2008_{split}{i}" for i in range(count)]
        for i, name in enumerate(names):
            picture(root / "JPEGImages" / f"{name}.jpg", i)
            mask(root / "SegmentationClassContext" / f"{name}.png", i, (0, 1, 2, 3))
        write(root / "ImageSets" / "SegmentationContext" / f"{split}.txt", "\n".join(names))
    return {**OWN, "reduce_zero_label": True}


def crop_weed(root: Path) -> dict[str, Any]:
    for i in range(11):
        picture(root / "images" / f"{i:03d}_image.png", i)
        mask(root / "annotations" / f"{i:03d}_annotation.png", i)
    return {**OWN, **CUT}


def beside(root: Path) -> dict[str, Any]:
    for i in range(11):
        picture(root / f"plot{i}.jpg", i)
        mask(root / f"plot{i}_mask.png", i)
    return {**OWN, **CUT}


def humans(root: Path) -> dict[str, Any]:
    for i in range(11):
        picture(root / "images" / f"{i}.jpg", i)
        mask(root / "masks" / f"{i}.png", i, (0, 255))
    return {**CUT, "labels": {0: "background", 255: "human"}}


class Layout(NamedTuple):
    task: str
    make: Callable[[Path], dict[str, Any]]
    format: str
    classes: tuple[str, ...] = ("cell",)


THREE = ("soil", "crop", "weed")
LAYOUTS = (
    *(Layout("detection", make, "coco") for make in (roboflow_coco, cvat_coco, label_studio_coco)),
    *(Layout("detection", make, "voc") for make in (roboflow_voc, labelimg, cards)),
    Layout("detection", kangaroo, "voc", ("kangaroo",)),
    Layout("detection", raccoon, "voc", ("raccoon",)),
    *(Layout("detection", make, "yolo") for make in (flat_yolo, roboflow_yolo)),
    Layout("detection", yolo_polygons, "yolo"),
    Layout("pose", roboflow_keypoints, "coco", ("left_ear", "right_ear")),
    Layout("pose", yolo_joints, "yolo", ("left_0", "right_0")),
    Layout("pose", deeplabcut_animals, "deeplabcut", ("snout", "tail")),
    Layout("pose", lsp, "lsp", JOINTS),
    *(Layout("segmentation", make, "pairs", THREE) for make in (roboflow_masks, ade, mmseg, crop_weed, beside)),
    Layout("segmentation", pascal_context, "voc", THREE),
    Layout("segmentation", yolo_polygons, "yolo", ("background", "cell")),
    Layout("segmentation", humans, "pairs", ("background", "human")),
)
EVERY = pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"{layout.task}-{layout.make.__name__}")


def settings(layout: Layout, root: Path, **more: Any) -> Any:
    said = layout.make(root)
    data = {"root": str(root), "crop": [32, 32], **said, **more}
    return make_config({"task": {"name": layout.task}, "data": data}).data


@EVERY
def test_each_is_read_where_it_lies(layout: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = settings(layout, tmp_path / "data")
    before = sorted((tmp_path / "data").rglob("*"))
    splits = ("train", "val", "test")
    opened = open_splits(layout.task, config, splits, tmp_path / "run" / "data")
    assert f"is read as format '{layout.format}'" in capsys.readouterr().err
    names = {split: {opened[split].name(i) for i in range(len(opened[split]))} for split in splits}
    assert sum(map(len, names.values())) == 11
    assert len(set().union(*names.values())) == 11, "no image is in two splits"
    assert names["val"]
    assert names["test"]
    assert opened["train"].classes == layout.classes
    image, _ = opened["train"].load(0)
    assert tuple(image.shape) == (3, H, W)
    assert sorted((tmp_path / "data").rglob("*")) == before
    again = open_splits(layout.task, config, splits, tmp_path / "run" / "data")
    assert {again[split].name(i) for split in splits for i in range(len(again[split]))} == set().union(*names.values())
    assert "is read as" not in capsys.readouterr().err, "the index knows"


@EVERY
def test_without_lists_the_error_says_what_to_type(layout: Layout, tmp_path: Path) -> None:
    config = settings(layout, tmp_path / "data", split={})
    if "val" not in layout.make(tmp_path / "data").get("split", {}):
        open_splits(layout.task, config, ["train", "val"])
        return
    tested = layout.make in (lsp, cards)
    advice = "type --data.split.val 0.15" if tested else "type --data.split '{val: 0.15, test: 0.15}'"
    with pytest.raises(FnaError, match=re.escape(advice)):
        open_splits(layout.task, config, ["train", "val"])


# --- cutting ----------------------------------------------------------------------------------------------------------


def data_config(**data: Any) -> Any:
    return make_config({"data": {"split": {"val": 0.2, "test": 0.2}, **data}}).data


def test_a_cut_is_the_same_in_any_order_and_keeps_groups_together() -> None:
    copies = [f"cell{i}_jpg.rf.{k:04x}.jpg" for i in range(20) for k in range(3)]
    frames = [f"clip{i}_frame_{k:05d}.png" for i in range(30) for k in range(10)]
    for names, group in ((copies, lambda name: name.split("_jpg")[0]), (frames, lambda name: name.split("_frame")[0])):
        made = cut(names, data_config())
        assert sorted(name for own in made.lists.values() for name in own) == sorted(names)
        assert made.groups
        back = cut(names[::-1], data_config())
        assert {split: sorted(own) for split, own in back.lists.items()} == {
            split: sorted(own) for split, own in made.lists.items()
        }
        owners = {group(name): split for split, own in made.lists.items() for name in own}
        assert all(owners[group(name)] == split for split, own in made.lists.items() for name in own)


def test_numbered_images_of_one_kind_are_cut_one_by_one() -> None:
    made = cut([f"IMG_{i:04d}.jpg" for i in range(100)], data_config())
    assert not made.groups
    assert {split: len(names) for split, names in made.lists.items()} == {"train": 60, "val": 20, "test": 20}


def test_too_few_images_are_not_cut() -> None:
    with pytest.raises(FnaError, match="2 images are too few"):
        cut(["a.jpg", "b.jpg"], data_config())


def test_what_a_run_has_cut_stays_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = next(layout for layout in LAYOUTS if layout.make is kangaroo)
    config = settings(layout, tmp_path / "data")
    folder = tmp_path / "run" / "data"
    train = open_splits("detection", config, ["train", "val"], folder)["train"]
    assert "cut by data.split into" in capsys.readouterr().err
    lists = json.loads((folder / "cut.lists.json").read_text())
    assert [train.name(i) for i in range(len(train))] == lists["train"]
    for number in range(20, 40):  # more images, which would be cut otherwise
        picture(tmp_path / "data" / "images" / f"{number:05d}.jpg", number)
        xml(tmp_path / "data" / "annots" / f"{number:05d}.xml", "kangaroo")
    test = open_splits("detection", config, ["test"], folder)["test"]
    assert [test.name(i) for i in range(len(test))] == lists["test"]
    (folder / "cut.lists.json").write_text((folder / "cut.lists.json").read_text().replace("00", "0"))
    (folder / "test.json").unlink()
    with pytest.raises(FnaError, match=r"cut\.lists\.json is damaged"):
        open_splits("detection", config, ["test"], folder)


def test_a_split_of_its_own_is_not_cut_again(tmp_path: Path) -> None:
    layout = next(layout for layout in LAYOUTS if layout.make is roboflow_voc)
    config = settings(layout, tmp_path, split={"val": 0.2})
    with pytest.raises(FnaError, match=r"has a split 'val' of its own.*--data\.split\.val null"):
        open_splits("detection", config, ["train", "val"])


def test_a_missing_split_is_cut_out_of_train(tmp_path: Path) -> None:
    layout = next(layout for layout in LAYOUTS if layout.make is roboflow_coco)
    config = settings(layout, tmp_path)
    for path in (tmp_path / "valid").iterdir():
        path.unlink()
    with pytest.raises(FnaError, match=r"cut out of 'train', type --data\.split\.val 0\.15"):
        open_splits("detection", config, ["train", "val"])
    said = config.model_copy(update={"split": SplitConfig(val=0.3)})
    opened = open_splits("detection", said, ["train", "val", "test"])
    assert [len(opened[split]) for split in ("train", "val", "test")] == [4, 2, 2]


def test_shares_must_leave_something() -> None:
    with pytest.raises(FnaError, match="leave nothing to learn from"):
        data_config(split={"val": 0.5, "test": 0.5})


# --- nearly -----------------------------------------------------------------------------------------------------------


def test_an_xml_has_its_image_also_in_another_case(tmp_path: Path) -> None:
    said = kangaroo(tmp_path)
    for name, other in (("IMG_1", "img_1"), ("a", "A")):
        picture(tmp_path / "images" / f"{name}.JPG", 77)
        xml(tmp_path / "annots" / f"{other}.xml", "kangaroo")
    xml(tmp_path / "annots" / "a.xml", "kangaroo")  # has the image now, and A.xml has none
    config = make_config(
        {"task": {"name": "detection"}, "data": {"root": str(tmp_path), "crop": [32, 32], **said}}
    ).data
    with pytest.raises(FnaError, match=r"A\.jpg") as told:
        open_splits("detection", config, ["train", "val", "test"])
    assert "img_1" not in str(told.value).lower()
    (tmp_path / "annots" / "A.xml").unlink()
    opened = open_splits("detection", config, ["train", "val", "test"])
    names = {data.name(i) for data in opened.values() for i in range(len(data))}
    assert {"IMG_1.JPG", "a.JPG"} < names
    assert len(names) == 13


@pytest.mark.parametrize(
    ("above", "classes"),
    [
        ([], ("cell", "core")),
        ([{"id": 0, "name": "cells", "supercategory": "none"}], ("cell", "core")),  # Roboflow's: nothing is of it
        ([{"id": 0, "name": "cell", "supercategory": "none"}], ("cell", "core")),  # the name of another one
        ([{"id": 0, "name": "dirt", "supercategory": "other"}], ("dirt", "cell", "core")),  # just not seen here
        ([{"id": 7, "name": "cells", "supercategory": "none"}], ("cell", "core", "cells")),  # used
    ],
)
def test_categories_for_forms_sake_are_no_classes(
    tmp_path: Path, above: list[dict[str, Any]], classes: tuple[str, ...]
) -> None:
    document = json.loads(coco(["0.png", "1.png"], root=False))
    document["categories"] = [*above, *document["categories"], {"id": 2, "name": "core", "supercategory": "cells"}]
    document["annotations"][1]["category_id"] = 7 if any(item["id"] == 7 for item in above) else "1"
    for name in ("0.png", "1.png"):
        picture(tmp_path / "train" / name)
    write(tmp_path / "train" / "_annotations.coco.json", json.dumps(document))
    config = make_config({"task": {"name": "detection"}, "data": {"root": str(tmp_path), "crop": [32, 32]}}).data
    assert open_splits("detection", config, ["train"])["train"].classes == classes


# --- recognising ------------------------------------------------------------------------------------------------------


def test_a_folder_that_may_be_two_things_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    roboflow_yolo(tmp_path)
    write(tmp_path / "train" / "_annotations.coco.json", coco(["train0.jpg"]))
    write(tmp_path / "recipe.yaml", f"task: {{name: detection}}\ndata: {{root: '{tmp_path}'}}")
    assert main(["run", str(tmp_path / "recipe.yaml"), "--run", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "may be read in 2 ways" in said
    assert "--data.format coco" in said
    assert "Traceback" not in said


def test_nothing_known_is_answered_with_what_is_there(tmp_path: Path) -> None:
    write(tmp_path / "notes.txt", "hello")
    config = make_config({"task": {"name": "detection"}, "data": {"root": str(tmp_path)}}).data
    with pytest.raises(FnaError, match=r"no data set is recognised .* which has notes\.txt; .*--data\.format"):
        open_splits("detection", config, ["train"])


@pytest.mark.parametrize("words", [[], ["--data.format", "coco"]])
def test_data_of_another_task_are_answered_with_its_models(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(tmp_path / "data" / "train" / "0.jpg")
    write(tmp_path / "data" / "train" / "_annotations.coco.json", coco(["0.jpg"]))
    write(tmp_path / "recipe.yaml", f"data: {{root: '{tmp_path / 'data'}'}}")
    for command in (["plan"], ["run", "--run", str(tmp_path / "run")]):
        assert main([*command, str(tmp_path / "recipe.yaml"), *words]) == 2
        said = capsys.readouterr().err
        assert "task.model, deeplabv3 where none is given: type --task.model retinanet|ssdlite (detection)" in said
        assert "simple_baseline" in said or not words, "there is no joint in the file, but the format has joints"


def test_unpaired_images_and_masks_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = beside(tmp_path)
    (tmp_path / "plot3_mask.png").unlink()
    mask(tmp_path / "plot77_mask.png")
    config = make_config({"data": {"root": str(tmp_path), "crop": [32, 32], **said}}).data
    with pytest.raises(FnaError, match="plot3"):
        open_splits("segmentation", config, ["train", "val", "test"])
    assert "1 masks have no image" in capsys.readouterr().err
