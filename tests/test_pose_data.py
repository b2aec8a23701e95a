"""Pose data: what the readers find, what they refuse or mend, and what names of joints tell."""

from __future__ import annotations

import csv
import io
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
from scipy.io import savemat

from fna.config import DataConfig
from fna.data.pose import FORMATS, PoseData, mpii_mat, open_data
from fna.data.pose.joints import head_segment, joint_colors, lower_body, mirror, side
from fna.errors import FnaError

H, W = 60, 80
JOINTS = ("left_hip", "right_hip", "neck", "head_top")
FUZZ = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def settings_for(**values: Any) -> DataConfig:
    return DataConfig(crop=(256, 192), **values)


def save(path: Path, size_hw: tuple[int, int] = (H, W)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size_hw, 3), len(path.stem), np.uint8)).save(path)


def person(number: int, image: int = 1, **changes: Any) -> dict[str, Any]:
    points = [10, 20, 2, 30, 20, 2, 20, 15, 1, 20, 5, 2]
    values = {"id": number, "image_id": image, "category_id": 1, "iscrowd": 0, "keypoints": points}
    return {**values, "bbox": [5, 2, 40, 50], "area": 900.0, **changes}


def make_coco(root: Path, *people: Any, **changes: Any) -> DataConfig:
    images = [{"id": i, "file_name": f"{i}.png", "height": H, "width": W} for i in (1, 2)]
    category = {"id": 1, "name": "person", "keypoints": list(JOINTS), "skeleton": [[1, 2], [3, 4]]}
    document = {"images": images, "annotations": list(people), "categories": [category], **changes}
    for i in (1, 2):
        save(root / "images" / f"{i}.png")
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / "person_keypoints_train.json").write_text(json.dumps(document))
    return settings_for(format="coco", root=str(root))


def make_mpii(root: Path, **changes: Any) -> DataConfig:
    """Write a person; a change to ... leaves the key out."""
    save(root / "images" / "a.png")
    joints = [[float(10 + i), float(20 + i)] for i in range(16)]
    entry = {"image": "a.png", "joints": joints, "joints_vis": [1] * 15 + [0], "center": [30.5, 20.5], "scale": 0.2}
    (root / "annot").mkdir(exist_ok=True)
    entry = {key: value for key, value in {**entry, **changes}.items() if value is not ...}
    (root / "annot" / "train.json").write_text(json.dumps([entry]))
    return settings_for(format="mpii", root=str(root))


def make_deeplabcut(root: Path, several: bool = False, parts: int = 1, frames: int = 10) -> DataConfig:
    """Write two videos; frame 3 of each has no label, the left ear of frame 4 neither."""
    names = ("left_ear", "right_ear", "tail")
    for video in ("v1", "v2"):
        head = [["scorer"], ["individuals"], ["bodyparts"], ["coords"]]
        animals = ("m1", "m2", "single") if several else ("",)
        for animal in animals:
            for joint in ("corner",) if animal == "single" else names:
                for axis in "xy":
                    for row, text in zip(head, ("me", animal, joint, axis), strict=True):
                        row.append(text)
        rows = [[*row[:1], *[""] * (parts - 1), *row[1:]] for row in head if several or row[0] != "individuals"]
        for i in range(frames):
            save(root / "labeled-data" / video / f"img{i:02d}.png")
            path = ["labeled-data", video, f"img{i:02d}.png"]
            cells = [f"{10.5 + n}" for n in range(len(rows[0]) - parts)]
            cells = ["" if i == 3 or (i == 4 and n < 2) else cell for n, cell in enumerate(cells)]
            rows.append([*(path if parts == 3 else ["\\".join(path)]), *cells])
        text = io.StringIO()
        csv.writer(text).writerows(rows)
        (root / "labeled-data" / video / "CollectedData_me.csv").write_text(text.getvalue())
    return settings_for(format="deeplabcut", root=str(root))


def make_lsp(root: Path, extended: bool = False, people: int = 6) -> DataConfig:
    """Write persons whose joint j is at 10 + j + person, 20 + j, from 1; the first joint is hidden, or has no place."""
    joints_N14x3 = np.zeros((people, 14, 3))
    for number in range(people):
        save(root / "images" / f"im{number + 1:0{5 if extended else 4}d}.png")
        joints_N14x3[number, :, 0] = 10 + np.arange(14) + number
        joints_N14x3[number, :, 1] = 20 + np.arange(14)
    joints_N14x3[:, 1:, 2] = extended
    joints_N14x3[:, 0, 2] = not extended
    savemat(root / "joints.mat", {"joints": joints_N14x3.transpose((1, 2, 0) if extended else (2, 1, 0))})
    return settings_for(format="lsp", root=str(root))


def points_of(data: PoseData, index: int = 0) -> list[list[float]]:
    points: list[list[float]] = data.load(index)[1]["points"].tolist()
    return points


# --- formats ----------------------------------------------------------------------------------------------------------


