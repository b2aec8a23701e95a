"""Peak activation memory: the bytes of all maps that are alive at once during a forward pass, told without a number.

Counted are the tensors that eager PyTorch keeps while the network runs one float32 image in evaluation mode: the image,
what each operation reads and writes, the input of a residual sum, features that wait for the head. Weights, buffers and
constants that are made once (anchors) are not, nor what a kernel needs inside. An operation in place writes to what it
reads; a tensor dies with its last reference in the code of `nets` and of the head, as it does on a real device.

The peak of a network is a maximum, not a sum: that of the layer, stem or head that has most alive while it runs.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fna.arch import Arch, Block, SuperArch, levels
from fna.cost.latency import placed
from fna.cost.madds import CostTable, SizeHW, feature_shapes
from fna.nets.blocks import build_block
from fna.nets.network import build_pool, build_stem


class LiveMaps(TorchDispatchMode):
    """Inside, follows the storages that operations make, from when they are made until they are freed.

    Attributes:
        now: bytes of those that are alive.
        peak: the most there has been.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation; what it returns and has not been given is new."""
        output = func(*args, **(kwargs or {}))
        known = {storage._cdata for storage in _storages((args, kwargs))}
        made = output[0] if func is torch.ops.aten.native_batch_norm.default else output  # moments are of training
        for storage in _storages(made):
            if storage._cdata not in known:
                known.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._free, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return output

    def _free(self, size: int) -> None:
        self.now -= size


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


@torch.no_grad()
def peak_made(run: Callable[..., Any], *inputs: Any) -> int:
    """Return the most bytes that a call has alive at once beside its inputs.

    Args:
        run: a module in evaluation mode, or a function.
        inputs: its arguments.
    """
    maps = LiveMaps()
    with maps:
        run(*inputs)
    return maps.peak


def network_peak(arch: Arch, head: nn.Module | None, size_hw: SizeHW) -> int:
    """Return the peak of a whole network, in bytes.

    Args:
        arch: the backbone, at the output stride it runs with.
        head: see `rest_peak`.
        size_hw: size of the image.
    """
    peaks = (row[0] for row in peak_table(SuperArch.of(arch), size_hw))
    return max(rest_peak(arch, head, size_hw), *peaks)


def peak_table(space: SuperArch, size_hw: SizeHW) -> CostTable:
    """Return the bytes that are alive at most while each candidate of each layer runs, 0 for a skip; see `cost_table`.

    Beside what the block itself makes these are the image, the block's input, and features that the head will read.
    """
    taps, last = space.seed.taps, levels(space.path_arch([0] * sum(1 for _ in space.layers())))
    held, table = _nbytes(3, size_hw), []
    for ((s, n), _), (candidates, in_hw) in zip(space.layers(), placed(space, size_hw), strict=True):
        inputs = _nbytes(candidates[0].in_channels, in_hw)
        made = (block_peak(block, in_hw, space.seed) for block in candidates)
        table.append([held + inputs + peak if peak else 0 for peak in made])
        if n == 0 and s - 1 in last:  # the block's input is a feature map
            held += inputs
        if n == 0 and s in taps:
            held += _nbytes(candidates[0].hidden_channels, in_hw)
    return table


def block_peak(block: Block, size_hw: SizeHW, arch: Arch) -> int:
    """Return what `peak_made` finds for a block; 0 for a skip.

    Args:
        block: of any kind.
        size_hw: size of its input.
        arch: of its activation and padding.
    """
    if block.stride == 1 or arch.padding != "same":  # else its input is padded by as much as the kernel is large
        block = replace(block, kernel=3, dilation=1)
    return _block_peak(block, size_hw, arch.activation, arch.padding)


@lru_cache(maxsize=2**14)
def _block_peak(block: Block, size_hw: SizeHW, activation: str, padding: str) -> int:
    with torch.device("meta"):
        module, x_1CHW = build_block(block, activation, 0.0, padding).eval(), _map(block.in_channels, size_hw)
    return peak_made(module, x_1CHW)


def rest_peak(arch: Arch, head: nn.Module | None, size_hw: SizeHW) -> int:
    """Return the bytes that are alive at most while the stem or the head runs.

    Args:
        arch: the backbone, at the output stride it runs with.
        head: on the meta device, called as ``head(features, size_hw)``; None: there is none.
        size_hw: size of the image.
    """
    with torch.device("meta"):
        stem, image = build_stem(arch).eval(), _map(3, size_hw)
        features = [_map(channels, at_hw) for channels, at_hw in feature_shapes(arch, size_hw)]
    pool = build_pool(arch)
    peak = peak_made(lambda x: pool(stem(x)), image)
    if head is not None:
        head.eval()(features, size_hw)  # what it makes but once is made
        peak = max(peak, sum(feature.nbytes for feature in features) + peak_made(head, features, size_hw))
    return image.nbytes + peak


def _map(channels: int, size_hw: SizeHW) -> Tensor:
    return torch.empty(1, channels, *size_hw, device="meta")


def _nbytes(channels: int, size_hw: SizeHW) -> int:
    return _map(channels, size_hw).nbytes
