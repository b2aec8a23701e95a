"""Opening splits: what one command says about several of them, when an index is used, and how fast an answer comes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_data import H, W, labels, make_camvid, make_synthetic, save, write
from test_detection_data import make_voc, make_yolo

from fna.config import DataConfig
from fna.data.index import index_file, open_splits
from fna.errors import FnaError


def make_both(root: Path, train: int = 3, val: int = 2) -> DataConfig:
    make_camvid(root, "val", val)
    return make_camvid(root, "train", train)


def failure(config: DataConfig, folder: Path | None = None, splits: tuple[str, ...] = ("train", "val")) -> str:
    with pytest.raises(FnaError) as caught:
        open_splits("segmentation", config, splits, folder)
    return str(caught.value)


# --- several splits ---------------------------------------------------------------------------------------------------


def test_only_what_is_asked_for_is_opened(tmp_path: Path) -> None:
    config = make_both(tmp_path)
    shutil.rmtree(tmp_path / "train")
    opened = open_splits("segmentation", config, ["val"], tmp_path / "run")
    assert list(opened) == ["val"]
    assert len(opened["val"]) == 2
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["val.json"]


def test_the_flaws_of_all_splits_come_in_one_answer(tmp_path: Path) -> None:
    config = make_both(tmp_path)
    (tmp_path / "train" / "train1.png").write_bytes(b"no image")
    save(tmp_path / "valannot" / "val0.png", labels(0, (0,), (H, W - 8)))
    for folder in (None, tmp_path / "run"):
        message = failure(config, folder)
        assert "camvid 'train': 1 of 3 records are bad" in message
        assert "camvid 'val': 1 of 2 records are bad" in message
    assert "no data folder" in failure(config.model_copy(update={"root": str(tmp_path / "x")}))
    assert failure(config.model_copy(update={"root": None})).count("no data folder given") == 1


def test_changes_of_all_splits_come_in_one_answer(tmp_path: Path) -> None:
    config = make_both(tmp_path / "data")
    open_splits("segmentation", config, ["train", "val"], tmp_path / "run" / "data")
    write(tmp_path / "data" / "train.txt", "train/train0.png trainannot/train0.png\n")
    (tmp_path / "data" / "val" / "val1.png").unlink()
    message = failure(config, tmp_path / "run" / "data")
    assert f"the run in {tmp_path / 'run'} began with: 1 changed: train.txt;" in message
    assert "1 missing: val/val1.png;" in message


def test_images_to_learn_from_that_are_scored_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = make_both(tmp_path)
    write(tmp_path / "test.txt", "train/train2.png trainannot/train2.png\n")
    folder = tmp_path / "run"
    open_splits("segmentation", config, ["train", "val"], folder)
    assert "that are in 'train', too" not in capsys.readouterr().err
    for splits in (["test"], ["train", "test"]):  # of 'train', the index tells the names
        open_splits("segmentation", config, splits, folder)
        assert "split 'test': images that are in 'train', too: 1 (train2.png)" in capsys.readouterr().err
    twice = config.model_copy(update={"val": "train"})
    open_splits("segmentation", twice, ["train"])
    assert "split 'train': images that are in 'train', too: 3 (" in capsys.readouterr().err


def test_splits_of_different_classes_are_refused(tmp_path: Path) -> None:
    config = make_yolo(tmp_path)
    shutil.copytree(tmp_path / "images" / "train", tmp_path / "images" / "val")
    shutil.copytree(tmp_path / "labels" / "train", tmp_path / "labels" / "val")
    open_splits("detection", config, ["train"], tmp_path / "run")
    write(tmp_path / "data.yaml", "names: [cat, cow]")
    with pytest.raises(FnaError, match="different classes: 'dog' in 'train' is 'cow' in 'val'"):
        open_splits("detection", config, ["val"], tmp_path / "run")


def test_what_was_left_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = make_both(tmp_path, train=12).model_copy(update={"on_error": "skip"})
    for i in range(8):
        (tmp_path / "train" / f"train{i}.png").unlink()
    for _ in range(2):  # checked, and by its index
        open_splits("segmentation", config, ["train"], tmp_path / "run")
        told = capsys.readouterr().err
        assert "data: split 'train': train0.png: " in told
        assert "and 2 more lines in metrics.json" in told
    save(tmp_path / "train" / "train0.png", labels(0))
    assert "1 added: train/train0.png" in failure(config, tmp_path / "run", ("train",))


# --- when an index is used --------------------------------------------------------------------------------------------


def test_an_index_made_with_other_settings_is_made_anew(tmp_path: Path) -> None:
    config = make_voc(tmp_path)
    opened = [
        open_splits("detection", config.model_copy(update=changes), ["train"], tmp_path / "run")["train"]
        for changes in ({}, {"classes": ("dog",)}, {"cache_gb": 0.0})
    ]
    assert [data.classes for data in opened] == [("cat", "dog"), ("dog",), ("cat", "dog")]


def test_one_process_writes_and_others_read(tmp_path: Path) -> None:
    config, folder = make_both(tmp_path), tmp_path / "run"
    open_splits("segmentation", config, ["train"], folder, write=False)
    assert not folder.exists()
    open_splits("segmentation", config, ["train"], folder)
    written = index_file(folder, "train").read_bytes()
    (tmp_path / "train.txt").touch()
    open_splits("segmentation", config, ["train"], folder, write=False)
    assert index_file(folder, "train").read_bytes() == written


def test_what_is_drawn_has_no_index(tmp_path: Path) -> None:
    for task in ("segmentation", "detection", "pose"):
        config = make_synthetic(tmp_path, n=6).model_copy(update={"crop": (64, 64)})
        opened = open_splits(task, config, ["train", "val"], tmp_path / "run")
        assert all(len(data) > 0 for data in opened.values())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "spoilt", ["", "[1, 2]x", '{"files": 3}', '{"files": {"train.txt": 3}}', '{"records": [{}]}', '{"folders": [1]}']
)
def test_a_spoilt_index_is_our_error(tmp_path: Path, spoilt: str) -> None:
    config, folder = make_both(tmp_path), tmp_path / "run"
    open_splits("segmentation", config, ["train"], folder)
    path = index_file(folder, "train")
    whole: dict[str, Any] = json.loads(path.read_text())
    path.write_text(json.dumps({**whole, **json.loads(spoilt)}) if spoilt.startswith("{") else spoilt)
    assert str(path) in failure(config, folder, ("train",))


def test_splits_that_are_paths_have_files_of_their_own() -> None:
    names = [index_file(Path(), split).name for split in ("a/b.json", "a_b.json", "0-80%", "train", "../x", "v1,v2")]
    assert len(set(names)) == 6
    assert all(name.replace(".json", "").replace("-", "").replace("_", "").isalnum() for name in names)
    assert names[3] == "train.json"


# --- how fast an answer comes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["segmentation", "detection", "pose"])
def test_a_wrong_path_and_a_flaw_are_told_without_torch(tmp_path: Path, task: str) -> None:
    """Reading, checking and writing an index need numpy and Pillow, so an answer comes in less than 2 CPU seconds."""
    form = {"segmentation": "camvid", "detection": "coco", "pose": "coco"}[task]
    config, run = make_both(tmp_path), tmp_path / "run"
    code = f"""
import sys, time
from pathlib import Path
from fna.config import make_config
from fna.data.index import open_splits
from fna.errors import FnaError
for root in ("nowhere", {str(tmp_path)!r}):
    data = {{"format": {form!r}, "root": root, "crop": [64, 64]}}
    config = make_config({{"task": {{"name": {task!r}}}, "data": data}}).data
    try:
        open_splits({task!r}, config, ["train", "val"], Path({str(run)!r}))
    except FnaError as error:
        print(error)
loaded = sys.modules.keys() & {{"torch", "torchvision", "timm", "matplotlib"}}
assert not loaded, loaded
print("seconds", time.process_time())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "there is no data folder nowhere" in done.stdout
    assert float(done.stdout.rpartition("seconds ")[2]) < 2
    assert (run / "train.json").exists() == (config.format == form)
