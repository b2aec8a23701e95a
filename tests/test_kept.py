"""What a choice has found so far: it comes back whole, or not at all and with a word."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fna.searching.kept import Kept
from fna.training.clock import Spent, Stopwatch
from fna.training.compute import Compute
from fna.training.distributed import World

CPU = Compute(torch.device("cpu"), None, False, World())


def test_what_was_kept_comes_back_with_its_time(tmp_path: Path) -> None:
    file = tmp_path / "search" / "scores.json"
    kept = Kept(file, CPU, "losses", "metrics")
    kept.tables["losses"]["1 1 0"] = [0.1, 1 / 3]
    kept._watch = Stopwatch("cpu", Spent(1.5, 2.5, 1 << 50))
    kept.save()
    again = Kept(file, CPU, "losses", "metrics")
    assert again.tables == {"losses": {"1 1 0": [0.1, 1 / 3]}, "metrics": {}}
    assert 1.5 <= again.spent.minutes < 1.6
    assert 2.5 <= again.spent.compute_minutes < 2.6
    assert again.spent.peak_memory == 1 << 50
    Kept(tmp_path / "other.json", replace(CPU, world=World(rank=1, size=2)), "losses").save()
    Kept(None, CPU, "losses").save()
    assert [path.name for path in tmp_path.iterdir()] == ["search"], "another process writes nothing"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace("0.25", "0.26"),
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace("losses", "lasses"),
        lambda text: text.replace('"minutes": ', '"minutes": 1'),
    ],
)
def test_a_damaged_file_is_told_of_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: object
) -> None:
    file = tmp_path / "scores.json"
    kept = Kept(file, CPU, "losses")
    kept.tables["losses"]["a"] = [0.25]
    kept.save()
    file.write_text(spoil(file.read_text()))  # type: ignore[operator]
    assert Kept(file, CPU, "losses").tables == {"losses": {}}
    assert f"{file} is damaged" in capsys.readouterr().err


def test_processor_time_does_not_pass_while_others_work() -> None:
    cpu, gpu = Stopwatch("cpu"), Stopwatch("mps", Spent(1.0, 1.0))
    time.sleep(0.3)  # as a process does that waits for its turn
    waited = cpu.read()
    assert waited.minutes >= 0.3 / 60
    assert waited.compute_minutes < 0.15 / 60
    assert gpu.read().compute_minutes == pytest.approx(gpu.read().minutes, abs=1e-3)
    assert gpu.read().minutes > 1
    assert Spent(1, 2, 7) + Spent(0.5, 0.25, 5) == Spent(1.5, 2.25, 7)
    assert Spent.from_json(waited.to_json() | {"more": 1}) == waited
