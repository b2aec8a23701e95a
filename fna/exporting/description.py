"""What a program must know to use an exported network: what it sees of an image, and how its maps are read."""

from __future__ import annotations

from typing import Any

from fna.arch import MULTIPLE
from fna.data.augmenting import FILL_RGB
from fna.data.pose.joints import mirror
from fna.stages.predict import Finished
from fna.tasks import load_model, simple_baseline
from fna.tasks.pose_scores import SURE

FORMAT = 1  # of the description


def describe_export(model: Finished) -> dict[str, Any]:
    """Return all that `standalone.Exported` needs besides the graph, ready for JSON.

    The input scale of the target is in the sizes: settings of a finished network are those of its own scale.
    """
    problem = model.problem
    which = {"format": FORMAT, "task": model.task, "model": problem.config.task.model, "multiple": MULTIPLE}
    names = {"classes": list(model.classes), **problem.labels.to_json()}
    image = {"mean": list(model.mean), "std": list(model.std), "size_hw": list(problem.size_hw)}
    return {**which, **names, **image, "fill_rgb": list(FILL_RGB), **_READING[model.task](model)}


def _segmentation(model: Finished) -> dict[str, Any]:
    config: Any = model.problem.config
    mean = [round(255 * value) for value in model.mean]  # what padding with zeros after the normalisation looks like
    sliding = config.evaluate.mode == "sliding"
    windows = {"window": list(config.evaluate.window or config.data.crop), "overlap": config.evaluate.overlap}
    size = list(config.data.eval_size) if config.data.eval_size else None
    return {"eval_size": size, "eval_scale": config.data.eval_scale, "fill_rgb": mean, **(windows if sliding else {})}


def _detection(model: Finished) -> dict[str, Any]:
    config: Any = model.problem.config
    keys = ("score_threshold", "nms", "detections")
    which: Any = load_model(config.task)
    levels = {}
    if hasattr(which, "OCTAVE"):  # boxes are chosen level by level
        levels = {"strides": list(which.STRIDES), "cells": len(which.OCTAVE) * len(which.RATIOS)}
    return {
        "canvas": list(config.data.eval_size or config.data.crop),
        "letterbox": not config.task.stretches,
        "coder": list(which.CODER.weights),
        "candidates": which.CANDIDATES,
        **levels,
        **{key: getattr(config.evaluate, key) for key in keys},
    }


def _pose(model: Finished) -> dict[str, Any]:
    config: Any = model.problem.config
    swap = mirror(model.classes, config.task.joint_pairs) if config.evaluate.flip_test else None
    return {
        "crop": list(config.data.eval_size or config.data.crop),
        "box_padding": config.data.box_padding,
        "swap": list(swap) if swap else None,
        "decode": config.evaluate.decode,
        "sigma": config.task.sigma,
        "stride": simple_baseline.STRIDE,
        "sure": SURE,
    }


_READING = {"segmentation": _segmentation, "detection": _detection, "pose": _pose}
