"""The whole job on tiny data: every stage leaves its files, nothing is done twice, controls are one override each."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from fna.arch import Arch, SuperArch
from fna.arch.net_config import to_net_config
from fna.cli import main
from fna.config import Config, load_config
from fna.cost.madds import cost_table
from fna.cost.shares import moved
from fna.errors import FnaError
from fna.files import read_json
from fna.runs import evaluating, pipeline
from fna.runs.folder import Folder
from fna.runs.run import Run
from fna.runs.saved import predict_images

TINY = (
    *("seed.name=mobilenet_v2_035", "seed.weights=null", "task.channels=16"),
    *("data.format=synthetic", "data.images=8", "data.crop=[64, 64]", "data.eval_size=[64, 96]"),
    *("space.kernels=[3, 5]", "space.layers=[2, 3, 4, 3, 3, 1]", "search.budget=0.9"),
    *("search.epochs=3", "search.alpha_start=1", "search.batch_size=2", "search.alpha.lr=0.05"),
    *("search.sampler=uniform", "search.chooser=alphas"),
    *("adapt.epochs=1", "adapt.batch_size=2", "adapt.recalibrate=2", "engine.workers=0", "engine.precision=fp32"),
)


def tiny(*overrides: str) -> Config:
    return load_config(None, [*TINY, *overrides])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished run and its metrics."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    return path, pipeline.run(path, tiny())


def test_every_stage_leaves_its_files(finished: tuple[Path, dict[str, Any]]) -> None:
    path, metrics = finished
    for name in (
        *("config.yaml", "seed.json", "super.json", "problem.json", "search.csv", "found.json", "found.safetensors"),
        *("targets/derived.json", "adapted/network.safetensors", "baseline/network.json", "adapted/scores.csv"),
        *("metrics.json", "report.html", "manifest.json"),
    ):
        assert (path / name).is_file(), name
    assert metrics == read_json(path / "metrics.json")
    assert set(metrics["rows"]) == {"baseline", "adapted"}
    assert all(0 <= row["miou"] <= 1 for row in metrics["rows"].values())
    assert load_config(path / "config.yaml") == tiny()
    kinds = 6  # the image, the truth, and of both networks what they predict and where they are wrong
    assert len(list((path / "predictions").iterdir())) == kinds * evaluating.PREDICTIONS
    assert not list((path / "checkpoints").rglob("*.pt")), "finished phases keep no checkpoints"


def test_the_target_keeps_the_budget(finished: tuple[Path, dict[str, Any]]) -> None:
    path, metrics = finished
    target = read_json(path / "targets" / "derived.json")
    arch, space = Arch.from_json(target["arch"]), SuperArch.from_json(read_json(path / "super.json"))
    assert space.path_arch(target["path"]) == arch
    assert target["cost"] == target["madds"] <= target["budget"]["cost"] <= 0.9 * target["seed_madds"]
    assert metrics["rows"]["adapted"]["madds"] == target["madds"]
    assert metrics["rows"]["baseline"]["madds"] == target["seed_madds"]
    with Run.open(path) as run:
        costs = run.problem.costs(space)
        assert costs.table == cost_table(run.problem.prepared(space), (64, 96))
        assert costs.whole(target["path"]) == target["madds"]


def test_the_split_of_the_compute_is_kept_and_said(
    finished: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    path, metrics = finished
    target = read_json(path / "targets" / "derived.json")
    assert sum(target["madds_parts"].values()) == target["madds"]
    assert sum(target["seed_madds_parts"].values()) == target["seed_madds"]
    assert metrics["seed_madds_parts"] == metrics["rows"]["baseline"]["madds_parts"] == target["seed_madds_parts"]
    assert metrics["rows"]["adapted"]["madds_parts"] == target["madds_parts"]
    said = f"compute: {moved(target['seed_madds_parts'], target['madds_parts'])}\n"
    assert re.search(r"compute: .*\d+ % -> \d+ %.*; \S+ -> \S+ GMAdds in all", said)
    for command in (["derive", str(path)], ["evaluate", str(path)]):
        assert main(command) == 0
        assert said in capsys.readouterr().out


def test_running_again_redoes_nothing(finished: tuple[Path, dict[str, Any]]) -> None:
    path, metrics = finished
    names = ("super.safetensors", "found.safetensors", "targets/derived.json", "adapted/network.safetensors")
    before = [(path / name).stat().st_mtime_ns for name in names]
    again = pipeline.run(path, tiny())["rows"]
    for name, row in metrics["rows"].items():
        assert {**again[name], "latency": {}} == {**row, "latency": {}}
    assert [(path / name).stat().st_mtime_ns for name in names] == before


def test_a_target_whose_file_was_removed_is_derived_again(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    path = Path(shutil.copytree(finished[0], tmp_path / "run"))
    file = path / "targets" / "derived.json"
    before = read_json(file)
    file.unlink()
    with pytest.raises(FnaError, match=r"the target 'derived' of .* is not finished; type: fna derive .*"):
        Folder.open(path, writer=False).read_json("derive:derived", "targets/derived.json")
    with Run.open(path) as run:
        pipeline.stage(run, "derive")
    assert read_json(file) == before


@pytest.mark.parametrize("init", ["super", "seed", "random"])
def test_a_control_is_one_override(finished: tuple[Path, dict[str, Any]], init: str) -> None:
    path, _ = finished
    with Run.open(path, None, [f"adapt.name=control_{init}", "adapt.arch=seed", f"adapt.init={init}"]) as run:
        pipeline.stage(run, "adapt")
        rows = pipeline.stage(run, "evaluate")["rows"]
    assert rows[f"control_{init}"]["init"] == init
    assert rows[f"control_{init}"]["madds"] == rows["baseline"]["madds"]


def test_weights_that_were_trained_elsewhere_are_taken(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    path, _ = finished
    trained = load_file(path / "found.safetensors")
    with Run.open(tmp_path / "run", tiny(f"seed.super_weights={path / 'found.safetensors'}")) as run:
        pipeline.stage(run, "expand")
        state = run.expanded().state
    assert all(torch.equal(tensor, trained[name]) for name, tensor in state.items())
    assert read_json(tmp_path / "run" / "remap.json")["rules"].keys() == {"pretrained"}
    own = load_file(path / "adapted" / "network.safetensors")
    still = ["adapt.optimizer.lr=1e-12", "adapt.recalibrate=0", "adapt.bn=frozen", "adapt.freeze=backbone"]
    file = f"adapt.weights={path / 'adapted' / 'network.safetensors'}"
    with Run.open(path, None, ["adapt.name=elsewhere", *still, file]) as run:
        pipeline.stage(run, "adapt")
    again = load_file(path / "elsewhere" / "network.safetensors")
    assert all(torch.equal(t, own[name]) for name, t in again.items() if name.startswith("backbone."))
    for text, message in (("none.pt", "no such file"), (str(path / "seed.safetensors"), "is of another network")):
        wrong = ["adapt.name=wrong", f"adapt.weights={text}"]
        with Run.open(path, None, wrong) as run, pytest.raises(FnaError, match=message):
            pipeline.stage(run, "adapt")
    wrong_super = tiny(f"seed.super_weights={path / 'seed.safetensors'}")
    with Run.open(tmp_path / "no", wrong_super) as run, pytest.raises(FnaError, match="is of another super network"):
        pipeline.stage(run, "expand")


def test_an_architecture_file_can_be_adapted(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    path, _ = finished
    seed = Arch.from_json(read_json(path / "seed.json")["arch"])
    (tmp_path / "arch.txt").write_text(to_net_config(seed))
    with Run.open(
        path, None, ["adapt.name=from_file", f"adapt.arch={tmp_path / 'arch.txt'}", "adapt.init=seed"]
    ) as run:
        pipeline.stage(run, "adapt")
    assert Arch.from_json(read_json(path / "from_file" / "network.json")["arch"]) == seed


def test_what_was_begun_and_has_learned_nothing_may_have_other_settings(finished: tuple[Path, dict[str, Any]]) -> None:
    path, _ = finished
    ours = ["adapt.name=thrifty", "adapt.arch=seed"]
    with Run.open(path, None, [*ours, "adapt.batch_size=100"]) as run, pytest.raises(FnaError, match="batch size 100"):
        pipeline.stage(run, "adapt")
    with Run.open(path, None, [*ours, "adapt.accumulate=2"]) as run:
        assert pipeline.stage(run, "adapt")["adapt"]["accumulate"] == 2


def test_the_same_name_cannot_mean_two_networks(finished: tuple[Path, dict[str, Any]]) -> None:
    path, _ = finished
    with Run.open(path, None, ["adapt.epochs=2"]) as run, pytest.raises(FnaError, match=r"epochs = 1, now it is 2"):
        pipeline.stage(run, "adapt")


def test_predict_draws_every_image(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    path, _ = finished
    (tmp_path / "in").mkdir()
    Image.new("RGB", (70, 50), "gray").save(tmp_path / "in" / "a.png")
    Image.new("L", (64, 64)).save(tmp_path / "in" / "b.jpg")
    result = predict_images(path, tmp_path / "in", tmp_path / "out")
    assert result["files"] == ["a.png", "masks/a.png", "b.png", "masks/b.png", "classes.txt"]
    with Image.open(tmp_path / "out" / "a.png") as picture:
        assert picture.size == (70, 50)


def test_a_broken_image_to_predict_is_named(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    path, _ = finished
    (tmp_path / "broken.png").write_bytes(b"<html>")
    with pytest.raises(FnaError, match=r"broken\.png"):
        predict_images(path, tmp_path, tmp_path / "out")
    with pytest.raises(FnaError, match="nowhere does not exist"):
        predict_images(path, tmp_path / "nowhere", tmp_path / "out")


def test_a_misspelt_adaptation_is_answered_with_the_nearest(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    Image.new("RGB", (70, 50)).save(tmp_path / "a.png")
    with pytest.raises(FnaError, match=r"there is no .*adaptd \(did you mean 'adapted'\?\); give a run's folder"):
        predict_images(finished[0] / "adaptd", tmp_path, tmp_path / "out")


def test_boxes_are_for_poses(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    Image.new("RGB", (70, 50)).save(tmp_path / "a.png")
    boxes = tmp_path / "boxes.json"
    boxes.write_text('[{"file_name": "a.png", "bbox": [1, 2, 30, 40]}]')
    with pytest.raises(FnaError, match="--boxes are of persons, for pose; this network is of segmentation"):
        predict_images(finished[0], tmp_path, tmp_path / "out", boxes=boxes)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["search.epochs=9"], r"search\.epochs = 3, now it is 9"),
        (["engine.rng_seed=1"], r"engine\.rng_seed = 0, now it is 1"),
    ],
)
def test_a_started_run_keeps_its_settings(
    finished: tuple[Path, dict[str, Any]], overrides: list[str], message: str
) -> None:
    path, _ = finished
    with pytest.raises(FnaError, match=message):
        pipeline.run(path, tiny(*overrides))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["search.budget=0.05"], r"reaches from .* x the seed"),
        (["search.budget=90x"], r"reaches from .* x the seed"),
        (["data.images=1"], "at least"),
        (["search.batch_size=64"], "64"),
        (["space.layers=[2, 3]"], "6 searchable stages"),
        (["seed.name=efficientnet_lit0"], "did you mean 'efficientnet_lite0'"),
        (["remap.growth=zeros"], "did you mean 'zero'"),
        (["engine.device=tpu"], "did you mean 'cpu'"),
        (["engine.precision=fp16"], "needs CUDA"),
    ],
)
def test_what_cannot_work_is_refused_before_training(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(FnaError, match=message):
        pipeline.run(tmp_path / "run", tiny(*overrides))


def test_a_stage_says_what_is_missing(tmp_path: Path) -> None:
    with Run.open(tmp_path / "run", tiny()) as run:
        with pytest.raises(FnaError, match=r"fna expand"):
            pipeline.stage(run, "search")
        with pytest.raises(FnaError, match=r"fna adapt"):
            pipeline.stage(run, "evaluate")


def test_a_run_is_opened_once_in_a_process(tmp_path: Path) -> None:
    with Run.open(tmp_path / "run", tiny()):
        for _ in range(2):  # the one refused frees nothing
            with pytest.raises(FnaError, match=r"this process has .* open already"), Run.open(tmp_path / "run"):
                pass
    with Run.open(tmp_path / "run"):
        pass


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FnaError, match="no run folder"):
        pipeline.run(tmp_path, tiny())
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", ["adapted/network.safetensors", "found.safetensors"])
def test_a_flipped_byte_is_noticed_where_it_is_read(finished: tuple[Path, dict[str, Any]], name: str) -> None:
    path, _ = finished
    data = (path / name).read_bytes()
    (path / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    try:
        with Run.open(path, None, ["adapt.name=flipped", "adapt.arch=seed"]) as run:
            with pytest.raises(FnaError, match=rf"{name} is not as the stage '.*' left it \(its SHA-256"):
                pipeline.stage(run, "evaluate" if name.startswith("adapted") else "adapt")
            assert pipeline.stage(run, "derive")["madds"]  # reads neither
    finally:
        (path / name).write_bytes(data)


def test_the_fixed_lambda_of_the_article_stays_available(tmp_path: Path) -> None:
    with Run.open(tmp_path / "run", tiny("search.budget=null", "search.lambda=0.5", "search.epochs=2")) as run:
        for name in ("expand", "search", "derive"):
            pipeline.stage(run, name)
    target = json.loads((tmp_path / "run" / "targets" / "derived.json").read_text())
    assert target["budget"] is None
    assert target["disagreements"] == []
    assert target["madds"] == target["argmax_cost"]


def test_channels_that_cannot_learn_are_warned_of(tmp_path: Path) -> None:
    dead = ("remap.growth=zero", "space.expansions=[3, 8]")
    with Run.open(tmp_path / "run", tiny(*dead)) as run:
        assert "never learn" in pipeline.stage(run, "expand")["warnings"][0]
    with pytest.raises(FnaError, match="never learn"):
        pipeline.run(tmp_path / "strict", tiny(*dead, "engine.strict=true"))
