"""The search: estimators of the alphas' gradient, objective and budget, and a search in miniature."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Job, opened, search_tiny, tiny_config, write_images
from torch import Tensor

from fna.arch import Arch, Block, Candidates, Stem, SuperArch
from fna.config.budgets import parse_budget
from fna.errors import FnaError
from fna.nets.supernet import Choice, Mixture, expected_cost
from fna.rng import generator
from fna.searching.alphas import SearchLoop, search
from fna.searching.collapsing import collapse
from fna.searching.estimators import ESTIMATORS, Vectors
from fna.searching.penalty import Holder, objective
from fna.searching.sampling import draw_path
from fna.stages.expand import expand
from fna.training.sinks import read_log


def leaf(*values: float) -> Tensor:
    return torch.tensor(values, requires_grad=True)


def linear_loss(choice: Choice, values: Sequence[Tensor]) -> Tensor:
    """A network whose layers add up: candidate j of layer i contributes ``values[i][j]``."""
    total = torch.zeros(())
    for entry, value in zip(choice, values, strict=True):
        if isinstance(entry, Mixture):
            total = total + (entry.weights * value[list(entry.indices)]).sum()
        else:
            total = total + value[entry]
    return total


def gradient(estimator: str, alpha: Tensor, value: Tensor, draw: torch.Generator) -> Tensor:
    (grad,) = torch.autograd.grad(linear_loss(ESTIMATORS[estimator]([alpha], draw), [value]), [alpha])
    return grad


def mean_gradient(estimator: str, alpha: Tensor, value: Tensor, draws: int = 1000) -> Tensor:
    return torch.stack([gradient(estimator, alpha, value, generator(0, i)) for i in range(draws)]).mean(0)


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


# --- estimators -------------------------------------------------------------------------------------------------------

ALPHAS = [leaf(0.5, -0.5, 1.0, 0.0), leaf(0.0), leaf(0.3, -0.3), leaf(2.0, -1.0, 0.0, 1.0, 0.5)]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_searchable_layer_gets_a_gradient_and_a_fixed_layer_none(estimator: str) -> None:
    values = [torch.arange(float(len(a))) ** 2 + 1 for a in ALPHAS]
    for i in range(5):
        choice = ESTIMATORS[estimator](ALPHAS, generator(0, i))
        assert choice[1] == 0
        grads = torch.autograd.grad(linear_loss(choice, values), ALPHAS, allow_unused=True)
        assert grads[1] is None
        assert all(float(grad.abs().max()) > 1e-4 for j, grad in enumerate(grads) if grad is not None and j != 1)
        assert sum(grad is not None for grad in grads) == 3


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_draws_are_functions_of_the_generator(estimator: str) -> None:
    first, again = (ESTIMATORS[estimator](ALPHAS, generator(0, "mixture", 5)) for _ in range(2))
    for a, b in zip(first, again, strict=True):
        if isinstance(a, Mixture) and isinstance(b, Mixture):
            assert a.indices == b.indices
            assert torch.equal(a.weights, b.weights)
        else:
            assert a == b


def test_full_mixes_every_candidate_by_softmax() -> None:
    for alpha, entry in zip(ALPHAS, ESTIMATORS["full"](ALPHAS, generator(0)), strict=True):
        if len(alpha) > 1:
            assert isinstance(entry, Mixture)
            assert entry.indices == tuple(range(len(alpha)))
            assert torch.equal(entry.weights, alpha.softmax(0))


def test_two_paths_are_two_different_candidates_weighted_between_themselves() -> None:
    seen = set()
    for i in range(40):
        for alpha, entry in zip(ALPHAS, ESTIMATORS["two_path"](ALPHAS, generator(0, i)), strict=True):
            if len(alpha) == 1:
                continue
            assert isinstance(entry, Mixture)
            assert len(set(entry.indices)) == len(entry.weights) == 2
            assert entry.weights.sum().item() == pytest.approx(1)
            ratio = math.exp(alpha[entry.indices[0]].item() - alpha[entry.indices[1]].item())
            assert (entry.weights[0] / entry.weights[1]).item() == pytest.approx(ratio, rel=1e-5)
            seen.add(entry.indices if alpha is ALPHAS[0] else None)
    assert len(seen - {None}) == 6  # all pairs of four


@pytest.mark.parametrize("estimator", ["two_path", "gumbel"])
def test_decided_alphas_can_still_be_drawn(estimator: str) -> None:
    decided = [leaf(300.0, 0.0, -300.0)]
    for i in range(10):
        (entry,) = ESTIMATORS[estimator](decided, generator(0, i))
        assert isinstance(entry, Mixture)
        assert 0 in entry.indices
        assert bool(entry.weights.isfinite().all())


def test_gumbel_runs_one_candidate_as_it_is() -> None:
    counts = torch.zeros(4)
    for i in range(1000):
        entry = ESTIMATORS["gumbel"](ALPHAS, generator(0, i))[0]
        assert isinstance(entry, Mixture)
        assert entry.weights.tolist() == [1.0]
        counts[entry.indices[0]] += 1
    expected = 1000 * ALPHAS[0].detach().softmax(0)
    assert ((counts - expected) ** 2 / expected).sum().item() < 16.3  # chi-square, 3 degrees, one in a thousand


@pytest.mark.parametrize("alpha", [leaf(0.0, 0.0, 0.0, 0.0), leaf(0.6, -0.4, 0.1, 0.0)], ids=["uniform", "leaning"])
@pytest.mark.parametrize("estimator", ["two_path", "gumbel"])
def test_cheap_gradients_point_on_average_where_the_full_one_does(estimator: str, alpha: Tensor) -> None:
    value = torch.tensor([1.0, -2.0, 0.5, 0.3])
    exact = gradient("full", alpha, value, generator(0))
    p = alpha.detach().softmax(0)
    torch.testing.assert_close(exact, p * (value - (p * value).sum()))
    assert cosine(mean_gradient(estimator, alpha, value), exact) > 0.95


def test_two_paths_compare_so_what_both_share_does_not_matter() -> None:
    alpha, value = leaf(0.6, -0.4, 0.1, 0.0), torch.tensor([1.0, -2.0, 0.5, 0.3])
    for i in range(10):
        plain, shifted = (gradient("two_path", alpha, v, generator(0, i)) for v in (value, value + 100))
        torch.testing.assert_close(plain, shifted, atol=1e-4, rtol=1e-4)


# --- objective and budget ---------------------------------------------------------------------------------------------


def test_objective_adds_the_decimal_logarithm_of_the_cost() -> None:
    task, cost = leaf(2.0), leaf(100.0)
    total = objective(task, cost, 0.1)
    total.sum().backward()
    assert total.item() == pytest.approx(2.2)
    assert task.grad is not None
    assert cost.grad is not None
    assert task.grad.item() == 1
    assert cost.grad.item() == pytest.approx(0.1 / (100 * math.log(10)))


def test_budget_charges_excess_and_learns_the_price() -> None:
    budget = Holder(target=1e9, rate=0.05, weight=2.0)
    assert budget.penalty(torch.tensor(1e9)).item() == pytest.approx(0)
    assert budget.penalty(torch.tensor(1e10)).item() == pytest.approx(2)
    budget.update(1e10)
    assert budget.multiplier == pytest.approx(0.05)
    assert budget.penalty(torch.tensor(1e10)).item() == pytest.approx(2.05)
    for _ in range(2):
        budget.update(1e8)
    assert budget.multiplier == pytest.approx(-0.05)  # too cheap: from now on cost is paid for


def toy_search(taste: float, budget: Holder | None, weight: float = 0.0, steps: int = 500) -> float:
    """Search where the task wants cost (taste > 0) or shuns it; return the expected cost over the dearest path's."""
    costs = [1e6 * torch.tensor([0.0, 100.0, 200.0, 400.0, 600.0]) * scale for scale in (1, 2, 3)]
    most = sum(cost.max().item() for cost in costs)
    alphas = [torch.zeros(len(cost), requires_grad=True) for cost in costs]
    optimizer = torch.optim.Adam(alphas, lr=0.01, betas=(0.5, 0.999), weight_decay=1e-3)
    for _ in range(steps):
        cost = expected_cost(alphas, costs)
        task = -taste * cost / most
        total = objective(task, cost / 1e9, weight) if budget is None else task + budget.penalty(cost)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        if budget:
            budget.update(expected_cost(alphas, costs).item())
    return expected_cost(alphas, costs).item() / most


