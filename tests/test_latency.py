"""Latency as a cost: tables that answer exactly or not at all, sums that are the whole, budgets in ms that hold."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import Job, opened, search_tiny, tiny_config, write_images
from torchmetrics.functional.regression import kendall_rank_corrcoef, r2_score

import fna
from fna import cli
from fna.arch import SuperArch
from fna.arch.target import Form, Target
from fna.cost.latency import LatencyTable, block_name, placed, read_latencies
from fna.errors import FnaError
from fna.searching.found import Candidate, Found, Pool
from fna.searching.measured import SEEDS
from fna.stages.derive import derive
from fna.stages.expand import expand
from fna.stages.latency import bench, check, measure_space, remeasure


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Job, SuperArch, LatencyTable]]:
    """A job whose latencies have been measured, its space and its table."""
    folder = tmp_path_factory.mktemp("latency")
    file = folder / "latency.json"
    config = tiny_config(
        write_images(folder / "blocks"),
        f"search.latency_table={file}",
        "search.budget=0.9x latency",
        "space.layers=[3, 2, 1]",
    )
    with opened(config) as job, bench() as here:
        space = expand(job.seed, job.problem).arch
        yield job, space, measure_space(job.problem, space, [SEEDS], LatencyTable(here.machine, {}, str(file)), here, 3)


def test_every_distinct_block_is_measured_once(measured: tuple[Job, SuperArch, LatencyTable]) -> None:
    job, space, table = measured
    names = [
        block_name(block, at_hw, space.seed)
        for blocks, at_hw in placed(job.problem.prepared(space), job.problem.counted_hw(space))
        for block in blocks
        if block.kind != "skip"
    ]
    assert len(set(names)) < len(names)  # layers of a stage share their blocks
    assert table.ns.keys() == {*names, job.problem.rest_name(space.seed)}
    assert all(table.ns[name] > 0 for name in names)
    assert read_latencies(table.path) == table


def test_a_path_costs_the_sum_of_its_blocks_and_the_rest(measured: tuple[Job, SuperArch, LatencyTable]) -> None:
    job, space, _ = measured
    costs = job.problem.costs(space, "latency")
    assert costs.unit == "ns"
    for path in (space.seed_path(), tuple(len(candidates) - 1 for _, candidates in space.layers())):
        assert costs.whole(path) == job.problem.whole(space.path_arch(path), "latency")
    assert costs.seed == costs.whole(space.seed_path())


def test_what_is_there_is_not_measured_again(measured: tuple[Job, SuperArch, LatencyTable]) -> None:
    job, space, table = measured
    with bench() as here:
        assert measure_space(job.problem, space, [SEEDS], table, here, 1).ns == table.ns


def test_a_table_of_another_machine_is_refused_by_name(measured: tuple[Job, SuperArch, LatencyTable]) -> None:
    job, space, table = measured
    other = replace(table, machine={**table.machine, "processor": "abacus", "threads": "3"})
    with bench() as here, pytest.raises(FnaError, match=r"abacus, 3 threads.* in place of abacus.*--table"):
        measure_space(job.problem, space, [SEEDS], other, here, 1)


def test_a_missing_block_is_named(measured: tuple[Job, SuperArch, LatencyTable], tmp_path: Path) -> None:
    job, space, table = measured
    name = next(name for name in table.ns if "k5e3" in name)
    without = replace(table, ns={n: ns for n, ns in table.ns.items() if n != name}, path=str(tmp_path / "less.json"))
    without.write()
    search = job.config.search.model_copy(update={"latency_table": without.path})
    problem = replace(job.problem, config=job.config.model_copy(update={"search": search}))
    with pytest.raises(FnaError, match=rf"has no '{name}'; measure .* fna latency RECIPE --table"):
        problem.costs(space, "latency")
    with pytest.raises(FnaError, match=r"has no 'stem and deeplabv3 of 3 classes .* at 80x80'"):
        job.problem.at(Form(1.0, 1.25)).whole(space.seed, "latency")


@pytest.mark.parametrize("content", ["", "[]", '{"machine": {}}', '{"format": 9, "machine": {}, "ms": {}}'])
def test_no_table(content: str, tmp_path: Path) -> None:
    file = tmp_path / "latency.json"
    with pytest.raises(FnaError, match=r"there is no latency table .* fna latency RECIPE"):
        read_latencies(file)
    file.write_text(content)
    with pytest.raises(FnaError, match=r"latency\.json is "):
        read_latencies(file)


@pytest.mark.parametrize("change", [{"threads": "many"}, {"precision": "fp7"}, {"threads": None}])
def test_a_table_of_no_machine_is_none(
    change: dict[str, str | None], measured: tuple[Job, SuperArch, LatencyTable], tmp_path: Path
) -> None:
    record = json.loads(Path(measured[2].path).read_text())
    changed = {key: value for key, value in {**record["machine"], **change}.items() if value is not None}
    file = tmp_path / "table.json"
    file.write_text(json.dumps({**record, "machine": changed}))
    with pytest.raises(FnaError, match="is no latency table: ValueError its machine"):
        read_latencies(file)
    assert read_latencies(measured[2].path).machine == record["machine"]


def test_a_budget_in_ms_needs_a_table() -> None:
    config = tiny_config(Path("nowhere"))
    with pytest.raises(FnaError, match=r"a cost in ms needs measured latencies.*--search\.latency_table latency\.json"):
        fna.Problem(config, None, None, (64, 64), (0, 0, 0), (1, 1, 1)).latencies()  # type: ignore[arg-type]


def test_alphas_learn_and_choose_within_a_latency(
    measured: tuple[Job, SuperArch, LatencyTable], tmp_path: Path
) -> None:
    job, space, _ = measured
    found = search_tiny(job, tmp_path)
    limit = int(0.9 * job.problem.whole(space.seed, "latency"))
    assert (found.unit, found.budget) == ("ns", {"text": "0.9x latency", "cost": limit})
    target = derive(found, job.problem)
    assert target.choice is not None
    assert job.problem.whole(target.arch, "latency") == target.choice.cost <= limit
    low, high = job.problem.costs(space, "latency").range
    middle = f"{(low + high) / 2e6:.6f} ms"
    assert derive(found, job.problem, middle).choice.cost <= (low + high) / 2  # type: ignore[union-attr]


def test_scored_candidates_are_counted_anew_in_ms(measured: tuple[Job, SuperArch, LatencyTable]) -> None:
    job, space, _ = measured
    costs = job.problem.costs(space, "latency")
    slow, fast = space.seed_path(), tuple(min(range(len(row)), key=row.__getitem__) for row in costs.table)
    pool = Pool((Candidate(slow, 10, 0.1), Candidate(fast, 20, 0.2)))
    network = expand(job.seed, job.problem)
    found = Found(network, pool, "MAdds", None, chooser="measured")
    within = (costs.whole(fast) + costs.whole(slow)) // 2
    chosen = derive(found, job.problem, f"{within} ns").choice
    assert chosen is not None
    assert (chosen.path, chosen.cost) == (fast, costs.whole(fast))


def test_a_target_is_measured_again_beside_the_seed(measured: tuple[Job, SuperArch, LatencyTable]) -> None:
    job, space, table = measured
    done = remeasure(job.problem, space.seed, Target(space.seed), 2)
    assert done["predicted_ms"] == job.problem.whole(space.seed, "latency") / 1e6
    assert 0.2 < done["measured_ms"] / done["seed_measured_ms"] < 5
    foreign = replace(table, machine={**table.machine, "processor": "abacus"}, path=f"{table.path}_other")
    foreign.write()
    search = job.config.search.model_copy(update={"latency_table": foreign.path})
    elsewhere = replace(job.problem, config=job.config.model_copy(update={"search": search}))
    done = remeasure(elsewhere, space.seed, Target(space.seed), 2)
    assert done["measured_ms"] is None
    assert "in place of abacus" in done["why"]


def test_predictions_are_held_against_random_networks(measured: tuple[Job, SuperArch, LatencyTable]) -> None:
    job, space, table = measured
    with bench() as here:
        checked = check(job.problem, space, table, here, 6, 3)
    assert len(checked["networks"]) == 6
    predicted = [network["predicted_ms"] for network in checked["networks"]]
    assert predicted == sorted(predicted)  # a band each, from the fastest to the slowest
    errors = [abs(n["predicted_ms"] / n["measured_ms"] - 1) * 100 for n in checked["networks"]]
    assert checked["error_percent"] == pytest.approx(sum(errors) / 6)
    assert checked["error_percent_max"] == pytest.approx(max(errors))
    both = [torch.tensor([n[key] for n in checked["networks"]]) for key in ("predicted_ms", "measured_ms")]
    assert checked["r2"] == pytest.approx(float(r2_score(*both)), abs=1e-3)
    assert checked["kendall_tau"] == pytest.approx(float(torch.as_tensor(kendall_rank_corrcoef(*both))))


def test_a_thread_alone_has_its_own_clock() -> None:
    with bench() as here:
        timed = here.time(
            {
                "waits": lambda n: time.sleep(0.002 * n),
                "works": lambda n: [torch.ones(300, 300) @ torch.ones(300, 300) for _ in range(n)],
            },
            2,
        )
    assert timed["waits"] < 1e6  # asleep, as while another program has the processor
    assert timed["works"] > timed["waits"]


def test_the_command_measures_then_knows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "seed: {name: mobilenet_v2_035}\ntask: {channels: 8}\ndata: {format: folder, classes: [a, b], crop: [32, 32]}\n"
        "space: {kernels: [3], expansions: [3], layers: [2, 3, 4, 3, 3, 1], input_scales: [1.0],"
        " head_channels: [1.0]}\n"
    )
    words = ["latency", str(recipe), "--size", "32x32", "--rounds", "1", "--table", str(tmp_path / "t.json"), "--json"]
    assert cli.main(words) == 0
    first = json.loads(capsys.readouterr().out)
    assert cli.main(words) == 0
    again = json.loads(capsys.readouterr().out)
    assert first["known"] == again["measured"] == 0
    assert first["measured"] == again["known"]
    assert first["space_ms"][0] < first["seed_ms"] <= first["space_ms"][1]
    assert cli.main([*words, "--threads", "2"]) == 2
    assert cli.main(["latency", str(tmp_path), "--size", "32x32"]) == 2
    assert cli.main([*words, "--backend", "torhc"]) == 2
    assert "did you mean 'torch'" in capsys.readouterr().err
