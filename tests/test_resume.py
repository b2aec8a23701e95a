"""A run stopped anywhere and started again ends bit for bit as if never stopped; a lost item of the state is seen."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from tiny import Job, adapt_tiny, opened, search_tiny, tiny_config, write_images
from torch import Tensor

from fna.cli import main
from fna.config import Config, DeepLab
from fna.errors import FnaError
from fna.files import read_state
from fna.runs import pipeline
from fna.runs.run import Run
from fna.tasks import segmentation
from fna.training.checkpoints import Checkpoints
from fna.training.determinism import deterministic
from fna.training.sinks import Log, read_log

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "resume.py"
SEARCH_CALLS = 24  # of the loss: 15 iterations, 9 of them with an alpha step
ADAPT_CALLS = 12


class StoppedError(Exception):
    """Stands for the end of the process."""


class Phase(NamedTuple):
    """A phase of training: how to run it in a folder, its number of iterations, and its logs."""

    name: str
    run: Callable[[Job, Path], Any]
    steps: int
    logs: tuple[str, str]


SEARCH = Phase("search", search_tiny, 15, ("search.csv", "entropy.csv"))
ADAPT = Phase("adapt", adapt_tiny, 12, ("adapt.csv", "scores.csv"))
both = pytest.mark.parametrize("phase", [SEARCH, ADAPT], ids=lambda phase: phase.name)


def stopping(job: Job, call: int) -> Job:
    """Return a job whose loss ends the process when it is called for the n-th time (from 0)."""
    calls = iter(range(1_000_000))

    def loss(output: Any, batch: Mapping[str, Any], config: DeepLab) -> tuple[Tensor, Tensor]:
        if next(calls) == call:
            raise StoppedError
        return job.problem.task.loss(output, batch, config)

    return job.with_loss(loss)


def stop(phase: Phase, job: Job, folder: Path, call: int) -> None:
    """Run a phase up to a call of its loss."""
    with pytest.raises(StoppedError):
        phase.run(stopping(job, call), folder)


def outcome(phase: Phase, job: Job, folder: Path) -> tuple[Any, list[str]]:
    """Run a phase to its end; return what must be identical: weights, alphas, and logs but for the minutes."""
    ended = phase.run(job, folder)
    weights = {name: t.numpy().tobytes() for name, t in ended.network.state.items()}
    logs = []
    for name in phase.logs:
        with (folder / name).open(newline="") as file:
            logs.append(json.dumps([{k: v for k, v in row.items() if k != "minutes"} for row in csv.DictReader(file)]))
    return (weights, getattr(ended, "evidence", None)), logs


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "images")


@pytest.fixture(scope="module")
def job(images: Path) -> Iterator[Job]:
    with opened(tiny_config(images)) as ready:
        yield ready


@pytest.fixture(scope="module")
def unbroken(job: Job, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What either phase ends with when nothing happens to it."""
    return {p.name: outcome(p, job, tmp_path_factory.mktemp(p.name)) for p in (SEARCH, ADAPT)}


# --- stopped once, stopped often --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "call"),
    # In the first iteration, in a weight step of uniform paths, in an alpha step, in the weight step of an iteration
    # that would end with a checkpoint, in the last call.
    [(SEARCH, 0), (SEARCH, 4), (SEARCH, 7), (SEARCH, 16), (SEARCH, 23), (ADAPT, 0), (ADAPT, 5), (ADAPT, 11)],
    ids=lambda value: value.name if isinstance(value, Phase) else str(value),
)
def test_stopped_once_ends_the_same(
    job: Job, unbroken: dict[str, Any], tmp_path: Path, phase: Phase, call: int
) -> None:
    stop(phase, job, tmp_path, call)
    assert outcome(phase, job, tmp_path) == unbroken[phase.name]


@both
def test_stopped_again_and_again_ends_the_same(
    images: Path, unbroken: dict[str, Any], tmp_path: Path, phase: Phase
) -> None:
    with opened(tiny_config(images, "engine.checkpoint_steps=1")) as job:
        for call in (2, 3, 2, 4):  # counted from each start
            stop(phase, job, tmp_path, call)
            assert [int(row["step"]) for row in read_log(tmp_path / phase.logs[0])] == list(
                range(Checkpoints(tmp_path / phase.name).steps()[-1])
            )
        assert outcome(phase, job, tmp_path) == unbroken[phase.name]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # fork, of Python 3.12 on