@pytest.mark.parametrize(("taste", "share"), [(1.0, 0.3), (0.1, 0.45), (-1.0, 0.45)])
def test_budget_is_met_whatever_the_task_prefers(taste: float, share: float) -> None:
    most = 6 * 600e6
    reached = toy_search(taste, Holder(share * most, rate=0.05, weight=2.0))
    assert reached == pytest.approx(share, rel=0.05)


def test_no_lambda_does_that() -> None:
    for weight in (0.1, 1.0, 3.0):
        reached = toy_search(1.0, None, weight, steps=300)
        assert reached < 0.1 or reached > 0.9


# --- warnings ---------------------------------------------------------------------------------------------------------


def skippable_space(layers: int = 10) -> SuperArch:
    candidates: Candidates = (
        Block("mbconv", 8, 8, expansion=3),
        Block("mbconv", 8, 8, expansion=6),
        Block("skip", 8, 8),
    )
    first: Candidates = candidates[:2]
    return SuperArch(Arch(Stem(8), ((first[0],),)), ((first, *[candidates] * layers),))


def test_collapse_to_skips_is_said() -> None:
    arch = skippable_space()
    costs = [torch.tensor([3.0, 6.0, 0.0][: len(c)]) for _, c in arch.layers()]

    def alphas(skips: int) -> Vectors:
        return [leaf(0.0, 9.0), *[leaf(0.0, 0.0, 9.0)] * skips, *[leaf(9.0, 0.0, 0.0)] * (10 - skips)]

    assert collapse(arch, alphas(9), costs, None) == []
    (warning,) = collapse(arch, alphas(10), costs, None)
    assert "10 of 10 layers prefer to be skipped" in warning
    assert "search.alpha_start" in warning


