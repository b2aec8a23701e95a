"""Which weights an adaptation keeps: a running average, the best epoch on validation; resumed bit for bit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from test_pipeline import tiny
from test_resume import ADAPT, nothing, outcome, stop
from tiny import Job, adapt_tiny, opened, tiny_config, write_images
from torch import Tensor, nn

from fna.cli import main
from fna.errors import FnaError
from fna.files import read_json
from fna.runs import pipeline
from fna.runs.manifest import write_manifest
from fna.runs.run import Run
from fna.stages import adapt as adapting
from fna.stages.adapt import AdaptLoop
from fna.training.averaging import make_average
from fna.training.checkpoints import Checkpoints
from fna.training.sinks import read_log

KEEP = ("adapt.ema=0.9", "adapt.keep=best", "evaluate.every=1", "adapt.epochs=5", "adapt.optimizer.name=adamw")
STEPS = 15


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "images")


@pytest.fixture(scope="module")
def job(images: Path) -> Iterator[Job]:
    with opened(tiny_config(images, *KEEP)) as ready:
        yield ready


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Scores that come up one after the other in place of the measured ones; the networks are scored all the same."""
    script: list[float] = []
    measure = adapting.evaluate

    def evaluate(*arguments: Any, **options: Any) -> dict[str, Any]:
        scores = measure(*arguments, **options)
        return {**scores, "miou": script.pop(0)} if script else scores

    monkeypatch.setattr(adapting, "evaluate", evaluate)
    yield script
    assert not script, "an evaluation was left out"


def states_at(job: Job, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[dict[str, Tensor]]]:
    """Adapt, noting the weights after each iteration."""
    states: list[dict[str, Tensor]] = []
    step = AdaptLoop.step

    def noting(self: AdaptLoop, number: int) -> Any:
        row = step(self, number)
        states.append({name: tensor.clone() for name, tensor in self.model.state_dict().items()})
        return row

    with monkeypatch.context() as patch:
        patch.setattr(AdaptLoop, "step", noting)
        return adapt_tiny(job, folder), states


# --- the average ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.6, 0.999])
def test_the_average_is_the_one_written_by_hand(
    images: Path, tmp_path: Path, decay: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tiny_config(images, f"adapt.ema={decay}"), double=True) as job:
        tuned, states = states_at(job, tmp_path, monkeypatch)
    assert len(states) == 12
    for name, kept in tuned.network.state.items():
        average = states[0][name].clone()
        for n, state in enumerate(states, 1):
            rate = min(decay, 1 - n ** (-2 / 3))
            average = rate * average + (1 - rate) * state[name] if average.is_floating_point() else state[name]
        torch.testing.assert_close(kept, average, rtol=1e-12, atol=1e-12)
    moved = [not torch.equal(t, states[-1][name]) for name, t in tuned.network.state.items() if t.is_floating_point()]
    assert all(moved)


@pytest.mark.parametrize("off", ["null", "0"])
def test_both_are_off_by_default(images: Path, tmp_path: Path, off: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tiny_config(images)) as job:
        tuned, states = states_at(job, tmp_path / "plain", monkeypatch)
        assert (job.config.adapt.ema, job.config.adapt.keep) == (None, "last")
    assert all(torch.equal(tensor, states[-1][name]) for name, tensor in tuned.network.state.items())
    assert tuned.epoch == 4
    with opened(tiny_config(images, f"adapt.ema={off}")) as job:
        again = adapt_tiny(job, tmp_path / "off").network.state
    assert all(torch.equal(tensor, again[name]) for name, tensor in tuned.network.state.items())


def test_a_short_schedule_forgets_where_it_began() -> None:
    """Weights at -1 that jump to 1 after a tenth of 100 iterations: the average is there at the end."""
    model = nn.Linear(1, 1)
    average = make_average(model, 0.9999)
    assert average is not None
    for n in range(1, 101):
        nn.init.constant_(model.weight, 1.0 if n > 10 else -1.0)
        average.update(model, n)
    assert float(average.module.weight.detach()) > 0.995


