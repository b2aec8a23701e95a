"""A seed cut by hand: what somebody without a search does to make a network cheaper. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from fna.arch import Arch, Block, SuperArch, with_blocks
from fna.arch.spaces import skip_like

SPENT = 0.9  # the least share of the limit that a cut network costs
HALF = 0.5

Layer = tuple[int, int]  # stage, layer


def cut_by_hand(
    seed: Arch, space: SuperArch, limit: int, cost: Callable[[Arch], int], taps: Sequence[int] = ()
) -> Arch | None:
    """Cut a seed until it costs 90 to 100 % of a limit: late layers are skipped first, then they expand less.

    Late is the second half of the layers, and the last one goes first. Where that is not enough the first half follows
    in the same way. A cut that would leave less than 90 %, or saves nothing, is passed over.

    Args:
        seed: the seed's architecture, undilated.
        space: the search space, whose smaller expansions are taken where it has some; else half of the seed's.
        limit: the most that the whole network may cost.
        cost: counts what a whole network takes of the limit, in its unit (see `Costs.charged`).
        taps: stages whose first block keeps its expansion, which the task's head reads.

    Returns:
        The architecture, with skips where layers were; None: no such cut leads there.
    """
    arch = seed
    spent = cost(arch)
    for (s, n), change in _cuts(seed, space, taps):
        if spent <= limit:
            break
        block = change(arch.stages[s][n])
        if block is None:
            continue
        stages = [list(stage) for stage in arch.stages]
        stages[s][n] = block
        smaller = with_blocks(arch, stages)
        if SPENT * limit <= (left := cost(smaller)) < spent:
            arch, spent = smaller, left
    return arch if SPENT * limit <= spent <= limit else None


def narrowed(seed: Arch, space: SuperArch, taps: Sequence[int] = ()) -> Arch:
    """Return a seed whose layers all have the next smaller expansion of the space; the others stay as they are.

    Args:
        seed: see `cut_by_hand`.
        space: see `cut_by_hand`.
        taps: see `cut_by_hand`.
    """
    candidates = dict(space.layers())
    stages = [list(stage) for stage in seed.stages]
    for (s, n), block in seed.layers():
        if len(candidates[s, n]) > 1 and (n > 0 or s not in taps):
            stages[s][n] = _narrower(block, candidates[s, n]) or block
    return with_blocks(seed, stages)


def tapped(space: SuperArch) -> tuple[int, ...]:
    """Return the stages whose first block has one width in all of a space, as where a head reads it."""
    firsts = ((s, candidates) for (s, n), candidates in space.layers() if n == 0)
    return tuple(s for s, candidates in firsts if len({block.hidden_channels for block in candidates}) == 1)


def _cuts(seed: Arch, space: SuperArch, taps: Sequence[int]) -> Iterator[tuple[Layer, Callable[[Block], Block | None]]]:
    """Yield the layers in the order of the cuts, with what is done to the block there."""
    layers = [layer for layer, _ in seed.layers()]
    middle = len(layers) // 2
    candidates = dict(space.layers())

    def narrowed(layer: Layer) -> Callable[[Block], Block | None]:
        return lambda block: _narrower(block, candidates.get(layer, ()))

    for part in (layers[middle:], layers[:middle]):
        late_first = part[::-1]
        yield from ((layer, _skipped) for layer in late_first if layer[1] > 0)
        yield from ((layer, narrowed(layer)) for layer in late_first if layer[1] > 0 or layer[0] not in taps)


def _skipped(block: Block) -> Block | None:
    return skip_like(block) if block.residual and block.kind != "skip" else None


def _narrower(block: Block, candidates: Sequence[Block]) -> Block | None:
    """Return the block with a smaller expansion; None: it has none to give."""
    if block.kind != "mbconv" or block.expansion <= 1:
        return None
    smaller = [c for c in candidates if c.kind == "mbconv" and c.kernel == block.kernel]
    below = [c.expansion for c in smaller if c.expansion < block.expansion]
    expansion = max(below, default=max(1.0, block.expansion * HALF))
    return replace(block, expansion=expansion)
