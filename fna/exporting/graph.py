"""What is exported of a finished network: uint8 pixels in, its head's maps out, traced by torch.export."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from fna.arch import MULTIPLE
from fna.nets.blocks import SameConv2d
from fna.stages.predict import Finished

INPUT = "images"
OUTPUTS = {  # of a task, in order
    "segmentation": ("logits", "labels"),
    "detection": ("logits", "deltas", "anchors"),
    "pose": ("heatmaps",),
}
AXES = ("batch", "rows", "columns")  # names of free sizes: images are (batch, 32 rows, 32 columns, 3)
MOST = 4096  # rows or columns of 32 pixels, images of a batch: a free size needs a bound
TRACED = (2, 34 * MULTIPLE, 38 * MULTIPLE)  # no map has a side of 1 there, which would be taken for granted

Shape = tuple[int | None, int | None, int | None]  # images, height, width; None: any


class EvenConv2d(nn.Conv2d):
    """A `SameConv2d` for maps whose sides are multiples of its stride, where the padding is always the same."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Convolve."""
        amounts: list[int] = []
        for axis in (1, 0):
            total = max(self.dilation[axis] * (self.kernel_size[axis] - 1) + 1 - self.stride[axis], 0)
            amounts += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x_NCHW, amounts), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class Deployed(nn.Module):
    """A finished network as it is exported. Height and width are multiples of 32, so that nothing depends on them.

    Args:
        model: of `fna.load`; it stays as it is.

    Attributes:
        outputs: names of what `forward` returns.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, model: Finished) -> None:
        super().__init__()
        self.task = model.task
        self.outputs = OUTPUTS[model.task]
        self.network = deepcopy(model.network).cpu().eval()
        for part in self.network.modules():
            if type(part) is SameConv2d:
                part.__class__ = EvenConv2d  # type: ignore[assignment]
        self.register_buffer("shift", torch.tensor(model.mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("scale", torch.tensor(model.std).view(1, 3, 1, 1) * 255)

    def forward(self, images_NHW3: Tensor) -> tuple[Tensor, ...]:
        """Return the maps.

        Args:
            images_NHW3: RGB, uint8.
        """
        x = (images_NHW3.permute(0, 3, 1, 2).float() - self.shift) / self.scale
        # Not the whole network: what pads images to multiples of 32 would look at their size.
        output: Any = self.network.head(self.network.backbone(x), (x.shape[2], x.shape[3]))
        if self.task == "segmentation":
            return output, output.argmax(1).to(torch.uint8)
        return tuple(output[name] for name in self.outputs) if isinstance(output, Mapping) else (output,)


@torch.no_grad()
def trace(deployed: Deployed, shape: Shape) -> ExportedProgram:
    """Trace a network.

    Args:
        deployed: the network.
        shape: images, height and width in pixels, multiples of 32; None: free.
    """
    sizes = [size or free for size, free in zip(shape, TRACED, strict=True)]
    dims: dict[int, Any] = {}
    for axis, (size, name) in enumerate(zip(shape, AXES, strict=True)):
        if size is None:
            dim = Dim(name, min=1 if axis == 0 else 2, max=MOST)
            dims[axis] = dim if axis == 0 else MULTIPLE * dim
    images_NHW3 = torch.zeros(sizes[0], sizes[1], sizes[2], 3, dtype=torch.uint8)
    return torch.export.export(deployed, (images_NHW3,), dynamic_shapes=(dims,) if dims else None, strict=False)
