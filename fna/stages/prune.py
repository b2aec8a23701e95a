"""Structural pruning by Torch-Pruning: a network that is trained already, made cheaper without a search; a control."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from fna.arch import Arch, Block
from fna.arch.target import Target
from fna.cost.costs import find_measure
from fna.cost.units import with_unit
from fna.errors import FnaError, pick
from fna.nets.weights import Network, cpu_state, load_weights
from fna.progress import say
from fna.searching.choosing import NoControlError
from fna.tasks.problem import Problem
from fna.training.batches import Stream
from fna.training.compute import Compute
from fna.training.engine import Batch

MOST = 0.95  # share of the channels of a layer that may go
IMPORTANCES = {  # how channels are ranked -> the class of torch_pruning.importance
    "taylor": "GroupTaylorImportance",
    "norm": "GroupMagnitudeImportance",
}
Batches = Iterator[tuple[Batch, Tensor]]


def prune(
    network: Network[Arch],
    problem: Problem,
    data: Any,
    compute: Compute,
    limit: int,
    cost: str = "madds",
    importance: str = "taylor",
    steps: int = 100,
) -> Network[Arch]:
    """Take channels away from a fine-tuned network until it costs no more than a limit.

    Channels of the whole backbone (the stem's, those between blocks, those inside) are ranked together by
    Torch-Pruning's group importance and go in equal steps; the head's, ranked layer by layer, go in proportion,
    so that it stays one of the task's heads. Layers, kernels and the input's size stay. What is left is an architecture
    like any other.

    Args:
        network: fine-tuned, of MBConv blocks.
        problem: what it is for, at scale 1.
        data: the training split, of which each step's gradients are taken (``taylor``).
        compute: hardware.
        limit: the most the whole network may cost.
        cost: the unit of the limit: a name of `cost.costs.COSTS`.
        importance: ``taylor``, the first-order change of the loss, or ``norm``, the weights' L2 norm.
        steps: those from all channels to none.

    Raises:
        FnaError: Torch-Pruning is not installed.
        NoControlError: the network has other blocks, or cannot become as cheap.
    """
    tp, kind = load_library(), pick(IMPORTANCES, importance, "importance")
    if any(block.kind not in ("mbconv", "skip") for _, block in network.arch.layers()):
        raise NoControlError("pruning takes networks of mbconv blocks, whose widths are free; a ResNet's are not")
    own = problem.at(network)
    model = own.build(network.arch)
    load_weights(model, network.state, "the network to prune")
    compute.place(model).eval()
    x = torch.zeros(1, 3, *own.config.data.crop, device=compute.device)
    pruner = tp.pruner.BasePruner(
        model,
        x,
        getattr(tp.importance, kind)(),
        global_pruning=True,
        pruning_ratio=1.0,
        max_pruning_ratio=MOST,
        iterative_steps=steps,
        ignored_layers=[part for part in model.head.modules() if _mixes(part)],
        in_channel_groups={},
        out_channel_groups={},
    )
    size = own.config.adapt.at_once
    batches = Stream(own, data, range(len(data)), size, "prune", compute).batches(0, steps)
    for step in range(1, steps):
        if importance == "taylor":
            _differentiate(model, own, next(batches), compute)
        pruner.step()
        width = network.head_width * (1 - step / steps)
        form = network.form._replace(head_width=width)
        _narrow(pruner, model.head, problem.at(form).meta_head(network.arch))
        target = Target(shrunk(network.arch, model.backbone), *form)
        spent = problem.at(target).whole(target.arch, cost)
        if spent <= limit:
            say(f"prune: {with_unit(spent, find_measure(cost).unit)} after {step} of {steps} steps")
            return Network(target.arch, cpu_state(model), *target.form)
    raise NoControlError(
        f"a network pruned to {1 - MOST:.0%} of its channels still costs more than "
        f"{with_unit(limit, find_measure(cost).unit)}; give a larger budget"
    )


def load_library() -> Any:
    """Return Torch-Pruning.

    Raises:
        FnaError: it is not installed.
    """
    if find_spec("torch_pruning") is None:
        raise FnaError("pruning needs Torch-Pruning; install it: pip install 'fna[pruning]'")
    import torch_pruning

    return torch_pruning


def _mixes(part: nn.Module) -> bool:
    """Tell whether a module is a convolution that is not depthwise, whose channels are its own."""
    return isinstance(part, nn.Conv2d | nn.ConvTranspose2d) and part.groups == 1


def _differentiate(model: nn.Module, problem: Problem, batch: tuple[Batch, Tensor], compute: Compute) -> None:
    """Leave the gradients of a batch's mean loss in a model."""
    truth, images_N3HW = batch
    model.zero_grad()
    with compute.autocast():
        output = model(images_N3HW)
    total, number = problem.loss(output, truth)
    (total / torch.as_tensor(number).clamp(min=1)).backward()
    for parameter in model.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def _narrow(pruner: Any, head: nn.Module, wanted: nn.Module) -> None:
    """Take the least important channels of every layer of a head that has more than that of a narrower head."""
    for name, part in head.named_modules():
        excess = _out(part) - _out(wanted.get_submodule(name)) if _mixes(part) else 0
        if excess > 0:
            take = pruner.DG.get_pruner_of_module(part).prune_out_channels
            whole = pruner.DG.get_pruning_group(part, take, list(range(_out(part))))
            least = pruner.estimate_importance(whole).argsort()[:excess]
            pruner.DG.get_pruning_group(part, take, least.tolist()).prune()


def _out(conv: Any) -> int:
    return int(conv.out_channels)


def shrunk(arch: Arch, backbone: Any) -> Arch:
    """Return the architecture of a backbone on `arch` whose convolutions have become narrower."""
    channels = _out(backbone.stem.conv)
    stem, stages = replace(arch.stem, out_channels=channels), []
    for blocks, modules in zip(arch.stages, backbone.stages, strict=True):
        stage = []
        for block, module in zip(blocks, modules, strict=True):
            stage.append(_shrunk(block, channels, module))
            channels = stage[-1].out_channels
        stages.append(tuple(stage))
    return replace(arch, stem=stem, stages=tuple(stages))


def _shrunk(block: Block, channels: int, module: Any) -> Block:
    """Return a block that reads so many channels, as wide inside and at its end as its module."""
    if block.kind == "skip":
        return replace(block, in_channels=channels, out_channels=channels)
    hidden, expansion = _out(module.depthwise), block.expansion
    if expansion != 1:  # with an expansion convolution, of any width: exactly 1 would mean none
        expansion = (hidden if hidden != channels else hidden + 0.25) / channels
    return replace(block, in_channels=channels, out_channels=_out(module.project), expansion=expansion)
