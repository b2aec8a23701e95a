"""RetinaNet: the paper's counts, and torchvision's detector as oracle on shared weights."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

import fna.config
from fna import config
from fna.arch import Arch, Block, Stem
from fna.arch.net_config import from_net_config
from fna.config import Config, DetectionEvaluateConfig
from fna.cost.madds import model_cost
from fna.nets.network import FeatureInfo, feature_info
from fna.tasks.retinanet import OCTAVE, RATIOS, STRIDES, RetinaNetHead, anchors, decode, loss

SIZE_HW, CLASSES, CHANNELS = (256, 384), 5, 16  # sides are multiples of 128: there torchvision's anchors are ours
INFO = tuple(FeatureInfo(c, s, i) for i, (c, s) in enumerate(zip((6, 8, 12, 20, 32), (2, 4, 8, 16, 32), strict=True)))
BATCH = {
    "boxes": [
        torch.tensor([[10.0, 12, 60, 80], [100, 30, 300, 200], [120, 120, 140, 150], [5, 200, 380, 250]]),
        torch.zeros(0, 4),
        torch.tensor([[0.0, 0, 384, 256]]),
    ],
    "labels": [torch.tensor([0, 4, 2, 2]), torch.zeros(0, dtype=torch.int64), torch.tensor([1])],
}


def resnet(kind: str, layers: tuple[int, ...]) -> Arch:
    """A ResNet as torchvision lays it out."""
    stages, before = [], 64
    for s, (width, n) in enumerate(zip((64, 128, 256, 512), layers, strict=True)):
        out = 4 * width if kind == "bottleneck" else width
        first = Block(kind, before, out, stride=1 if s == 0 else 2)
        stages.append((first, *[Block(kind, out, out)] * (n - 1)))
        before = out
    return Arch(Stem(64, kernel=7, max_pool=True), tuple(stages), activation="relu")


RESNETS = {"resnet18": resnet("basic", (2, 2, 2, 2)), "resnet50": resnet("bottleneck", (3, 4, 6, 3))}


@pytest.mark.parametrize("row", range(6))
def test_counts_are_the_papers(shared: Path, row: int) -> None:
    rows = json.loads((shared / "golden" / "paper_rows.json").read_text())
    golden = [r for r in rows if r["model"] == "retinanet"][row]
    archs = json.loads((shared / "golden" / "archs.json").read_text())
    name = golden["arch"]
    arch = RESNETS[name] if name in RESNETS else from_net_config(archs[name]["net_config"])
    with torch.device("meta"):
        head = RetinaNetHead(feature_info(arch), 80)
    cost = model_cost(arch, head, tuple(golden["size_hw"]))
    assert (cost.params, round(cost.madds / 1e3)) == (golden["exact_params"], golden["exact_madds_K"])


class Pyramid(nn.Module):
    """A backbone for torchvision whose maps are given."""

    out_channels = CHANNELS


def torchvision_twin(head: RetinaNetHead, **settings: Any) -> RetinaNet:
    """Torchvision's detector with the weights of `head` and its anchors."""
    sizes = tuple(tuple(4 * stride * octave for octave in OCTAVE) for stride in STRIDES)
    twin = RetinaNet(Pyramid(), CLASSES, anchor_generator=AnchorGenerator(sizes, (RATIOS,) * 5), **settings)
    twin.head.classification_head.load_state_dict(head.classification.state_dict())
    twin.head.regression_head.load_state_dict(head.regression.state_dict())
    return twin


def loud_head() -> RetinaNetHead:
    """A head whose weights are large enough for scores of every size."""
    torch.manual_seed(0)
    head = RetinaNetHead(INFO, CLASSES, CHANNELS)
    with torch.no_grad():
        for tower in (head.classification, head.regression):
            for layer in tower.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight)
        head.classification.cls_logits.bias.fill_(-1)
        head.regression.bbox_reg.weight.mul_(0.1)
    return head


