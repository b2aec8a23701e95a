"""SimpleBaseline: the paper's counts, the head against one built by hand, targets, loss laws, and decoding."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from fna.arch.net_config import from_net_config
from fna.config import SimpleBaseline
from fna.cost.madds import model_cost
from fna.errors import FnaError
from fna.nets.network import FeatureInfo, feature_info
from fna.tasks.simple_baseline import REACH, STRIDE, SimpleBaselineHead, decode, gaussians, loss, mirrored

INFO = (FeatureInfo(8, 16, 3), FeatureInfo(12, 32, 4))
POSE = SimpleBaseline()
SIZE = (24, 20)  # of a heatmap


def head(joints: int = 5, channels: int = 6) -> SimpleBaselineHead:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SimpleBaselineHead(INFO, joints, channels)


def features(n: int = 3) -> list[Tensor]:
    draws = torch.Generator().manual_seed(1)
    return [torch.randn(n, 8, 6, 8, generator=draws), torch.randn(n, 12, 3, 4, generator=draws)]


def points_in(size_hw: tuple[int, int], rim: float, n: int = 40, joints: int = 7) -> Tensor:
    """Draw labelled joints at least `rim` heatmap pixels from the rim of heatmaps; in crop pixels."""
    high = torch.tensor([size_hw[1], size_hw[0]], dtype=torch.float64)
    draws = torch.rand(n, joints, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    xy = STRIDE * (rim + draws * (high - 2 * rim))
    return torch.cat([xy, torch.full((n, joints, 1), 2.0, dtype=torch.float64)], -1)


# --- the head ---------------------------------------------------------------------------------------------------------


def test_counts_are_the_papers(shared: Path) -> None:
    rows = json.loads((shared / "golden" / "paper_rows.json").read_text())
    golden = next(row for row in rows if row["model"] == "simple_baseline")
    archs = json.loads((shared / "golden" / "archs.json").read_text())
    arch = from_net_config(archs[golden["arch"]]["net_config"])
    with torch.device("meta"):
        module = SimpleBaselineHead(feature_info(arch), 16)
    cost = model_cost(arch, module, tuple(golden["size_hw"]))
    assert (cost.params, round(cost.madds / 1e3)) == (golden["exact_params"], golden["exact_madds_K"])
    assert model_cost(arch, module, (256, 256), rule="exact").madds == pytest.approx(1.808e9, abs=5e5)


def test_the_head_is_three_deconvolutions_and_a_1x1_convolution() -> None:
    module = head()
    layers: list[nn.Module] = []
    for inputs in (12, 6, 6):
        layers += [nn.ConvTranspose2d(inputs, 6, 4, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU()]
    oracle = nn.Sequential(*layers, nn.Conv2d(6, 5, 1))
    oracle.load_state_dict(dict(zip(oracle.state_dict(), module.state_dict().values(), strict=True)))
    maps = features()
    heatmaps = module(maps, (96, 128))
    assert heatmaps.shape == (3, 5, 24, 32)
    assert torch.equal(heatmaps, oracle(maps[-1]))
    assert torch.equal(module.eval()(maps, (96, 128)), oracle.eval()(maps[-1]))


def test_training_starts_at_empty_heatmaps_and_reaches_every_parameter() -> None:
    module = head()
    batch = {"points": torch.rand(3, 5, 3) * 90 + 1}
    total, count = loss(module(features(), (96, 128)), batch, POSE)
    assert module(features(), (96, 128)).abs().max() < 0.1
    (total / count).backward()
    dead = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert dead == []


def test_heatmaps_keep_float64_and_leave_bfloat16() -> None:
    module = head().eval()
    with torch.autocast("cpu", torch.bfloat16):
        heatmaps = module(features(), (96, 128))
    assert heatmaps.dtype == torch.float32
    assert torch.allclose(heatmaps, module(features(), (96, 128)), atol=1e-3)
    assert module.double()([f.double() for f in features()], (96, 128)).dtype == torch.float64


def test_the_head_needs_features_of_stride_32() -> None:
    with pytest.raises(FnaError, match="reads features of stride 32, the backbone ends at stride 16"):
        SimpleBaselineHead(INFO[:1], 5)


# --- targets ----------------------------------------------------------------------------------------------------------


def test_a_target_is_a_gaussian_around_the_joint_to_a_fraction_of_a_pixel() -> None:
    points = torch.tensor([[[4 * 3 + 2.0, 4 * 5 + 3.0, 2.0]]])  # the centre of column 3; a quarter below that of row 5
    heatmaps, learned = gaussians(points, SIZE, sigma=2.0)
    assert learned.tolist() == [[True]]
    assert heatmaps[0, 0, 5, 3].item() == pytest.approx(torch.exp(torch.tensor(-(0.25**2) / 8)).item())
    assert heatmaps[0, 0, 5, 5].item() == pytest.approx(torch.exp(torch.tensor(-(0.25**2 + 4) / 8)).item())


def test_unlabelled_and_far_joints_are_no_targets() -> None:
    reach = STRIDE * (REACH * 2.0 - 0.5)
    rows = [
        [40.0, 40, 0],  # unlabelled
        [float("nan"), 40, 0],
        [-reach + 1, 40, 1],  # hidden, just outside the crop
        [-reach - 1, 40, 2],
        [40, STRIDE * SIZE[0] + reach - 1, 2],
        [40, STRIDE * SIZE[0] + reach + 9, 2],
    ]
    heatmaps, learned = gaussians(torch.tensor([rows]), SIZE, sigma=2.0)
    assert learned.tolist() == [[False, False, True, False, True, False]]
    assert heatmaps.isfinite().all()
    assert not heatmaps[~learned].any()


# --- loss -------------------------------------------------------------------------------------------------------------


def test_the_loss_is_half_the_mean_square_of_each_labelled_joint() -> None:
    points = points_in(SIZE, 0, n=2, joints=3)
    points[0, 1, 2] = 0
    heatmaps = torch.randn(2, 3, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    targets, _ = gaussians(points, SIZE, 2.0)
    expected = sum(
        F.mse_loss(heatmaps[n, k], targets[n, k]) / 2 for n in range(2) for k in range(3) if (n, k) != (0, 1)
    )
    total, count = loss(heatmaps, {"points": points}, POSE)
    assert count.item() == 5
    assert total.dtype == torch.float64
    assert torch.allclose(total, torch.as_tensor(expected))


def test_sum_and_count_add_up_over_persons() -> None:
    points = points_in(SIZE, -5, n=6, joints=4)
    points[::2, 1, 2] = 0
    heatmaps = torch.randn(6, 4, *SIZE, dtype=torch.float64)
    whole = loss(heatmaps, {"points": points}, POSE)
    parts = [loss(heatmaps[i : i + 2], {"points": points[i : i + 2]}, POSE) for i in (0, 2, 4)]
    assert torch.allclose(whole[0], sum(part[0] for part in parts))
    assert whole[1] == sum(part[1] for part in parts)


def test_what_is_predicted_for_an_unlabelled_joint_does_not_matter() -> None:
    points = points_in(SIZE, 0, n=2, joints=3)
    points[:, 1, 2] = 0
    points[:, 1, :2] = float("nan")
    heatmaps = torch.randn(2, 3, *SIZE, dtype=torch.float64, requires_grad=True)
    total, _ = loss(heatmaps, {"points": points}, POSE)
    total.backward()
    assert heatmaps.grad is not None
    assert total.isfinite()
    assert not heatmaps.grad[:, 1].any()
    assert heatmaps.grad[:, 0].any()


def test_a_batch_without_labels_costs_nothing_and_is_no_nan() -> None:
    heatmaps = torch.randn(2, 3, *SIZE, requires_grad=True)
    total, count = loss(heatmaps, {"points": torch.zeros(2, 3, 3)}, POSE)
    total.backward()
    assert (total.item(), count.item()) == (0, 0)
    assert heatmaps.grad is not None
    assert not heatmaps.grad.any()


# --- decoding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "rim", "sigma", "most"),
    [("quarter", 1, 2.0, 0.25), ("quarter", 0, 2.0, 0.5), ("dark", 4, 2.0, 0.03), ("dark", 7, 3.0, 0.03)],
)
def test_decoding_undoes_the_targets(rule: str, rim: float, sigma: float, most: float) -> None:
    points = points_in(SIZE, rim)
    heatmaps, _ = gaussians(points, SIZE, sigma)
    decoded = decode(heatmaps, rule, sigma)
    error = (decoded - points)[..., :2].abs().max().item() / STRIDE
    assert error <= most + 1e-6
    assert torch.equal(decoded[..., 2], heatmaps.flatten(2).amax(2))


def test_dark_is_never_worse_than_the_pixel_at_the_rim() -> None:
    points = points_in(SIZE, 0, n=200)
    decoded = decode(gaussians(points, SIZE, 2.0)[0], "dark", 2.0)
    assert (decoded - points)[..., :2].abs().max().item() / STRIDE <= 0.5


@given(st.integers(0, 2**31), st.sampled_from(("quarter", "dark")))
@settings(max_examples=25, deadline=None)
def test_any_heatmap_decodes_to_a_point_near_its_highest_pixel(seed: int, rule: str) -> None:
    heatmaps = torch.randn(2, 3, 9, 7, generator=torch.Generator().manual_seed(seed))
    decoded = decode(heatmaps, rule, 2.0)
    peak = heatmaps.flatten(2).argmax(2)
    pixel = torch.stack([peak % 7, peak // 7], -1) + 0.5
    assert (decoded[..., :2] / STRIDE - pixel).abs().max() < 1.5


@pytest.mark.parametrize("rule", ["quarter", "dark"])
def test_flat_and_empty_heatmaps_decode(rule: str) -> None:
    for value in (0.0, 1.0, -1.0):
        assert decode(torch.full((1, 2, 8, 8), value), rule, 2.0).isfinite().all()


def test_a_mirrored_crop_has_the_mirrored_heatmaps() -> None:
    """No pixel of shift: joints 0 and 2 swap, x becomes width - x."""
    points, swap = points_in(SIZE, 0, joints=3), (2, 1, 0)
    mirror = points[:, swap].clone()
    mirror[..., 0] = STRIDE * SIZE[1] - mirror[..., 0]
    assert torch.allclose(mirrored(gaussians(mirror, SIZE, 2.0)[0], swap), gaussians(points, SIZE, 2.0)[0])