def make_yolo(root: Path, shape: str = "[3, 3]", more: str = "flip_idx: [1, 0, 2]") -> DataConfig:
    """Write a person in the first of two images: box of the middle half, joints at (12, 10), hidden (24, 20), none."""
    for name in ("a", "b"):
        save(root / "images" / "train" / f"{name}.png")
    numbers = (0.5, 0.5, 0.5, 0.5, 12 / W, 10 / H, 2, 24 / W, 20 / H, 1, 0, 0, 0)
    (root / "labels" / "train").mkdir(parents=True, exist_ok=True)
    (root / "labels" / "train" / "a.txt").write_text("0 " + " ".join(map(str, numbers)))
    (root / "data.yaml").write_text(f"names: [mouse]\nkpt_shape: {shape}\n{more}\n")
    return settings_for(format="yolo", root=str(root))


MAKERS: dict[str, Callable[[Path], DataConfig]] = {
    "auto": lambda root: make_mpii(root).model_copy(update={"format": "auto"}),
    "coco": lambda root: make_coco(root, person(1), person(2, 2), person(3, 2)),
    "lsp": make_lsp,
    "mpii": make_mpii,
    "deeplabcut": make_deeplabcut,
    "yolo": make_yolo,
    "synthetic": lambda root: settings_for(format="synthetic", images=4),
}


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_format_keeps_the_contract_of_a_split(tmp_path: Path, name: str) -> None:
    config = MAKERS[name](tmp_path)
    data = open_data(config, "train")
    joints = len(data.classes)
    assert len(data) > 0
    assert data.groups == ()
    assert len(set(data.classes)) == len(data.colors) == len(data.pairs) == joints
    assert all(0 <= a < joints and 0 <= b < joints for a, b in data.links)
    for index in range(len(data)):
        image, truth = data.load(index)
        assert image.dtype == torch.uint8
        assert image.shape[0] == 3
        assert image.permute(1, 2, 0).is_contiguous()
        assert (truth["points"].dtype, tuple(truth["points"].shape)) == (torch.float32, (joints, 3))
        assert (truth["box"].dtype, tuple(truth["box"].shape)) == (torch.float32, (4,))
        assert set(truth["points"][:, 2].tolist()) <= {0, 1, 2}
        assert not truth["points"][truth["points"][:, 2] == 0].any()
        assert truth["points"][:, 2].any()
        assert truth["box"][2:].min() > 0
        assert truth["area"] > 0
        assert truth["head"] > 0 or math.isnan(truth["head"])
        assert data.name(index).endswith(".png")


def test_yolo_persons_are_in_pixels_and_named_so_that_a_mirror_is_right(tmp_path: Path) -> None:
    data = open_data(make_yolo(tmp_path), "train")
    _, truth = data.load(0)
    np.testing.assert_allclose(truth["points"].numpy(), [(12, 10, 2), (24, 20, 1), (0, 0, 0)], atol=1e-4)
    np.testing.assert_allclose(truth["box"].numpy(), (W / 4, H / 4, W / 2, H / 2))
    assert (len(data), data.classes, data.pairs) == (1, ("left_0", "right_0", "joint_2"), (1, 0, 2))
    named = open_data(make_yolo(tmp_path, more="kpt_names: {0: [ear_l, ear_r, tail]}"), "train")
    assert (named.classes, named.pairs) == (("ear_l", "ear_r", "tail"), (1, 0, 2))
    bare = open_data(make_yolo(tmp_path, more=""), "train")
    assert bare.classes == ("joint_0", "joint_1", "joint_2")
    assert any("--task.joint_pairs" in line for line in bare.skipped)


@pytest.mark.parametrize(
    ("shape", "more", "said"),
    [
        ("[4, 3]", "", r"14 numbers; expected 17: a class, a box and 4 x 3 of joints"),
        ("[3, 3]", "kpt_names: [ear, tail]", "expected 3 different names"),
        ("[3, 3]", "flip_idx: [1, 1, 2]", "expected the numbers 0 to 2"),
        ("[]", "", r"no 'kpt_shape: \[joints, 2 or 3\]'"),
    ],
)
def test_yolo_lines_that_do_not_fit_data_yaml_are_refused(tmp_path: Path, shape: str, more: str, said: str) -> None:
    with pytest.raises(FnaError, match=said):
        open_data(make_yolo(tmp_path, shape, more), "train")


def test_lsp_counts_from_one_and_its_third_value_says_hidden(tmp_path: Path) -> None:
    config = make_lsp(tmp_path)
    train, test = open_data(config, "train"), open_data(config, "test")
    assert [train.name(i) for i in range(len(train))] == ["im0001.png", "im0002.png", "im0003.png"]
    assert [test.name(i) for i in range(len(test))] == ["im0004.png", "im0005.png", "im0006.png"]
    assert points_of(train)[:2] == [[9, 19, 1], [10, 20, 2]]
    with pytest.raises(FnaError, match=r"no split 'val', but test, train\n.*type --data\.split\.val 0\.15"):
        open_data(config, "val")
    (tmp_path / "images" / "im0002.png").unlink()
    with pytest.raises(FnaError, match=r"no such image: im00002\.jpg"):
        open_data(config, "train")


