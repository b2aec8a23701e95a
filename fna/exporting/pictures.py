"""Real images for checks and calibration: of a run's data, or of a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fna.data.decoding import read_image
from fna.data.index import open_splits
from fna.errors import FnaError
from fna.runs.opening import settle_config
from fna.stages.photos import find_images
from fna.stages.predict import Finished

Record = tuple[
    np.ndarray[Any, Any], Mapping[str, Any]
]  # pixels (height, width, 3), and the person's box where it is known


class Pictures:
    """Where real images come from.

    Args:
        network: the path the network was loaded from, and
        images: a folder of images or one, in place of a run's data; None: the data of the run that the network is in.
        overrides: ``data.*=value`` settings, such as ``data.root=elsewhere``.

    Attributes:
        run: the run folder; None: there is none, or `images` was given.
    """

    def __init__(self, network: Path, images: Path | None, overrides: Sequence[str]) -> None:
        self.images, self.overrides = images, list(overrides)
        folders = [network, *network.parents[:2]] if images is None else []
        self.run = next((folder for folder in folders if (folder / "config.yaml").is_file()), None)
        if images is None and self.run is None:
            raise FnaError(
                f"{network} is in no run, so there are no images to check the export on; give some: --images FOLDER"
            )
        if images is not None and overrides:
            key = overrides[0].partition("=")[0]
            raise FnaError(f"--{key} is of a run's data, --images are in their place: leave one of them out")
        self._splits: dict[str, Any] = {}

    def split(self, name: str) -> Any:
        """Return ``train`` or ``val`` of the run's data.

        Raises:
            FnaError: they are missing or have flaws.
        """
        assert self.run is not None, "only a run has splits"
        if name not in self._splits:
            config = settle_config(self.run, None, self.overrides)
            own = getattr(config.data, name)
            opened = open_splits(config.task.name, config.data, [own], self.run / "data", write=False)
            self._splits[name] = opened[own]
        return self._splits[name]

    def records(self, split: str, number: int) -> list[Record]:
        """Return so many images, or all there are, spread evenly over the split."""
        if self.images is not None:
            paths = find_images(self.images)
            return [(read_image(paths[i]), {}) for i in _spread(len(paths), number)]
        data = self.split(split)
        found: list[Record] = []
        for index in _spread(len(data), number):
            image_3HW, truth = data.load(index)
            known = {"box": truth["box"]} if isinstance(truth, Mapping) and "points" in truth else {}
            found.append((image_3HW.permute(1, 2, 0).contiguous().numpy(), known))
        return found


def see(model: Finished, records: Sequence[Record]) -> list[Tensor]:
    """Return what a network sees of images when it predicts: uint8 (3, H, W) each."""
    views = []
    for pixels_HW3, known in records:
        image_3HW = torch.from_numpy(pixels_HW3).permute(2, 0, 1)
        views.append(model.problem.view(image_3HW, {**known, "joints": model.classes})[0])
    return views


def at_size(view_3HW: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Return a view at another size."""
    return F.interpolate(view_3HW[None], size_hw, mode="bilinear", antialias=True)[0]


def _spread(there: int, wanted: int) -> list[int]:
    """Return evenly spread positions.

    >>> _spread(10, 4), _spread(2, 4)
    ([0, 2, 5, 7], [0, 1])
    """
    number = min(there, wanted)
    return [i * there // number for i in range(number)]
