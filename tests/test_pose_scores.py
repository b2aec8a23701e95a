"""Pose scores: cases worked by hand, persons that cannot be measured, and pycocotools as oracle."""

from __future__ import annotations

import contextlib
import io
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params
from scipy.io import savemat

from fna.config import Config, DataConfig, SimpleBaseline
from fna.data.pose import PoseData, open_data
from fna.tasks.pose_scores import COCO_SIGMAS, TITLES, PoseScores, person_score, torso

JOINTS = ("left_shoulder", "right_hip", "neck", "head_top")
Person = tuple[dict[str, Any], dict[str, Any]]  # prediction, truth


def person(
    truth: list[tuple[float, float, int]],
    off: list[float],
    *,
    head: float = math.nan,
    image_id: int | str = 1,
    score: float = 0.9,
) -> Person:
    """A person whose joints are predicted `off` pixels too far right."""
    points = torch.tensor(truth, dtype=torch.float32)
    found = points.clone()
    found[:, 0] += torch.tensor(off)
    found[:, 2] = score
    box = torch.tensor([0.0, 0.0, 50.0, 100.0])
    about = {"box": box, "area": 5000.0, "head": head, "image_id": image_id, "id": 1}
    return {"points": found, "box": box, "score": score}, {"points": points, **about}


def scored(*people: Person, joints: tuple[str, ...] = JOINTS) -> dict[str, Any]:
    scores = PoseScores(SimpleNamespace(classes=joints, ignored=()), Config(task=SimpleBaseline()))
    for index, (prediction, truth) in enumerate(people):
        scores.update([index], [prediction], [truth])
    return scores.compute()


UPRIGHT = [(10.0, 0.0, 2), (10.0, 40.0, 2), (20.0, 0.0, 2), (20.0, -10.0, 2)]  # a torso of 40 px


def test_pckh_by_hand() -> None:
    """Half of a head of 10 px is 5: on the border counts, beyond does not."""
    result = scored(person(UPRIGHT, [0, 5, 5.01, -4], head=10), person(UPRIGHT, [9, 0, 0, 0], head=10))
    assert result["pckh"] == pytest.approx(6 / 8)
    assert result["pck"] == result["pckh"]
    assert result["pck_joint"] == {"left_shoulder": 0.5, "right_hip": 1.0, "neck": 0.5, "head_top": 1.0}
    assert result["notes"] == []


def test_pck_of_the_torso_by_hand() -> None:
    result = scored(person(UPRIGHT, [7.9, 8.1, 0, 0]))
    assert result["pck_torso"] == pytest.approx(3 / 4)
    assert result["pck"] == result["pck_torso"]
    assert "pckh" not in result
    assert result["pck_joint"] == {"left_shoulder": 1.0, "right_hip": 0.0, "neck": 1.0, "head_top": 1.0}


def test_without_head_and_torso_the_box_is_the_measure() -> None:
    result = scored(person([(5, 5, 2), (9, 9, 2)], [19.9, 20.1]), joints=("paw", "tail"))
    assert result["pck"] == result["pck_box"] == 0.5
    assert not {"pckh", "pck_torso"} & set(result)


def test_hidden_joints_count_and_unlabelled_ones_never() -> None:
    hidden = [UPRIGHT[0], (10.0, 40.0, 1), (0.0, 0.0, 0), UPRIGHT[3]]
    result = scored(person(hidden, [0, 50, 50, 0], head=10))
    assert result["pckh"] == pytest.approx(2 / 3)
    assert result["pck_joint"] == {"left_shoulder": 1.0, "right_hip": 0.0, "neck": None, "head_top": 1.0}


@pytest.mark.parametrize("head", [0.0, math.nan, -1.0])
def test_a_head_without_size_divides_nothing_and_is_counted(head: float) -> None:
    result = scored(person(UPRIGHT, [0, 0, 0, 9], head=10), person(UPRIGHT, [0, 0, 0, 9], head=head))
    assert result["pck"] == result["pckh"] == pytest.approx(3 / 4)
    assert result["pck_torso"] == pytest.approx(6 / 8)
    assert result["notes"] == ["PCKh@0.5: 1 of 2 persons have no head size"]


def test_the_headline_is_no_measure_that_most_persons_have_no_size_for() -> None:
    bad, good = person(UPRIGHT, [99] * 4, head=10), person(UPRIGHT, [0] * 4)
    result = scored(bad, good, good)
    assert (result["pckh"], result["pck"]) == (0, result["pck_torso"])
    assert result["notes"] == ["PCKh@0.5: 2 of 3 persons have no head size"]


def test_nobody_with_a_head_leaves_the_torso_as_headline() -> None:
    result = scored(person(UPRIGHT, [0, 0, 0, 9], head=0))
    assert "pckh" not in result
    assert result["pck"] == pytest.approx(3 / 4)


