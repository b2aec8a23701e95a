"""What holds on a CPU holds on a GPU: `make test-cuda`, minutes; skipped, saying so, where torch sees no CUDA device.

One model runs on the CPU, too, so that what the tests themselves do is tried wherever they are read.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from test_memory import greedy
from test_readings import MEASURED, TASKS, adapting, searching
from test_resume import StoppedError, stopping
from tiny import adapt_tiny, search_tiny
from tiny_deeper import opened
from torch import Tensor

from fna.config import Config
from fna.errors import FnaError
from fna.nets.weights import cpu_state
from fna.searching.alphas import SearchLoop
from fna.searching.found import Found
from fna.stages.adapt import AdaptLoop, Tuned
from fna.training.sinks import read_log

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when a process first multiplies on a GPU
GPU = pytest.param("cuda", marks=pytest.mark.cuda)
FEW = ("search.candidates=3", "search.recalibrate=1", "search.epochs=2", "adapt.epochs=2", "engine.checkpoint_steps=0")
ALPHAS = ("search.chooser=alphas", "search.sampler=uniform", "search.distill=0", "search.alpha_start=1")
STEPS = 60  # timed at first use, and then

Run = Callable[..., "Found | Tuned"]


def cases(*cpu: str) -> Any:
    """Every model on the GPU, and some of them on the CPU."""
    on_gpu = [pytest.param("cuda", model, marks=pytest.mark.cuda) for model in TASKS]
    return pytest.mark.parametrize(("device", "model"), [*(("cpu", model) for model in cpu), *on_gpu])


both = pytest.mark.parametrize("run", [search_tiny, adapt_tiny], ids=["search", "adapt"])


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes the data of a model once."""
    made: dict[Any, Path] = {}

    def root(model: str) -> Path:
        write = TASKS[model][0]
        if write not in made:
            made[write] = write(tmp_path_factory.mktemp("data") / "images")
        return made[write]

    return root


def configured(roots: Callable[[str], Path], model: str, device: str, *more: str) -> Config:
    _, make, own = TASKS[model]
    return make(roots(model), *MEASURED, *FEW, *own, f"engine.device={device}", "engine.tf32=false", *more)


def weights(ended: Found | Tuned) -> dict[str, bytes]:
    return {name: tensor.contiguous().numpy().tobytes() for name, tensor in ended.network.state.items()}


# --- the same numbers -------------------------------------------------------------------------------------------------


