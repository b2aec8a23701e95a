"""A front: every network from one super network, controls beside it, the same however many processes make it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_pipeline import tiny
from tiny import opened, search_tiny, tiny_config, write_images

from fna import cli
from fna.arch import Arch
from fna.config.budgets import parse_budget
from fna.errors import FnaError
from fna.files import read_json
from fna.reporting.front import dominated
from fna.runs import pipeline, pruning
from fna.runs.folder import Folder
from fna.runs.front import _score_for, make_front, pick_point, plan_front
from fna.runs.jobs import share_network, share_of
from fna.runs.saved import load
from fna.searching.found import Alphas, Pool
from fna.searching.rescoring import score_again
from fna.stages.derive import derive
from fna.training.clock import Stopwatch

BUDGETS = ("0.9x", "0.7x")


@pytest.fixture(scope="module")
def fronted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run and its front."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    pipeline.run(path, tiny("search.epochs=2", "data.images=4"))
    return path, make_front(path, BUDGETS)


def test_all_come_from_the_one_super_network(fronted: tuple[Path, dict[str, Any]]) -> None:
    path, front = fronted
    names = {point["name"] for point in front["points"]} | front["left_out"].keys()
    assert names == {"baseline", "adapted", "found_0_7x", "cut_0_9x", "cut_0_7x", "narrowed"}
    assert front["missing"] == []
    whole = front["seed"]["MAdds"]
    for point in front["points"]:
        if point["budget"]:
            assert point["costs"]["MAdds"] <= float(point["budget"].rstrip("x")) * whole
        assert (Path(point["folder"]) / "network.safetensors").is_file()
    ours = read_json(path / "manifest.json")["stages"]["search"]["files"]
    assert read_json(path / "front" / "found_0_7x" / "manifest.json")["stages"]["search"]["files"] == ours


def test_going_on_trains_nothing_again(fronted: tuple[Path, dict[str, Any]]) -> None:
    path, front = fronted
    files = sorted((path / "front").glob("*/adapted/network.safetensors"))
    before = [file.stat().st_mtime_ns for file in files]
    assert make_front(path, BUDGETS) == front
    assert [file.stat().st_mtime_ns for file in files] == before
    assert (path / "front" / "front.png").read_bytes()[1:4] == b"PNG"
    assert "on the front" in (path / "front" / "front.html").read_text()


@pytest.mark.slow
def test_parts_do_all_of_it_and_the_same(fronted: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    _, front = fronted
    copy = tmp_path / "copy"
    pipeline.run(copy, tiny("search.epochs=2", "data.images=4"))
    for array in ("2/2", "1/2"):
        done = make_front(copy, BUDGETS, array=array)
    strip = ("minutes", "folder")
    plain = [[{k: v for k, v in p.items() if k not in strip} for p in f["points"]] for f in (done, front)]
    assert plain[0] == plain[1]


def test_a_network_that_is_found_twice_is_trained_once(
    fronted: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shutil.copytree(fronted[0], tmp_path / "copy")
    front = make_front(path, ["0.7x", "0.70001x"], controls=())
    one, other = (next(p for p in front["points"] if p["budget"] == budget) for budget in ("0.7x", "0.70001x"))
    assert "found_0_7x/adapted is the same network; it is not trained again" in capsys.readouterr().err
    assert {**one, "name": 0, "budget": 0, "folder": 0} == {**other, "name": 0, "budget": 0, "folder": 0}
    assert load(other["folder"]).arch == load(one["folder"]).arch


def test_the_best_within_a_cost_is_picked(
    fronted: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    path, front = fronted
    picked = pick_point(path, "0.8x")
    within = [p for p in front["points"] if p["costs"]["MAdds"] <= 0.8 * front["seed"]["MAdds"]]
    assert picked["score"] == max(point["score"] for point in within)
    assert cli.main(["front", str(path), "--pick", "0.8x"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == picked["folder"]
    for cost, message in (("0.01x", "the cheapest takes"), ("5ms", "no latency")):
        with pytest.raises(FnaError, match=message):
            pick_point(path, cost)


def test_mistakes_are_told_before_anything_is_trained(fronted: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    path, _ = fronted
    for budgets, message in (
        (["0.5x", "3 Mparams"], "of one kind"),
        (["0.01x"], "this space reaches from"),
        (["fast"], "is no budget"),
    ):
        with pytest.raises(FnaError, match=message):
            make_front(path, budgets)
    with pytest.raises(FnaError, match=r"holds no config\.yaml of a run"):
        make_front(tmp_path / "none", ["0.5x"])
    for array in ("0/2", "3/2", "2", "a/b"):
        with pytest.raises(FnaError, match="expected K/N"):
            share_of([1, 2], array)
    assert cli.main(["front", str(path)]) == 2


@pytest.mark.parametrize("chooser", ["alphas", "random", "cut"])
def test_alphas_answer_every_budget(chooser: str) -> None:
    """No candidates are scored in their place, whichever chooser takes the target."""
    found = SimpleNamespace(evidence=Alphas([[0.0]]), chooser=chooser, budget=None)
    run: Any = SimpleNamespace(found=lambda: found)  # there is nothing to score on
    _score_for(run, parse_budget("0.5x"), tiny())


def test_a_super_network_of_other_settings_is_not_shared(fronted: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(FnaError, match=r"trained with search\.epochs = 2, here it is 5"):
        share_network(fronted[0], tmp_path / "other", tiny("search.epochs=5", "data.images=4"))


def test_a_run_from_before_a_setting_is_shared(fronted: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    old = shutil.copytree(fronted[0], tmp_path / "old", ignore=shutil.ignore_patterns("front"))
    with Folder.open(old) as folder:
        settings = folder.settings or {}
        del settings["engine"]["deterministic"]
        folder.keep("config.yaml", (old / "config.yaml").read_text(), settings=settings)
    share_network(old, tmp_path / "new", tiny("search.epochs=2", "data.images=4"))
    assert Folder.open(tmp_path / "new", writer=False).finished("search")


def test_a_damaged_super_network_is_named_and_leaves_no_control_out(
    fronted: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    copy = shutil.copytree(fronted[0], tmp_path / "copy", ignore=shutil.ignore_patterns("front"))
    weights = bytearray((copy / "found.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "found.safetensors").write_bytes(weights)
    with pytest.raises(FnaError, match=r"found\.safetensors is not as "):
        make_front(copy, BUDGETS, array="2/4")  # a hand cut
    assert not (copy / "front" / "cut_0_9x" / "point.json").exists()


def test_a_trained_super_network_answers_budgets_that_the_search_did_not_have(tmp_path: Path) -> None:
    measured = ("search.chooser=measured", "search.sampler=anchored", "search.candidates=4", "search.recalibrate=1")
    small = ("search.epochs=1", "space.input_scales=[1.0]", "space.head_channels=[1.0]", "space.layers=[3, 2, 1]")
    with opened(tiny_config(write_images(tmp_path / "blocks"), *measured, *small)) as job:
        found = search_tiny(job, tmp_path / "run")
        before = {name: tensor.clone() for name, tensor in found.network.state.items()}
        again = score_again(found, job.problem, job.data.train, job.compute, parse_budget("0.8x"), None)
        limit = int(0.8 * job.problem.costs(found.network.arch).seed)
        chosen = derive(again, job.problem, "0.8x").choice
    assert again.budget == {"text": "0.8x", "cost": limit}
    assert isinstance(again.evidence, Pool)
    paths = [candidate.path for candidate in again.evidence.candidates if candidate.cost <= limit]
    assert chosen is not None
    assert chosen.path in paths
    assert found.network.arch.seed_path() in [candidate.path for candidate in again.evidence.candidates]
    assert all(torch.equal(again.network.state[name], tensor) for name, tensor in before.items())


def test_networks_of_another_run_are_drawn_beside(fronted: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    path, front = fronted
    other = shutil.copytree(path, tmp_path / "other")
    done = make_front(path, BUDGETS, beside=[other])
    theirs = {point["name"]: point for point in done["points"] if "of" in point}
    assert theirs.keys() == {f"other/{point['name']}" for point in front["points"]}
    for point in front["points"]:
        assert all(theirs[f"other/{point['name']}"][key] == point[key] for key in ("score", "costs", "dominated"))
    assert "other/found_0_7x" in (path / "front" / "front.html").read_text()
    for change, message in (
        ("adapt.epochs=3", r"other does not belong in .*: its adapt\.epochs is 1, here it is 3"),
        ("evaluate.mode=sliding", r"its evaluate\.mode is whole, here it is sliding"),
    ):
        with pytest.raises(FnaError, match=message):
            make_front(path, BUDGETS, [change], beside=[other])
    with pytest.raises(FnaError, match=r"holds no config\.yaml of a run"):
        make_front(path, BUDGETS, beside=[tmp_path / "none"])


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="kills a process")
def test_two_workers_one_killed_end_where_one_does(fronted: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    path, front = fronted
    copy = shutil.copytree(path, tmp_path / "copy", ignore=shutil.ignore_patterns("front"))
    words = [sys.executable, "-m", "fna", "front", str(copy), "--budgets", ",".join(BUDGETS), "--quiet"]
    words += ["--engine.threads", str(torch.get_num_threads())]  # as here: other sums, other bits
    first, second = (subprocess.Popen([*words, "--job-array", part]) for part in ("1/2", "2/2"))
    while not (copy / "front" / "found_0_7x" / "targets").exists() and first.poll() is None:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert second.wait() == 0
    assert "found_0_7x" in read_json(copy / "front" / "front.json")["missing"]
    assert subprocess.run([*words, "--job-array", "1/2"], check=False).returncode == 0
    again = read_json(copy / "front" / "front.json")
    assert again["missing"] == []
    plain = [{p["name"]: (p["score"], p["costs"], p["dominated"]) for p in f["points"]} for f in (again, front)]
    assert plain[0] == plain[1]


def test_a_pruned_seed_stands_beside_the_network_of_its_budget(fronted: tuple[Path, dict[str, Any]]) -> None:
    path, _ = fronted
    front = make_front(path, ["0.7x"], controls=["pruned_norm"])
    (point,) = [point for point in front["points"] if point["kind"] == "pruned_norm"]
    seed = front["seed"]["MAdds"]
    assert 0.6 * seed <= point["costs"]["MAdds"] <= 0.7 * seed
    job = path / "front" / "pruned_norm_0_7x"
    target, network, plan = (read_json(job / f) for f in ("targets/pruned.json", "adapted/network.json", "prune.json"))
    assert network["arch"] == target["arch"]
    assert network["adapt"]["epochs"] == plan["epochs"] >= 1
    assert plan["compute_minutes"] > read_json(path / "baseline" / "network.json")["compute_minutes"]
    assert load(job).arch == Arch.from_json(target["arch"])
    assert make_front(path, ["0.7x"], controls=["pruned_norm"]) == front


def test_a_seed_that_took_most_of_the_time_is_fine_tuned_anew_to_be_pruned(
    fronted: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shutil.copytree(fronted[0], tmp_path / "copy")
    tuned = read_json(path / "baseline" / "network.json")
    begun = list[bool]()  # whether the seed was fine-tuned before the pruning was timed

    def watch(device: str) -> Stopwatch:
        begun.append((job / "seed_short").exists())
        return Stopwatch(device)

    monkeypatch.setattr(pruning, "Stopwatch", watch)
    for budget, total, anew in (("0.65x", 1.9, True), ("0.6x", 2.1, False)):
        monkeypatch.setattr(pruning, "_total", lambda _, total=total: total * tuned["compute_minutes"])
        job = path / "front" / f"pruned_norm_{budget.replace('.', '_')}"
        make_front(path, [budget], controls=["pruned_norm"])
        assert begun.pop() == anew
        assert (job / "seed_short" / "network.json").exists() == anew
        assert read_json(job / "prune.json")["seed_epochs"] == 1


def test_what_a_pruned_control_needs_is_asked_first(
    fronted: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = fronted
    with pytest.raises(FnaError, match=r"unknown control 'pruned'.*did you mean 'pruned_"):
        plan_front(path, ["0.7x"], (), ["pruned"])
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(FnaError, match=r"install it: pip install 'fna\[pruning\]'"):
        plan_front(path, ["0.7x"], (), ["pruned_norm"])


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_what_is_on_the_front_rises_and_beats_the_rest(pairs: list[tuple[int, int]]) -> None:
    points = [{"name": str(i), "costs": {"MAdds": c}, "score": s / 5} for i, (c, s) in enumerate(pairs)]
    marked = dominated(points, "MAdds")
    best = [(p["costs"]["MAdds"], p["score"]) for p in marked if not p["dominated"]]
    assert best == sorted(set(best)) or len(set(best)) < len(best)  # equal networks are both on it
    assert [score for _, score in sorted(set(best))] == sorted({score for _, score in best})
    for p in marked:
        if p["dominated"]:
            assert any(c <= p["costs"]["MAdds"] and s >= p["score"] for c, s in best)