def test_averaging_changes_nothing_of_the_training(images: Path, tmp_path: Path) -> None:
    losses = []
    for overrides in ((), ("adapt.ema=0.9", "adapt.keep=best")):
        with opened(tiny_config(images, *overrides)) as job:
            adapt_tiny(job, tmp_path / str(len(overrides)))
        losses.append([row["loss"] for row in read_log(tmp_path / str(len(overrides)) / "adapt.csv")])
    assert losses[0] == losses[1]


# --- the best epoch ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "epoch"),
    [([0.1, 0.5, 0.3, 0.1, 0.4], 2), ([0.5, 0.1, 0.5, 0.2, 0.3], 1), ([0.1, 0.2, 0.3, 0.4, 0.5], 5)],
)
@pytest.mark.parametrize("ema", ["null", "0.6"])
def test_the_best_epoch_is_kept_the_earliest_of_equals(
    images: Path, tmp_path: Path, scored: list[float], scores: list[float], epoch: int, ema: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    shown: list[dict[str, Tensor]] = []
    end = AdaptLoop.end_epoch

    def noting(self: AdaptLoop, number: int) -> Any:
        shown.append({name: tensor.clone() for name, tensor in self.shown.state_dict().items()})
        return end(self, number)

    monkeypatch.setattr(AdaptLoop, "end_epoch", noting)
    scored[:] = scores
    with opened(tiny_config(images, *KEEP, f"adapt.ema={ema}")) as job:
        tuned = adapt_tiny(job, tmp_path)
    assert [float(row["miou"]) for row in read_log(tmp_path / "scores.csv")] == scores
    assert (tuned.epoch, tuned.scores["miou"]) == (epoch, max(scores))
    assert all(torch.equal(tensor, shown[epoch - 1][name]) for name, tensor in tuned.network.state.items())


def test_best_is_of_the_epochs_that_are_scored(images: Path, tmp_path: Path, scored: list[float]) -> None:
    scored[:] = [0.3, 0.2, 0.1]  # of epochs 2, 4 and 5: the last is always scored
    with opened(tiny_config(images, *KEEP, "evaluate.every=2", "adapt.epochs=5")) as job:
        assert adapt_tiny(job, tmp_path).epoch == 2
    assert [int(row["epoch"]) for row in read_log(tmp_path / "scores.csv")] == [2, 4, 5]


# --- stopped and gone on ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unbroken(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("unbroken")
    ended = outcome(ADAPT, job, folder)
    log = [float(row["miou"]) for row in read_log(folder / "scores.csv")]
    best = adapt_tiny(job, folder).epoch  # again at its end: found before
    assert best == 1 + log.index(max(log))
    return ended


@pytest.mark.parametrize("call", [0, 4, 10, 13, STEPS - 1])
def test_stopped_once_ends_the_same(job: Job, unbroken: Any, tmp_path: Path, call: int) -> None:
    stop(ADAPT, job, tmp_path, call)
    assert outcome(ADAPT, job, tmp_path) == unbroken


def test_scores_of_an_epoch_before_the_interruption_are_there(job: Job, tmp_path: Path) -> None:
    whole = adapt_tiny(job, tmp_path / "whole")
    stop(ADAPT, job, tmp_path, STEPS - 1)
    again = adapt_tiny(job, tmp_path)
    assert (again.epoch, again.scores) == (whole.epoch, whole.scores)


def without_average(loop: dict[str, Any]) -> None:
    for tensor in loop["average"].values():
        tensor.zero_()


def with_another_best(loop: dict[str, Any]) -> None:
    loop["best"]["score"] = 2.0
    for tensor in loop["best"]["state"].values():
        tensor.zero_()


@pytest.mark.parametrize("drop", [nothing, without_average, with_another_best])
def test_a_dropped_item_of_the_state_is_seen(job: Job, unbroken: Any, tmp_path: Path, drop: Any) -> None:
    stop(ADAPT, job, tmp_path, STEPS - 1)
    checkpoints = Checkpoints(tmp_path / "adapt")
    step, state = checkpoints.load_latest() or (0, {})
    drop(state["loop"])
    checkpoints.clear()
    checkpoints.save(step, state)
    assert (outcome(ADAPT, job, tmp_path) == unbroken) == (drop is nothing)


# --- in a run ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "kept"
    pipeline.run(path, tiny("adapt.keep=best", "adapt.ema=0.9", "adapt.epochs=2"))
    return path


@pytest.mark.parametrize("init", ["super", "seed", "random"])
def test_networks_of_every_origin_are_averaged_and_the_best_is_kept(finished: Path, init: str) -> None:
    with Run.open(finished, None, [f"adapt.name=from_{init}", f"adapt.init={init}"]) as run:
        kept = pipeline.stage(run, "adapt")
    scores = [float(row["miou"]) for row in read_log(finished / f"from_{init}" / "scores.csv")]
    assert len(scores) == 2
    assert kept["miou"] == pytest.approx(max(scores), abs=1e-6), "as many digits as the log has"
    assert kept["epoch"] == 1 + scores.index(max(scores))


def test_all_rows_alike_and_the_score_is_said_to_be_optimistic(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(finished)]) == 0
    printed = capsys.readouterr()
    assert "validation scores are optimistic for baseline, adapted" in printed.err
    assert f"fna evaluate {finished} --split test" in printed.err
    rows = read_json(finished / "metrics.json")["rows"]
    assert {(row["keep"], row["ema"]) for row in rows.values()} == {("best", 0.9)}
    assert all(f"{row['epoch']} of 2" in printed.out for row in rows.values())
    assert main(["report", str(finished)]) == 0
    page = (finished / "report.html").read_text()
    assert f"fna evaluate {finished} --split test" in page
    assert "averages, with their decay (adapt.ema): fine-tuned seed (0.9)" in page
    capsys.readouterr()
    assert main(["evaluate", str(finished), "--split", "test"]) == 0
    assert "optimistic" not in capsys.readouterr().err


