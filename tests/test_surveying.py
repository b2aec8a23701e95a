"""`fna data`: what it counts, finds and suggests, against counts made otherwise, and what it answers to mistakes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import label
from tiny import write_images
from tiny_detection import NAMES, write_squares
from tiny_pose import JOINTS, write_figures

from fna.cli import main
from fna.config import load_config, make_config, merge
from fna.data.listing import palette
from fna.data.sampling import split_indices
from fna.data.segmentation.regions import regions
from fna.data.splits import open_data
from fna.data.suggesting import fitting_model, suggest, why_no_recipe

MAKERS: dict[str, Callable[[Path], Path]] = {
    "segmentation": write_images,
    "detection": write_squares,
    "pose": write_figures,
}
CLASSES = ("--data.classes", "[a, b, c]")
TITLE = 18  # pixels above a sample in a sheet


def look(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["data", *words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def counted(task: str, root: Path) -> dict[str, int]:
    """Pixels, boxes or joints of the training split by class, without our readers."""
    if task == "segmentation":
        names = (root / "train.txt").read_text().split()
        masks = [np.asarray(Image.open(root / "masks" / f"{name}.png")) for name in names]
        return {name: sum(int((mask == label).sum()) for mask in masks) for label, name in enumerate("abc")}
    if task == "detection":
        document = json.loads((root / "instances_train.json").read_text())
        return dict(Counter(NAMES[item["category_id"]] for item in document["annotations"]))
    document = json.loads((root / "person_keypoints_train.json").read_text())
    seen = [np.array(item["keypoints"]).reshape(-1, 3)[:, 2] > 0 for item in document["annotations"]]
    return dict(zip(JOINTS, np.sum(seen, 0).tolist(), strict=True))


@pytest.mark.parametrize("task", MAKERS)
def test_a_folder_is_counted_drawn_and_given_a_recipe_that_opens(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, recipe, sheet = MAKERS[task](tmp_path / "data"), tmp_path / "my.yaml", tmp_path / "sheet.png"
    more = CLASSES if task == "segmentation" else ()
    found = look(capsys, str(root), *more, "--out", str(sheet), "--write-recipe", str(recipe))
    assert (found["task"], found["flaws"]) == (task, 0)
    train = found["splits"]["train"]
    assert {name: own["count"] for name, own in train["classes"].items()} == counted(task, root)
    with Image.open(sheet) as image:
        assert image.width > 3 * 50
    config = load_config(recipe)
    assert list(config.data.crop) == found["suggestions"]["data.crop"]
    assert config.data.format == found["format"]
    assert len(open_data(config).train) == train["records"]
    again = look(capsys, str(recipe))
    assert again["splits"] == found["splits"]


def test_a_sheet_is_half_image_and_half_truth(tmp_path: Path) -> None:
    root, sheet = write_images(tmp_path / "data"), tmp_path / "sheet.png"
    assert main(["data", str(root), *CLASSES, "--out", str(sheet)]) == 0
    with Image.open(sheet) as drawn, Image.open(root / "images" / "0.png") as image:
        cell_HW3 = np.asarray(drawn.crop((0, TITLE, image.width, TITLE + image.height)), float)
        colors_HW3 = 2 * cell_HW3 - np.asarray(image, float)
    mask_HW = np.asarray(Image.open(root / "masks" / "0.png"))
    for color, label_id in zip(palette(3), range(3), strict=True):
        assert np.abs(colors_HW3[mask_HW == label_id] - color).max() <= 1


def test_regions_are_scipys() -> None:
    ids_HW = np.random.default_rng(0).integers(0, 3, (12, 15)).repeat(3, 0).repeat(2, 1).astype(np.uint8)
    ids_HW[:, 7] = 1
    class_R, pixels_R = regions(ids_HW)
    labelled = [(k, label(ids_HW == k)[0]) for k in range(3)]
    expected = [(k, n) for k, marks_HW in labelled for n in np.bincount(marks_HW.ravel())[1:].tolist()]
    assert sorted(zip(class_R.tolist(), pixels_R.tolist(), strict=True)) == sorted(expected)


def test_things_in_masks_are_held_against_crop_and_stride(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids_HW = np.zeros((96, 96), np.uint8)
    ids_HW[10:20, 10:20] = 1
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (tmp_path / kind / split).mkdir(parents=True)
            for i in range(2):
                Image.fromarray(ids_HW).save(tmp_path / kind / split / f"{i}.png")
    words = (str(tmp_path), "--data.classes", "[wall, window]", "--data.crop", "[64, 64]")
    found = look(capsys, *words)
    assert found["regions"]["classes"]["window"] == {"small": 10, "median": 10, "large": 10}
    assert found["regions"]["classes"]["wall"]["median"] == round((96 * 96 - 100) ** 0.5, 1)
    assert found["at_crop"] == {"crop": [64, 64], "stride": 16, "larger": ["wall"], "smaller": ["window"]}
    assert main(["data", *words]) == 0
    said = capsys.readouterr().out
    assert "larger than the crop of 64 x 64: wall" in said
    assert "smaller than the output stride of 16: window" in said


def test_counting_needs_no_torch(tmp_path: Path) -> None:
    code = "import sys; from fna.cli import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    words = ("data", str(write_squares(tmp_path / "data", train=6)))
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "; anchors 32 to " in done.stdout


def test_masks_without_names_and_lists_get_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_images(tmp_path / "data")
    for name in ("train.txt", "val.txt"):
        (root / name).unlink()
    recipe = tmp_path / "my.yaml"
    assert main(["data", str(root), "--write-recipe", str(recipe)]) == 0
    said = capsys.readouterr().out
    assert "rename them in data.labels" in said
    assert "--data.split '{val: 0.15, test: 0.15}'" in said
    config = load_config(recipe)
    assert config.data.labels == {0: "background", 1: "class_1", 2: "class_2"}
    assert len(open_data(config).train) < 16


@pytest.mark.parametrize("n", [4, 5, 7, 8, 9, 33, 70])
def test_suggested_batches_fit_what_learns_and_what_is_held_out(n: int) -> None:
    whole = {"images": n, "records": n, "sizes": {"commonest": (64, 64)}, "classes": {}}
    found = {"splits": {"train": whole}, "format": "folder", "things": None, "flaws": 0}
    config = make_config({})
    rows = {row.key: row.value for row in suggest(config, found)}
    config = make_config(merge({}, [f"{key}={value}" for key, value in rows.items() if not key.startswith("data")]))
    assert not why_no_recipe(config, found)
    learning, held = (len(part) for part in split_indices(n, config.search.held_out, 0))
    assert config.search.batch_size <= min(learning, held)
    assert config.adapt.batch_size <= n


@pytest.mark.parametrize(("n", "said"), [(1, r"too few images \(1\) to be cut"), (5, r"too few to learn from \(3\)")])
def test_no_recipe_is_written_for_too_few_images(
    n: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, recipe, sheet = write_images(tmp_path / "data", train=n, val=0), tmp_path / "my.yaml", tmp_path / "sheet.png"
    for name in ("train.txt", "val.txt"):
        (root / name).unlink()
    assert main(["data", str(root), "--write-recipe", str(recipe), "--out", str(sheet)]) == 2
    assert re.search(said, capsys.readouterr().err)
    assert not recipe.exists()
    assert not sheet.exists()
    assert main(["data", str(root)]) == 0
    assert "no recipe can be written" in capsys.readouterr().out


def test_flaws_copies_absent_and_rare_of_all_splits_are_in_one_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_images(tmp_path / "data", train=12, val=4)
    for split, number in (("train", 1), ("val", 13)):
        (root / "images" / f"{number}.png").write_bytes(b"broken")
        with (root / f"{split}.txt").open("a") as file:
            file.write(f"{split}_more\n")
    shutil.copy(root / "images" / "3.png", root / "images" / "train_more.png")
    Image.open(root / "images" / "4.png").point(lambda v: v * 0.95).save(root / "images" / "val_more.png")
    only = np.zeros((64, 64), np.uint8)
    for split in ("train", "val"):
        Image.fromarray(only).save(root / "masks" / f"{split}_more.png")
    for number in (12, 14, 15):
        Image.fromarray(only).save(root / "masks" / f"{number}.png")
    found = look(capsys, str(root), *CLASSES)
    for split, name in (("train", "1.png"), ("val", "13.png")):
        assert any(name in line for line in found["remarks"][split])
    assert found["flaws"] == 2
    assert found["copies"] == {
        "exact": [["train: 3.png", "train: train_more.png"]],
        "near": [["train: 4.png", "val: val_more.png"]],
    }
    assert found["absent"] == {"val": ["b", "c"]}
    assert main(["data", str(root), *CLASSES]) == 0
    said = capsys.readouterr().out
    assert "nothing in val of: b, c" in said
    assert "nearly the same: 1 pairs, 1 across splits: train: 4.png = val: val_more.png" in said


def test_a_sheet_that_cannot_be_drawn_is_not_said_to_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "images" / "0.jpg")
    images = [{"id": 1, "file_name": "0.jpg", "height": 48, "width": 64}]
    about = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "cell"}]}
    for split in ("train", "val"):
        (tmp_path / f"instances_{split}.json").write_text(json.dumps(about))
    sheet = tmp_path / "sheet.png"
    assert main(["data", str(tmp_path), "--out", str(sheet)]) == 0
    printed = capsys.readouterr().out
    assert "no recipe can be written: coco 'train': none of the 1 images has a box of cell" in printed
    assert f"not written: {sheet}" in printed
    assert "\nwritten: " not in printed
    assert not sheet.exists()


def test_a_model_whose_boxes_begin_large_is_for_large_things() -> None:
    large, small = ({"share": {"small": share}} for share in (0.3, 0.02))
    assert fitting_model("detection", large) != fitting_model("detection", small)
    assert fitting_model("pose", large) == fitting_model("pose", small)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["empty"], "no data set is recognised in .*empty, which has nothing; .*--task.name"),
        (["letter.txt"], "letter.txt is no folder and no recipe; expected the folder"),
        (["odd"], "which has äöü"),
        (["none"], "none is not there; expected the folder of a data set, or a recipe"),
        (["empty", "--data.rot", "x"], "did you mean"),
        (["empty", "--out", "nowhere/sheet.png"], "there is no folder nowhere for sheet.png"),
        (["empty", "--out", "sheet.txt"], "expected a picture's name that ends in .png"),
        (["my.yaml", "--write-recipe", "other.yaml"], "is a recipe already"),
        (["empty", "--write-recipe", "my.yaml"], "is there already"),
    ],
)
def test_mistakes_are_answered(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("my.yaml").write_text("data: {root: empty}")
    Path("letter.txt").write_text("hello")
    Path("odd/äöü").mkdir(parents=True)
    assert main(["data", *words]) == 2
    assert re.search(said, capsys.readouterr().err)
