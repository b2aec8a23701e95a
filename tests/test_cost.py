"""Costs: the paper's figures to the last digit, and three ways of counting that agree."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fna.arch import Arch, Block, Candidates, Stem, SuperArch, from_net_config, levels, with_output_stride
from fna.cost import (
    Cost,
    backbone_cost,
    backbone_rows,
    block_cost,
    classifier_rows,
    cost_table,
    model_cost,
    module_cost,
    path_cost,
    space_cost,
    total_cost,
)
from fna.errors import FnaError
from fna.network import Backbone, Classifier

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


def table_1(layers: Sequence[int] = (4, 4, 6, 6, 4, 1)) -> SuperArch:
    """Table I around MobileNetV2, at output stride 16."""
    seed = with_output_stride(MOBILENET_V2, 16)
    stages: list[tuple[Candidates, ...]] = [((seed.stages[0][0],),)]
    for stage, n in zip(seed.stages[1:], layers, strict=True):
        first = stage[0]
        later = replace(first, in_channels=first.out_channels, stride=1)
        skip = Block("skip", first.out_channels, first.out_channels, dilation=first.dilation)
        ops = [tuple(replace(b, kernel=k, expansion=e) for k in (3, 5, 7) for e in (3, 6)) for b in (first, later)]
        stages.append((ops[0], *[(*ops[1], skip)] * (n - 1)))
    return SuperArch(seed, tuple(stages))


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


def test_classifier_is_the_well_known_mobilenet_v2() -> None:
    arch = replace(MOBILENET_V2, head_channels=1280, num_classes=1000)
    cost = total_cost([*backbone_rows(arch, (224, 224)), *classifier_rows(arch, (224, 224))])
    assert cost == Cost(3_504_872, 300_774_272)  # torchvision's parameters; torch.utils.flop_counter's 300.774 M
    with torch.device("meta"):
        classifier = Classifier(arch)
    assert module_cost(classifier, torch.empty(1, 3, 224, 224, device="meta")) == cost


def test_searchable_cost_of_table_1_is_the_papers() -> None:
    space = table_1()
    table = cost_table(space, (1024, 2048))
    cost = space_cost(space, table)
    assert [round(x / 1e9, 2) for x in (cost.seed, cost.uniform, cost.min, cost.max)] == [18.17, 20.39, 3.91, 34.0]
    assert space.size == 6**6 * 7**19


def test_table_of_a_path_is_the_cost_of_its_architecture() -> None:
    space, size_hw = table_1(), (135, 240)
    table = cost_table(space, size_hw)
    assert [len(row) for row in table] == [len(candidates) for _, candidates in space.layers()]
    assert all(row[-1] == 0 for row, (_, candidates) in zip(table, space.layers(), strict=True) if len(candidates) == 7)
    stem = backbone_rows(space.seed, size_hw)[0].cost.madds
    for path in (
        space.seed_path(),
        tuple(len(row) - 1 for row in table),
        tuple(7 * i % len(r) for i, r in enumerate(table)),
    ):
        assert stem + path_cost(table, path) == backbone_cost(space.path_arch(path), size_hw).madds


class Pose(nn.Module):
    """SimpleBaseline's head: three transposed convolutions and a biased 1x1."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (320, 256, 256):
            layers += [nn.ConvTranspose2d(channels, 256, 4, 2, 1, bias=False), nn.BatchNorm2d(256), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(256, 16, 1))

    def forward(self, features: list[Tensor], size_hw: tuple[int, int]) -> Tensor:
        heatmaps: Tensor = self.layers(features[-1])
        return heatmaps


def test_transposed_convolutions_by_both_rules(shared: Path) -> None:
    rows: list[dict[str, Any]] = json.loads((shared / "golden" / "paper_rows.json").read_text())
    (row,) = [row for row in rows if row["model"] == "simple_baseline"]
    with torch.device("meta"):
        head = Pose()
    paper = model_cost(MOBILENET_V2, head, (256, 256))
    assert (paper.params, round(paper.madds / 1e3)) == (row["exact_params"], row["exact_madds_K"])
    exact = model_cost(MOBILENET_V2, head, (256, 256), rule="exact")
    assert round(exact.madds / 1e9, 3) == 1.808
    with FlopCounterMode(display=False) as flops:
        head([torch.empty(1, 320, 8, 8, device="meta")], (256, 256))
    assert 2 * (exact.madds - backbone_cost(MOBILENET_V2, (256, 256)).madds) == flops.get_total_flops()


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
