"""Measured choice: anchored paths that keep to the budget, candidates scored on what the weights have not seen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_deeper
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import Job, job_of_module, opened, search_tiny, tiny_config, write_images
from tiny_detection import detection_config, write_squares
from tiny_pose import pose_config, write_figures
from torch import nn

import fna
from fna.arch import LayerPath
from fna.arch.cutting import SPENT
from fna.arch.target import Form
from fna.config import SearchConfig
from fna.cost.costs import Costs
from fna.errors import FnaError
from fna.files import read_json
from fna.nets.supernet import path_network
from fna.rng import generator
from fna.searching.alphas import SearchLoop
from fna.searching.found import Candidate, Found, Pool, choose, choose_finalist
from fna.searching.measured import _Evolution, hand_cuts
from fna.searching.sampling import Step, near, sample_anchored, tilted
from fna.searching.scoring import Candidacy, Scorer
from fna.stages.expand import expand
from fna.tasks.heads import DeepLabV3Head
from fna.tasks.problem import Problem
from fna.training.sinks import read_log

MEASURED = (
    *(
        "search.sampler=anchored",
        "search.chooser=measured",
        "space.input_scales=[1, 1.25, 9]",
        "space.head_channels=[0.5, 1]",
        "space.expansions=[3, 6]",
    ),
    *("search.epochs=2", "search.alpha_start=1", "search.held_out=0.34", "search.candidates=12"),
    *("search.recalibrate=2", "search.budget=1.0"),
)


job = job_of_module(*MEASURED)


@pytest.fixture(scope="module")
def found(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Found:
    return search_tiny(job, tmp_path_factory.mktemp("found"))


# --- paths ------------------------------------------------------------------------------------------------------------

TABLES = st.lists(st.lists(st.integers(0, 1000), min_size=1, max_size=5), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(TABLES, st.floats(0, 1), st.floats(0, 0.99))
def test_tilted_probabilities_cost_no_more_than_wanted(table: list[list[int]], share: float, seeds: float) -> None:
    costs = Costs("MAdds", table, 10, 1)
    least, most = sum(map(min, table)) + 10, sum(map(max, table)) + 10
    wanted = least + share * (most - least)
    plain = near(table, (0,) * len(table), seeds)
    drawn = tilted(plain, costs, wanted)
    assert all(p.sum() == pytest.approx(1) and (p >= 0).all() for p in drawn)

    def expected(probabilities: list[np.ndarray[tuple[int], np.dtype[np.float64]]]) -> float:
        return 10 + float(sum(p @ np.array(row) for p, row in zip(probabilities, table, strict=True)))

    assert expected(drawn) <= max(wanted, least) + 0.02 * (most - least) + 1e-6
    if expected(plain) <= wanted:
        assert all((a == b).all() for a, b in zip(drawn, plain, strict=True)), "nothing is tilted without need"


def test_anchored_steps_run_the_seed_or_what_is_near_it_in_the_window(job: Job) -> None:
    space = expand(job.seed, job.problem).arch
    config = SearchConfig(anchor=0.25, near=0.5, window=(0.5, 1.0))
    for form in (Form(), Form(0.5, 1.25)):
        costs = job.problem.at(form).costs(space)
        step = Step(space, costs, job.problem.costs(space).seed, config)
        assert sample_anchored(replace(step, anchor=True), None, generator(0, 0)) == space.seed_path()
        paths = [sample_anchored(step, None, generator(0, i)) for i in range(300)]
        spent = [costs.whole(path) / step.limit for path in paths if path != space.seed_path()]  # type: ignore[operator]
        assert np.mean([0.5 <= share <= 1.0 for share in spent]) > 0.95
        assert sample_anchored(step, None, generator(0, 7)) == paths[7]


# --- candidates -------------------------------------------------------------------------------------------------------


def test_the_pool_holds_the_seed_and_networks_within_the_budget(job: Job, found: Found) -> None:
    assert isinstance(found.evidence, Pool)
    seed, limit = found.network.arch.seed_path(), job.problem.cost(job.seed.arch).madds
    pool = found.evidence.candidates
    assert (pool[0].path, pool[0].scale, pool[0].cost) == (seed, 1.0, limit)
    assert len({(c.path, c.form) for c in pool}) == len(pool) in (11, 12)
    for candidate in pool:
        arch = found.network.arch.path_arch(candidate.path)
        assert candidate.cost == job.problem.at(candidate).cost(arch).madds <= limit
    assert {c.form for c in pool} == {Form(w, s) for w in (0.5, 1.0) for s in (1.0, 1.25)}, "no network fits at 9"
    assert len({c.loss for c in pool}) > len(pool) / 2


def test_the_best_within_the_budget_is_derived(job: Job, found: Found) -> None:
    assert isinstance(found.evidence, Pool)
    for budget in ("1x", "0.95x"):
        target = fna.derive(found, job.problem, budget)
        limit = float(budget[:-1]) * job.problem.cost(job.seed.arch).madds
        within = [c for c in found.evidence.candidates if c.cost <= limit]
        best = min(within, key=lambda c: (c.loss, c.cost))
        if best.score is not None:
            best = max((c for c in within if c.score is not None), key=lambda c: (c.score, -c.loss))
        assert (target.arch, target.scale) == (found.network.arch.path_arch(best.path), best.scale)
        assert fna.count(target, job.problem).madds == best.cost


def test_finalists_have_a_trial_and_the_metric_decides(job: Job, found: Found) -> None:
    assert isinstance(found.evidence, Pool)
    pool = found.evidence.candidates
    finalists = [c for c in pool if c.score is not None]
    assert pool[0] in finalists, "the seed"
    assert {c.scale for c in finalists} == {1.0, 1.25}
    assert len(finalists) < len(pool)
    best_of_scale = (min((c for c in pool if c.scale == scale), key=lambda c: c.loss) for scale in (1.0, 1.25))
    assert all(c.score is not None for c in best_of_scale)
    one, other, dear, left = (
        Candidate((k,), cost, loss, score)
        for k, (cost, loss, score) in enumerate([(9, 0.5, 0.3), (9, 0.6, 0.4), (20, 0.1, 0.9), (5, 0.7, None)])
    )
    assert choose([one, other, dear, left], 10) == other
    assert choose([one, other, dear, left], None) == dear
    assert choose([replace(one, cost=11), replace(other, cost=11), left], 10) == left, "no finals there"
    assert choose([replace(left, loss=0.2), one, other], 10) == replace(left, loss=0.2), "finals at another limit"
    assert choose([one], 3) is None
    assert choose_finalist([replace(left, loss=0.2), one, other], 10) == other, "of a shorter training, as in halving"
    assert choose_finalist([left], 10) == left
    assert choose_finalist([one], 3) is None


@pytest.mark.parametrize("scale", [1.0, 1.25])
def test_a_search_ends_in_the_form_that_the_metric_takes(
    scale: float, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever the loss prefers, the last three tenths of the candidates are of it, and their best have a trial."""
    measured: list[float] = []

    def metric(self: Scorer, network: nn.Module, problem: Problem) -> float:
        measured.append(problem.config.data.crop[0] / 64)
        return float(measured[-1] == scale) + len(measured) / 1000

    monkeypatch.setattr(Scorer, "held_metric", metric)
    found = search_tiny(job, tmp_path)
    assert isinstance(found.evidence, Pool)
    chosen = choose(found.evidence.candidates, job.problem.cost(job.seed.arch).madds)
    assert chosen is not None
    assert chosen.scale == scale
    assert {c.form for c in found.evidence.candidates[9:]} == {chosen.form}
    assert measured[-1] == scale
    assert set(measured) == {1.0, 1.25}
    space = expand(job.seed, job.problem)
    loop = SearchLoop(space, job.problem, job.data.train, job.compute, job.problem.costs(space.arch), None)
    scored = {(c.path, c.form) for c in found.evidence.candidates if c.score is not None}
    assert set(hand_cuts(loop, loop.costs.seed, [chosen.form])) <= scored


