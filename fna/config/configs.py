"""The configuration of a run: a class per task, and of these one per model, chosen by the model's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

from pydantic import ModelWrapValidatorHandler, create_model, model_validator

from fna.config.data import (
    DataConfig,
    DetectionDataConfig,
    DetectionEvaluateConfig,
    EvaluateConfig,
    PoseDataConfig,
    PoseEvaluateConfig,
    SegmentationDataConfig,
    SegmentationEvaluateConfig,
)
from fna.config.models import MODELS, TASKS, DeepLab, Detector, SimpleBaseline, TaskConfig
from fna.config.sections import (
    AdaptConfig,
    DeriveConfig,
    EngineConfig,
    RemapConfig,
    SearchConfig,
    Section,
    SeedConfig,
    SpaceConfig,
    note,
)
from fna.errors import FnaError, nearest

# Folders of every run: no names for adaptations.
FOLDERS = ("checkpoints", "data", "front", "predictions", "targets", "tensorboard", "wandb")
FILES = (".csv", ".html", ".json", ".safetensors", ".yaml")  # what the other names in a run's folder end in
SEED = "seed"  # what adapt.arch calls the seed's architecture: no name for a target


class Config(Section):
    """Everything a run depends on.

    ``Config(...)`` gives the class of the model that ``task`` names: its settings and those of its task are known, all
    others are mistakes. Without a name it is the first of `MODELS`.
    """

    seed: SeedConfig = SeedConfig()
    task: TaskConfig
    data: DataConfig = DataConfig()
    space: SpaceConfig = SpaceConfig()
    remap: RemapConfig = RemapConfig()
    search: SearchConfig = SearchConfig()
    derive: DeriveConfig = DeriveConfig()
    adapt: AdaptConfig = AdaptConfig()
    baseline: bool = note(True, "also fine-tune the plain seed under the identical schedule")
    evaluate: EvaluateConfig = EvaluateConfig()
    engine: EngineConfig = EngineConfig()

    def __new__(cls, **values: Any) -> Self:
        """Make an instance of the model's class."""
        return cast(Self, super().__new__(config_class(values) if cls is Config else cls))

    @model_validator(mode="wrap")
    @classmethod
    def _of_its_model(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Any:
        return config_class(values).model_validate(values) if cls is Config else handler(values)

    @model_validator(mode="before")
    @classmethod
    def _named_once(cls, values: Any) -> Any:
        """Let null stand for what the other of ``task.name`` and ``task.model`` says."""
        task = values.get("task") if isinstance(values, Mapping) else None
        if not isinstance(task, Mapping):
            return values
        return {**values, "task": {k: v for k, v in task.items() if v is not None or k not in ("name", "model")}}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        search, chosen = self.search, self.space.model_dump(include={"kernels", "expansions", "cells"})
        if search.alpha_start >= search.epochs and search.chooser == "alphas":
            raise ValueError(
                f"search.alpha_start is {search.alpha_start}, but search.epochs {search.epochs}: "
                "the alphas would never move"
            )
        if search.lambda_ > 0 and search.budget is not None:
            raise ValueError(
                f"search.lambda is {search.lambda_:g} and search.budget {search.budget}: a budget finds the weight of "
                "the cost itself; leave search.lambda out, or go without a budget: --search.budget null"
            )
        if self.data.scale and self.data.scale[0] > self.data.scale[1]:
            raise ValueError(f"data.scale is {list(self.data.scale)}; expected [smallest, largest]")
        if self.adapt.folder in FOLDERS:
            raise ValueError(f"adapt.name is '{self.adapt.folder}', a folder of every run; choose another name")
        if self.adapt.folder.lower().endswith(FILES):
            raise ValueError(f"adapt.name is '{self.adapt.folder}', a file's name; it names a folder: choose another")
        if self.derive.name == SEED or "." in self.derive.name:
            raise ValueError(
                f"derive.name is '{self.derive.name}', which adapt.arch takes for the seed's or a file; choose another"
            )
        values: Sequence[Any]
        for key, values in chosen.items():
            if not values or len(set(values)) < len(values):
                raise ValueError(f"space.{key} is {list(values)}; give one value or more, each once")
        return self

    @model_validator(mode="after")
    def _of_its_task(self) -> Self:
        if self.adapt.class_weights != "none" and self.task.name == "pose":
            raise ValueError(
                "adapt.class_weights is for classes of pixels or boxes: joints have no classes; leave it out"
            )
        strides = {"space.output_strides": self.space.output_strides, "adapt.output_stride": self.adapt.output_stride}
        for key, given in strides.items():
            if given and self.task.name != "segmentation":
                raise ValueError(
                    f"{key} is for segmentation: {self.task.model} reads maps of fixed strides; leave it out"
                )
        own, depths = self.task.depth, self.space.tower_depths
        for key, asked in {"space.tower_depths": depths, "adapt.tower_depth": self.adapt.tower_depth}.items():
            if asked and own is None:
                raise ValueError(f"{key} is for retinanet: the head of {self.task.model} has no towers; leave it out")
        if deeper := [depth for depth in depths if depth > (own or 0)]:
            raise ValueError(
                f"space.tower_depths has {deeper[0]}, but task.tower_depth is {own}: shallower towers are slices of "
                "those; give depths up to it"
            )
        return self


class SegmentationConfig(Config):
    """A run of semantic segmentation."""

    task: DeepLab
    data: SegmentationDataConfig = SegmentationDataConfig()
    evaluate: SegmentationEvaluateConfig = SegmentationEvaluateConfig()


class DetectionConfig(Config):
    """A run of object detection."""

    task: Detector
    data: DetectionDataConfig = DetectionDataConfig()
    evaluate: DetectionEvaluateConfig = DetectionEvaluateConfig()


class PoseConfig(Config):
    """A run of human pose."""

    task: SimpleBaseline
    data: PoseDataConfig = PoseDataConfig()
    evaluate: PoseEvaluateConfig = PoseEvaluateConfig()


def _of_model(settings: type[TaskConfig]) -> type[Config]:
    """Make the class of a model's runs, and leave it in this module, where pickle looks for it."""
    bases: list[Any] = [SegmentationConfig, DetectionConfig, PoseConfig]
    base = next(base for base in bases if issubclass(settings, base.model_fields["task"].annotation))
    fields: dict[str, Any] = {"task": (settings, settings.model_validate({}))}
    made: type[Config] = create_model(f"{settings.__name__}Config", __base__=base, __module__=__name__, **fields)
    globals()[made.__name__] = made
    return made


CONFIGS = {model: _of_model(settings) for model, settings in MODELS.items()}


def config_class(values: Any) -> type[Config]:
    """Return the class of the model that plain data name.

    Args:
        values: sections; of ``task.name`` and ``task.model`` one is enough, and without both it is the default model.

    Raises:
        FnaError: a name is unknown, or the two do not fit.
    """
    task = values.get("task") if isinstance(values, Mapping) else None
    if isinstance(task, TaskConfig):
        task = {"model": task.model}
    named = task if isinstance(task, Mapping) else {}
    name, model = named.get("name"), named.get("model")
    for key, value, known in (("name", name, list(TASKS)), ("model", model, list(MODELS))):
        if value is not None and value not in known:
            raise FnaError(
                f"'task.{key}' is {repr(value)[:80]}; expected {', '.join(known[:-1])} or {known[-1]}"
                f"{nearest(str(value)[:80], known)}"
            )
    if model is None:
        return CONFIGS[next(iter(MODELS)) if name is None else TASKS[name][0]]
    if name is not None and model not in TASKS[name]:
        raise FnaError(
            f"task.model '{model}' is not for {name}; choose {' or '.join(TASKS[name])}, or leave task.name out"
        )
    return CONFIGS[model]
