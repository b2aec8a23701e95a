"""Two processes under torchrun: they equal one with the doubled batch, write once, and end together, well or not."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from tiny import write_images
from torch import Tensor, nn
from two_processes import end, start, torchrun, train_both_ways

from fna.files import read_json, read_state
from fna.training import distributed
from fna.training.sinks import read_log

SCRIPT = Path(__file__).with_name("own_folders.py")


@pytest.fixture(scope="module")
def out(trained: Path) -> Path:
    return trained / "segmentation"


@pytest.fixture(scope="module")
def one(out: Path) -> dict[str, Any]:
    return dict(torch.load(out / "0-of-1.pt"))


@pytest.fixture(scope="module")
def two(out: Path) -> list[dict[str, Any]]:
    return [torch.load(out / f"{rank}-of-2.pt") for rank in (0, 1)]


# --- two processes and one --------------------------------------------------------------------------------------------


def close(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float) -> None:
    assert a.keys() == b.keys()
    for name, x in a.items():
        torch.testing.assert_close(
            x, b[name], rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_shared_batch_norm_is_batch_norm_of_the_whole_batch(one: dict[str, Any], two: list[dict[str, Any]]) -> None:
    for name, whole in one["norms"].items():
        first, second = (process["norms"][name] for process in two)
        tolerance = 1e-3 if name == "far mean" else 1e-10  # at a mean of 300 float32 keeps 4 digits of the rest
        joined = {key: torch.cat([first[key], second[key]]) for key in ("y", "x.grad")}
        close({**first, **joined}, whole, tolerance)
        close({**second, **joined}, whole, tolerance)


# Weights, momenta and statistics are float64; the loss and the alphas are float32.
def test_search_equals_that_of_one_process(one: dict[str, Any], two: list[dict[str, Any]]) -> None:
    assert len(one["paths"]) == 8
    close(two[0]["searched"], one["searched"], 1e-8)
    for ours, theirs in zip(two[0]["alphas"], one["alphas"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-6)
    assert max(abs(a) for row in one["alphas"] for a in row) > 0.02  # they moved


def test_processes_share_the_scoring_of_candidates(one: dict[str, Any], two: list[dict[str, Any]]) -> None:
    close(two[0]["measured"], one["measured"], 1e-8)
    close(two[0]["measured"], two[1]["measured"], 0)
    assert two[0]["pool"] == two[1]["pool"]
    assert len(one["pool"]) == 9
    for ours, theirs in zip(two[0]["pool"], one["pool"], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-6)
        assert {**ours, "loss": 0} == {**theirs, "loss": 0}


def test_adaptation_and_metrics_equal_those_of_one_process(one: dict[str, Any], two: list[dict[str, Any]]) -> None:
    close(two[0]["adapted"], one["adapted"], 1e-8)
    for process in two:
        assert process["fresh scores"] == one["fresh scores"]
        assert process["scores"] == one["scores"]


def test_frozen_norms_equal_those_of_one_process(one: dict[str, Any], two: list[dict[str, Any]]) -> None:
    close(two[0]["frozen searched"], one["frozen searched"], 1e-8)
    close(two[0]["frozen adapted"], one["frozen adapted"], 1e-8)
    assert two[0]["frozen pool"] == two[1]["frozen pool"]
    assert any(candidate["score"] is not None for candidate in one["frozen pool"]), "after a trial of several steps"


def test_the_average_and_the_best_epoch_equal_those_of_one_process(
    one: dict[str, Any], two: list[dict[str, Any]]
) -> None:
    close(two[0]["best adapted"], one["best adapted"], 1e-7)
    assert two[0]["best scores"] == two[1]["best scores"] == one["best scores"]
    for name in ("best", "own norms best"):
        close(two[0][f"{name} adapted"], two[1][f"{name} adapted"], 0)


def test_processes_stay_in_step(one: dict[str, Any], two: list[dict[str, Any]]) -> None:
    assert two[0]["paths"] == two[1]["paths"] == one["paths"]
    assert len(set(one["paths"])) > 5
    assert two[0]["alphas"] == two[1]["alphas"]
    assert two[0]["scores"] == two[1]["scores"]
    for key in ("searched", "adapted", "frozen searched", "frozen adapted"):
        close(two[0][key], two[1][key], 0)


def test_processes_score_one_network_where_each_has_statistics_of_its_own(two: list[dict[str, Any]]) -> None:
    close(two[0]["own norms adapted"], two[1]["own norms adapted"], 0)
    assert two[0]["own norms scores"] == two[1]["own norms scores"]


def test_only_the_first_process_writes(out: Path) -> None:
    written = {path.name for path in (out / "0-of-2").rglob("*") if path.is_file()}
    assert {"search.csv", "entropy.csv", "adapt.csv", "scores.csv", "step-000008.pt"} < written
    assert not [path for path in (out / "1-of-2").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("precision", "log", "loss", "rows"),
    [
        *((".", "search.csv", "task_loss", 8), (".", "adapt.csv", "loss", 8)),
        *(("float32", "search.csv", "task_loss", 6), ("float32", "adapt.csv", "loss", 4)),
    ],
)
def test_logs_equal_those_of_one_process(out: Path, precision: str, log: str, loss: str, rows: int) -> None:
    ours, theirs = (read_log(out / run / precision / log) for run in ("0-of-2", "0-of-1"))
    assert [int(row["step"]) for row in ours] == [int(row["step"]) for row in theirs] == list(range(rows))
    # Rounding errors of float32 grow with each step: a ReLU falls to the other side.
    tolerance = 1e-5 if precision == "." else 3e-3
    assert [float(row[loss]) for row in ours] == pytest.approx([float(row[loss]) for row in theirs], rel=tolerance)
    assert float(ours[0][loss]) == pytest.approx(float(theirs[0][loss]), rel=1e-5)


def test_timm_converts_in_place() -> None:
    """Our modules keep their identity, so an optimizer made later, or a hook, finds the norms that train."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()), BatchNormAct2d(4))
    names = list(model.state_dict())
    parameters = list(model.parameters())
    assert distributed.share_statistics(model, cuda=True) is model
    norms = [m for m in model.modules() if isinstance(m, nn.SyncBatchNorm)]
    assert len(norms) == 2
    assert list(model.state_dict()) == names
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_gpus_equal_one(tmp_path: Path) -> None:
    out = train_both_ways(tmp_path, ["segmentation"], ["engine.device=cuda"])
    ours, theirs = (torch.load(out / "segmentation" / f"0-of-{size}.pt") for size in (2, 1))
    close(ours["adapted"], theirs["adapted"], 1e-5)


