"""Candidates of a layer that share weights: each is a slice of the largest one, so that a step of any trains all."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fna.nets.supernet import MixedOp


def tie(model: nn.Module) -> int:
    """Let the candidates of every layer share the convolution weights of its largest.

    A candidate is tied where remapping made it a slice of the largest: the first channels, the taps in the middle. What
    is made otherwise (other rules of width or kernel, groups) keeps weights of its own, and every candidate its norms,
    as in slimmable networks (arXiv:1812.08928). Nothing changes in names, shapes or values; two tied parameters are two
    views of one memory, each with its gradient and its state in the optimizer.

    Args:
        model: a super network on its device, its weights loaded: to move it would part what is tied.

    Returns:
        How many candidates are tied to another.
    """
    return sum(_tie(op) for op in model.modules() if isinstance(op, MixedOp))


def _tie(op: MixedOp) -> int:
    candidates = [_weights(op.candidate(index)) for index in range(len(op.labels))]
    largest = max(candidates, key=lambda weights: sum(w.numel() for w in weights.values()))
    tied = 0
    for weights in candidates:
        if weights is largest or not weights or not set(weights) <= set(largest):
            continue
        parts = {name: middle(largest[name].data, w) for name, w in weights.items()}
        if all(part.shape == weights[name].shape and torch.equal(part, weights[name]) for name, part in parts.items()):
            for name, part in parts.items():
                weights[name].data = part
            tied += 1
    return tied


def _weights(block: nn.Module) -> dict[str, nn.Parameter]:
    """Return a block's convolution weights by name."""
    return {name: p for name, p in block.named_parameters() if p.ndim == 4}


def middle(weight_OIHW: Tensor, like_OIHW: Tensor) -> Tensor:
    """Return a view of a weight as large as another: its first channels, the taps in the middle."""
    out, inputs, height, width = like_OIHW.shape
    top, left = (weight_OIHW.shape[2] - height) // 2, (weight_OIHW.shape[3] - width) // 2
    return weight_OIHW[:out, :inputs, max(top, 0) : top + height, max(left, 0) : left + width]