def test_the_extended_lsp_has_joints_without_a_place(tmp_path: Path) -> None:
    data = open_data(make_lsp(tmp_path, extended=True), "train")
    assert len(data) == 6
    assert points_of(data)[:2] == [[0, 0, 0], [10, 20, 2]]
    savemat(tmp_path / "joints.mat", {"joints": np.zeros((4, 14, 6))})
    with pytest.raises(FnaError, match=r"'joints' of the shape \(4, 14, 6\); expected"):
        open_data(settings_for(format="lsp", root=str(tmp_path)), "train")


@pytest.mark.parametrize("skeleton", [None, 3, "12", {"1": 2}, [[1, 9], 2]])
def test_a_coco_skeleton_that_is_none_draws_no_links(tmp_path: Path, skeleton: Any) -> None:
    category = {"id": 1, "name": "person", "keypoints": list(JOINTS), "skeleton": skeleton}
    assert open_data(make_coco(tmp_path, person(1), categories=[category]), "train").links == ()


@pytest.mark.parametrize("name", ["coco", "mpii", "deeplabcut"])
def test_a_missing_root_or_split_shows_the_layout(tmp_path: Path, name: str) -> None:
    config = MAKERS[name](tmp_path / "data")
    for broken, split in ((config.model_copy(update={"root": None}), "train"), (config, "trainn")):
        with pytest.raises(FnaError) as error:
            open_data(broken, split)
        assert FORMATS[name].layout in str(error.value)


def test_an_unknown_format_names_those_of_poses() -> None:
    with pytest.raises(FnaError, match=r"unknown data format of pose 'vocc'.*coco, deeplabcut, lsp, mpii, synthetic"):
        open_data(settings_for(format="vocc"), "train")


def test_coco_persons_as_they_are_written(tmp_path: Path) -> None:
    data = open_data(make_coco(tmp_path, person(7, 2, area=None)), "train")
    _, truth = data.load(0)
    assert points_of(data) == [[10, 20, 2], [30, 20, 2], [20, 15, 1], [20, 5, 2]]
    assert truth["box"].tolist() == [5, 2, 40, 50]
    assert (truth["area"], truth["head"], truth["image_id"], truth["id"]) == (2000, 10, 2, 7)
    assert (data.name(0), data.classes, data.links) == ("2.png", JOINTS, ((0, 1), (2, 3)))


def test_coco_leaves_out_and_counts(tmp_path: Path) -> None:
    nothing = person(3, keypoints=[0] * 12)
    people = (person(1), person(2, iscrowd=1, keypoints=[]), nothing, person(4, category_id=9), person(5, keypoints=[]))
    data = open_data(make_coco(tmp_path, *people), "train")
    assert len(data) == 1
    assert data.skipped == [
        "crowds, left out: 1",
        "people without a labelled joint, left out: 2",
        "annotations of categories without joints, left out: 1",
    ]


def test_coco_hands_on_crowds_and_people_without_joints_for_its_score(tmp_path: Path) -> None:
    """Not those without a good box, or in images without persons: nothing is looked for there."""
    blank = {"keypoints": [0] * 12, "bbox": [1, 2, 3, 4], "area": 5.0}
    odd = (person(5, bbox=[5, 5, 0, 0], iscrowd=1), person(6, 2, iscrowd=1), person(7, 77, iscrowd=1))
    people = (person(1), person(2, iscrowd=1), person(3, **blank), person(4, **blank | {"bbox": None}), *odd)
    data = open_data(make_coco(tmp_path, *people), "train")
    assert "crowds and people without joints whose record is bad, so that finds there count: 1" in data.skipped
    crowd, nobody = data.ignored
    assert (crowd.crowd, crowd.box, crowd.image_id, int((crowd.points[:, 2] > 0).sum())) == (True, (5, 2, 40, 50), 1, 4)
    assert (nobody.crowd, nobody.box, nobody.area, nobody.points.any()) == (False, (1, 2, 3, 4), 5, False)


def test_a_joint_outside_the_image_is_counted_and_no_failure(tmp_path: Path) -> None:
    """It stays in what is scored; a box around the joints leaves it aside, as an image cannot show it."""
    outside = person(1, keypoints=[10, 20, 2, W + 1.5, 20, 2, W, 15, 1, 20, -1, 2], bbox=None)
    data = open_data(make_coco(tmp_path, outside), "train")
    assert points_of(data) == [[10, 20, 2], [W + 1.5, 20, 2], [W, 15, 1], [20, -1, 2]]
    assert data.skipped == ["labelled joints outside their image, scored but not learned: 1: 1.png right_hip"]
    assert data.load(0)[1]["box"].tolist() == pytest.approx([10.5 - 7, -0.5 - 7, 70 + 14, 21 + 14])


def test_a_person_outside_the_image_is_scored_where_others_are_inside(tmp_path: Path) -> None:
    outside = {"keypoints": [-10, 20, 2] * 4}
    assert len(open_data(make_coco(tmp_path, person(1), person(2, **outside)), "train")) == 2
    with pytest.raises(FnaError, match="no usable person of 1; the first reason: labelled joints outside their image"):
        open_data(make_coco(tmp_path, person(2, **outside)), "train")


