"""What `fna predict` writes: masks, boxes and poses that other programs read, of images wherever they are."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_networks import write_network, write_photos

import fna
from fna.cli import main
from fna.data.index import open_splits
from fna.errors import FnaError
from fna.files import read_json
from fna.stages.photos import find_images

FULL = ["engine.precision=fp32"]  # as `fna.predict` computes; half precision is the default where a CPU has it
ALL = {"segmentation": ("overlay", "png", "npz"), "detection": ("coco", "yolo", "csv")}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of two sizes, so that they are no single batch."""
    folder = write_photos(tmp_path_factory.mktemp("photos") / "in", (70, 100))
    with Image.open(folder / "1.png") as image:
        image.resize((64, 96)).save(folder / "1.png")
    return folder


def numbers(path: Path) -> list[list[float]]:
    return [[float(word) for word in line.split()] for line in path.read_text().splitlines()]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_masks_are_class_ids_and_pictures_are_mixed(tmp_path: Path, photos: Path) -> None:
    network = write_network(tmp_path / "net", "deeplabv3")
    done = fna.predict_images(network, photos, tmp_path / "out", None, FULL, ALL["segmentation"])
    out, model = tmp_path / "out", fna.load(network)
    assert (done["images"], done["files"][-1]) == (3, "classes.txt")
    assert done["images_per_second"] > 0
    assert (out / "classes.txt").read_text().split() == list(model.classes)
    for path in find_images(photos):
        ids = np.array(Image.open(out / "masks" / path.name))
        assert ids.dtype == np.uint8
        assert np.mean(ids == np.asarray(fna.predict(model, path))) > 0.999, "batches round otherwise"
        shares = np.load(out / "probabilities" / f"{path.stem}.npz")["probabilities"]
        assert np.allclose(shares.sum(0, dtype=float), 1, atol=2e-3)
        assert np.mean(shares.argmax(0) == ids) > 0.99, "half precision"
        picture, image = np.array(Image.open(out / path.name), float), np.array(Image.open(path), float)
        colors = np.array(list(done["colors"].values()), float)
        assert np.abs(picture - (image + colors[ids]) / 2).max() <= 0.5
    assert len(np.unique(ids)) > 1, "there is something to see"


def test_boxes_are_the_same_in_every_format(tmp_path: Path, photos: Path) -> None:
    network = write_network(tmp_path / "net", "retinanet")
    least = ["evaluate.draw_threshold=0.1"]
    done = fna.predict_images(network, photos, tmp_path / "out", None, least, ALL["detection"])
    assert not [name for name in done["files"] if name.endswith(".png")], "pictures were not asked for"
    model, out = fna.load(network), tmp_path / "out"
    results, rows = read_json(out / "results.json"), table(out / "predictions.csv")
    assert [row["category_name"] for row in results] == [row["class"] for row in rows]
    for found, row in zip(results, rows, strict=True):
        (x0, y0, width, height), corners = found["bbox"], [float(row[key]) for key in ("x0", "y0", "x1", "y1")]
        assert np.allclose(corners, [x0, y0, x0 + width, y0 + height], atol=0.01)
        assert float(row["score"]) == pytest.approx(found["score"], abs=1e-5)
        assert model.classes[found["category_id"] - 1] == found["category_name"]
    for path in find_images(photos):
        seen = [row for row in rows if row["file_name"] == path.name]
        shown = [row for row in seen if float(row["score"]) >= 0.1]
        assert 0 < len(shown) < len(seen)
        assert len(numbers(out / "labels" / f"{path.stem}.txt")) == len(shown)


def test_yolo_text_is_read_back_as_labels(tmp_path: Path, photos: Path) -> None:
    network = write_network(tmp_path / "net", "ssdlite")
    fna.predict_images(network, photos, tmp_path / "out", None, ["evaluate.draw_threshold=0.2"], ["yolo", "csv"])
    for split in ("train", "val"):
        for kind, source in (("images", photos), ("labels", tmp_path / "out" / "labels")):
            (tmp_path / "set" / kind).mkdir(parents=True, exist_ok=True)
            (tmp_path / "set" / kind / split).symlink_to(source)
    names = (tmp_path / "out" / "classes.txt").read_text().split()
    settings = {"format": "yolo", "root": str(tmp_path / "set"), "classes": names, "allow_outside": True}
    data = open_splits(
        "detection", fna.config.make_config({"task": {"model": "ssdlite"}, "data": settings}).data, ["val"]
    )
    rows = [row for row in table(tmp_path / "out" / "predictions.csv") if float(row["score"]) >= 0.2]
    for index in range(3):
        truth, name = data["val"].load(index)[1], data["val"].name(index)
        own = [row for row in rows if row["file_name"] == Path(name).name]
        assert [data["val"].classes[label] for label in truth["labels"]] == [row["class"] for row in own]
        corners = torch.tensor([[float(row[key]) for key in ("x0", "y0", "x1", "y1")] for row in own])
        assert torch.allclose(truth["boxes"], corners.reshape(-1, 4), atol=0.01)


