"""Kill a small run at random moments with SIGKILL, go on by the same call each time, and compare with an unbroken run.

    python benchmarks/resume.py [RUNS]

Each of RUNS (10) interrupted runs is killed twice, data workers included: once in the search and once in an adaptation,
at random moments; a third as many more while a checkpoint is being written. Compared bit for bit: searched, adapted and
baseline weights, alphas, target architecture and its start. After each kill and at the end no file of the folder may be
broken. Negative controls: the same with one item of the newest checkpoint dropped must not end identical, or the
comparison would be blind to it.

A run is a process of its own, forked from this one, which has done nothing but import: start-up would take longer than
the training.
"""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import record
import torch

from fna.config import make_config
from fna.files import fingerprint, read_bytes, read_json, read_state
from fna.runs import pipeline
from fna.runs.folder import MANIFEST, Folder
from fna.training.checkpoints import Checkpoints
from fna.training.sinks import read_log

RNG_SEED = 2  # of the moments
POLL_SECONDS = 0.0005
WRITE_SECONDS = 0.004  # up to which a write goes on before it is killed
LIMIT_SECONDS = 600  # for one process
OPTIMIZER = {"name": "sgd", "lr": 0.02, "weight_decay": 1e-4, "warmup": 3}
CONFIG = make_config(
    {
        "seed": {"name": "mobilenet_v2_035", "weights": None},
        "task": {"channels": 16},
        "data": {"format": "synthetic", "images": 16, "eval_size": [64, 64], "crop": [64, 64]},
        "space": {"kernels": [3, 5], "layers": [2, 3, 4, 3, 3, 1]},
        "search": {
            "chooser": "alphas",
            "sampler": "uniform",
            "epochs": 6,
            "alpha_start": 2,
            "batch_size": 2,
            "alpha": {"lr": 0.01},
            "optimizer": OPTIMIZER,
        },
        "adapt": {"epochs": 5, "batch_size": 4, "recalibrate": 2, "optimizer": OPTIMIZER},
        "evaluate": {"every": 2},
        "engine": {
            **{"device": "cpu", "precision": "fp32", "threads": 1, "workers": 1},
            **{"checkpoint_steps": 3, "checkpoint_seconds": 0.0},
        },
    }
)
STEPS = {"search": 24, "baseline": 20, "adapted": 20}
STEPS_LOGS = {"search": "search.csv", "baseline": "baseline/steps.csv", "adapted": "adapted/steps.csv"}
EPOCHS = {"search": "entropy.csv", "baseline": "baseline/scores.csv", "adapted": "adapted/scores.csv"}
WEIGHTS = ("found", "targets/derived", "adapted/network", "baseline/network")
Kills = list[tuple[str, int, float, bool]]  # phase, iterations, seconds after them, whether to wait for a write


# --- runs -------------------------------------------------------------------------------------------------------------


def start(folder: Path) -> int:
    """Run, or go on with, the whole job in a process group of its own; return the process's id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        with (folder.parent / f"{folder.name}.log").open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            pipeline.run(folder, CONFIG)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def finish(pid: int, folder: Path) -> None:
    """Wait for a process that must end well."""
    _, status = os.waitpid(pid, 0)
    if status:
        raise SystemExit(f"{folder} failed:\n{(folder.parent / f'{folder.name}.log').read_text()}")


def rows(folder: Path, phase: str) -> int:
    """Return the number of iterations a phase has logged."""
    try:
        return max((folder / STEPS_LOGS[phase]).read_bytes().count(b"\n") - 1, 0)
    except FileNotFoundError:
        return 0


def kill_at(folder: Path, phase: str, step: int, delay: float, *, writing: bool = False) -> dict[str, Any]:
    """Kill a run's process group `delay` seconds after a moment.

    Args:
        folder: of the run, which is started, or goes on.
        phase: search, baseline or adapted.
        step: the moment is when so many iterations of the phase are logged.
        delay: in seconds.
        writing: or, after that, when the next file of a checkpoint is being written.
    """
    pid, began = start(folder), time.monotonic()
    while rows(folder, phase) < step or (writing and not list((folder / "checkpoints" / phase).glob("*.tmp"))):
        time.sleep(POLL_SECONDS)
        if os.waitpid(pid, os.WNOHANG)[0] or time.monotonic() - began > LIMIT_SECONDS:
            raise SystemExit(f"{folder} ended before the kill in {phase} after {step} iterations")
    time.sleep(delay)
    os.killpg(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL, f"{folder} ended by itself before the kill at {phase} {step}"
    return {
        "phase": phase,
        "iterations": rows(folder, phase),
        "resumes_at": max(Checkpoints(folder / "checkpoints" / phase).steps(), default=0),
        "while_writing": bool(list(folder.rglob("*.tmp"))),
        "broken_files": broken(folder),
    }


# --- what is compared -------------------------------------------------------------------------------------------------


def result(folder: Path) -> dict[str, Any]:
    """Return what must be identical: tensors by file and name, alphas, and the target architecture."""
    tensors = {
        f"{name}.{key}": tensor
        for name in WEIGHTS
        for key, tensor in sorted(read_state(folder / f"{name}.safetensors").items())
    }
    target, found = read_json(folder / "targets" / "derived.json"), read_json(folder / "found.json")
    return {**tensors, "alphas": found["layers"], "arch": target["arch"], "path": target["path"]}


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Return the names of the results that are not bit for bit the same."""

    def same(x: Any, y: Any) -> bool:
        if isinstance(x, torch.Tensor):
            return x.dtype == y.dtype and x.shape == y.shape and x.numpy().tobytes() == y.numpy().tobytes()
        return bool(x == y)

    return sorted(name for name in a.keys() | b.keys() if not (name in a and name in b and same(a[name], b[name])))


