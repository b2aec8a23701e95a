"""Predictions of an adapted network on a folder of images; the data set it was trained on is not needed."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from fna.checkpoint import write_bytes
from fna.data.decoding import read_image
from fna.errors import FnaError
from fna.evaluate import resize
from fna.progress import bar
from fna.training import Setting

IMAGE_ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


@dataclass(frozen=True)
class Labels:
    """Classes and colours, where there is no data set."""

    classes: tuple[str, ...]
    colors: tuple[tuple[int, ...], ...]


def find_images(folder: Path) -> list[Path]:
    """Return the images of a folder in order.

    Raises:
        FnaError: there is none.
    """
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in IMAGE_ENDINGS)
    if not paths:
        raise FnaError(f"no image ({' '.join(IMAGE_ENDINGS)}) in --images {folder}")
    return paths


@torch.no_grad()
def write_predictions(model: nn.Module, setting: Setting, paths: list[Path], out: Path) -> dict[str, Any]:
    """Write a picture of each prediction to `out`.

    Args:
        model: a task's network with its weights, placed.
        setting: task and hardware; its data may be mere `Labels`.
        paths: images.
        out: folder of the pictures, made if missing.

    Raises:
        FnaError: an image cannot be read.
    """
    out.mkdir(parents=True, exist_ok=True)
    model.eval()
    written = []
    with bar(len(paths), "predict") as progress:
        for path in paths:
            image = torch.from_numpy(read_image(path)).permute(2, 0, 1)[None]
            x = setting.compute.images(resize(image, setting.config), setting.seed.mean, setting.seed.std)
            with setting.compute.autocast():
                size_hw = (image.shape[2], image.shape[3])
                prediction = setting.task.predict(model, x, [size_hw], setting.config)[0]
            write_bytes(out / f"{path.stem}.png", png(setting.task.draw(prediction, setting.val)))
            written.append(f"{path.stem}.png")
            progress.advance()
    return {
        "out": str(out),
        "files": written,
        "colors": dict(zip(setting.val.classes, setting.val.colors, strict=True)),
    }


def png(picture_HW3: np.ndarray[Any, Any]) -> bytes:
    """Encode a uint8 RGB picture."""
    buffer = io.BytesIO()
    Image.fromarray(picture_HW3).save(buffer, "PNG")
    return buffer.getvalue()
