"""What could go on for ever ends, with what to type: text that explodes, too little shared memory, Ctrl-C."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from fna.config.strict_yaml import parse_yaml
from fna.data import sampling
from fna.data.sampling import Loader, StepSampler
from fna.errors import FnaError

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "recipe.yaml: it holds more than 100000 values, aliases written out"),
        ("seed: &a [1, *a]", "recipe.yaml: line 1: a recursive alias, of what it is in"),
        ("{a: &a {b: *a}}", "recipe.yaml: line 1: a recursive alias, of what it is in"),
    ],
)
def test_text_that_explodes_is_refused(text: str, said: str) -> None:
    with pytest.raises(FnaError, match=said):
        parse_yaml(text, "recipe.yaml")


def test_aliases_are_read() -> None:
    assert parse_yaml("{a: &x {lr: 0.1}, b: *x}", "recipe.yaml") == {"a": {"lr": 0.1}, "b": {"lr": 0.1}}
    assert parse_yaml("", "recipe.yaml") is None


class View(Dataset[Any]):
    """Samples of 3 MB."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, key: Any) -> Any:
        return {"image": torch.zeros(3, 512, 512), "rest": [torch.zeros(1)]}


def batches(workers: int) -> list[Any]:
    return list(Loader(View(), workers, StepSampler(8, 4, 0, "weights", 0, 2), list))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers share otherwise")
def test_too_little_shared_memory_is_refused_before_anything_waits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(sampling, "cpus", lambda: 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(20_000_000))
    said = r"2 data workers need 50 MB in /dev/shm .*has 20 MB left: type --engine\.workers 0, .*--shm-size 2g"
    with pytest.raises(FnaError, match=said):
        batches(2)
    assert len(batches(0)) == 2
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(60_000_000))
    assert len(batches(2)) == 2
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(30_000_000))
    assert len(batches(2)) == 2
    assert "which has 30 MB left: there will be 1;" in capsys.readouterr().err


class Silent(View):
    def __getitem__(self, key: Any) -> Any:
        time.sleep(60)


def test_silent_workers_are_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "PATIENCE", 1)
    with pytest.raises(FnaError, match=r"gave nothing for .*--engine\.workers 0, or docker run --shm-size 2g"):
        list(Loader(Silent(), 1, StepSampler(8, 4, 0, "weights", 0, 2), list))


INTERRUPTED = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in a shell's background ignore it
sys.path.insert(0, sys.argv[1])
from test_hangs import Loader, StepSampler, View
from fna import cli

class Slow(View):
    def __getitem__(self, key):
        time.sleep(0.05)
        return super().__getitem__(key)

def work(**_):
    for _ in Loader(Slow(), 2, StepSampler(8, 4, 0, "weights", 0, 1000), list):
        print("batch", flush=True)

cli.split_settings = lambda argv: work()
sys.exit(cli.main([]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="sends a signal to a group of processes")
def test_ctrl_c_with_workers_is_130_and_nothing_else(tmp_path: Path) -> None:
    words = [sys.executable, "-c", INTERRUPTED, str(Path(__file__).parent)]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "batch\n"
        os.killpg(job.pid, signal.SIGINT)  # as a terminal does: to all
        _, said = job.communicate(timeout=300)
    assert job.returncode == 130, said
    assert "fna: interrupted\n" in said
    assert "out of memory" not in said