@pytest.mark.parametrize(("ratio", "warned"), [(0.7, True), (0.9, False), (1.0, False), (1.2, False), (1.3, True)])
def test_a_missed_budget_is_said(ratio: float, warned: bool) -> None:
    arch = skippable_space()
    costs = [torch.tensor([300.0, 600.0, 0.0][: len(c)]) for _, c in arch.layers()]
    alphas = [torch.zeros(len(cost)) for cost in costs]
    budget = round(expected_cost(alphas, costs).item() / ratio)
    warnings = [text for text in collapse(arch, alphas, costs, budget) if "budget:" in text]
    assert bool(warnings) == warned
    assert all(f"{ratio:.2f} x the budget" in text and "search.budget_weight" in text for text in warnings)


def test_alphas_that_never_moved_are_called_undecided() -> None:
    arch = skippable_space(4)
    costs = [torch.tensor([3.0, 6.0, 0.0][: len(c)]) for _, c in arch.layers()]
    decided = [leaf(*[9.0, 0.0, 0.0][: len(c)]) for _, c in arch.layers()]
    even = [leaf(*[0.01, 0.0, 0.0][: len(c)]) for _, c in arch.layers()]
    assert collapse(arch, decided, costs, None) == []
    (warning,) = collapse(arch, even, costs, None)
    assert "undecided: in 5 of 5 layers" in warning
    assert collapse(arch, [*decided[:3], *even[3:]], costs, None) == [], "most are decided"


# --- a search in miniature --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "images")


def make_loop(job: Job) -> SearchLoop:
    grown, budget = expand(job.seed, job.problem), job.config.search.budget
    costs = job.problem.costs(grown.arch)
    limit = None if budget is None else costs.limit(parse_budget(budget), "search.budget")
    loop = SearchLoop(grown, job.problem, job.data.train, job.compute, costs, limit)
    loop.start(0)
    return loop


@pytest.fixture
def loop(images: Path, request: pytest.FixtureRequest) -> Iterator[SearchLoop]:
    with opened(tiny_config(images, *getattr(request, "param", ()))) as job:
        yield make_loop(job)


def tensors(loop: SearchLoop) -> dict[str, Tensor]:
    """All that an alpha step must leave alone: weights, statistics and weight gradients."""
    grads = {f"gradient of {name}": p.grad for name, p in loop.model.named_parameters() if p.grad is not None}
    return {name: tensor.detach().clone() for name, tensor in {**loop.model.state_dict(), **grads}.items()}


@pytest.mark.parametrize("loop", [[f"search.estimator={name}"] for name in ESTIMATORS], indirect=True, ids=ESTIMATORS)
def test_alpha_steps_move_alphas_alone(loop: SearchLoop) -> None:
    loop.step(0)  # of the weights: leaves gradients
    before, alphas = tensors(loop), [a.detach().clone() for a in loop.alphas]
    assert any(name.startswith("gradient") for name in before)
    loop.alpha_step(6)
    after = tensors(loop)
    assert after.keys() == before.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    moved = [i for i, (old, new) in enumerate(zip(alphas, loop.alphas, strict=True)) if not torch.equal(old, new)]
    assert tuple(moved) == loop.arch.searchable