def test_mpii_counts_from_one_and_takes_its_box_from_centre_and_scale(tmp_path: Path) -> None:
    _, truth = (data := open_data(make_mpii(tmp_path), "train")).load(0)
    assert points_of(data)[0] == [9, 19, 2]
    assert points_of(data)[15] == [0, 0, 0]
    # In HRNet the centre is 30.5 - 1, 20.5 + 15 * 0.2 - 1, of pixel centres; our boxes count from their rims.
    np.testing.assert_allclose(truth["box"], [30 - 20, 23 - 20, 40, 40], atol=1e-5)
    assert truth["head"] == pytest.approx(math.sqrt(2))
    assert (len(data.classes), truth["image_id"]) == (16, "a")


def test_mpii_val_is_also_called_valid(tmp_path: Path) -> None:
    config = make_mpii(tmp_path)
    (tmp_path / "annot" / "train.json").rename(tmp_path / "annot" / "valid.json")
    assert len(open_data(config, "val")) == 1


def test_mpii_says_which_head_size_it_has_where_people_are_scored(tmp_path: Path) -> None:
    config = make_mpii(tmp_path)
    (tmp_path / "annot" / "valid.json").write_bytes((tmp_path / "annot" / "train.json").read_bytes())
    (note,) = open_data(config, "val").skipped
    assert note.startswith("there is no gt_valid.mat beside valid.json: a head's size is the length from upper_neck to")
    assert note.endswith("PCKh does not compare with MPII's tables")
    assert open_data(config, "train").skipped == []
    assert open_data(config.model_copy(update={"val": "train"}), "train").skipped != []
    boxes = {"headboxes_src": np.array([[0, 0], [30, 40]], float)[..., None]}
    savemat(tmp_path / "annot" / "gt_valid.mat", boxes)
    data = open_data(config, "val")
    assert (data.skipped, data.load(0)[1]["head"]) == ([], 30)


def structs(*items: dict[str, Any]) -> Any:
    """An array of MATLAB structures; what an item lacks is empty."""
    keys = list(dict.fromkeys(key for item in items for key in item))
    array = np.empty((1, len(items)), [(key, object) for key in keys])
    for cell, item in zip(array[0], items, strict=True):
        for key in keys:
            cell[key] = item.get(key, np.zeros((0, 0)))
    return array


def test_mpii_matlab_files(tmp_path: Path) -> None:
    config = make_mpii(tmp_path)
    (tmp_path / "annot" / "train.json").unlink()
    points = structs({"x": 11, "y": 21, "id": 0, "is_visible": 0}, {"x": 13, "y": 24, "id": 9})
    annotated = {"annopoints": structs({"point": points}), "scale": 0.2, "objpos": structs({"x": 30.5, "y": 20.5})}
    people = structs({**dict(zip(("x1", "y1", "x2", "y2"), (0, 0, 3, 4), strict=True)), **annotated}, {"x1": 1})
    images = [structs({"name": name}) for name in ("a.png", "test.png")]
    listed = structs({"image": images[0], "annorect": people}, {"image": images[1]})
    release = structs({"annolist": listed, "img_train": np.array([[1, 0]])})
    savemat(tmp_path / mpii_mat.NAME, {"RELEASE": release})
    data = open_data(config, "train")
    assert points_of(data)[0] == [10, 20, 1]
    assert points_of(data)[9] == [12, 23, 2]
    assert data.load(0)[1]["head"] == 3
    assert data.skipped == ["persons without joints, left out: 1"]
    for split in ("val", "valid"):
        with pytest.raises(FnaError, match=f"mpii '{split}' has no usable person of 0"):
            open_data(config, split)
    with pytest.raises(FnaError, match=r"not 'test'; type --data\.train train --data\.val val"):
        open_data(config, "test")
    points[0, 0]["id"] = 16
    savemat(tmp_path / mpii_mat.NAME, {"RELEASE": release})
    with pytest.raises(FnaError, match=r"the joints cannot be read: .*a joint has the id 16; expected 0 to 15"):
        open_data(config, "train")
    (tmp_path / mpii_mat.NAME).write_bytes(b"nothing")
    with pytest.raises(FnaError, match="cannot read the MATLAB file"):
        open_data(config, "train")


def test_mpii_matlab_without_scipy_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "scipy.io", None)
    config = make_mpii(tmp_path)
    (tmp_path / "annot" / "train.json").unlink()
    (tmp_path / mpii_mat.NAME).write_bytes(b"nothing")
    with pytest.raises(FnaError, match="pip install scipy"):
        open_data(config, "train")


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("several", [False, True])
def test_deeplabcut_both_kinds_of_projects_and_paths(tmp_path: Path, several: bool, parts: int) -> None:
    config = make_deeplabcut(tmp_path, several, parts)
    data = open_data(config, "v1")
    assert data.classes == ("left_ear", "right_ear", "tail")
    assert len(data) == 9 * (2 if several else 1)
    assert data.skipped == ["frames without a labelled joint, left out: 1"]
    assert points_of(data) == [[10.5, 11.5, 2], [12.5, 13.5, 2], [14.5, 15.5, 2]]
    x0, y0, width, height = data.load(0)[1]["box"].tolist()
    assert (x0, y0, width, height) == pytest.approx((10.6, 11.6, 4.8, 4.8))
    assert points_of(data, 3 * (2 if several else 1))[0] == [0, 0, 0]
    assert data.name(0) == "v1/img00.png"
    if several:
        assert points_of(data, 1)[0] == [16.5, 17.5, 2]