@pytest.mark.parametrize("workers", [(0, 1), (1, 0)])
@both
def test_data_workers_may_change(
    images: Path, unbroken: dict[str, Any], tmp_path: Path, phase: Phase, workers: tuple[int, int]
) -> None:
    before, after = (tiny_config(images, f"engine.workers={n}") for n in workers)
    with opened(before) as job:
        stop(phase, job, tmp_path, 8)
    with opened(after) as job:
        assert outcome(phase, job, tmp_path) == unbroken[phase.name]


@pytest.mark.parametrize("call", [0, 5, 11])
def test_every_image_is_seen_once_an_epoch_wherever_it_is_stopped(job: Job, tmp_path: Path, call: int) -> None:
    seen: list[list[str]] = []

    def noting(output: Any, batch: Mapping[str, Any], config: DeepLab) -> tuple[Tensor, Tensor]:
        seen.append(batch["names"])
        return job.problem.task.loss(output, batch, config)

    stop(ADAPT, job.with_loss(noting), tmp_path, call)
    before, goes_on = seen[:], (Checkpoints(tmp_path / "adapt").steps() or [0])[-1]
    seen.clear()
    adapt_tiny(job.with_loss(noting), tmp_path)
    assert seen[: call - goes_on] == before[goes_on:], "what is done again is the same"
    whole = before[:goes_on] + seen
    epochs = [sorted(name for batch in whole[first : first + 3] for name in batch) for first in range(0, 12, 3)]
    assert epochs == [sorted(job.data.train.name(i) for i in range(12))] * 4


@pytest.mark.parametrize(
    ("function", "at", "number"),
    [("fsync", 0, errno.ENOSPC), ("fsync", 13, errno.EIO), ("replace", 6, errno.EACCES), ("open", 5, errno.ENOSPC)],
)
def test_a_save_that_fails_is_loud_and_the_run_goes_on_from_the_one_before(
    job: Job,
    unbroken: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    at: int,
    number: int,
) -> None:
    calls = iter(range(1_000_000))
    real = getattr(os, function)

    def failing(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == at:
            raise OSError(number, os.strerror(number))
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, function, failing)
        with pytest.raises(FnaError, match=rf"cannot write .*: {os.strerror(number)}"):
            adapt_tiny(job, tmp_path)
    checkpoints = Checkpoints(tmp_path / "adapt")
    assert bool(checkpoints.load_latest()) == bool(checkpoints.steps())  # no warning: none of them is damaged
    assert outcome(ADAPT, job, tmp_path) == unbroken["adapt"]


@both
def test_a_phase_at_its_end_only_hands_over(job: Job, unbroken: dict[str, Any], tmp_path: Path, phase: Phase) -> None:
    outcome(phase, job, tmp_path)  # the stage was not marked finished: the process ended right after the training
    assert outcome(phase, stopping(job, 0), tmp_path) == unbroken[phase.name]


# --- what a kill leaves behind ----------------------------------------------------------------------------------------


@both
def test_torn_lines_and_temporary_files_are_dropped(
    job: Job, unbroken: dict[str, Any], tmp_path: Path, phase: Phase, capsys: pytest.CaptureFixture[str]
) -> None:
    stop(phase, job, tmp_path, 9)
    for name in phase.logs:
        with (tmp_path / name).open("a") as file:
            file.write("99,")
    stray = tmp_path / phase.name / "step-000099.pt.1.tmp"
    stray.write_bytes(b"half a checkpo")
    unrecorded = tmp_path / phase.name / "step-000099.pt"
    unrecorded.write_bytes(b"a checkpoint without its record")
    assert outcome(phase, job, tmp_path) == unbroken[phase.name]
    assert capsys.readouterr().err.count(": its last line was torn by an interruption and is dropped") == 2
    assert not stray.exists()
    assert not unrecorded.exists()


