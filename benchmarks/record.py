"""Write what a benchmark measured to ``benchmarks/results/NAME.json``, with the command, machine and versions."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from fna.training.machine import processor

RESULTS = Path(__file__).parent / "results"
BARE = {"rng_seed": 0, "params": None, "madds": None, "minutes": None}  # of a row that is of no network


def machine() -> str:
    """Describe the machine in a line."""
    return f"{processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}"


def commit() -> str:
    """Return the commit the code is at, with ``+`` if files differ from it."""
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--", "../fna") else "")


def write(name: str, rows: list[dict[str, Any]], ratios: dict[str, float], **more: Any) -> Path:
    """Write a result file and return its path.

    Args:
        name: of the file, without ending.
        rows: ``row, metric, score`` each, and what else there is of ``rng_seed, params, madds, minutes``.
        ratios: named ratios, measured side by side.
        more: further JSON-ready facts.
    """
    packages = ("fna", "torch", "torchvision", "timm")
    result = {
        "name": name,
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *(Path(a).name for a in sys.argv[1:])]),
        "threads": torch.get_num_threads(),
        "machine": machine(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit(),
        "versions": {"python": platform.python_version()} | {p: version(p) for p in packages},
        "rows": [BARE | row for row in rows],
        "ratios": ratios,
        **more,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path
