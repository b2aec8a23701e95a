"""The typed configuration of a run: one YAML file, dotted overrides, every mistake named. No torch here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fna.config.strict_yaml import parse_yaml as parse_yaml
from fna.config.strict_yaml import write_yaml
from fna.errors import FnaError, nearest

T = TypeVar("T")
Several = Annotated[tuple[T, ...], Field(strict=False)]  # YAML has lists, no tuples; the items stay strict
Two = Annotated[tuple[T, T], Field(strict=False)]
Positive = Annotated[int, Field(ge=1, lt=2**31)]
Natural = Annotated[int, Field(ge=0, lt=2**31)]
AboveZero = Annotated[float, Field(gt=0)]
FromZero = Annotated[float, Field(ge=0)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
UpToOne = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Size = Two[Positive]  # height, width in pixels

RESERVED = (  # names of a run folder's own files
    *("alphas", "baseline", "config", "entropy", "manifest", "metrics", "remap"),
    *("report", "search", "searched", "seed", "super", "target"),
)


def note(default: T, text: str) -> T:
    """Give a field its default and the line that `fna list settings` says about it."""
    field: T = Field(default, description=text)
    return field


class Section(BaseModel):
    """A part of the configuration: strict types, finite numbers, no unknown keys."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True, strict=True, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_sections(cls, values: Any) -> Any:
        """Read a section without content (``seed:``) as one of defaults."""
        if not isinstance(values, Mapping):
            return values
        return {key: value for key, value in values.items() if value is not None or _section(cls, key) is None}


class SeedConfig(Section):
    """Which pretrained network to start from."""

    name: str = note(
        "efficientnet_lite0", "a name of `fna list seeds`, timm/NAME, or a file (Arch JSON, net_config text)"
    )
    weights: str | None = note("pretrained", "'pretrained', a file, or null for random weights")


MODELS = {  # what a task can put on the backbone, the default first
    "segmentation": ("deeplabv3", "deeplabv3plus"),
    "detection": ("retinanet", "ssdlite"),
    "pose": ("simple_baseline",),
}


class TaskConfig(Section):
    """What the network is for. Of `name` and `model` one is enough."""

    name: Literal["segmentation", "detection", "pose"] = "segmentation"
    model: Literal["deeplabv3", "deeplabv3plus", "retinanet", "ssdlite", "simple_baseline"] = "deeplabv3"
    output_stride: Literal[8, 16, 32] = note(
        16, "input pixels per pixel of the last feature map; 32 for detection and pose"
    )
    channels: Positive = note(256, "channels of the ASPP, the FPN or the deconvolutions")
    rates: Several[Positive] | None = note(None, "ASPP rates; null: 6, 12, 18 at stride 16, doubled at 8")
    anchor_scale: AboveZero = note(4.0, "RetinaNet: side of the smallest anchor / stride of its level")
    sigma: AboveZero = note(2.0, "pose: standard deviation of the target Gaussians in heatmap pixels")
    joint_pairs: Several[Two[str]] | None = note(None, "pose: joints that a mirror swaps; null: left_* with right_*")

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        """Fill in name, model and output stride from each other."""
        if not isinstance(values, Mapping):
            return values
        filled = {key: value for key, value in values.items() if value is not None or key == "rates"}
        owner = next((name for name, models in MODELS.items() if filled.get("model") in models), None)
        name = filled.setdefault("name", owner or "segmentation")
        if isinstance(name, str) and name in MODELS:
            filled.setdefault("model", MODELS[name][0])
            filled.setdefault("output_stride", 16 if name == "segmentation" else 32)
        return filled

    @model_validator(mode="after")
    def _belong_together(self) -> TaskConfig:
        if self.model not in MODELS[self.name]:
            raise ValueError(
                f"task.model '{self.model}' is not for {self.name}; choose {' or '.join(MODELS[self.name])}, or leave "
                "task.name out"
            )
        if self.name != "segmentation" and self.output_stride != 32:
            raise ValueError(f"task.output_stride is {self.output_stride}; {self.model} needs 32")
        return self


