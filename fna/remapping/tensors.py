"""Which block of the source each block of the destination takes its weights from, and whether the source has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor

from fna.arch import Arch, Block, SuperArch
from fna.arch.weights import Unit, backbone_shapes, block_units, stem_unit
from fna.errors import FnaError, nearest

Depth = Callable[[Sequence[Block], int, Block], int | None]


def pairs(src: Arch | SuperArch, dst: Arch | SuperArch, depth: Depth) -> Iterator[tuple[Unit | None, Unit, list[str]]]:
    """Yield (source, destination, rules that chose the source) for the stem and every block of `dst`.

    The source is None for a layer that is new.

    Args:
        src: whose blocks are taken; of a super network each layer takes the candidate of its own label.
        dst: whose blocks are filled.
        depth: the depth rule.

    Raises:
        FnaError: a layer has nothing to take.
    """
    yield stem_unit(src), stem_unit(dst), [] if isinstance(src, Arch) else ["collect"]
    units = {(s, n, block): unit for s, n, block, unit in block_units(src)}
    for s, n, block, unit in block_units(dst):
        if isinstance(src, Arch):
            layer, origin = _by_depth(src, s, n, block, depth)
            yield None if layer is None else units[s, layer, src.stages[s][layer]], unit, origin
            continue
        candidates = src.stages[s][n] if n < len(src.stages[s]) else ()
        chosen = next((units[s, n, b] for b in candidates if b.label == block.label), None)
        if chosen is None or chosen.weights != unit.weights:
            known = ", ".join(b.label for b in candidates) or "no such layer"
            raise FnaError(
                f"layer {s}.{n}: '{block.label}' ({block.kind}, {block.in_channels} to {block.out_channels} channels)"
                f" is not in the source super network (candidates: {known}); take one of them, or remap from the seed"
            )
        yield chosen, unit, ["collect"]


def _by_depth(src: Arch, s: int, n: int, block: Block, depth: Depth) -> tuple[int | None, list[str]]:
    """Return the layer of stage `s` of a plain source that `block`, layer `n`, takes, and the rules that chose it."""
    layer = depth(src.stages[s], n, block)
    if layer is None:
        return None, []
    if layer < 0:
        raise FnaError(
            f"layer {s}.{n} has nothing to take: stage {s} of the source begins with a skip; give it a block"
        )
    chosen = src.stages[s][layer]
    if chosen.kind != block.kind:
        raise FnaError(f"layer {s}.{n} is a '{block.kind}' block, the source's a '{chosen.kind}'; give both one kind")
    first = 0 == layer < n and (chosen.in_channels, chosen.stride) != (block.in_channels, block.stride)
    # The first block of a stage reads another input: copied to a later layer, its channels follow the width rule.
    return layer, ["depth last"] * (layer != n) + ["first block"] * first


def check_state(arch: Arch | SuperArch, state: Mapping[str, Tensor]) -> None:
    """Raise an `FnaError` unless `state` holds just the backbone weights of `arch`, and maybe a tail."""
    shapes = backbone_shapes(arch)
    check_tensors(state, shapes, "give the state dict of the source architecture")
    for name in state:
        if name not in shapes and not name.startswith(("head.", "classifier.")):
            raise FnaError(
                f"the source weights hold '{name}', which the source architecture has not{nearest(name, shapes)}; give "
                "the state dict of the source architecture"
            )


def check_tensors(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], advice: str) -> None:
    """Raise an `FnaError`, which ends with `advice`, unless `state` has a tensor of each of `shapes`."""
    for name, shape in shapes.items():
        if name not in state:
            raise FnaError(f"the source weights lack '{name}', of shape {shape}{nearest(name, state)}; {advice}")
        if tuple(state[name].shape) != shape:
            raise FnaError(f"source weight '{name}' has shape {tuple(state[name].shape)}, expected {shape}; {advice}")
