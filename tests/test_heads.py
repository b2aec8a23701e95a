"""Segmentation heads: the paper's counts, their outputs, and what training asks of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fna.arch import with_output_stride
from fna.arch.net_config import from_net_config
from fna.cost.madds import Cost, model_cost
from fna.errors import FnaError
from fna.nets.network import FeatureInfo, feature_info
from fna.nets.upsampling import upsample
from fna.tasks.heads import RATES, DeepLabV3Head, DeepLabV3PlusHead, ImagePooling

CHANNELS, STRIDES = (6, 8, 12, 20, 32), (2, 4, 8, 16, 16)
INFO = tuple(FeatureInfo(c, s, i) for i, (c, s) in enumerate(zip(CHANNELS, STRIDES, strict=True)))
HEADS: dict[str, Callable[[], nn.Module]] = {
    "deeplabv3": lambda: DeepLabV3Head(INFO, classes=5, channels=16),
    "deeplabv3plus": lambda: DeepLabV3PlusHead(INFO, classes=5, channels=16, low_channels=4),
}


def features(n: int = 2, size_hw: tuple[int, int] = (97, 130)) -> list[Tensor]:
    """Random features as a backbone gives them, channels_last."""
    generator = torch.Generator().manual_seed(0)
    sides = [[-(-side // info.stride) for side in size_hw] for info in INFO]
    maps = [torch.randn(n, info.channels, *hw, generator=generator) for info, hw in zip(INFO, sides, strict=True)]
    return [m.to(memory_format=torch.channels_last) for m in maps]


@pytest.fixture(params=HEADS)
def head(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    module = HEADS[request.param]()
    module.to(memory_format=torch.channels_last)
    return module


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("before", "after"), [((7, 9), (97, 130)), ((1, 1), (5, 3)), ((6, 8), (6, 8)), ((9, 8), (4, 3))]
)
def test_upsampling_in_training_is_the_librarys(
    before: tuple[int, int], after: tuple[int, int], layout: torch.memory_format, dtype: torch.dtype
) -> None:
    x = (
        torch.randn(2, 3, *before, generator=torch.Generator().manual_seed(0))
        .to(dtype)
        .contiguous(memory_format=layout)
    )
    x.requires_grad_()
    ours, theirs = (upsample(x, after, training) for training in (True, False))
    assert ours.is_contiguous(memory_format=layout) or before == (1, 1)  # which lies either way
    torch.testing.assert_close(ours, theirs)
    direction = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    torch.testing.assert_close(*(torch.autograd.grad(y, x, direction)[0] for y in (ours, theirs)))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(upsample(x, after, True), ours)


@pytest.mark.parametrize("row", range(4))
def test_counts_are_the_papers(shared: Path, row: int) -> None:
    rows = json.loads((shared / "golden" / "paper_rows.json").read_text())
    golden = [r for r in rows if r["model"].startswith("deeplab")][row]
    archs = json.loads((shared / "golden" / "archs.json").read_text())
    output_stride = 8 if golden["model"].endswith("OS8") else 16
    arch = with_output_stride(from_net_config(archs[golden["arch"]]["net_config"]), output_stride)
    kind = DeepLabV3PlusHead if "plus" in golden["model"] else DeepLabV3Head
    with torch.device("meta"):
        module = kind(feature_info(arch), 19, rates=[rate * 16 // output_stride for rate in RATES])
    cost = model_cost(arch, module, tuple(golden["size_hw"]))
    assert (cost.params, round(cost.madds / 1e3)) == (golden["exact_params"], golden["exact_madds_K"])
    if row == 0:
        assert cost == Cost(2_567_507, 24_521_711_616)


def test_logits_have_the_size_of_the_image(head: nn.Module) -> None:
    logits = head(features(), (97, 130))
    assert logits.shape == (2, 5, 97, 130)
    assert logits.dtype == torch.float32
    assert logits.is_contiguous()


def test_training_starts_undecided_and_reaches_every_parameter(head: nn.Module) -> None:
    logits = head(features(4), (97, 130))
    loss = nn.functional.cross_entropy(logits, torch.zeros(4, 97, 130, dtype=torch.long))
    assert loss.item() == pytest.approx(math.log(5), abs=0.1)
    loss.backward()
    # A bias before a norm shifts nothing: the one gradient that is zero by construction (DeepLabv3+, paper's count).
    dead = [name for name, p in head.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-7]
    assert dead == (["decoder.1.0.bias"] if isinstance(head, DeepLabV3PlusHead) else [])


def test_one_image_trains_and_leaves_the_pooling_statistics_alone(head: nn.Module) -> None:
    head.train()
    head(features(1), (97, 130)).sum().backward()
    state = head.state_dict()
    assert torch.equal(state["aspp.pooling.norm.running_mean"], torch.zeros(16))
    assert state["aspp.pooling.norm.num_batches_tracked"] == 0
    assert state["aspp.project.1.num_batches_tracked"] == 1


def test_image_pooling_is_plain_batch_norm_otherwise() -> None:
    pooling = ImagePooling(3, 4)
    x = torch.randn(5, 3, 6, 7, generator=torch.Generator().manual_seed(1))
    norm = nn.BatchNorm2d(4)
    reference = nn.Sequential(nn.AdaptiveAvgPool2d(1), pooling.conv, norm, nn.ReLU())
    assert torch.allclose(pooling(x), reference(x), atol=1e-6)
    assert torch.equal(pooling.norm.get_buffer("running_var"), norm.get_buffer("running_var"))
    pooling.eval()
    reference.eval()
    assert torch.allclose(pooling(x[:1]), reference(x[:1]), atol=1e-6)
    assert torch.equal(pooling.train()(x[:1]), pooling.eval()(x[:1]))


def test_image_pooling_reaches_every_position(head: nn.Module) -> None:
    """A change in one corner moves the logits in the opposite one, beyond the reach of the atrous branches."""
    head.eval()
    size_hw = (97, 260)
    changed = features(1, size_hw)
    changed[-1][:, :, 0, 0] += 100
    before, after = head(features(1, size_hw), size_hw), head(changed, size_hw)
    assert not torch.equal(before[:, :, -1, -1], after[:, :, -1, -1])


def test_maps_stay_channels_last(head: nn.Module) -> None:
    seen: dict[str, Tensor] = {}
    for name, part in head.named_modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_pre_hook(lambda _, args, name=name: seen.__setitem__(name, args[0]))
    head(features(), (97, 130))
    assert seen["aspp.project.0"].shape[1] == 5 * 16
    assert [n for n, x in seen.items() if not x.is_contiguous(memory_format=torch.channels_last)] == []


def test_bfloat16_autocast_gives_float32_logits_nearby(head: nn.Module) -> None:
    head.eval()
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(features(), (97, 130))
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, head(features(), (97, 130)), atol=0.05)


def test_deeplabv3plus_needs_features_of_stride_4() -> None:
    with pytest.raises(FnaError, match=r"stride 4, the backbone has strides \[2, 8, 16\]; choose model deeplabv3"):
        DeepLabV3PlusHead((INFO[0], INFO[2], INFO[3]), classes=5)
