"""Names, shapes and channel axes of a network's weights, as its state dict has them. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from fna.arch import Arch, Block, SuperArch
from fna.arch.parts import Part, head_part, parts, stem_part

Shape = tuple[int, ...]
COUNTER = "num_batches_tracked"  # the one tensor of a batch norm that is a whole number


@dataclass(frozen=True)
class Weight:
    """A tensor of a block.

    Args:
        shape: its shape.
        axes: names of the channel axes behind its first two axes; None where there is none, as on the input side of a
            depthwise kernel.
        part: name of the convolution it belongs to, or whose norm.
        groups: of the convolution; 1 where its inputs are no channel axis.
    """

    shape: Shape
    axes: tuple[str | None, str | None]
    part: str
    groups: int = 1


@dataclass(frozen=True)
class Unit:
    """A block with weights, or the stem.

    Args:
        name: what its tensors' names begin with: ``stem``, ``stages.2.1`` or, in a super network, ``stages.2.1.k5e6``.
        channels: by axis.
        weights: by name inside the unit, in forward order.
        norm_eps: epsilon of its batch norms.
    """

    name: str
    channels: Mapping[str, int]
    weights: Mapping[str, Weight]
    norm_eps: float


def stem_unit(arch: Arch | SuperArch) -> Unit:
    """Return the stem of `arch`."""
    seed = arch.seed if isinstance(arch, SuperArch) else arch
    part = stem_part(seed)
    return Unit("stem", dict((part.inputs, part.out)), _weights((part,)), seed.norm_eps)


def block_units(arch: Arch | SuperArch) -> Iterator[tuple[int, int, Block, Unit]]:
    """Yield (stage, layer, block, unit) for every block but skips; of a super network, for every candidate."""
    norm_eps = (arch.seed if isinstance(arch, SuperArch) else arch).norm_eps
    for (s, n), layer in arch.layers():
        for block in (layer,) if isinstance(layer, Block) else layer:
            if parts(block):
                name = f"stages.{s}.{n}" if isinstance(layer, Block) else f"stages.{s}.{n}.{block.label}"
                yield s, n, block, Unit(name, *_of_block(block), norm_eps)


def backbone_shapes(arch: Arch | SuperArch) -> dict[str, Shape]:
    """Return the shape of every weight of a backbone or a super network, in the order of its state dict.

    >>> from fna.arch import Stem
    >>> list(backbone_shapes(Arch(Stem(8), ((Block("mbconv", 8, 8),),))).items())[5:7]
    [('stem.norm.num_batches_tracked', ()), ('stages.0.0.depthwise.weight', (8, 1, 3, 3))]
    """
    units = [stem_unit(arch), *(unit for _, _, _, unit in block_units(arch))]
    return {f"{unit.name}.{name}": weight.shape for unit in units for name, weight in unit.weights.items()}


def tail_shapes(arch: Arch) -> dict[str, Shape]:
    """Return the shapes of what follows the stages in a classifier: head convolution and linear layer."""
    shapes: dict[str, Shape] = {}
    if arch.head_channels:
        shapes = {f"head.{name}": weight.shape for name, weight in _weights((head_part(arch),)).items()}
    if arch.num_classes:
        shapes["classifier.weight"] = (arch.num_classes, arch.head_channels or arch.out_channels)
        shapes["classifier.bias"] = (arch.num_classes,)
    return shapes


@lru_cache(maxsize=4096)
def _of_block(block: Block) -> tuple[dict[str, int], dict[str, Weight]]:
    """Return channels by axis and weights by name of a block."""
    axes = [axis for part in parts(block) for axis in (part.inputs, part.out)]
    return {"in": block.in_channels, "out": block.out_channels} | dict(axes), _weights(parts(block))


def _weights(own: Sequence[Part]) -> dict[str, Weight]:
    found = {}
    for part in own:
        width, (written, read) = part.out.channels, part.axes
        groups = part.groups if read else 1
        found[f"{part.name}.weight"] = Weight(part.shape, (written, read), part.name, groups)
        for tensor in ("weight", "bias", "running_mean", "running_var"):
            found[f"{part.norm}.{tensor}"] = Weight((width,), (written, None), part.name)
        found[f"{part.norm}.{COUNTER}"] = Weight((), (None, None), part.name)
    return found
