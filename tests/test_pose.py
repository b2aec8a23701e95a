"""The pose task: a run in miniature, flip test, crops and images, pictures, COCO results, two processes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import adapt_tiny, search_tiny
from tiny_deeper import opened
from tiny_pose import JOINTS, pose_config, write_figures
from torch import Tensor, nn

from fna.config import make_config
from fna.data.pose import open_data
from fna.errors import FnaError
from fna.files import read_json
from fna.runs import pipeline
from fna.runs.saved import predict_images
from fna.stages.evaluate import evaluate
from fna.tasks.pose import TASK
from fna.tasks.pose_drawing import draw
from fna.tasks.simple_baseline import STRIDE, gaussians

LABELS = SimpleNamespace(classes=tuple(JOINTS), colors=tuple(JOINTS.values()), links=((0, 2), (1, 2)))


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_figures(tmp_path_factory.mktemp("pose") / "figures")


class Oracle(nn.Module):
    """A network that knows where the joints of a crop are, mirrored or not: it looks for the dots' colours."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.mean, self.std = (torch.tensor(v).view(1, 3, 1, 1) for v in (mean, std))

    def forward(self, crops_N3HW: Tensor) -> Tensor:
        pixels_N3HW = (crops_N3HW * self.std + self.mean) * 255
        size = (pixels_N3HW.shape[2] // STRIDE, pixels_N3HW.shape[3] // STRIDE)
        return gaussians(torch.stack([self.find(pixels_3HW) for pixels_3HW in pixels_N3HW]), size, 1.0)[0]

    def find(self, pixels_3HW: Tensor) -> Tensor:
        """Return the dots' centres of gravity; in a mirror image a side's colour is on the other side."""
        height, width = pixels_3HW.shape[1:]
        ys, xs = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        points = torch.zeros(len(JOINTS), 3)
        for k, color in enumerate(JOINTS.values()):
            seen = (pixels_3HW - torch.tensor(color).view(3, 1, 1)).abs().amax(0) < 60
            if seen.any():
                points[k] = torch.tensor([float(xs[seen].mean()), float(ys[seen].mean()), 1])
        left, right, nose = points
        at = nose if nose[2] else (left + right) / 2
        is_mirror = left[0] < at[0] if left[2] else right[0] > at[0]
        return points[[1, 0, 2]] if is_mirror else points


@pytest.mark.parametrize("flip", ["true", "false"])
@pytest.mark.parametrize("rule", ["quarter", "dark"])
def test_crops_and_images_fit_together(figures: Path, flip: str, rule: str) -> None:
    """What a perfect network finds in crops is where the truth is in images, to a fraction of a heatmap pixel."""
    config = pose_config(figures, f"evaluate.flip_test={flip}", f"evaluate.decode={rule}")
    with opened(config) as job:
        kept: dict[int, Any] = {}
        scores = evaluate(
            Oracle(job.seed.mean, job.seed.std), job.problem, job.data.val, job.compute, keep=range(6), kept=kept
        )
        errors = []
        for index, prediction in kept.items():
            truth = job.data.val.load(index)[1]
            labelled = truth["points"][:, 2] > 0
            errors.append((prediction["points"] - truth["points"])[labelled][:, :2])
            assert prediction["points"].dtype == torch.float32
            assert torch.equal(prediction["box"], truth["box"])
    assert scores["pck"] == 1.0
    assert torch.cat(errors).abs().mean() < (0.6 if rule == "quarter" else 0.35)
    assert torch.cat(errors).mean(0).abs().max() < 0.25  # no shift


def test_the_flip_test_swaps_sides(figures: Path) -> None:
    """A network that sees only what is left of the middle finds the other dot in the mirror."""
    with opened(pose_config(figures)) as job:
        image, truth = job.data.val.load(1)
        view, frame = TASK.view(image, truth, job.config)
        assert list(frame.swap) == [1, 0, 2]
        crops = job.compute.images(view[None], job.seed.mean, job.seed.std)

        class LeftHalf(nn.Module):
            def forward(self, crops_N3HW: Tensor) -> Tensor:
                heatmaps = Oracle(job.seed.mean, job.seed.std)(crops_N3HW)
                heatmaps[:, :, :, heatmaps.shape[3] // 2 :] = 0
                return heatmaps

        found = TASK.predict(LeftHalf(), crops, [frame], job.config)[0]["points"]
    assert ((found - truth["points"])[:2, :2].abs() < 1).all()


def test_a_run_in_miniature_learns(figures: Path, tmp_path: Path) -> None:
    config = pose_config(figures, "adapt.epochs=12", "evaluate.every=12", "data.rotation=0.0")
    with opened(config) as job:
        searched = search_tiny(job, tmp_path)
        before = evaluate(job.problem.build(job.seed.arch), job.problem, job.data.val, job.compute)
        adapted = adapt_tiny(job, tmp_path)
    assert len(searched.evidence.values) > 0
    assert adapted.scores["pck"] > before["pck"] + 0.2
    assert set(adapted.scores["pck_joint"]) == set(JOINTS)
    assert len(adapted.scores["results"]) == 6


def test_predictions_without_a_data_set(figures: Path) -> None:
    """A box alone, or nothing, is enough for a prediction."""
    with opened(pose_config(figures)) as job:
        image, truth = job.data.val.load(0)
        model = job.problem.build(job.seed.arch).eval()
        for record in (None, {"box": truth["box"]}):
            view, frame = TASK.view(image, record, job.config)
            crops = job.compute.images(view[None], job.seed.mean, job.seed.std)
            prediction = TASK.predict(model, crops, [frame], job.config)[0]
            assert prediction["points"].shape == (3, 3)
            assert prediction["points"].isfinite().all()
    assert frame.box.tolist() == truth["box"].tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop": [100, 64]}, r"data.crop is \[100, 64\]; pose needs multiples of 32, e.g. \[96, 64\]"),
        ({"crop": [64, 64], "eval_size": [96, 96]}, r"data.eval_size is \[96, 96\]; persons are scored at data.crop"),
    ],
)
def test_sizes_that_do_not_fit_are_named(settings: dict[str, Any], message: str) -> None:
    config = make_config({"task": {"model": "simple_baseline"}, "data": {"format": "synthetic", **settings}})
    with pytest.raises(FnaError, match=message):
        open_data(config.data, "train")


