"""1x1 convolutions as matrix products, on a GPU and where weights are frozen: the networks are the same."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from test_cpu import CPU, META, classes, detector, images
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fna.training.compute import Compute
from fna.training.distributed import World
from fna.training.pointwise import PointwiseConv2d, as_product

GPU = Compute(torch.device("cuda"), None, True, World())  # named, not used


class Convolutions(TorchDispatchMode):
    """Notes the kernels of the convolutions that run."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            self.kernels.append(tuple(args[1].shape[2:]))
        return func(*args, **(kwargs or {}))


def results(conv: nn.Conv2d, x: Tensor) -> list[Tensor]:
    """Return the output and the gradients of input, weight and bias."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = conv(x)
    wanted = [x, *conv.parameters()]
    return [y, *torch.autograd.grad(y.square().sum(), wanted)]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("side", [1, 5])
@pytest.mark.parametrize("last", [True, False])
def test_a_matrix_product_is_the_convolution(bias: bool, side: int, last: bool) -> None:
    layout = torch.channels_last if last else torch.contiguous_format
    plain = nn.Conv2d(6, 10, 1, bias=bias, dtype=torch.float64).to(memory_format=layout)
    mended = copy.deepcopy(plain)
    as_product(mended, always=True)
    assert type(mended) is PointwiseConv2d
    x = torch.randn(3, 6, side, side + 1, dtype=torch.float64).contiguous(memory_format=layout)
    expected, found = results(plain, x), results(mended, x)
    assert found[0].is_contiguous(memory_format=layout)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("other", [{"kernel_size": 3}, {"stride": 2}, {"groups": 2}, {"padding": 1}])
def test_other_convolutions_stay(other: dict[str, int]) -> None:
    conv = nn.Conv2d(4, 4, **{"kernel_size": 1, **other})
    as_product(conv, always=True)
    assert type(conv) is nn.Conv2d


def test_a_placed_network_is_the_same_network() -> None:
    plain = detector().eval()
    placed = copy.deepcopy(plain)
    GPU.mended(placed)
    assert list(plain.state_dict()) == list(placed.state_dict())
    with torch.no_grad():
        expected, found = plain(images()), placed(images())
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-4, atol=1e-5)


def test_no_1x1_convolution_is_left_to_the_library() -> None:
    """On the CPU, since convolutions of the meta device do not say how their outputs lie."""
    assert PointwiseConv2d in classes(META.place(detector()))
    model = detector().to(memory_format=torch.channels_last)
    with Convolutions() as plain:
        model(images())
    GPU.mended(model)
    with Convolutions() as ran:
        model(images())
    assert ran.kernels == [kernel for kernel in plain.kernels if kernel != (1, 1)] != plain.kernels


@pytest.mark.parametrize("frozen", [True, False])
def test_on_a_cpu_a_frozen_weight_keeps_no_input(frozen: bool) -> None:
    conv = CPU.place(nn.Conv2d(6, 10, 1, bias=False)).requires_grad_(not frozen)
    assert type(conv) is PointwiseConv2d
    assert not conv.always
    assert GPU.mended(copy.deepcopy(conv)).always
    x = torch.randn(3, 6, 4, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        y = conv(x)
    assert any(tensor.numel() == x.numel() for tensor in kept) is not frozen
    (found,) = torch.autograd.grad(y.square().sum(), x)
    (expected,) = torch.autograd.grad(nn.functional.conv2d(x, conv.weight).square().sum(), x)
    torch.testing.assert_close(found, expected)
