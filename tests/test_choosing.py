"""Choosing a target: the knapsack keeps the budget and loses next to nothing, the argmax is the article's."""

from __future__ import annotations

import itertools
import json
import math
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fna.arch import Arch, Block, Candidates, Stem, SuperArch
from fna.cost.costs import Costs
from fna.cost.madds import CostTable, path_cost
from fna.errors import FnaError
from fna.nets.weights import Network
from fna.searching.alphas import MEASURED
from fna.searching.choosing import CHOOSERS, Choice, choose_by_alphas
from fna.searching.found import Alphas, Candidate, Found, Pool
from fna.searching.knapsack import GRID, PathsBetween, best_path
from fna.training.clock import Spent

Case = tuple[CostTable, list[list[float]]]


def space(widths: list[int]) -> SuperArch:
    """A space with so many candidates at each layer; its costs are the test's own."""
    layers: list[Candidates] = [tuple(Block("mbconv", 8, 8, kernel=2 * j + 1) for j in range(n)) for n in widths]
    seed = Arch(Stem(8), (tuple(layer[0] for layer in layers),))
    return SuperArch(seed, (tuple(layers),))


def found_with(table: CostTable, alphas: list[list[float]]) -> Found:
    return Found(Network(space([len(costs) for costs in table]), {}), Alphas(alphas))


def run(table: CostTable, alphas: list[list[float]], budget: int | None = None) -> Choice:
    """Choose by alphas where stem and head cost nothing."""
    return choose_by_alphas(found_with(table, alphas), Costs("MAdds", table, 0, 1), budget, 0)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    widths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    costs = st.one_of(st.integers(0, 8), st.integers(0, 10**10))
    # Alphas on a grid that binary fractions hit, so that a float sum is exact and a tie is a tie.
    numbers = st.one_of(st.integers(-2, 2), st.integers(-300, 300)).map(lambda n: n / 64)
    table = [draw(st.lists(costs, min_size=n, max_size=n)) for n in widths]
    return table, [draw(st.lists(numbers, min_size=n, max_size=n)) for n in widths]


@settings(max_examples=150, deadline=None)
@given(cases(), st.floats(0, 1))
def test_budgeted_path_is_the_optimum_of_all_paths(case: Case, fraction: float) -> None:
    """Of all paths, but for what rounding costs up to the grid gives away: a grid step a layer."""
    table, alphas = case
    least, most = sum(map(min, table)), sum(map(max, table))
    budget = least + math.floor(fraction * (most - least))
    derived = run(table, alphas, budget)
    assert derived.cost == path_cost(table, derived.path) <= budget

    def loss(path: tuple[int, ...]) -> float:
        return -sum(alpha[j] for alpha, j in zip(alphas, path, strict=True))

    paths = list(itertools.product(*(range(len(costs)) for costs in table)))
    given_away = len(table) * math.ceil(max((budget - least) / GRID, 0))
    rivals = [
        path for path in paths if path_cost(table, path) <= budget - (given_away if given_away > len(table) else 0)
    ]
    assert all(loss(derived.path) <= loss(path) + 1e-9 for path in rivals)


@settings(max_examples=100, deadline=None)
@given(cases())
def test_a_budget_the_argmax_fits_changes_nothing(case: Case) -> None:
    table, alphas = case
    free = run(table, alphas)
    assert free.path == free.free_path
    assert free.cost == free.free_cost
    assert not free.disagreements
    assert run(table, alphas, free.cost) == free
    assert all(alpha[j] == max(alpha) for alpha, j in zip(alphas, free.path, strict=True))


def test_ties_go_to_the_cheaper_candidate_then_to_the_first() -> None:
    assert run([[5, 3, 3], [2, 1, 9]], [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]).path == (1, 1)
    # Budgeted: the likeliest does not fit; layer 0 then decides between equals by cost.
    assert run([[9, 4, 3, 3]], [[5.0, 0.0, 0.0, 0.0]], 5).path == (2,)
    uniform = [[0.0] * 4 for _ in range(6)]
    table = [[40, 10, 20, 30]] * 6
    alphas = [[0.0, 0.0, 1.0, 2.0], *uniform[1:]]
    first = run(table, alphas, 75)
    assert first.path == (2, 1, 1, 1, 1, 1)
    assert first.cost == 70
    assert all(run(table, alphas, 75) == first for _ in range(3))


def test_one_hot_alphas_give_their_path() -> None:
    table = [[7, 2, 0], [9, 4, 1], [3]]
    for path in itertools.product(range(3), range(3), [0]):
        alphas = [[1e4 if j == chosen else 0.0 for j in range(len(c))] for c, chosen in zip(table, path, strict=True)]
        derived = run(table, alphas, path_cost(table, path))
        assert derived.path == path
        assert [b.label for b in derived.target.arch.stages[0]] == [f"k{2 * j + 1}e1" for j in path]


def test_disagreements_name_the_layer_the_two_labels_and_their_probabilities() -> None:
    derived = run([[10, 1], [10, 1]], [[1.0, 0.0], [2.0, 0.0]], 15)
    assert derived.free_path == (0, 0)
    assert derived.free_cost == 20
    assert derived.path == (1, 0)
    (row,) = derived.disagreements
    assert (row.layer, row.argmax, row.chosen) == ("0.0", "k1e1", "k3e1")
    assert row.argmax_probability == pytest.approx(1 / (1 + math.exp(-1)))
    assert row.argmax_probability + row.chosen_probability == pytest.approx(1)