class DataConfig(Section):
    """Where the images are and how they are cut."""

    format: Literal["camvid", "cityscapes", "voc", "folder", "synthetic", "coco", "yolo", "mpii", "deeplabcut"] = (
        "camvid"
    )
    root: str | None = note(None, "the data set's folder")
    train: str = note("train", "split to learn from (weights, and alphas on a part of it)")
    val: str = note("val", "split to score on")
    test: str = note("test", "split of `fna evaluate --split test`, opened only then")
    image_folder: str | None = note(None, "folder of the images below root, where the format's own is not it")
    classes: Several[str] | None = note(
        None, "class names by label value (format 'folder'), or those to detect, in order"
    )
    ignore_label: Annotated[int, Field(ge=0, le=255)] | None = note(None, "label of no class; null: the format's own")
    crop: Size = note((240, 320), "what the network sees in training: height, width")
    scale: Two[AboveZero] | None = note(
        None, "range of the random resize; null: 0.75 to 2 (segmentation), 0.8 to 1.2 (detection), 0.75 to 1.25 (pose)"
    )
    flip: bool = note(True, "random left-right flip")
    color_jitter: Annotated[float, Field(ge=0, le=1)] = note(0.2, "strength for brightness, contrast, saturation")
    augment: Literal["resize", "ssd"] | None = note(
        None, "detection: 'resize', or 'ssd' (zoom out, crop by IoU, colour distortion); null: the model's own"
    )
    rotation: Annotated[float, Field(ge=0, le=180)] = note(30.0, "pose: largest random rotation in degrees")
    half_body: Annotated[float, Field(ge=0, le=1)] = note(
        0.3, "pose: how often only the upper or lower body is cut out"
    )
    box_padding: AboveZero = note(1.25, "pose: side of the crop / side of the person's box")
    eval_size: Size | None = note(
        None, "height, width images are scored at; null: their own (segmentation), the crop (detection, pose)"
    )
    eval_scale: AboveZero = note(1.0, "segmentation: images are scored at this multiple of their size")
    on_error: Literal["fail", "fix", "skip"] = note(
        "fail", "a bad record stops the run, is mended where possible, or is left out; all are counted"
    )
    allow_change: bool = note(False, "go on although files changed since the run began; the report says so")
    cache_gb: FromZero = note(4.0, "keep decoded images in memory up to this size")
    images: Positive = note(96, "images per split (format 'synthetic')")


class SpaceConfig(Section):
    """What the search may choose from."""

    kernels: Several[Literal[3, 5, 7, 9]] = (3, 5, 7)
    expansions: Several[AboveZero] = note((3, 6), "hidden / input channels")
    layers: Several[Positive] | None = note(None, "layers per searchable stage; null: the article's tables")
    cells: Several[Annotated[str, Field(pattern=r"^k\d*[13579]g[1-9]\d*$")]] = note(
        ("k3g1", "k5g2", "k5g4", "k7g4", "k7g8"), "ResNets: kernel and groups of a block's searched convolution"
    )
    skip: bool | None = note(
        None, "whether layers after a stage's first may be skipped; null: as the article, not in ResNets"
    )


class RemapConfig(Section):
    """How parameters move between networks; `fna list strategies`."""

    depth: str = note("last", "layers the source has not: last, net2net")
    width: str = note("first", "which hidden channels: first, bn, std, l1, net2net")
    kernel: str = note("centre", "which taps: centre, dilate")
    growth: str = note("preserve", "what new channels begin with: preserve, zero, noise")


class OptimizerConfig(Section):
    """An optimizer and its learning-rate schedule."""

    name: Literal["sgd", "rmsprop", "adam", "adamw"] = "sgd"
    lr: AboveZero = 0.01
    momentum: BelowOne = note(0.9, "of sgd and rmsprop")
    betas: Two[BelowOne] = note((0.9, 0.999), "of adam and adamw")
    eps: AboveZero = 1e-8
    weight_decay: FromZero = 0.0
    head_lr: AboveZero = note(1.0, "learning rate of the new head, x lr")
    schedule: Literal["constant", "poly", "cosine", "step"] = "poly"
    power: AboveZero = note(0.9, "exponent of 'poly'")
    steps: Several[Positive] = note((), "epochs after which 'step' multiplies by gamma")
    gamma: UpToOne = 0.1
    warmup: Natural = note(0, "iterations of linear warm-up")
    warmup_from: UpToOne = note(1 / 3, "first warm-up rate, x lr")
    clip: AboveZero | None = note(None, "largest gradient norm")


class AlphaConfig(Section):
    """The optimizer of the architecture parameters (Adam, constant rate)."""

    lr: AboveZero = 3e-4
    betas: Two[BelowOne] = (0.5, 0.999)
    weight_decay: FromZero = 1e-3
    clip: AboveZero | None = note(None, "largest gradient norm")
    init_std: FromZero = note(1e-3, "alphas start at init_std * normal")


