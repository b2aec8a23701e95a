"""Studies: rows that share a super network or a target, resumption, the table, and workers of which one is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from test_pipeline import TINY

from fna import cli
from fna.config import load_config, make_config, merge
from fna.errors import FnaError
from fna.files import read_json
from fna.reporting.study import study_markdown
from fna.runs.jobs import with_settings
from fna.runs.study import known_studies, plan_study, read_study, run_study

RECIPE = load_config(None, [*TINY, "search.epochs=2", "data.images=4"])
ROWS = """
title: Two rows and their targets
curves: true
settings: {evaluate.every: 1}
rows:
  - {name: super, article: "77.1"}
  - {name: seed_2x, title: from seed twice as long, share: super, settings: {adapt.init: seed, adapt.epochs: 2x}}
  - {name: other, share: super, target: anew, settings: {adapt.init: seed}}
  - {name: anew, settings: {search.budget: 0.8x, search.optimizer.lr: 0.01}}
"""
STEADY = ("rng_seed", "score", "params", "madds", "epochs", "head_width", "scale")  # of an entry


def write(folder: Path, text: str = ROWS) -> str:
    (folder / "mine.yaml").write_text(text)
    return str(folder / "mine.yaml")


def networks(where: Path) -> list[Path]:
    return sorted(where.glob("seed_0/*/adapted/network.json"))


def scores(done: dict[str, Any]) -> list[list[list[Any]]]:
    return [[[entry[key] for key in STEADY] for entry in row["entries"]] for row in done["rows"]]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("study")
    study = read_study(write(folder))
    where = folder / "runs"
    return where, run_study(study, plan_study(study, RECIPE, where, 1), where)


def test_rows_share_what_they_say(done: tuple[Path, dict[str, Any]]) -> None:
    where, study = done
    runs = {name: where / "seed_0" / name for name in ("super", "seed_2x", "other", "anew")}
    digests = {name: read_json(run / "manifest.json")["stages"]["search"]["files"] for name, run in runs.items()}
    assert digests["super"] == digests["seed_2x"] == digests["other"] != digests["anew"]
    archs = {name: read_json(run / "targets" / "derived.json")["arch"] for name, run in runs.items()}
    assert archs["super"] == archs["seed_2x"]
    assert archs["anew"] == archs["other"]
    rows = {name: read_json(run / "metrics.json")["rows"]["adapted"] for name, run in runs.items()}
    assert {name: row["epochs"] for name, row in rows.items()} == {"super": 1, "seed_2x": 2, "other": 1, "anew": 1}
    assert rows["other"]["init"] == "seed"
    assert [row["score"]["mean"] for row in study["rows"]] == [row["miou"] for row in rows.values()]
    assert study["missing"] == []


def test_the_table_says_it_all(done: tuple[Path, dict[str, Any]]) -> None:
    where, study = done
    text = (where / "study.md").read_text()
    assert text == study_markdown(study)
    assert f"| super | {100 * study['rows'][0]['score']['mean']:.2f} | 0.00 | 1 | 77.1 |" in text
    own = {**study, "rows": [{**row, "article": ""} for row in study["rows"]]}
    assert "the article" in text
    assert "the article" not in study_markdown(own), "no row says what it found"
    page = (where / "study.html").read_text()
    assert "training loss" in page
    assert page.count(">conv<") == 1 + len({json.dumps(run["arch"]) for run in map(read_json, networks(where))})
    assert "The search of super, RNG seed 0" in page
    assert "The search of from seed" not in page, "it took that of another"


def test_going_on_trains_nothing_again(done: tuple[Path, dict[str, Any]]) -> None:
    where, study = done
    files = sorted(where.glob("seed_*/*/adapted/network.safetensors"))
    before = [file.stat().st_mtime_ns for file in files]
    mine = read_study(str(where.parent / "mine.yaml"))
    assert run_study(mine, plan_study(mine, RECIPE, where, 1), where) == study
    assert [file.stat().st_mtime_ns for file in files] == before
    planned = plan_study(mine, RECIPE, where, 2)
    assert len(planned) == 8
    assert [job.config.engine.rng_seed for job in planned] == [0] * 4 + [1] * 4


@pytest.mark.parametrize("name", known_studies())
def test_the_studies_that_come_with_fna_fit_the_recipes(name: str, tmp_path: Path) -> None:
    study = read_study(name)
    recipe = load_config(Path(__file__).parents[1] / "recipes" / "camvid_deeplabv3.yaml")
    jobs = plan_study(study, recipe, tmp_path, 1)
    assert [job.row for job in jobs] == [row for row in study.rows if not row.needs]
    assert all(bool(row.article) == (name != "parts") for row in study.rows)


def test_rows_of_pretrained_weights_wait_for_their_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = read_study("remapping")
    recipe = make_config(merge(RECIPE.model_dump(mode="json", by_alias=True), ["seed.super_weights=super.safetensors"]))
    jobs = {job.row.name: job for job in plan_study(study, recipe, tmp_path, 1)}
    assert jobs.keys() == {f"row{n}" for n in (1, 2, 3, 4, 5, 7, 8)}
    given = {name: job.config.seed.super_weights for name, job in jobs.items()}
    assert [name for name, file in given.items() if file] == ["row7", "row8"]
    assert "row 'row6' is left out, it needs --adapt.weights FILE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rows: []", "a study has rows"),
        ("rows: [{name: a}, {name: a}]", "a name of its own"),
        ("rows: [{name: a, share: b}, {name: bc}]", r"share of row 'a' is 'b'.*expected a row that searches: bc"),
        ("rows: [{name: a}, {name: b, share: a}, {name: c, share: b}]", "share of row 'c' is 'b'"),
        ("rows: [{name: a, sharre: b}]", "sharre"),
        ("rows: [{name: a, settings: {adapt.epohcs: 3}}]", "did you mean 'epochs'"),
        ("rows: [{name: a, settings: {adapt.init: 2x}}]", "expected a setting that is a number"),
    ],
)
def test_mistakes_in_a_study_are_named(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(FnaError, match=message):
        plan_study(read_study(write(tmp_path, text)), RECIPE, tmp_path / "runs", 1)


def test_what_is_no_study_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.yaml").write_text("seed: {name: mobilenet_v2_035}\n")
    assert cli.main(["study", "remaping", str(tmp_path / "r.yaml")]) == 2
    assert "did you mean 'remapping'" in capsys.readouterr().err
    (tmp_path / "notes.txt").write_text("mine")
    assert cli.main(["study", "remapping", str(tmp_path / "r.yaml"), "--run", str(tmp_path)]) == 2
    assert "is no folder of a study" in capsys.readouterr().err
    assert cli.main(["list", "studies"]) == 0


def test_several_processes_of_torchrun_do_not_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = read_study("random_search")
    jobs = plan_study(study, RECIPE, tmp_path, 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(FnaError, match=r"leave out torchrun.*--job-array K/N"):
        run_study(study, jobs, tmp_path)
    assert not list(tmp_path.iterdir())


def test_times_multiplies_numbers_but_no_budgets() -> None:
    changes = {"adapt.epochs": "1.5x", "search.budget": "0.5x", "seed.weights": None, "adapt.optimizer.lr": "2x"}
    lr = 2 * RECIPE.adapt.optimizer.lr
    assert with_settings(RECIPE, changes)[:3] == ["adapt.epochs=2", "search.budget=0.5x", "seed.weights=null"]
    assert with_settings(RECIPE, changes)[3] == f"adapt.optimizer.lr={lr}"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(os.name == "nt", reason="kills a process")
def test_two_workers_one_killed_end_where_one_does(done: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    name, recipe, where = write(tmp_path), tmp_path / "recipe.yaml", tmp_path / "runs"
    from fna.config import dump_yaml

    recipe.write_text(dump_yaml(RECIPE))
    words = [sys.executable, "-m", "fna", "study", name, str(recipe), "--run", str(where), "--quiet"]
    first, second = (subprocess.Popen([*words, "--job-array", part]) for part in ("1/2", "2/2"))
    while not any(where.glob("seed_0/super/found.json")) and first.poll() is None:
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert second.wait() == 0  # what it waited for it does itself
    assert read_json(where / "study.json")["missing"]
    assert subprocess.run([*words, "--job-array", "1/2"], check=False).returncode == 0
    again = read_json(where / "study.json")
    assert again["missing"] == []
    assert scores(again) == scores(done[1])
