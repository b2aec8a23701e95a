"""Predictions of an adapted network on a folder of images; the data set it was trained on is not needed."""

from __future__ import annotations

import io
import itertools
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from fna.data.decoding import read_image
from fna.data.images import Pixels
from fna.data.pose.checks import check_box
from fna.data.pose.person_boxes import PersonBoxes
from fna.errors import FnaError
from fna.files import write_bytes, write_json
from fna.progress import bar, say
from fna.training.setting import Setting

IMAGE_ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
NAMED = 5  # unreadable images that an error names


@dataclass(frozen=True)
class Labels:
    """What predictions mean, where there is no data set.

    Args:
        classes: names of the classes, or of the joints.
        colors: RGB by class.
        links: pairs of joints that a skeleton joins.
        category_ids: the data set's own numbers of the classes, as COCO's results have them; (): it has none.
    """

    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    links: tuple[tuple[int, int], ...] = ()
    category_ids: tuple[int, ...] = ()

    @classmethod
    def of(cls, data: Any) -> Labels:
        """Return those of a data set."""
        ids = tuple(getattr(data, "category_ids", ()))
        return cls(tuple(data.classes), tuple(data.colors), tuple(data.links), ids)

    @classmethod
    def from_json(cls, record: Any) -> Labels:
        """Return what `to_json` wrote; older runs have the colours alone.

        Raises:
            FnaError: it is no such record.
        """
        try:
            colors, pairs = record["colors"], tuple((a, b) for a, b in record.get("links", ()))
            ids = tuple(record.get("category_ids", ()))
            return cls(tuple(colors), tuple((r, g, b) for r, g, b in colors.values()), pairs, ids)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise FnaError(
                f"the run's record of its classes is damaged ({error}); adapt again in a new folder"
            ) from error

    def to_json(self) -> dict[str, Any]:
        """Return them ready for JSON."""
        colors = {name: list(color) for name, color in zip(self.classes, self.colors, strict=True)}
        links = [list(link) for link in self.links]
        return {"colors": colors, "links": links, "category_ids": list(self.category_ids)}


def find_images(folder: Path) -> list[Path]:
    """Return the images of a folder in order.

    Raises:
        FnaError: it is no folder, or has none.
    """
    if not folder.is_dir():
        what = "is a file; give its folder" if folder.exists() else "does not exist"
        raise FnaError(f"--images {folder} {what}")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_ENDINGS and path.is_file())
    if not paths:
        raise FnaError(f"no image ({' '.join(IMAGE_ENDINGS)}) in --images {folder}")
    return paths


@torch.no_grad()
def write_predictions(
    model: nn.Module, setting: Setting, paths: Sequence[Path], out: Path, boxes: PersonBoxes | None
) -> dict[str, Any]:
    """Write a picture of each prediction to `out`, and results.json where the task has COCO results.

    An image that cannot be read does not keep the others from being written.

    Args:
        model: a task's network with its weights, placed.
        setting: task and hardware; its data may be mere `Labels`.
        paths: images.
        out: folder of the pictures, made if missing.
        boxes: where the persons are; None: an image is one record.

    Raises:
        FnaError: `out` holds the images themselves, or cannot be made; or, once all else is written, images cannot be
            read, or a box is not in its image.
    """
    _make_folder(out, {path.parent for path in paths})
    model.eval()
    task, labels = setting.task, setting.val
    image_ids, names = number_images(paths, boxes.image_ids if boxes else {}), name_pictures(paths)
    results: list[dict[str, Any]] = []
    problems: list[str] = []
    with bar(len(paths), "predict") as progress:
        for path in paths:
            try:
                image_HW3 = read_image(path)
                records = boxes.records.get(path.name, []) if boxes else [{}]
                _refuse_strange_boxes(records, path.name, (image_HW3.shape[0], image_HW3.shape[1]))
            except FnaError as error:
                problems.append(str(error))
            else:
                picture_HW3, rows = _label(model, setting, image_HW3, records, image_ids[path])
                write_bytes(out / names[path], png(picture_HW3))
                results += [{"file_name": path.name, **row} for row in rows]
            progress.advance()
    if task.records is not None:
        write_json(out / "results.json", results)
    if problems:
        more = f"; and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        raise FnaError(
            f"{len(problems)} of {len(paths)} images were left out, the others are in {out}: "
            f"{'; '.join(problems[:NAMED])}{more}"
        )
    if boxes:
        empty = sum(path.name not in boxes.records for path in paths)
        say(f"--boxes: {empty} of {len(paths)} images have no person, {boxes.left_out} boxes are no single person")
    return {
        "out": str(out),
        "files": [*names.values()] + ["results.json"] * (task.records is not None),
        "colors": dict(zip(labels.classes, labels.colors, strict=True)),
    }