def test_a_log_cut_anywhere_loses_its_torn_line_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log.csv"
    log = Log(path, 0, "step")
    for step in range(4):
        log.write({"step": step, "loss": step / 3, "note": 'a "b", c'})
    whole, rows = path.read_bytes(), read_log(path)
    capsys.readouterr()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        left = rows[: max(0, whole[:cut].count(b"\n") - 1)]
        assert read_log(path) == left
        Log(path, 99, "step")
        assert (read_log(path) if path.exists() else []) == left
        assert ("torn" in capsys.readouterr().err) == (whole[:cut][-1:] not in (b"", b"\n"))


@both
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    job: Job, unbroken: dict[str, Any], tmp_path: Path, phase: Phase
) -> None:
    stop(phase, job, tmp_path, 9)
    steps = Checkpoints(tmp_path / phase.name).steps()
    assert len(steps) == 2
    newest = tmp_path / phase.name / f"step-{steps[-1]:06d}.pt"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    with pytest.warns(UserWarning, match=rf"{newest.name} is damaged.*going back to the checkpoint before"):
        assert outcome(phase, job, tmp_path) == unbroken[phase.name]


@both
def test_more_images_are_refused(job: Job, tmp_path: Path, phase: Phase) -> None:
    stop(phase, job, tmp_path, 9)
    more = write_images(tmp_path / "more", train=16)
    began = rf"'{phase.name}\w*' began with 12 records to train on, now there are 16; "
    with opened(tiny_config(more)) as job, pytest.raises(FnaError, match=began):
        phase.run(job, tmp_path)


# --- negative controls: each item of the state counts -----------------------------------------------------------------


def nothing(loop: dict[str, Any]) -> None:
    pass


def without_momentum(loop: dict[str, Any]) -> None:
    loop["optimizer"]["state"] = {}


def without_alpha_optimizer(loop: dict[str, Any]) -> None:
    loop["alpha_optimizer"]["state"] = {}


def without_multiplier(loop: dict[str, Any]) -> None:
    loop["multiplier"] = 0.0


def without_alphas(loop: dict[str, Any]) -> None:
    for alpha in loop["alphas"]:
        alpha.zero_()


def without_statistics(loop: dict[str, Any]) -> None:
    for name, tensor in loop["model"].items():
        if name.endswith("running_mean"):
            tensor.zero_()


