"""Architectures as data: `Arch` describes any backbone, `SuperArch` a search space around one. No torch here.

Seeds, spaces, costs, derivation, export and reports all speak these two types. A layer keeps its position for life: a
`skip` block is a layer that passes its input on, so that layer (2, 1) of a seed, a super network and a target are the
same place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar

from fna.arch.parts import KINDS, parts
from fna.errors import FnaError, nearest

OUTPUT_STRIDES = (8, 16, 32)  # of a dense network; see `with_output_stride`
ACTIVATIONS = ("relu", "relu6")
PADDINGS = ("symmetric", "same")
MULTIPLE = 32  # the largest stride of a backbone: images are padded to multiples of it


def _whole(*numbers: object) -> bool:
    """Tell whether all are whole numbers of at least 1; JSON may hold anything."""
    return all(type(number) is int and number >= 1 for number in numbers)


@dataclass(frozen=True)
class Block:
    """One layer of a stage.

    Args:
        kind: one of `parts.KINDS`; `skip` passes its input on.
        in_channels: input channels.
        out_channels: output channels.
        kernel: side of the spatial convolution (odd).
        stride: stride of the spatial convolution, 1 or 2.
        dilation: dilation of the spatial convolution.
        expansion: hidden / input channels (mbconv); 1 means no expansion convolution.
        groups: groups of the spatial convolution (basic, bottleneck).
    """

    kind: str
    in_channels: int
    out_channels: int
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    expansion: float = 1.0
    groups: int = 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise FnaError(f"unknown block kind '{self.kind}'{nearest(self.kind, KINDS)}; known: {', '.join(KINDS)}")
        numbers = (self.in_channels, self.out_channels, self.kernel, self.stride, self.dilation, self.groups)
        if not _whole(*numbers, self.hidden_channels) or self.kernel % 2 == 0:
            raise FnaError(f"impossible block {self}: kernels are odd, channels and the like whole and at least 1")
        if self.kind == "skip" and (self.in_channels != self.out_channels or self.stride != 1):
            raise FnaError(f"impossible block {self}: a skip keeps its channels and has stride 1")
        if self.hidden_channels % self.groups or any(part.inputs.channels % part.groups for part in parts(self)):
            raise FnaError(f"impossible block {self}: {self.groups} groups do not divide the channels")

    @property
    def hidden_channels(self) -> int:
        """Channels of the spatial convolution's output."""
        return KINDS[self.kind].hidden(self)

    @property
    def residual(self) -> bool:
        """Whether the input is added to the output as it is. A ResNet block that cannot do so projects it.

        In a dilated network the first layer of a stage has stride 1, so the channels alone decide (as torchvision).
        """
        return self.stride == 1 and self.in_channels == self.out_channels

    @property
    def label(self) -> str:
        """Short name, unique among the candidates of a layer: ``k5e6``, ``k5g2`` or ``skip``."""
        choice = KINDS[self.kind].choice
        if not choice:
            return self.kind
        number = f"{getattr(self, choice):g}".replace(".", "_")  # a module's name holds no dot
        return f"k{self.kernel}{choice[0]}{number}"


LayerPath = tuple[int, ...]  # one candidate index per layer


@dataclass(frozen=True)
class Stem:
    """The first convolution (+ norm + activation), optionally followed by ResNet's 3x3/2 max pooling."""

    out_channels: int
    kernel: int = 3
    stride: int = 2
    max_pool: bool = False

    def __post_init__(self) -> None:
        if not _whole(self.out_channels, self.kernel, self.stride) or self.kernel % 2 == 0:
            raise FnaError(f"impossible stem {self}: kernels are odd, all numbers whole and at least 1")


