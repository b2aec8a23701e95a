"""Search spaces: which candidates each layer of a seed may choose from. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fna.arch import Arch, Block, Candidates, SuperArch
from fna.errors import FnaError

SEGMENTATION_LAYERS = (4, 4, 6, 6, 4, 1)  # Table I, "seg"
DETECTION_LAYERS = (4, 4, 4, 4, 4, 1)  # Table I, "det" and "pose"


def make_space(
    seed: Arch,
    *,
    kernels: Sequence[int] = (3, 5, 7),
    expansions: Sequence[float] = (3, 6),
    layers: Sequence[int] = SEGMENTATION_LAYERS,
    skip: bool = True,
) -> SuperArch:
    """Grow an MBConv seed into a search space.

    The first stage with expansion 1 stays as it is (Table I). In every other stage each layer chooses its kernel and
    expansion, and all layers but the first may be skipped. A seed's own block that is not among them is added, so that
    the seed is always a path of its space.

    Args:
        seed: the seed's architecture (MBConv blocks).
        kernels: odd kernel sizes.
        expansions: hidden / input channels.
        layers: layers per searchable stage; a stage never gets fewer than the seed has.
        skip: whether layers after the first of a stage may be skipped.

    Raises:
        FnaError: a block of the seed is no MBConv, or `layers` has another length than the searchable stages.
    """
    for (s, n), block in seed.layers():
        if block.kind not in ("mbconv", "skip"):
            raise FnaError(f"layer {s}.{n} of the seed is a '{block.kind}' block; this space supports mbconv seeds")
    searchable = [s for s, stage in enumerate(seed.stages) if any(b.expansion != 1 for b in stage if b.kind != "skip")]
    if len(layers) != len(searchable):
        raise FnaError(
            f"space.layers has {len(layers)} numbers, the seed has {len(searchable)} searchable stages: "
            f"give one number a stage, e.g. {[len(seed.stages[s]) for s in searchable]}"
        )
    depth = dict(zip(searchable, layers, strict=True))
    stages: list[tuple[Candidates, ...]] = []
    for s, stage in enumerate(seed.stages):
        if s not in depth:
            stages.append(tuple((block,) for block in stage))
            continue
        first = stage[0]
        later = replace(first, in_channels=first.out_channels, stride=1)
        grown = []
        for n in range(max(depth[s], len(stage))):
            template = first if n == 0 else later
            candidates = [replace(template, kind="mbconv", kernel=k, expansion=e) for k in kernels for e in expansions]
            own = stage[n] if n < len(stage) else None
            if own is not None and own.kind != "skip" and own not in candidates:
                candidates.append(own)
            if n > 0 and (skip or (own is None or own.kind == "skip")):
                candidates.append(skip_like(later))
            grown.append(tuple(candidates))
        stages.append(tuple(grown))
    return SuperArch(seed, tuple(stages))


def skip_like(block: Block) -> Block:
    """Return the skip that can stand where `block` (stride 1, equal channels) stands."""
    return Block("skip", block.out_channels, block.out_channels, dilation=block.dilation)


def default_layers(seed: Arch, deepest: Sequence[int]) -> tuple[int, ...]:
    """Return Table I's layers per stage for `seed`, never fewer than it has.

    Args:
        seed: the seed's architecture.
        deepest: Table I's column, for seeds with as many searchable stages; other seeds get one layer more a stage.
    """
    depths = [len(stage) for stage in seed.stages if any(b.expansion != 1 for b in stage if b.kind != "skip")]
    if len(depths) == len(deepest):
        return tuple(max(d, n) for d, n in zip(depths, deepest, strict=True))
    return tuple(d + 1 for d in depths)