def test_pelvis_and_thorax_have_no_vote_in_pckh() -> None:
    joints = ("pelvis", "thorax", "neck", "head_top")
    result = scored(person([(0, 0, 2), (1, 1, 2), (2, 2, 2), (3, 3, 2)], [99, 99, 0, 99], head=10), joints=joints)
    assert result["pckh"] == 0.5
    assert result["pck_joint"]["pelvis"] == 0.0


def test_the_torso_is_a_diagonal() -> None:
    joints = ("left_shoulder", "right_shoulder", "left_hip", "right_hip")
    points = np.array([[0, 0, 2], [3, 0, 2], [0, 4, 2], [30, 40, 2]], float)
    assert torso(points, joints) == 50
    points[3, 2] = 0
    assert torso(points, joints) == 5
    points[2, 2] = 0
    assert math.isnan(torso(points, joints))


def test_a_prediction_that_is_no_number_is_not_found() -> None:
    result = scored(person(UPRIGHT, [math.nan, math.inf, 0, 0], head=10))
    assert result["pckh"] == 0.5


def test_nobody_scores_zero() -> None:
    result = scored()
    assert result["pck"] == 0.0
    assert result["results"] == []


def test_curves_rise_to_the_score_at_the_threshold() -> None:
    joints = ("left_knee", "right_knee", "neck", "head_top")
    result = scored(person(UPRIGHT, [1, 4, 0, 6], head=10), joints=joints)
    (title, curve), *_ = result["curves"].items()
    assert title == "PCKh"
    assert set(curve["lines"]) == {"mean", "knee", "neck", "head_top"}
    thresholds, values = curve["lines"]["mean"]
    assert (thresholds[0], thresholds[-1]) == (0, 0.5)
    assert values[-1] == result["pckh"] == 0.75
    assert all(np.diff(values) >= 0)
    assert curve["lines"]["knee"][1][thresholds.index(0.2)] == 0.5


def test_persons_come_in_any_order_and_once() -> None:
    people = [person(UPRIGHT, [i, 0, 9, 0], head=10, image_id=f"im{i}") for i in range(3)]
    data, config = SimpleNamespace(classes=JOINTS, ignored=()), Config(task=SimpleBaseline())
    forth, back = (PoseScores(data, config) for _ in range(2))
    for order, scores in (((0, 1, 2), forth), ((2, 0, 1, 2), back)):
        for i in order:
            scores.update([i], [people[i][0]], [people[i][1]])
    assert forth.compute() == back.compute()


def test_scores_are_ready_for_json_and_tables() -> None:
    result = scored(person(UPRIGHT, [0, 0, 0, 0], head=10, image_id="a"))
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert set(result) <= set(TITLES) | {"notes", "curves", "results"}
    assert result["results"][0]["image_id"] == "a"
    assert len(result["results"][0]["keypoints"]) == 12


def test_a_persons_score_is_the_mean_of_the_sure_joints() -> None:
    assert person_score(np.array([0.1, 0.4, 0.8])) == pytest.approx(0.6)
    assert person_score(np.array([0.1, -0.4])) == 0
    assert person_score(np.array([1.4])) == 1


def noisy(data: PoseData, noise: float) -> dict[str, Any]:
    """Scores of the truth with noise."""
    scores, rng = PoseScores(data, Config(task=SimpleBaseline())), np.random.default_rng(1)
    for index in range(len(data)):
        truth = data.load(index)[1]
        points = truth["points"].double()
        points[:, :2] += torch.from_numpy(rng.normal(0, noise, (len(data.classes), 2)))
        scores.update([index], [{"points": points, "score": float(rng.random())}], [truth])
    return scores.compute()


def test_pckh_is_that_of_mpiis_script(tmp_path: Path) -> None:
    """Also where joints are outside their image: SimpleBaseline's and HRNet's evaluation, from the files they ship."""
    rng, people = np.random.default_rng(0), 50
    for folder in ("annot", "images"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (320, 240)).save(tmp_path / "images" / "a.png")
    joints_N16x2 = np.stack([rng.uniform(-15, 335, (people, 16)), rng.uniform(2, 238, (people, 16))], 2)
    labelled_N16 = rng.random((people, 16)) < 0.8
    about = {"image": "a.png", "center": [160, 120], "scale": 1.0}
    pairs = zip(joints_N16x2.tolist(), labelled_N16.astype(int).tolist(), strict=True)
    (tmp_path / "annot" / "valid.json").write_text(
        json.dumps([{**about, "joints": j, "joints_vis": v} for j, v in pairs])
    )
    corners_22N = rng.uniform(10, 60, (2, 2, people))
    savemat(tmp_path / "annot" / "gt_valid.mat", {"headboxes_src": corners_22N})
    result = noisy(open_data(DataConfig(format="mpii", crop=(256, 192), root=str(tmp_path)), "val"), 12)

    found_N16x2 = np.array([row["keypoints"] for row in result["results"]]).reshape(people, 16, 3)[..., :2] + 1
    head_N = 0.6 * np.linalg.norm(corners_22N[1] - corners_22N[0], axis=0)
    hits_N16 = (np.linalg.norm(found_N16x2 - joints_N16x2, axis=2) / head_N[:, None] <= 0.5) & labelled_N16
    votes = np.delete(np.arange(16), (6, 7))
    assert result["pckh"] == pytest.approx(hits_N16[:, votes].sum() / labelled_N16[:, votes].sum(), abs=1e-9)
    assert list(result["pck_joint"].values()) == pytest.approx(list(hits_N16.sum(0) / labelled_N16.sum(0)), abs=1e-9)


