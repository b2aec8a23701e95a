"""A finished network and its predictions; the data set it was trained on is not needed."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fna.arch import Arch
from fna.data.decoding import read_image, to_pixels
from fna.data.images import Pixels
from fna.data.places import ENDINGS
from fna.data.pose.checks import check_box
from fna.data.pose.person_boxes import PersonBoxes
from fna.errors import FnaError
from fna.files import write_bytes, write_json
from fna.nets.network import Model
from fna.progress import bar, say
from fna.tasks.problem import Problem
from fna.training.compute import Compute
from fna.training.distributed import World

NAMED = 5  # unreadable images that an error names
COCO_NAME = re.compile(r"(?:COCO_\w+_)?(\d{12})")  # of an image's file, without its ending


class Finished(nn.Module):
    """A finished network in evaluation mode: normalised images (N, 3, H, W) to what its head gives.

    Attributes:
        network: backbone and head.
        problem: what it is for: its settings, how images are brought to it and its output is read.
        arch: its backbone's architecture.
        record: all its JSON says.
    """

    def __init__(self, network: Model, problem: Problem, record: Mapping[str, Any]) -> None:
        super().__init__()
        self.network, self.problem, self.record = network, problem, record
        self.arch: Arch = Arch.from_json(record["arch"])
        self.eval()

    def forward(self, images_N3HW: Tensor) -> Any:
        """Return what the head gives; `predict` does the rest."""
        return self.network(images_N3HW)

    @property
    def task(self) -> str:
        """Segmentation, detection or pose."""
        name: str = self.problem.config.task.name
        return name

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, or of the joints."""
        return self.problem.labels.classes

    @property
    def mean(self) -> tuple[float, float, float]:
        """To subtract from images, RGB in [0, 1]."""
        return self.problem.mean

    @property
    def std(self) -> tuple[float, float, float]:
        """To divide images by, RGB in [0, 1]."""
        return self.problem.std

    @property
    def input_size(self) -> tuple[int, int]:
        """Height, width of what it sees; where images are seen at their own size, that of the first one scored."""
        return self.problem.size_hw


@torch.no_grad()
def predict(
    model: Finished,
    image: str | Path | Image.Image | np.ndarray[Any, Any],
    box: Sequence[float] | None = None,
) -> Any:
    """Return what a network sees in an image, in the image's own pixels.

    Args:
        model: of `load`.
        image: a file, a PIL image, or RGB pixels, uint8 (height, width, 3).
        box: where the person of a pose is: x0, y0, width, height in pixels; None: the image is one person.

    Returns:
        Segmentation: class ids, int64 (height, width). Detection: a dict of ``boxes`` (n, 4), x0, y0, x1, y1,
        ``scores`` (n,) and ``labels`` (n,), best first. Pose: a dict of ``points`` (K, 3), x, y and score, ``box`` and
        ``score``. All on the CPU.

    Raises:
        FnaError: the image cannot be read, or the box is none in it.
    """
    pixels_HW3 = read_image(Path(image)) if isinstance(image, str | Path) else to_pixels(image)
    known = {} if box is None else {"box": _person_box(model, box, pixels_HW3)}
    return predict_pixels(model, pixels_HW3, known, compute_of(model))


def _person_box(model: Finished, box: Any, pixels_HW3: Pixels) -> Tensor:
    """Return the box of a person as a tensor, or refuse it."""
    if model.task != "pose":
        raise FnaError(f"a box is of a person, for pose; this network is of {model.task}: leave it out")
    bounds = check_box(np.asarray(box).tolist(), (pixels_HW3.shape[0], pixels_HW3.shape[1]))
    if isinstance(bounds, str):
        raise FnaError(f"the box cannot be a person's: {bounds}")
    return torch.tensor(bounds, dtype=torch.float32)


def predict_pixels(
    model: Finished, pixels_HW3: np.ndarray[Any, Any], known: Mapping[str, Any], compute: Compute
) -> Any:
    """Return the prediction for RGB pixels, of which something may be known; see `predict`."""
    problem = model.problem
    image_3HW = torch.from_numpy(pixels_HW3).permute(2, 0, 1)
    view_3HW, frame = problem.view(image_3HW, {**known, "joints": model.classes})
    x = compute.images(view_3HW[None], problem.mean, problem.std)
    with compute.autocast():
        return problem.predict(model, x, [frame])[0]


def compute_of(model: nn.Module) -> Compute:
    """Return the hardware a model is on, in full precision."""
    return Compute(next(model.parameters()).device, None, False, World())


def find_images(folder: Path) -> list[Path]:
    """Return the images of a folder in order, or the one image that is given.

    Raises:
        FnaError: there is nothing, or the folder has none.
    """
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise FnaError(f"--images {folder} does not exist")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS and path.is_file())
    if not paths:
        raise FnaError(f"no image ({' '.join(ENDINGS)}) in --images {folder}")
    return paths


@torch.no_grad()
def write_predictions(
    model: Finished,
    compute: Compute,
    paths: Sequence[Path],
    out: Path,
    boxes: PersonBoxes | None,
    image_ids: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a picture of each prediction to `out`, and results.json where the task has COCO results.

    An image that cannot be read does not keep the others from being written.

    Args:
        model: the network, placed.
        compute: the hardware it is on.
        paths: images.
        out: folder of the pictures, made if missing.
        boxes: where the persons are; None: an image is one record.
        image_ids: what the data of the network's run know images by, by file name; those of `boxes` come first.

    Raises:
        FnaError: `out` holds the images themselves, or cannot be made; or, once all else is written, images cannot be
            read, or a box is not in its image.
    """
    _make_folder(out, {path.parent for path in paths})
    task, labels = model.problem.task, model.problem.labels
    known = {**(image_ids or {}), **(boxes.image_ids if boxes else {})}
    numbers, names = number_images(paths, known), name_pictures(paths)
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
                picture_HW3, rows = _label(model, compute, image_HW3, records, numbers[path])
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
    model: Finished, compute: Compute, image_HW3: Pixels, records: Sequence[Mapping[str, Any]], image_id: Any
) -> tuple[Pixels, list[dict[str, Any]]]:
    """Return the picture of an image's predictions, and their COCO results.

    The score of a detected person is that of its box times that of its joints (SimpleBaseline, arXiv:1804.06208).
    """
    problem = model.problem
    picture_HW3, results = image_HW3, []
    for record in records:
        prediction = predict_pixels(model, image_HW3, record, compute)
        picture_HW3 = problem.draw(picture_HW3, prediction)
        rows = problem.task.records(prediction, image_id, problem.labels) if problem.task.records is not None else ()
        results += [{**row, "score": round(row["score"] * record.get("score", 1), 6)} for row in rows]
    return picture_HW3, results


def number_images(paths: Sequence[Path], known: Mapping[str, Any]) -> dict[Path, Any]:
    """Return what COCO's results call each image: its number if that is known, else the file's name.

    A number that is made up could be another image's in somebody's annotations; a name is nobody's number.

    Args:
        paths: the images.
        known: numbers of some of them, and of others, by file name. COCO's own names hold theirs.

    >>> list(number_images([Path("000000000139.jpg"), Path("cat.jpg"), Path("2.jpg")], {"cat.jpg": 7}).values())
    [139, 7, '2.jpg']
    """
    taken = set(known.values())
    numbers: dict[Path, Any] = {}
    for path in paths:
        of_coco = COCO_NAME.fullmatch(path.stem)
        number = known.get(path.name, int(of_coco[1]) if of_coco else path.name)
        numbers[path] = path.name if path.name not in known and number in taken else number
    return numbers


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