def test_the_same_name_cannot_mean_what_is_kept_otherwise(finished: Path) -> None:
    message = r"adapted with adapt.keep = best, now it is last; .*--adapt.name control"
    with Run.open(finished, None, ["adapt.keep=last"]) as run, pytest.raises(FnaError, match=message):
        pipeline.stage(run, "adapt")


def test_a_network_adapted_before_there_was_a_choice_goes_on(tmp_path: Path, images: Path) -> None:
    old: Sequence[str] = ("ema", "keep")
    with Run.open(tmp_path / "run", tiny("baseline=false", "adapt.arch=seed", "adapt.init=random")) as run:
        pipeline.stage(run, "expand")
        pipeline.stage(run, "adapt")
        stage = next(name for name in run.folder.stages() if name.startswith("adapt:"))
        about = run.folder.info(stage)
        manifest = read_json(tmp_path / "run" / "manifest.json")
    text = json.dumps(manifest)
    for key in old:
        text = text.replace(f'"{key}": {json.dumps(about["adapt"][key])}, ', "")
    assert not any(f'"{key}":' in text for key in old)
    write_manifest(tmp_path / "run", {key: value for key, value in json.loads(text).items() if key != "sha256"})
    with Run.open(tmp_path / "run") as run:
        assert pipeline.stage(run, "adapt")["miou"] == about["miou"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [("adapt.ema=1", "adapt.ema.*less than 1"), ("adapt.keep=beste", "adapt.keep.*'last' or 'best'")],
)
def test_mistakes_are_named(setting: str, message: str) -> None:
    with pytest.raises(FnaError, match=message):
        tiny(setting)
