"""A training step waits for no device: nothing is read of it, nothing is copied to it while the host stands still."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_engine import bad_after
from tiny import Job, tiny_config, write_images
from tiny_deeper import opened
from tiny_detection import detection_config, write_squares
from tiny_pose import pose_config, write_figures
from torch.utils._python_dispatch import TorchDispatchMode

from fna.config import Config
from fna.errors import FnaError
from fna.nets.weights import Network, cpu_state
from fna.searching.alphas import SearchLoop
from fna.stages.adapt import AdaptLoop
from fna.stages.evaluate import evaluate
from fna.stages.expand import expand
from fna.training.checkpoints import Checkpoints
from fna.training.engine import fit
from fna.training.readings import Readings
from fna.training.sinks import read_log

MEASURED = ("search.chooser=measured", "search.sampler=anchored", "search.distill=0.5", "search.window=[0.1, 2.0]")
TASKS: dict[str, tuple[Callable[[Path], Path], Callable[..., Config], tuple[str, ...]]] = {
    "deeplabv3": (write_images, tiny_config, ("adapt.class_weights=balanced", "space.layers=[2, 2, 1, 1]")),
    "retinanet": (write_squares, detection_config, ()),
    "ssdlite": (write_squares, detection_config, ("task.model=ssdlite",)),
    "simple_baseline": (write_figures, pose_config, ()),
}


@pytest.fixture(scope="module", params=TASKS)
def config(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Config:
    write, configured, more = TASKS[request.param]
    root = write(tmp_path_factory.mktemp("data") / "images")
    return configured(root, *MEASURED, "search.tied=false", "adapt.accumulate=2", *more)


class Copies(TorchDispatchMode):
    """Lists the copies to a device for which the host stands still."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device, self.found = device, list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out, name = func(*args, **(kwargs or {})), func.overloadpacket.__name__
        if name in ("_to_copy", "copy_") and out.device == self.device:
            source = args[name == "copy_"]
            asked = (kwargs or {}).get("non_blocking", False) or (name == "copy_" and args[2:] == (True,))
            if source.device != self.device and not asked:
                self.found.append(f"{name} of {tuple(out.shape)}")
        return out


@pytest.fixture
def far(config: Config) -> Iterator[Job]:
    """A job on a device that has no numbers: reading one, or how many there are, is an error there."""
    with opened(config) as job:
        yield replace(job, compute=replace(job.compute, device=torch.device("meta")))


def adapting(job: Job) -> AdaptLoop:
    return AdaptLoop(Network(job.seed.arch, {}), job.problem, job.data, job.compute, job.config.adapt)


def searching(job: Job) -> SearchLoop:
    grown = expand(job.seed, job.problem)
    costs = job.problem.costs(grown.arch)
    return SearchLoop(grown, job.problem, job.data.train, job.compute, costs, costs.seed)


@pytest.mark.parametrize("make", [adapting, searching])
def test_a_step_reads_nothing_and_waits_for_no_copy(far: Job, make: Callable[[Job], Any]) -> None:
    """Batch norms are recalibrated first, without a read, too."""
    loop = make(far)
    loop.start(0)
    loop.step(0)  # anchors are copied once
    with Copies(far.compute.device) as copies:
        for step in (1, 2):
            row = loop.step(step)
    assert copies.found == []
    assert row["loss" if "loss" in row else "task_loss"].is_meta
    with pytest.raises(RuntimeError, match="meta"):
        list(loop.readings.take(2, row, now=True))


def test_blocking_copies_would_be_seen() -> None:
    meta = torch.device("meta")
    with Copies(meta) as copies:
        torch.zeros(3).to(meta, non_blocking=True)
        assert not copies.found
        torch.zeros(3).to(meta)
        torch.zeros(2, device=meta).copy_(torch.zeros(2))
    assert len(copies.found) == 2


