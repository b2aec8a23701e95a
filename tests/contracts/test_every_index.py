"""What holds for the index of every data format that lies on disk: it opens the same data again, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import test_data
import test_detection_data
import test_pose_data
import torch
from PIL import Image

from fna.config import DataConfig
from fna.data.index import index_file, open_splits
from fna.data.recognising import find_package
from fna.errors import FnaError

MAKERS: dict[tuple[str, str], Any] = {
    (task, name): make
    for task, makers in (
        ("segmentation", test_data.MAKERS),
        ("detection", test_detection_data.MAKERS),
        ("pose", test_pose_data.MAKERS),
    )
    for name, make in makers.items()
}
ON_DISK = [key for key in MAKERS if find_package(key[0]).FORMATS[key[1]].on_disk]
EVERY = pytest.mark.parametrize(("task", "name"), ON_DISK)
ANOTHER = {  # of the formats whose folders say what the records are: another file there
    ("segmentation", "cityscapes"): "leftImg8bit/train/ulm/ulm_new_leftImg8bit.png",
    ("segmentation", "pairs"): "images/train/sub/new.PNG",
    ("detection", "yolo"): "images/train/sub/new.PNG",
    ("segmentation", "yolo"): "images/train/sub/new.PNG",
    ("pose", "yolo"): "images/train/sub/new.PNG",
    ("pose", "deeplabcut"): "labeled-data/v1/CollectedData_you.csv",
}


class Kept:
    """A data set and the folder of a run that opened its training split."""

    def __init__(self, folder: Path, task: str, name: str) -> None:
        self.task, self.root, self.folder = task, folder / "data", folder / "run" / "data"
        self.root.mkdir()
        self.config: DataConfig = MAKERS[task, name](self.root)
        self.first = self.open()
        self.index = index_file(self.folder, "train")

    def open(self, **changes: Any) -> Any:
        return open_splits(self.task, self.config.model_copy(update=changes), ["train"], self.folder)["train"]

    def refused(self) -> str:
        with pytest.raises(FnaError) as caught:
            self.open()
        return str(caught.value)

    @property
    def files(self) -> list[str]:
        return [name for name, stamp in json.loads(self.index.read_text())["files"].items() if stamp is not None]


@pytest.fixture
def kept(tmp_path: Path, task: str, name: str) -> Kept:
    return Kept(tmp_path, task, name)


@contextmanager
def nothing_decoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("an image is decoded")

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", refuse)
        yield


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return bool(a == b) or (a != a and b != b)


@EVERY
def test_an_index_opens_the_same_data_without_decoding(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    with nothing_decoded(monkeypatch):
        again = kept.open()
    first = kept.first
    assert again.to_index(kept.root) == first.to_index(kept.root)
    assert len(again) == len(first)
    for key in ("classes", "colors", "links", "groups", "skipped"):
        assert getattr(again, key) == getattr(first, key), key
    assert getattr(again, "category_ids", ()) == getattr(first, "category_ids", ())
    for index in range(len(first)):
        assert again.name(index) == first.name(index)
        (image, truth), (image_then, truth_then) = again.load(index), first.load(index)
        assert torch.equal(image, image_then)
        assert same(truth, truth_then)


@EVERY
def test_every_file_that_changes_is_named(kept: Kept) -> None:
    assert len(kept.files) >= 2
    for name in kept.files:
        path = kept.root / name
        content, times = path.read_bytes(), path.stat()
        for other in (content + b" ", *([content[:-1] + bytes([content[-1] ^ 1])] if content else [])):
            path.write_bytes(other)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 10**9))
            message = kept.refused()
            assert f"1 changed: {name};" in message
            assert "--data.allow_change true" in message
        path.unlink()
        assert f"1 missing: {name};" in kept.refused()
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    kept.open()


@EVERY
def test_a_touched_file_is_no_change_and_is_read_once(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in kept.files:
        os.utime(kept.root / name, ns=(0, 10**18))
    before = kept.index.read_text()
    with nothing_decoded(monkeypatch):
        kept.open()
    assert kept.index.read_text() != before
    assert all(stamp[1] == 10**18 for stamp in json.loads(kept.index.read_text())["files"].values() if stamp)


@EVERY
def test_a_data_set_may_move(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = kept.root.with_name("elsewhere")
    shutil.copytree(kept.root, moved)
    shutil.rmtree(kept.root)
    with nothing_decoded(monkeypatch):
        again = kept.open(root=str(moved))
    assert again.to_index(moved) == kept.first.to_index(kept.root)
    again.load(len(again) - 1)


@pytest.mark.parametrize(("task", "name"), ANOTHER)
def test_another_record_is_a_change(kept: Kept, task: str, name: str) -> None:
    path = kept.root / ANOTHER[task, name]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"new")
    assert f"1 added: {ANOTHER[task, name]};" in kept.refused()
    path.unlink()
    (path.parent / "Thumbs.db").write_bytes(b"of no concern")
    kept.open()


@EVERY
def test_a_change_that_is_allowed_is_kept_in_mind(kept: Kept) -> None:
    name = next(name for name in kept.files if name.endswith((".png", ".jpg")))
    Image.open(kept.root / name).point(lambda value: 255 - value).save(kept.root / name)
    accepted = kept.open(allow_change=True)
    assert accepted.changed == [f"1 changed: {name}"]
    assert kept.open().changed == accepted.changed, "later commands know of it, and see no further change"


@EVERY
def test_preloaded_images_are_not_read_again(kept: Kept) -> None:
    again = kept.open()
    again.preload()
    shutil.rmtree(kept.root)
    for data in (again, kept.first):
        for index in range(len(data)):
            data.load(index)
