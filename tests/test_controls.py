"""The rows beside which a run's network is judged: each is what its title says, none is done twice, words are plain."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_pipeline import TINY

from fna import cli
from fna.arch import SuperArch
from fna.arch.target import Target
from fna.config import Config, load_config
from fna.errors import FnaError
from fna.files import read_json
from fna.reporting.controls import compare, sentences, table
from fna.reporting.page import write_report
from fna.reporting.parts import DASH, MINUS
from fna.reporting.rows import CONTROLS, CUT, RANDOM
from fna.runs import pipeline
from fna.runs.controls import control, hand_cut, repeat, run_controls, scored
from fna.runs.opening import open_jobs, reopen_jobs
from fna.runs.run import Run

# A target at another input scale, by hand, so that a search with alphas, which is quick, will do.
SETTINGS = (*TINY, "search.epochs=2", "adapt.scale=1.25")
MINUTES = {"baseline": 1.0, "seed_long": 4.0, "adapted": 2.0, "seed_super": 1.0, RANDOM: 2.0, CUT: 2.0}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished run with its controls, and the comparison."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    return path, run_controls(path, load_config(None, SETTINGS))


def rows_of(path: Path) -> dict[str, Any]:
    rows: dict[str, Any] = read_json(path / "metrics.json")["rows"]
    return rows


def fake(folder: Path, rng_seed: int, scores: dict[str, float], **left_out: str) -> Path:
    """Write what evaluation and controls leave of a run, with invented scores."""
    rows = {
        name: {
            **{"miou": score, "params": 3e6, "madds": 2e9, "minutes": MINUTES[name], "epochs": 9},
            **{"compute_minutes": 2 * MINUTES[name], "rng_seed": rng_seed},
            **{"init": "seed" if name in ("baseline", "seed_long") else "super", "head_width": 1.0, "scale": 1.25},
            **{"arch": name if name in (RANDOM, CUT) else "derived" if name == "adapted" else "seed", "title": name},
        }
        for name, score in scores.items()
    }
    metrics = {"rows": rows, "metric": "miou", "titles": {"miou": "mIoU"}}
    metrics |= {"search_minutes": 3.0, "search_compute_minutes": 6.0}
    folder.mkdir(parents=True)
    for name, content in {"metrics": metrics, "controls": {"left_out": left_out}, "manifest": {}}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


SCORES = {"baseline": 0.40, "seed_long": 0.52, "adapted": 0.50, "seed_super": 0.43, RANDOM: 0.45, CUT: 0.48}


# --- the rows ---------------------------------------------------------------------------------------------------------


def test_all_rows_are_there_under_one_schedule(done: tuple[Path, dict[str, Any]]) -> None:
    path, compared = done
    rows = rows_of(path)
    assert [row["row"] for row in compared["entries"]] == list(CONTROLS.values())
    assert [row["row"][:3] for row in compared["rows"]] == ["(a)", "(b)", "(c)", "(d)", "(e)", "(f)"]
    assert compared["missing"] == []
    assert {rows[name]["epochs"] for name in rows if name != "seed_long"} == {1}
    assert read_json(path / "controls.json") == {"left_out": {}, **compared}
    assert {name: rows[name]["init"] for name in CONTROLS} == {
        **{"baseline": "seed", "seed_long": "seed", "adapted": "super", "seed_super": "super"},
        **{RANDOM: "super", CUT: "super"},
    }


def test_the_seed_gets_the_runs_total_compute_in_processor_time(done: tuple[Path, dict[str, Any]]) -> None:
    metrics = read_json(done[0] / "metrics.json")
    rows = metrics["rows"]
    total, spent = metrics["search_compute_minutes"] + rows["adapted"]["compute_minutes"], rows["baseline"]
    assert rows["seed_long"]["epochs"] == round(total / (spent["compute_minutes"] / spent["epochs"]))


def test_random_and_cut_targets_cost_what_the_target_does(done: tuple[Path, dict[str, Any]]) -> None:
    path, _ = done
    rows, space = rows_of(path), SuperArch.from_json(read_json(path / "super.json"))
    for name in (RANDOM, CUT):
        record = read_json(path / "targets" / f"{name}.json")
        target = Target.from_json(record)
        assert 0.9 * rows["adapted"]["madds"] <= rows[name]["madds"] <= rows["adapted"]["madds"]
        assert (target.scale, target.head_width) == (1.25, 1.0) == (rows[name]["scale"], rows[name]["head_width"])
        assert record["madds"] == rows[name]["madds"]
        assert record["argmax_cost"] is None
        assert space.path_arch(record["path"]) == space.path_arch(space.path_of(target.arch))
    archs = [read_json(path / file)["arch"] for file in (f"targets/{CUT}.json", "seed.json", "targets/derived.json")]
    assert archs[0] not in archs[1:]


def test_going_on_trains_and_scores_nothing_again(done: tuple[Path, dict[str, Any]]) -> None:
    path, compared = done
    names = ("metrics.json", *(f"{name}/network.safetensors" for name in CONTROLS), f"targets/{RANDOM}.json")
    before = [(path / name).stat().st_mtime_ns for name in names]
    assert run_controls(path) == compared
    assert [(path / name).stat().st_mtime_ns for name in names] == before


def start(path: Path, *overrides: str, scale: float = 1.0) -> Config:
    """Expand the seed of a run and let the seed itself be its target, at some input scale."""
    config = load_config(None, [*TINY, *overrides])
    with Run.open(path, config) as run:
        pipeline.stage(run, "expand")
        record = {**Target(run.seed.arch, 1.0, scale).to_json(), "unit": "MAdds"}
        run.write("derive:derived", {"targets/derived.json": record})
    return config


@pytest.mark.parametrize(
    ("scale", "share", "said"),
    [
        (1.0, 1.0, "there is nothing to cut, the seed costs .*; the row would be the seed, \\(a\\)"),
        (1.0, 2.0, "the row would be the seed"),
        (1.25, 3.0, "nothing to cut, the seed costs .* at the target's input scale and head width, the target"),
        (1.0, 1e-3, "no cut of the seed costs 90% to 100 % of the target's"),
    ],
)
def test_a_row_that_cannot_be_is_left_out_with_a_reason(tmp_path: Path, scale: float, share: float, said: str) -> None:
    start(tmp_path / "run", scale=scale)
    with Run.open(tmp_path / "run") as run:
        seed = run.problem.cost(run.seed.arch)
        plan = hand_cut(run, {}, {"params": seed.params, "madds": int(share * seed.madds)})
        assert isinstance(plan, str)
        assert re.search(said, plan)
        assert run.names("derive") == ["derived"]


def test_a_cut_outside_the_space_starts_from_the_seed(tmp_path: Path) -> None:
    start(tmp_path / "run", "space.skip=false", "space.layers=null")
    with Run.open(tmp_path / "run") as run:
        seed = run.problem.cost(run.seed.arch)
        plan = hand_cut(run, {}, {"params": seed.params, "madds": int(0.9 * seed.madds)})
        assert plan == {"arch": CUT, "init": "seed"}
        record = read_json(tmp_path / "run" / "targets" / f"{CUT}.json")
        assert record["path"] == []
        assert 0.81 * seed.madds < record["madds"] <= 0.9 * seed.madds
        pipeline.stage(run, "report")  # draws it


def test_new_rows_and_settings_are_scored(done: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    path = shutil.copytree(done[0], tmp_path / "run")
    with Run.open(path) as run:
        assert scored(run)
    with Run.open(path, None, ["evaluate.mode=sliding"]) as run:
        assert not scored(run)
    with Run.open(path, None, ["adapt.name=mine", "adapt.arch=seed"]) as run:
        run.folder.commit("adapt:mine", [], {"minutes": 1.0})
        assert not scored(run)
        with pytest.raises(FnaError, match=r"adapt\.arch is 'seed' and its folder 'mine'; leave out --adapt\.arch"):
            control(run)


# --- several RNG seeds ------------------------------------------------------------------------------------------------


def test_rng_seeds_repeat_the_run_and_tell_the_spread(
    done: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(done[0], runs / "seed_0")  # is finished, so nothing of it is done again
    command = ["run", str(done[0] / "config.yaml"), "--run", str(runs), "--rng-seeds", "2", "--json"]
    assert cli.main(command) == 0
    compared = json.loads(capsys.readouterr().out)
    assert {(row["rng_seed"], row["row"][:3]) for row in compared["missing"]} == {
        (1, row) for row in ("(b)", "(d)", "(e)", "(f)")
    }
    assert compared["differences"]["c_minus_a"]["number"] == 2
    assert compared["differences"]["c_minus_a"]["std"] is not None
    assert compared["entries"][:6] == done[1]["entries"]
    assert {**read_json(runs / "controls.json"), "report": str(runs / "report.html")} == compared
    for rng_seed in (0, 1):
        assert load_config(runs / f"seed_{rng_seed}" / "config.yaml").engine.rng_seed == rng_seed
    page = (runs / "report.html").read_text(encoding="utf-8")
    assert "2 RNG seeds" in page
    assert "RNG seed 1" in page
    jobs = reopen_jobs(runs, ["engine.workers=1"])
    assert {k: (path, config.engine.rng_seed, config.engine.workers) for k, (path, config) in jobs.items()} == {
        k: (runs / f"seed_{k}", k, 1) for k in (0, 1)
    }
    assert repeat(runs, open_jobs(runs, jobs[0][1], 3), only=[])["rng_seeds"] == [0, 1, 2]


def test_folders_of_runs_and_runs_are_told_apart(tmp_path: Path, done: tuple[Path, dict[str, Any]]) -> None:
    config = load_config(None, SETTINGS)
    with pytest.raises(FnaError, match=r"is the run of one RNG seed; .* give another one, e\.g\. --run .*tiny_seeds"):
        open_jobs(done[0], config, 3)
    with pytest.raises(FnaError, match=r"engine\.rng_seed is 7, but --rng-seeds 3 does 0 to 2; leave one of them out"):
        open_jobs(tmp_path / "new", load_config(None, [*SETTINGS, "engine.rng_seed=7"]), 3)
    fake(tmp_path / "runs" / "seed_0", 0, SCORES)
    with pytest.raises(FnaError, match=r"holds the runs of 1 RNG seeds; give one of them, e\.g\. .*seed_0"):
        pipeline.run(tmp_path / "runs", config)
    (tmp_path / "runs" / "thesis.txt").touch()
    with pytest.raises(FnaError, match=r"is no folder of runs of fna: it has thesis\.txt"):
        open_jobs(tmp_path / "runs", config, 3)


# --- what is said -----------------------------------------------------------------------------------------------------


def test_the_words_tell_architecture_weights_and_time_apart(tmp_path: Path) -> None:
    said = sentences(compare({0: fake(tmp_path / "seed_0", 0, SCORES)}))
    for words in (
        f"(c) {MINUS} (a) = +10.0 points.",
        f"From the architecture, its input scale and head width included: (c) {MINUS} (d) = +7.0 points.",
        f"From the super network's weights: (d) {MINUS} (a) = +3.0 points.",
        f"What training (a) for the run's total compute buys: (b) {MINUS} (a) = +12.0 points.",
        "(c) is not the best: (b) is ahead by 2.0 points.",
        "One RNG seed: a point can be luck",
        "The search took 3",
    ):
        assert words in " ".join(said)


def test_several_seeds_have_mean_and_spread(tmp_path: Path) -> None:
    better = {name: score + (0.04 if name == "adapted" else 0.0) for name, score in SCORES.items()}
    folders = {k: fake(tmp_path / f"seed_{k}", k, scores) for k, scores in enumerate((SCORES, better))}
    compared = compare(folders)
    assert compared["differences"]["c_minus_b"] == pytest.approx(
        {"number": 2, "mean": 0.0, "std": 0.02 * 2**0.5, "min": -0.02}
    )
    said = " ".join(sentences(compared))
    assert f"(c) {MINUS} (a) = +12.0 ± 2.8 points." in said
    assert "(c) is the best of (a) to (f)." in said, "a tie is no lead"
    assert "± is the standard deviation over 2 RNG seeds" in said
    row = next(row for row in table(compared).rows if row[0] == CONTROLS["adapted"])
    assert row[1:4] == ["52.0 ± 2.8 %", DASH, "2"]
    assert f"<td>52.0 ± 2.8 %</td>" in write_report(tmp_path, machine="")  # noqa: F541


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    part = {name: SCORES[name] for name in ("baseline", "adapted")}
    folders = {
        0: fake(tmp_path / "seed_0", 0, SCORES, **{CUT: "there is nothing to cut"}),
        1: fake(tmp_path / "seed_1", 1, part),
        2: tmp_path / "seed_2",
    }
    compared = compare(folders)
    said = sentences(compared)
    assert "Not there, RNG seed 0: (f); there is nothing to cut." in said
    assert "Not there, RNG seed 1: (b), (d), (e), (f); still to do." in said
    assert "Not there, RNG seed 2: (a), (b), (c), (d), (e), (f); still to do." in said
    assert compared["differences"]["c_minus_a"]["number"] == 2
    assert compared["differences"]["c_minus_f"] == {"number": 0, "mean": None, "std": None, "min": None}
    assert table(compared).rows[-1][1:4] == [DASH, DASH, "0"]
    assert sentences(compare({0: tmp_path / "nowhere"})) == [
        "Not there, RNG seed 0: (a), (b), (c), (d), (e), (f); still to do."
    ]


def test_the_report_of_a_run_has_the_table(done: tuple[Path, dict[str, Any]]) -> None:
    page = (done[0] / "report.html").read_text(encoding="utf-8")
    for title in CONTROLS.values():
        assert title.replace("'", "&#39;") in page
    assert "(c) is " in page


# --- the command line -------------------------------------------------------------------------------------------------


def test_commands_print_the_table_and_the_words(
    done: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    path, compared = done
    assert cli.main(["controls", str(path), "--quiet"]) == 0
    out = capsys.readouterr().out
    assert all(line in out for line in sentences(compared))
    assert "(f) seed cut by hand" in out
    assert cli.main(["controls", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["differences"] == compared["differences"]


def test_controls_of_nothing_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["controls", str(tmp_path / "run")]) == 2
    assert "start one with: fna run RECIPE --run" in capsys.readouterr().err
