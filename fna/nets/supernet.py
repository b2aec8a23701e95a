"""The super network: every candidate of every layer in one module, of which a step runs one path or a mixture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from fna.arch import Candidates, SuperArch
from fna.errors import FnaError
from fna.nets.blocks import build_block
from fna.nets.network import Backbone, Model, build_pool, build_stem, feature_info, initialise


@dataclass(frozen=True)
class Mixture:
    """A weighted sum of candidates: ``indices[j]`` with ``weights[j]``, a tensor that may need gradients."""

    indices: tuple[int, ...]
    weights: Tensor


Choice = Sequence["int | Mixture"]  # what each layer runs, one entry a layer


class MixedOp(nn.Module):
    """One layer of the super network: its candidate blocks, by label."""

    def __init__(self, candidates: Candidates, act: str, norm_eps: float, padding: str) -> None:
        super().__init__()
        self.labels = tuple(block.label for block in candidates)
        for block in candidates:
            self.add_module(block.label, build_block(block, act, norm_eps, padding))

    def forward(self, x_NCHW: Tensor, choice: int | Mixture) -> Tensor:
        """Run one candidate, or the weighted sum of several.

        With every candidate and the weights softmax(alpha) this is the relaxed layer of the article.

        Implements: FNA++ Eq. (7).
        """
        if isinstance(choice, int):
            out: Tensor = self.candidate(choice)(x_NCHW)
            return out
        return _weighted([self.candidate(index)(x_NCHW) for index in choice.indices], choice.weights)

    def tapped(self, x_NCHW: Tensor, choice: int | Mixture) -> tuple[Tensor, Tensor]:
        """Return the expansion of mbconv candidates, which all have the same width, and what `forward` returns."""
        if isinstance(choice, int):
            choice = Mixture((choice,), x_NCHW.new_ones(1))
        blocks = [self.candidate(index) for index in choice.indices]
        expansions = [block.expanded(x_NCHW) for block in blocks]
        outputs = [block.contracted(x_NCHW, y) for block, y in zip(blocks, expansions, strict=True)]
        return _weighted(expansions, choice.weights), _weighted(outputs, choice.weights)

    def candidate(self, index: int) -> Any:
        """Return the module of a candidate."""
        return self._modules[self.labels[index]]


def _weighted(maps: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Return the weighted sum of the outputs of a layer's candidates."""
    total: Tensor | None = None
    for y, weight in zip(maps, weights, strict=True):
        weight = weight.to(y.dtype)
        total = y * weight if total is None else torch.addcmul(total, y, weight)
    assert total is not None, "a mixture has at least one candidate"
    return total


class SuperBackbone(nn.Module):
    """The super network as a multi-scale backbone; weights are named ``stages.S.N.LABEL.*``.

    A forward pass builds and touches only what `choice` names: its time and memory follow the path, not the space.
    """

    def __init__(self, arch: SuperArch) -> None:
        super().__init__()
        seed = arch.seed
        self.arch = arch
        self.feature_info = feature_info(arch.path_arch([0] * sum(1 for _ in arch.layers())))
        self.stem = build_stem(seed)
        self.pool = build_pool(seed)
        self.stages = nn.ModuleList(
            nn.ModuleList(MixedOp(layer, seed.activation, seed.norm_eps, seed.padding) for layer in stage)
            for stage in arch.stages
        )
        initialise(self)

    def forward(self, x_N3HW: Tensor, choice: Choice) -> list[Tensor]:
        """Return the feature maps described by `feature_info`, finest first.

        Args:
            x_N3HW: normalised images.
            choice: one entry per layer, fixed layers included: a candidate's index, or a `Mixture`.
        """
        features = []
        x = self.pool(self.stem(x_N3HW))
        outputs = {info.stage for info in self.feature_info if not info.tap}
        layer = iter(choice)
        for s, stage in enumerate(self.stages):
            op: Any
            for n, op in enumerate(stage.children()):
                if n == 0 and s in self.arch.seed.taps:
                    tap, x = op.tapped(x, next(layer))
                    features.append(tap)
                else:
                    x = op(x, next(layer))
            if s in outputs:
                features.append(x)
        return features


