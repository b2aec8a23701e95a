"""Predictions of an adapted network on a folder of images; the data set it was trained on is not needed."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from fna.checkpoint import read_json, write_bytes, write_json
from fna.data.decoding import read_image
from fna.data.pose.checks import check_box
from fna.errors import FnaError
from fna.progress import bar
from fna.training import Setting

IMAGE_ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


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
        FnaError: there is none.
    """
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in IMAGE_ENDINGS)
    if not paths:
        raise FnaError(f"no image ({' '.join(IMAGE_ENDINGS)}) in --images {folder}")
    return paths


def read_boxes(path: Path, images: Sequence[Path]) -> dict[str, list[Any]]:
    """Return the boxes of a COCO json, or of a list of detections, by file name: x0, y0, width, height in pixels.

    Args:
        path: annotations with ``images``, or detections with a ``file_name`` or an ``image_id`` that is a file's stem;
            of stems that are numbers, zeros in front do not matter (COCO's 785 is 000000000785.jpg).
        images: the images they are for.

    Raises:
        FnaError: the file is no such json, or has no box for any of `images`.
    """
    data = read_json(path)
    numbers = {str(int(p.stem)): p.name for p in images if p.stem.isdecimal()}
    names = numbers | {p.stem: p.name for p in images} | {p.name: p.name for p in images}
    boxes: dict[str, list[Any]] = {}
    try:
        rows = data.get("annotations", ()) if isinstance(data, dict) else data
        listed = data.get("images", ()) if isinstance(data, dict) else ()
        files = {row.get("id"): row.get("file_name") for row in listed}
        for row in rows:
            key = row.get("file_name") or files.get(row.get("image_id")) or str(row.get("image_id"))
            name = names.get(Path(key).name)
            if name:
                box = torch.tensor([float(value) for value in row["bbox"]])
                if len(box) != 4 or not box.isfinite().all() or bool((box[2:] <= 0).any()):
                    raise ValueError(f"the box {row['bbox']} of {name} is not [x, y, width, height]")
                boxes.setdefault(name, []).append({"box": box})
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise FnaError(f"--boxes {path} is no COCO json: {error}; expected a list of objects with 'bbox'") from error
    if not boxes:
        raise FnaError(f"--boxes {path} has no box for any image, such as {images[0].name}; check its file names")
    return boxes


@torch.no_grad()
def write_predictions(
    model: nn.Module, setting: Setting, paths: Sequence[Path], out: Path, boxes: Mapping[str, Sequence[Any]]
) -> dict[str, Any]:
    """Write a picture of each prediction to `out`, and results.json where the task has COCO results.

    Args:
        model: a task's network with its weights, placed.
        setting: task and hardware; its data may be mere `Labels`.
        paths: images.
        out: folder of the pictures, made if missing.
        boxes: records of an image, by its name: an image without any is one record.

    Raises:
        FnaError: an image cannot be read, or a box is not in its image.
    """
    out.mkdir(parents=True, exist_ok=True)
    model.eval()
    task, labels, config = setting.task, setting.val, setting.config
    image_ids, pictures = number_images(paths), name_pictures(paths)
    results: list[dict[str, Any]] = []
    with bar(len(paths), "predict") as progress:
        for path in paths:
            pixels = read_image(path)
            picture, image = pixels, torch.from_numpy(pixels).permute(2, 0, 1)
            _refuse_strange_boxes(boxes.get(path.name, ()), path.name, (pixels.shape[0], pixels.shape[1]))
            for record in boxes.get(path.name, ({},)):
                view, frame = task.view(image, {**record, "joints": labels.classes}, config)
                x = setting.compute.images(view[None], setting.seed.mean, setting.seed.std)
                with setting.compute.autocast():
                    prediction = task.predict(model, x, [frame], config)[0]
                picture = task.draw(picture, prediction, labels, config)
                if task.records is not None:
                    rows = task.records(prediction, image_ids[path], labels)
                    results += [{"file_name": path.name, **row} for row in rows]
            write_bytes(out / pictures[path], png(picture))
            progress.advance()
    if task.records is not None:
        write_json(out / "results.json", results)
    return {
        "out": str(out),
        "files": [*pictures.values()] + ["results.json"] * (task.records is not None),
        "colors": dict(zip(labels.classes, labels.colors, strict=True)),
    }


def number_images(paths: Sequence[Path]) -> dict[Path, int]:
    """Return a number per image: those the names hold, as COCO's do, or 1, 2, ... where they do not tell all apart.

    >>> list(number_images([Path("000139.jpg"), Path("000285.jpg")]).values())
    [139, 285]
    >>> list(number_images([Path("2.jpg"), Path("cat.jpg")]).values())
    [1, 2]
    """
    if all(path.stem.isdecimal() for path in paths) and len({int(path.stem) for path in paths}) == len(paths):
        return {path: int(path.stem) for path in paths}
    return {path: number for number, path in enumerate(paths, start=1)}


def name_pictures(paths: Sequence[Path]) -> dict[Path, str]:
    """Return the name of each image's picture: its own, as PNG; in full where two differ in their endings only.

    >>> list(name_pictures([Path("a.jpg"), Path("b.jpg"), Path("b.png")]).values())
    ['a.png', 'b.jpg.png', 'b.png.png']
    """
    stems = Counter(path.stem for path in paths)
    return {path: f"{path.stem if stems[path.stem] == 1 else path.name}.png" for path in paths}


def _refuse_strange_boxes(records: Sequence[Any], name: str, size_hw: tuple[int, int]) -> None:
    for record in records:
        reason = check_box(record["box"].tolist(), size_hw)
        if isinstance(reason, str):
            raise FnaError(f"--boxes: a box of {name} cannot be a person's: {reason}")


def png(picture_HW3: np.ndarray[Any, Any]) -> bytes:
    """Encode a uint8 RGB picture."""
    buffer = io.BytesIO()
    Image.fromarray(picture_HW3).save(buffer, "PNG")
    return buffer.getvalue()
