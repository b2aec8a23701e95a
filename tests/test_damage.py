"""Nothing in a run folder is believed that is not as fna left it: what differs is named, with what to do."""

from __future__ import annotations

import json
import random
import re
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from tiny import tiny_config, write_images

from fna import cli
from fna.config import Config, dump_yaml, make_config, merge
from fna.errors import FnaError
from fna.files import read_json, read_state, write_json
from fna.runs import pipeline
from fna.runs.manifest import MANIFEST, damages, read_manifest, read_vouched
from fna.runs.opening import check_data
from fna.runs.run import Run
from fna.runs.saved import load
from fna.training.engine import WeightStep

FEW = (
    *("search.epochs=2", "search.alpha_start=1", "adapt.epochs=1", "evaluate.every=1", "baseline=true"),
    *("space.layers=null", "adapt.optimizer.warmup=0"),
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return tiny_config(write_images(tmp_path_factory.mktemp("data") / "images"), *FEW)


@pytest.fixture(scope="module")
def finished(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    pipeline.run(path, config)
    return path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def flip(path: Path, seed: int) -> None:
    """Flip one bit of a file."""
    draw, data = random.Random(seed), bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def change_digit(path: Path) -> None:
    """Change the last digit in a text file, so that it reads as well as before."""
    text = path.read_text()
    place = [match.start() for match in re.finditer(r"\d", text)][-1]
    path.write_text(text[:place] + str((int(text[place]) + 3) % 10) + text[place + 1 :])


def recorded(path: Path) -> list[str]:
    """Return all files of a run that are read again."""
    manifest = read_manifest(path)
    parts = [entry[kind] for entry in manifest["stages"].values() for kind in ("files", "logs")]
    kept = [name for name, prints in manifest["kept"].items() if prints]  # others have digests of their own
    return sorted({name for part in [*parts, kept] for name in part})


def test_every_file_that_is_read_again_has_a_digest(finished: Path) -> None:
    known = {*recorded(finished), MANIFEST, ".lock", "data/train.json", "data/val.json"}  # these have their own
    assert {p.relative_to(finished).as_posix() for p in finished.rglob("*") if p.is_file()} == known
    assert {"search.csv", "entropy.csv", "adapted/steps.csv", "adapted/scores.csv"} < known
    assert {"config.yaml", "checkpoints/adapted/adapt.json"} < known


def test_a_flip_anywhere_is_named(run: Path, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = recorded(finished)
    assert damages(run) == []
    for seed, name in enumerate(names):
        flip(run / name, seed)
        (said,) = damages(run)
        assert f"{run / name} is not as " in said
        shutil.copy(finished / name, run / name)
    for seed, name in enumerate(name for name in names if name not in ("config.yaml", "report.html")):
        flip(run / name, seed)
    assert cli.main(["report", str(run)]) == 2
    said = capsys.readouterr().err
    assert "report.html is written, without what is damaged" in said
    assert all(f"{run / name} is not as " in said for name in names if name not in ("config.yaml", "report.html"))


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("config.yaml", "evaluate"),
        ("config.yaml", "run"),
        ("manifest.json", "report"),
        ("manifest.json", "derive"),
        ("found.json", "derive"),
        ("seed.json", "run"),
        ("data/val.json", "evaluate"),
        ("adapted/network.json", "evaluate"),
        ("metrics.json", "report"),
        ("checkpoints/adapted/adapt.json", "report"),
    ],
)
def test_a_changed_digit_is_named(
    run: Path, config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, command: str
) -> None:
    change_digit(run / name)
    (tmp_path / "recipe.yaml").write_text(dump_yaml(config))
    words = {
        "run": ["run", str(tmp_path / "recipe.yaml"), "--run", str(run)],
        "derive": ["derive", str(run), "--derive.name", "b"],
    }
    if name == "seed.json":  # read where a stage is to be done
        shutil.rmtree(run / "adapted")
    assert cli.main(words.get(command, [command, str(run)])) == 2
    assert str(run / name) in capsys.readouterr().err


def test_a_damaged_result_is_not_in_the_report(run: Path) -> None:
    metrics = read_json(run / "metrics.json")
    metrics["rows"]["adapted"]["miou"] = 0.987
    write_json(run / "metrics.json", metrics)
    change_digit(run / "search.csv")
    assert cli.main(["report", str(run)]) == 2
    page = (run / "report.html").read_text()
    assert "98.70" not in page
    for name in ("metrics.json", "search.csv"):
        assert f"{name} is not as the stage" in page


@pytest.mark.parametrize("seed", range(24))
def test_a_network_that_left_its_run_knows_its_own_digest(finished: Path, tmp_path: Path, seed: int) -> None:
    shutil.copytree(finished / "adapted", tmp_path / "mine")
    load(tmp_path / "mine")
    flip(tmp_path / "mine" / "network.safetensors", seed)
    with pytest.raises(FnaError, match=r"network\.safetensors"):
        load(tmp_path / "mine")


def test_a_target_of_a_run_is_read_as_it_was_left_only(run: Path) -> None:
    change_digit(run / "targets" / "derived.json")
    with pytest.raises(FnaError, match=r"derived\.json is not as the stage 'derive:derived' left it"):
        read_vouched(run / "targets" / "derived.json")
    assert cli.main(["count", str(run / "targets" / "derived.json"), "--size", "64x64"]) == 2


def test_settings_are_the_manifests_and_config_yaml_is_made_again(run: Path, config: Config) -> None:
    (run / "config.yaml").unlink()
    with (
        pytest.raises(FnaError, match=r"was started with search\.epochs = 2, now it is 3"),
        Run.open(run, config, ["search.epochs=3"]),
    ):
        pass
    with Run.open(run) as opened:
        assert opened.config == config
    assert (run / "config.yaml").read_text() == dump_yaml(config)


def test_a_key_that_is_missing_has_its_default(run: Path, config: Config) -> None:
    manifest = read_json(run / MANIFEST)
    old = {key: manifest[key] for key in ("made_by", "format", "stages")}  # as before there were digests
    write_json(run / MANIFEST, old)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("  batch_size: 2\n", "", 1))
    with pytest.raises(FnaError, match=r"was started with search\.batch_size = 8, now it is 2"), Run.open(run, config):
        pass
    (run / "config.yaml").write_text(text)
    with Run.open(run, config):
        pass
    assert read_json(run / MANIFEST).keys() > old.keys()


