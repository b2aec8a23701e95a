"""What a run folder or a data set of a stranger may not do: write elsewhere, read elsewhere, or keep fna waiting."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fna import cli
from fna.config import DetectionDataConfig, PoseDataConfig, SegmentationDataConfig, load_config
from fna.data import detection, pose, segmentation
from fna.data.pose.person_boxes import read_boxes
from fna.errors import FnaError
from fna.files import read_bytes, write_json
from fna.runs.folder import Folder
from fna.training.sinks import Log


@pytest.fixture(autouse=True)
def _nothing_waits() -> Iterator[None]:
    """Fail a test that waits for what never comes."""
    signal.alarm(60)
    yield
    signal.alarm(0)


# --- run folders ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["predictions", "checkpoints", "adapted", "data", "checkpoints/search"])
def test_a_folder_of_a_run_that_is_a_link_is_refused(tmp_path: Path, name: str) -> None:
    Folder.open(tmp_path / "run").close()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "run" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "run" / name).symlink_to(tmp_path / "theirs")
    with pytest.raises(FnaError, match=rf"{name} is a link, and fna writes to no place outside a run folder"):
        Folder.open(tmp_path / "run")
    assert not list((tmp_path / "theirs").iterdir())
    (tmp_path / "run" / name).unlink()
    Folder.open(tmp_path / "run").close()


def test_a_log_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    Folder.open(tmp_path / "run").close()
    link = tmp_path / "run" / "search.csv"
    link.symlink_to(tmp_path / "thesis.tex")
    with pytest.raises(FnaError, match=r"search\.csv is a link"):
        Folder.open(tmp_path / "run")
    log = Log(tmp_path / "run" / "new.csv", 0, "step")
    log.write({"step": 0})
    (tmp_path / "run" / "new.csv").unlink()
    (tmp_path / "run" / "new.csv").symlink_to(tmp_path / "thesis.tex")
    with pytest.raises(FnaError, match=r"cannot write .*new\.csv"):
        log.write({"step": 1})
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_a_result_that_is_a_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "theirs.json").write_text("mine")
    with Folder.open(tmp_path / "run") as folder:
        (tmp_path / "run" / "found.json").symlink_to(tmp_path / "theirs.json")
        folder.write_json("found.json", {})
    assert (tmp_path / "theirs.json").read_text() == "mine"
    assert not (tmp_path / "run" / "found.json").is_symlink()


def test_a_pipe_in_a_run_folder_is_refused(tmp_path: Path) -> None:
    Folder.open(tmp_path / "run").close()
    os.mkfifo(tmp_path / "run" / "metrics.json")
    with pytest.raises(FnaError, match=r"metrics\.json is neither a file nor a folder"):
        Folder.open(tmp_path / "run")


# --- data that name files elsewhere -----------------------------------------------------------------------------------


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(path)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the data set's, with an image, a mask and annotations in it."""
    picture(tmp_path / "outside" / "x.png")
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "outside" / "mask.png")
    (tmp_path / "outside" / "x.txt").write_text("0 0.5 0.5 0.5 0.5")
    side = "<xmin>11</xmin><ymin>6</ymin><xmax>40</xmax><ymax>30</ymax>"
    xml = f"<annotation><object><name>cell</name><bndbox>{side}</bndbox></object></annotation>"
    (tmp_path / "outside" / "x.xml").write_text(xml)
    return tmp_path / "outside"


def coco(root: Path, name: str) -> dict[str, Any]:
    picture(root / "a.png")
    row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 50, 50], "keypoints": [9, 9, 2]}
    kind = {"id": 1, "name": "person", "keypoints": ["nose"]}
    images = [{"id": 1, "file_name": name}, {"id": 2, "file_name": "a.png"}]
    write_json(root / "train.json", {"images": images, "annotations": [row], "categories": [kind]})
    return {"format": "coco", "root": str(root), "crop": (64, 64)}


