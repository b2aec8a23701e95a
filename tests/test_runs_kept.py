"""Runs that released versions left are loaded and gone on with; formats of versions before are refused by name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from make_run import KEPT

from fna.runs import pipeline
from fna.runs.manifest import damages
from fna.runs.opening import settle_config
from fna.runs.saved import load


@pytest.mark.parametrize("version", sorted(path.name for path in KEPT.iterdir()))
def test_a_run_of_a_released_version_is_loaded_and_gone_on_with(
    version: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(KEPT / version / "run", tmp_path / "run"))
    assert damages(run) == []
    assert load(run).task == "segmentation"
    metrics = pipeline.run(run, settle_config(run, None, ()))
    assert "baseline: going on at iteration 1 of 4" in capsys.readouterr().err
    assert set(metrics["rows"]) == {"baseline", "adapted"}
    assert damages(run) == []
