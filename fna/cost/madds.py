"""Parameters and multiply-adds (MAdds), counted from block specs and, for heads, on the meta device.

What counts (FNA++ tables; every row of them is met): multiply-adds of convolutions and linear layers; batch
normalisation, activations, pooling, interpolation and additions are free. Params are the learnable ones. The two
`RULES` differ where the paper leaves plain arithmetic:

| | biased convolution | transposed convolution |
|---|---|---|
| ``paper`` | one more per output element | counted on its output grid |
| ``exact`` | bias is free | counted on its input grid, the work really done |

Backbones have neither, so their counts are the same under both. No torch at import.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fna.arch import Arch, Block, SuperArch, levels
from fna.arch.parts import Part, head_part, parts, stem_part
from fna.errors import FnaError, nearest

if TYPE_CHECKING:
    from torch import nn

RULES = ("paper", "exact")

SizeHW = tuple[int, int]  # height, width in pixels
CostTable = list[list[int]]  # MAdds of every candidate of every layer


@dataclass(frozen=True)
class Cost:
    """What a network costs: learnable parameters, and multiply-adds for one image."""

    params: int
    madds: int

    def __add__(self, other: Cost) -> Cost:
        """Return the cost of both together."""
        return Cost(self.params + other.params, self.madds + other.madds)


@dataclass(frozen=True)
class CostRow:
    """The cost of one layer.

    Args:
        layer: ``stem``, ``STAGE.LAYER``, ``head`` or ``classifier``.
        label: the block's label.
        cost: params and MAdds.
        out_hw: height and width of the layer's output.
    """

    layer: str
    label: str
    cost: Cost
    out_hw: SizeHW


@dataclass(frozen=True)
class SpaceCost:
    """MAdds of the searchable layers of a space: the seed, the expectation over uniform alphas, and the extremes."""

    seed: int
    uniform: float
    min: int
    max: int


def strided(size_hw: SizeHW, stride: int) -> SizeHW:
    """Return the size after a layer of `stride`, for either padding.

    >>> strided((15, 20), 2)
    (8, 10)
    """
    return -(-size_hw[0] // stride), -(-size_hw[1] // stride)


def block_cost(block: Block, size_hw: SizeHW) -> Cost:
    """Count one block.

    Args:
        block: the block; a skip costs nothing.
        size_hw: size of its input.

    >>> block_cost(Block("mbconv", 32, 16), (112, 112))
    Cost(params=896, madds=10035200)
    """
    out_hw = strided(size_hw, block.stride)
    costs = (_part_cost(part, size_hw if part.at_input else out_hw) for part in parts(block))
    return sum(costs, Cost(0, 0))


def _part_cost(part: Part, size_hw: SizeHW) -> Cost:
    """Count a convolution without bias that works at `size_hw`, and its batch normalisation."""
    weights = math.prod(part.shape)
    return Cost(weights + 2 * part.out.channels, weights * size_hw[0] * size_hw[1])


def backbone_rows(arch: Arch, size_hw: SizeHW) -> list[CostRow]:
    """Count a backbone layer by layer, in forward order: the stem, then every layer, skips included.

    Args:
        arch: the architecture, at the output stride it runs with.
        size_hw: size of the image.
    """
    stem = arch.stem
    size_hw = strided(size_hw, stem.stride)
    cost = _part_cost(stem_part(arch), size_hw)
    size_hw = strided(size_hw, 2) if stem.max_pool else size_hw
    rows = [CostRow("stem", f"k{stem.kernel}", cost, size_hw)]
    for (s, n), block in arch.layers():
        cost = block_cost(block, size_hw)
        size_hw = strided(size_hw, block.stride)
        rows.append(CostRow(f"{s}.{n}", block.label, cost, size_hw))
    return rows


def classifier_rows(arch: Arch, size_hw: SizeHW) -> list[CostRow]:
    """Count what turns a backbone into the classifier it was trained as: the 1x1 head convolution, the linear layer."""
    rows = []
    out_hw = backbone_rows(arch, size_hw)[-1].out_hw
    if arch.head_channels:
        rows.append(CostRow("head", "k1", _part_cost(head_part(arch), out_hw), out_hw))
    weights = (arch.head_channels or arch.out_channels) * arch.num_classes
    return [*rows, CostRow("classifier", "linear", Cost(weights + arch.num_classes, weights), (1, 1))]


def total_cost(rows: Sequence[CostRow]) -> Cost:
    """Sum up rows."""
    return sum((row.cost for row in rows), Cost(0, 0))


def backbone_cost(arch: Arch, size_hw: SizeHW) -> Cost:
    """Count a whole backbone: stem and stages, as dense tasks use it."""
    return total_cost(backbone_rows(arch, size_hw))


def cost_table(super_arch: SuperArch, size_hw: SizeHW) -> CostTable:
    """Return the MAdds of every candidate of every layer: Eq. 9's cost_o.

    Args:
        super_arch: the search space, at the output stride it runs with.
        size_hw: size of the image.

    Returns:
        One list per layer, fixed layers included, the stem not; one number per candidate, 0 for a skip.
    """
    first = super_arch.path_arch([0] * sum(1 for _ in super_arch.layers()))
    sizes = [row.out_hw for row in backbone_rows(first, size_hw)]
    return [
        [block_cost(block, in_hw).madds for block in candidates]
        for (_, candidates), in_hw in zip(super_arch.layers(), sizes, strict=False)
    ]


def param_table(super_arch: SuperArch) -> CostTable:
    """Return the parameters of every candidate of every layer; see `cost_table`."""
    return [[block_cost(block, (1, 1)).params for block in candidates] for _, candidates in super_arch.layers()]


def path_cost(table: CostTable, path: Sequence[int]) -> int:
    """Return the cost of the path that takes candidate ``path[i]`` at layer i."""
    return sum(costs[choice] for costs, choice in zip(table, path, strict=True))


def space_cost(super_arch: SuperArch, table: CostTable) -> SpaceCost:
    """Sum a cost table over the searchable layers."""
    layers = [table[i] for i in super_arch.searchable]
    seed = [super_arch.seed_path()[i] for i in super_arch.searchable]
    return SpaceCost(
        seed=path_cost(layers, seed),
        uniform=sum(sum(costs) / len(costs) for costs in layers),
        min=sum(map(min, layers)),
        max=sum(map(max, layers)),
    )


def module_cost(module: nn.Module, *inputs: Any, rule: str = "paper") -> Cost:
    """Count any module by running it on the meta device: shapes flow, no number is computed.

    Neither the weights nor the batch normalisation statistics of `module` are touched, wherever they are. Counted are
    its `Conv`, `ConvTranspose` and `Linear` submodules, each time they are called.

    Args:
        module: the module; build it under ``torch.device("meta")`` where its weights are not needed.
        inputs: its arguments, tensors among them on the meta device.
        rule: one of `RULES`.
    """
    import torch
    from torch import Tensor, nn
    from torch.nn.modules.batchnorm import _BatchNorm
    from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

    if rule not in RULES:
        raise FnaError(f"unknown counting rule '{rule}'{nearest(rule, RULES)}; known: {', '.join(RULES)}")
    madds = 0

    def count(part: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal madds
        assert isinstance(part, _ConvNd | nn.Linear)
        if isinstance(part, nn.Linear):
            positions = output.numel() // part.out_features
        elif isinstance(part, _ConvTransposeNd) and rule == "exact":
            positions = args[0].numel() // part.in_channels
        else:
            positions = output.numel() // part.out_channels
        madds += positions * part.weight.numel()
        if rule == "paper" and isinstance(part, _ConvNd) and part.bias is not None:
            madds += output.numel()

    counted = [part for part in module.modules() if isinstance(part, _ConvNd | nn.Linear)]
    hooks = [part.register_forward_hook(count) for part in counted]
    learning = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.training]
    state = {name: tensor.to("meta") for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    try:
        for norm in learning:
            norm.training = False  # it refuses to learn from a single pixel
        with torch.no_grad():
            torch.func.functional_call(module, state, inputs)
    finally:
        for norm in learning:
            norm.training = True
        for hook in hooks:
            hook.remove()
    return Cost(sum(parameter.numel() for parameter in module.parameters()), madds)


def model_cost(arch: Arch, head: nn.Module, size_hw: SizeHW, rule: str = "paper") -> Cost:
    """Count a task's network; see `model_rows`."""
    return total_cost(model_rows(arch, head, size_hw, rule))


