"""How predictions are written: pictures, masks, boxes and poses for people and for other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from fna.errors import FnaError, nearest
from fna.files import json_bytes
from fna.tasks import Picture
from fna.tasks.problem import Problem

BOXES = ("detection", "pose")
CLASSES = "classes.txt"  # names by line, the first of class 0
PERSON = "person"


@dataclass(frozen=True)
class Labelled:
    """An image with its predictions.

    Args:
        name: of its file.
        image_id: its number.
        pixels: RGB.
        predictions: of the image, or of each person in it; of masks, ids (H, W) or probabilities (classes, H, W).
    """

    name: str
    image_id: Any
    pixels: Picture
    predictions: Sequence[Any]

    @property
    def ids(self) -> Tensor:
        """Class ids of a mask."""
        mask: Tensor = self.predictions[0]
        return mask if mask.ndim == 2 else mask.argmax(0)


@dataclass(frozen=True)
class Format:
    """A way to write predictions.

    Args:
        about: a line for people.
        tasks: that have it.
        file: where it goes below the output's folder; ``{}`` is an image's name: each has a file of its own.
        make: (problem, labelled image) -> the content of its file, or its rows in the file of all.
        join: (problem, rows of all) -> the content of the file of all.
        names: whether `CLASSES` says what its numbers mean.
    """

    about: str
    tasks: tuple[str, ...]
    file: str
    make: Callable[[Problem, Labelled], Any]
    join: Callable[[Problem, Sequence[Any]], bytes] | None = None
    names: bool = False


def choose_formats(wanted: Sequence[str], task: str) -> dict[str, Format]:
    """Return the formats of some names; of none, the pictures and the task's first other one.

    Raises:
        FnaError: one is not the task's.
    """
    there = {name: known for name, known in FORMATS.items() if task in known.tasks}
    for name in wanted:
        if name not in there:
            raise FnaError(
                f"--format {name} is not for {task}{nearest(name, there)}; it has: "
                + "; ".join(f"{key} ({known.about})" for key, known in there.items())
            )
    return {name: there[name] for name in wanted or list(there)[:2]}


def write_classes(problem: Problem) -> bytes:
    """Return the names of the classes, one a line."""
    classes = [PERSON] if problem.config.task.name == "pose" else problem.labels.classes
    return "".join(f"{name}\n" for name in classes).encode()


def png(picture: np.ndarray[Any, Any]) -> bytes:
    """Encode a uint8 picture: RGB, or ids (H, W) as grey values."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def _overlay(problem: Problem, image: Labelled) -> bytes:
    picture_HW3 = image.pixels
    if problem.config.task.name == "segmentation":
        return png(problem.draw(picture_HW3, image.ids))
    for prediction in image.predictions:
        picture_HW3 = problem.draw(picture_HW3, prediction)
    return png(picture_HW3)


def _ids(problem: Problem, image: Labelled) -> bytes:
    return png(image.ids.numpy().astype(np.uint8))


def _probabilities(problem: Problem, image: Labelled) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, probabilities=image.predictions[0].numpy().astype(np.float16))
    return buffer.getvalue()


# --- boxes and poses --------------------------------------------------------------------------------------------------


def _coco(problem: Problem, image: Labelled) -> list[dict[str, Any]]:
    task, labels, found = problem.task, problem.labels, []
    assert task.records is not None, "a task with boxes"
    names = dict(zip(labels.category_ids or range(1, len(labels.classes) + 1), labels.classes, strict=True))
    for prediction in image.predictions:
        for row in task.records(prediction, image.image_id, labels):
            name = PERSON if "keypoints" in row else names.get(row["category_id"])
            found.append({"file_name": image.name, "category_name": name, **row})
    return found


def _join_coco(problem: Problem, rows: Sequence[Any]) -> bytes:
    return json_bytes(rows)


def _yolo(problem: Problem, image: Labelled) -> bytes:
    """Return a line a box, or person: class, centre and size, joints; all in shares of the image, as labels have them.

    Labels have no scores: what pictures do not show (``evaluate.draw_threshold``) is left out, as are joints that lie
    outside the image, which readers of labels refuse.
    """
    height, width = image.pixels.shape[:2]
    config: Any = problem.config
    least, lines = config.evaluate.draw_threshold, []
    for prediction in image.predictions:
        if "points" in prediction:
            x, y, w, h = prediction["box"].tolist()
            joints = [
                (x / width, y / height, 2) if s >= least and 0 <= x <= width and 0 <= y <= height else (0, 0, 0)
                for x, y, s in _points(prediction)
            ]
            lines.append((0, (x, y, x + w, y + h), [value for joint in joints for value in joint]))
            continue
        corners, labels, scores = (prediction[key].tolist() for key in ("boxes", "labels", "scores"))
        lines += [(label, box, []) for box, label, score in zip(corners, labels, scores, strict=True) if score >= least]
    return "".join(f"{label} {_shares(box, width, height, rest)}\n" for label, box, rest in lines).encode()


def _points(prediction: Mapping[str, Any]) -> list[tuple[float, float, float]]:
    """Return the joints with x and y from the image's rim, not from the centre of its first pixel."""
    return [(x + 0.5, y + 0.5, score) for x, y, score in prediction["points"].tolist()]


def _shares(box: Sequence[float], width: int, height: int, rest: Sequence[float]) -> str:
    x0, x1 = (min(max(x / width, 0.0), 1.0) for x in (box[0], box[2]))
    y0, y1 = (min(max(y / height, 0.0), 1.0) for y in (box[1], box[3]))
    return " ".join(f"{value:.6g}" for value in ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0, *rest))


def _table(problem: Problem, image: Labelled) -> list[list[Any]]:
    """Return a row a box, or person."""
    rows: list[list[Any]] = []
    for prediction in image.predictions:
        if "points" in prediction:
            x, y, w, h = prediction["box"].tolist()
            joints = [value for point in prediction["points"].tolist() for value in point]
            rows.append([image.name, PERSON, prediction["score"], x, y, x + w, y + h, *joints])
            continue
        boxes, labels, scores = (prediction[key].tolist() for key in ("boxes", "labels", "scores"))
        rows += [
            [image.name, problem.labels.classes[label], score, *box]
            for box, label, score in zip(boxes, labels, scores, strict=True)
        ]
    return rows


def _join_table(problem: Problem, rows: Sequence[Any]) -> bytes:
    head = ["file_name", "class", "score", "x0", "y0", "x1", "y1"]
    if problem.config.task.name == "pose":
        head += [f"{joint}_{what}" for joint in problem.labels.classes for what in ("x", "y", "score")]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([f"{value:.6g}" if isinstance(value, float) else value for value in row] for row in rows)
    return text.getvalue().encode(errors="backslashreplace")


FORMATS: dict[str, Format] = {  # pictures, then of each task the one that is written unasked
    "overlay": Format("pictures", ("segmentation", *BOXES), "{}.png", _overlay),
    "png": Format("class ids as grey values", ("segmentation",), "masks/{}.png", _ids, names=True),
    "npz": Format("probabilities", ("segmentation",), "probabilities/{}.npz", _probabilities, names=True),
    "coco": Format("COCO's results", BOXES, "results.json", _coco, _join_coco),
    "yolo": Format("YOLO's labels, without scores", BOXES, "labels/{}.txt", _yolo, names=True),
    "csv": Format("a table", BOXES, "predictions.csv", _table, _join_table),
}