def features(n: int) -> list[Tensor]:
    draws = torch.Generator().manual_seed(1)
    return [torch.randn(n, i.channels, *(side // i.stride for side in SIZE_HW), generator=draws) for i in INFO]


def both(n: int, **settings: Any) -> tuple[dict[str, Tensor], RetinaNet, dict[str, Tensor], list[Tensor]]:
    """Output of our head, torchvision's detector, the output of its head on the same pyramid, its anchors by image."""
    head, maps = loud_head(), features(n)
    twin = torchvision_twin(head, **settings)
    pyramid = list(head.fpn(OrderedDict((str(i), maps[i]) for i in head.levels)).values())
    images = ImageList(torch.zeros(n, 3, *SIZE_HW), [SIZE_HW] * n)
    return head(maps, SIZE_HW), twin, twin.head(pyramid), twin.anchor_generator(images, pyramid)


def test_head_and_anchors_are_torchvisions() -> None:
    output, _, expected, tiles = both(2)
    assert torch.equal(output["logits"], expected["cls_logits"])
    assert torch.equal(output["deltas"], expected["bbox_regression"])
    assert all(torch.equal(output["anchors"], t) for t in tiles)


def test_loss_is_torchvisions_before_it_is_normalised() -> None:
    output, twin, _, tiles = both(3)
    for i in range(3):
        one = {"cls_logits": output["logits"][i : i + 1], "bbox_regression": output["deltas"][i : i + 1]}
        truth = {name: values[i] for name, values in BATCH.items()}
        expected = twin.compute_loss([truth], one, tiles[:1])
        mine = {**output, "logits": one["cls_logits"], "deltas": one["bbox_regression"]}
        total, count = loss(mine, {name: values[i : i + 1] for name, values in BATCH.items()}, config.RetinaNet())
        assert (total / count.clamp_min(1)).item() == pytest.approx(sum(x.item() for x in expected.values()), rel=1e-5)
        assert (count > 0) == (i != 1)


@pytest.mark.parametrize("threshold", [0.05, 0.6, 0.999999])
def test_detections_are_torchvisions(threshold: float) -> None:
    settings = DetectionEvaluateConfig(score_threshold=threshold, nms=0.45, detections=70)
    output, twin, raw, tiles = both(2, score_thresh=threshold, nms_thresh=0.45, detections_per_img=70)
    cells = [9 * math.prod(-(-side // stride) for side in SIZE_HW) for stride in STRIDES]
    levels = {name: list(x.split(cells, 1)) for name, x in raw.items()}
    expected = twin.postprocess_detections(levels, [list(t.split(cells)) for t in tiles], [SIZE_HW] * 2)
    got = decode(output, SIZE_HW, Config(task=config.RetinaNet(), evaluate=settings))
    assert len(got) == 2
    assert len(got[0]["boxes"]) == (0 if threshold > 0.99 else 70)
    for mine, theirs in zip(got, expected, strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in ("boxes", "scores", "labels"))


def test_p6_comes_from_c5_even_where_the_pyramid_is_as_wide() -> None:
    """With as many channels in C5 as in the pyramid, torchvision would silently read P5."""
    head = RetinaNetHead(INFO, CLASSES, channels=INFO[-1].channels)
    maps = features(1)
    with torch.no_grad():
        before = head(maps, SIZE_HW)["logits"]
        for part in head.fpn.inner_blocks:
            nn.init.zeros_(part[0].weight)
        after = head(maps, SIZE_HW)["logits"]
    coarse = 9 * (4 * 6 + 2 * 3)  # P6 and P7
    assert torch.equal(before[:, -coarse:], after[:, -coarse:])
    assert not torch.equal(before[:, :-coarse], after[:, :-coarse])


@pytest.mark.parametrize("scale", [1, 8])  # of the features; those of EfficientNet-Lite0 are near 8
@pytest.mark.parametrize("channels", [64, 256])
def test_training_starts_at_the_prior(channels: int, scale: int) -> None:
    torch.manual_seed(0)
    output = RetinaNetHead(INFO, CLASSES, channels)([scale * x for x in features(1)], SIZE_HW)
    assert output["logits"].sigmoid().mean().item() == pytest.approx(0.01, rel=0.2)
    assert output["deltas"].std() < 1


@pytest.mark.parametrize("channels", [16, 64, 256])
def test_towers_pass_on_the_scale_of_the_pyramid(channels: int) -> None:
    torch.manual_seed(0)
    head = RetinaNetHead(INFO, CLASSES, channels)
    pyramid = torch.randn(2, channels, 16, 16)
    for tower in (head.classification.conv, head.regression.conv):
        assert 0.25 < tower(pyramid).std() < 2


def test_anchor_sides_and_centres() -> None:
    maps = [torch.empty(1, 1, -(-256 // s), -(-320 // s)) for s in STRIDES]
    found = anchors(maps, 3.0)
    assert len(found) == 9 * (32 * 40 + 16 * 20 + 8 * 10 + 4 * 5 + 2 * 3)
    sides, centres = found[:, 2:] - found[:, :2], (found[:, :2] + found[:, 2:]) / 2
    square = sides[3:6, 0].tolist()  # the ratio is the outer loop
    assert square == pytest.approx([24 * octave for octave in OCTAVE], abs=1)  # whole pixels to either side
    side_A = sides.prod(1).sqrt()
    ends = [side_A.min().item(), side_A.max().item()]
    assert fna.config.RetinaNet(anchor_scale=3.0).anchor_sides((256, 320)) == pytest.approx(ends, rel=0.05)
    assert (sides[0] / sides[0].flip(0)).tolist() == pytest.approx([2, 0.5], rel=0.1)
    assert centres[::9][:3].tolist() == [[0, 0], [8, 0], [16, 0]]
    assert centres[-1].tolist() == [256, 128]
    # The coarse levels keep their stride where the image's side is no multiple of it.
    assert centres[-9 * 6 :: 9].tolist() == [[x, y] for y in (0, 128) for x in (0, 128, 256)]
    assert (sides[-9:].prod(1).sqrt() / 128).tolist() == pytest.approx([3 * octave for octave in OCTAVE] * 3, rel=0.01)