@dataclass(frozen=True)
class Arch:
    """A backbone.

    Args:
        stem: the first convolution.
        stages: blocks by stage and layer.
        activation: one of `ACTIVATIONS`, used everywhere.
        norm_eps: epsilon of every batch normalisation.
        padding: `symmetric`, or `same` as TensorFlow pads (asymmetric where the stride is 2).
        head_channels: channels of the 1x1 convolution before the classifier (0: none). Dense tasks leave it out.
        num_classes: outputs of the classifier (0: none).
        output_stride: input pixels per pixel of the last feature map; see `with_output_stride`.
        taps: stages whose first block also gives its expansion (after norm and activation) as a feature map; see
            `with_taps`.
    """

    stem: Stem
    stages: tuple[tuple[Block, ...], ...]
    activation: str = "relu6"
    norm_eps: float = 1e-5
    padding: str = "symmetric"
    head_channels: int = 0
    num_classes: int = 0
    output_stride: int = 32
    taps: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for value, known, what in (
            (self.activation, ACTIVATIONS, "activation"),
            (self.padding, PADDINGS, "padding"),
        ):
            if value not in known:
                raise FnaError(f"unknown {what} '{value}'{nearest(value, known)}; known: {', '.join(known)}")
        if not self.stages or not all(self.stages):
            raise FnaError("an architecture has at least one stage, and each stage at least one layer")
        if not _whole(self.head_channels + 1, self.num_classes + 1) or not 0 <= self.norm_eps < 1:
            raise FnaError("head_channels and num_classes are whole numbers from 0, norm_eps one from 0 to 1")
        channels = self.stem.out_channels
        for (stage, layer), block in self.layers():
            if block.in_channels != channels:
                raise FnaError(
                    f"layer {stage}.{layer} takes {block.in_channels} channels, the layer before gives {channels}"
                )
            channels = block.out_channels
        for stage in self.taps:
            if not 0 <= stage < len(self.stages) or self.stages[stage][0].kind != "mbconv":
                raise FnaError(f"stage {stage} cannot be tapped: it does not begin with an mbconv block")

    def layers(self) -> Iterator[tuple[tuple[int, int], Block]]:
        """Yield ((stage, layer), block) in forward order, skips included."""
        for s, stage in enumerate(self.stages):
            for n, block in enumerate(stage):
                yield (s, n), block

    @property
    def out_channels(self) -> int:
        """Channels of the last feature map."""
        return self.stages[-1][-1].out_channels

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict; `from_json` is its inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> Arch:
        """Build an Arch from `to_json`'s dict.

        Raises:
            FnaError: a key is missing, unknown or of the wrong type.
        """
        arch: Arch = _from_json(cls, data)
        return arch


Candidates = tuple[Block, ...]  # the blocks a layer can choose from


@dataclass(frozen=True)
class SuperArch:
    """A search space: the seed, and a tuple of candidate blocks at every layer.

    Layers with one candidate are fixed. All candidates of a layer agree on channels, stride and dilation.
    """

    seed: Arch
    stages: tuple[tuple[Candidates, ...], ...]

    @classmethod
    def of(cls, arch: Arch) -> SuperArch:
        """Return the space whose only network is `arch`."""
        return cls(arch, tuple(tuple((block,) for block in stage) for stage in arch.stages))

    def layers(self) -> Iterator[tuple[tuple[int, int], Candidates]]:
        """Yield ((stage, layer), candidates) in forward order."""
        for s, stage in enumerate(self.stages):
            for n, candidates in enumerate(stage):
                yield (s, n), candidates

    @property
    def searchable(self) -> tuple[int, ...]:
        """Flat indices of the layers that have a choice."""
        return tuple(i for i, (_, candidates) in enumerate(self.layers()) if len(candidates) > 1)

    @property
    def size(self) -> int:
        """Number of architectures in the space (paths, not counting which of them coincide)."""
        return math.prod(len(candidates) for _, candidates in self.layers())

    def path_arch(self, path: Sequence[int]) -> Arch:
        """Return the architecture that takes candidate ``path[i]`` at flat layer i."""
        choice = iter(path)
        stages = tuple(tuple(candidates[next(choice)] for candidates in stage) for stage in self.stages)
        return replace(self.seed, stages=stages)

    def path_of(self, arch: Arch) -> LayerPath:
        """Return the path whose architecture is `arch`.

        Raises:
            FnaError: a layer of `arch` is no candidate.
        """
        path = []
        for (s, n), candidates in self.layers():
            labels = [block.label for block in candidates]
            wanted = arch.stages[s][n].label if s < len(arch.stages) and n < len(arch.stages[s]) else "skip"
            if wanted not in labels:
                raise FnaError(f"layer {s}.{n}: '{wanted}' is not in the search space ({', '.join(labels)})")
            path.append(labels.index(wanted))
        return tuple(path)

    def seed_path(self) -> LayerPath:
        """Return the path that computes the seed: its own blocks, then skips."""
        return self.path_of(self.seed)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict; `from_json` is its inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> SuperArch:
        """Build a SuperArch from `to_json`'s dict."""
        if not isinstance(data, dict) or set(data) != {"seed", "stages"}:
            raise FnaError("a super network's JSON has the keys 'seed' and 'stages'")
        try:
            stages = tuple(
                tuple(tuple(_from_json(Block, block) for block in layer) for layer in stage) for stage in data["stages"]
            )
        except TypeError as error:
            raise FnaError(f"not a super network: its stages are no lists of lists of blocks ({error})") from error
        return cls(Arch.from_json(data["seed"]), stages)


A = TypeVar("A", Arch, SuperArch)


def with_blocks(arch: Arch, stages: Sequence[Sequence[Block]]) -> Arch:
    """Return `arch` with other blocks."""
    return replace(arch, stages=tuple(tuple(stage) for stage in stages))


def without_skips(arch: Arch) -> Arch:
    """Drop the skip layers; the network computes the same, the other layers move up."""
    return with_blocks(arch, [[b for b in stage if b.kind != "skip"] for stage in arch.stages])