def test_alpha_steps_that_overflow_are_skipped_and_counted(loop: SearchLoop) -> None:
    alphas = [a.detach().clone() for a in loop.alphas]
    loop.weight_step.scaler = torch.amp.GradScaler("cpu", init_scale=math.inf)
    assert loop.lost() == []
    for step in (6, 7):
        assert math.isfinite(loop.alpha_step(step))
    assert all(torch.equal(old, new) for old, new in zip(alphas, loop.alphas, strict=True))
    state, loop.overflowed = loop.state(), 0
    loop.load(state)
    steps = loop.total_steps - loop.alpha_start
    assert loop.lost() == [f"fp16 overflowed in 2 of {steps} alpha steps, which were skipped: use bf16 or fp32"]


@pytest.mark.parametrize("loop", [["search.cycle=2"]], indirect=True)
def test_weights_and_alphas_alternate(loop: SearchLoop) -> None:
    with torch.no_grad():
        for alpha in loop.alphas:
            alpha[0] += 50  # decided, but nobody asks the alphas before they start
    alphas = [a.detach().clone() for a in loop.alphas]
    assert (loop.steps_per_epoch, loop.alpha_start, loop.total_steps) == (3, 6, 15)
    drawn = []
    for step in range(loop.total_steps):
        active = step >= loop.alpha_start
        path = draw_path(loop.arch, loop.alphas if active else None, generator(0, "path", step))
        row = loop.step(step)
        assert row["sampled_cost"] == loop.costs.whole(path)
        assert (row["alpha_loss"] is not None) == (step in (6, 8, 10, 12, 14))
        assert (row["multiplier"] is not None) == active
        if not active:
            assert all(map(torch.equal, alphas, loop.alphas))
        drawn.append(path)
    assert len(set(drawn[: loop.alpha_start])) > 3
    assert set(drawn[loop.alpha_start :]) == {(0,) * len(loop.alphas)}
    assert next(loop.weight_batches, None) is None  # both streams are used up, to the batch
    assert next(loop.alpha_batches, None) is None


def test_mixtures_are_functions_of_the_step(loop: SearchLoop) -> None:
    drawn: list[tuple[tuple[int, ...], ...]] = []

    def note(module: torch.nn.Module, args: tuple[Tensor, Choice]) -> None:
        drawn.append(tuple(entry.indices for entry in args[1] if isinstance(entry, Mixture)))

    loop.model.register_forward_pre_hook(note)
    loop.alpha_batches = itertools.repeat(next(loop.alpha_batches))
    for step in (6, 7, 8, 9, 6):
        loop.alpha_step(step)
    assert drawn[0] == drawn[-1]
    assert len(set(drawn)) > 1


def test_alpha_gradient_is_that_of_the_log_of_the_loss_and_the_penalty(loop: SearchLoop) -> None:
    """The gradient with frozen weights equals autograd's with nothing frozen, on a copy."""
    loop.config = loop.config.model_copy(update={"estimator": "full"})
    loop.holder = Holder(float(sum(map(max, loop.costs.table))), 0.05, 2.0, multiplier=0.3)
    batch, images_N3HW = next(loop.alpha_batches)
    loop.alpha_batches = itertools.repeat((batch, images_N3HW))
    model, alphas = copy.deepcopy(loop.model), [a.detach().clone().requires_grad_() for a in loop.alphas]
    penalty = loop.holder.penalty(expected_cost(alphas, loop.table))
    loss_sum, pixels = loop.problem.loss(model(images_N3HW, ESTIMATORS["full"](alphas, generator(0))), batch)
    expected = torch.autograd.grad((loss_sum / pixels).log() + penalty, [alphas[i] for i in loop.arch.searchable])
    value = loop.alpha_step(6)
    assert value == pytest.approx((loss_sum / pixels).item(), rel=1e-5)
    for i, grad in zip(loop.arch.searchable, expected, strict=True):
        torch.testing.assert_close(loop.alphas[i].grad, grad, rtol=1e-3, atol=1e-6)
    with torch.no_grad():
        ratio = expected_cost(loop.alphas, loop.table).item() / loop.holder.target
    assert loop.holder.multiplier == pytest.approx(0.3 + 0.05 * math.log10(ratio))


