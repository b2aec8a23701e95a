"""Search spaces: which candidates each layer of a seed may choose from. No torch here.

Three kinds of layer are searchable, each with candidates of its own:

| block | candidates | article |
|---|---|---|
| mbconv | kernels x expansions, and skip after a stage's first layer | Tables I and IX |
| basic | cells (kernel and groups of the first convolution), skip on request | Table VII |
| bottleneck | cells (kernel and groups of the middle convolution), skip on request | Table VII |
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

from fna.arch import Arch, Block, Candidates, SuperArch
from fna.errors import FnaError

KERNELS = (3, 5, 7)  # Tables I and IX
EXPANSIONS = (3.0, 6.0)
CELLS = ("k3g1", "k5g2", "k5g4", "k7g4", "k7g8")  # Table VII

SEGMENTATION_LAYERS = (4, 4, 6, 6, 4, 1)  # Table I, "seg"
DETECTION_LAYERS = (4, 4, 4, 4, 4, 1)  # Table I, "det" and "pose"; Table IX

Added = dict[tuple[int, int], Block]  # by stage and layer


def task_space(
    seed: Arch,
    deepest: Sequence[int],
    taps: Sequence[int] = (),
    *,
    kernels: Sequence[int] = KERNELS,
    expansions: Sequence[float] = EXPANSIONS,
    cells: Sequence[str] = CELLS,
    layers: Sequence[int] | None = None,
    skip: bool | None = None,
) -> SuperArch:
    """Grow a seed into the search space of a task: Table I, VII or IX, by the seed's blocks.

    Args:
        seed: the seed's architecture, undilated.
        deepest: the task's layers per searchable stage (`Task.layers`).
        taps: stages whose expansion the task's head reads (``task.prepare(seed, ...).taps``); see `keep_taps`.
        kernels: see `make_space`; these and what follows are the settings ``space.*``.
        expansions: see `make_space`.
        cells: see `make_space`.
        layers: layers per searchable stage; None: `default_layers`.
        skip: see `make_space`.

    Raises:
        FnaError: as `make_space`.
    """
    layers = layers or default_layers(seed, deepest)
    space = make_space(seed, kernels=kernels, expansions=expansions, cells=cells, layers=layers, skip=skip)
    return keep_taps(space, taps)


def make_space(
    seed: Arch,
    *,
    kernels: Sequence[int] = KERNELS,
    expansions: Sequence[float] = EXPANSIONS,
    cells: Sequence[str] = CELLS,
    layers: Sequence[int] | None = None,
    skip: bool | None = None,
) -> SuperArch:
    """Grow a seed into a search space.

    An MBConv stage whose blocks all have expansion 1 stays as it is (Table I). In every other stage each layer chooses
    its block. A seed's own block that is not among the candidates is added (FBNet-C has some of expansion 1), so that
    the seed is always a path of its space.

    Args:
        seed: the seed's architecture: mbconv blocks, or basic, or bottleneck blocks.
        kernels: odd kernel sizes (mbconv).
        expansions: hidden / input channels (mbconv).
        cells: kernel and groups of the searched convolution, e.g. ``k5g2`` (basic, bottleneck).
        layers: layers per searchable stage, never fewer than the seed has; None: the seed's.
        skip: whether layers after the first of a stage may be skipped; None: as the article, True for mbconv blocks and
            False for the others. Layers that the seed has not may always be skipped.

    Raises:
        FnaError: the seed mixes kinds of block, `layers` has another length than the searchable stages, or groups do
            not divide the channels.
    """
    kind = _kind(seed)
    skip = kind == "mbconv" if skip is None else skip
    depths = [len(seed.stages[s]) for s in searchable_stages(seed)]
    layers = depths if layers is None else layers
    if len(layers) != len(depths):
        raise FnaError(
            f"space.layers has {len(layers)} numbers, the seed has {len(depths)} searchable stages: "
            f"give one number a stage, e.g. {depths}"
        )
    depth = dict(zip(searchable_stages(seed), layers, strict=True))
    parsed = [parse_cell(cell) for cell in cells]
    stages: list[tuple[Candidates, ...]] = []
    for s, stage in enumerate(seed.stages):
        if s not in depth:
            stages.append(tuple((block,) for block in stage))
            continue
        first = replace(stage[0], kind=kind)
        grown = []
        for n in range(max(depth[s], len(stage))):
            like = first if n == 0 else replace(first, in_channels=first.out_channels, stride=1)
            if kind == "mbconv":
                candidates = [replace(like, kernel=k, expansion=float(e)) for k in kernels for e in expansions]
            else:
                candidates = [_with_cell(like, k, g, (s, n)) for k, g in parsed]
            own = stage[n] if n < len(stage) else skip_like(like)
            if own.kind != "skip" and own not in candidates:
                candidates.append(own)
            if n > 0 and (skip or own.kind == "skip"):
                candidates.append(skip_like(like))
            grown.append(tuple(candidates))
        stages.append(tuple(grown))
    return SuperArch(seed, tuple(stages))


def keep_taps(space: SuperArch, taps: Sequence[int]) -> SuperArch:
    """Fix the width of the expansions that a head reads: of a tapped stage's first layer only those candidates stay.

    SSDLite reads the expansion of a block, and its head is built for the seed's number of channels.

    Args:
        space: the search space.
        taps: the stages (`Arch.taps`).
    """
    stages = list(space.stages)
    for s in taps:
        width = space.seed.stages[s][0].hidden_channels
        kept = tuple(block for block in stages[s][0] if block.hidden_channels == width)
        stages[s] = (kept, *stages[s][1:])
    return replace(space, stages=tuple(stages))


def added_blocks(space: SuperArch, kernels: Sequence[int], expansions: Sequence[float], cells: Sequence[str]) -> Added:
    """Return by layer the seed's own block where `make_space` added it to the candidates that these settings name.

    Args:
        space: a search space of these settings.
        kernels: see `make_space`.
        expansions: see `make_space`.
        cells: see `make_space`.
    """
    widths = {(k, float(e)) for k in kernels for e in expansions}
    searched = searchable_stages(space.seed)

    def in_table(block: Block) -> bool:
        return (block.kernel, block.expansion) in widths if block.kind == "mbconv" else block.label in cells

    return {
        layer: block
        for layer, candidates in space.layers()
        for block in candidates
        if layer[0] in searched and block.kind != "skip" and not in_table(block)
    }


def table_size(space: SuperArch, added: Added) -> int:
    """Return the number of architectures that the article's table spans: the space without the `added` blocks."""
    return math.prod(len(candidates) - (layer in added) for layer, candidates in space.layers())


