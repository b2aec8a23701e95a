"""Detection metrics: COCO's twelve numbers, Pascal VOC's AP50, precision-recall curves, confusion of classes.

COCO's numbers come from faster-coco-eval, which equals pycocotools. All of them are computed from the very entries that
`records` makes, so that scoring the results file with another tool gives the same numbers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray
from torchvision.ops import box_iou

from fna.config import DetectionConfig
from fna.training import distributed

METRIC = "map"
TITLES = {  # COCO's twelve in COCO's order, then Pascal VOC's, then those by class
    "map": "AP",
    "map50": "AP50",
    "map75": "AP75",
    "map_small": "AP small",
    "map_medium": "AP medium",
    "map_large": "AP large",
    "mar_1": "AR, 1 box",
    "mar_10": "AR, 10 boxes",
    "mar_100": "AR, 100 boxes",
    "mar_small": "AR small",
    "mar_medium": "AR medium",
    "mar_large": "AR large",
    "voc_map50": "VOC AP50",
    "ap": "AP",
    "ap50": "AP50",
    "voc_ap50": "VOC AP50",
}
TWELVE = tuple(TITLES)[:12]
BACKGROUND = "background"
CURVES = "Precision and recall at IoU 0.5"
MATCH = 0.5  # IoU from which a box is found (VOC's AP50, curves, confusion)

Array = NDArray[Any]
Found = Mapping[str, Any]  # an entry of COCO's results format


class DetectionScores:
    """Average precision over images and processes.

    Difficult boxes (Pascal VOC) are to COCO's numbers what crowds are: finding them counts neither for nor against.

    Args:
        data: the split: `classes`, and `category_ids` where the data set numbers its classes itself.
        config: ``evaluate.draw_threshold``: boxes from this score on make the confusion of classes.
    """

    def __init__(self, data: Any, config: DetectionConfig) -> None:
        self.data = data
        self.threshold = config.evaluate.draw_threshold
        self.images: list[dict[str, Any]] = []

    def update(self, indices: Sequence[int], predictions: Sequence[Any], truths: Sequence[Any]) -> None:
        """Add images: positions in the data, predictions and truths as the detection task has them."""
        for index, prediction, truth in zip(indices, predictions, truths, strict=True):
            image_id = int(truth.get("image_id", index + 1))
            found = records(prediction, image_id, self.data)
            self.images.append({**_lists(truth), "index": int(index), "image_id": image_id, "results": found})

    def compute(self) -> dict[str, Any]:
        """Return the scores of `TITLES`, ``curves``, ``confusion`` and ``results`` over all processes."""
        # Sorted: ties in score are broken by the order of the images, whatever process scored them.
        images = sorted(distributed.gather(self.images), key=lambda image: int(image["index"]))
        return score_images(images, self.data.classes, category_ids(self.data), self.threshold)


def _lists(truth: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return a truth as lists; where nothing is said, a thing is no crowd, not difficult, and as large as its box."""
    boxes = truth["boxes"].tolist()
    area = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes]
    said = {key: truth[key].tolist() for key in ("labels", "crowd", "difficult", "area") if key in truth}
    return {"boxes": boxes, "crowd": [False] * len(boxes), "difficult": [False] * len(boxes), "area": area, **said}


def category_ids(data: Any) -> tuple[int, ...]:
    """Return the data set's own number of each class, or 1, 2, ... where it has none."""
    return tuple(getattr(data, "category_ids", None) or range(1, len(data.classes) + 1))


def records(prediction: Mapping[str, Any], image_id: Any, data: Any) -> list[dict[str, Any]]:
    """Return a prediction as entries of COCO's results format.

    Args:
        prediction: ``boxes`` (n, 4) as x0, y0, x1, y1 in pixels, ``scores`` (n,), ``labels`` (n,).
        image_id: the image's number or name.
        data: where the classes are.

    Returns:
        An entry per box, ``bbox`` as x0, y0, width, height, rounded to 1/1000 pixel.
    """
    ids = category_ids(data)
    corners, scores, labels = (prediction[key].tolist() for key in ("boxes", "scores", "labels"))
    return [
        {
            "image_id": image_id,
            "category_id": int(ids[label]),
            "bbox": [round(x0, 3), round(y0, 3), round(x1 - x0, 3), round(y1 - y0, 3)],
            "score": round(score, 6),
        }
        for (x0, y0, x1, y1), score, label in zip(corners, scores, labels, strict=True)
    ]


