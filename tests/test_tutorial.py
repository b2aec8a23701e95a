"""The tutorial can be typed: its data are written, its recipe opens them, and its commands run from its text."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fna.cli import main
from fna.config import make_config
from fna.data.index import open_splits
from fna.data.synthetic.plants import CLASSES, JOINTS
from fna.data.synthetic.writing import COUNTS, THINGS, write_plants
from fna.errors import FnaError

TEXT = (Path(__file__).parents[1] / "docs" / "tutorial.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"^```sh\n(.*?)^```", TEXT, re.M | re.S) for line in block.splitlines()]
(RECIPE,) = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.M | re.S)
TINY = (  # where a command takes the recipe; the run keeps them
    *("--seed.name", "mobilenet_v2_035", "--seed.weights", "null", "--task.channels", "8"),
    *("--data.crop", "[64, 64]", "--data.eval_size", "[64, 96]", "--space.kernels", "[3]", "--space.expansions", "[3]"),
    *(
        "--space.input_scales",
        "[1]",
        "--space.head_channels",
        "[1]",
        "--search.candidates",
        "2",
        "--search.epochs",
        "1",
    ),
    *("--search.alpha_start", "0", "--adapt.epochs", "1", "--adapt.recalibrate", "1", "--evaluate.every", "1"),
    *("--engine.device", "cpu", "--engine.workers", "0"),
)


@pytest.fixture(scope="module")
def leaves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tutorial") / "leaves"
    write_plants(root)
    return root


@pytest.mark.parametrize(
    ("folder", "task", "classes"),
    [
        (".", "segmentation", CLASSES),
        *((folder, "detection", THINGS) for folder in ("coco", "voc", "yolo")),
        ("pose", "pose", JOINTS),
    ],
)
def test_the_drawn_plants_are_read_in_every_layout(
    leaves: Path, folder: str, task: str, classes: tuple[str, ...]
) -> None:
    named = {"classes": list(CLASSES)} if task == "segmentation" else {}
    data = {"root": str(leaves / folder), "crop": [64, 64], **named}
    opened = open_splits(task, make_config({"task": {"name": task}, "data": data}).data, [*COUNTS])
    for split, own in opened.items():
        assert len({own.name(index) for index in range(len(own))}) == COUNTS[split]
        assert (own.classes, own.skipped) == (classes, [])


def test_layouts_of_boxes_say_the_same(leaves: Path) -> None:
    found = []
    for folder in ("coco", "voc", "yolo"):
        data = {"root": str(leaves / folder), "crop": [64, 64]}
        train = open_splits("detection", make_config({"task": {"name": "detection"}, "data": data}).data, ["train"])
        found.append([train["train"].truth(index) for index in range(len(train["train"]))])
    for coco, voc, yolo in zip(*found, strict=True):
        assert coco["labels"].tolist() == voc["labels"].tolist() == yolo["labels"].tolist()
        assert (coco["boxes"] - yolo["boxes"]).abs().max() < 0.1
        assert (coco["boxes"] - voc["boxes"]).abs().max() <= 0.5, "VOC's are whole pixels"


def test_masks_and_boxes_belong_together(leaves: Path) -> None:
    """The pixels of leaves are inside their boxes."""
    document = json.loads((leaves / "coco" / "annotations" / "instances_val.json").read_text())
    for image in document["images"]:
        mask_HW = np.asarray(Image.open(leaves / "masks" / image["file_name"].replace("jpg", "png")))
        covered = np.zeros_like(mask_HW, bool)
        for item in document["annotations"]:
            if item["image_id"] == image["id"] and item["category_id"] == 1:
                x, y, width, height = item["bbox"]
                rows, columns = (slice(max(0, int(a) - 1), int(a + b) + 2) for a, b in ((y, height), (x, width)))
                covered[rows, columns] = True  # Pillow draws outlines half a pixel wider
        assert not ((mask_HW == 1) & ~covered).any()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FnaError, match="is not empty; give the name of a new folder"):
        write_plants(tmp_path)


def test_the_tutorials_data_and_recipe_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("leaves.yaml").write_text(RECIPE)
    (written,) = [line for line in LINES if "--write-data" in line]
    assert main(shlex.split(written)[1:]) == 0
    capsys.readouterr()
    assert main(["data", "leaves.yaml", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {split: own["images"] for split, own in found["splits"].items()} == COUNTS
    assert [*found["splits"]["train"]["classes"]] == [*CLASSES]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_tutorials_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("leaves.yaml").write_text(RECIPE)
    for line in LINES:
        words = shlex.split(line)
        assert words[0] == "fna"
        tiny = TINY if "leaves.yaml" in words else ()
        assert main([*words[1:], *tiny]) == 0, line
    assert len(list(Path("labelled").glob("*.png"))) == sum(COUNTS.values())