def test_filling_a_short_batch_changes_no_score(config: Config) -> None:
    """6 records in batches of 4: the network sees one shape, and what is filled in is not scored."""
    shapes, scores = [], []
    with opened(config) as job:
        settings = {"evaluate": job.config.evaluate.model_copy(update={"batch_size": 4})}
        problem = replace(job.problem, config=job.config.model_copy(update=settings))
        model = job.compute.place(problem.build(job.seed.arch))
        model.register_forward_pre_hook(lambda _, given: shapes.append(len(given[0])))
        for one_shape in (False, True):
            compute = replace(job.compute, one_shape=one_shape)
            scores.append(evaluate(model, problem, job.data.train, compute, range(6)))
    assert set(shapes[: len(shapes) // 2]) == {4, 2}
    assert set(shapes[len(shapes) // 2 :]) == {4}
    assert scores[0] == scores[1]


# --- read late -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "images")


def adapt_reading(job: Job, every: int, folder: Path) -> dict[str, Any]:
    """Adapt, looking at the numbers of `every` iterations at once; return the end's weights."""
    loop = adapting(job)
    loop.weight_step.readings = Readings(every)
    folder.mkdir()
    logs = folder / "steps.csv", folder / "scores.csv"
    fit(loop, Checkpoints(folder / "adapt"), logs, "adapted", job.config.engine, job.compute)
    return cpu_state(loop.model)


def test_when_numbers_are_read_changes_nothing(images: Path, tmp_path: Path) -> None:
    with opened(tiny_config(images, "adapt.epochs=2", "engine.checkpoint_steps=0")) as job:
        one, two = (adapt_reading(job, every, tmp_path / str(every)) for every in (1, 4))
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    assert read_log(tmp_path / "1" / "steps.csv") == read_log(tmp_path / "4" / "steps.csv")
    assert len(read_log(tmp_path / "1" / "steps.csv")) == 6


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_went_bad_is_named_late_and_not_saved(images: Path, tmp_path: Path, what: str) -> None:
    with opened(tiny_config(images, "engine.checkpoint_steps=4", "adapt.epochs=3")) as job:
        bad = job.with_loss(bad_after(4, what, job.problem.task.loss))
        with pytest.raises(FnaError, match=r"at iteration 4 \(.*files of the batch: .*\.png"):
            adapt_reading(bad, 100, tmp_path / "run")
    assert Checkpoints(tmp_path / "run" / "adapt").steps() == [3, 4]
    assert [int(row["step"]) for row in read_log(tmp_path / "run" / "steps.csv")] == [0, 1, 2, 3]
    kept = torch.load(tmp_path / "run" / "adapt" / "failed-000004.pt", weights_only=True)
    assert kept["batch"]["image"].shape == (4, 3, 64, 64)


def test_what_is_held_can_be_looked_at_before_its_row_is_taken() -> None:
    readings, batch = Readings(10), {"names": ["a.png"]}
    for step, value in enumerate((1.0, math.nan, math.nan)):
        list(readings.take(step, {"loss": torch.tensor(value)}, now=False))
        readings.check(torch.tensor(value), "loss", step, 0.1, batch)
    with pytest.raises(FnaError, match=r"the loss became nan at iteration 1 .*a\.png"):
        readings.settle()
    readings.settle()  # what was told once is not held any more
    assert [step for step, _ in readings.take(3, {"loss": torch.tensor(1.0)}, now=True)] == [0, 1, 2, 3]


def test_rows_are_yielded_in_their_order_when_there_are_enough() -> None:
    readings = Readings(3)
    rows = [{"loss": torch.tensor(float(step)), "lr": 0.1, "alpha_loss": None} for step in range(5)]
    got = [list(readings.take(step, row, now=step == 4)) for step, row in enumerate(rows)]
    assert [[step for step, _ in part] for part in got] == [[], [], [0, 1, 2], [], [3, 4]]
    assert got[2][1] == (1, {"loss": 1.0, "lr": 0.1, "alpha_loss": None})
