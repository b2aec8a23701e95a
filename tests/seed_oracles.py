"""Random networks, and whether a seed computes the same as one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fna.nets.network import Classifier
from fna.seeds import Seed

State = dict[str, Tensor]


def random_network(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a network with random weights and norms: fresh norms (1, 0, 0, 1) would hide exchanged tensors.

    It is built on the meta device, because libraries draw all weights twice.
    """
    with torch.device("meta"):
        model = build()
    model.to_empty(device="cpu")
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.running_var):
                    tensor.uniform_(0.5, 1.5, generator=rng)
                for tensor in (module.bias, module.running_mean):
                    tensor.uniform_(-0.4, 0.4, generator=rng)
                module.num_batches_tracked.zero_()
            elif isinstance(module, nn.Conv2d | nn.Linear):
                bound = (3 / module.weight[0].numel()) ** 0.5
                module.weight.uniform_(-bound, bound, generator=rng)
                if module.bias is not None:
                    module.bias.uniform_(-bound, bound, generator=rng)
    return model.eval()


def classifier(seed: Seed) -> Classifier:
    """Build a seed's network."""
    with torch.device("meta"):
        model = Classifier(seed.arch)
    assert seed.state is not None
    model.load_state_dict(seed.state, assign=True)
    return model.eval()


def assert_same_function(seed: Seed, oracle: nn.Module) -> None:
    """Compare scores at an even and an odd size, to 1e-5 of the largest."""
    model = classifier(seed)
    for size in (64, 47):
        images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(size))
        with torch.no_grad():
            expected, scores = oracle(images), model(images)
        assert expected.std() > 0
        assert (scores - expected).abs().max() <= 1e-5 * expected.abs().max()