@pytest.mark.parametrize("form", [Form(), Form(0.5), Form(0.5, 1.25)])
def test_children_of_cheap_networks_spend_the_budget(form: Form, job: Job) -> None:
    space = expand(job.seed, job.problem)
    loop = SearchLoop(space, job.problem, job.data.train, job.compute, job.problem.costs(space.arch), None)
    cheapest = tuple(min(range(len(row)), key=row.__getitem__) for row in loop.costs.table)
    limit = loop.costs.seed
    evolution = _Evolution(loop, Scorer(loop), (), limit, {})
    evolution.members[cheapest, form] = Candidate(cheapest, evolution.cost(cheapest, form), 1.0, None, *form)
    children = list(islice(evolution._new(evolution._children((form,))), 30))
    assert len(children) >= 3
    for path, of in children:
        assert of == form
        assert SPENT * limit <= evolution.cost(path, of) <= limit
    again = list(islice(evolution._new(evolution._children((form,))), 30))
    assert again == children, "of the round and the random seed alone"


def test_smaller_budgets_get_candidates_of_their_own(job: Job, tmp_path: Path) -> None:
    dumped = job.config.model_dump(mode="json", by_alias=True)
    wanted = {**dumped, "search": {**dumped["search"], "smaller_budgets": ["0.9x"], "candidates": 8}}
    smaller = replace(job, problem=replace(job.problem, config=fna.Config.model_validate(wanted)))
    found = search_tiny(smaller, tmp_path / "run")
    assert isinstance(found.evidence, Pool)
    seed = job.problem.cost(job.seed.arch).madds
    spent = [c.cost / seed for c in found.evidence.candidates]
    assert sum(0.81 <= share <= 0.9 for share in spent) >= 4
    assert sum(0.9 < share <= 1.0 for share in spent) >= 4
    half = fna.derive(found, smaller.problem, "0.9x")
    assert 0.81 <= fna.count(half, smaller.problem).madds / seed <= 0.9
    for budgets, said in ((["1.5x"], "is not below search.budget"), (["0.9x params"], "counts another thing")):
        wanted["search"]["smaller_budgets"] = budgets
        other = replace(job, problem=replace(job.problem, config=fna.Config.model_validate(wanted)))
        with pytest.raises(FnaError, match=said):
            search_tiny(other, tmp_path / "refused")