def _make_folder(out: Path, sources: Collection[Path]) -> None:
    """Make the folder of the pictures, if it is not one of the images' own."""
    if out.resolve() in {source.resolve() for source in sources}:
        raise FnaError(f"--out {out} holds the images themselves, which would be overwritten; give another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FnaError(f"cannot make the folder --out {out}: {error.strerror}; give another") from error


def _label(
    model: nn.Module, setting: Setting, image_HW3: Pixels, records: Sequence[Mapping[str, Any]], image_id: int
) -> tuple[Pixels, list[dict[str, Any]]]:
    """Return the picture of an image's predictions, and their COCO results.

    The score of a detected person is that of its box times that of its joints (SimpleBaseline, arXiv:1804.06208).
    """
    task, labels, config = setting.task, setting.val, setting.config
    picture_HW3, image_3HW = image_HW3, torch.from_numpy(image_HW3).permute(2, 0, 1)
    results: list[dict[str, Any]] = []
    for record in records:
        view, frame = task.view(image_3HW, {**record, "joints": labels.classes}, config)
        x = setting.compute.images(view[None], setting.seed.mean, setting.seed.std)
        with setting.compute.autocast():
            prediction = task.predict(model, x, [frame], config)[0]
        picture_HW3 = task.draw(picture_HW3, prediction, labels, config)
        for row in task.records(prediction, image_id, labels) if task.records is not None else ():
            results.append({**row, "score": round(row["score"] * record.get("score", 1), 6)})
    return picture_HW3, results


def number_images(paths: Sequence[Path], known: Mapping[str, int]) -> dict[Path, int]:
    """Return a number per image: those known, else those the names hold, as COCO's do, or 1, 2, ... if these fail.

    Args:
        paths: the images.
        known: numbers of some of them, by file name.

    >>> list(number_images([Path("000139.jpg"), Path("000285.jpg")], {}).values())
    [139, 285]
    >>> list(number_images([Path("2.jpg"), Path("cat.jpg")], {}).values())
    [1, 2]
    >>> list(number_images([Path("a.jpg"), Path("b.jpg"), Path("c.jpg")], {"b.jpg": 1}).values())
    [2, 1, 3]
    """
    others = [path for path in paths if path.name not in known]
    numbers = {path.name: int(path.stem) for path in others if path.stem.isdecimal()}
    taken = set(known.values())
    if len(taken.union(numbers.values())) < len(known) + len(others):  # some have no number, or two have the same
        free = (number for number in itertools.count(1) if number not in taken)
        numbers = {path.name: next(free) for path in others}
    numbers |= known
    return {path: numbers[path.name] for path in paths}


def name_pictures(paths: Sequence[Path]) -> dict[Path, str]:
    """Return the name of each image's picture: its own, as PNG; in full where two differ in their endings only.

    >>> list(name_pictures([Path("a.jpg"), Path("b.jpg"), Path("b.png")]).values())
    ['a.png', 'b.jpg.png', 'b.png.png']
    """
    stems = Counter(path.stem for path in paths)
    return {path: f"{path.stem if stems[path.stem] == 1 else path.name}.png" for path in paths}


def _refuse_strange_boxes(records: Sequence[Any], name: str, size_hw: tuple[int, int]) -> None:
    for record in records:
        reason = check_box(record["box"].tolist(), size_hw) if "box" in record else None
        if isinstance(reason, str):
            raise FnaError(f"a box of {name} cannot be a person's: {reason}; correct --boxes")


def png(picture_HW3: np.ndarray[Any, Any]) -> bytes:
    """Encode a uint8 RGB picture."""
    buffer = io.BytesIO()
    Image.fromarray(picture_HW3).save(buffer, "PNG")
    return buffer.getvalue()
