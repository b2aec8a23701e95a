"""SSDLite: the paper's counts, and torchvision's SSD as oracle on shared outputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import SSDMatcher
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

from fna.arch import Arch, Block, Stem, with_taps
from fna.arch.net_config import from_net_config
from fna.config import Config, DetectionEvaluateConfig, SSDLite
from fna.cost.madds import model_cost
from fna.nets.network import Backbone, Classifier, FeatureInfo, Model, feature_info
from fna.tasks.ssdlite import RATIOS, SCALES, Norm, SSDLiteHead, anchors, decode, head_start, loss

SIZE_HW, CLASSES = (256, 320), 4
INFO = (FeatureInfo(8, 8, 0), FeatureInfo(48, 16, 2, tap=True), FeatureInfo(12, 16, 1), FeatureInfo(16, 32, 2))
BATCH = {
    "boxes": [
        torch.tensor([[10.0, 12, 60, 80], [100, 30, 300, 200], [120, 120, 150, 150], [5, 200, 318, 250]]),
        torch.zeros(0, 4),
        torch.tensor([[0.0, 0, 320, 256]]),
    ],
    "labels": [torch.tensor([0, 3, 2, 2]), torch.zeros(0, dtype=torch.int64), torch.tensor([1])],
}


@pytest.mark.parametrize("name", ["mobilenet_v2", "fna_ssdlite"])
def test_counts_are_the_papers(shared: Path, name: str) -> None:
    rows = json.loads((shared / "golden" / "paper_rows.json").read_text())
    (golden,) = [r for r in rows if r["model"] == "ssdlite" and r["arch"] == name]
    archs = json.loads((shared / "golden" / "archs.json").read_text())
    arch = with_taps(from_net_config(archs[name]["net_config"]))
    with torch.device("meta"):
        head = SSDLiteHead(feature_info(arch), 80)
    cost = model_cost(arch, head, tuple(golden["size_hw"]))
    assert (cost.params, round(cost.madds / 1e3)) == (golden["exact_params"], golden["exact_madds_K"])


def output_of(n: int, spread: float = 1.0) -> dict[str, Tensor]:
    """Random logits and deltas on the anchors of 256x320."""
    draws = torch.Generator().manual_seed(1)
    sides = [(16, 20), (8, 10), (4, 5), (2, 3), (1, 2), (1, 1)]
    boxes = anchors([torch.empty(1, 1, *hw) for hw in sides], SIZE_HW)
    return {
        "logits": spread * torch.randn(n, len(boxes), CLASSES + 1, generator=draws),
        "deltas": torch.randn(n, len(boxes), 4, generator=draws),
        "anchors": boxes,
    }


def torchvision_twin(**settings: float) -> SSD:
    """Torchvision's detector; its backbone and head are not called."""
    boxes = DefaultBoxGenerator([list(r) for r in RATIOS], scales=SCALES)
    return SSD(nn.Identity(), boxes, SIZE_HW, CLASSES + 1, head=nn.Identity(), **settings)


def test_anchors_are_torchvisions() -> None:
    maps = [torch.empty(1, 1, *hw) for hw in [(16, 20), (8, 10), (4, 5), (2, 3), (1, 2), (1, 1)]]
    expected = torchvision_twin().anchor_generator(ImageList(torch.empty(1, 3, *SIZE_HW), [SIZE_HW]), maps)
    assert torch.equal(output_of(1)["anchors"], expected[0])
    side_A = (expected[0][:, 2:] - expected[0][:, :2]).prod(1).sqrt()
    ends = [side_A.min().item(), side_A.max().item()]
    assert SSDLite().anchor_sides(SIZE_HW) == pytest.approx(ends, rel=0.01)  # the largest are cut off at the image


@pytest.mark.parametrize("spread", [1.0, 5.0])
def test_loss_is_torchvisions_before_it_is_normalised(spread: float) -> None:
    output = output_of(3, spread)
    truths = [{"boxes": b, "labels": c + 1} for b, c in zip(BATCH["boxes"], BATCH["labels"], strict=True)]
    background = torch.full((len(output["anchors"]),), -1)
    matcher = SSDMatcher(0.5)
    matches = [matcher(box_iou(b, output["anchors"])) if len(b) else background for b in BATCH["boxes"]]
    raw = {"bbox_regression": output["deltas"], "cls_logits": output["logits"]}
    expected = torchvision_twin().compute_loss(truths, raw, [output["anchors"]] * 3, matches)
    total, count = loss(output, BATCH, SSDLite())
    assert int(count) == sum(int((m >= 0).sum()) for m in matches) > 10
    assert (total / count).item() == pytest.approx(sum(x.item() for x in expected.values()), rel=1e-5)


def test_three_negatives_to_a_positive_learn() -> None:
    output = output_of(3)
    output["logits"].requires_grad_()
    total, count = loss(output, BATCH, SSDLite())
    total.backward()
    assert output["logits"].grad is not None
    assert int(output["logits"].grad.any(2).sum()) == 4 * int(count)