def test_an_impossible_budget_names_the_range() -> None:
    with pytest.raises(FnaError, match=r"2,900,000,000.*from 3,000,000,000 to 17,000,000,000.*raise the budget"):
        run([[10**9, 7 * 10**9], [10 * 10**9, 2 * 10**9]], [[0.0, 1.0], [0.0, 1.0]], 2_900_000_000)


@pytest.mark.parametrize(
    ("alphas", "message"),
    [
        ([[0.0, 1.0]], "1 layers of alphas for a search space of 2"),
        ([[0.0, 1.0], [0.0]], "alphas of layer 1 .* expected 2 finite"),
        ([[0.0, 1.0], [0.0, math.nan]], "alphas of layer 1 .* expected 2 finite"),
    ],
)
def test_alphas_of_another_space_are_refused(alphas: list[list[float]], message: str) -> None:
    with pytest.raises(FnaError, match=message):
        best_path([[1, 2], [1, 2]], alphas, 3)


@pytest.mark.parametrize("chooser", CHOOSERS)
def test_every_chooser_keeps_the_budget(chooser: str) -> None:
    table, other = [[4, 9, 2], [7], [1, 3, 8]], 5
    costs = Costs("MAdds", table, other, 20)
    network = Network(space([3, 1, 3]), {})
    paths = [(i, 0, j) for i in range(3) for j in range(3)]
    pool = Pool(tuple(Candidate(path, costs.whole(path), loss=1 / (1 + sum(path))) for path in paths))
    evidence = pool if chooser in MEASURED else Alphas([[0.0, 2.0, 1.0], [0.0], [0.0, 0.5, 1.0]])
    for limit in (18, 21, 25, None):
        choice = CHOOSERS[chooser](Found(network, evidence), costs, limit, 3)
        assert choice.cost == costs.whole(choice.path) <= (limit or math.inf)
        assert choice.target.arch == network.arch.path_arch(choice.path)
        again = CHOOSERS[chooser](Found(network, evidence), costs, limit, 3)
        assert again == choice, "a choice is a function of its arguments"


@pytest.mark.parametrize(
    "evidence", [Alphas([[0.0, 2.0, 1.0], [0.0], [0.25, 0.5, 1.0]]), Pool((Candidate((1, 0, 2), 24, 0.5, 0.7),))]
)
def test_what_was_found_survives_json(evidence: Alphas | Pool) -> None:
    network = Network(space([3, 1, 3]), {})
    found = Found(
        network,
        evidence,
        "params",
        {"text": "3 Mparams", "cost": 3},
        Spent(1.5, 2.5, 7),
        "uniform",
        "alphas",
        ("look out",),
    )
    again = Found.from_json(json.loads(json.dumps(found.to_json())), network)
    assert again.to_json() == found.to_json()
    assert again.evidence == evidence
    with pytest.raises(FnaError, match="not what a search found in this space"):
        Found.from_json({**found.to_json(), "layers": {}, "candidates": 3}, network)


@pytest.mark.parametrize("noise", [1e-3, 0.1])
@pytest.mark.parametrize("slope", [0.0, 2.0])
def test_a_large_space_takes_seconds(noise: float, slope: float) -> None:
    """25 layers of 7 and costs of a real network; alphas that follow the cost (`slope`) leave most paths undecided."""
    table = [[0, *(180 * 16 * c * e * (2 * c + k * k) for k in (3, 5, 7) for e in (3, 6))] for c in range(1, 26)]
    chance = random.Random(0)
    alphas = [[chance.gauss(slope * cost / 1e7, noise) for cost in costs] for costs in table]
    budget = sum(map(max, table)) // 2
    start = time.process_time()
    derived = run(table, alphas, budget)
    assert time.process_time() - start < 4
    assert derived.cost <= budget


# --- random architectures ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.12, 0.2, 0.5, 0.9])
def test_random_architectures_spend_the_budget_however_rare_they_are(share: float) -> None:
    chance = random.Random(1)
    table = [[0, *(chance.randint(1000, 2000) for _ in range(6))] for _ in range(20)]
    costs, limit = Costs("MAdds", table, 50, 1), int(share * sum(map(max, table))) + 50
    found = found_with(table, [[0.0] * 7] * 20)
    chosen = [CHOOSERS["random"](found, costs, limit, rng_seed) for rng_seed in range(5)]
    assert all(0.9 * limit <= choice.cost == costs.whole(choice.path) <= limit for choice in chosen)
    assert len({choice.path for choice in chosen}) == 5
    assert chosen[3].path == CHOOSERS["random"](found, costs, limit, 3).path


def test_paths_between_two_costs_are_about_equally_likely() -> None:
    chance = random.Random(0)
    table = [[chance.randint(0, 8) for _ in range(3)] for _ in range(4)]
    wanted = [path for path in itertools.product(range(3), repeat=4) if 10 <= path_cost(table, path) <= 14]
    paths, counts = PathsBetween(table, 10, 14), dict.fromkeys(wanted, 0)
    for _ in range(200 * len(wanted)):
        path = paths.draw(chance.random)
        assert path is not None
        counts[path] += 1
    assert min(counts.values()) > 140
    assert max(counts.values()) < 270


@pytest.mark.parametrize(("low", "high"), [(100, 200), (-9, -1)])
def test_where_no_path_costs_that_none_is_drawn(low: int, high: int) -> None:
    assert PathsBetween([[1, 2], [3]], low, high).draw(random.Random(0).random) is None
    costs = Costs("MAdds", [[1, 2], [3]], 0, 1)
    with pytest.raises(FnaError, match="no random architecture"):
        CHOOSERS["random"](found_with([[1, 2], [3]], [[0.0, 0.0], [0.0]]), costs, high, 0)