@pytest.mark.parametrize("parts", [1, 3])
def test_deeplabcut_path_ends_where_the_scene_begins(tmp_path: Path, parts: int) -> None:
    config = make_deeplabcut(tmp_path, several=True, parts=parts)
    wanted = points_of(open_data(config, "v1"))
    file = tmp_path / "labeled-data" / "v1" / "CollectedData_me.csv"
    rows = [row.split(",") for row in file.read_text().splitlines()]
    file.write_text("\n".join(",".join([*row[:parts], *row[-2:], *row[parts:-2]]) for row in rows))
    data = open_data(config, "v1")
    assert (data.name(0), points_of(data)) == ("v1/img00.png", wanted)


def test_deeplabcut_shares_are_disjoint_and_complete(tmp_path: Path) -> None:
    config = make_deeplabcut(tmp_path)

    def frames(split: str) -> list[str]:
        data = open_data(config, split)
        return [data.load(i)[1]["image_id"] for i in range(len(data))]

    assert sorted(frames("train") + frames("val")) == sorted(frames("v1,v2"))
    assert len(frames("val")) in (2, 3, 4)
    assert sorted(frames("0-50%") + frames("50-100%")) == sorted(frames("v1,v2"))


def test_deeplabcut_split_files_name_frames_and_videos(tmp_path: Path) -> None:
    config = make_deeplabcut(tmp_path)
    (tmp_path / "some.txt").write_text("labeled-data/v1/img01.png\nv2\n")
    assert len(open_data(config, "some")) == 10
    (tmp_path / "some.txt").write_text("labeled-data/v1/img1.png\n")
    with pytest.raises(FnaError, match=r"some\.txt, line 1 is 'v1/img1\.png'.*did you mean 'v1/img"):
        open_data(config, "some")


def test_deeplabcut_reads_labels_and_no_predictions(tmp_path: Path) -> None:
    config = make_deeplabcut(tmp_path)
    for file in (tmp_path / "videos" / "v1DLC_resnet50.csv", tmp_path / "labeled-data" / "v1" / "machinelabels.csv"):
        file.parent.mkdir(exist_ok=True)
        file.write_text("scorer,net\nbodyparts,other\ncoords,x\n0,1.0\n")
    assert len(open_data(config, "v1,v2")) == 18


def test_deeplabcut_skeleton_is_the_projects(tmp_path: Path) -> None:
    config = make_deeplabcut(tmp_path)
    (tmp_path / "config.yaml").write_text("Task: x\nskeleton:\n- [tail, left_ear]\n- [tail, nobody]\n")
    assert open_data(config, "v1").links == ((2, 0),)
    (tmp_path / "config.yaml").write_text("skeleton: [")
    assert "cannot read the project's config.yaml" in open_data(config, "v1").skipped[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "scorer is missing"),
        ("scorer,m\nbodyparts,a\ncoords,likelihood\n", "no columns x and y"),
        ("scorer,m,m\nbodyparts,a\ncoords,x,y\n", "different lengths"),
        ("scorer,m,m\nbodyparts,a,a\ncoords,x,x\n", "two columns of the same"),
        ("scorer,m,m\nbodyparts,a,a\ncoords,x,y\nimg00.png,1\n", "line 4 has 2 cells"),
        ("", "scorer is missing"),
    ],
)
def test_deeplabcut_refuses_other_tables(tmp_path: Path, text: str, message: str) -> None:
    config = make_deeplabcut(tmp_path)
    (tmp_path / "labeled-data" / "v1" / "CollectedData_me.csv").write_text(text)
    with pytest.raises(FnaError, match=message):
        open_data(config, "train")


def test_deeplabcut_text_in_place_of_a_number_is_a_defect(tmp_path: Path) -> None:
    config = make_deeplabcut(tmp_path, frames=2)
    file = tmp_path / "labeled-data" / "v1" / "CollectedData_me.csv"
    file.write_text(file.read_text().replace("10.5", "oops", 1))
    with pytest.raises(FnaError, match=r"a joint is nowhere: v1/img00\.png.*left_ear \('oops', 11\.5\)"):
        open_data(config, "v1")


def test_synthetic_joints_lie_in_their_boxes() -> None:
    data = open_data(settings_for(format="synthetic", images=12), "train")
    inside = []
    for index in range(len(data)):
        truth = data.load(index)[1]
        x0, y0, width, height = truth["box"].tolist()
        seen = truth["points"][truth["points"][:, 2] == 2]
        inside += [x0 - 1 <= x <= x0 + width + 1 and y0 - 1 <= y <= y0 + height + 1 for x, y, _ in seen.tolist()]
    assert len(inside) > 50
    assert all(inside)