def broken(folder: Path, *, ended: bool = False) -> list[str]:
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

    for path in sorted(folder.rglob("*.json")):
        attempt(str(path.relative_to(folder)), partial(read_json, path))
    for path in sorted(folder.rglob("*.safetensors")):
        attempt(str(path.relative_to(folder)), partial(read_state, path))
    for phase in STEPS:
        attempt(f"checkpoints/{phase}", partial(intact, folder / "checkpoints" / phase))
        log = folder / STEPS_LOGS[phase]
        if log.exists():
            attempt(STEPS_LOGS[phase], partial(in_order, log, STEPS[phase] if ended else None))
    opened = Folder.open(folder, writer=False)
    for stage in ["expand", "search", "derive:derived", "adapt:baseline", "adapt:adapted", "evaluate", "report"]:
        if ended or stage in opened.stages():
            attempt(f"stage {stage}", partial(opened.finished, stage))
            for name in read_json(folder / MANIFEST)["stages"].get(stage, {"files": ()})["files"]:
                attempt(f"stage {stage}", partial(opened.read_bytes, stage, name))
    if ended:
        faults += [str(path) for path in folder.rglob("*.tmp")]
    return faults


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


# --- negative controls ------------------------------------------------------------------------------------------------


def drop_optimizer(name: str, loop: dict[str, Any]) -> None:
    loop[name]["state"] = {}


def drop_statistics(loop: dict[str, Any]) -> None:
    for name, tensor in loop["model"].items():
        if name.endswith("running_mean"):
            tensor.zero_()
        elif name.endswith("running_var"):
            tensor.fill_(1)


def keep(loop: dict[str, Any]) -> None:
    """Change nothing: the positive control."""


@dataclass(frozen=True)
class Control:
    """An item of a phase's state, how to drop it, and by how much to shift the iteration it goes on at."""

    item: str
    phase: str
    drop: Callable[[dict[str, Any]], None]
    shift: int = 0


CONTROLS = (
    Control("nothing", "search", keep),
    Control("seed counter", "search", keep, -1),
    Control("momentum", "search", partial(drop_optimizer, "optimizer")),
    Control("BN statistics", "search", drop_statistics),
    Control("alpha optimizer", "search", partial(drop_optimizer, "alpha_optimizer")),
    Control("nothing", "adapted", keep),
    Control("seed counter", "adapted", keep, -1),
    Control("momentum", "adapted", partial(drop_optimizer, "optimizer")),
    Control("BN statistics", "adapted", drop_statistics),
)


def alter(folder: Path, control: Control) -> int:
    """Drop an item from the newest checkpoint, with a record that fits, and remove the others; return its iteration."""
    checkpoints = Checkpoints(folder / "checkpoints" / control.phase)
    latest = checkpoints.load_latest()
    assert latest, f"{folder} has no checkpoint of {control.phase}"
    step, state = latest
    control.drop(state["loop"])
    checkpoints.clear()
    checkpoints.save(step + control.shift, state)
    return step


