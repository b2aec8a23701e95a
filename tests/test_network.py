"""Networks of a task: what every size of image has in common."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fna.arch import Arch, Block, Stem, SuperArch
from fna.nets.network import Backbone, Model, feature_info
from fna.nets.supernet import SuperBackbone
from fna.tasks.heads import DeepLabV3Head

BLOCKS = tuple((Block("mbconv", 8, 8, kernel=5, stride=2, expansion=2),) for _ in range(4))
SAME = Arch(Stem(8), ((Block("mbconv", 8, 8),), *BLOCKS), padding="same")


class Last(nn.Module):
    """A head that hands on the last map."""

    def forward(self, features: list[Tensor], size_hw: tuple[int, int]) -> dict[str, Tensor]:
        return {"map": features[-1]}


@pytest.mark.parametrize("space", [False, True], ids=["network", "super network"])
@pytest.mark.parametrize("side", [33, 40, 47, 48, 60])
def test_maps_do_not_move_with_the_size_of_the_image(side: int, space: bool) -> None:
    """What lies right of and below the image is 0 in both, so the maps are equal, not only alike."""
    torch.manual_seed(0)
    arch = SuperArch(SAME, tuple(tuple((block,) for block in stage) for stage in SAME.stages))
    model = Model(SuperBackbone(arch) if space else Backbone(SAME), Last()).eval()
    choice = (0,) * 5 if space else None
    image = torch.randn(1, 3, side, side)
    padded = torch.zeros(1, 3, 64, 64)
    padded[..., :side, :side] = image
    assert torch.equal(model(image, choice)["map"], model(padded, choice)["map"])


@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_every_pixel_has_a_score_and_symmetric_padding_is_left_alone(padding: str) -> None:
    arch = replace(SAME, padding=padding)
    model = Model(Backbone(arch), DeepLabV3Head(feature_info(arch), 3, 8)).eval()
    image = torch.randn(2, 3, 50, 70)
    scores = model(image)
    assert scores.shape == (2, 3, 50, 70)
    plain = model.head(model.backbone(image), (50, 70))
    assert torch.equal(scores, plain) == (padding == "symmetric")
