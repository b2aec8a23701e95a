"""A finished run in the user's hands: networks that load anywhere, moved folders, targets, a test split, changes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import SIDE, tiny_config, write_images

import fna
from fna.cli import main
from fna.errors import FnaError
from fna.files import read_json, read_state, write_state
from fna.runs import evaluating, pipeline, run, saved
from fna.runs.run import Run

SHORT = (
    *("space.layers=[2, 2, 3, 3, 3, 1]", "space.expansions=[3, 6]", "search.epochs=2", "search.alpha_start=1"),
    *("adapt.epochs=1", "baseline=true", "engine.checkpoint_steps=0"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished run and its data, with a test split."""
    root = tmp_path_factory.mktemp("made")
    images = write_images(root / "images", train=12, val=6)
    (images / "val.txt").write_text("12\n13\n14\n")
    (images / "test.txt").write_text("15\n16\n17\n")
    pipeline.run(root / "run", tiny_config(images, *SHORT))
    return root / "run", images


@pytest.fixture
def copied(made: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """The run and its data elsewhere, free to be changed."""
    shutil.copytree(made[0], tmp_path / "moved run")
    shutil.copytree(made[1], tmp_path / "moved images")
    return tmp_path / "moved run", tmp_path / "moved images"


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing read a seed or data."""

    def never(*args: Any, **options: Any) -> Any:
        raise AssertionError("not needed")

    monkeypatch.setattr(run, "load_seed", never)
    monkeypatch.setattr(run, "open_splits", never)
    monkeypatch.setattr(run.Folder, "open", never)


# --- a network stands by itself ---------------------------------------------------------------------------------------


def test_a_network_loads_without_data_seed_and_run(
    made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Run.open(made[0]) as job:
        (val,) = job.data("val")
        finished = evaluating.finished_network(job, "adapted")
        scores = fna.evaluate(finished, finished.problem, val, job.compute)
        image = val.load(0)[0].permute(1, 2, 0).numpy()
    shutil.copytree(made[0] / "adapted", tmp_path / "by itself")
    forbid(monkeypatch)
    for path in (made[0], made[0] / "adapted", tmp_path / "by itself", tmp_path / "by itself" / "network.safetensors"):
        model = fna.load(path)
        assert not model.training
        assert (model.task, model.classes, model.input_size) == ("segmentation", ("a", "b", "c"), (SIDE, SIDE))
        assert (len(model.mean), len(model.std)) == (3, 3)
        assert fna.Target.from_json(read_json(made[0] / "targets" / "derived.json")).arch == model.arch
        with torch.no_grad():
            assert tuple(model(torch.zeros(2, 3, SIDE, SIDE)).shape) == (2, 3, SIDE, SIDE)
        assert torch.equal(fna.predict(model, image), fna.predict(finished, image))
    assert fna.evaluate(model, model.problem, val, job.compute) == scores


def test_an_image_is_a_path_or_pixels(made: tuple[Path, Path]) -> None:
    model, path = fna.load(made[0]), made[1] / "images" / "13.png"
    labels = fna.predict(model, path)
    assert tuple(labels.shape) == (SIDE, SIDE)
    with Image.open(path) as image:
        assert torch.equal(fna.predict(model, image), labels)
        assert torch.equal(fna.predict(model, np.array(image.convert("RGB"))), labels)
        larger = fna.predict(model, image.resize((90, 70)))
    assert tuple(larger.shape) == (70, 90), "in the image's own pixels"
    for wrong in (np.zeros((3, 8, 8), np.uint8), np.zeros((8, 8, 3)), 7):
        with pytest.raises(FnaError, match="an image is a path, a PIL image, or uint8 RGB"):
            fna.predict(model, wrong)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("error")
def test_pixels_may_be_a_view_or_read_only(made: tuple[Path, Path]) -> None:
    model, path = fna.load(made[0]), made[1] / "images" / "13.png"
    with Image.open(path) as image:
        pixels_HW3 = np.array(image.convert("RGB"))
    fixed_HW3 = pixels_HW3.copy()
    fixed_HW3.flags.writeable = False
    assert torch.equal(fna.predict(model, fixed_HW3), fna.predict(model, path))
    assert torch.equal(fna.predict(model, pixels_HW3[:, ::-1]), fna.predict(model, pixels_HW3[:, ::-1].copy()))


def test_a_box_is_of_a_person(made: tuple[Path, Path]) -> None:
    with pytest.raises(FnaError, match=r"a box is of a person, for pose; this network is of segmentation"):
        fna.predict(fna.load(made[0]), made[1] / "images" / "13.png", box=(0, 0, 9, 9))


def test_either_file_describes_the_network(made: tuple[Path, Path], tmp_path: Path) -> None:
    source = made[0] / "adapted"
    shutil.copy(source / "network.safetensors", tmp_path)
    assert fna.load(tmp_path).record == read_json(source / "network.json")
    write_state(tmp_path / "network.safetensors", read_state(source / "network.safetensors"))  # drops the description
    with pytest.raises(FnaError, match=r"does not describe itself, and there is no network\.json beside it"):
        fna.load(tmp_path)
    shutil.copy(source / "network.json", tmp_path)
    assert fna.load(tmp_path).classes == ("a", "b", "c")


def test_loading_needs_no_lock(made: tuple[Path, Path], tmp_path: Path) -> None:
    with Run.open(made[0]):
        told = saved.predict_images(made[0], made[1] / "images" / "12.png", tmp_path / "out")
    assert told["files"] == ["12.png", "masks/12.png", "classes.txt"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("run/adaptd", r"there is no .*adaptd \(did you mean 'adapted'\?\)"),
        ("images", r"holds no finished network \(network\.safetensors\)$"),
        ("run/config.yaml", r"has no config\.safetensors beside it"),
    ],
)
def test_what_is_no_network_is_said(made: tuple[Path, Path], path: str, message: str) -> None:
    with pytest.raises(FnaError, match=message):
        fna.load(made[0].parent / path)


def test_settings_of_scoring_may_change(made: tuple[Path, Path]) -> None:
    model = fna.load(made[0], overrides=["evaluate.mode=sliding", "evaluate.window=[32, 32]"])
    assert model.problem.config.evaluate.window == (32, 32)  # type: ignore[attr-defined]
    with pytest.raises(FnaError, match=r"takes no setting 'task\.channels', only those of evaluate"):
        fna.load(made[0], overrides=["task.channels=3"])
    with pytest.raises(FnaError, match=r"did you mean 'mode'\?"):
        fna.load(made[0], overrides=["evaluate.mod=sliding"])


# --- a folder that was moved ------------------------------------------------------------------------------------------


def test_a_moved_run_goes_on(copied: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, images = copied

    def gone(*args: Any) -> Any:
        raise AssertionError("the seed's package is on the other machine")

    monkeypatch.setattr(run, "load_seed", gone)
    old = read_json(folder / "metrics.json")["rows"]["adapted"]["miou"]
    assert main(["evaluate", str(folder), "--data.root", str(images), "--quiet"]) == 0
    assert read_json(folder / "metrics.json")["rows"]["adapted"]["miou"] == old
    words = ["--adapt.arch", "seed", "--adapt.init", "seed", "--data.root", str(images), "--quiet"]
    assert main(["adapt", str(folder), *words]) == 0
    assert main(["report", str(folder), "--quiet"]) == 0
    assert read_json(folder / "seed_seed" / "network.json")["adapt"]["init"] == "seed"
    assert main(["evaluate", str(folder), "--data.root", str(folder / "nowhere"), "--quiet"]) == 2


def test_scoring_needs_no_training_images(copied: tuple[Path, Path]) -> None:
    folder, images = copied
    known = read_json(folder / "metrics.json")["data"]
    for number in (images / "train.txt").read_text().split():
        (images / "images" / f"{number}.png").unlink()
    (images / "train.txt").unlink()
    assert main(["evaluate", str(folder), "--data.root", str(images), "--quiet"]) == 0
    assert read_json(folder / "metrics.json")["data"] == known, "as the index tells"


# --- targets ----------------------------------------------------------------------------------------------------------


def test_targets_of_any_budget_from_one_search(copied: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder, images = copied
    for name, budget in (("most", "0.8x"), ("few", "0.93x params")):
        assert main(["derive", str(folder), "--derive.name", name, "--derive.budget", budget, "--quiet"]) == 0
        target = read_json(folder / "targets" / f"{name}.json")
        assert target["budget"]["text"] == budget
        assert target["cost"] <= target["budget"]["cost"]
        assert target["unit"] == ("params" if name == "few" else "MAdds")
    assert main(["derive", str(folder), "--derive.name", "most", "--derive.budget", "0.9x"]) == 2
    message = capsys.readouterr().err
    assert "was derived with the budget 0.8x by 'alphas', now it is 0.9x by 'alphas'" in message
    assert "--derive.name most_2" in message
    assert main(["derive", str(folder), "--derive.name", "most", "--derive.budget", "0.80", "--quiet"]) == 0
    assert main(["derive", str(folder), "--derive.name", "same", "--derive.budget", "0.8x"]) == 0
    assert "derive: 'same' is the same network as 'most'" in capsys.readouterr().err
    assert main(["derive", str(folder), "--derive.name", "any", "--derive.chooser", "random", "--quiet"]) == 0
    random, limit = read_json(folder / "targets" / "any.json"), read_json(folder / "targets" / "derived.json")["budget"]
    assert 0.9 * limit["cost"] <= random["cost"] <= limit["cost"]
    data = ["--data.root", str(images), "--quiet"]
    assert main(["adapt", str(folder), "--adapt.arch", "most", *data]) == 0
    record = read_json(folder / "most" / "network.json")
    assert record["madds"] == read_json(folder / "targets" / "most.json")["madds"]
    assert main(["adapt", str(folder), "--adapt.arch", "mots", *data]) == 2
    assert "adapt.arch is 'mots' (did you mean 'most'?)" in capsys.readouterr().err


def test_a_larger_input_is_counted_saved_and_applied(copied: tuple[Path, Path]) -> None:
    folder, images = copied
    words = ["--adapt.scale", "1.5", "--adapt.head_width", "0.5", "--adapt.output_stride", "8"]
    words += ["--adapt.name", "larger"]
    assert main(["adapt", str(folder), *words, "--data.root", str(images), "--quiet"]) == 0
    assert main(["evaluate", str(folder), "--data.root", str(images), "--quiet"]) == 0
    record, plain = (read_json(folder / name / "network.json") for name in ("larger", "adapted"))
    assert (record["scale"], record["head_width"]) == (1.5, 0.5)
    assert record["settings"]["task"]["channels"] == plain["settings"]["task"]["channels"] // 2
    assert record["settings"]["data"]["crop"] == record["size_hw"] == [96, 96]
    assert record["output_stride"] == record["settings"]["task"]["output_stride"] == 8
    assert record["madds"] > 2 * 2.25 * plain["madds"], "maps are finer, too"
    model = fna.load(folder / "larger")
    assert model.input_size == (96, 96)
    assert tuple(fna.predict(model, images / "images" / "12.png").shape) == (SIDE, SIDE)
    row = read_json(folder / "metrics.json")["rows"]["larger"]
    assert row["miou"] == record["miou"], "scored again at the size it was trained for"
    assert (row["scale"], row["output_stride"]) == (1.5, 8)
    assert read_json(folder / "metrics.json")["rows"]["adapted"]["output_stride"] == 16


@pytest.mark.parametrize(
    ("name", "arch", "init", "expected"),
    [
        ("adapted", "derived", "super", "FNA++ network"),
        ("baseline", "seed", "seed", "fine-tuned seed"),
        ("half", "half", "super", "half, weights: super"),
        ("larger", "half", "super", "half, weights: super (larger)"),
        ("seed_super", "seed", "super", "seed's architecture, weights: super (seed_super)"),
    ],
)
def test_titles_say_what_a_network_is(name: str, arch: str, init: str, expected: str) -> None:
    assert evaluating.title(name, arch, init) == expected


# --- splits and changes -----------------------------------------------------------------------------------------------


def test_the_test_split_is_opened_when_asked_for(copied: tuple[Path, Path]) -> None:
    folder, images = copied
    assert not (folder / "data" / "test.json").exists()
    assert main(["evaluate", str(folder), "--split", "test", "--data.root", str(images), "--quiet"]) == 0
    metrics = read_json(folder / "metrics_test.json")
    assert metrics["split"] == "test"
    assert metrics["data"]["test"] == 3
    assert set(metrics["rows"]) == {"adapted", "baseline"}
    assert metrics["rows"]["adapted"]["miou"] != read_json(folder / "metrics.json")["rows"]["adapted"]["miou"]
    assert main(["report", str(folder), "--quiet"]) == 0
    page = (folder / "report.html").read_text()
    assert "test" in page.partition("<h2>Result</h2>")[2].partition("</table>")[0]


def test_settings_of_scoring_are_recorded(copied: tuple[Path, Path]) -> None:
    folder, images = copied
    words = ["--evaluate.mode", "sliding", "--data.root", str(images), "--quiet"]
    assert main(["evaluate", str(folder), *words]) == 0
    assert read_json(folder / "metrics.json")["settings"]["evaluate.mode"] == "sliding"
    assert main(["report", str(folder), "--quiet"]) == 0
    assert "evaluate.mode sliding" in (folder / "report.html").read_text()


def test_changed_data_are_refused_by_name(copied: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder, images = copied
    with Image.open(images / "images" / "3.png") as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(images / "images" / "3.png")
    words = ["adapt", str(folder), "--adapt.arch", "seed", "--data.root", str(images)]
    assert main(words) == 2
    message = capsys.readouterr().err
    assert "3.png" in message
    assert "--data.allow_change true" in message
    assert main([*words, "--data.allow_change", "true", "--quiet"]) == 0
    assert main(["evaluate", str(folder), "--data.root", str(images), "--quiet"]) == 0
    assert "3.png" in str(read_json(folder / "metrics.json")["data"]["changed"])
    assert main(["report", str(folder), "--quiet"]) == 0
    assert "3.png" in (folder / "report.html").read_text()


def test_a_wrong_path_is_told_before_torch_is_loaded(tmp_path: Path) -> None:
    words = ["run", "recipe.yaml", "--run", str(tmp_path / "run"), "--data.root", str(tmp_path / "nowhere")]
    (tmp_path / "recipe.yaml").write_text("data: {format: camvid}\n")
    code = f"""
import sys
from fna.cli import main
assert main({words!r}) == 2
loaded = {{"torch", "torchvision", "timm", "matplotlib"}} & sys.modules.keys()
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "there is no data folder" in done.stderr


def test_both_splits_flaws_come_in_one_answer(copied: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    _, images = copied
    for number in (0, 13):
        (images / "images" / f"{number}.png").write_bytes(b"<html>")
    recipe = images.parent / "recipe.yaml"
    recipe.write_text(json.dumps({"data": {"format": "folder", "root": str(images), "classes": ["a", "b", "c"]}}))
    assert main(["expand", str(images.parent / "new"), "--recipe", str(recipe)]) == 2
    message = capsys.readouterr().err
    assert "0.png" in message
    assert "13.png" in message


# --- cleaning ---------------------------------------------------------------------------------------------------------


def test_a_cleaned_run_is_small_and_still_used(copied: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder, images = copied
    kept = ("adapted", "baseline", "targets/derived.json", "metrics.json", "report.html", "config.yaml", "search.csv")
    before = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert main(["clean", str(folder)]) == 2
    said = capsys.readouterr()
    assert "found.safetensors" in said.out
    assert "--yes" in said.err
    assert (folder / "found.safetensors").exists(), "nobody said yes"
    assert main(["clean", str(folder), "--yes"]) == 0
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < before / 2
    assert all((folder / name).exists() for name in kept)
    assert not [*folder.glob("*.safetensors"), *folder.glob("targets/*.safetensors"), *folder.glob("checkpoints/*/*")]
    assert tuple(fna.predict(fna.load(folder), images / "images" / "12.png").shape) == (SIDE, SIDE)
    assert main(["report", str(folder), "--quiet"]) == 0
    assert main(["clean", str(folder), "--yes"]) == 0
    assert "nothing to free" in capsys.readouterr().out


def test_a_run_without_a_network_is_not_cleaned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fna.runs.folder import Folder

    Folder.open(tmp_path / "run").close()
    assert main(["clean", str(tmp_path / "run"), "--yes"]) == 2
    assert "no finished network yet" in capsys.readouterr().err
    assert main(["clean", str(tmp_path), "--yes"]) == 2
