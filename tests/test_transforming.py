"""A user's own transform gets training samples and a generator, and what it may not return is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import opened, tiny_config, write_images

from fna.cli import main
from fna.config import load_config
from fna.errors import FnaError
from fna.training.batches import Stream

CODE = """
import torch

def in_place(sample, draws):
    sample["image"].zero_()
    return sample


def darker(sample, draws):
    factor = torch.rand((), generator=draws)
    return {**sample, "image": (sample["image"] * factor).to(torch.uint8)}

def fewer_keys(sample, draws):
    return {"image": sample["image"]}

def floats(sample, draws):
    return {**sample, "image": sample["image"] / 255}

def smaller(sample, draws):
    return {**sample, "mask": sample["mask"][1:]}

def nothing(sample, draws):
    assert "index" not in sample
"""


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_transforms.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    return write_images(tmp_path / "images", train=4, val=2)


def batches(images: Path, *overrides: str, steps: tuple[int, int] = (0, 3)) -> list[Any]:
    config = tiny_config(images, *overrides)
    with opened(config) as job:
        stream = Stream(job.problem, job.data.train, range(4), 2, "adapt", job.compute)
        return [batch["image"] for batch, _ in stream.batches(*steps)]


def test_a_transform_changes_training_samples_and_draws_statelessly(images: Path) -> None:
    own = "data.transform=own_transforms:darker"
    plain, dark = batches(images), batches(images, own)
    assert all(b.float().mean() < a.float().mean() for a, b in zip(plain, dark, strict=True))
    for again in (batches(images, own, "engine.workers=1")[1:], batches(images, own, steps=(1, 3))):
        assert all(torch.equal(a, b) for a, b in zip(dark[1:], again, strict=True)), "of a run that goes on, too"


def test_a_transform_may_write_in_place(images: Path) -> None:
    plain = ("data.scale=[1, 1]", "data.color_jitter=0", "data.flip=false", "data.crop=[64, 64]")
    with opened(tiny_config(images, "data.transform=own_transforms:in_place", *plain)) as job:
        before = [job.data.train.load(k)[0].clone() for k in range(4)]
        stream = Stream(job.problem, job.data.train, range(4), 2, "adapt", job.compute)
        assert all((batch["image"] == 0).all() for batch, _ in stream.batches(0, 4))
        assert all(torch.equal(job.data.train.load(k)[0], before[k]) for k in range(4)), "images are kept in memory"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("fewer_keys", "returned a dict of image; expected a dict of image, mask"),
        ("floats", r"returned image as torch.float32 \(3, 64, 64\); expected a tensor torch.uint8"),
        ("smaller", r"returned mask as torch.uint8 \(63, 64\)"),
        ("nothing", "returned a NoneType"),
        ("drker", "did you mean 'darker'"),
    ],
)
def test_what_a_transform_may_not_do_is_said_at_the_first_sample(name: str, what: str, images: Path) -> None:
    with pytest.raises(FnaError, match=what):
        batches(images, f"data.transform=own_transforms:{name}", "engine.workers=1")


@pytest.mark.parametrize("name", ["own_transforms", "no_such_module:f"])
def test_a_transform_that_is_none_is_said(name: str, images: Path) -> None:
    with pytest.raises(FnaError, match="expected module:function"):
        batches(images, f"data.transform={name}")


def test_no_file_runs_code_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data: {format: synthetic, transform: 'own_transforms:darker'}\n")
    assert main(["run", str(recipe), "--run", str(tmp_path / "run")]) == 2
    assert "--data.transform own_transforms:darker" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert load_config(recipe, ["data.transform=own_transforms:darker"]).data.transform == "own_transforms:darker"
    assert load_config(recipe, ["data.transform=null"]).data.transform is None


def test_a_run_folder_runs_no_code_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fna.runs.folder import Folder
    from fna.runs.opening import keep_config

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data: {format: synthetic}\n")
    with Folder.open(tmp_path / "run") as folder:
        keep_config(folder, load_config(recipe, ["data.transform=own_transforms:darker"]))
    assert main(["adapt", str(tmp_path / "run")]) == 2
    assert "names code to run" in capsys.readouterr().err
