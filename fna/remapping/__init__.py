"""Parameter remapping: hand the weights of one network to another of other depth, width, kernels or groups.

Remapping is a pure function of two architectures and a state dict (FNA++ section 3.1). Each rule answers one question:
*which source element does each destination element take?* The answer is an index, -1 where there is none, and one index
per named channel axis (`arch.parts`) serves every tensor that has the axis, norms and statistics included. What takes
nothing is new and follows the growth rule. To add a rule, write one function and name it in a table of `rules`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from torch import Tensor

from fna.arch import Arch, SuperArch
from fna.arch.weights import tail_shapes
from fna.errors import FnaError, pick
from fna.remapping.apply import Row as Row
from fna.remapping.apply import Rules, map_unit, new_unit
from fna.remapping.apply import summarise as summarise
from fna.remapping.rules import DEPTH, GROWTH, KERNEL, WIDTH, map_groups, map_width
from fna.remapping.tensors import check_state, check_tensors, pairs


@dataclass(frozen=True)
class Strategy:
    """The rules of a remapping: names in `DEPTH`, `WIDTH`, `KERNEL` and `GROWTH`; groups have one (`map_groups`)."""

    depth: str = "last"
    width: str = "first"
    kernel: str = "centre"
    growth: str = "preserve"

    def __post_init__(self) -> None:
        for table, name, what in (
            (DEPTH, self.depth, "depth strategy"),
            (WIDTH, self.width, "width strategy"),
            (KERNEL, self.kernel, "kernel strategy"),
            (GROWTH, self.growth, "growth strategy"),
        ):
            pick(table, name, what)


@dataclass(frozen=True)
class Remapped:
    """The destination's weights, which share no memory with the source's, and a row for each tensor."""

    state: dict[str, Tensor]
    report: list[Row]


def remap(
    src: Arch | SuperArch,
    src_state: Mapping[str, Tensor],
    dst: Arch | SuperArch,
    strategy: Strategy | None = None,
    rng_seed: int = 0,
) -> Remapped:
    """Return weights for `dst` made from the weights of `src`.

    From an `Arch` every layer follows the strategy. From a `SuperArch` every layer takes the operation of its own label
    at its own position, whole (FNA++ section 5.1). Strides and dilations do not matter. The tail (``head.*``,
    ``classifier.*``) is copied if `src_state` holds one and `dst` is an `Arch` that has one.

    Args:
        src: the architecture of the source weights.
        src_state: all of its weights and no others; a tail may be there.
        dst: the architecture that wants weights.
        strategy: the rules; None is `Strategy()`.
        rng_seed: seed of all chance; each draw depends on it and on its tensor's or axis' name, nothing else.

    Raises:
        FnaError: `src_state` does not fit `src`, or `dst` cannot be reached from `src`.
    """
    strategy = strategy or Strategy()
    check_state(src, src_state)
    if len(src.stages) != len(dst.stages):
        raise FnaError(
            f"the source has {len(src.stages)} stages, the destination {len(dst.stages)}: weights move stage by stage; "
            "give a destination with the stages of the source"
        )
    rules = _rules(strategy)
    state: dict[str, Tensor] = {}
    report: list[Row] = []
    for source, unit, origin in pairs(src, dst, DEPTH[strategy.depth]):
        if source is None:
            made = new_unit(unit, src_state["stem.conv.weight"], rules, rng_seed)
        else:
            weights = {tensor: src_state[f"{source.name}.{tensor}"].detach() for tensor in source.weights}
            made = map_unit(source, weights, unit, origin, rules, rng_seed)
        for row, value in made:
            assert row.tensor not in state, f"{row.tensor} is written twice"
            state[row.tensor] = value
            report.append(row)
    tail = tail_shapes(dst) if isinstance(dst, Arch) else {}
    if tail.keys() & src_state.keys():
        check_tensors(src_state, tail, "give the destination none: head_channels and num_classes 0")
        for name in tail:
            state[name] = src_state[name].detach().clone()
            report.append(Row(name, name, "copy", state[name].numel(), 0, 0))
    return Remapped(state, report)


def _rules(strategy: Strategy) -> Rules:
    """Return the rules inside a block."""
    return Rules(
        order=map_width,
        width=WIDTH[strategy.width],
        groups=map_groups,
        kernel=KERNEL[strategy.kernel],
        growth=GROWTH[strategy.growth],
        names=asdict(strategy),
    )
