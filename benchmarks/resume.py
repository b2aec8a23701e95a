"""Kill small runs of all tasks at random moments with SIGKILL, go on by the same call, and compare with unbroken runs.

    python benchmarks/resume.py [KILLS]

KILLS (200) are spread over three tasks and all stages, data workers included; every fifth waits for a file that is
being written. What a run ends with is compared bit for bit: weights, alphas, target, scores. After each kill and at the
end no file of the folder may be broken. Negative controls: a changed draw and a changed byte in a checkpoint must not
end identical, or the comparison would be blind to them. At last, as many bits as there are kills are flipped, one at a
time, in files of the folders: each must be named.
"""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.figure  # noqa: F401 (so that no process has to)
import record
import torch

from fna.arch import Arch, Block, Stem
from fna.config import Config, make_config
from fna.errors import FnaError
from fna.files import fingerprint, read_bytes, read_json, read_state
from fna.runs import pipeline
from fna.runs.folder import LOCK, Folder
from fna.runs.manifest import MANIFEST
from fna.tasks import load_task
from fna.training.checkpoints import Checkpoints
from fna.training.sinks import read_log

RNG_SEED = 2  # of the moments
POLL_SECONDS = 0.0005
WRITE_SECONDS = 0.004  # up to which a write goes on before it is killed
LIMIT_SECONDS = 900  # for one process
SHARE = 0.3  # of an unbroken run's time, up to which a kill lets a process go on
MODELS = {"segmentation": "deeplabv3", "detection": "retinanet", "pose": "simple_baseline"}
LAYERS = ((8, 8, 1, 1), (8, 16, 2, 1), (16, 24, 2, 2), (24, 32, 2, 2), (32, 48, 2, 1))  # in, out, stride, layers
LOGS = {"search": "search.csv", "baseline": "baseline/steps.csv", "adapted": "adapted/steps.csv"}
IMAGES = {"segmentation": 16, "detection": 16, "pose": 24}  # some show nobody
WEIGHTS = ("found", "targets/derived", "adapted/network", "baseline/network")


def tiny(task: str, seed: Path) -> Config:
    """Return the settings of a run of some seconds; its seed is written to a file."""
    stages = [
        [Block("mbconv", out if n else into, out, stride=1 if n else stride, expansion=3.0) for n in range(layers)]
        for into, out, stride, layers in LAYERS
    ]
    seed.write_text(json.dumps(Arch(Stem(8), tuple(map(tuple, stages))).to_json()))
    optimizer = {"name": "sgd", "lr": 0.01, "weight_decay": 1e-4, "warmup": 3, "clip": 10.0}
    search = {"chooser": "alphas", "sampler": "uniform", "epochs": 4, "alpha_start": 2, "batch_size": 2}
    data: dict[str, Any] = {
        "seed": {"name": str(seed), "weights": None},
        "task": {"model": MODELS[task], "channels": 16},
        "data": {"format": "synthetic", "images": IMAGES[task], "eval_size": [64, 64], "crop": [64, 64]},
        "space": {"kernels": [3, 5], "expansions": [3]},
        "search": {**search, "alpha": {"lr": 0.01}, "optimizer": optimizer},
        "adapt": {"epochs": 3, "batch_size": 4, "recalibrate": 2, "optimizer": optimizer},
        "evaluate": {"every": 2},
        "engine": {"device": "cpu", "precision": "fp32", "threads": 1, "workers": 1, "checkpoint_steps": 3},
    }
    data["engine"]["checkpoint_seconds"] = 0.0
    return make_config(data)


class Job(NamedTuple):
    """A task's run: settings, place of its runs, what an unbroken one ends with, its stages, iterations and seconds."""

    task: str
    config: Config
    root: Path
    truth: Mapping[str, Any]
    stages: list[str]
    iterations: Mapping[str, int]
    seconds: float


# --- runs -------------------------------------------------------------------------------------------------------------