def restrided(backbone: SuperBackbone, arch: SuperArch) -> SuperBackbone:
    """Return a super network's backbone at another output stride: its weights and norms, other strides and dilations.

    Args:
        backbone: on its device; what trains the one trains the other.
        arch: the same space at that stride.

    Raises:
        FnaError: a block has other weights there, as a ResNet's whose stride alone makes it project its input.
    """
    with torch.device("meta"):
        other = SuperBackbone(arch)
    if set(other.state_dict()) != set(backbone.state_dict()):
        stride = arch.seed.output_stride
        raise FnaError(f"blocks have other weights at output stride {stride}; leave it out of space.output_strides")
    for name, module in list(other.named_modules()):
        own = backbone.get_submodule(name)
        if isinstance(module, nn.Conv2d):
            module.weight = cast(nn.Conv2d, own).weight
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            other.set_submodule(name, own)
    return other


def path_network(model: Model, path: Sequence[int]) -> Model:
    """Return one path of a task's super network as a plain network, called without a choice.

    It shares parameters and buffers with the super network, and has no others: what trains, recalibrates or scores it
    touches the path only. Its weights have the names of the derived network, so that its state dict is what remapping
    would collect.

    Args:
        model: a model on a `SuperBackbone`.
        path: the candidate of each layer.
    """
    assert isinstance(model.backbone, SuperBackbone), "only a super network has paths"
    network = Model(path_backbone(model.backbone, path), model.head)
    network.training = model.training
    return network


def path_backbone(backbone: SuperBackbone, path: Sequence[int]) -> Backbone:
    """Return one path of a super network's backbone, as `path_network` does."""
    choice = iter(path)
    blocks = [[cast(MixedOp, op).candidate(next(choice)) for op in stage.children()] for stage in backbone.stages]
    plain = Backbone(backbone.arch.path_arch(path), backbone.stem, blocks)
    for part in (plain, plain.pool, plain.stages, *plain.stages):
        part.training = backbone.training
    return plain


def expected_cost(alphas: Sequence[Tensor], table: Sequence[Tensor]) -> Tensor:
    """Return the cost of the network in expectation over softmax(alpha), a scalar in the unit of `table`.

    Args:
        alphas: one vector per layer.
        table: the cost of each candidate, one vector per layer of the same lengths.

    Implements: FNA++ Eq. (9).
    """
    return torch.stack([(a.softmax(0) * cost).sum() for a, cost in zip(alphas, table, strict=True)]).sum()


def entropy(alphas: Sequence[Tensor]) -> list[float]:
    """Return per layer the entropy of softmax(alpha) over its maximum, 1 = undecided, 0 = decided (or fixed)."""
    values = []
    for a in alphas:
        p = a.detach().float().softmax(0)
        values.append(
            float(-(p * p.clamp_min(1e-12).log()).sum() / torch.tensor(float(len(p))).log()) if len(p) > 1 else 0.0
        )
    return values


@contextmanager
def frozen_weights(model: nn.Module) -> Iterator[None]:
    """Inside, weights get no gradient, and running statistics stay as they are; see `still_norms`."""
    weights = [p for p in model.parameters() if p.requires_grad]
    for p in weights:
        p.requires_grad_(False)
    try:
        with still_norms(model):
            yield
    finally:
        for p in weights:
            p.requires_grad_(True)


@contextmanager
def still_norms(model: nn.Module) -> Iterator[None]:
    """Inside, batch norms use batch statistics without touching their running ones."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for m in norms:
        m.track_running_stats = False
    try:
        yield
    finally:
        for m in norms:
            m.track_running_stats = True
