"""What holds for every seed, also for one added tomorrow."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from seed_oracles import random_network

from fna.arch import levels, spaces, with_output_stride, without_skips
from fna.cost.madds import backbone_rows
from fna.nets.network import Backbone
from fna.seeds import collect, load_seed

SIZE_HW = (64, 96)


@cache
def backbone(name: str) -> Backbone:
    network = random_network(lambda: Backbone(load_seed(name, weights=None).arch))
    assert isinstance(network, Backbone)
    return network


@pytest.mark.parametrize("output_stride", [32, 16, 8])
@pytest.mark.parametrize("name", collect())
def test_feature_info_describes_the_feature_maps(name: str, output_stride: int) -> None:
    arch = with_output_stride(collect()[name].arch, output_stride)
    with torch.device("meta"):
        network = Backbone(arch).eval()
    network.load_state_dict(backbone(name).state_dict(), assign=True)  # strides and dilations change no weight
    with torch.no_grad():
        features = network(torch.zeros(1, 3, *SIZE_HW))
    assert len(features) == len(network.feature_info) == len(levels(arch))
    for feature, info in zip(features, network.feature_info, strict=True):
        assert tuple(feature.shape) == (1, info.channels, *(math.ceil(side / info.stride) for side in SIZE_HW))
        assert feature.isfinite().all()
    strides = [info.stride for info in network.feature_info]
    assert strides == sorted(strides)
    assert {4, 8} <= set(strides), "tasks read these features"
    assert strides[-1] == output_stride
    assert [info.stage for info in network.feature_info] == list(levels(arch))


@pytest.mark.parametrize("name", collect())
def test_costs_know_the_sizes_of_the_features(name: str) -> None:
    rows = {row.layer: row for row in backbone_rows(collect()[name].arch, SIZE_HW)}
    for info in backbone(name).feature_info:
        last = len(collect()[name].arch.stages[info.stage]) - 1
        assert rows[f"{info.stage}.{last}"].out_hw == tuple(math.ceil(side / info.stride) for side in SIZE_HW)
    assert sum(row.cost.params for row in rows.values()) == sum(p.numel() for p in backbone(name).parameters())


@pytest.mark.parametrize("name", collect())
def test_the_seed_is_a_path_of_its_space(name: str) -> None:
    seed = collect()[name].arch
    layers = spaces.default_layers(seed, spaces.SEGMENTATION_LAYERS)
    space = spaces.make_space(seed, layers=layers)
    assert without_skips(space.path_arch(space.seed_path())) == seed
    assert len(space.searchable) == sum(layers)
