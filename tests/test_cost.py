"""Costs: the paper's figures to the last digit, and three ways of counting that agree."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fna.arch import Arch, Block, Stem, levels, with_output_stride
from fna.arch.net_config import from_net_config
from fna.arch.spaces import SEGMENTATION_LAYERS, task_space
from fna.arch.target import Target
from fna.cli.counting import Plan, count_network, count_space, make_plan, named_space
from fna.config import MODELS, make_config
from fna.cost.madds import (
    RULES,
    Cost,
    backbone_cost,
    backbone_rows,
    block_cost,
    classifier_rows,
    cost_table,
    module_cost,
    path_cost,
    total_cost,
)
from fna.errors import FnaError
from fna.nets.network import Backbone, Classifier
from fna.seeds import IMAGENET_MEAN, IMAGENET_STD, collect, load_seed
from fna.tasks import load_task
from fna.tasks.labels import Labels
from fna.tasks.problem import Problem

SHARED = Path(os.environ.get("FNA_SHARED", Path(__file__).resolve().parents[2] / "shared"))

MOBILENET_V2 = from_net_config(
    """[[32, 16], ['k3_e1'], 1]|
    [[16, 24], ['k3_e6', 'k3_e6'], 2]|
    [[24, 32], ['k3_e6', 'k3_e6', 'k3_e6'], 2]|
    [[32, 64], ['k3_e6', 'k3_e6', 'k3_e6', 'k3_e6'], 2]|
    [[64, 96], ['k3_e6', 'k3_e6', 'k3_e6'], 1]|
    [[96, 160], ['k3_e6', 'k3_e6', 'k3_e6'], 2]|
    [[160, 320], ['k3_e6'], 1]"""
)


def resnet(kind: str, kernels: Sequence[int] = (3, 5), groups: int = 1) -> Arch:
    """A ResNet of four stages of two layers."""
    stages = []
    channels = 16
    for s, out in enumerate((16, 32, 48, 64)):
        first = Block(kind, channels, out, kernels[0], stride=1 if s == 0 else 2, groups=groups)
        stages.append((first, Block(kind, out, out, kernels[1], groups=groups)))
        channels = out
    return Arch(Stem(16, kernel=7, max_pool=True), tuple(stages), activation="relu")


ARCHS = {
    "mbconv": MOBILENET_V2,
    "mbconv_os8": with_output_stride(MOBILENET_V2, 8),
    "mbconv_same": replace(with_output_stride(MOBILENET_V2, 16), padding="same"),
    "basic": resnet("basic"),
    "basic_grouped_os16": with_output_stride(resnet("basic", groups=4), 16),
    "bottleneck": resnet("bottleneck"),
    "bottleneck_grouped_os8": with_output_stride(resnet("bottleneck", (5, 7), groups=2), 8),
}


@pytest.mark.parametrize("name", ARCHS)
def test_specs_hooks_and_torch_agree(name: str) -> None:
    arch, size_hw = ARCHS[name], (67, 98)
    backbone = Backbone(arch).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        features = backbone(torch.zeros(1, 3, *size_hw))
    hooked = module_cost(backbone, torch.empty(1, 3, *size_hw, device="meta"))
    counted = backbone_cost(arch, size_hw)
    assert counted == hooked
    assert 2 * counted.madds == flops.get_total_flops()
    assert counted.params == sum(p.numel() for p in backbone.parameters())
    rows = {row.layer: row for row in backbone_rows(arch, size_hw)}
    outs = [rows[f"{s}.{len(arch.stages[s]) - 1}"].out_hw for s in levels(arch)]
    assert outs == [tuple(f.shape[2:]) for f in features]


def test_rows_cover_every_layer_and_sum_to_the_whole(shared: Path) -> None:
    archs = json.loads((shared / "golden" / "archs.json").read_text())
    arch = from_net_config(archs["fna_deeplabv3"]["net_config"])
    rows = backbone_rows(arch, (224, 224))
    assert [row.layer for row in rows] == ["stem", *(f"{s}.{n}" for (s, n), _ in arch.layers())]
    assert total_cost(rows) == backbone_cost(arch, (224, 224))
    assert all(row.cost == Cost(0, 0) for row in rows if row.label == "skip")
    assert rows[0].out_hw == (112, 112)
    assert rows[-1].out_hw == (7, 7)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("seed", ["efficientnet_lite0", "resnet18"])
def test_parts_sum_to_the_whole_of_every_task(model: str, seed: str) -> None:
    config = make_config({"task": {"model": model}, "data": {"eval_size": [96, 160]}})
    arch = load_seed(seed, weights=None).arch
    labels = Labels(("a", "b", "c"), ((0, 0, 0),) * 3)
    problem = Problem(config, load_task(config.task.name), labels, (96, 160), IMAGENET_MEAN, IMAGENET_STD)
    for network in (Target(arch), Target(arch, 0.5, 1.25)):
        own = problem.at(network)
        parts = own.parts(arch)
        assert list(parts) == ["stem", *(f"stage {s}" for s in range(len(arch.stages))), "head"]
        assert sum(parts.values()) == own.cost(arch).madds
        assert parts["head"] == own.cost(arch).madds - backbone_cost(own.prepared(arch), own.counted_hw(arch)).madds > 0


def test_classifier_is_the_well_known_mobilenet_v2() -> None:
    arch = replace(MOBILENET_V2, head_channels=1280, num_classes=1000)
    cost = total_cost([*backbone_rows(arch, (224, 224)), *classifier_rows(arch, (224, 224))])
    assert cost == Cost(3_504_872, 300_774_272)  # torchvision's parameters; torch.utils.flop_counter's 300.774 M
    with torch.device("meta"):
        classifier = Classifier(arch)
    assert module_cost(classifier, torch.empty(1, 3, 224, 224, device="meta")) == cost


def test_table_of_a_path_is_the_cost_of_its_architecture() -> None:
    space, size_hw = with_output_stride(task_space(MOBILENET_V2, SEGMENTATION_LAYERS), 16), (135, 240)
    table = cost_table(space, size_hw)
    assert [len(row) for row in table] == [len(candidates) for _, candidates in space.layers()]
    assert all(row[-1] == 0 for row, (_, candidates) in zip(table, space.layers(), strict=True) if len(candidates) == 7)
    stem = backbone_rows(space.seed, size_hw)[0].cost.madds
    for path in (
        space.seed_path(),
        tuple(len(row) - 1 for row in table),
        tuple(7 * i % len(r) for i, r in enumerate(table)),
    ):
        arch = space.path_arch(path)
        with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as flops:
            Backbone(arch).eval()(torch.zeros(1, 3, *size_hw))
        assert stem + path_cost(table, path) == backbone_cost(arch, size_hw).madds == flops.get_total_flops() // 2


def paper_rows() -> list[dict[str, Any]]:
    """The published rows; none where the reference material is absent."""
    path = SHARED / "golden" / "paper_rows.json"
    return json.loads(path.read_text()) if path.is_file() else []


def plan_of(row: Mapping[str, Any], rule: str = "paper") -> Plan:
    """How a published row is counted: its model, and the article's classes and size, which are the defaults."""
    model, _, stride = row["model"].partition(" OS")
    plan = make_plan(model, output_stride=int(stride) if stride else None, rule=rule)
    assert plan.size_hw == tuple(row["size_hw"])
    return plan