# --- the benchmark ----------------------------------------------------------------------------------------------------


def row(title: str, metric: str, score: bool, minutes: float, **more: Any) -> dict[str, Any]:
    numbers = {"rng_seed": CONFIG.engine.rng_seed, "metric": metric, "score": float(score)}
    return {"row": title, **numbers, "params": None, "madds": None, "minutes": round(minutes, 3), **more}


def interrupted(folder: Path, kills: Kills, truth: dict[str, Any]) -> dict[str, Any]:
    """Kill a run again and again; let it end; compare."""
    began = time.monotonic()
    done = [kill_at(folder, *kill[:3], writing=kill[3]) for kill in kills]
    finish(start(folder), folder)
    unlike, faults = differences(truth, result(folder)), broken(folder, ended=True)
    faults += [fault for kill in done for fault in kill["broken_files"]]
    minutes, fine = (time.monotonic() - began) / 60, not unlike and not faults
    return row(folder.name, "identical", fine, minutes, kills=done, differences=unlike[:5], broken_files=faults)


def draw_kills(moments: random.Random, seconds: float | None) -> Kills:
    """Draw a kill in the search and one in an adaptation: up to `seconds` after an iteration, or (None) in a write."""
    kills = []
    for phase in ("search", moments.choice(["baseline", "adapted"])):
        step = moments.randint(1, STEPS[phase] if seconds else STEPS[phase] - 4)
        kills.append((phase, step, moments.uniform(0, seconds or WRITE_SECONDS), seconds is None))
    return kills


def controlled(folder: Path, control: Control, truth: dict[str, Any]) -> dict[str, Any]:
    """Kill a run, drop an item from its checkpoint, let it end; the comparison must see it, or that nothing changed."""
    began = time.monotonic()
    kill_at(folder, control.phase, 14, 0)
    step = alter(folder, control)
    finish(start(folder), folder)
    unlike = differences(truth, result(folder))
    minutes, title = (time.monotonic() - began) / 60, f"{control.phase} without {control.item}, from iteration {step}"
    if control.item == "nothing":
        return row(f"{title} (checkpoint rewritten)", "identical", not unlike, minutes, differences=unlike[:5])
    return row(title, "caught", bool(unlike), minutes, differences=len(unlike))


def main(runs: int = 10) -> None:
    """Measure and write ``results/resume.json``."""
    torch.set_num_threads(1)  # a pool of threads would not survive the forks
    moments = random.Random(RNG_SEED)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        began = time.monotonic()
        finish(start(root / "unbroken"), root / "unbroken")
        seconds = time.monotonic() - began
        truth, faults = result(root / "unbroken"), broken(root / "unbroken", ended=True)
        assert not faults, faults
        lines = [row("unbroken", "identical", True, seconds / 60)]
        logged = {p: [float(r["minutes"]) for r in read_log(root / "unbroken" / f)][-1] * 60 for p, f in EPOCHS.items()}
        seconds = 2 * sum(logged.values()) / sum(STEPS.values())  # two iterations
        plans = [(f"killed at random {i}", draw_kills(moments, seconds)) for i in range(1, runs + 1)]
        plans += [(f"killed while writing {i}", draw_kills(moments, None)) for i in range(1, -(-runs // 3) + 1)]
        for title, kills in plans:
            lines.append(interrupted(root / title, kills, truth))
            print(json.dumps(lines[-1]), flush=True)
        for control in CONTROLS:
            lines.append(controlled(root / f"control {control.phase} {control.item}", control, truth))
            print(json.dumps(lines[-1]), flush=True)
    killed = [line for line in lines if "kills" in line]
    same = [line["score"] for line in lines if line["metric"] == "identical" and line["row"] != "unbroken"]
    caught = [line["score"] for line in lines if line["metric"] == "caught"]
    ratios = {
        "kills": float(sum(len(line["kills"]) for line in killed if "random" in line["row"])),
        "identical": sum(same) / len(same),
        "negative_controls_caught": sum(caught) / len(caught),
        "kills_while_writing": float(sum(kill["while_writing"] for line in killed for kill in line["kills"])),
    }
    print(record.write("resume", lines, ratios, config=CONFIG.model_dump(mode="json", by_alias=True)))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
