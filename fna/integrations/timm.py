"""The backbone of a finished network as a model of timm, so that all that builds on timm can use it.

timm keeps its models in a registry that is filled by its own decorator, which looks for `default_cfgs` in the module
of the function it decorates.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
from timm.layers.classifier import ClassifierHead
from timm.models import build_model_with_cfg, register_model
from torch import Tensor, nn

from fna.arch import Arch, with_output_stride
from fna.errors import FnaError
from fna.nets.network import Backbone
from fna.runs.saved import find_network, load

STEM, CLASSIFIER = "backbone.stem.conv", "head.fc"  # what timm adapts to other numbers of channels and classes
NAME = re.compile(r"[A-Za-z]\w*", re.ASCII)
default_cfgs: dict[str, dict[str, Any]] = {}


def register(path: str | Path, name: str) -> None:
    """Let timm know the backbone of a finished network, with its weights.

    The features of ``timm.create_model(name, features_only=True, pretrained=True)`` are those of the network itself
    where its task has output stride 32. DeepLab's has 16: ``output_stride=16`` gives it, as for any model of timm.

    Args:
        path: as for `fna.load`.
        name: letters, digits and _; a name of this function's may be given anew, timm's own not.

    Raises:
        FnaError: there is no such network, or the name is none or taken.

    Example:
        >>> register("runs/leaves", "fna_leaves")  # doctest: +SKIP
        >>> timm.create_model("fna_leaves", features_only=True, pretrained=True)  # doctest: +SKIP
    """
    if not NAME.fullmatch(name):
        raise FnaError(f"'{name}' is no name for a model of timm; expected letters, digits and _, such as fna_leaves")
    if timm.is_model(name) and name not in default_cfgs:
        raise FnaError(f"timm has a model '{name}' of its own; choose another name, such as fna_{name}")
    model = load(path)
    arch = model.arch

    def create(pretrained: bool = False, **options: Any) -> Any:
        features = {"feature_cls": "getter", "out_indices": tuple(range(len(Backbone(arch).feature_info)))}
        return build_model_with_cfg(
            Registered,
            name,
            pretrained,
            feature_cfg=features,
            pretrained_filter_fn=_backbone_only,
            arch=arch,
            **options,
        )

    create.__name__ = create.__qualname__ = name
    default_cfgs[name] = {
        "file": str(find_network(Path(path).expanduser()).resolve()),
        "input_size": (3, *model.input_size),
        "mean": model.mean,
        "std": model.std,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "num_classes": 0,
        "first_conv": STEM,
        "classifier": CLASSIFIER,
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", f"Overwriting {name} in registry", UserWarning)
        register_model(create)


class Registered(nn.Module):
    """A backbone with what timm asks of its models.

    Args:
        arch: undilated.
        num_classes: of a fresh linear classifier; 0: pooled features are the output.
        in_chans: channels of the images.
        output_stride: 8, 16 or 32: stride is traded for dilation.
        global_pool: how features are pooled, a word of timm's.
        drop_rate: of the classifier.
    """

    def __init__(
        self,
        arch: Arch,
        num_classes: int = 0,
        in_chans: int = 3,
        output_stride: int = 32,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.backbone = Backbone(with_output_stride(arch, output_stride))
        if in_chans != 3:
            _take_channels(self.backbone, in_chans)
        self.stages = [info.stage for info in self.backbone.feature_info]
        self.feature_info = [
            {"num_chs": info.channels, "reduction": info.stride, "module": f"backbone.stages.{info.stage}"}
            for info in self.backbone.feature_info
        ]
        self.num_classes, self.in_chans, self.num_features = num_classes, in_chans, arch.out_channels
        self.head = ClassifierHead(arch.out_channels, num_classes, global_pool, drop_rate)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return class scores, or pooled features where there are no classes."""
        return self.forward_head(self.forward_features(x_NCHW))

    def forward_features(self, x_NCHW: Tensor) -> Tensor:
        """Return the coarsest feature map."""
        last: Tensor = self.backbone(x_NCHW)[-1]
        return last

    def forward_head(self, x_NCHW: Tensor, pre_logits: bool = False) -> Tensor:
        """Return class scores of the coarsest feature map, or what the classifier would read."""
        scores: Tensor = self.head(x_NCHW, pre_logits=pre_logits)
        return scores

    def forward_intermediates(
        self,
        x: Tensor,  # timm calls it so
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Return feature maps, after the coarsest unless only they are asked for; see timm."""
        if output_fmt != "NCHW":
            raise FnaError(f"output_fmt is '{output_fmt}'; this model has NCHW")
        features = self.backbone(x)
        chosen = [features[i] for i in self._indices(indices)]
        return chosen if intermediates_only else (features[-1], chosen)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what comes after the last feature map asked for; return their indices, counted from the front."""
        chosen = self._indices(indices)
        self.backbone.stages = self.backbone.stages[: self.stages[max(chosen)] + 1]
        if prune_head:
            self.reset_classifier(0, "")
        return chosen

    def get_classifier(self) -> nn.Module:
        """Return the linear classifier."""
        fc: nn.Module = self.head.fc
        return fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a fresh classifier on the features."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)

    def _indices(self, indices: int | Sequence[int] | None) -> list[int]:
        count = len(self.stages)
        if indices is None or isinstance(indices, int):
            return list(range(count))[-(indices or count) :]
        if wrong := [i for i in indices if not -count <= i < count]:
            raise FnaError(
                f"there is no feature map {wrong[0]}: this backbone has {count}, of strides "
                f"{', '.join(str(info['reduction']) for info in self.feature_info)}; give out_indices (or for "
                f"segmentation_models_pytorch encoder_depth) within them"
            )
        return [i % count for i in indices]


def _backbone_only(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Leave the head of the task out, which timm's models have none of."""
    return {name: tensor for name, tensor in state.items() if name.startswith("backbone.")}


def _take_channels(backbone: Backbone, channels: int) -> None:
    """Give a backbone a first convolution for other images than RGB."""
    old: Any = backbone.stem.conv
    side = old.kernel_size[0]
    backbone.stem.conv = type(old)(channels, old.out_channels, side, old.stride, old.padding, bias=False)