def open_stray(form: str, root: Path, stray: str, **more: Any) -> Any:
    """Open a data set with a name that leads to `stray` (without its ending)."""
    root.mkdir(exist_ok=True)
    if form == "coco":
        return detection.open_data(DetectionDataConfig(**coco(root, f"{stray}.png"), **more), "train")
    if form == "keypoints":
        return pose.open_data(PoseDataConfig(**coco(root, f"{stray}.png"), **more), "train")
    if form == "yolo":
        (root / "data.yaml").write_text("names: [cell]\ntrain: list.txt")
        (root / "list.txt").write_text(f"{stray}.png\n")
        return detection.open_data(DetectionDataConfig(format="yolo", root=str(root), **more), "train")
    if form == "yolo place":
        (root / "data.yaml").write_text(f"names: [cell]\ntrain: {stray.removesuffix('/x')}\n")
        return detection.open_data(DetectionDataConfig(format="yolo", root=str(root), **more), "train")
    if form == "voc":
        for name in ("ImageSets/Main", "Annotations", "JPEGImages"):
            (root / name).mkdir(parents=True, exist_ok=True)
        up = stray if stray.startswith("/") else f"../{stray}"
        (root / "ImageSets" / "Main" / "train.txt").write_text(f"{up}\n")
        return detection.open_data(DetectionDataConfig(format="voc", root=str(root), **more), "train")
    for name in ("images", "masks"):
        (root / name).mkdir(exist_ok=True)
    (root / "train.txt").write_text(f"{'' if stray.startswith('/') else '../'}{stray}.png\n")
    config = SegmentationDataConfig(format="folder", root=str(root), classes=("a", "b"), **more)
    return segmentation.open_data(config, "train")


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("form", ["coco", "keypoints", "yolo", "yolo place", "voc", "folder"])
def test_data_do_not_name_files_outside_their_folder(tmp_path: Path, outside: Path, form: str, absolute: bool) -> None:
    stray = str(outside / "x") if absolute else "../outside/x"
    said = r"outside the data's folder .*--data\.allow_outside true"
    if form == "folder" and absolute:
        said = r"data/images/.*outside/x\.png is missing"  # of a name there only what is below images/ is meant
    with pytest.raises(FnaError, match=said) as caught:
        open_stray(form, tmp_path / "data", stray)
    assert "0.5 0.5" not in str(caught.value), "nothing of what is there is shown"


@pytest.mark.parametrize("form", ["coco", "keypoints", "yolo place"])
def test_who_trusts_the_data_may_say_so(tmp_path: Path, outside: Path, form: str) -> None:
    assert len(open_stray(form, tmp_path / "data", "../outside/x", allow_outside=True)) >= 1


def test_links_in_the_folder_and_the_users_own_image_folder_are_followed(tmp_path: Path, outside: Path) -> None:
    config = coco(tmp_path / "data", "b.png")
    (tmp_path / "data" / "b.png").symlink_to(outside / "x.png")
    assert len(detection.open_data(DetectionDataConfig(**config), "train")) == 2
    elsewhere = coco(tmp_path / "data", "x.png")
    picture(outside / "a.png")
    assert len(detection.open_data(DetectionDataConfig(**elsewhere, image_folder=str(outside)), "train")) == 2


# --- what never ends --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_pipes_and_devices_are_no_files(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "endless"
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    said = r"endless: it is a pipe or a device, not a file"
    for read in (read_bytes, load_config, lambda path: read_boxes(path, [])):
        with pytest.raises(FnaError, match=said):
            read(path)
    for name in ("train.txt", "data.yaml", "train.json"):
        root = tmp_path / name.replace(".", "_")
        (root / "images").mkdir(parents=True)
        os.mkfifo(root / name) if kind == "pipe" else (root / name).symlink_to("/dev/zero")
    common: dict[str, Any] = {"crop": (64, 64)}
    opens = {
        "train_txt": lambda r: segmentation.open_data(
            SegmentationDataConfig(format="folder", root=r, classes=("a", "b"), **common), "train"
        ),
        "data_yaml": lambda r: detection.open_data(DetectionDataConfig(format="yolo", root=r, **common), "train"),
        "train_json": lambda r: detection.open_data(DetectionDataConfig(format="coco", root=r, **common), "train"),
    }
    for name, open_it in opens.items():
        with pytest.raises(FnaError):
            open_it(str(tmp_path / name))


# --- the home folder --------------------------------------------------------------------------------------------------


def test_the_home_folder_is_meant_in_every_path_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    words = ["run", "~/recipe.yaml", "--run=~/x", "--data.root=~/d", "--data.root", "~/e", "--seed.weights", "~"]
    rest, settings = cli.split_settings(words)
    home = tmp_path / "home"
    assert rest == ["run", f"{home}/recipe.yaml", f"--run={home}/x"]
    assert settings == [f"data.root={home}/d", f"data.root={home}/e", "seed.weights=~"]  # YAML's null stays
    assert cli.main(["report", "~/nothing"]) == 2
    assert f"{home}/nothing holds no config.yaml" in capsys.readouterr().err
    assert json.dumps(sorted(path.name for path in tmp_path.iterdir())) == "[]"