def test_coco_results() -> None:
    prediction = {"points": torch.tensor([[1.0, 2.0, 0.5], [3.0, 4.0, 0.25]]), "box": torch.zeros(4), "score": 0.5}
    expected = {"image_id": 7, "category_id": 1, "keypoints": [1.0, 2.0, 0.5, 3.0, 4.0, 0.25], "score": 0.5}
    assert TASK.records is not None
    assert TASK.records(prediction, 7, LABELS) == [expected]


# --- pictures ---------------------------------------------------------------------------------------------------------


def drawn(points: list[tuple[float, float, float]], **about: Any) -> np.ndarray[Any, Any]:
    picture = np.zeros((80, 100, 3), np.uint8)
    person = {"points": torch.tensor(points), "box": torch.tensor([5.0, 5.0, 80.0, 60.0]), **about}
    result = draw(picture, person, LABELS, make_config({"task": {"name": "pose"}}))
    assert not picture.any()  # drawn into a copy
    return result


def test_sure_joints_are_drawn_in_their_colour() -> None:
    picture = drawn([(20, 20, 0.9), (70, 20, 0.2), (45, 60, 0.9)], score=0.9)
    near = {name: picture[y, x].astype(int) for name, (x, y) in {"left": (20, 20), "right": (70, 20)}.items()}
    assert np.abs(near["left"] - JOINTS["left_dot"]).max() < 30
    assert not near["right"].any()
    middle = {"left": picture[40, 32].astype(int), "right": picture[40, 57].astype(int)}  # of the links to the nose
    assert middle["left"].sum() > 100
    assert not middle["right"].any()


def test_truth_shows_labelled_joints_and_hidden_ones_as_rings() -> None:
    picture = drawn([(20, 30, 2), (50, 30, 1), (80, 60, 0)])
    assert np.abs(picture[30, 20].astype(int) - JOINTS["left_dot"]).max() < 30
    assert picture[30, 50].sum() < picture[30, 52].sum()
    assert not picture[60, 80].any()


def test_joints_outside_the_picture_do_not_matter() -> None:
    picture = drawn([(-500, 20, 0.9), (1e6, 20, 0.9), (45, 60, 0.9)], score=0.9)
    assert picture[60, 45].any()


# --- two processes ----------------------------------------------------------------------------------------------------


def test_two_processes_equal_one(trained: Path) -> None:
    alone = torch.load(trained / "pose" / "0-of-1.pt")
    for rank in (0, 1):
        part = torch.load(trained / "pose" / f"{rank}-of-2.pt")
        for stage in ("searched", "adapted"):
            for name, tensor in alone[stage].items():
                assert torch.allclose(part[stage][name], tensor, rtol=1e-6, atol=1e-9), (stage, name)
        assert part["scores"]["pck"] == alone["scores"]["pck"]
        assert part["scores"]["pck_joint"] == alone["scores"]["pck_joint"]
        assert [row["image_id"] for row in part["scores"]["results"]] == list(range(1, 7))


def test_a_run_leaves_results_skeletons_and_a_report(figures: Path, tmp_path: Path) -> None:
    settings = pose_config(figures, "space.layers=[2, 3, 4, 3, 3, 1]", "adapt.epochs=1")
    metrics = pipeline.run(tmp_path / "run", settings)
    assert metrics["metric"] == "pck"
    assert set(metrics["rows"]["adapted"]["pck_joint"]) == set(JOINTS)
    results = read_json(tmp_path / "run" / "adapted" / "results.json")
    assert [(row["image_id"], row["file_name"]) for row in results] == [(i + 1, f"val{i}.png") for i in range(6)]
    page = (tmp_path / "run" / "report.html").read_text()
    assert all(word in page for word in ("PCK", "distance / box size", *JOINTS))
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps([{"image_id": 5, "file_name": "val4.png", "bbox": [10, 10, 44, 38], "score": 0.5}]))
    predict_images(tmp_path / "run", figures / "images", tmp_path / "out", boxes=boxes)
    assert [(row["file_name"], row["image_id"]) for row in read_json(tmp_path / "out/results.json")] == [
        ("val4.png", 5)
    ]