def test_a_log_changed_between_interruption_and_resume_is_named(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        step = WeightStep.__call__
        patch.setattr(WeightStep, "__call__", lambda s, n, *a: dies() if n == 5 else step(s, n, *a))
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(path, config)
    log = path / "search.csv"
    whole = log.read_text()
    lines = whole.splitlines(keepends=True)
    log.write_text("".join([lines[0], lines[1].replace("0.", "1.", 1), *lines[2:]]))
    with pytest.raises(FnaError, match=r"search\.csv is not as it was when the checkpoint of iteration 4 was written"):
        pipeline.run(path, config)
    log.write_text(whole + "torn")
    pipeline.run(path, config)
    assert log.read_text().startswith("".join(lines[:5]))


def test_what_another_program_writes_is_read(tmp_path: Path, finished: Path) -> None:
    from safetensors.torch import save_file

    state = read_state(finished / "adapted" / "network.safetensors")
    save_file(state, tmp_path / "network.safetensors")
    shutil.copy(finished / "adapted" / "network.json", tmp_path)
    assert load(tmp_path).record == json.loads((tmp_path / "network.json").read_text())


def test_another_machine_is_recorded_compared_and_said(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    path, step = tmp_path / "run", WeightStep.__call__
    with monkeypatch.context() as patch:
        patch.setattr(WeightStep, "__call__", lambda s, n, *a: dies() if n == 5 else step(s, n, *a))
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(path, config)
    (first,) = read_manifest(path)["made_with"]
    assert first["stage"] == "search"
    assert first["machine"].keys() == {"device", "precision", "threads", "processes", "torch"}
    said = "'search' went on with threads 2 (before: 1): weights are not bit for bit those of a run without the change"
    metrics = pipeline.run(path, config, ["engine.threads=2"])
    assert said in metrics["warnings"]
    assert said in capsys.readouterr().err
    assert "threads 2 (before: 1)" in (path / "report.html").read_text()
    with Run.open(path, config) as run:
        change = run.folder.note_machine("adapt:b", {**first["machine"], "threads": "2", "torch": "3.0"})
        assert change.startswith(f"'adapt:b' went on with torch 3.0 (before: {first['machine']['torch']}): ")
        assert not run.folder.note_machine("adapt:b", {**first["machine"], "threads": "2", "torch": "3.0"})


def test_an_index_of_the_data_that_is_gone_is_noticed(config: Config, tmp_path: Path) -> None:
    check_data(tmp_path / "run", config, ("train", "val"))
    (tmp_path / "run" / "data" / "val.json").unlink()
    with pytest.raises(FnaError, match=r"data/val\.json is gone, by which .* type --data\.allow_change true"):
        check_data(tmp_path / "run", config, ("train", "val"))
    check_data(tmp_path / "run", config, ("train",))
    accepting = make_config(merge(config.model_dump(mode="json", by_alias=True), ["data.allow_change=true"]))
    check_data(tmp_path / "run", accepting, ("train", "val"))
    assert (tmp_path / "run" / "data" / "val.json").exists()
    check_data(tmp_path / "run", config, ("train", "val"))


@pytest.mark.slow
@pytest.mark.parametrize("content", [None, b"[]\n", b"\xff\xfe{"], ids=["a folder", "a list", "no text"])
def test_anything_of_another_type_is_our_error(
    run: Path, finished: Path, tmp_path: Path, content: bytes | None
) -> None:
    for name in sorted(path.relative_to(finished) for path in finished.rglob("*")):
        path = run / name
        if path.is_dir() and content is None:
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        path.mkdir() if content is None else path.write_bytes(content)
        assert cli.main(["derive", str(run), "--derive.name", "b"]) in (0, 2), name
        if name.as_posix() in recorded(finished):  # of a folder in whose place a file is, the files are gone
            with suppress(FnaError):
                assert damages(run), name
        shutil.rmtree(run)
        shutil.copytree(finished, run)
