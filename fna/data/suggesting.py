"""Settings that fit a data set: rules of thumb on what a survey found, each with its reason. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from fna.config import MODELS, TASKS, Config
from fna.data.places import WHOLE
from fna.data.pose.joints import mirror
from fna.errors import FnaError

MULTIPLE = {"segmentation": 32, "detection": 16}  # of the sides of a crop
LONGEST = {"segmentation": 512, "detection": 640}  # side of a crop that one GPU or a patient CPU trains at
SHORTEST = 320  # longer side of a canvas for detection
REACH = 0.5  # a box this large against the smallest anchor is still matched
UPRIGHT = 1.2  # height / width from which on a crop of people is higher than wide
SMALL_PERSON = 128  # pixels: below it a larger crop shows no more
STEPS = 8  # a training epoch has as many, at least
BATCH = {"segmentation": 8, "detection": 8, "pose": 32}
HELD_OUT = (0.25, 0.3, 0.4, 0.5)  # shares to hold out of few records
LEAST = 4  # records to learn from: a batch of two, and as many to choose by


class Suggestion(NamedTuple):
    """A setting, its value, and why."""

    key: str
    value: Any
    why: str


def suggest(config: Config, found: Mapping[str, Any]) -> list[Suggestion]:
    """Return settings for a data set.

    Args:
        config: as surveyed, with the model that is meant.
        found: see `surveying.Survey`.
    """
    train = found["splits"].get(config.data.train)
    made = [Suggestion("data.format", found["format"], "as it looks")]
    if config.data.split.model_dump(exclude_none=True):
        made.append(Suggestion("data.split", config.data.split.model_dump(exclude_none=True), "there are no lists"))
    labels = getattr(config.data, "labels", None)
    if labels:
        made.append(Suggestion("data.labels", dict(labels), "by the labels in the masks"))
    if train is None:
        return made
    crop = _crop(config, train, found["things"])
    made.append(Suggestion("data.crop", list(crop), _why_crop(config.task.name, train, found["things"])))
    if found["things"]:
        made += _anchor_scale(config, crop, found["things"])
    if train["records"] >= LEAST:
        made += _batches(config, train["records"])
    if found["flaws"]:
        made.append(Suggestion("data.on_error", "fix", "mends or leaves out what is wrong"))
    if config.task.name == "pose":
        made += _mirrored([*train["classes"]])
    return made


def why_no_recipe(config: Config, found: Mapping[str, Any]) -> str:
    """Return why no recipe would run: nothing to learn from can be opened, or too little; empty: there is enough.

    Args:
        config: as the recipe has it.
        found: see `surveying.Survey`.
    """
    splits, search = found["splits"], config.search
    if WHOLE in splits:
        return f"too few images ({splits[WHOLE]['images']}) to be cut into train, val and test; label more"
    if config.data.train not in splits:
        lines = found["remarks"].get(config.data.train) or found["remarks"].get(WHOLE)
        return lines[0] if lines else f"there is no '{config.data.train}' to learn from"
    n = splits[config.data.train]["records"]
    if n < LEAST:
        return f"too few to learn from ({n}): {LEAST} are the least, a batch of two and two to choose by; label more"
    held = round(n * search.held_out)
    if search.batch_size <= min(held, n - held) and config.adapt.batch_size <= n:
        return ""
    return (
        f"search.held_out {search.held_out:g} leaves {n - held} for the weights and {held} to choose by, and batches "
        f"are of {search.batch_size} (search) and {config.adapt.batch_size} (adapt): give smaller ones or another share"
    )


def fitting_model(task: str, things: Mapping[str, Any] | None) -> str:
    """Return the model of a task for a data set: the first, but for large boxes one that stretches images."""
    if things and things["share"]["small"] >= 0.1:  # of the image: SSD's smallest boxes
        return next((name for name in TASKS[task] if getattr(MODELS[name], "stretches", False)), TASKS[task][0])
    return TASKS[task][0]


def _batches(config: Config, n: int) -> list[Suggestion]:
    """Return batch sizes for n records, and a larger share to hold out where the search's does not fill a batch."""
    batch = 2 ** int(math.log2(max(2, min(BATCH[config.task.name], n // STEPS))))
    shares = (config.search.held_out, *HELD_OUT)
    share = next((share for share in shares if batch <= round(n * share) <= n - batch), shares[-1])
    steps = {"search": (n - round(n * share)) // batch, "adapt": n // batch}
    made = [Suggestion(f"{stage}.batch_size", batch, f"{own} steps an epoch") for stage, own in steps.items()]
    if share != config.search.held_out:
        made.append(Suggestion("search.held_out", share, f"{round(n * share)} of {n} fill a batch"))
    return made


def _crop(config: Config, train: Mapping[str, Any], things: Mapping[str, Any] | None) -> tuple[int, int]:
    """Return height and width of what the network should see in training."""
    height, width = train["sizes"]["commonest"]
    task = config.task.name
    if task == "pose":
        assert things is not None, "people have boxes"
        ratio, long = things["height_by_width"], 256 if things["height"] >= SMALL_PERSON else 128
        if ratio >= UPRIGHT:
            return long, long * 3 // 4
        return (long * 3 // 4, long) if ratio * UPRIGHT <= 1 else (long, long)
    scale = min(1.0, LONGEST[task] / max(height, width))
    if things:
        smallest = REACH * 8 * getattr(config.task, "anchor_scale", 4.0)  # pixels
        needed = smallest / things["share"]["small"] / math.sqrt(height * width)
        scale = min(scale, max(needed, SHORTEST / max(height, width)))
    if getattr(config.task, "stretches", False):
        return SHORTEST, SHORTEST
    step = MULTIPLE[task]
    tall, wide = (max(step, int(scale * side) // step * step) for side in (height, width))
    return tall, wide


def _why_crop(task: str, train: Mapping[str, Any], things: Mapping[str, Any] | None) -> str:
    height, width = train["sizes"]["commonest"]
    if task == "pose" and things:
        return f"people are {things['height']:.0f} pixels high, {things['height_by_width']:g} x as high as wide"
    small = f", small boxes {things['small']:.0f} pixels" if things else ""
    return f"most images are {height} x {width}{small}"


def _anchor_scale(config: Config, crop: tuple[int, int], things: Mapping[str, Any]) -> list[Suggestion]:
    """Return a smaller scale of the anchors where small boxes are much smaller than the smallest."""
    if not hasattr(config.task, "anchor_scale"):
        return []
    side = things["share"]["small"] * math.sqrt(crop[0] * crop[1])
    if side >= 0.7 * 8 * config.task.anchor_scale:
        return []
    scale = max(1.0, round(side / 8 * 2) / 2)
    return [Suggestion("task.anchor_scale", scale, f"small boxes are {side:.0f} pixels at this crop")]


def _mirrored(joints: list[str]) -> list[Suggestion]:
    """Return settings without mirror where the names of the joints do not tell what it swaps."""
    try:
        mirror(joints)
    except FnaError:
        why = "the names of the joints do not tell left from right: see task.joint_pairs"
        return [Suggestion("data.flip", False, why), Suggestion("evaluate.flip_test", False, why)]
    return []