# --- real data --------------------------------------------------------------------------------------------------------


def test_real_lspet(shared: Path) -> None:
    config = settings_for(format="coco", root=str(shared / "data" / "lspet"), cache_gb=0)
    data = open_data(config, "val")
    labelled = sum(int((data.load(i)[1]["points"][:, 2] > 0).sum()) for i in range(0, len(data), 29))
    assert (len(data), len(data.classes), data.skipped) == (435, 14, [])
    assert 150 < labelled <= 15 * 14
    assert data.pairs == (5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 6, 12, 13)


@pytest.mark.parametrize(
    ("format_", "folder", "split", "people", "joints", "labelled"),
    [("coco", "coco", "test_coco.json", 12, 17, 181), ("mpii", "mpii", "test_mpii", 5, 16, 76)],
)
def test_mmpose_fixtures(
    shared: Path, format_: Any, folder: str, split: str, people: int, joints: int, labelled: int
) -> None:
    data = open_data(settings_for(format=format_, root=str(shared / "data/mmpose/tests/data" / folder)), split)
    truths = [data.load(i)[1] for i in range(len(data))]
    assert (len(data), len(data.classes)) == (people, joints)
    assert sum(int((truth["points"][:, 2] > 0).sum()) for truth in truths) == labelled
    images = [data.load(i)[0] for i in range(len(data))]
    for truth, image in zip(truths, images, strict=True):
        assert (truth["points"][:, 0] < image.shape[2]).all()
        assert (truth["points"][:, 1] < image.shape[1]).all()


# --- bad records ------------------------------------------------------------------------------------------------------


DEFECTS: dict[str, tuple[dict[str, Any], str, bool]] = {  # changes, message, whether it can be mended
    "too few joints": ({"keypoints": [1, 2, 2]}, "joints cannot be read: .*3 values; expected 12", False),
    "joints are a text": ({"keypoints": "abc"}, "joints cannot be read: .*they are 'abc'", False),
    "visibility 3": ({"keypoints": [10, 20, 3] + [10, 20, 2] * 3}, "visibility is not 0, 1 or 2.*left_hip 3", True),
    "visibility -1": ({"keypoints": [10, 20, -1] + [10, 20, 2] * 3}, "visibility is not 0, 1 or 2", True),
    "visibility null": ({"keypoints": [10, 20, None] + [10, 20, 2] * 3}, "visibility is not 0, 1 or 2", True),
    "a joint at nan": ({"keypoints": [math.nan, 20, 2] + [10, 20, 2] * 3}, "joint is nowhere: .*left_hip", True),
    "a joint without x": ({"keypoints": [None, 20, 2] + [10, 20, 2] * 3}, "joint is nowhere", True),
    "zero box": ({"bbox": [5, 5, 0, 10]}, "the box is no box.*0 x 10 pixels", True),
    "nan box": ({"bbox": [5, 5, math.nan, 10]}, "the box is no box", True),
    "box of three": ({"bbox": [5, 5, 5]}, "the box is no box", True),
    "box elsewhere": ({"bbox": [500, 5, 5, 5]}, "is outside the image of 80x60", True),
    "giant box": ({"bbox": [0, 0, 1e9, 5]}, "pixels in an image of 80x60", True),
    "no area": ({"area": -3}, "the area is not above 0", True),
    "no such image": ({"image_id": 77}, "no image of that id: annotation 2: image_id 77", False),
    "image id is a list": ({"image_id": [1]}, "no image of that id", False),
    "id of another": ({"id": 1, "image_id": 1}, "an annotation's id occurs twice", False),
    "id is a text": ({"id": "x"}, "id is no whole number", False),
}


@pytest.mark.parametrize("name", sorted(DEFECTS))
def test_a_defect_is_named_mended_or_skipped(tmp_path: Path, name: str) -> None:
    changes, message, mendable = DEFECTS[name]
    config = make_coco(tmp_path, person(1), person(2, **({"image_id": 2} | changes)))
    with pytest.raises(FnaError, match=message) as error:
        open_data(config, "train")
    assert "coco 'train': 1 of" in str(error.value)
    assert "--data.on_error fix" in str(error.value)
    for on_error, left in (("skip", 1), ("fix", 1 + mendable)):
        data = open_data(config.model_copy(update={"on_error": on_error}), "train")
        assert len(data) == left
        assert data.skipped[0].endswith("mended" if left == 2 else "left out")


def test_a_mended_person_has_what_is_left(tmp_path: Path) -> None:
    bad = person(1, keypoints=[10, 20, 5, math.inf, 20, 2, 20, 15, 0, 30, 40, 1], bbox=None, area=0)
    config = make_coco(tmp_path, bad).model_copy(update={"on_error": "fix"})
    truth = open_data(config, "train").load(0)[1]
    assert truth["points"].tolist() == [[10, 20, 2], [0, 0, 0], [0, 0, 0], [30, 40, 1]]
    assert truth["box"].tolist() == pytest.approx([8.5, 18.5, 24, 24])
    assert truth["area"] == pytest.approx(24 * 24)


