"""Data that say two things are not guessed at: what contradicts a reading is told, and which setting decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fna.config import (
    DetectionDataConfig,
    PoseDataConfig,
    SegmentationDataConfig,
    make_config,
)
from fna.data import detection, pose, segmentation
from fna.errors import FnaError
from fna.files import write_json
from fna.stages.photos import number_images

BOX = "0.4 0.5 0.2 0.2"  # in 64 x 64 pixels: 19.2, 25.6, 32, 38.4
JOINTS = "0.35 0.45 0.45 0.55"


def picture(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (64, 64, 3), np.uint8)).save(path)


# --- YOLO: polygons, or boxes with more behind them -------------------------------------------------------------------


def yolo(root: Path, *lines: str, more: str = "") -> DetectionDataConfig:
    for number, line in enumerate(lines):
        picture(root / "images" / "train" / f"{number}.png", number)
        (root / "labels" / "train").mkdir(parents=True, exist_ok=True)
        (root / "labels" / "train" / f"{number}.txt").write_text(line)
    (root / "data.yaml").write_text(f"names: [plate]\n{more}")
    return DetectionDataConfig(format="yolo", root=str(root))


def boxes(config: DetectionDataConfig) -> list[list[list[float]]]:
    data = detection.open_data(config, "train")
    return [np.round(data.truth(i)["boxes"].numpy(), 1).tolist() for i in range(len(data))]


@pytest.mark.parametrize("joints", [JOINTS, "0.35 0.45 2 0.45 0.55 1 0 0 0", "0 0"])
def test_joints_behind_a_box_are_left_alone(tmp_path: Path, joints: str) -> None:
    shape = {4: "[2, 2]", 9: "[3, 3]", 2: "[1, 2]"}[len(joints.split())]
    config = yolo(tmp_path, f"0 {BOX} {joints}", f"0 {BOX}", more=f"kpt_shape: {shape}")
    np.testing.assert_allclose(boxes(config), [[[19.2, 25.6, 32.0, 38.4]]] * 2, atol=0.05)


@pytest.mark.parametrize("columns", [JOINTS, "0.9 17", "0.9 1"])  # joints, or the score and number of a tracker
def test_what_may_be_polygons_or_more_columns_is_refused(tmp_path: Path, columns: str) -> None:
    config = yolo(tmp_path, f"0 {BOX} {columns}", f"0 {BOX}")
    with pytest.raises(FnaError, match=r"may be polygons, or boxes with . more columns.*kpt_shape: \[., 2\].*\[\]"):
        boxes(config)
    more = f"kpt_shape: [{len(columns.split()) // 2}, 2]"
    np.testing.assert_allclose(
        boxes(yolo(tmp_path, f"0 {BOX} {columns}", more=more)), [[[19.2, 25.6, 32.0, 38.4]]] * 2, atol=0.05
    )


@pytest.mark.parametrize("more", ["", "kpt_shape: []"])
def test_polygons_are_polygons(tmp_path: Path, more: str) -> None:
    config = yolo(tmp_path, "0 0.25 0.25 0.75 0.25 0.75 0.5 0.25 0.5", "0 0.1 0.1 0.9 0.1 0.5 0.9", more=more)
    np.testing.assert_allclose(boxes(config), [[[16, 16, 48, 32]], [[6.4, 6.4, 57.6, 57.6]]], atol=0.05)


@pytest.mark.parametrize("shape", ["17", "[17]", "[0, 2]", "[a, b]", "{a: 1}"])
def test_a_shape_of_joints_that_is_none_is_refused(tmp_path: Path, shape: str) -> None:
    with pytest.raises(FnaError, match=r"'kpt_shape' is .*expected \[joints, numbers a joint\]"):
        boxes(yolo(tmp_path, f"0 {BOX}", more=f"kpt_shape: {shape}"))


def test_a_line_of_another_length_than_the_shape_says_is_a_flaw(tmp_path: Path) -> None:
    with pytest.raises(FnaError, match=r"8 numbers; expected 5, or 9 with the joints of kpt_shape"):
        boxes(yolo(tmp_path, f"0 {BOX} 1 2 3", more="kpt_shape: [2, 2]"))


# --- VOC: elements and names ------------------------------------------------------------------------------------------


def voc(root: Path, *xml: str, classes: tuple[str, ...] | None = None) -> DetectionDataConfig:
    (root / "Annotations").mkdir(parents=True)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for number, text in enumerate(xml):
        picture(root / "JPEGImages" / f"{number}.png", number)
        (root / "Annotations" / f"{number}.xml").write_text(text)
    (root / "ImageSets" / "Main" / "train.txt").write_text("".join(f"{n}\n" for n in range(len(xml))))
    return DetectionDataConfig(format="voc", root=str(root), classes=classes)


def thing(name: str = "cell") -> str:
    side = "<xmin>11</xmin><ymin>6</ymin><xmax>40</xmax><ymax>30</ymax>"
    return f"<annotation><object><name>{name}</name><bndbox>{side}</bndbox></object></annotation>"


@pytest.mark.parametrize(
    "changed",
    [
        lambda text: text.replace("<annotation>", '<annotation xmlns="http://example.org/voc">'),
        lambda text: text.replace("<annotation>", '<v:annotation xmlns:v="u">').replace(
            "</annotation>", "</v:annotation>"
        ),
        lambda text: text.replace("object", "Object").replace("bndbox", "BndBox").replace("xmin", "XMin"),
        lambda text: text.replace("annotation", "Annotation"),
    ],
)
def test_elements_in_a_namespace_or_in_capitals_are_read(tmp_path: Path, changed: Any) -> None:
    assert boxes(voc(tmp_path, thing(), changed(thing()))) == [[[10, 5, 40, 30]]] * 2


def test_another_kind_of_document_is_no_empty_annotation(tmp_path: Path) -> None:
    with pytest.raises(FnaError, match=r"1\.xml: it holds <html>; expected <annotation>"):
        boxes(voc(tmp_path, thing(), "<html><object/></html>"))


def test_names_that_differ_in_case_or_blanks_only_are_refused(tmp_path: Path) -> None:
    config = voc(tmp_path, thing("RBC"), thing(" rbc "))
    with pytest.raises(FnaError, match=r"has the classes 'RBC' and 'rbc', which differ in case or blanks only"):
        boxes(config)
    with pytest.raises(FnaError, match=r"has the classes 'RBC' and 'rbc'"):  # not left out without a word
        boxes(config.model_copy(update={"classes": ("RBC",)}))
    assert len(boxes(config.model_copy(update={"classes": ("RBC", "rbc")}))) == 2


# --- masks ------------------------------------------------------------------------------------------------------------


def masks(
    root: Path, *arrays: Any, classes: tuple[str, ...] | None = ("soil", "leaf"), **more: Any
) -> SegmentationDataConfig:
    for number, labels_HW in enumerate(arrays):
        picture(root / "images" / f"{number}.png", number)
        (root / "masks").mkdir(exist_ok=True)
        mask = labels_HW if isinstance(labels_HW, Image.Image) else Image.fromarray(labels_HW.astype(np.uint8))
        mask.save(root / "masks" / f"{number}.png")
    for split in ("train", "val"):
        (root / f"{split}.txt").write_text("".join(f"{n}\n" for n in range(len(arrays))))
    return SegmentationDataConfig(format="folder", root=str(root), classes=classes, **more)


def blocks(*values: int) -> Any:
    return np.kron(np.resize(values, (4, 4)), np.ones((16, 16), int))


def classes_of(config: SegmentationDataConfig, split: str = "train") -> list[int]:
    data = segmentation.open_data(config, split)
    return sorted(np.unique(data.load(0)[1].numpy()).tolist())


def test_black_and_white_masks_are_refused_and_data_labels_decides(tmp_path: Path) -> None:
    config = masks(tmp_path, blocks(0, 255), blocks(0, 0, 255))
    with pytest.raises(
        FnaError, match=r"of the class 'leaf'; the masks have the labels 0 \(.*255 .*255 is ignored"
    ) as told:
        classes_of(config)
    assert "--data.labels '{0: soil, 255: leaf}'" in str(told.value)
    assert classes_of(config.model_copy(update={"labels": {0: "soil", 255: "leaf"}})) == [0, 1]


def test_a_class_may_be_missing_where_nothing_is_learned(tmp_path: Path) -> None:
    config = masks(tmp_path, blocks(0, 1), classes=("soil", "leaf", "stem"))
    assert classes_of(config, "val") == [0, 1]
    with pytest.raises(FnaError, match=r"no pixel of any of 1 masks is of the class 'stem'"):
        classes_of(config)


@pytest.mark.parametrize("classes", [None, ("soil", "leaf")])
@pytest.mark.parametrize("empty", [0, 255])
def test_masks_without_anything_labelled_are_told(tmp_path: Path, empty: int, classes: tuple[str, ...] | None) -> None:
    config = masks(tmp_path, blocks(empty), blocks(empty), classes=classes)
    with pytest.raises(FnaError, match=rf"every mask \(of 2\) has the one label {empty}: nothing is labelled"):
        classes_of(config)


def test_masks_that_are_jpegs_are_told_before_their_names(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "train" / "0.jpg")
    picture(tmp_path / "masks" / "train" / "0.jpg")
    with pytest.raises(FnaError, match=r"0\.jpg is a JPEG, which blurs labels; save masks as PNG"):
        classes_of(SegmentationDataConfig(format="pairs", root=str(tmp_path)))


def test_an_ignored_label_that_is_a_class_is_refused(tmp_path: Path) -> None:
    config = masks(tmp_path, blocks(0, 1, 2), ignore_label=0)
    with pytest.raises(
        FnaError, match=r"ignore_label 0 is the label of the class 'soil', too.*--data\.reduce_zero_label true"
    ):
        classes_of(config)
    assert classes_of(config.model_copy(update={"ignore_label": None, "reduce_zero_label": True})) == [0, 1, 255]


def test_without_names_the_labels_that_are_there_are_told(tmp_path: Path) -> None:
    config = masks(tmp_path, blocks(0, 255)).model_copy(update={"classes": None})
    with pytest.raises(FnaError, match=r"labels 0, 255: .*--data\.labels '\{0: background, 255: NAME\}'"):
        classes_of(config)


def test_several_labels_may_be_of_one_class_and_the_order_is_that_of_the_map(tmp_path: Path) -> None:
    config = masks(tmp_path, blocks(1, 7, 3), classes=None, labels={7: "road", 1: "sky", 3: "road", 4: "sky"})
    data = segmentation.open_data(config, "train")
    assert data.classes == ("road", "sky")
    assert np.array_equal(data.load(0)[1].numpy(), blocks(1, 0, 0))
    assert data.skipped == ["labels of data.labels in none of 1 masks: 4 (sky)"]
    with pytest.raises(FnaError, match=r"data\.classes has 'tree', which no label of data\.labels"):
        classes_of(config.model_copy(update={"classes": ("sky", "road", "tree")}))
    assert segmentation.open_data(config.model_copy(update={"classes": ("sky", "road")}), "train").classes[0] == "sky"


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_labels_may_be_colours(tmp_path: Path, mode: str) -> None:
    colors = np.array([(128, 64, 0), (0, 0, 0), (255, 255, 255)], np.uint8)
    mask = Image.fromarray(blocks(0, 1, 2).astype(np.uint8), "P")
    mask.putpalette(colors.tobytes())
    mask = mask.convert(mode)
    labels = {"#000000": "soil", "#804000": "road"}
    config = masks(tmp_path, mask, classes=None, labels=labels, ignore_label="#FFFFFF")
    data = segmentation.open_data(config, "train")
    assert np.array_equal(data.load(0)[1].numpy(), np.array([1, 0, 255])[blocks(0, 1, 2)])
    assert data.colors == ((0, 0, 0), (128, 64, 0))
    again = segmentation.open_data(config, "train", data.to_index(tmp_path))
    assert np.array_equal(again.load(0)[1].numpy(), data.load(0)[1].numpy())
    with pytest.raises(FnaError, match=r'labels of no class: "#ffffff" in 1 masks, such as that of 0\.png'):
        classes_of(config.model_copy(update={"ignore_label": None}))


def test_grey_that_was_saved_as_rgb_is_grey(tmp_path: Path) -> None:
    assert classes_of(masks(tmp_path, Image.fromarray(blocks(0, 1).astype(np.uint8)).convert("RGB"))) == [0, 1]


def test_255_is_ignored_by_a_rule_that_can_be_changed(tmp_path: Path) -> None:
    config = masks(tmp_path, blocks(0, 1, 255, 9))
    with pytest.raises(FnaError, match=r"labels of no class: 9 in 1 masks.*--data\.ignore_label '\[255, 9\]'"):
        classes_of(config)
    assert classes_of(config.model_copy(update={"ignore_label": (255, 9)})) == [0, 1, 255]
    with pytest.raises(FnaError, match=r"255 in 1 masks"):  # what is given stands in place of 255
        classes_of(config.model_copy(update={"ignore_label": (9,)}))


def test_formats_with_classes_of_their_own_take_a_map_too(tmp_path: Path) -> None:
    masks(tmp_path, blocks(0, 1, 11))
    (tmp_path / "images").rename(tmp_path / "train")
    (tmp_path / "masks").rename(tmp_path / "trainannot")
    (tmp_path / "train.txt").write_text("train/0.png trainannot/0.png")
    config = SegmentationDataConfig(format="camvid", root=str(tmp_path))
    assert len(segmentation.open_data(config, "train").classes) == 11
    data = segmentation.open_data(config.model_copy(update={"labels": {0: "sky", 1: "else"}}), "train")
    assert (data.classes, data.colors[0]) == (("sky", "else"), (128, 128, 128))
    assert np.array_equal(data.load(0)[1].numpy(), blocks(0, 1, 255)), "11 is still the format's void"
    with pytest.raises(FnaError, match=r"data\.reduce_zero_label is for classes of your own"):
        classes_of(config.model_copy(update={"reduce_zero_label": True}))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0, 255], r"expected LABEL: CLASS, such as \{0: background, 255: human\}"),
        ({"road": [1, 2], "car": 3}, r"then its class: \{1: road, 2: road, 3: car\}"),
        ({"#804000": "road", 1: "car"}, "numbers and colours are mixed"),
        ({0: "road", "0": "car"}, "a label is there twice"),
        ({0: 1}, r"the class of the label 0 is 1; expected text"),
        ({70000: "road"}, r"expected a whole number from 0 to 65535"),
    ],
)
def test_other_spellings_are_answered_with_the_right_one(labels: Any, said: str) -> None:
    with pytest.raises(FnaError, match=rf"data\.labels: .*{said}"):
        make_config({"data": {"labels": labels}})


def test_palettes_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    def with_palette(*colors: int) -> Image.Image:
        image = Image.fromarray(blocks(0, 1).astype(np.uint8), "P")
        image.putpalette([0, 0, 0, *colors])
        return image

    with pytest.raises(FnaError, match=r"index 1 is \(255, 0, 0\) in 0\.png, \(0, 255, 0\) in 1\.png; save all masks"):
        classes_of(masks(tmp_path / "a", with_palette(255, 0, 0), with_palette(0, 255, 0)))
    assert classes_of(masks(tmp_path / "b", *[with_palette(255, 0, 0)] * 2, blocks(0, 1))) == [0, 1]


def test_classes_that_differ_in_case_only_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FnaError, match=r"data\.classes has 'leaf' and 'Leaf '"):
        classes_of(masks(tmp_path, blocks(0, 1), classes=("leaf", "Leaf ")))


# --- joints, and the numbers of images --------------------------------------------------------------------------------


def test_labelled_joints_at_0_0_are_remarked_on(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "0.png")
    person = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 50, 50], "keypoints": [0, 0, 2, 30, 40, 2]}
    category = {"id": 1, "name": "person", "keypoints": ["nose", "tail"]}
    images = [{"id": 1, "file_name": "0.png"}]
    write_json(tmp_path / "train.json", {"images": images, "annotations": [person], "categories": [category]})
    data = pose.open_data(PoseDataConfig(format="coco", root=str(tmp_path), crop=(64, 64)), "train")
    assert any(line.startswith("joints labelled at exactly 0, 0, ") and ": 1;" in line for line in data.skipped)


def test_no_number_of_an_image_is_made_up() -> None:
    known = {"cell_3.jpg": 7, "cell_1.jpg": 2, "cell_9.jpg": 139}  # of the data of the run
    paths = [Path("a/cell_1.jpg"), Path("a/cell_3.jpg"), Path("a/new.jpg")]
    assert list(number_images(paths, known).values()) == [2, 7, "new.jpg"]
    coco = [Path("000000000285.jpg"), Path("COCO_val2014_000000000042.jpg"), Path("000000000139.jpg"), Path("8.jpg")]
    assert list(number_images(coco, known).values()) == [285, 42, "000000000139.jpg", "8.jpg"]