def score_images(
    images: Sequence[Mapping[str, Any]], classes: Sequence[str], ids: Sequence[int], threshold: float
) -> dict[str, Any]:
    """Return all scores of some images.

    Args:
        images: each with the lists of its truth (``boxes`` as corners in pixels, ``labels``, ``crowd``, ``difficult``,
            ``area``), its ``image_id``, and its ``results``.
        classes: names of the classes.
        ids: the number of each class in the results.
        threshold: lowest score in the confusion of classes.

    Returns:
        See `TITLES`; a score is None where the truth has no box it could be about (none that small, of that class),
        and the headline is 0 without any truth.
    """
    precision, recall = coco_tables(images, classes, ids)
    scores: dict[str, Any] = twelve(precision, recall)
    scores[METRIC] = scores[METRIC] or 0.0
    by_class = voc_ap50(images, len(classes), ids)
    known = [ap for ap in by_class if ap is not None]
    scores["voc_map50"] = sum(known) / len(known) if known else None
    order = np.argsort(ids, kind="stable").argsort()  # faster-coco-eval sorts the classes by their numbers
    tables = [precision[:, :, k, 0, -1] for k in order]
    scores["ap"] = dict(zip(classes, (_mean(table) for table in tables), strict=True))
    scores["ap50"] = dict(zip(classes, (_mean(table[0]) for table in tables), strict=True))
    scores["voc_ap50"] = dict(zip(classes, by_class, strict=True))
    lines = {name: table[0] for name, table in zip(classes, tables, strict=True) if (table[0] > -1).any()}
    scores["curves"] = {CURVES: {"x": "recall", "y": "precision", "lines": _lines(lines)}}
    scores["confusion"] = {
        "rows": [*classes, BACKGROUND],
        "columns": [*classes, BACKGROUND],
        "counts": confusion(images, len(classes), ids, threshold).tolist(),
    }
    labels = [
        label
        for image in images
        for label, *left_out in zip(image["labels"], image["crowd"], image["difficult"], strict=True)
        if not any(left_out)
    ]
    scores["counts"] = {"boxes": {name: labels.count(k) for k, name in enumerate(classes)}}
    scores["results"] = [entry for image in images for entry in image["results"]]
    return scores


# --- COCO -------------------------------------------------------------------------------------------------------------


def coco_tables(images: Sequence[Mapping[str, Any]], classes: Sequence[str], ids: Sequence[int]) -> tuple[Array, Array]:
    """Return COCO's precision (IoU, recall, class, area, boxes) and recall (IoU, class, area, boxes); -1: no truth."""
    about = {
        "images": [{"id": image["image_id"]} for image in images],
        "categories": [{"id": number, "name": name} for number, name in zip(ids, classes, strict=True)],
    }
    truths: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image in images:
        columns = (image[key] for key in ("boxes", "labels", "area", "crowd", "difficult"))
        for (x0, y0, x1, y1), label, area, crowd, difficult in zip(*columns, strict=True):
            truths.append(
                {
                    "id": len(truths) + 1,
                    "image_id": image["image_id"],
                    "category_id": ids[label],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": area,
                    "iscrowd": int(crowd or difficult),
                }
            )
        for entry in image["results"]:
            width, height = entry["bbox"][2:]
            found.append({**entry, "id": len(found) + 1, "area": width * height, "iscrowd": 0})
    silent = {"print_function": _say_nothing}
    evaluator = COCOeval_faster(
        COCO({**about, "annotations": truths}, **silent),
        COCO({**about, "annotations": found}, **silent),
        iouType="bbox",
        **silent,
    )
    evaluator.evaluate()
    evaluator.accumulate()
    return np.asarray(evaluator.eval["precision"]), np.asarray(evaluator.eval["recall"])


def _say_nothing(*_: Any) -> None:
    """Take the place of faster-coco-eval's prints."""


def twelve(precision: Array, recall: Array) -> dict[str, float | None]:
    """Return COCO's twelve numbers (https://cocodataset.org/#detection-eval) from `coco_tables`.

    IoU runs over 0.5, 0.55 ... 0.95; areas over all, small (below 32^2 pixels), medium, large (above 96^2); boxes per
    image over 1, 10, 100.
    """
    average = [_mean(precision[..., 0, -1]), *(_mean(precision[iou, ..., 0, -1]) for iou in (0, 5))]
    average += [_mean(precision[..., area, -1]) for area in (1, 2, 3)]
    average += [_mean(recall[..., 0, boxes]) for boxes in range(3)]
    average += [_mean(recall[..., area, -1]) for area in (1, 2, 3)]
    return dict(zip(TWELVE, average, strict=True))


def _mean(values: Array) -> float | None:
    """Average what is there; -1 marks what is not."""
    known = values[values > -1]
    return float(known.mean()) if known.size else None


def _lines(precisions: Mapping[str, Array]) -> dict[str, list[list[float]]]:
    """Return precision at 101 recalls, by class, and their mean first."""
    recalls = [i / 100 for i in range(101)]
    whole = {"mean": np.mean(list(precisions.values()), 0)} if len(precisions) > 1 else {}
    return {name: [recalls, np.round(y, 4).tolist()] for name, y in {**whole, **precisions}.items()}


# --- Pascal VOC -------------------------------------------------------------------------------------------------------


