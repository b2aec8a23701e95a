"""The sections of a recipe that are the same for every model, and what sections are made of. No torch here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from fna.config.budgets import parse_budget
from fna.errors import FnaError

T = TypeVar("T")
Several = Annotated[tuple[T, ...], Field(strict=False)]  # YAML has lists, no tuples; the items stay strict
Two = Annotated[tuple[T, T], Field(strict=False)]
Positive = Annotated[int, Field(ge=1, lt=2**31)]
Natural = Annotated[int, Field(ge=0, lt=2**31)]
Processors = Annotated[int, Field(ge=0, le=1024)]  # a machine that is asked for millions of threads goes down
AboveZero = Annotated[float, Field(gt=0)]
FromZero = Annotated[float, Field(ge=0)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
UpToOne = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
OutputStride = Literal[8, 16, 32]  # input pixels per pixel of the last feature map
TowerDepth = Annotated[int, Field(ge=1, le=4)]  # convolutions in each tower of a detector's head
Size = Two[Positive]  # height, width in pixels
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


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
        return {key: value for key, value in values.items() if value is not None or section(cls, key) is None}


def section(root: type[BaseModel], *names: str) -> type[BaseModel] | None:
    """Return the section below `root` that `names` lead to, if it is one."""
    for name in names:
        field = root.model_fields.get(name)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return None
        root = field.annotation
    return root


def _budget(value: Any) -> Any:
    """Let a budget through as it is written, or say what is wrong with it."""
    try:
        parse_budget(value)
    except FnaError as error:
        raise PydanticCustomError("budget", "{why}", {"why": str(error)}) from error
    return value


BudgetText = Annotated[float | str, BeforeValidator(_budget)]  # see `parse_budget`


class SeedConfig(Section):
    """Which pretrained network to start from."""

    name: str = note(
        "efficientnet_lite0", "a name of `fna list seeds`, timm/NAME, or a file (Arch JSON, net_config text)"
    )
    weights: str | None = note("pretrained", "'pretrained', a file, or null for random weights")
    super_weights: str | None = note(
        None, "a file with weights of the whole super network, pretrained elsewhere; null: remapped from the seed's"
    )


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
    input_scales: Several[AboveZero] = note(
        (0.75, 1.0, 1.25, 1.5), "measured: sides of the input, x those of `data`, that a target may have; alphas: 1"
    )
    head_channels: Several[UpToOne] = note(
        (0.5, 0.75, 1.0), "measured: channels of the head, x those of `task`, that a target may have; alphas: 1"
    )
    output_strides: Several[OutputStride] = note(
        (), "measured, segmentation: output strides that a target may have; none, or alphas: `task.output_stride` alone"
    )
    tower_depths: Several[TowerDepth] = note(
        (),
        "measured, retinanet: depths of the towers that a target may have; none, or alphas: `task.tower_depth` alone",
    )

    def blocks(self) -> dict[str, Any]:
        """Return the settings of the candidates, which are those of `spaces.task_space`; the others are of forms."""
        return self.model_dump(exclude={"input_scales", "head_channels", "output_strides", "tower_depths"})


class RemapConfig(Section):
    """How parameters move between networks; `fna list strategies`."""

    depth: str = note("last", "layers the source has not: last, net2net")
    width: str = note("first", "which hidden channels: first, bn, std, l1, net2net")
    kernel: str = note("centre", "which taps: centre, dilate")
    growth: str = note("preserve", "what new channels begin with: preserve, zero, noise")


class OptimizerConfig(Section):
    """An optimizer and its learning-rate schedule."""

    name: Literal["sgd", "rmsprop", "adam", "adamw"] = "adamw"
    lr: AboveZero = 1e-3
    momentum: BelowOne = note(0.9, "of sgd and rmsprop")
    betas: Two[BelowOne] = note((0.9, 0.999), "of adam and adamw")
    eps: AboveZero = 1e-8
    weight_decay: FromZero = 0.01
    head_lr: AboveZero = note(1.0, "learning rate of the new head, x lr")
    schedule: Literal["constant", "poly", "cosine", "step"] = "poly"
    power: AboveZero = note(0.9, "exponent of 'poly'")
    steps: Several[Positive] = note((), "epochs after which 'step' multiplies by gamma")
    gamma: UpToOne = 0.1
    warmup: Natural = note(20, "iterations of linear warm-up")
    warmup_from: UpToOne = note(1 / 3, "first warm-up rate, x lr")
    clip: AboveZero | None = note(None, "largest gradient norm")


class AlphaConfig(Section):
    """The optimizer of the architecture parameters (Adam, constant rate)."""

    lr: AboveZero = 0.01
    betas: Two[BelowOne] = (0.5, 0.999)
    weight_decay: FromZero = 1e-3
    clip: AboveZero | None = note(None, "largest gradient norm")
    init_std: FromZero = note(1e-3, "alphas start at init_std * normal")


class SearchConfig(Section):
    """Architecture adaptation."""

    epochs: Positive = 20
    alpha_start: Natural = note(8, "epochs of weights only, on sampled paths")
    alpha_split: Share = note(0.5, "share of the training images that only the alphas see")
    cycle: Positive = note(1, "weight steps per alpha step")
    batch_size: Positive = 8
    budget: BudgetText | None = note(
        1.0,
        "the whole network's: 0.9x (the seed's MAdds), 0.8x params, 0.6x memory, 2.4 GMAdds, 3 Mparams, 30 ms, 40 MB; "
        "a number below 10 is x, one from 1e4 on MAdds; null: use lambda",
    )
    smaller_budgets: Several[BudgetText] = note(
        (), "measured: others, below `budget`, that targets will be derived at; paths are drawn and scored there, too"
    )
    budget_rate: FromZero = note(0.05, "step size of the budget's multiplier")
    budget_weight: FromZero = note(2.0, "quadratic pull of the expected cost to the budget")
    lambda_: Annotated[FromZero, Field(alias="lambda")] = note(0.0, "fixed weight of lg cost (article, Eq. 8)")
    latency_table: str | None = note(
        None, "a file of `fna latency`, for budgets in ms: what blocks take on the device that counts"
    )
    cost_size: Size | None = note(None, "height, width costs are counted at; null: those images are scored at")
    estimator: str = note("two_path", "gradient of the alphas; `fna list estimators`")
    sampler: str = note(
        "anchored", "how paths are drawn while weights learn; `fna list samplers`; the article: uniform"
    )
    anchor: Annotated[float, Field(ge=0, le=1)] = note(0.25, "anchored: share of the steps on the seed's own path")
    near: Annotated[float, Field(ge=0, le=1)] = note(0.5, "anchored: how often a layer of the others is the seed's")
    tied: bool = note(True, "a layer's candidates are slices of its largest and learn together; the article: false")
    distill: FromZero = note(
        0.0, "anchored: weight of what other paths learn from the seed's output, beside the truth; 0: nothing"
    )
    window: Two[AboveZero] = note((0.5, 1.05), "anchored: cost of the others, x the budget")
    chooser: str = note("measured", "how a target is chosen; `fna list choosers`; the article: alphas")
    held_out: Share = note(0.2, "measured: share of the training images that candidates are scored on")
    candidates: Annotated[int, Field(ge=2)] = note(
        100, "measured: how many whole networks are scored, the seed included"
    )
    trial: Annotated[float, Field(ge=0, lt=1)] = note(
        0.1, "measured: iterations that each finalist is trained for by itself, x those of the search; 0: none"
    )
    recalibrate: Positive = note(4, "measured: batches to recompute a candidate's BN statistics on")
    bn: Literal["open", "frozen"] = note("open", "FNA++ trains batch norms in the super network, FNA froze them")
    optimizer: OptimizerConfig = OptimizerConfig()
    alpha: AlphaConfig = AlphaConfig()

    @model_validator(mode="after")
    def _has_a_teacher(self) -> Self:
        given = f"search.distill is {self.distill:g}, but"
        if self.distill and self.sampler == "uniform":
            raise ValueError(
                f"{given} with search.sampler uniform the seed's path is trained no more than others: it has nothing "
                "to teach; use search.sampler anchored, or leave search.distill out"
            )
        if self.distill and self.chooser == "halving":
            raise ValueError(
                f"{given} search.chooser halving trains no super network, whose paths could learn from the seed's; use "
                "search.chooser measured, or leave search.distill out"
            )
        return self

    def trial_steps(self, total: int) -> int:
        """Return how many iterations a trial has in a search of so many: one at least, unless there are no trials."""
        return max(1, round(self.trial * total)) if self.trial else 0


class DeriveConfig(Section):
    """The target: as many as one likes from one search, each with a budget of its own."""

    name: FileName = note("derived", "name of the target, and of its files in targets/")
    budget: BudgetText | None = note(None, "see search.budget; null: that one")
    chooser: str | None = note(None, "see search.chooser; null: that one")


class AdaptConfig(Section):
    """Parameter adaptation; the defaults make the FNA++ network, other choices make its controls."""

    name: FileName | None = note(None, "name of its folder; null: adapted, or that of another target and its weights")
    arch: str = note("derived", "a target of targets/, 'seed', or a file (Arch JSON or net_config text)")
    head_width: AboveZero | None = note(None, "channels of the head, x those of `task`; null: the target's")
    scale: AboveZero | None = note(None, "input height and width, x those of `data`; null: the target's")
    output_stride: OutputStride | None = note(None, "segmentation: see `task`; null: the target's")
    tower_depth: TowerDepth | None = note(None, "retinanet: see `task`; null: the target's")
    init: Literal["super", "seed", "target", "random"] = note(
        "super", "where the weights come from; target: those it was derived with"
    )
    weights: str | None = note(None, "a file with weights of the backbone, pretrained elsewhere, in place of init's")
    epochs: Positive = 20
    batch_size: Positive = 8
    accumulate: Positive = note(1, "parts in which a batch is computed, one after another, for less memory")
    recalibrate: Natural = note(20, "batches to recompute BN statistics on at the start")
    bn: Literal["open", "frozen"] = "open"
    freeze: Literal["none", "stem", "backbone"] | Positive = note(
        "none", "what does not learn, its batch norms included: stem, a number n (stem and first n stages), backbone"
    )
    class_weights: Literal["none", "balanced"] | Several[AboveZero] | dict[str, AboveZero] = note(
        "none", "of the loss, not for pose: balanced (rare classes count more), a list, or some by name"
    )
    ema: BelowOne | None = note(None, "decay of a running average of the weights, which is scored and kept; null: none")
    keep: Literal["last", "best"] = note(
        "last", "the epoch whose weights are kept; best: on val, whose score is optimistic then"
    )
    optimizer: OptimizerConfig = OptimizerConfig()

    @property
    def at_once(self) -> int:
        """Images that are in the network at the same time."""
        return -(-self.batch_size // self.accumulate)

    @property
    def folder(self) -> str:
        """Name of the network's folder: `name`, or what tells it from others.

        >>> AdaptConfig().folder, AdaptConfig(arch="half").folder, AdaptConfig(arch="a/b.json", init="seed").folder
        ('adapted', 'half', 'b_seed')
        """
        if self.name is not None:
            return self.name
        if (self.arch, self.init) == ("derived", "super"):
            return "adapted"
        stem = re.sub(r"[^A-Za-z0-9_.-]+", "_", self.arch.replace("\\", "/").rpartition("/")[2].partition(".")[0])
        return (stem.strip("_.-") or "network") + ("" if self.init == "super" else f"_{self.init}")


class EngineConfig(Section):
    """Where and how to compute."""

    device: str = note("auto", "auto, cpu, cuda, cuda:1 ...")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = note("auto", "auto: bf16 where the device is fast at it")
    tf32: bool = note(
        True, "NVIDIA GPUs: float32 convolutions and matrix products by tensor cores, factors rounded to 10 bits"
    )
    channels_last: bool = True
    threads: Processors = note(0, "CPU threads; 0: torch's choice")
    workers: Literal["auto"] | Processors = note(
        "auto", "processes that load data; auto: 2 beside a CPU that trains, up to 8 beside a GPU"
    )
    rng_seed: Natural = 0
    sync_bn: bool = note(True, "share batch statistics between processes")
    deterministic: bool = note(False, "the same bits twice on a GPU, too, more slowly; on the CPU they are anyway")
    checkpoint_steps: Natural = note(0, "iterations between checkpoints; 0: at ends of epochs only")
    checkpoint_seconds: FromZero = note(30.0, "least seconds between checkpoints at the ends of epochs; 0: at each")
    log: Several[Literal["csv", "tensorboard", "wandb", "mlflow"]] = note(
        ("csv",), "where the numbers of training go; the CSV files of the run folder are always written"
    )
    strict: bool = note(False, "warnings (collapse, dead channels) stop the run")