def test_scoring_leaves_the_super_network_as_it_was(job: Job, found: Found, tmp_path: Path) -> None:
    """Recalibration of candidates would change the statistics it shares; the same search finds the same once more."""
    again = search_tiny(job, tmp_path)
    assert again.evidence == found.evidence
    assert all(torch.equal(value, again.network.state[name]) for name, value in found.network.state.items())
    model = job.problem.build(found.network.arch)
    model.load_state_dict(dict(found.network.state))
    network = path_network(model, found.network.arch.seed_path())
    assert set(map(id, network.parameters())) < set(map(id, model.parameters()))


def test_an_interrupted_choice_goes_on_and_finds_the_same(
    job: Job, found: Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[Candidacy] = []
    own = Scorer._losses

    def losses(self: Scorer, path: LayerPath, form: Form) -> list[float]:
        if len(scored) == 9:
            raise KeyboardInterrupt
        scored.append((path, form))
        return own(self, path, form)

    monkeypatch.setattr("fna.searching.scoring.SAVE_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "_losses", losses)
        with pytest.raises(KeyboardInterrupt):
            search_tiny(job, tmp_path)
    kept = read_json(tmp_path / "search" / "scores.json")["losses"]
    assert len(kept) == 9
    with noted_batches() as forwards:
        again = search_tiny(job, tmp_path)
    assert again.evidence == found.evidence
    assert all(torch.equal(value, again.network.state[name]) for name, value in found.network.state.items())
    with noted_batches() as all_forwards:
        search_tiny(job, tmp_path / "whole")
    assert len(forwards) < len(all_forwards)


@contextmanager
def noted_batches() -> Iterator[list[int]]:
    """Collect the sizes of the batches that heads read meanwhile."""
    batches: list[int] = []

    def note(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if isinstance(module, DeepLabV3Head):
            batches.append(len(arguments[0][0]))

    hook = nn.modules.module.register_module_forward_pre_hook(note)
    try:
        yield batches
    finally:
        hook.remove()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("search.budget=0.001x", r"search\.budget 0\.001x .* but this space reaches from"),
        ("space.input_scales=[1.25, 1.5]", r"space\.input_scales is \[1\.25, 1\.5\]; expected 1 among them"),
        ("space.head_channels=[0.5]", r"space\.head_channels is \[0\.5\]; expected 1 among them"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(setting: str, said: str, tmp_path: Path) -> None:
    config = tiny_config(write_images(tmp_path / "images"), *MEASURED, setting)
    with opened(config) as job, pytest.raises(FnaError, match=said):
        search_tiny(job, tmp_path / "run")


def test_a_run_with_a_measured_choice(job: Job, tmp_path: Path) -> None:
    short = {"adapt": {"epochs": 1, "batch_size": 4, "recalibrate": 1}, "space": {"layers": [2, 2, 3, 3, 3, 1]}}
    dumped = job.config.model_dump(mode="json", by_alias=True)
    config = fna.Config.model_validate({**dumped, **short, "space": {**dumped["space"], **short["space"]}})
    metrics = fna.run(tmp_path / "run", config)
    assert metrics["rows"]["adapted"]["scale"] in (1.0, 1.25)
    model = fna.load(tmp_path / "run")
    assert model.problem.config.data.crop == (80, 80) if model.record["scale"] == 1.25 else (64, 64)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "candidates" in page


@pytest.mark.parametrize("task", ["retinanet", "ssdlite", "pose"])
def test_other_tasks_search_their_input_size_too(task: str, tmp_path: Path) -> None:
    """What is in pixels of the input follows it: anchors, Gaussians, crops."""
    short = (*MEASURED, "search.candidates=4", "search.distill=0.5")
    if task == "pose":
        config = pose_config(write_figures(tmp_path / "data"), *short)
    else:
        squares = write_squares(tmp_path / "data")
        model_only = ("task={model: ssdlite}",) if task == "ssdlite" else ()
        config = detection_config(squares, *short, *model_only)
    with tiny_deeper.opened(config) as job:
        found = search_tiny(job, tmp_path / "run")
        assert isinstance(found.evidence, Pool)
        assert all(np.isfinite(c.loss) for c in found.evidence.candidates)
        taught = [
            float(row["distillation"]) for row in read_log(tmp_path / "run" / "search.csv") if row["distillation"]
        ]
        assert taught
        assert all(distance > 0 for distance in taught)
        larger = job.problem.at(Form(scale=1.25))
        if task == "retinanet":
            model = job.problem.build(job.seed.arch)
            larger.tune(model.head)
            assert model.head.anchor_scale == 1.25 * config.task.anchor_scale  # type: ignore[attr-defined]
            with torch.no_grad():
                small, large = (model(torch.zeros(1, 3, side, side))["anchors"] for side in (64, 128))
            sides = [float((boxes[:, 2] - boxes[:, 0]).min()) for boxes in (small, large)]
            assert sides[0] == pytest.approx(sides[1])
            job.problem.tune(model.head)
            with torch.no_grad():
                plain = model(torch.zeros(1, 3, 64, 64))["anchors"]
            assert float((plain[:, 2] - plain[:, 0]).min()) == pytest.approx(sides[0] / 1.25, abs=1)