def test_images_that_are_missing_broken_or_of_another_size(tmp_path: Path) -> None:
    config = make_coco(tmp_path, person(1), person(2, 2), person(3, 2))
    (tmp_path / "images" / "2.png").unlink()
    with pytest.raises(
        FnaError, match=r"2 of 3 persons are bad:\n  2 x the image cannot be read: 2\.png, annotation 2"
    ):
        open_data(config, "train")
    save(tmp_path / "images" / "2.png", (H, W + 1))
    with pytest.raises(FnaError, match=r"another size than its annotation says.*81x60 pixels, not 80x60"):
        open_data(config, "train")
    assert len(open_data(config.model_copy(update={"on_error": "skip"}), "train")) == 1


def test_an_image_id_that_occurs_twice_is_named(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": name} for name in ("1.png", "2.png")]
    config = make_coco(tmp_path, person(1), images=images)
    with pytest.raises(FnaError, match=r"an image's id occurs twice: '2\.png': id 1"):
        open_data(config, "train")


def test_all_defects_come_in_one_error_by_kind(tmp_path: Path) -> None:
    people = [person(i, bbox=[0, 0, 0, 0]) for i in range(1, 7)] + [person(7, keypoints=[1])]
    with pytest.raises(FnaError) as error:
        open_data(make_coco(tmp_path, *people), "train")
    lines = str(error.value).splitlines()
    assert lines[0] == "coco 'train': 7 of 7 persons are bad:"
    assert lines[1].startswith("  6 x the box is no box: 1.png, annotation 1: 0 x 0 pixels; ")
    assert lines[1].endswith("and 3 more")
    assert lines[2].startswith("  1 x the joints cannot be read: 1.png, annotation 7")


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FnaError, match="no usable person of 0; the first reason: people without a labelled joint"):
        open_data(make_coco(tmp_path, person(1, keypoints=[0] * 12)), "train")
    with pytest.raises(FnaError, match=r"no usable person of 0; expected .*; name another split .*--data\.val$"):
        open_data(make_coco(tmp_path), "train")
    config = make_coco(tmp_path, person(1, bbox=[])).model_copy(update={"on_error": "skip"})
    with pytest.raises(FnaError, match=r"no usable person of 1; .*, or type --data\.on_error fail to see all"):
        open_data(config, "train")
    with pytest.raises(FnaError, match="no usable person of 1; the first reason: persons without a labelled joint"):
        open_data(make_mpii(tmp_path, joints_vis=[0] * 16), "train")


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ([{"id": 1, "name": "person"}], "no category has 'keypoints'"),
        ([{"id": 1, "keypoints": ["a", "a"]}], "expected different names"),
        ([{"id": 1, "keypoints": ["a"]}, {"id": 2, "name": "dog", "keypoints": ["b"]}], "other joints than 'dog'"),
        ([], "no category has 'keypoints'"),
    ],
)
def test_coco_categories_must_say_what_the_joints_are(tmp_path: Path, categories: Any, message: str) -> None:
    with pytest.raises(FnaError, match=message):
        open_data(make_coco(tmp_path, person(1), categories=categories), "train")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"joints": [[1, 2]] * 15}, r"joints cannot be read: .*'joints' has 15 items; expected 16 pairs \[x, y\]"),
        ({"joints": None}, "joints cannot be read: .*'joints' is None; expected 16 pairs"),
        ({"joints": [[1, 2, 3]] * 16}, r"joints cannot be read: .*'joints' has \[1, 2, 3\] for right_ankle; expected"),
        ({"joints_vis": [1] * 3}, "joints cannot be read: .*'joints_vis' has 3 items; expected 16 values of 0 or 1"),
        ({"joints_vis": ...}, "joints cannot be read: .*'joints_vis' is missing; expected 16 values of 0 or 1"),
        ({"joints_vis": [7] * 16}, "visibility is not 0, 1 or 2"),
        ({"scale": 0}, "the box is no box: .*'scale' is 0; expected a number above 0"),
        ({"scale": ...}, "the box is no box: .*'scale' is missing; expected a number above 0"),
        ({"scale": 10**400}, "the box is no box: .*'scale' is 100000"),
        ({"center": "here"}, r"the box is no box: .*'center' is 'here'; expected \[x, y\]"),
        ({"center": [1, math.nan]}, r"the box is no box: .*'center' is \[1, nan\]; expected \[x, y\]"),
        ({"image": ...}, "a person has no image: person 0: 'image' is missing; expected a file name"),
    ],
)
def test_mpii_defects_name_the_key(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FnaError, match=message):
        open_data(make_mpii(tmp_path, **changes), "train")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "1.png", "x", "\ud800", "a\0b"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["id", "x", "bbox"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@FUZZ
@given(key=st.sampled_from(sorted(person(1))), value=JSON, fix=st.sampled_from(["fix", "fail"]))
def test_coco_fuzz_of_a_person(tmp_path: Path, key: str, value: Any, fix: Any) -> None:
    config = make_coco(tmp_path, person(1), person(2, **{key: value})).model_copy(update={"on_error": fix})
    try:
        data = open_data(config, "train")
    except FnaError:
        return
    assert all(torch.isfinite(data.load(i)[1]["points"]).all() for i in range(len(data)))
    assert all(torch.isfinite(data.load(i)[1]["box"]).all() for i in range(len(data)))


@FUZZ
@given(key=st.sampled_from(["images", "annotations", "categories"]), value=JSON)
def test_coco_fuzz_of_the_file(tmp_path: Path, key: str, value: Any) -> None:
    config = make_coco(tmp_path, person(1), **{key: value if isinstance(value, list) else [value, {"id": value}]})
    with pytest.raises(FnaError) as error:
        open_data(config, "train")
    assert str(error.value).encode()


@FUZZ
@given(key=st.sampled_from(["image", "joints", "joints_vis", "center", "scale", "head", "hidden"]), value=JSON)
def test_mpii_fuzz(tmp_path: Path, key: str, value: Any) -> None:
    try:
        data = open_data(make_mpii(tmp_path, **{key: value}).model_copy(update={"on_error": "fix"}), "train")
    except FnaError:
        return
    assert len(data) == 1


@FUZZ
@given(text=st.text(max_size=60) | st.binary(max_size=60), at=st.integers(0, 700))
def test_deeplabcut_fuzz(tmp_path: Path, text: str | bytes, at: int) -> None:
    config = make_deeplabcut(tmp_path, frames=3).model_copy(update={"on_error": "fix"})
    file = tmp_path / "labeled-data" / "v1" / "CollectedData_me.csv"
    content, new = file.read_bytes(), text.encode(errors="replace") if isinstance(text, str) else text
    file.write_bytes(content[:at] + new + content[at + len(new) :])
    try:
        data = open_data(config, "0-100%")
    except FnaError:
        return
    assert len(data) >= 3


# --- names of joints --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "swap"),
    [
        (("left_eye", "nose", "right_eye"), (2, 1, 0)),
        (("l_eye", "r_eye", "L_Hip", "R_Hip"), (1, 0, 3, 2)),
        (("EyeLeft", "EyeRight"), (1, 0)),
        (("earL", "earR", "tail"), (1, 0, 2)),
        (("leftear", "rightear", "upright"), (1, 0, 2)),
        (("lank", "rank", "root", "lip"), (1, 0, 2, 3)),
        (("L-Ankle", "r-ankle"), (1, 0)),
        (("L1A", "R1A", "L2A", "R2A"), (1, 0, 3, 2)),
        (("snout", "tail base"), (0, 1)),
        (("Left shoulder", "Right shoulder"), (1, 0)),
    ],
)
def test_a_mirror_swaps_left_and_right(names: tuple[str, ...], swap: tuple[int, ...]) -> None:
    assert mirror(names) == swap


