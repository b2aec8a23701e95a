"""Settings as a network of another form sees them. No torch here."""

from __future__ import annotations

from typing import Any

from fna.arch.target import Form
from fna.config.configs import Config
from fna.config.data import SegmentationDataConfig, SegmentationEvaluateConfig

COARSEST = 32  # the crops of pose have sides in multiples of the coarsest stride
FOLLOWING = ("anchor_scale", "sigma")  # settings of models that are in pixels of the input


def at_form(config: Config, form: Form) -> Config:
    """Return the settings of a network of another form: its head is narrower, its input larger, its last map finer.

    Things are seen at the sizes they are scored at: crops, sizes, the random resize of segmentation (which is relative
    to the images' own pixels), anchors and the Gaussians of heatmaps all follow the input.

    Args:
        config: settings of ``Form()``.
        form: the other.
    """
    scale, data, evaluate = form.scale, config.data, config.evaluate
    task = config.task.scaled(form.head_width)
    task = task.strided(form.output_stride) if form.output_stride else task
    task = task.deepened(form.tower_depth) if form.tower_depth else task
    multiple = COARSEST if task.name == "pose" else 1
    task = task.model_copy(update={k: getattr(task, k) * scale for k in FOLLOWING if hasattr(task, k)})
    sizes: dict[str, Any] = {"crop": times(data.crop, scale, multiple)}
    if isinstance(data, SegmentationDataConfig):
        low, high = data.resize
        sizes |= {"scale": (low * scale, high * scale), "eval_scale": data.eval_scale * scale}
    elif data.eval_size:
        sizes["eval_size"] = times(data.eval_size, scale, multiple)
    if isinstance(evaluate, SegmentationEvaluateConfig) and evaluate.window:
        evaluate = evaluate.model_copy(update={"window": times(evaluate.window, scale)})
    search = config.search
    if search.cost_size:
        search = search.model_copy(update={"cost_size": times(search.cost_size, scale)})
    changed = {"task": task, "data": data.model_copy(update=sizes), "search": search, "evaluate": evaluate}
    return config.model_copy(update=changed)


def times(size_hw: tuple[int, int], factor: float, multiple: int = 1) -> tuple[int, int]:
    """Return a size at another scale, in whole multiples.

    >>> times((240, 320), 1.25), times((128, 128), 1.2, 32)
    ((300, 400), (160, 160))
    """
    height, width = (max(multiple, round(side * factor / multiple) * multiple) for side in size_hw)
    return height, width
