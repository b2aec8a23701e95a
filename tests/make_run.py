"""Makes ``runs/VERSION``: a run that was killed while it fine-tuned the plain seed, as a release leaves it.

Type ``python tests/make_run.py`` at a release and commit the folder: `test_runs_kept` goes on with it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
import tomllib
from itertools import pairwise
from pathlib import Path

from fna.arch import Arch, Block, Stem
from fna.config import Config, make_config
from fna.runs import pipeline
from fna.runs.folder import LOCK
from fna.runs.run import Run
from fna.training.checkpoints import Checkpoints

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
KEPT = Path(__file__).parent / "runs"
CHANNELS = (4, 4, 8, 8, 8)  # of the stem and the stages, so that the folder is small
OPTIMIZER = {"name": "sgd", "lr": 0.01, "weight_decay": 1e-4, "warmup": 1}


def settings() -> Config:
    """Return the settings of the run; its seed is the file seed.json of the working directory."""
    data = {
        "seed": {"name": "seed.json", "weights": None},
        "task": {"channels": 4},
        "data": {"format": "synthetic", "images": 4, "crop": [64, 64], "eval_size": [64, 64]},
        "space": {"kernels": [3, 5], "expansions": [2], "layers": [1, 1, 1, 1]},
        "search": {"chooser": "alphas", "epochs": 2, "alpha_start": 1, "batch_size": 2, "optimizer": OPTIMIZER},
        "adapt": {"epochs": 2, "batch_size": 2, "recalibrate": 1, "optimizer": OPTIMIZER},
        "engine": {"device": "cpu", "precision": "fp32", "threads": 1, "workers": 0, "checkpoint_steps": 1},
    }
    return make_config(data)


def write_seed(path: Path) -> None:
    """Write the architecture of the smallest seed that a task takes."""
    pairs = pairwise(CHANNELS)
    stages = tuple((Block("mbconv", a, b, stride=2, expansion=2.0),) for a, b in pairs)
    path.write_text(json.dumps(Arch(Stem(CHANNELS[0]), stages).to_json()))


def work(folder: Path) -> None:
    """Do the run up to the adaptation of the target, and then that of the plain seed, until the process is killed."""
    with Run.open(folder, settings()) as run:
        for name in ("expand", "search", "derive"):
            pipeline.stage(run, name)
        pipeline.adapt_one(run, run.config.adapt)
    pipeline.run(folder, settings())


def main() -> None:
    """Make the folder of this version anew."""
    folder = KEPT / tomllib.loads(PROJECT.read_text())["project"]["version"]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.chdir(folder)
    write_seed(Path("seed.json"))
    pid = os.fork()
    if not pid:
        work(Path("run"))
        os._exit(0)
    checkpoints = Checkpoints(Path("run/checkpoints/baseline"))
    while not checkpoints.steps():
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the run ended before it was killed"
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    Path("run", LOCK).unlink()
    for path in Path("run").rglob("*.tmp"):
        path.unlink()


if __name__ == "__main__":
    main()