# --- mistakes and lost processes --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "images", train=16, val=5)


def recipe(images: Path, folder: Path) -> list[str]:
    """The arguments of a small run by the command line; return them with the recipe written."""
    path = folder / "recipe.yaml"
    path.write_text(
        f"""
seed: {{name: mobilenet_v2_035, weights: null}}
task: {{channels: 8}}
data: {{format: folder, root: {images}, classes: [a, b, c], crop: [64, 64]}}
space: {{kernels: [3, 5], expansions: [3], layers: [2, 3, 4, 3, 3, 1]}}
search: {{chooser: alphas, epochs: 6, alpha_start: 1, batch_size: 2, optimizer: {{lr: 0.02}}, alpha: {{lr: 0.02}}}}
adapt: {{epochs: 6, batch_size: 2, recalibrate: 2, optimizer: {{lr: 0.02}}}}
baseline: false
evaluate: {{every: 3}}
engine: {{device: cpu, precision: fp32, threads: 1, workers: 1, checkpoint_steps: 3}}
"""
    )
    return ["run", str(path)]


def errors_of(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if "fna: error:" in line]


@pytest.mark.parametrize("where", ["everywhere", pytest.param("on rank 1", marks=pytest.mark.slow)])
def test_a_mistake_ends_the_job_with_one_message(images: Path, tmp_path: Path, where: str) -> None:
    for rank in ("0", "1"):
        (tmp_path / rank).mkdir()
    if where == "on rank 1":
        shutil.copytree(images, tmp_path / "0" / "pictures")
    words = [*recipe(images, tmp_path), "--run", str(tmp_path / "run"), "--data.root", "pictures"]
    assert end(start(torchrun("--", SCRIPT, tmp_path, *words), tmp_path / "errors.txt")) != 0
    messages = errors_of(tmp_path / "errors.txt")
    assert len(messages) == 1
    assert "there is no data folder pictures" in messages[0]
    assert where == "everywhere" or "(rank 1)" in (tmp_path / "errors.txt").read_text()


