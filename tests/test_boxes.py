"""Laws that hold for RetinaNet and SSDLite alike: what the losses sum, what the heads promise, what decoding undoes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder, Matcher, SSDMatcher
from torchvision.ops import box_iou

from fna.config import Config, DetectionEvaluateConfig, RetinaNet
from fna.errors import FnaError
from fna.nets.network import FeatureInfo, Model
from fna.tasks import retinanet, ssdlite
from fna.tasks.boxes import Assign, encode, match, remembered
from fna.training.compute import Compute
from fna.training.cpu import WideConv2d
from fna.training.distributed import World

CPU = Compute(torch.device("cpu"), None, False, World())
SIZE_HW, CLASSES = (128, 192), 3
INFO = (
    *(FeatureInfo(c, s, i) for i, (c, s) in enumerate(zip((6, 8, 12, 20), (2, 4, 8, 16), strict=True))),
    FeatureInfo(40, 16, 4, tap=True),
    FeatureInfo(32, 32, 4),
)
BOXES = [[10, 12, 40, 50], [60, 5, 190, 120], [100, 60, 118, 78], [0, 0, 192, 128], [44, 70, 92, 120.5]]
CONFIG = Config(task=RetinaNet(), evaluate=DetectionEvaluateConfig(score_threshold=0.3, nms=0.6, detections=50))


@dataclass(frozen=True)
class Detector:
    """A model under test."""

    head: Callable[[], nn.Module]
    loss: Callable[[Any, Any, RetinaNet], tuple[Tensor, Tensor]]
    decode: Callable[[Any, tuple[int, int], Config], list[dict[str, Tensor]]]
    assign: Assign
    matcher: Matcher  # torchvision's
    coder: BoxCoder
    columns: int  # classes of the logits


DETECTORS = {
    "retinanet": Detector(
        lambda: retinanet.RetinaNetHead(INFO, CLASSES, channels=16, anchor_scale=2.0),
        retinanet.loss,
        retinanet.decode,
        retinanet.assign,
        Matcher(0.5, 0.4, allow_low_quality_matches=True),
        retinanet.CODER,
        CLASSES,
    ),
    "ssdlite": Detector(
        lambda: ssdlite.SSDLiteHead(INFO, CLASSES, head_channels=48),
        ssdlite.loss,
        ssdlite.decode,
        ssdlite.assign,
        SSDMatcher(0.5),
        ssdlite.CODER,
        CLASSES + 1,
    ),
}


@pytest.fixture(params=DETECTORS)
def detector(request: pytest.FixtureRequest) -> Detector:
    torch.manual_seed(0)
    return DETECTORS[request.param]


def features(n: int, device: str = "cpu", size_hw: tuple[int, int] = SIZE_HW) -> list[Tensor]:
    """Random features as a backbone gives them, channels_last."""
    draws = torch.Generator().manual_seed(1)
    sides = [[-(-side // info.stride) for side in size_hw] for info in INFO]
    maps = [torch.randn(n, info.channels, *hw, generator=draws) for info, hw in zip(INFO, sides, strict=True)]
    return [m.to(device).to(memory_format=torch.channels_last) for m in maps]


def batch_of(*boxes: Sequence[Sequence[float]]) -> dict[str, Any]:
    """A batch with these boxes by image; their classes count up."""
    return {
        "boxes": [torch.tensor(b, dtype=torch.float32).reshape(-1, 4) for b in boxes],
        "labels": [torch.arange(len(b)) % CLASSES for b in boxes],
    }


def loud(detector: Detector, n: int) -> dict[str, Tensor]:
    """Output of a fresh head with random logits and deltas."""
    output = detector.head()(features(n), SIZE_HW)
    draws = torch.Generator().manual_seed(2)
    return {name: x if name == "anchors" else torch.randn(x.shape, generator=draws) for name, x in output.items()}


def test_a_batch_is_the_sum_of_its_images(detector: Detector) -> None:
    batch = batch_of(BOXES[:2], [], BOXES[2:], BOXES[4:])
    output = loud(detector, 4)
    total, count = detector.loss(output, batch, RetinaNet())
    parts = []
    for i in range(4):
        one = {name: x if name == "anchors" else x[i : i + 1] for name, x in output.items()}
        parts.append(detector.loss(one, {name: values[i : i + 1] for name, values in batch.items()}, RetinaNet()))
    assert total.item() == pytest.approx(sum(s.item() for s, _ in parts), rel=1e-5)
    assert int(count) == sum(int(c) for _, c in parts) > 0
    assert int(parts[1][1]) == 0


def test_images_without_boxes_train(detector: Detector) -> None:
    head = detector.head()
    total, count = detector.loss(head(features(2), SIZE_HW), batch_of([], []), RetinaNet())
    total.backward()
    assert int(count) == 0
    assert total.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


BAD = {
    "no width": [50, 20, 50, 60],
    "no area": [50, 20, 50, 20],
    "inside out": [80, 60, 40, 20],
    "outside": [500, 500, 560, 560],
    "no number": [float("nan"), 20, 40, 60],
    "infinite": [0, 0, float("inf"), 60],
    "huge": [-3e38, -3e38, 3e38, 3e38],
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_box_changes_nothing(detector: Detector, bad: str) -> None:
    output = {name: x.requires_grad_(name != "anchors") for name, x in loud(detector, 2).items()}
    good = batch_of(BOXES[:2], [])
    mixed = {
        "boxes": [torch.cat([good["boxes"][0], torch.tensor([BAD[bad]])]), torch.tensor([BAD[bad]])],
        "labels": [torch.cat([good["labels"][0], torch.tensor([1])]), torch.tensor([1])],
    }
    expected, total = (detector.loss(output, batch, RetinaNet()) for batch in (good, mixed))
    assert total == expected
    gradients = torch.autograd.grad(total[0], [output["logits"], output["deltas"]])
    assert all(g.isfinite().all() for g in gradients)


def test_a_sliver_gives_a_finite_loss(detector: Detector) -> None:
    total, count = detector.loss(loud(detector, 1), batch_of([[20, 20, 20 + 1e-5, 60]]), RetinaNet())
    assert total.isfinite()
    assert int(count) > 0


def test_every_box_is_learned_by_some_anchor(detector: Detector) -> None:
    anchors = loud(detector, 1)["anchors"]
    found = match(detector.assign, anchors, batch_of(BOXES, BOXES[:1]))
    assert found.positive.shape == (2, len(anchors))
    assert not (found.positive & found.ignored).any()
    assert {tuple(b) for b in found.boxes[found.positive].tolist()} == {tuple(map(float, b)) for b in BOXES}
    iou = box_iou(anchors.repeat(2, 1), found.boxes.flatten(0, 1)).diagonal().view_as(found.positive)
    assert (iou[found.positive] > 0).all()
    assert (iou[found.positive] >= 0.5).sum() > len(BOXES)
    assert torch.equal(found.boxes[~found.positive], anchors.expand(2, -1, -1)[~found.positive])


def test_anchors_are_matched_as_torchvision_matches_them(detector: Detector) -> None:
    anchors, draws = loud(detector, 1)["anchors"], torch.Generator().manual_seed(3)
    for number in (1, 5, 40):  # many of them share their best anchor
        corner, side = (torch.rand(number, 2, generator=draws) * torch.tensor(by) for by in ([140, 90], [52, 38]))
        boxes = torch.cat([corner, corner + side + 1], 1)
        expected = detector.matcher(box_iou(boxes, anchors))
        found = match(detector.assign, anchors, {"boxes": [boxes], "labels": [torch.arange(number)]})
        assert torch.equal(found.positive[0], expected >= 0)
        assert torch.equal(found.ignored[0], expected == Matcher.BETWEEN_THRESHOLDS)
        assert torch.equal(found.labels[found.positive], expected[expected >= 0])


def test_decoding_undoes_the_targets(detector: Detector) -> None:
    """An output that meets its targets costs next to nothing, and its detections are the truth."""
    batch = batch_of(BOXES, [], BOXES[:1])
    output = loud(detector, 3)
    found = match(detector.assign, output["anchors"], batch)
    output["deltas"] = encode(detector.coder, found, output["anchors"])
    pairs = found.boxes[0], output["anchors"]
    torch.testing.assert_close(output["deltas"][0], detector.coder.encode_single(*pairs))
    first = detector.columns - CLASSES  # a background class comes first
    output["logits"] = torch.full_like(output["logits"], -20.0)
    output["logits"][..., 0] = 20.0 if first else -20.0
    rows = output["logits"][found.positive]
    rows[:, 0] = -20
    rows[torch.arange(len(rows)), found.labels[found.positive] + first] = 20
    output["logits"][found.positive] = rows
    total, _ = detector.loss(output, batch, RetinaNet())
    assert total.item() == pytest.approx(0, abs=1e-3)
    detections = detector.decode(output, SIZE_HW, CONFIG)
    for got, boxes, labels in zip(detections, batch["boxes"], batch["labels"], strict=True):
        assert len(got["boxes"]) == len(boxes)
        iou = box_iou(boxes, got["boxes"])
        assert (iou.diagonal() > 0.999).all() if len(boxes) < 2 else (iou.amax(1) > 0.999).all()
        if len(boxes):
            assert got["labels"][iou.argmax(1)].tolist() == labels.tolist()


def test_detections_keep_the_promises_of_the_configuration(detector: Detector) -> None:
    output = {name: x if name == "anchors" else 3 * x for name, x in loud(detector, 2).items()}
    config = Config(task=RetinaNet(), evaluate=DetectionEvaluateConfig(score_threshold=0.6, nms=0.4, detections=20))
    for got in detector.decode(output, SIZE_HW, config):
        boxes, scores, labels = got["boxes"], got["scores"], got["labels"]
        assert boxes.shape == (20, 4)
        assert labels.dtype == torch.int64
        assert (labels.min() >= 0).item()
        assert (labels.max() < CLASSES).item()
        assert (scores > 0.6).all()
        assert scores.tolist() == sorted(scores.tolist(), reverse=True)
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([192, 128, 192, 128])).all()
        overlap = box_iou(boxes, boxes).fill_diagonal_(0)
        assert (overlap[labels[:, None] == labels] <= 0.4).all()


def test_gradients_reach_every_parameter(detector: Detector) -> None:
    head = detector.head()
    boxes = [*BOXES, [0, 0, 96, 64], [96, 64, 192, 128], [30, 30, 60, 56]]
    total, count = detector.loss(head(features(6), SIZE_HW), batch_of(*[boxes] * 6), RetinaNet())
    (total / count).backward()
    dead = [name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


def test_twenty_steps_lower_the_loss(detector: Detector) -> None:
    head, maps, batch = detector.head(), features(4), batch_of(BOXES[:3], BOXES[2:], [], BOXES[3:])
    optimizer = torch.optim.Adam(head.parameters(), 3e-3)
    losses = []
    for _ in range(20):
        total, count = detector.loss(head(maps, SIZE_HW), batch, RetinaNet())
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()
        losses.append(float(total.detach() / count))
    assert losses[-1] < 0.75 * losses[0]


def test_counting_on_the_meta_device_leaves_the_head_usable(detector: Detector) -> None:
    head = detector.head().eval()
    before = head(features(1), SIZE_HW)
    with torch.device("meta"):
        shapes = detector.head()(features(1, "meta"), SIZE_HW)
    state = {name: x.to("meta") for name, x in head.state_dict().items()}
    on_meta = torch.func.functional_call(head, state, (features(1, "meta"), SIZE_HW))
    after = head(features(1), SIZE_HW)
    for name, x in before.items():
        assert torch.equal(x, after[name])
        assert on_meta[name].device.type == shapes[name].device.type == "meta"
        assert on_meta[name].shape == shapes[name].shape == x.shape


def test_bfloat16_gives_nearly_the_same_loss(detector: Detector) -> None:
    head, batch = detector.head().eval(), batch_of(BOXES[:3], [])
    exact, _ = detector.loss(head(features(2), SIZE_HW), batch, RetinaNet())
    with torch.autocast("cpu", torch.bfloat16):
        output = head([m.bfloat16() for m in features(2)], SIZE_HW)
        total, _ = detector.loss(output, batch, RetinaNet())
    assert output["logits"].dtype == torch.bfloat16
    assert output["anchors"].dtype == total.dtype == torch.float32
    assert total.item() == pytest.approx(exact.item(), rel=0.02)
    assert all(d["boxes"].dtype == d["scores"].dtype == torch.float32 for d in detector.decode(output, SIZE_HW, CONFIG))


def test_float64_passes_through(detector: Detector) -> None:
    output = detector.head().double()([m.double() for m in features(2)], SIZE_HW)
    total, _ = detector.loss(output, batch_of(BOXES, []), RetinaNet())
    assert total.dtype == output["anchors"].dtype == torch.float64


def test_heads_export(detector: Detector) -> None:
    head, maps = detector.head().eval(), features(1)
    program = torch.export.export(head, (maps, SIZE_HW))
    output: Mapping[str, Tensor] = program.module()(maps, SIZE_HW)
    for name, x in head(maps, SIZE_HW).items():
        assert torch.allclose(output[name], x, atol=1e-5)


@pytest.mark.parametrize("size_hw", [(96, 160), (75, 101), (33, 40)])
def test_any_size_of_image(detector: Detector, size_hw: tuple[int, int]) -> None:
    head = detector.head().eval()
    output = head(features(1, size_hw=size_hw), size_hw)
    assert output["logits"].shape == (1, len(output["anchors"]), detector.columns)
    assert output["deltas"].shape == (1, len(output["anchors"]), 4)
    assert (output["anchors"][:, 2:] > output["anchors"][:, :2]).all()
    assert len(detector.decode(output, size_hw, CONFIG)) == 1


def test_maps_stay_channels_last(detector: Detector) -> None:
    head = detector.head().to(memory_format=torch.channels_last)
    seen: dict[str, Tensor] = {}
    for name, part in head.named_modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_pre_hook(lambda _, args, name=name: seen.__setitem__(name, args[0]))
    head(features(2), SIZE_HW)
    assert len(seen) > 10
    assert [n for n, x in seen.items() if not x.is_contiguous(memory_format=torch.channels_last)] == []


def test_missing_features_are_named() -> None:
    with pytest.raises(FnaError, match=r"strides 8, 16 and 32, the backbone has \[2, 4, 8, 16\]"):
        retinanet.RetinaNetHead(INFO[:5], CLASSES)
    with pytest.raises(FnaError, match=r"features of stride 16, the backbone has \[2, 4, 8\]"):
        ssdlite.SSDLiteHead(INFO[:3], CLASSES)
    with pytest.raises(FnaError, match=r"anchor_scale 0.1 makes anchors smaller than a pixel; choose 0.5 or more"):
        retinanet.RetinaNetHead(INFO, CLASSES, anchor_scale=0.1)


@pytest.mark.parametrize("name", DETECTORS)
def test_anchors_are_made_once_for_a_size_and_serve_everywhere(name: str) -> None:
    head = DETECTORS[name].head().eval()

    def run(size_hw: tuple[int, int], device: str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
        made = [torch.zeros(1, i.channels, size_hw[0] // i.stride, size_hw[1] // i.stride) for i in INFO]
        with torch.inference_mode():
            placed = copy.deepcopy(head).to(device, dtype)
            anchors: Tensor = placed([m.to(device, dtype) for m in made], size_hw)["anchors"]
        return anchors

    meta, first = run((128, 64), "meta"), run((128, 64))
    assert run((128, 64)) is first
    assert not first.is_inference()
    assert (meta.device.type, first.device.type) == ("meta", "cpu")
    assert meta.shape == first.shape
    assert not torch.equal(run((64, 128)), first)
    assert run((128, 64), dtype=torch.float64).dtype == torch.float64
    assert not [tensor for tensor in head.state_dict().values() if tensor.shape == first.shape]


def test_what_is_traced_is_not_remembered() -> None:
    made = []

    @remembered
    def build(side: int) -> Tensor:
        made.append(side)
        return torch.full((side,), 7.0)

    class Adds(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + build(2)

    exported = torch.export.export(Adds(), (torch.zeros(2),), strict=False)
    assert torch.equal(exported.module()(torch.ones(2)), torch.full((2,), 8.0))
    assert type(build(2)) is Tensor
    assert build(2) is build(2)
    assert len(made) == 2


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("size_hw", [(96, 32), (64, 64), (256, 128)])
def test_narrow_maps_have_the_right_gradients_in_bfloat16(name: str, size_hw: tuple[int, int]) -> None:
    """torch leaves some gradients of strided convolutions unwritten there: see `training.cpu.WideConv2d`.

    A convolution at a time, as rounding may turn a ReLU after it on or off, and with it the gradient of the whole head.
    """
    torch.manual_seed(0)
    head = DETECTORS[name].head().eval()
    CPU.place(Model(nn.Identity(), head))
    strided = [m for m in head.modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)]
    seen: dict[nn.Conv2d, list[Tensor]] = {}

    def note(conv: nn.Conv2d, args: tuple[Tensor, ...], out: Tensor) -> None:
        seen[conv] = [args[0].detach().float()]
        out.register_hook(lambda grad: seen[conv].append(grad.float()))

    for conv in strided:
        conv.register_forward_hook(note)
    features = [torch.randn(2, info.channels, *(-(-side // info.stride) for side in size_hw)) for info in INFO]
    with torch.autocast("cpu", torch.bfloat16):
        output = head(features, size_hw)
    sum((output[key].float() ** 2).sum() for key in ("logits", "deltas")).backward()
    assert len(strided) >= 2
    for conv, (x, grad) in seen.items():
        exact = nn.grad.conv2d_weight(x, conv.weight.shape, grad, conv.stride, conv.padding, groups=conv.groups)
        assert conv.weight.grad.isfinite().all()
        assert (exact - conv.weight.grad).norm() <= 0.02 * exact.norm() + 1e-6


@pytest.mark.parametrize("size_hw", [(1, 1), (5, 1), (4, 2), (1, 6)])
def test_guarded_convolutions_compute_the_same(size_hw: tuple[int, int]) -> None:
    conv = nn.Conv2d(3, 4, 3, 2, 1)
    x = torch.randn(2, 3, *size_hw)
    plain = conv(x)
    assert type(CPU.place(conv)) is WideConv2d
    torch.testing.assert_close(conv(x), plain)