@pytest.mark.parametrize("budget", [True, False])
def test_under_a_budget_the_unit_of_the_loss_does_not_matter(loop: SearchLoop, budget: bool) -> None:
    """Heatmaps have losses near 0.001, cross entropies near 1; against a fixed lambda (Eq. 8) that does matter."""
    loop.holder = Holder(float(sum(map(max, loop.costs.table))), 0.05, 2.0) if budget else None
    loop.config = loop.config.model_copy(update={"lambda_": 0.1})
    loop.alpha_batches = itertools.repeat(next(loop.alpha_batches))
    problem = loop.problem
    gradients = []
    for unit in (1.0, 1e-3):
        task = dataclasses.replace(problem.task, loss=in_units(problem.task.loss, unit))
        loop.problem = dataclasses.replace(problem, task=task)
        start = [a.detach().clone() for a in loop.alphas]
        loop.alpha_step(6)
        gradients.append(torch.cat([a.grad for a in loop.alphas if a.grad is not None]))
        with torch.no_grad():
            for alpha, value in zip(loop.alphas, start, strict=True):
                alpha.copy_(value)
        if loop.holder:
            loop.holder.multiplier = 0.0
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-6) == budget


def in_units(loss: Callable[..., tuple[Tensor, Tensor]], unit: float) -> Callable[..., tuple[Tensor, Tensor]]:
    """The same loss in another unit."""

    def scaled(*args: Any) -> tuple[Tensor, Tensor]:
        total, number = loss(*args)
        return unit * total, number

    return scaled


@pytest.mark.parametrize("loop", [["search.bn=frozen"]], indirect=True)
def test_frozen_norms_stay_as_the_seeds(loop: SearchLoop) -> None:
    def frozen() -> dict[str, Tensor]:
        state = loop.model.backbone.state_dict()
        return {name: tensor.clone() for name, tensor in state.items() if "norm" in name}

    before = frozen()
    assert before
    for step in range(8):
        loop.step(step)
    assert [name for name, tensor in frozen().items() if not torch.equal(tensor, before[name])] == []


def test_search_repeats_itself(images: Path, tmp_path: Path) -> None:
    results = []
    for name in ("first", "again"):
        (tmp_path / name).mkdir()
        with opened(tiny_config(images)) as job:
            results.append(search_tiny(job, tmp_path / name))
    first, again = results
    assert first.evidence == again.evidence
    assert first.network.state.keys() == again.network.state.keys()
    assert all(torch.equal(tensor, again.network.state[name]) for name, tensor in first.network.state.items())
    assert read_log(tmp_path / "first" / "search.csv") == read_log(tmp_path / "again" / "search.csv")


def test_search_lowers_the_loss_and_ends_near_the_budget(tmp_path: Path) -> None:
    images = write_images(tmp_path / "more", train=24)
    overrides = (
        *("search.epochs=12", "search.alpha_start=3", "search.batch_size=4", "search.alpha.lr=0.05"),
        *("search.optimizer.name=adamw", "search.optimizer.lr=0.01", "data.scale=[1,1]", "data.color_jitter=0"),
    )
    with opened(tiny_config(images, "search.budget=0.8", *overrides)) as job:
        found = search_tiny(job, tmp_path)
        budget = 0.8 * job.problem.costs(found.network.arch).seed
    rows = read_log(tmp_path / "search.csv")
    losses = [float(row["task_loss"]) for row in rows]
    assert len(losses) == 36
    assert sum(losses[-6:]) < 0.9 * sum(losses[:6])
    begins, ends = (float(rows[i]["expected_cost"]) / budget for i in (0, -1))
    assert ends == pytest.approx(1, abs=0.05)
    assert abs(ends - 1) < abs(begins - 1)
    assert not any("x the budget" in warning for warning in found.warnings)
    entropies = read_log(tmp_path / "entropy.csv")
    assert len(entropies) == 12
    assert all(0 <= float(value) <= 1 for row in entropies for name, value in row.items() if "." in name)


def test_a_collapse_can_stop_the_run(images: Path) -> None:
    overrides = ["search.budget=null", "search.lambda=100", "search.alpha.lr=1", "engine.strict=true"]
    with opened(tiny_config(images, *overrides)) as job, pytest.raises(FnaError, match="prefer to be skipped"):
        search(expand(job.seed, job.problem), job.problem, job.data.train, job.compute)