def test_two_processes_do_a_whole_job_in_a_fresh_folder(images: Path, tmp_path: Path) -> None:
    """The first has checked the data before the others join; all take the same turns nevertheless."""
    run, errors = tmp_path / "run", tmp_path / "errors.txt"
    length = ("--search.epochs", "2", "--search.alpha_start", "1", "--adapt.epochs", "1")
    job = start(torchrun("-m", "--", "fna", *recipe(images, tmp_path), "--run", run, *length), errors)
    assert end(job, 100) == 0, errors.read_text()
    assert set(read_json(run / "metrics.json")["rows"]) == {"adapted"}
    assert (run / "report.html").exists()


def kill_rank(job: subprocess.Popen[bytes], rank: int) -> None:
    for process in psutil.Process(job.pid).children(recursive=True):
        if process.ppid() == job.pid and process.environ().get("RANK") == str(rank):
            process.send_signal(signal.SIGKILL)
            return
    raise AssertionError(f"no process of rank {rank}")


def wait_for(log: Path, rows: int, job: subprocess.Popen[bytes], errors: Path) -> None:
    while len(log.read_bytes().splitlines() if log.exists() else ()) <= rows:
        assert job.poll() is None, errors.read_text()
        time.sleep(0.01)


def assert_ended_alike(one: Path, other: Path) -> None:
    ours, theirs = (
        {**read_json(run / "found.json"), "minutes": 0, "compute_minutes": 0, "peak_memory": 0} for run in (one, other)
    )
    assert ours == theirs
    for name in ("found", "adapted/network"):
        ours, theirs = (read_state(run / f"{name}.safetensors") for run in (one, other))
        close(ours, theirs, 0)
    for log in ("search.csv", "adapted/steps.csv"):
        assert (one / log).read_text() == (other / log).read_text()


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """The words of a job, and the run folder of one that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    words, errors = ["-m", "--", "fna", *recipe(images, folder), "--run"], folder / "errors.txt"
    assert end(start(torchrun(*words, folder / "run"), errors)) == 0, errors.read_text()
    return words, folder / "run"


@pytest.mark.slow
def test_a_killed_process_ends_the_job_and_the_same_command_goes_on(
    whole: tuple[list[str], Path], tmp_path: Path
) -> None:
    (words, unbroken), errors, killed = whole, tmp_path / "errors.txt", tmp_path / "killed"
    for log, rows, rank in (("search.csv", 7, 1), ("adapted/steps.csv", 10, 0)):
        job = start(torchrun(*words, killed), errors)
        wait_for(killed / log, rows, job, errors)
        kill_rank(job, rank)
        assert end(job, 60) != 0
    messages = errors_of(errors)
    assert len(messages) <= 2
    assert all("another process of this job ended" in message for message in messages)
    assert end(start(torchrun(*words, killed), errors)) == 0, errors.read_text()
    assert_ended_alike(killed, unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("own_port", [False, True])
def test_torchrun_restarts_a_killed_process_and_the_job_ends_the_same(
    whole: tuple[list[str], Path], tmp_path: Path, own_port: bool
) -> None:
    (words, unbroken), errors, killed = whole, tmp_path / "errors.txt", tmp_path / "killed"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = start(torchrun("--max-restarts", "1", *words, killed, port=port if own_port else None), errors)
    wait_for(killed / "search.csv", 7, job, errors)
    kill_rank(job, 1)
    assert end(job) == 0, errors.read_text()
    assert_ended_alike(killed, unbroken)