def voc_ap50(images: Sequence[Mapping[str, Any]], classes: int, ids: Sequence[int]) -> list[float | None]:
    """Return Pascal VOC's average precision at IoU 0.5 by class; None: no truth that counts.

    As the development kit since 2010 (http://host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf, section 3.4.1):
    boxes of falling score each look at the truth of their class they overlap most; below an IoU of 0.5, or if that one
    is found already, they are wrong; if it is difficult (or a crowd), they do not count. AP is the whole area under
    the precision made monotone (no 11 points). Boxes are continuous: a width is x1 - x0, without the kit's + 1 pixel.
    """
    scores: dict[int, list[float]] = defaultdict(list)
    verdicts: dict[int, list[int]] = defaultdict(list)
    total = np.zeros(classes, int)
    for image in images:
        truth_N4, labels_N, ignored_N = _truth(image)
        total += np.bincount(labels_N[~ignored_N], minlength=classes)
        for label, entries in _by_label(image["results"], ids).items():
            here = labels_N == label
            scores[label] += [entry["score"] for entry in entries]
            verdicts[label] += match_voc(_corners(entries), truth_N4[here], ignored_N[here])
    return [
        area_under_curve(np.array(scores[label]), np.array(verdicts[label]), int(total[label]))
        if total[label]
        else None
        for label in range(classes)
    ]


def match_voc(found_n4: Array, truth_N4: Array, ignored_N: Array) -> list[int]:
    """Judge boxes of falling score: 1 right, 0 wrong, -1 does not count."""
    if not len(truth_N4):
        return [0] * len(found_n4)
    taken = np.zeros(len(truth_N4), bool)
    verdicts = []
    for overlaps in iou(found_n4, truth_N4):
        best = int(overlaps.argmax())
        if overlaps[best] < MATCH:
            verdicts.append(0)
        elif ignored_N[best]:
            verdicts.append(-1)
        else:
            verdicts.append(int(not taken[best]))
            taken[best] = True
    return verdicts


def area_under_curve(scores_n: Array, verdicts_n: Array, total: int) -> float:
    """Return the area under the monotone precision-recall curve.

    >>> area_under_curve(np.array([0.9, 0.8, 0.7]), np.array([1, 0, 1]), 2)  # precision 1, then 2/3
    0.8333333333333333
    """
    counted = verdicts_n >= 0
    right = verdicts_n[counted][np.argsort(-scores_n[counted], kind="stable")]
    hits = right.cumsum()
    precision = hits / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((envelope * right).sum() / total)


# --- confusion --------------------------------------------------------------------------------------------------------


def confusion(images: Sequence[Mapping[str, Any]], classes: int, ids: Sequence[int], threshold: float) -> Array:
    """Count truths by true and predicted class; the last row and column are the background.

    Boxes of falling score, of any class, each take the free truth they overlap most, from an IoU of 0.5 on. What finds
    nothing is counted in the last row, what nobody finds in the last column. Crowds and difficult boxes do not count,
    nor does a box that finds nothing else.

    Args:
        images: see `score_images`.
        classes: number of classes.
        ids: the number of each class in the results.
        threshold: lowest score.

    Returns:
        (classes + 1, classes + 1).
    """
    counts = np.zeros((classes + 1, classes + 1), int)
    label_of = {number: label for label, number in enumerate(ids)}
    for image in images:
        truth_N4, labels_N, ignored_N = _truth(image)
        found = sorted((e for e in image["results"] if e["score"] >= threshold), key=lambda e: -float(e["score"]))
        free = ~ignored_N
        for entry, overlaps in zip(found, iou(_corners(found), truth_N4), strict=True):
            label = label_of[entry["category_id"]]
            best = int(np.where(free, overlaps, -1).argmax()) if len(overlaps) else -1
            if best >= 0 and free[best] and overlaps[best] >= MATCH:
                counts[labels_N[best], label] += 1
                free[best] = False
            elif not (overlaps[ignored_N] >= MATCH).any():
                counts[classes, label] += 1
        counts[:classes, classes] += np.bincount(labels_N[free], minlength=classes)
    return counts


# --- boxes ------------------------------------------------------------------------------------------------------------


def iou(a_N4: Array, b_M4: Array) -> Array:
    """Return the IoU of boxes given by their corners, (N, M); that of two boxes without area is 0."""
    overlaps: Array = box_iou(torch.from_numpy(a_N4), torch.from_numpy(b_M4)).numpy()
    return np.nan_to_num(overlaps)


def _truth(image: Mapping[str, Any]) -> tuple[Array, Array, Array]:
    """Return corners (N, 4), labels (N,) and whether each does not count (N,)."""
    ignored = np.array(image["crowd"], bool) | np.array(image["difficult"], bool)
    return np.array(image["boxes"], np.float64).reshape(-1, 4), np.array(image["labels"], int), ignored


def _corners(entries: Sequence[Found]) -> Array:
    boxes_n4 = np.array([entry["bbox"] for entry in entries], np.float64).reshape(-1, 4)
    return np.concatenate([boxes_n4[:, :2], boxes_n4[:, :2] + boxes_n4[:, 2:]], 1)


def _by_label(entries: Sequence[Found], ids: Sequence[int]) -> dict[int, list[Found]]:
    """Group entries by class id, those of a class by falling score."""
    label_of = {number: label for label, number in enumerate(ids)}
    groups: dict[int, list[Found]] = defaultdict(list)
    for entry in sorted(entries, key=lambda entry: -float(entry["score"])):
        groups[label_of[entry["category_id"]]].append(entry)
    return groups
