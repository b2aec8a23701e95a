"""Pose scores: PCKh, PCK and the average precision by object keypoint similarity (OKS).

| score | a joint is found when it is off by at most | source |
|---|---|---|
| ``pckh`` | 0.5 x the head size | MPII (Andriluka et al., CVPR 2014) |
| ``pck_torso`` | 0.2 x the torso | Sapp and Taskar, CVPR 2013 |
| ``pck_box`` | 0.2 x the longer side of the person's box | Yang and Ramanan, TPAMI 2013 |
| ``pck`` | the first of these for which at least half of the persons have a size | |

The head size comes with the data: on MPII 0.6 x the diagonal of the annotated head box (its script's rule), elsewhere
the distance of neck and head top. The torso is the distance of left shoulder and right hip, or where one of them is not
labelled that of right shoulder and left hip. Hidden joints with a label count, joints without a label never do. A
person without a size (not known, or 0 pixels) is left out of that score, and counted in ``notes``. Each labelled joint
has one vote in the mean; as in MPII's script, pelvis and thorax have none in PCKh. As in COCO's, what is found in place
of a crowd or of people without labelled joints is neither right nor wrong in OKS AP.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from fna.config import PoseConfig
from fna.data.pose.people import Person
from fna.training import distributed

Floats = NDArray[np.float64]

COCO_SIGMAS = {  # of COCO's annotators, by joint (cocodataset.org/#keypoints-eval)
    "nose": 0.026,
    **dict.fromkeys(("left_eye", "right_eye"), 0.025),
    **dict.fromkeys(("left_ear", "right_ear"), 0.035),
    **dict.fromkeys(("left_shoulder", "right_shoulder"), 0.079),
    **dict.fromkeys(("left_elbow", "right_elbow"), 0.072),
    **dict.fromkeys(("left_wrist", "right_wrist"), 0.062),
    **dict.fromkeys(("left_hip", "right_hip"), 0.107),
    **dict.fromkeys(("left_knee", "right_knee"), 0.087),
    **dict.fromkeys(("left_ankle", "right_ankle"), 0.089),
}
COCO_STATS = {"ap": 0, "ap50": 1, "ap75": 2, "ar": 5}  # our name -> place in COCO's summary of keypoints
SURE = 0.2  # a person's score is the mean over joints above it, as SimpleBaseline's (arXiv:1804.06208)
STEPS = 21  # thresholds of a curve from 0 to 0.5
MOST_LINES = 12  # groups of joints that a curve shows; with more it shows the mean alone


@dataclass(frozen=True)
class Measure:
    """A way to say when a joint is found.

    Args:
        name: the score's.
        title: how tables and curves name it.
        size: of what.
        share: of the size that a joint may be off.
        silent: joints without a vote in the mean.
    """

    name: str
    title: str
    size: str
    share: float
    silent: tuple[str, ...] = ()


MEASURES = (  # the first for which half of the persons have a size is the headline
    Measure("pckh", "PCKh@0.5", "head", 0.5, ("pelvis", "thorax")),
    Measure("pck_torso", "PCK@0.2 torso", "torso", 0.2),
    Measure("pck_box", "PCK@0.2 box", "box", 0.2),
)
TITLES = {
    "pck": "PCK",
    "pck_joint": "PCK by joint",
    **{measure.name: measure.title for measure in MEASURES},
    **{"ap": "OKS AP", "ap50": "OKS AP50", "ap75": "OKS AP75", "ar": "OKS AR"},
}


class PoseScores:
    """Distances of predicted and true joints, person by person.

    Args:
        data: ``classes`` are the joints, ``ignored``, if there, the people of COCO's file that are no records.
        config: not needed.
    """

    def __init__(self, data: Any, config: PoseConfig) -> None:
        self.joints: tuple[str, ...] = tuple(data.classes)
        self._ignored: Sequence[Person] = getattr(data, "ignored", ())
        self._rows: list[dict[str, Any]] = []

    def update(
        self, indices: Sequence[int], predictions: Sequence[Mapping[str, Any]], truths: Sequence[Mapping[str, Any]]
    ) -> None:
        """Add persons.

        Args:
            indices: their positions in the data.
            predictions: ``points``, (K, 3): x, y in image pixels, score; ``score`` of the person.
            truths: ``points``, (K, 3): x, y, visibility; ``box``, x0, y0, width, height; where known, ``head``,
                ``area`` (else the box's) and ``image_id`` (else each person is in an image of its own, from 1 on).
        """
        for index, prediction, truth in zip(indices, predictions, truths, strict=True):
            points = np.asarray(truth["points"], np.float64)
            box = np.asarray(truth["box"], np.float64)
            head = float(truth.get("head", math.nan))
            sizes = {"head": head, "torso": torso(points, self.joints), "box": float(box[2:].max())}
            row = {
                "index": int(index),
                "image_id": truth.get("image_id", index + 1),
                "points": np.asarray(prediction["points"], np.float64).tolist(),
                "score": float(prediction["score"]),
                "truth": points.tolist(),
                "box": box.tolist(),
                "area": float(truth.get("area", box[2] * box[3])),
                "sizes": {name: size if math.isfinite(size) and size > 0 else None for name, size in sizes.items()},
            }
            self._rows.append(row)

    def compute(self) -> dict[str, Any]:
        """Return the scores in `TITLES` that the data allows, ``notes``, ``curves`` and COCO ``results``."""
        gathered = {row["index"]: row for row in distributed.gather(self._rows)}
        rows = [gathered[index] for index in sorted(gathered)]
        scores: dict[str, Any] = {"pck": 0.0, "pck_joint": dict.fromkeys(self.joints), "notes": [], "curves": {}}
        distances_PK = _distances(rows, len(self.joints))
        sized = {m.name: sum(row["sizes"][m.size] is not None for row in rows) for m in MEASURES}
        headline = next((m for m in MEASURES if 2 * sized[m.name] >= len(rows)), None)
        for measure in MEASURES:
            shares_PK, without = _shares(distances_PK, rows, measure.size)
            if without == len(rows) or (measure.size == "box" and headline is not measure):
                continue
            found = shares_PK <= measure.share
            scores[measure.name] = mean(found, shares_PK, self.joints, measure.silent)
            if without:
                scores["notes"].append(f"{measure.title}: {without} of {len(rows)} persons have no {measure.size} size")
            if measure is headline:
                scores["pck"] = scores[measure.name]
                scores["pck_joint"] = by_joint(found, shares_PK, self.joints)
                scores["curves"] = {measure.title.partition("@")[0]: curve(shares_PK, self.joints, measure)}
        if set(self.joints) == set(COCO_SIGMAS) and rows:
            scores |= oks_scores(rows, self.joints, self._ignored)
        scores["results"] = [result(row["points"], row["score"], row["image_id"]) for row in rows]
        return scores


# --- sizes and shares -------------------------------------------------------------------------------------------------


def torso(points_K3: Floats, joints: Sequence[str]) -> float:
    """Return the length of a torso's diagonal, nan where it is not labelled."""
    place = {name: k for k, name in enumerate(joints)}
    for ends in (("left_shoulder", "right_hip"), ("right_shoulder", "left_hip")):
        if all(name in place and points_K3[place[name], 2] > 0 for name in ends):
            a, b = (points_K3[place[name], :2] for name in ends)
            return float(np.linalg.norm(a - b))
    return math.nan


def person_score(scores_K: Floats) -> float:
    """Return a person's score in [0, 1]: the mean over the joints above `SURE`, 0 where there are none."""
    sure = scores_K[scores_K > SURE]
    return float(min(sure.mean(), 1)) if sure.size else 0.0


def _distances(rows: Sequence[Mapping[str, Any]], joints: int) -> Floats:
    """Return distances in pixels, (persons, joints); nan where a joint has no label, inf where none was predicted."""
    found = np.array([row["points"] for row in rows], np.float64).reshape(-1, joints, 3)
    truth = np.array([row["truth"] for row in rows], np.float64).reshape(-1, joints, 3)
    distances = np.linalg.norm(found[..., :2] - truth[..., :2], axis=2)
    distances = np.where(np.isfinite(distances), distances, np.inf)
    return np.where(truth[..., 2] > 0, distances, np.nan)


def _shares(distances_PK: Floats, rows: Sequence[Mapping[str, Any]], size: str) -> tuple[Floats, int]:
    """Return distances / size, nan where either is missing, and how many persons have no size."""
    sizes = np.array([row["sizes"][size] or np.nan for row in rows], np.float64)
    return distances_PK / sizes[:, None], int(np.isnan(sizes).sum())


# --- PCK --------------------------------------------------------------------------------------------------------------


def by_joint(found_PK: NDArray[np.bool_], shares_PK: Floats, joints: Sequence[str]) -> dict[str, float | None]:
    """Return the share of each joint's labels that was found; None for a joint without labels."""
    labels, hits = (~np.isnan(shares_PK)).sum(0), found_PK.sum(0)
    return {name: float(h / n) if n else None for name, h, n in zip(joints, hits, labels, strict=True)}


def mean(found_PK: NDArray[np.bool_], shares_PK: Floats, joints: Sequence[str], silent: Sequence[str] = ()) -> float:
    """Return the share of all labelled joints that was found, but for `silent` ones; 0 where there are none."""
    votes = ~np.isnan(shares_PK[:, [name not in silent for name in joints]])
    hits = found_PK[:, [name not in silent for name in joints]]
    return float(hits.sum() / max(votes.sum(), 1))


def curve(shares_PK: Floats, joints: Sequence[str], measure: Measure) -> dict[str, Any]:
    """Return the PCK at thresholds from 0 to 0.5: the mean, and left and right joints together."""
    thresholds = np.linspace(0, 0.5, STEPS)
    groups: dict[str, list[int]] = {}
    for k, name in enumerate(joints):
        groups.setdefault(name.removeprefix("left_").removeprefix("right_"), []).append(k)
    labelled = {name: places for name, places in groups.items() if not np.isnan(shares_PK[:, places]).all()}
    lines = {"mean": [mean(shares_PK <= t, shares_PK, joints, measure.silent) for t in thresholds]}
    for name, places in labelled.items() if len(labelled) <= MOST_LINES else ():
        part_PK = shares_PK[:, places]
        lines[name] = [mean(part_PK <= t, part_PK, [joints[k] for k in places]) for t in thresholds]
    return {
        "x": f"distance / {measure.size} size",
        "y": "share of joints found",
        "lines": {name: [thresholds.tolist(), values] for name, values in lines.items()},
    }


# --- COCO -------------------------------------------------------------------------------------------------------------


def result(points_K3: Sequence[Sequence[float]], score: float, image_id: int | str) -> dict[str, Any]:
    """Return a person in COCO's results format; coordinates in image pixels, third value of each joint its score."""
    keypoints = [round(float(value), 3) for point in points_K3 for value in point]
    return {"image_id": image_id, "category_id": 1, "keypoints": keypoints, "score": round(float(score), 6)}


def oks_scores(
    rows: Sequence[Mapping[str, Any]], joints: Sequence[str], ignored: Sequence[Person] = ()
) -> dict[str, float]:
    """Return COCO's AP and AR by object keypoint similarity; persons are cut out by their true boxes.

    Args:
        rows: the persons.
        joints: COCO's 17, in the data's order.
        ignored: crowds and people without labelled joints: what is found there counts only where it is someone else.
    """
    images = {image: number for number, image in enumerate(dict.fromkeys(row["image_id"] for row in rows), 1)}
    people = [(row["image_id"], row["truth"], row["box"], row["area"], False) for row in rows]
    people += [(one.image_id, one.points.tolist(), one.box, one.area, one.crowd) for one in ignored]
    truth = COCO(
        {
            "images": [{"id": number} for number in images.values()],
            "annotations": [
                {
                    **{"id": number, "image_id": images[image], "category_id": 1, "iscrowd": int(crowd)},
                    **{"bbox": list(box), "area": area, "keypoints": [v for point in points for v in point]},
                    "num_keypoints": sum(point[2] > 0 for point in points),
                }
                for number, (image, points, box, area, crowd) in enumerate(people, 1)
                if image in images
            ],
            "categories": [{"id": 1, "name": "person"}],
        }
    )
    found = truth.loadRes([result(row["points"], row["score"], images[row["image_id"]]) for row in rows])
    sigmas = [COCO_SIGMAS[name] for name in joints]
    evaluation = COCOeval_faster(truth, found, "keypoints", kpt_oks_sigmas=sigmas)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return {name: max(float(evaluation.stats[place]), 0.0) for name, place in COCO_STATS.items()}