@pytest.mark.skipif(not paper_rows(), reason=f"reference material is not at {SHARED} (set FNA_SHARED)")
@pytest.mark.parametrize("row", paper_rows(), ids=lambda row: f"{row['arch']} {row['model']}")
def test_published_rows_are_met_exactly(row: dict[str, Any]) -> None:
    seeds, texts = collect(), json.loads((SHARED / "golden" / "archs.json").read_text())
    archs = [seeds[row["arch"]].arch] if row["arch"] in seeds else []
    archs += [from_net_config(texts[row["arch"]]["net_config"])] if row["arch"] in texts else []
    assert archs, "neither a seed nor a published architecture"
    for arch in archs:
        cost = total_cost(count_network(arch, plan_of(row)))
        assert (cost.params, round(cost.madds / 1e3)) == (row["exact_params"], row["exact_madds_K"])


def test_transposed_convolutions_by_both_rules() -> None:
    paper, exact = (total_cost(count_network(MOBILENET_V2, make_plan("simple_baseline", rule=rule))) for rule in RULES)
    assert paper == Cost(5_225_232, 6_086_057_984)
    assert round(exact.madds / 1e9, 3) == 1.808
    config = make_config({"task": {"name": "pose"}}).task
    backbone, head = Backbone(MOBILENET_V2), load_task("pose").head(MOBILENET_V2, 16, config)
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        head.eval()(backbone.eval()(torch.zeros(1, 3, 256, 256)), (256, 256))
    assert 2 * exact.madds == flops.get_total_flops()


def test_heads_are_counted_where_a_map_is_a_single_pixel() -> None:
    assert total_cost(count_network(MOBILENET_V2, make_plan("ssdlite", size_hw=(32, 32)))).params == 4_322_988
    norm = nn.BatchNorm2d(4)
    assert module_cost(norm, torch.empty(1, 4, 1, 1, device="meta")) == Cost(8, 0)
    assert norm.training
    assert int(norm.num_batches_tracked or 0) == 0