def start(folder: Path, config: Config) -> int:
    """Run, or go on with, the whole job in a process group of its own, with all imported; return the process's id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        with (folder.parent / f"{folder.name}.log").open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            pipeline.run(folder, config)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def wait(pid: int, until: Callable[[], bool]) -> int | None:
    """Wait for a process to end, and return its status, or for something else; then None."""
    began = time.monotonic()
    while not until():
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        if time.monotonic() - began > LIMIT_SECONDS:
            raise SystemExit(f"a run has not ended within {LIMIT_SECONDS} s")
        time.sleep(POLL_SECONDS)
    return None


def finish(folder: Path, config: Config) -> None:
    """Let a run end, which must be well."""
    check_ended(wait(start(folder, config), lambda: False), folder)


def check_ended(status: int | None, folder: Path) -> None:
    """Give up where a run ended with an error."""
    if status:
        raise SystemExit(f"{folder} failed:\n{(folder.parent / f'{folder.name}.log').read_text()}")


def kill(pid: int) -> None:
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def unbroken(task: str, root: Path) -> Job:
    """Do a run to which nothing happens."""
    config, folder = tiny(task, root / "seed.json"), root / "unbroken"
    began = time.monotonic()
    finish(folder, config)
    seconds, stages = time.monotonic() - began, Folder.open(folder, writer=False).stages()
    iterations = {phase: len(read_log(folder / name)) for phase, name in LOGS.items()}
    job = Job(task, config, root, result(folder), stages, iterations, seconds)
    assert not (faults := broken(folder, job)), faults
    return job


def kill_at_random(job: Job, folder: Path, draw: random.Random) -> dict[str, Any] | None:
    """Start a run, or go on, and kill it at a random moment; None: it had ended by then."""
    pid, end = start(folder, job.config), time.monotonic() + draw.uniform(0, SHARE * job.seconds)
    writing, delay = draw.random() < 0.2, draw.uniform(0, WRITE_SECONDS)
    status = wait(pid, lambda: time.monotonic() > end and (not writing or bool(list(folder.rglob("*.tmp")))))
    if status is not None:
        check_ended(status, folder)
        return None
    if writing:
        time.sleep(delay)
    kill(pid)
    done = Folder.open(folder, writer=False).stages() if (folder / MANIFEST).exists() else []
    return {
        "stage": next((stage for stage in job.stages if stage not in done), "the end"),
        "while_writing": bool(list(folder.rglob("*.tmp"))),
        "broken_files": broken(folder, job) if done else [],
    }


# --- what is compared -------------------------------------------------------------------------------------------------


def result(folder: Path) -> dict[str, Any]:
    """Return what must be identical: tensors by file and name, alphas, the target architecture, and the scores."""
    tensors = {
        f"{name}.{key}": tensor
        for name in WEIGHTS
        for key, tensor in sorted(read_state(folder / f"{name}.safetensors").items())
    }
    target, found = read_json(folder / "targets" / "derived.json"), read_json(folder / "found.json")
    scores = {name: read_log(folder / name / "scores.csv") for name in ("baseline", "adapted")}
    for row in (row for rows in scores.values() for row in rows):
        del row["minutes"]
    return {**tensors, **scores, "alphas": found["layers"], "arch": target["arch"], "path": target["path"]}


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Return the names of the results that are not bit for bit the same."""

    def same(x: Any, y: Any) -> bool:
        if isinstance(x, torch.Tensor):
            return x.dtype == y.dtype and x.shape == y.shape and bool(x.numpy().tobytes() == y.numpy().tobytes())
        return bool(x == y)

    return sorted(name for name in a.keys() | b.keys() if not (name in a and name in b and same(a[name], b[name])))


def broken(folder: Path, job: Job) -> list[str]:
    """Return the files that cannot be read or are not as recorded; of an ended run, unfinished stages too.

    The last line of a log may be torn by the kill: it is dropped when the run goes on.
    """
    faults = []

    def attempt(name: str, read: Callable[[], Any]) -> None:
        try:
            if read() is False:
                faults.append(name)
        except Exception as error:  # whatever a broken file raises
            faults.append(f"{name}: {error}")

    opened = Folder.open(folder, writer=False)
    ended = opened.stages() == job.stages
    for path in sorted(folder.rglob("*.json")):
        attempt(str(path.relative_to(folder)), partial(read_json, path))
    for path in sorted(folder.rglob("*.safetensors")):
        attempt(str(path.relative_to(folder)), partial(read_state, path))
    for phase, name in LOGS.items():
        attempt(f"checkpoints/{phase}", partial(intact, folder / "checkpoints" / phase))
        if (log := folder / name).exists():
            attempt(name, partial(in_order, log, job.iterations[phase] if ended else None))
    faults += opened.damages()
    return faults + ([str(path) for path in folder.rglob("*.tmp")] if ended else [])


