"""Trackers get the numbers of the CSV files, once each, however often a run is interrupted."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import adapt_tiny, opened, tiny_config, write_images

from fna.cli import main
from fna.config import make_config
from fna.errors import FnaError
from fna.training.compute import computing
from fna.training.sinks import read_log

Numbers = dict[str, dict[int, float]]  # value by name and iteration


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "images")


def adapt_in_two(images: Path, folder: Path, tracker: str) -> None:
    """Adapt for 12 iterations; an interruption after the seventh loses one that is not in a checkpoint."""
    config = tiny_config(images, f"engine.log=[{tracker}]", "adapt.recalibrate=0")
    with opened(config) as job:
        calls, loss = itertools.count(), job.problem.task.loss

        def interrupted(*args: Any) -> Any:
            if next(calls) == 7:
                raise KeyboardInterrupt
            return loss(*args)

        with pytest.raises(KeyboardInterrupt):
            adapt_tiny(job.with_loss(interrupted), folder)
        adapt_tiny(job, folder)


def in_csv(folder: Path) -> Numbers:
    """What the CSV files say; the scores of an epoch stand at its last iteration, of three."""
    found: Numbers = {}
    for row in read_log(folder / "adapt.csv"):
        for name in ("loss", "lr"):
            found.setdefault(name, {})[int(row["step"])] = float(row[name])
    for row in read_log(folder / "scores.csv"):
        found.setdefault("miou", {})[int(row["epoch"]) * 3 - 1] = float(row["miou"])
    return found


def check(found: dict[str, list[tuple[int, float]]], folder: Path) -> None:
    expected = in_csv(folder)
    assert sorted(expected["loss"]) == list(range(12))
    for name, values in expected.items():
        assert [step for step, _ in found[name]] == sorted(values), f"{name}: each iteration once"
        for step, value in found[name]:
            assert value == pytest.approx(values[step], rel=1e-4)


def test_tensorboard_reads_each_number_once(images: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    adapt_in_two(images, tmp_path, "tensorboard")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    check(found, tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow_has_each_number_once(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    adapt_in_two(images, tmp_path / "run", "mlflow")
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("fna").experiment_id])
    assert run.info.run_name == "run/adapted"
    assert run.info.status == "FINISHED"
    found = {
        name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)] for name in run.data.metrics
    }
    check(found, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb_takes_each_number_offline(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    adapt_in_two(images, tmp_path, "wandb")
    files = sorted((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2, "one a process, which wandb sync joins"
    assert len({file.name for file in files}) == 1, "under one id"


def test_a_tracker_that_fails_is_told_and_can_be_left_out(images: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "tensorboard").write_text("a file where its folder should be")
    said = r"engine\.log: tensorboard failed: .*--engine\.log '\[csv\]'"
    with opened(tiny_config(images, "engine.log=[tensorboard]")) as job, pytest.raises(FnaError, match=said):
        adapt_tiny(job, tmp_path)
    with opened(tiny_config(images)) as job:
        assert adapt_tiny(job, tmp_path).scores


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_said_first(tracker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [p for p in sys.path if "site-packages" not in p])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    monkeypatch.delitem(sys.modules, tracker, raising=False)
    config = make_config({"engine": {"log": ["csv", tracker]}})
    with pytest.raises(FnaError, match=f"pip install {tracker}"), computing(config.engine):
        pass


def test_a_tracker_that_is_unknown_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.yaml").write_text("engine: {log: [csv, comet]}\n")
    assert main(["run", str(tmp_path / "recipe.yaml"), "--run", str(tmp_path / "run")]) == 2
    assert "engine.log" in capsys.readouterr().err