def test_a_side_without_a_partner_is_refused_unless_told() -> None:
    names = ("left_eye", "nose", "rigth_eye")
    with pytest.raises(FnaError, match=r"no partner 'right_eye' \(did you mean 'rigth_eye'\?\).*--task\.joint_pairs"):
        mirror(names)
    assert mirror(names, [("left_eye", "rigth_eye")]) == (2, 1, 0)
    assert mirror(names, []) == (0, 1, 2)


@pytest.mark.parametrize("others", [(), ("left_foot_top",), ("left_foot", "right_foot")])
def test_a_partner_is_no_joint_of_the_same_side_and_has_no_other(others: tuple[str, ...]) -> None:
    with pytest.raises(FnaError, match=r"'left_foot_tip' has no partner 'right_foot_tip' that a mirror could swap"):
        mirror(("left_foot_tip", "nose", *others))


@pytest.mark.parametrize("pairs", [[("nose", "nose")], [("a", "b"), ("b", "c")], [("a", "x")]])
def test_pairs_of_the_configuration_must_make_sense(pairs: list[tuple[str, str]]) -> None:
    with pytest.raises(FnaError, match=r"task\.joint_pairs"):
        mirror(("a", "b", "c", "nose"), pairs)


@settings(deadline=None)
@given(st.lists(st.text("lrLRefightw_-aA1 ", min_size=1, max_size=10), unique=True, max_size=6))
def test_a_mirror_of_a_mirror_is_the_joint_itself(names: list[str]) -> None:
    try:
        swap = mirror(names)
    except FnaError:
        return
    assert [swap[j] for j in swap] == list(range(len(names)))


def test_halves_heads_sides_and_colours() -> None:
    names = ("right_ankle", "left_hip", "neck", "head_top", "L_Knees")
    assert lower_body(names) == (True, True, False, False, True)
    assert head_segment(names) == (2, 3)
    assert head_segment(("nose", "neck")) is None
    assert [side(name) for name in names] == ["right", "left", "", "", "left"]
    colors = joint_colors(names)
    assert len(set(colors)) == 5
    assert [max(range(3), key=color.__getitem__) for color in colors] == [0, 1, 2, 2, 1]