def intact(folder: Path) -> bool:
    """Tell whether every checkpoint of a phase that has a record is as recorded."""
    records = {path: read_json(path) for path in folder.glob("step-*.json")}
    return all(
        record.items() >= fingerprint(read_bytes(path.with_suffix(".pt"))).items() for path, record in records.items()
    )


def in_order(path: Path, steps: int | None) -> bool:
    """Tell whether a log counts its iterations from 0 without gap or repetition, and, if given, to the end."""
    counted = [int(row["step"]) for row in read_log(path)]
    if steps is not None:
        with path.open(newline="") as file:  # nothing torn is left
            counted = [int(row[0]) for row in list(csv.reader(file))[1:]]
    return counted == list(range(len(counted) if steps is None else steps))


# --- negative controls and flips --------------------------------------------------------------------------------------


def nothing(checkpoints: Checkpoints, step: int, state: dict[str, Any]) -> None:
    """Write a checkpoint again as it is: the positive control."""
    checkpoints.save(step, state)


def draw_changed(checkpoints: Checkpoints, step: int, state: dict[str, Any]) -> None:
    """Shift the counter that all chance derives from."""
    checkpoints.save(step - 1, state)


def byte_changed(checkpoints: Checkpoints, step: int, state: dict[str, Any]) -> None:
    """Change a byte of the stem's weights, with a record that fits."""
    stem = next(tensor for name, tensor in state["loop"]["model"].items() if name.endswith("stem.conv.weight"))
    stem.view(torch.int32)[0, 0, 0, 0] ^= 64 << 16
    checkpoints.save(step, state)