def skip_like(block: Block) -> Block:
    """Return the skip that can stand where `block` (stride 1, equal channels) stands."""
    return Block("skip", block.out_channels, block.out_channels, dilation=block.dilation)


def default_layers(seed: Arch, deepest: Sequence[int]) -> tuple[int, ...]:
    """Return the article's layers per searchable stage of `seed`, never fewer than it has.

    ResNets keep their depth (Table VII).

    Args:
        seed: the seed's architecture.
        deepest: Table I's column, for MBConv seeds with as many searchable stages; others get one layer more a stage.
    """
    depths = [len(seed.stages[s]) for s in searchable_stages(seed)]
    if _kind(seed) != "mbconv":
        return tuple(depths)
    if len(depths) == len(deepest):
        return tuple(max(d, n) for d, n in zip(depths, deepest, strict=True))
    return tuple(d + 1 for d in depths)


def searchable_stages(seed: Arch) -> tuple[int, ...]:
    """Return the stages that are searched: all but the MBConv stages that never widen (expansion 1 throughout)."""
    return tuple(s for s, stage in enumerate(seed.stages) if any(_is_searched(block) for block in stage))


def _is_searched(block: Block) -> bool:
    return block.kind != "skip" and (block.kind != "mbconv" or block.hidden_channels != block.in_channels)


def parse_cell(cell: str) -> tuple[int, int]:
    """Read kernel and groups of a ResNet cell.

    >>> parse_cell("k5g2")
    (5, 2)

    Raises:
        FnaError: the text is none, or the kernel is even.
    """
    match = re.fullmatch(r"k(\d{1,2})g(\d{1,4})", cell)
    if not match or int(match[1]) % 2 == 0 or int(match[2]) == 0:
        raise FnaError(f"space.cells has '{cell}'; expected an odd kernel and groups, such as {', '.join(CELLS)}")
    return int(match[1]), int(match[2])


def _kind(seed: Arch) -> str:
    """Return the one kind of block that `seed` is made of."""
    kinds = sorted({block.kind for _, block in seed.layers()} - {"skip"})
    if len(kinds) != 1:
        raise FnaError(
            f"the seed mixes {' and '.join(kinds) or 'no'} blocks; a space is made for a seed of one kind: "
            "mbconv, basic or bottleneck"
        )
    return kinds[0]


def _with_cell(block: Block, kernel: int, groups: int, layer: tuple[int, int]) -> Block:
    """Return `block` with another kernel and groups in its searched convolution."""
    inputs = block.in_channels if block.kind == "basic" else block.hidden_channels
    for channels in (inputs, block.hidden_channels):
        if channels % groups:
            raise FnaError(
                f"layer {layer[0]}.{layer[1]} has {channels} channels, which {groups} groups do not divide; "
                f"leave k{kernel}g{groups} out of space.cells"
            )
    return replace(block, kernel=kernel, groups=groups)