def model_rows(arch: Arch, head: nn.Module, size_hw: SizeHW, rule: str = "paper") -> list[CostRow]:
    """Count a task's network layer by layer, from its specs; the head, counted on the meta device, is the last row.

    Args:
        arch: the backbone, at the output stride it runs with.
        head: called as ``head(features, size_hw)`` with the feature maps of `arch` (see `network.feature_info`).
        size_hw: size of the image.
        rule: one of `RULES`.
    """
    import torch

    features = [torch.empty(1, channels, *at_hw, device="meta") for channels, at_hw in feature_shapes(arch, size_hw)]
    cost = module_cost(head, features, size_hw, rule=rule)
    return [*backbone_rows(arch, size_hw), CostRow("head", type(head).__name__, cost, size_hw)]


def feature_shapes(arch: Arch, size_hw: SizeHW) -> list[tuple[int, SizeHW]]:
    """Return channels and size of the feature maps of a backbone; see `network.feature_info` for the order.

    Args:
        arch: the architecture, at the output stride it runs with.
        size_hw: size of the image.
    """
    rows = backbone_rows(arch, size_hw)
    out_hw = {row.layer: row.out_hw for row in rows}
    last, shapes, before = levels(arch), [], rows[0].out_hw
    for s, stage in enumerate(arch.stages):
        if s in arch.taps:
            shapes.append((stage[0].hidden_channels, before))
        before = out_hw[f"{s}.{len(stage) - 1}"]
        if s in last:
            shapes.append((stage[-1].out_channels, before))
    return shapes
