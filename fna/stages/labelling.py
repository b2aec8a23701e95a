"""Labelling images with a finished network: batch by batch, into files; what cannot be read keeps nothing back."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from fna.data.decoding import read_image
from fna.data.pose.checks import check_box
from fna.data.pose.person_boxes import PersonBoxes
from fna.data.sampling import Loader
from fna.errors import FnaError
from fna.files import write_bytes
from fna.progress import bar, say
from fna.stages.photos import name_files, name_images, number_images
from fna.stages.predict import Finished, Photo, predictions_of
from fna.stages.writing import CLASSES, Format, Labelled, choose_formats, write_classes
from fna.tasks.problem import Problem
from fna.training.batches import FEW
from fna.training.compute import Compute

NAMED = 5  # unreadable images that an error names


def write_predictions(
    model: Finished,
    compute: Compute,
    paths: Sequence[Path],
    out: Path,
    boxes: PersonBoxes | None = None,
    image_ids: Mapping[str, Any] | None = None,
    formats: Sequence[str] = (),
) -> dict[str, Any]:
    """Write what a network sees in images to the folder `out`.

    An image that cannot be read does not keep the others from being written.

    Args:
        model: the network, placed.
        compute: the hardware it is on.
        paths: images.
        out: the folder, made if missing.
        boxes: where the persons are; None: an image is one record.
        image_ids: what the data of the network's run know images by, by file name; those of `boxes` come first.
        formats: names of `writing.FORMATS`; (): pictures, and masks or COCO's results.

    Returns:
        What was done: files, colours of the classes, images per second.

    Raises:
        FnaError: a format is not the task's, `out` holds the images themselves, or cannot be made; or, once all else is
            written, images cannot be read, or a box is not in its image.
    """
    chosen = choose_formats(formats, model.task)
    _make_folder(out, {path.parent for path in paths})
    numbers = number_images(paths, {**(image_ids or {}), **(boxes.image_ids if boxes else {})})
    names = name_images(paths)
    writer = _Writer(model.problem, out, chosen, name_files(list(names.values())))
    problems: list[str] = []
    began = time.monotonic()
    with bar(len(paths), "predict") as progress:
        photos = _read(model.problem, paths, boxes, compute.workers, problems)
        for photo, predictions in predictions_of(model, photos, compute, probabilities="npz" in chosen):
            assert photo.path is not None, "it was read from there"
            writer.write(Labelled(names[photo.path], numbers[photo.path], photo.pixels, predictions))
            progress.advance()
    files = writer.finish()
    speed = len(paths) / (time.monotonic() - began)
    if problems:
        more = f"; and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        others = "" if len(problems) == len(paths) else f", the others are in {out}"
        raise FnaError(
            f"{len(problems)} of {len(paths)} images were left out{others}: {'; '.join(problems[:NAMED])}{more}"
        )
    if boxes:
        empty = sum(path.name not in boxes.records for path in paths)
        say(f"--boxes: {empty} of {len(paths)} images have no person, {boxes.left_out} boxes are no single person")
    labels = model.problem.labels
    return {
        "images": len(paths),
        "images_per_second": round(speed, 2),
        "out": str(out),
        "wrote": ", ".join(writer.places()),
        "files": files,
        "colors": dict(zip(labels.classes, labels.colors, strict=True)),
    }


class _Writer:
    """Writes labelled images in some formats, each as soon as it is there, and what is of all at the end."""

    def __init__(self, problem: Problem, out: Path, formats: Mapping[str, Format], stems: Mapping[str, str]) -> None:
        self.problem, self.out, self.formats, self.stems = problem, out, formats, stems
        self.rows: dict[str, list[Any]] = {how.file: [] for how in formats.values() if how.join is not None}
        self.files: list[str] = []

    def write(self, image: Labelled) -> None:
        """Write an image's own files."""
        for how in self.formats.values():
            made = how.make(self.problem, image)
            if how.join is None:
                self._write(how.file.format(self.stems[image.name]), made)
            else:
                self.rows[how.file] += made

    def finish(self) -> list[str]:
        """Write the files of all, and return the names of all files."""
        for how in self.formats.values():
            if how.join is not None:
                self._write(how.file, how.join(self.problem, self.rows[how.file]))
        if any(how.names for how in self.formats.values()):
            self._write(CLASSES, write_classes(self.problem))
        return self.files

    def places(self) -> list[str]:
        """Return where to look for what."""
        classes = [CLASSES] if any(how.names for how in self.formats.values()) else []
        return [*(f"{how.file.format('NAME')} ({how.about})" for how in self.formats.values()), *classes]

    def _write(self, file: str, content: bytes) -> None:
        (self.out / file).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(self.out / file, content)
        self.files.append(file)


class _Photos(Dataset[Photo | str]):
    """Images as the network sees them, or what is wrong with them."""

    def __init__(self, problem: Problem, paths: Sequence[Path], boxes: PersonBoxes | None) -> None:
        self.problem, self.paths, self.boxes = problem, paths, boxes

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> Photo | str:
        path = self.paths[position]
        known = self.boxes.records.get(path.name, []) if self.boxes else [{}]
        try:
            pixels_HW3 = read_image(path)
            _refuse_strange_boxes(known, path.name, (pixels_HW3.shape[0], pixels_HW3.shape[1]))
        except FnaError as error:
            return str(error)
        return Photo.of(self.problem, pixels_HW3, known, path)


def _read(
    problem: Problem, paths: Sequence[Path], boxes: PersonBoxes | None, workers: int, problems: list[str]
) -> Iterator[Photo]:
    """Yield the images that can be read, made by the workers ahead of time; of the others `problems` gets a line."""
    for photo in Loader(_Photos(problem, paths, boxes), workers if len(paths) > FEW else 0):
        if isinstance(photo, str):
            problems.append(photo)
        else:
            yield photo


def _make_folder(out: Path, sources: Collection[Path]) -> None:
    """Make the folder of the pictures, if no image is in it or below: its place, or its labels', may be written to."""
    if any(source.resolve().is_relative_to(out.resolve()) for source in sources):
        raise FnaError(f"--out {out} holds the images themselves, which would be overwritten; give another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FnaError(f"cannot make the folder --out {out}: {error.strerror}; give another") from error


def _refuse_strange_boxes(records: Sequence[Any], name: str, size_hw: tuple[int, int]) -> None:
    for record in records:
        reason = check_box(record["box"].tolist(), size_hw) if "box" in record else None
        if isinstance(reason, str):
            raise FnaError(f"a box of {name} cannot be a person's: {reason}; correct --boxes")