def with_output_stride(arch: A, output_stride: int) -> A:
    """Trade stride for dilation until the last feature map has `output_stride` (8, 16 or 32).

    A stage that loses its stride, and all later ones, get twice the dilation in every layer, the first included
    (FNA++ section 4.1 after DeepLab). Works on an `Arch` and, candidate by candidate, on a `SuperArch`.

    Raises:
        FnaError: the stride is not 8, 16 or 32, or `arch` is dilated already.
    """
    if isinstance(arch, SuperArch):
        seed = with_output_stride(arch.seed, output_stride)
        if seed is arch.seed:
            return arch
        spatial = [(stage[0].stride, stage[0].dilation) for stage in seed.stages]
        stages = tuple(
            tuple(
                tuple(replace(b, stride=stride if n == 0 else 1, dilation=dilation) for b in candidates)
                for n, candidates in enumerate(stage)
            )
            for stage, (stride, dilation) in zip(arch.stages, spatial, strict=True)
        )
        return SuperArch(seed, stages)
    if output_stride not in OUTPUT_STRIDES or output_stride > arch.output_stride:
        raise FnaError(
            f"output stride {output_stride} is not possible; choose 8, 16 or 32, at most {arch.output_stride}"
        )
    if arch.output_stride == output_stride:
        return arch
    if arch.output_stride != 32:
        raise FnaError(f"the network already has output stride {arch.output_stride}; start from the undilated one")
    stride = arch.stem.stride * (2 if arch.stem.max_pool else 1)
    dilation = 1
    dilated = []
    for stage in arch.stages:
        if stage[0].stride == 2:
            if stride == output_stride:
                dilation *= 2
            else:
                stride *= 2
        lost = dilation > 1
        dilated.append([replace(b, stride=1 if lost else b.stride, dilation=dilation) for b in stage])
    return replace(with_blocks(arch, dilated), output_stride=output_stride)


def with_taps(arch: A) -> A:
    """Tap the expansion of the first block of the last strided stage, as SSDLite does (arXiv:1801.04381, section 6.2).

    A ResNet has no expansions and is returned as it is.

    Raises:
        FnaError: that block is an mbconv of expansion 1.
    """
    if isinstance(arch, SuperArch):
        return SuperArch(with_taps(arch.seed), arch.stages)
    stage = max(s for s, blocks in enumerate(arch.stages) if blocks[0].stride == 2)
    first = arch.stages[stage][0]
    if first.kind != "mbconv":
        return arch
    if first.expansion == 1:
        raise FnaError(
            f"SSDLite reads the expansion of the first block of stage {stage}, but that block has none; choose another "
            "seed, or the model retinanet"
        )
    return replace(arch, taps=(stage,))


def padded(arch: Arch | SuperArch, size_hw: tuple[int, int]) -> tuple[int, int]:
    """Return the size at which a network on `arch` runs an image.

    Where a side is no multiple of a stride, TensorFlow's ``SAME`` padding moves the maps: at 240 pixels they lie half a
    cell lower than at 256. So that a network sees things in one place at every size, in training and later, images for
    a backbone with that padding are first padded bottom and right to multiples of `MULTIPLE`.

    Args:
        arch: the backbone.
        size_hw: size of the image.
    """
    seed = arch.seed if isinstance(arch, SuperArch) else arch
    if seed.padding != "same":
        return size_hw
    height, width = size_hw
    return -(-height // MULTIPLE) * MULTIPLE, -(-width // MULTIPLE) * MULTIPLE


def levels(arch: Arch) -> tuple[int, ...]:
    """Return, per resolution level of the classification network, the last stage of that level.

    A level begins where the stride is 2, or where `with_output_stride` turned a stride into dilation. MobileNetV2 has
    levels of stride 2, 4, 8, 16, 32: stages 0, 1, 2, 4, 6.
    """
    last: list[int] = []
    dilation = 1
    for s, stage in enumerate(arch.stages):
        begins = stage[0].stride == 2 or stage[0].dilation > dilation
        if begins or not last:
            last.append(s)
        else:
            last[-1] = s
        dilation = stage[0].dilation
    return tuple(last)


# --- JSON -------------------------------------------------------------------------------------------


def _from_json(cls: Any, data: Any) -> Any:
    if not isinstance(data, dict):
        raise FnaError(f"expected a {cls.__name__} as a JSON object, got {type(data).__name__}")
    names = {f.name for f in fields(cls)}
    for key in data:
        if key not in names:
            raise FnaError(f"unknown key '{key}' in a {cls.__name__}{nearest(key, names)}; known: {', '.join(names)}")
    values = dict(data)
    try:
        if cls is Arch:
            values["stem"] = _from_json(Stem, values["stem"])
            values["stages"] = tuple(tuple(_from_json(Block, b) for b in stage) for stage in values["stages"])
            values["taps"] = tuple(values.get("taps", ()))
        return cls(**values)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise FnaError(f"not a valid {cls.__name__}: {error}") from error