def test_more_boxes_than_background_counts_no_anchor_twice() -> None:
    """Where three times the positives exceed what is left, every anchor learns once."""
    output = output_of(1, spread=0.0)
    everywhere = {"boxes": [output["anchors"].clone()], "labels": [torch.zeros(len(output["anchors"])).long()]}
    output["deltas"].zero_()
    total, count = loss(output, everywhere, SSDLite())
    assert int(count) > len(output["anchors"]) / 2
    assert total.item() == pytest.approx(len(output["anchors"]) * torch.tensor(5.0).log().item(), rel=1e-4)


@pytest.mark.parametrize("threshold", [0.05, 0.5, 0.999])
def test_detections_are_torchvisions(threshold: float) -> None:
    output = output_of(2)
    twin = torchvision_twin(score_thresh=threshold, nms_thresh=0.45, detections_per_img=90)
    raw = {"bbox_regression": output["deltas"], "cls_logits": output["logits"]}
    expected = twin.postprocess_detections(raw, [output["anchors"]] * 2, [SIZE_HW] * 2)
    settings = DetectionEvaluateConfig(score_threshold=threshold, nms=0.45, detections=90)
    got = decode(output, SIZE_HW, Config(task=SSDLite(), evaluate=settings))
    assert (len(got[0]["boxes"]) > 10) == (threshold < 0.9)
    for mine, theirs in zip(got, expected, strict=True):
        assert torch.equal(mine["scores"], theirs["scores"])
        assert torch.allclose(mine["boxes"], theirs["boxes"], atol=1e-4)
        assert torch.equal(mine["labels"], theirs["labels"] - 1)


def test_boxes_scale_with_the_image() -> None:
    maps = [torch.empty(1, 1, *hw) for hw in [(20, 20), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)]]
    at_320, at_300 = anchors(maps, (320, 320)), anchors(maps, (300, 300))
    assert torch.allclose(at_300, at_320 * 300 / 320, atol=1e-4)
    assert len(at_320) == 4 * 400 + 6 * (100 + 25 + 9) + 4 * (4 + 1)
    sides = (at_320[:, 2:] - at_320[:, :2]) / 320
    assert sides[0].tolist() == pytest.approx([0.1, 0.1])
    assert sides[-4].tolist() == pytest.approx([0.92, 0.92])
    assert at_320[0, :2].tolist() == pytest.approx([8 - 16, 8 - 16])


TINY = Arch(
    Stem(8),
    (
        (Block("mbconv", 8, 8),),
        (Block("mbconv", 8, 12, stride=2, expansion=3),),
        (Block("mbconv", 12, 16, stride=2, expansion=3),),
        (Block("mbconv", 16, 20, stride=2, expansion=3),),
        (Block("mbconv", 20, 24, stride=2, expansion=3), Block("mbconv", 24, 24, expansion=3)),
    ),
    norm_eps=1e-3,
    head_channels=40,
    num_classes=10,
)


def test_the_seeds_last_convolution_starts_the_head() -> None:
    torch.manual_seed(0)
    seed = Classifier(TINY).eval()
    for norm in seed.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_var, 0.5, 2)
    state = seed.state_dict()
    arch = with_taps(TINY)
    model = Model(Backbone(arch), SSDLiteHead(feature_info(arch), CLASSES, head_channels=40)).eval()
    model.backbone.load_state_dict({k: v for k, v in state.items() if k.startswith(("stem.", "stages."))})
    start = head_start(state, SSDLite())
    missing = model.head.load_state_dict(start, strict=False)
    assert not missing.unexpected_keys
    assert not [name for name in missing.missing_keys if name.startswith("last.")]
    x = torch.randn(1, 3, 64, 64)
    features = model.backbone(x)
    last = model.head.get_submodule("last")
    assert torch.equal(seed.classifier(last(features[-1]).mean((2, 3))), seed(x))


def test_one_image_trains_though_the_last_map_is_one_pixel() -> None:
    head = SSDLiteHead(INFO, CLASSES, head_channels=20).train()
    maps = [torch.randn(1, i.channels, -(-256 // i.stride), -(-320 // i.stride)) for i in INFO]
    output = head(maps, SIZE_HW)
    loss(output, {name: values[:1] for name, values in BATCH.items()}, SSDLite())[0].backward()
    last = head.classification.module_list[-1][0][1]
    assert isinstance(last, Norm)
    assert last.num_batches_tracked == 0
    assert head.classification.module_list[0][0][1].num_batches_tracked == 1


def test_norm_is_plain_batch_norm_otherwise() -> None:
    mine, plain = Norm(3), nn.BatchNorm2d(3)
    x = torch.randn(2, 3, 1, 1)
    assert torch.equal(mine(x), plain(x))
    assert torch.equal(mine.eval()(x[:1]), plain.eval()(x[:1]))
    assert torch.equal(mine.train()(x[:1]), plain(x[:1]))
    assert torch.equal(mine.get_buffer("running_var"), plain.get_buffer("running_var"))