class SearchConfig(Section):
    """Architecture adaptation."""

    epochs: Positive = 20
    alpha_start: Natural = note(8, "epochs of weights only, on uniform paths")
    alpha_split: Share = note(0.5, "share of the training images that only the alphas see")
    cycle: Positive = note(1, "weight steps per alpha step")
    batch_size: Positive = 8
    sampler: str = "uniform"
    chooser: str = "alphas"
    budget: AboveZero | str | None = note(
        1.0, "MAdds of the whole network: up to 100 x the seed's, above an absolute count; null: use lambda"
    )
    budget_rate: FromZero = note(0.05, "step size of the budget's multiplier")
    budget_weight: FromZero = note(2.0, "quadratic pull of the expected cost to the budget")
    lambda_: Annotated[FromZero, Field(alias="lambda")] = note(0.0, "fixed weight of lg cost (article, Eq. 8)")
    cost_size: Size | None = note(None, "height, width MAdds are counted at; null: those images are scored at")
    estimator: Literal["full", "two_path", "gumbel"] = note("two_path", "gradient of the alphas")
    bn: Literal["open", "frozen"] = note("open", "FNA++ trains batch norms in the super network, FNA froze them")
    optimizer: OptimizerConfig = OptimizerConfig()
    alpha: AlphaConfig = AlphaConfig()


class DeriveConfig(Section):
    """Derivation."""

    name: str = "derived"
    budget: AboveZero | str | None = None


class AdaptConfig(Section):
    """Parameter adaptation; the defaults make the FNA++ network, other choices make its controls."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] = note("adapted", "name of its files")
    arch: str = note("derived", "'derived', 'seed', or a file (Arch JSON or net_config text)")
    head_width: AboveZero | None = None
    scale: AboveZero | None = None
    init: Literal["super", "seed", "random"] = note("super", "where the weights come from")
    epochs: Positive = 20
    batch_size: Positive = 8
    recalibrate: Natural = note(20, "batches to recompute BN statistics on at the start")
    bn: Literal["open", "frozen"] = "open"
    optimizer: OptimizerConfig = OptimizerConfig()


class EvaluateConfig(Section):
    """How a network is scored."""

    mode: Literal["whole", "sliding"] = "whole"
    window: Size | None = note(None, "sliding window: height, width; null: the training crop")
    overlap: BelowOne = note(1 / 3, "share two windows have in common")
    batch_size: Positive = 4
    score_threshold: BelowOne = note(0.05, "detection: boxes below it are dropped")
    nms: UpToOne = note(0.5, "detection: IoU above which the weaker of two boxes of a class is dropped")
    detections: Positive = note(100, "detection: most boxes per image")
    draw_threshold: BelowOne = note(0.3, "detection and pose: what pictures show")
    flip_test: bool = note(True, "pose: average the heatmaps of the image and its mirror image")
    decode: Literal["quarter", "dark"] = note("quarter", "pose: sub-pixel rule, quarter-pixel shift or DARK")
    every: Positive = note(1, "epochs between scores during adaptation")


class EngineConfig(Section):
    """Where and how to compute."""

    device: str = note("auto", "auto, cpu, cuda, cuda:1 ...")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = note("auto", "auto: bf16 where the device is fast at it")
    channels_last: bool = True
    threads: Natural = note(0, "CPU threads; 0: torch's choice")
    workers: Natural = note(2, "processes that load data")
    rng_seed: Natural = 0
    sync_bn: bool = note(True, "share batch statistics between processes")
    checkpoint_steps: Natural = note(0, "iterations between checkpoints besides those at the ends of epochs; 0: none")
    checkpoint_seconds: FromZero = note(30.0, "least seconds between checkpoints at the ends of epochs; 0: at each")
    strict: bool = note(False, "warnings (collapse, dead channels) stop the run")


class Config(Section):
    """Everything a run depends on."""

    seed: SeedConfig = SeedConfig()
    task: TaskConfig = TaskConfig()
    data: DataConfig = DataConfig()
    space: SpaceConfig = SpaceConfig()
    remap: RemapConfig = RemapConfig()
    search: SearchConfig = SearchConfig()
    derive: DeriveConfig = DeriveConfig()
    adapt: AdaptConfig = AdaptConfig()
    baseline: bool = note(True, "also fine-tune the plain seed under the identical schedule")
    evaluate: EvaluateConfig = EvaluateConfig()
    engine: EngineConfig = EngineConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        start, epochs = self.search.alpha_start, self.search.epochs
        if start >= epochs:
            raise ValueError(f"search.alpha_start is {start}, but search.epochs {epochs}: the alphas would never move")
        if self.data.scale and self.data.scale[0] > self.data.scale[1]:
            raise ValueError(f"data.scale is {list(self.data.scale)}; expected [smallest, largest]")
        if self.adapt.name in RESERVED:
            raise ValueError(f"adapt.name is '{self.adapt.name}', a file of every run folder; choose another name")
        chosen: dict[str, Sequence[Any]] = self.space.model_dump(include={"kernels", "expansions", "cells"})
        for key, values in chosen.items():
            if not values or len(set(values)) < len(values):
                raise ValueError(f"space.{key} is {list(values)}; give one value or more, each once")
        return self


# --- reading --------------------------------------------------------------------------------------


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration.

    Args:
        path: a YAML file, or None for the defaults.
        overrides: ``key.path=value`` texts, values in YAML (``search.epochs=5``); the last of equal keys counts.

    Raises:
        FnaError: naming each wrong key with its nearest right one, and each wrong value with what is expected.
    """
    data: Any = None
    if path is not None:
        try:
            data = parse_yaml(Path(path).read_text(encoding="utf-8"), str(path))
        except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a NUL in the name
            raise FnaError(f"cannot read the recipe {path}: {getattr(error, 'strerror', None) or error}") from error
        if not isinstance(data, dict | None):
            raise FnaError(f"{path} holds a {type(data).__name__}; expected sections such as 'seed:' and 'data:'")
    return make_config(merge(data or {}, overrides), str(path or "the configuration"))