def test_poses_have_their_joints_names(tmp_path: Path, photos: Path) -> None:
    network = write_network(tmp_path / "net", "simple_baseline")
    model, size = fna.load(network), np.array([100, 70])
    middle = float(fna.predict(model, photos / "0.png")["points"][:, 2].median())
    settings = [*FULL, *([f"evaluate.draw_threshold={middle}"] if 0 <= middle < 1 else [])]
    fna.predict_images(network, photos / "0.png", tmp_path / "out", None, settings, ["yolo", "csv"])
    (row,), (line,) = table(tmp_path / "out" / "predictions.csv"), numbers(tmp_path / "out" / "labels" / "0.txt")
    found, joints = fna.predict(model, photos / "0.png"), np.array(line[5:]).reshape(-1, 3)
    for k, name in enumerate(model.classes):
        told = [float(row[f"{name}_{what}"]) for what in ("x", "y", "score")]
        assert np.allclose(told, found["points"][k], rtol=1e-4)
        if joints[k, 2]:
            assert np.allclose(joints[k, :2] * size - 0.5, told[:2], atol=0.01)
    assert line[:5] == [0, 0.5, 0.5, 1, 1], "a person, who is the whole image"
    assert (tmp_path / "out" / "classes.txt").read_text() == "person\n"
    assert 0 < (joints[:, 2] == 2).sum() < len(joints), "those that pictures show are labelled"


@pytest.mark.parametrize("model", ["deeplabv3plus", "retinanet", "simple_baseline"])
def test_several_images_are_seen_as_each_alone(tmp_path: Path, photos: Path, model: str) -> None:
    network = fna.load(write_network(tmp_path / "net", model), overrides=["evaluate.batch_size=2"])
    paths = find_images(photos)
    several: list[Any] = fna.predict(network, paths)
    assert len(several) == len(paths)
    for path, found in zip(paths, several, strict=True):
        alone = fna.predict(network, path)
        if isinstance(alone, dict):
            key = "boxes" if "boxes" in alone else "points"
            assert torch.allclose(found[key], alone[key], atol=0.01)
        else:
            assert (found == alone).double().mean() > 0.999


# --- which images -----------------------------------------------------------------------------------------------------


def test_images_are_found_where_they_are(tmp_path: Path) -> None:
    """Frames of videos: in the order of their numbers, those of several cameras apart."""
    for name in ("left/f10.png", "left/f9.png", "right/f9.jpg", "left/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name) if "notes" not in name else (tmp_path / name).write_text("")
    names = ["left/f9.png", "left/f10.png", "right/f9.jpg"]
    every = [tmp_path / name for name in names]
    assert find_images(tmp_path / "left") == every[:2]
    assert find_images(tmp_path) == every, "a folder without images stands for those below it"
    assert find_images(str(tmp_path / "**" / "f*.*g")) == every
    assert find_images([every[2], tmp_path / "right", every[0]]) == [every[2], every[0]]
    for words, message in (
        (tmp_path / "*.bmp", r"no image .* is called like --images '.*\*\.bmp'"),
        (tmp_path / "lefd", r"does not exist \(did you mean 'left'\?\)"),
    ):
        with pytest.raises(FnaError, match=message):
            find_images(words)
    (tmp_path / "a.MP4").write_bytes(b"")
    with pytest.raises(FnaError, match=r"is a video; cut it into frames.*ffmpeg -i"):
        find_images(tmp_path / "a.MP4")


def test_images_of_the_same_name_do_not_meet(tmp_path: Path, photos: Path) -> None:
    network, cameras = write_network(tmp_path / "net", "simple_baseline"), tmp_path / "cameras"
    for camera in ("left", "right"):
        (cameras / camera).mkdir(parents=True)
        (cameras / camera / "1.png").write_bytes((photos / f"{len(camera) % 2}.png").read_bytes())
    done = fna.predict_images(network, cameras, tmp_path / "out")
    assert done["files"] == ["left/1.png", "right/1.png", "results.json"]
    rows = read_json(tmp_path / "out" / "results.json")
    assert [(row["file_name"], row["image_id"]) for row in rows] == [
        ("left/1.png", "left/1.png"),
        ("right/1.png", "right/1.png"),
    ]


def test_the_command_takes_what_a_shell_makes_of_a_pattern(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = write_network(tmp_path / "net", "simple_baseline")
    words = ["--images", *map(str, find_images(photos)), "--out", str(tmp_path / "out"), "--format", "csv"]
    assert main(["predict", str(network), *words]) == 0
    told = capsys.readouterr().out
    assert "images: 3\n" in told
    assert "images_per_second: " in told
    assert len(table(tmp_path / "out" / "predictions.csv")) == 3
    assert main(["predict", str(network), *words[:-1], "yol"]) == 2
    assert "--format yol is not for pose (did you mean 'yolo'?); it has: overlay (pictures); coco" in (
        capsys.readouterr().err
    )
