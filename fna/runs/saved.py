"""A finished network by itself: two files that describe it, loading it anywhere, and predicting with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fna.arch import Arch
from fna.arch.target import Target
from fna.config import make_config, merge
from fna.data.index import image_ids
from fna.data.pose.person_boxes import read_boxes
from fna.errors import FnaError, nearest, quoted
from fna.files import decode_json, decode_state, read_metadata
from fna.integrations.hub import fetch, is_address
from fna.nets.weights import Network, State, load_weights
from fna.runs.manifest import MANIFEST, read_vouched
from fna.stages.labelling import write_predictions
from fna.stages.photos import find_images
from fna.stages.predict import Finished
from fna.tasks.problem import Problem
from fna.training.compute import computing, find_device

FORMAT = 1  # of a network's JSON
KEY = "fna"  # of the JSON in the metadata of the safetensors file
WEIGHTS, TWIN = "network.safetensors", "network.json"
ADAPTED = "adapted"  # what a run's folder means where no network is named
BASELINE = "baseline"  # and that of the fine-tuned seed


def describe(network: Network[Arch], problem: Problem, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that a network is but its weights, ready for JSON.

    Args:
        network: adapted.
        problem: what it is for, at scale 1.
        about: what else to say: its costs, scores, how it was adapted.
    """
    own = problem.at(network)
    target = Target(network.arch, *network.form)
    which = {"format": FORMAT, "task": own.config.task.name, "model": own.config.task.model}
    return {**which, **target.to_json(), **own.to_json(), **about}


def load(path: str | Path, device: str = "cpu", overrides: Sequence[str] = ()) -> Finished:
    """Load a finished network. Data, seed and the machine that trained it are not needed.

    Args:
        path: a run's folder (its FNA++ network), a network's folder in it or elsewhere, the safetensors file, or one on
            the Hugging Face hub: ``hf://OWNER/NAME``, maybe with ``@REVISION``.
        device: cpu, cuda, cuda:1 or auto.
        overrides: ``evaluate.*=value`` settings, such as ``evaluate.score_threshold=0.3``.

    Raises:
        FnaError: there is no network, it is damaged, or a setting is not one of it.

    Example:
        >>> load("runs/leaves")  # doctest: +SKIP
    """
    file = find_network(Path(path).expanduser())
    record = _record(file)
    _check_format(record, file)
    problem = Problem.from_json(record)
    if overrides:
        for text in overrides:
            if not text.startswith("evaluate."):
                raise FnaError(
                    f"a finished network takes no setting '{text.partition('=')[0]}', only those of evaluate (and fna "
                    "predict those of engine)"
                )
        problem = Problem.from_json(record, make_config(merge(record["settings"], overrides), str(file), overrides))
    state = decode_state(file, read_vouched(file))
    return make_finished(record, state, problem, str(file)).to(find_device(device))


def make_finished(record: Mapping[str, Any], state: State, problem: Problem, what: str) -> Finished:
    """Build a network from its description and weights.

    Args:
        record: of `describe`.
        state: its weights.
        problem: what it is for, at its own scale.
        what: the file, for messages.
    """
    model = problem.build(Arch.from_json(record["arch"]))
    load_weights(model, state, what)
    return Finished(model, problem, record)


def predict_images(
    network: str | Path,
    images: str | Path | Sequence[str | Path],
    out: str | Path,
    boxes: str | Path | None = None,
    overrides: Sequence[str] = (),
    formats: Sequence[str] = (),
) -> dict[str, Any]:
    """Label images with a finished network, batch by batch, into files.

    Args:
        network: as for `load`.
        images: a folder of images, one image, a pattern such as ``photos/*.jpg``, or several of these.
        out: folder of the files.
        boxes: for poses, a COCO json or results file of persons' boxes; None: each image is one person.
        overrides: ``evaluate.*`` and ``engine.*`` settings.
        formats: ``overlay`` (pictures), of masks ``png`` (class ids) and ``npz`` (probabilities), of boxes and poses
            ``coco``, ``yolo`` and ``csv``; (): pictures, and masks or COCO's results.

    Returns:
        What was done: the number of ``images``, ``images_per_second``, ``files`` in `out`, ``colors`` of the classes.

    Raises:
        FnaError: there is no network, no image, no such format, or, when all others are done, a file cannot be read.
    """
    paths = find_images(images)
    engine = [text for text in overrides if text.startswith("engine.")]
    model = load(network, "cpu", [text for text in overrides if text not in engine])
    if boxes and model.task != "pose":
        raise FnaError(f"--boxes are of persons, for pose; this network is of {model.task}: leave it out")
    found = read_boxes(Path(boxes), paths) if boxes else None
    with computing(make_config(merge({}, engine)).engine) as compute:
        compute.move(model)
        data = find_network(Path(network).expanduser()).parent.parent / "data"  # of a run; elsewhere there is none
        return write_predictions(model, compute, paths, Path(out), found, image_ids(data), formats)


def find_network(path: Path) -> Path:
    """Return the safetensors file that a path means; one on the hub is fetched.

    Raises:
        FnaError: there is none; the message names the networks that are there.
    """
    if is_address(path):
        return fetch(path, WEIGHTS)
    if path.is_file():
        file = path.with_suffix(".safetensors")
        if file.is_file():
            return file
        raise FnaError(f"{path} has no {file.name} beside it; give the folder with both files of a network")
    for folder in (path, path / ADAPTED):
        if (folder / WEIGHTS).is_file():
            return folder / WEIGHTS
    if path.is_dir():
        here = sorted(file.parent.name for file in path.glob(f"*/{WEIGHTS}"))
        if here:
            raise FnaError(f"{path} has no network '{ADAPTED}'; it has {', '.join(here)}: name one, {path / here[0]}")
        hint = f"; finish the run: fna run RECIPE --run {quoted(path)}" if (path / MANIFEST).is_file() else ""
        if (path / "predict.py").is_file():
            hint = f"; it holds an exported one, which runs by itself: python {path / 'predict.py'} photo.jpg"
        raise FnaError(f"{path} holds no finished network ({WEIGHTS}){hint}")
    others = [file.parent.name for file in path.parent.glob(f"*/{WEIGHTS}")]
    raise FnaError(f"there is no {path}{nearest(path.name, others)}; give a run's folder, or that of a network in it")


def _record(file: Path) -> dict[str, Any]:
    """Return the JSON in a network's file, or of its twin where another program has dropped it."""
    text = read_metadata(file).get(KEY)
    twin = file.with_suffix(".json")
    if text is None and not twin.is_file():
        raise FnaError(
            f"{file} is no network of fna: it does not describe itself, and there is no {twin.name} beside it"
        )
    try:
        record: dict[str, Any] = json.loads(text) if text is not None else decode_json(twin, read_vouched(twin))
    except ValueError as error:
        raise FnaError(f"the description in {file} is damaged: {error}") from error
    return record


def _check_format(record: Any, file: Path) -> None:
    if not isinstance(record, dict) or "format" not in record or "settings" not in record:
        raise FnaError(f"{file} is no network of fna: it does not describe itself")
    if record["format"] != FORMAT:
        raise FnaError(f"{file} is of format {record['format']}, this fna reads format {FORMAT}; use a newer fna")