@pytest.fixture(scope="module")
def stopped_late(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each phase, which was stopped some iterations before its end."""
    root = tmp_path_factory.mktemp("stopped")
    for phase, call in ((SEARCH, SEARCH_CALLS - 8), (ADAPT, ADAPT_CALLS - 3)):
        stop(phase, job, root / phase.name, call)
    return root


@pytest.mark.parametrize(
    ("phase", "drop", "shift"),
    [
        (SEARCH, nothing, 0),
        (SEARCH, nothing, -1),  # the counter, from which all chance derives
        (SEARCH, without_momentum, 0),
        (SEARCH, without_statistics, 0),
        (SEARCH, without_alphas, 0),
        (SEARCH, without_alpha_optimizer, 0),
        (SEARCH, without_multiplier, 0),
        (ADAPT, nothing, 0),
        (ADAPT, nothing, -1),
        (ADAPT, without_momentum, 0),
        (ADAPT, without_statistics, 0),
    ],
    ids=lambda value: getattr(value, "name", None) or getattr(value, "__name__", None) or str(value),
)
def test_a_dropped_item_of_the_state_is_seen(
    job: Job,
    unbroken: dict[str, Any],
    stopped_late: Path,
    tmp_path: Path,
    phase: Phase,
    drop: Callable[[dict[str, Any]], None],
    shift: int,
) -> None:
    shutil.copytree(stopped_late / phase.name, tmp_path, dirs_exist_ok=True)
    checkpoints = Checkpoints(tmp_path / phase.name)
    step, state = checkpoints.load_latest() or (0, {})
    assert 8 <= step < phase.steps
    drop(state["loop"])
    checkpoints.clear()
    checkpoints.save(step + shift, state)
    same = outcome(phase, job, tmp_path)[0] == unbroken[phase.name][0]
    assert same == (drop is nothing and shift == 0)


def test_an_operation_without_a_deterministic_kernel_is_named() -> None:
    before = torch.are_deterministic_algorithms_enabled()
    with pytest.raises(FnaError, match=r"but put_ .*--engine.deterministic false"), deterministic(True):
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))
    with pytest.raises(RuntimeError, match="something else"), deterministic(True):
        raise RuntimeError("something else")
    assert torch.are_deterministic_algorithms_enabled() == before


@pytest.mark.filterwarnings("error")
@both
def test_deterministic_algorithms_change_nothing_on_the_cpu(
    images: Path, tmp_path: Path, phase: Phase, unbroken: dict[str, Any]
) -> None:
    with opened(tiny_config(images, "engine.deterministic=true")) as job:
        assert outcome(phase, job, tmp_path)[0] == unbroken[phase.name][0]


# --- the whole job ----------------------------------------------------------------------------------------------------


def whole(images: Path) -> Config:
    return tiny_config(
        images, "space.layers=[2, 3, 4, 3, 3, 1]", "search.epochs=2", "search.alpha_start=1", "adapt.epochs=2"
    )


def test_a_finished_stage_is_not_redone(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, folder = whole(images), tmp_path / "run"
    with opened(config) as job:
        stopped = stopping(job, 9 + 3).problem.task
    with monkeypatch.context() as patch:
        patch.setattr(segmentation, "TASK", stopped)
        with pytest.raises(StoppedError):  # in the adaptation: the search has 6 iterations and 3 alpha steps
            pipeline.run(folder, config)
    assert not (folder / "adapted" / "network.safetensors").exists()
    kept = (
        "seed.safetensors",
        "super.safetensors",
        "found.safetensors",
        "search.csv",
        "found.json",
        "targets/derived.json",
    )
    before = {name: (folder / name).stat().st_ino for name in kept}  # a rewritten file is a new one
    capsys.readouterr()
    metrics = pipeline.run(folder, config)
    assert "adapted: going on at iteration 3 of 6" in capsys.readouterr().err
    assert {name: (folder / name).stat().st_ino for name in kept} == before
    with Run.open(tmp_path / "whole", config) as whole_run:
        for name in ("expand", "search", "derive", "adapt"):
            pipeline.stage(whole_run, name)
        unbroken = pipeline.stage(whole_run, "evaluate")
    assert metrics["rows"]["adapted"]["iou"] == unbroken["rows"]["adapted"]["iou"]
    for name in ("found", "targets/derived", "adapted/network"):
        ours, theirs = (read_state(run / f"{name}.safetensors") for run in (folder, tmp_path / "whole"))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())
    assert not any((folder / "checkpoints").rglob("step-*"))  # finished phases need none


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_random_moments(tmp_path: Path) -> None:
    """The benchmark, with real SIGKILLs, on a copy that writes its result here."""
    for name in ("resume.py", "record.py"):
        shutil.copy(BENCHMARK.with_name(name), tmp_path)
    subprocess.run([sys.executable, str(tmp_path / "resume.py"), "6"], check=True, capture_output=True)
    ratios = json.loads((tmp_path / "results" / "resume.json").read_text())["ratios"]
    shares = ("identical", "negative_controls_caught", "flips_named")
    assert (ratios["kills"], ratios["flips"], *(ratios[name] for name in shares)) == (6, 6, 1, 1, 1)


# --- not going on -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "file", "remedy"),
    [
        (["search", "DIR"], "search.csv", "another folder"),
        (["adapt", "DIR", "--adapt.name", "half"], "half/steps.csv", "--adapt.name OTHER"),
        (["adapt", "DIR"], "checkpoints/adapted/step-000002.pt", "--adapt.name OTHER"),
        (["derive", "DIR"], "targets/derived.json", "--derive.name OTHER"),
        (["run", "RECIPE", "--run", "DIR"], "notes.txt", "another folder"),
    ],
)
def test_what_has_begun_is_refused_if_asked_for(
    command: list[str], file: str, remedy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, recipe = tmp_path / "run", tmp_path / "recipe.yaml"
    recipe.write_text("data: {format: synthetic}\n")
    folder.mkdir()
    (folder / "config.yaml").write_text(recipe.read_text())
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text("step\n")
    before = sorted(folder.rglob("*"))
    words = [{"DIR": str(folder), "RECIPE": str(recipe)}.get(word, word) for word in command]
    assert main([*words, "--resume", "never"]) == 2
    message = capsys.readouterr().err
    assert "is there already, and --resume is never" in message
    assert remedy in message
    assert sorted(folder.rglob("*")) == before, "nothing is touched"