@pytest.mark.parametrize("name", collect())
def test_specs_and_torch_agree_on_every_seed(name: str) -> None:
    arch = collect()[name].arch
    with torch.device("meta"):
        classifier, images = Classifier(arch).eval(), torch.empty(1, 3, 97, 130)
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        classifier(images)
    cost = total_cost([*backbone_rows(arch, (97, 130)), *classifier_rows(arch, (97, 130))])
    assert 2 * cost.madds == flops.get_total_flops()
    assert cost.params == sum(parameter.numel() for parameter in classifier.parameters())


SEARCHABLE = [  # seed, uniform, min, max in units of the last, as the article's search spaces have them
    ("seg", (18.17, 20.39, 3.91, 34.00), 2),
    ("det", (4.485, 4.867, 0.898, 8.392), 3),
    ("pose", (0.3377, 0.3665, 0.0676, 0.6318), 4),
]


@pytest.mark.parametrize(("space", "expected", "digits"), SEARCHABLE, ids=["seg", "det", "pose"])
def test_searchable_cost_is_the_articles(space: str, expected: tuple[float, ...], digits: int) -> None:
    plan = make_plan(space=space)
    counted = count_space(named_space(MOBILENET_V2, space, plan), plan)
    cost = counted.cost
    assert tuple(round(x / 1e9, digits) for x in (cost.seed, cost.uniform, cost.min, cost.max)) == expected
    assert counted.other + cost.seed == total_cost(count_network(MOBILENET_V2, plan)).madds
    assert counted.size == counted.paths == 6**6 * 7 ** (counted.searchable - 6)
    assert sum(row["seed_madds"] for row in counted.rows) == cost.seed
    assert sum(row["max_madds"] for row in counted.rows) == cost.max


@pytest.mark.parametrize("kind", ["resnet18", "resnet50"])
def test_table_7_costs_no_more_than_the_seed_by_much(kind: str) -> None:
    plan = make_plan(space="det")
    counted = count_space(named_space(collect()[kind].arch, "det", plan), plan)
    assert counted.size == counted.paths == 5 ** {"resnet18": 8, "resnet50": 16}[kind]
    assert counted.cost.min < counted.cost.seed <= counted.cost.max < 1.6 * counted.cost.seed


def test_a_plan_takes_the_articles_figures_unless_told() -> None:
    assert (make_plan().model, make_plan().classes, make_plan().size_hw) == ("deeplabv3", 19, (1024, 2048))
    plan = make_plan(space="pose", classes=17, settings=["task.channels=8"])
    assert (plan.model, plan.classes, plan.size_hw) == ("simple_baseline", 17, (256, 256))
    assert plan.config.task.channels == 8
    assert make_plan("none").size_hw == (224, 224)
    with pytest.raises(FnaError, match=r"unknown space 'det1' .did you mean 'det'"):
        make_plan(space="det1")


def test_bias_counts_once_per_output_of_a_convolution() -> None:
    conv, linear = nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.Linear(10, 5)
    x, v = torch.empty(1, 4, 8, 9, device="meta"), torch.empty(3, 10, device="meta")
    assert module_cost(conv, x, rule="exact") == Cost(6 * 2 * 9 + 6, 72 * 6 * 2 * 9)
    assert module_cost(conv, x, rule="paper").madds == 72 * 6 * 2 * 9 + 72 * 6
    assert module_cost(linear, v) == module_cost(linear, v, rule="exact") == Cost(55, 3 * 50)


def test_a_shared_module_counts_its_weights_once_and_every_call() -> None:
    conv = nn.Conv2d(3, 3, 1, bias=False)
    assert module_cost(nn.Sequential(conv, conv), torch.empty(1, 3, 5, 5, device="meta")) == Cost(9, 2 * 225)


def test_counting_leaves_the_module_alone() -> None:
    model = Backbone(resnet("basic")).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    module_cost(model, torch.empty(2, 3, 64, 64, device="meta"))
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) and after[name].device.type == "cpu" for name in before)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_an_unknown_rule_is_named() -> None:
    with pytest.raises(FnaError, match=r"rule 'papr' .did you mean 'paper'.*; known: paper, exact"):
        module_cost(nn.Linear(1, 1), torch.empty(1, 1, device="meta"), rule="papr")


def test_skip_is_free_and_stride_rounds_up() -> None:
    assert block_cost(Block("skip", 8, 8), (7, 7)) == Cost(0, 0)
    odd, even = (block_cost(Block("mbconv", 8, 8, stride=2), (side, side)) for side in (15, 16))
    assert odd == even