def stopped(job: Job, phase: str) -> Path:
    """Return the folder of a run that was killed in the middle of a phase."""
    folder = job.root / f"stopped in {phase}"
    log = folder / LOGS[phase]
    pid = start(folder, job.config)
    status = wait(pid, lambda: log.exists() and len(read_log(log)) >= job.iterations[phase] * 2 // 3)
    assert status is None, f"{folder} ended before its kill"
    kill(pid)
    return folder


def controlled(job: Job, kept: Path, phase: str, control: Callable[..., None]) -> dict[str, Any]:
    """Change a checkpoint and let the run end; the comparison must see it, or that nothing changed."""
    began = time.monotonic()
    folder = Path(shutil.copytree(kept, job.root / f"{kept.name}, {control.__name__}"))
    checkpoints = Checkpoints(folder / "checkpoints" / phase)
    step, state = checkpoints.load_latest() or (0, {})
    assert step > 1, f"{folder} has no checkpoint of {phase}"
    checkpoints.clear()
    control(checkpoints, step, state)
    finish(folder, job.config)
    unlike = differences(job.truth, result(folder))
    title = f"{job.task}, {phase}, iteration {step}: {control.__name__}"
    shutil.rmtree(folder)
    if control is nothing:
        return row(title, "identical", not unlike, time.monotonic() - began, differences=unlike[:5])
    return row(title, "caught", bool(unlike), time.monotonic() - began, differences=len(unlike))


def flipped(folder: Path, file: Path, draw: random.Random) -> bool:
    """Flip a bit of a file, tell whether what fna says of the folder names the file, and put it back."""
    before = file.read_bytes()
    data = bytearray(before)
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    file.write_bytes(data)
    said = []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            said += Folder.open(folder, writer=False).damages()
            if file.name.startswith("step-"):
                Checkpoints(file.parent).load_latest()
        except FnaError as error:
            said.append(str(error))
    file.write_bytes(before)
    return any(str(file.with_suffix("")) in text for text in [*said, *(str(warning.message) for warning in told)])


def flips(job: Job, kept: list[Path], number: int, draw: random.Random) -> dict[str, Any]:
    """Flip bits in files of the finished run and in the newest checkpoints of stopped ones."""
    began, whole = time.monotonic(), job.root / "unbroken"
    files = [(whole, path) for path in sorted(whole.rglob("*")) if path.is_file() and path.name != LOCK]
    for folder in kept:
        newest = max(folder.rglob("step-*.json"))
        files += [(folder, newest), (folder, newest.with_suffix(".pt"))] * 4
    tried = [(path, flipped(folder, path, draw)) for folder, path in draw.choices(files, k=number)]
    missed = sorted({str(path.relative_to(job.root)) for path, named in tried if not named})
    named = sum(named for _, named in tried)
    return row(
        f"{job.task}: flips named", "share", named / number, time.monotonic() - began, flips=number, missed=missed
    )


# --- the benchmark ----------------------------------------------------------------------------------------------------


def row(title: str, metric: str, score: float, seconds: float, **more: Any) -> dict[str, Any]:
    numbers = {"rng_seed": 0, "metric": metric, "score": float(score), "params": None, "madds": None}
    return {"row": title, **numbers, "minutes": round(seconds / 60, 3), **more}


def interrupted(job: Job, number: int, kills: int, draw: random.Random) -> dict[str, Any]:
    """Kill a run again and again until it ends, or after so many kills lets it; compare."""
    began, folder = time.monotonic(), job.root / f"killed {number}"
    done: list[dict[str, Any]] = []
    while len(done) < kills and (killed := kill_at_random(job, folder, draw)):
        done.append(killed)
    finish(folder, job.config)
    unlike, faults = differences(job.truth, result(folder)), broken(folder, job)
    faults += [fault for killed in done for fault in killed.pop("broken_files")]
    shutil.rmtree(folder)
    more = {"kills": done, "differences": unlike[:5], "broken_files": faults}
    return row(f"{job.task}, killed {number}", "identical", not (unlike or faults), time.monotonic() - began, **more)


def soak(task: str, root: Path, kills: int, draw: random.Random) -> list[dict[str, Any]]:
    """Do all that is done with a task."""
    root.mkdir()
    load_task(task)  # imports what each process would have to
    job = unbroken(task, root)
    lines = [row(f"{task}, unbroken", "identical", True, job.seconds)]
    left, number = kills, 0
    while left:
        number += 1
        lines.append(interrupted(job, number, left, draw))
        left -= len(lines[-1]["kills"])
        print(json.dumps(lines[-1]), flush=True)
    phases = ("search", "adapted")
    kept = [stopped(job, phase) for phase in phases]
    for folder, phase in zip(kept, phases, strict=True):
        for control in (nothing, draw_changed, byte_changed):
            lines.append(controlled(job, folder, phase, control))
            print(json.dumps(lines[-1]), flush=True)
    lines.append(flips(job, kept, kills, draw))
    print(json.dumps(lines[-1]), flush=True)
    return lines


def main(kills: int = 200) -> None:
    """Measure and write ``results/resume.json``."""
    torch.set_num_threads(1)  # a pool of threads would not survive the forks
    draw, tasks = random.Random(RNG_SEED), list(MODELS)
    with tempfile.TemporaryDirectory() as name:
        shares = [kills // len(tasks) + (i < kills % len(tasks)) for i in range(len(tasks))]
        parts = [soak(task, Path(name) / task, share, draw) for task, share in zip(tasks, shares, strict=True)]
    lines = [line for part in parts for line in part]
    killed = [kill for line in lines for kill in line.get("kills", ())]

    def mean(metric: str) -> float:
        scores = [line["score"] for line in lines if line["metric"] == metric and "unbroken" not in line["row"]]
        return float(sum(scores) / len(scores))

    ratios = {
        "kills": float(len(killed)),
        "tasks": float(len(tasks)),
        "stages": float(len({kill["stage"] for kill in killed})),
        "kills_while_writing": float(sum(kill["while_writing"] for kill in killed)),
        "identical": mean("identical"),
        "negative_controls_caught": mean("caught"),
        "flips": float(sum(line.get("flips", 0) for line in lines)),
        "flips_named": mean("share"),
    }
    print(record.write("resume", lines, ratios))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
