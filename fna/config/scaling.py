"""Settings as a network of another input scale and head width sees them. No torch here."""

from __future__ import annotations

from typing import Any

from fna.config import Config

COARSEST = 32  # pose: sides are multiples of the coarsest stride
CHANNELS = 4  # a head's channels are multiples of this


def at_scale(config: Config, head_width: float, scale: float) -> Config:
    """Return the settings of a network whose head is narrower and whose input is larger.

    Things are seen at the sizes they are scored at: crops, sizes, the random resize of segmentation (which is relative
    to the images' own pixels), anchors and the Gaussians of heatmaps all follow the input.

    Args:
        config: settings at scale 1.
        head_width: channels of the head, x ``task.channels`` (or ``task.width``).
        scale: side of the input, x that of the settings.
    """
    task, data, evaluate = config.task, config.data, config.evaluate
    whole = COARSEST if task.name == "pose" else 1
    changed: dict[str, Any] = {
        "task": _times(task, {"anchor_scale": scale, "sigma": scale, "width": head_width})
        | ({"channels": channels(task.channels, head_width)} if hasattr(task, "channels") else {}),
        "data": {key: size(getattr(data, key), scale, whole) for key in ("crop", "eval_size") if hasattr(data, key)},
        "evaluate": {"window": size(evaluate.window, scale, whole)} if hasattr(evaluate, "window") else {},
    }
    if task.name == "segmentation":
        changed["data"] |= _times(data, {} if data.eval_size else {"eval_scale": scale})
        changed["data"]["scale"] = tuple(factor * scale for factor in data.scale or (0.75, 2.0))
    return config.model_copy(
        update={name: getattr(config, name).model_copy(update=values) for name, values in changed.items()}
    )


def _times(section: Any, factors: dict[str, float]) -> dict[str, Any]:
    return {key: getattr(section, key) * factor for key, factor in factors.items() if hasattr(section, key)}


def channels(number: int, factor: float) -> int:
    """Return a head's channels at another width.

    >>> channels(64, 0.7), channels(256, 1.0)
    (44, 256)
    """
    return max(CHANNELS, round(number * factor / CHANNELS) * CHANNELS) if factor != 1 else number


def size(size_hw: tuple[int, int] | None, factor: float, multiple: int = 1) -> tuple[int, int] | None:
    """Return a size at another scale, in whole multiples.

    >>> size((240, 320), 1.25), size((128, 128), 1.2, 32), size(None, 2.0)
    ((300, 400), (160, 160), None)
    """
    if size_hw is None:
        return None
    height, width = (max(multiple, round(side * factor / multiple) * multiple) for side in size_hw)
    return height, width