def after_a_step(
    config: Config, make: Callable[[Any], AdaptLoop | SearchLoop]
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return what a step tells, and the weights after it, in float64."""
    with opened(config, double=True) as job:
        loop = make(job)
        loop.start(0)
        ((_, row),) = loop.readings.take(0, loop.step(0), now=True)
        return {name: value for name, value in row.items() if value is not None}, cpu_state(loop.model)


@cases("ssdlite")
@pytest.mark.parametrize("make", [adapting, searching])
def test_a_step_is_that_of_the_cpu(roots: Any, device: str, model: str, make: Any) -> None:
    (row, state), (expected, theirs) = (
        after_a_step(configured(roots, model, place), make) for place in (device, "cpu")
    )
    single = model == "deeplabv3"  # logits are resized and compared in float32
    assert row == pytest.approx(expected, rel=1e-5 if single else 1e-9)
    for name, tensor in state.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-6, atol=1e-8, msg=lambda text, name=name: name + text)


@cases("simple_baseline")
def test_scores_are_those_of_the_cpu(roots: Any, device: str, model: str) -> None:
    scores = []
    for place in (device, "cpu"):
        with opened(configured(roots, model, place), double=True) as job:
            loop = adapting(job)
            scores.append(loop.evaluate()[job.problem.task.metric])
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)


# --- the same bits twice ----------------------------------------------------------------------------------------------


@contextmanager
def named_if_refused() -> Iterator[None]:
    """An operation without a deterministic kernel is a failure that is known, by its name."""
    try:
        yield
    except FnaError as error:
        name, refused, _ = str(error).partition(" does not have a deterministic implementation")
        if not refused:
            raise
        pytest.xfail(name)


@cases("ssdlite")
@both
@pytest.mark.parametrize("more", [(), ALPHAS], ids=["measured", "alphas"])
def test_stopped_or_not_the_bits_are_the_same(
    roots: Any, device: str, model: str, run: Run, more: tuple[str, ...], tmp_path: Path
) -> None:
    if run is adapt_tiny and more:
        pytest.skip("an adaptation has no alphas")
    asked = ("engine.deterministic=true", "engine.checkpoint_steps=2")
    with named_if_refused(), opened(configured(roots, model, device, *more, *asked)) as job:
        whole = run(job, tmp_path / "whole")
        with pytest.raises(StoppedError):
            run(stopping(job, 4), tmp_path / "stopped")
        again = run(job, tmp_path / "stopped")
    assert weights(again) == weights(whole)
    if isinstance(whole, Found):
        assert isinstance(again, Found)
        assert again.evidence == whole.evidence


# --- precision --------------------------------------------------------------------------------------------------------


@cases()
@both
@pytest.mark.parametrize("more", [(), ALPHAS], ids=["measured", "alphas"])
def test_half_precision_trains(
    roots: Any, device: str, model: str, run: Run, more: tuple[str, ...], tmp_path: Path
) -> None:
    with opened(configured(roots, model, device, "engine.precision=fp16", *more)) as job:
        run(job, tmp_path)
    rows = read_log(tmp_path / ("search.csv" if run is search_tiny else "adapt.csv"))
    losses = [float(row["loss" if run is adapt_tiny else "task_loss"]) for row in rows]
    assert len(losses) > 3
    assert torch.tensor(losses).isfinite().all()


# --- waiting ----------------------------------------------------------------------------------------------------------


@cases("deeplabv3")
@pytest.mark.parametrize("make", [adapting, searching])
def test_a_step_does_not_wait_for_the_device(roots: Any, device: str, model: str, make: Any) -> None:
    """What `test_readings` knows of a device without numbers, told by the real one; here with an average, too."""
    with opened(configured(roots, model, device, "adapt.ema=0.9")) as job:
        loop = make(job)
        loop.start(0)
        for step in (0, 1):
            loop.step(step)
        try:
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("error")
            row = loop.step(2)
        finally:
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    assert torch.as_tensor(row["loss" if "loss" in row else "task_loss"]).isfinite()


@pytest.mark.cuda
@pytest.mark.parametrize("model", TASKS)
def test_an_alpha_step_waits_once(roots: Any, model: str) -> None:
    with opened(configured(roots, model, "cuda", *ALPHAS)) as job:
        loop = searching(job)
        loop.start(0)
        for step in (0, 1):
            loop.alpha_step(step)
        try:
            torch.cuda.set_sync_debug_mode("warn")
            with pytest.warns(UserWarning, match="synchroniz") as waits:
                loop.alpha_step(2)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert len(waits) == 1, [str(wait.message) for wait in waits]


@pytest.mark.cuda
def test_first_use_of_shapes_takes_no_longer_than_the_rest(roots: Any) -> None:
    with opened(configured(roots, "deeplabv3", "cuda", "search.epochs=100")) as job:
        loop = searching(job)
        loop.start(0)
        loop.step(0)
        seconds = []
        for first in (1, 1 + STEPS):
            torch.cuda.synchronize()
            began = time.perf_counter()
            for step in range(first, first + STEPS):
                list(loop.readings.take(step, loop.step(step), now=False))
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
    assert seconds[0] <= 2 * seconds[1]


# --- memory -----------------------------------------------------------------------------------------------------------


def greedy_there(output: Any, batch: object, task: object) -> tuple[Tensor, Tensor]:
    """A loss that needs more memory than its device has."""
    with torch.device(next(iter(output.values())).device if isinstance(output, dict) else output.device):
        return greedy(output, batch, task)


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize(("run", "section"), [(search_tiny, "search"), (adapt_tiny, "adapt")])
def test_running_out_of_memory_says_what_would_fit(
    roots: Any, device: str, run: Run, section: str, tmp_path: Path
) -> None:
    said = rf"{device}.* \(.* GiB\) ran out of memory: {section} took .*--{section}\.batch_size"
    with opened(configured(roots, "deeplabv3", device)) as job, pytest.raises(FnaError, match=said):
        run(job.with_loss(greedy_there), tmp_path)