def merge(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return `data` with ``key.path=value`` overrides applied."""
    merged = dict(data)
    for text in overrides:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise FnaError(f"cannot read the override '{text}'; write --key.path VALUE, e.g. --search.epochs 5")
        *sections, last = key.split(".")
        inner = merged
        for name in sections:
            section = inner.get(name) or {}
            if not isinstance(section, Mapping):
                raise FnaError(f"cannot set '{key}': '{name}' is a value, not a section")
            inner[name] = dict(section)
            inner = inner[name]
        inner[last] = parse_yaml(value, f"the value of --{key}")
    return merged


def make_config(data: Mapping[str, Any], where: str = "the configuration") -> Config:
    """Validate plain data as a Config; see `load_config`."""
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        wrong = [_explain(item) for item in error.errors(include_url=False)]
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise FnaError(f"{where}: {'; '.join(wrong[:5])}{more}") from error


def _explain(item: Any) -> str:
    """Say one pydantic error in plain words, with the nearest key where a key is unknown."""
    location = [str(part) for part in item["loc"]]
    key, message, given = ".".join(location), str(item["msg"]), item.get("input")
    if item["type"] == "extra_forbidden":
        section = _section(Config, *location[:-1]) or Config
        known = [field.alias or name for name, field in section.model_fields.items()]
        return f"unknown key '{key}'{nearest(location[-1], known)}; known here: {', '.join(known)}"
    if item["type"] == "value_error":
        return message.removeprefix("Value error, ")
    expected = {
        "model_type": "a section with keys of its own",
        "tuple_type": "a list such as [240, 320]",
        "too_long": f"a list of {item.get('ctx', {}).get('max_length')}",
        "string_pattern_mismatch": "a cell such as k5g2"
        if key.startswith("space.cells")
        else "a file name of letters, digits, '_', '.' and '-'",
        "invalid_key": "a key that is text",
        "string_type": "text (put it in quotes)" if isinstance(given, int | float) else "text",
        "bool_type": "true or false",
        "int_type": "a whole number",
        "float_type": "a number",
    }.get(item["type"], message.removeprefix("Input should be "))
    hint = ""
    if item["type"] == "literal_error":
        hint = nearest(str(given)[:80], re.findall(r"'([^']*)'", item["ctx"]["expected"]))
    shown = f"a {type(given).__name__}" if isinstance(given, dict | list) else repr(given)[:80]
    return f"'{key}' is {shown}; expected {expected}{hint}"


def _section(root: type[BaseModel], *names: str) -> type[BaseModel] | None:
    """Return the section below `root` that `names` lead to, if it is one."""
    for name in names:
        field = root.model_fields.get(name)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return None
        root = field.annotation
    return root


def settings(section: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yield (dotted key, default, explanation) of every setting."""
    for name, field in section.model_fields.items():
        inner = _section(section, name)
        if inner:
            yield from settings(inner, f"{prefix}{name}.")
        else:
            options = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
            said = [field.description or "", " | ".join(map(str, options))]
            yield prefix + (field.alias or name), field.default, "; ".join(filter(None, said))


def dump_yaml(config: Config) -> str:
    """Write a configuration as YAML; `load_config` reads the same back."""
    return write_yaml(config.model_dump(mode="json", by_alias=True))
