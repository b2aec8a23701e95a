"""The table of parts: modules, weights, params and multiply-adds are what it says, for any architecture."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_archs import archs, few, spaces
from torch import nn

from fna.arch import Arch, Block, Stem, padded
from fna.arch.parts import KINDS, Axis, Kind, Part, parts
from fna.arch.weights import Shape, backbone_shapes, tail_shapes
from fna.cost.madds import backbone_cost, backbone_rows, classifier_rows, module_cost, total_cost
from fna.nets.blocks import BLOCKS, SameConv2d, build_block
from fna.nets.network import Backbone, Classifier
from fna.nets.supernet import SuperBackbone
from fna.remapping import remap


def shapes_of(module: nn.Module) -> list[tuple[str, Shape]]:
    return [(name, tuple(tensor.shape)) for name, tensor in module.state_dict().items()]


@few
@given(st.data(), archs())
def test_weights_are_those_of_the_modules_in_their_order(data: st.DataObject, arch: Arch) -> None:
    space = data.draw(spaces(arch))
    classifier = replace(arch, head_channels=data.draw(st.sampled_from((0, 8))), num_classes=3)
    with torch.device("meta"):
        assert list(backbone_shapes(arch).items()) == shapes_of(Backbone(arch))
        assert list(backbone_shapes(space).items()) == shapes_of(SuperBackbone(space))
        whole = backbone_shapes(classifier) | tail_shapes(classifier)
        assert list(whole.items()) == shapes_of(Classifier(classifier))


@few
@given(archs(), st.integers(1, 70), st.integers(1, 70))
def test_counts_are_those_of_the_modules(arch: Arch, height: int, width: int) -> None:
    arch, images = replace(arch, head_channels=8, num_classes=3), torch.empty(1, 3, height, width, device="meta")
    with torch.device("meta"):
        assert backbone_cost(arch, (height, width)) == module_cost(Backbone(arch), images)
        rows = [*backbone_rows(arch, (height, width)), *classifier_rows(arch, (height, width))]
        assert total_cost(rows) == module_cost(Classifier(arch), images)


@few
@given(archs())
def test_networks_are_plain_torch(arch: Arch) -> None:
    with torch.device("meta"):
        network = Backbone(arch)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    same = {m for m in convolutions if arch.padding == "same" and m.stride != (1, 1) and m.kernel_size != (1, 1)}
    assert all(type(m) is (SameConv2d if m in same else nn.Conv2d) for m in convolutions)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in network.modules())


class Fused(nn.Module):
    """A 3x3 convolution that widens, and a 1x1."""

    fused: nn.Module
    fused_norm: nn.Module
    project: nn.Module
    project_norm: nn.Module

    def __init__(self, block: Block, act: str, norm_eps: float, padding: str) -> None:
        super().__init__()
        from fna.nets.blocks import activation, add_parts

        add_parts(self, parts(block), norm_eps, padding)
        self.act = activation(act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.project_norm(self.project(self.act(self.fused_norm(self.fused(x)))))


def fused_parts(block: Block) -> Iterator[Part]:
    inputs, out = Axis("in", block.in_channels), Axis("out", block.out_channels)
    hidden = Axis("hidden", block.hidden_channels)
    yield Part("fused", "fused_norm", inputs, hidden, block.kernel, block.stride, block.dilation)
    yield Part("project", "project_norm", hidden, out)


def test_a_new_kind_is_an_entry_and_a_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = KINDS["mbconv"].hidden
    monkeypatch.setitem(KINDS, "fused", Kind(fused_parts, hidden, "expansion"))
    monkeypatch.setitem(BLOCKS, "fused", Fused)
    small = Arch(Stem(8), ((Block("fused", 8, 16, stride=2, expansion=2.0),),))
    large = Arch(Stem(8), ((Block("fused", 8, 16, kernel=5, stride=2, expansion=3.0),),))
    assert large.stages[0][0].label == "k5e3"
    source, target = Backbone(small).eval(), Backbone(large).eval()
    assert list(backbone_shapes(small).items()) == shapes_of(source)
    assert backbone_cost(small, (32, 48)) == module_cost(source, torch.empty(1, 3, 32, 48, device="meta"))
    target.load_state_dict(remap(small, source.state_dict(), large).state)
    x = torch.randn(1, 3, 32, 48)
    torch.testing.assert_close(target(x)[-1], source(x)[-1], rtol=1e-4, atol=1e-5)


def test_every_kind_with_parts_has_a_module() -> None:
    made = {kind for kind in KINDS if parts(Block(kind, 8, 8))}
    assert made == set(BLOCKS) == set(KINDS) - {"skip"}
    assert type(build_block(Block("skip", 8, 8), "relu", 1e-5, "symmetric")) is nn.Identity


def test_the_table_needs_no_torch() -> None:
    code = """
import sys
from fna.arch import Arch, Block, Stem
from fna.arch.weights import backbone_shapes
from fna.cost.madds import backbone_cost
arch = Arch(Stem(8), ((Block("mbconv", 8, 8),),))
print(len(backbone_shapes(arch)), backbone_cost(arch, (8, 8)).params, sys.modules.keys() & {"torch"})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("18 400 set()\n", "")


def test_a_network_runs_at_multiples_where_its_padding_moves_maps() -> None:
    arch = Arch(Stem(8), ((Block("mbconv", 8, 8),),))
    same = replace(arch, padding="same")
    assert [padded(arch, hw) for hw in ((33, 64), (1, 7))] == [(33, 64), (1, 7)]
    assert [padded(same, hw) for hw in ((33, 64), (1, 7), (32, 96))] == [(64, 64), (32, 32), (32, 96)]
