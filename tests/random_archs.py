"""Random architectures, search spaces around them and weights, for tests that state laws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from fna.arch import Arch, Block, Stem, SuperArch
from fna.nets.network import Backbone
from fna.nets.supernet import SuperBackbone
from fna.remapping import Strategy
from fna.remapping.rules import DEPTH, GROWTH, KERNEL, WIDTH

State = dict[str, Tensor]
KINDS = ("mbconv", "basic", "bottleneck")
few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**31)


def choices(kind: str, channels: int) -> list[dict[str, Any]]:
    """The searchable settings of a block."""
    if kind == "mbconv":
        return [{"kernel": k, "expansion": e} for k in (3, 5, 7) for e in (1, 2, 3)]
    return [{"kernel": k, "groups": g} for k in (3, 5, 7) for g in ((1, 2, 4) if kind == "basic" else (1, 2))]


@st.composite
def archs(draw: Any, kinds: tuple[str, ...] = KINDS) -> Arch:
    kind = draw(st.sampled_from(kinds))
    stages, channels = [], 8
    for _ in range(draw(st.integers(1, 3))):
        out, layers = draw(st.sampled_from((8, 16))), []
        for n in range(draw(st.integers(1, 3))):
            if n and draw(st.integers(0, 3)) == 0:
                layers.append(Block("skip", out, out))
                continue
            stride = draw(st.sampled_from((1, 2))) if n == 0 else 1
            layers.append(Block(kind, channels, out, stride=stride, **draw(st.sampled_from(choices(kind, out)))))
            channels = out
        stages.append(tuple(layers))
    padding = draw(st.sampled_from(("symmetric", "same")))
    return Arch(Stem(8), tuple(stages), draw(st.sampled_from(("relu", "relu6"))), 1e-3, padding)


@st.composite
def grown(draw: Any, arch: Arch, deeper: bool = False) -> Arch:
    """Return an architecture that holds `arch`: larger kernels, wider, fewer groups; deeper: more layers, e1 grows."""
    width = draw(st.sampled_from((1, 2)))
    stages = []
    for stage in arch.stages:
        layers = []
        for b in stage:
            if b.kind == "mbconv" and (b.expansion > 1 or deeper):
                b = replace(b, expansion=b.expansion + draw(st.integers(0, 2)))
            if b.kind != "skip":
                groups = draw(st.sampled_from([g for g in (1, 2, 4) if b.groups % g == 0]))
                b = replace(b, kernel=b.kernel + 2 * draw(st.integers(0, 2)), groups=groups)
            layers.append(replace(b, in_channels=b.in_channels * width, out_channels=b.out_channels * width))
        if deeper:
            layers += [replace(layers[0], in_channels=layers[0].out_channels, stride=1)] * draw(st.integers(0, 2))
        stages.append(layers)
    stem = Stem(8 * width, draw(st.sampled_from((3, 5))))
    return replace(arch, stem=stem, stages=tuple(tuple(layers) for layers in stages))


@st.composite
def spaces(draw: Any, arch: Arch) -> SuperArch:
    """Return a search space around `arch`, its stages up to two layers longer."""
    stages = []
    for stage in arch.stages:
        later = replace(stage[0], in_channels=stage[0].out_channels, stride=1)
        layers = []
        for n in range(len(stage) + draw(st.integers(0, 2))):
            template = stage[0] if n == 0 else later
            some = draw(st.lists(st.sampled_from(choices(template.kind, template.out_channels)), max_size=3))
            own = [stage[n]] if n < len(stage) else []
            skip = [Block("skip", later.out_channels, later.out_channels)] if n else []
            blocks = {b.label: b for b in [*(replace(template, **c) for c in some), *own, *skip]}
            layers.append(tuple(blocks.values()))
        stages.append(tuple(layers))
    return SuperArch(arch, tuple(stages))


rules = st.builds(Strategy, *(st.sampled_from(sorted(table)) for table in (DEPTH, WIDTH, KERNEL, GROWTH)))
exact = st.sampled_from(("preserve", "zero"))  # growth that preserves the function


def random_state(
    arch: Arch | SuperArch, rng_seed: int = 0, dtype: torch.dtype = torch.float64, spread: float = 1.0
) -> State:
    """Return random weights, affine parameters and statistics; `spread` is that of the affine parameters."""
    g = torch.Generator().manual_seed(rng_seed)
    module = Backbone(arch) if isinstance(arch, Arch) else SuperBackbone(arch)
    state: State = {}
    for name, tensor in module.state_dict().items():
        value = torch.randn(tensor.shape, generator=g, dtype=torch.float64)
        if tensor.dim() == 4:
            value *= (2 / tensor[0].numel()) ** 0.5
        elif name.endswith(("weight", "bias")):
            value = value * spread + name.endswith("weight")
        if name.endswith("num_batches_tracked"):
            state[name] = torch.randint(1, 1000, (), generator=g)
        else:
            state[name] = (value.abs() + 0.5 if name.endswith("running_var") else value).to(dtype)
    return state


def images(height: int = 17, width: int = 24) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


@torch.no_grad()
def features(arch: Arch, state: State, x: Tensor | None = None) -> list[Tensor]:
    network = Backbone(arch).double().eval()
    network.load_state_dict(state)
    out: list[Tensor] = network(images() if x is None else x)
    return out


def assert_same(a: State, b: State) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if a[name].dtype != b[name].dtype or not torch.equal(a[name], b[name])] == []


def one_block(*blocks: Block, activation: str = "relu6") -> Arch:
    """Return a network of one stage."""
    return Arch(Stem(blocks[0].in_channels), (blocks,), activation)