# --- COCO -------------------------------------------------------------------------------------------------------------

SCORES = ("ap", "ap50", "ap75", "ar")


def crowd_of(n: int) -> list[Person]:
    rng = np.random.default_rng(0)
    people = []
    for i in range(n):
        points = np.concatenate([rng.uniform(10, 100, (17, 2)), rng.integers(0, 3, (17, 1))], 1)
        off = rng.normal(0, 8 * rng.random(), 17)
        truth = [(float(x), float(y), int(v)) for x, y, v in points]
        people.append(person(truth, off.tolist(), image_id=f"im{i // 2}", score=float(rng.uniform(0.3, 1))))
    return people


def test_oks_ap_is_that_of_pycocotools() -> None:
    people = crowd_of(40)
    result = scored(*people, joints=tuple(COCO_SIGMAS))
    document = {
        "images": [{"id": i} for i in range(20)],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [
            {
                **{"id": i + 1, "image_id": i // 2, "category_id": 1, "iscrowd": 0, "area": 5000.0},
                **{"bbox": [0, 0, 50, 100], "keypoints": t["points"].flatten().tolist()},
                "num_keypoints": int((t["points"][:, 2] > 0).sum()),
            }
            for i, (_, t) in enumerate(people)
        ],
    }
    rows = [{**row, "image_id": int(row["image_id"][2:])} for row in result["results"]]
    assert 0.05 < result["ap"] < 0.95
    assert [result[name] for name in SCORES] == pytest.approx(of_pycocotools(document, rows), abs=1e-9)


def of_pycocotools(document: dict[str, Any], results: list[dict[str, Any]]) -> list[float]:
    truth = COCO()
    truth.dataset = document
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        oracle = COCOeval(truth, truth.loadRes(results), "keypoints")
        oracle.evaluate()
        oracle.accumulate()
        oracle.summarize()
    return [oracle.stats[i] for i in (0, 1, 2, 5)]


@pytest.mark.parametrize("noise", [2, 4, 7])
def test_oks_ap_of_a_file_is_that_of_pycocotools(tmp_path: Path, noise: float) -> None:
    """Also with joints outside the image, crowds and people without joints, near whom a find is no mistake."""
    rng = np.random.default_rng(0)
    annotations = []
    for number in range(80):
        (x, y), (width, height) = rng.uniform(0, 150, 2), rng.uniform(30, 100, 2)
        points = np.stack([x + width * rng.random(17), y + height * rng.random(17), rng.integers(0, 3, 17)], 1)
        points[3] = (-25, 40, 1) if number % 4 == 0 else points[3]
        points[points[:, 2] == 0] = 0
        points *= number % 4 != 1
        about = {"id": number + 1, "image_id": number // 10, "category_id": 1, "iscrowd": int(number % 8 == 2)}
        size = {"bbox": [x, y, width, height], "area": 0.6 * width * height}
        labels = {"keypoints": points.flatten().tolist(), "num_keypoints": int((points[:, 2] > 0).sum())}
        annotations.append({**about, **size, **labels})
    images = [{"id": i, "file_name": f"{i}.png", "height": 240, "width": 320} for i in range(8)]
    category = {"id": 1, "name": "person", "keypoints": list(COCO_SIGMAS), "skeleton": []}
    document = {"images": images, "annotations": annotations, "categories": [category]}
    for image in images:
        Image.new("RGB", (320, 240)).save(tmp_path / image["file_name"])
    (tmp_path / "person_keypoints_val.json").write_text(json.dumps(document))
    data = open_data(DataConfig(format="coco", crop=(256, 192), root=str(tmp_path)), "val")
    assert (len(data), len(data.ignored)) == (50, 30)
    result = noisy(data, noise)
    official = of_pycocotools(document, result["results"])
    assert [result[name] for name in SCORES] == pytest.approx(official, abs=1e-9)
    data.ignored = []
    assert noisy(data, noise)["ap"] != pytest.approx(official[0], abs=1e-4)


def test_coco_sigmas_are_pycocotools() -> None:
    assert list(COCO_SIGMAS.values()) == pytest.approx(Params("keypoints").kpt_oks_sigmas.tolist())


def test_perfect_poses_have_an_ap_of_one() -> None:
    truth = [(float(10 + i), float(3 * i), 2) for i in range(17)]
    assert scored(person(truth, [0.0] * 17), joints=tuple(COCO_SIGMAS))["ap"] == pytest.approx(1)
    assert "ap" not in scored(person(truth[:4], [0.0] * 4))
