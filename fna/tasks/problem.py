"""The problem to solve: what a network is for. No data, no device and no seed are needed to build, count or run one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fna.arch import Arch, SuperArch, padded
from fna.arch.target import Form
from fna.config import Config, make_config
from fna.config.scaling import at_form, times
from fna.cost.costs import Costs, find_measure
from fna.cost.latency import LatencyTable, layers_ns, named_latencies
from fna.cost.madds import Cost, CostTable, model_cost, model_rows, path_cost
from fna.cost.shares import part_madds
from fna.errors import FnaError
from fna.files import fingerprint, json_bytes
from fna.nets.network import Backbone, Model, feature_info
from fna.nets.peaks import network_peak, peak_table, rest_peak
from fna.nets.supernet import SuperBackbone
from fna.nets.weights import put
from fna.rng import seeded
from fna.tasks import Picture, Scores, Task, load_task
from fna.tasks.labels import Labels

Rgb = tuple[float, float, float]
SETTINGS = ("task", "data", "evaluate")  # sections that a network in use depends on
# Of the section data: of a machine, or of training.
HERE = ("root", "train", "val", "test", "image_folder", "cache_gb", "on_error", "allow_change", "transform")


@dataclass(frozen=True)
class Problem:
    """What a network is for.

    Args:
        config: settings; at another scale those of that scale (see `at`).
        task: segmentation, detection or pose.
        labels: of the classes, or joints.
        size_hw: height, width of what the network sees of the first record when it is scored.
        mean: to subtract from images, RGB in [0, 1].
        std: to divide images by, RGB in [0, 1].
    """

    config: Config
    task: Task
    labels: Labels
    size_hw: tuple[int, int]
    mean: Rgb
    std: Rgb

    @classmethod
    def of(cls, config: Config, data: Any, seed: Any) -> Problem:
        """Return the problem that settings, a split of the data and a seed pose.

        Args:
            config: settings.
            data: the split to score on: its labels and the size of its first image.
            seed: a `seeds.Seed`; its mean and std.
        """
        task = load_task(config.task.name)
        size_hw = task.scored_size(config)
        if size_hw is None:
            image_3HW, truth = data.load(0)
            height, width = task.view(image_3HW, truth, config)[0].shape[1:]
            size_hw = (height, width)
        return cls(config, task, Labels.of(data), size_hw, seed.mean, seed.std)

    def at(self, network: Any) -> Problem:
        """Return the problem as a network of another form sees it.

        Args:
            network: has a `form`, or is one.
        """
        form: Form = self.own(network if isinstance(network, Form) else network.form)
        if form == Form():
            return self
        config = at_form(self.config, form)
        return replace(self, config=config, size_hw=self.task.scored_size(config) or times(self.size_hw, form.scale))

    def own(self, form: Form) -> Form:
        """Return a form that says None where it says what the settings do."""
        task = self.config.task
        stride = None if form.output_stride == task.stride else form.output_stride
        return form._replace(
            output_stride=stride, tower_depth=None if form.tower_depth == task.depth else form.tower_depth
        )

    def tune(self, head: nn.Module) -> None:
        """Let a head's anchors follow the input scale of this problem."""
        if hasattr(head, "anchor_scale"):
            head.anchor_scale = self.config.task.anchor_scale  # type: ignore[attr-defined]

    # --- networks

    def prepared(self, arch: Any) -> Any:
        """Return an `Arch` or `SuperArch` with the output stride and taps of the task."""
        return self.task.prepare(arch, self.config.task)

    def build(self, arch: Arch | SuperArch) -> Model:
        """Build the task's network on `arch` with fresh weights that depend on ``engine.rng_seed`` only."""
        strided = self.prepared(arch)
        with seeded(self.config.engine.rng_seed, "initial weights"):
            backbone = SuperBackbone(strided) if isinstance(strided, SuperArch) else Backbone(strided)
            head = self._head(strided.seed if isinstance(strided, SuperArch) else strided)
        return Model(backbone, head)

    def head_start(self, seed_state: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """Return what the seed knows of the task's head, as ``head.*``."""
        return put(self.task.head_start(seed_state or {}, self.config.task), "head")

    def loss(self, output: Any, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the task's summed loss of a batch and the number of its terms."""
        return self.task.loss(output, batch, self.config.task)

    def distillation(self, output: Any, teacher: Any, batch: Any) -> Tensor:
        """Return how far an output is from a teacher's, summed over the terms of the loss."""
        return self.task.distillation(output, teacher, batch, self.config.task)

    # --- costs

    @property
    def given_hw(self) -> tuple[int, int]:
        """Height, width that networks are counted at, before padding."""
        return self.config.search.cost_size or self.size_hw

    def counted_hw(self, arch: Arch | SuperArch) -> tuple[int, int]:
        """Return the size a network on `arch` runs at: `given_hw`, padded where the backbone or the task does."""
        height, width = padded(arch, self.given_hw)
        multiple = self.task.multiple
        return -(-height // multiple) * multiple, -(-width // multiple) * multiple

    def cost(self, arch: Arch) -> Cost:
        """Count the task's network on `arch`: parameters, and MAdds of what runs (paper rule)."""
        return model_cost(self.prepared(arch), self.meta_head(arch), self.counted_hw(arch))

    def parts(self, arch: Arch) -> dict[str, int]:
        """Split the MAdds that `cost` counts into those of the stem, each stage and the head."""
        return part_madds(model_rows(self.prepared(arch), self.meta_head(arch), self.counted_hw(arch)))

    def costs(self, space: SuperArch, cost: str = "madds") -> Costs:
        """Count the networks of a space.

        Args:
            space: undilated.
            cost: a name of `cost.costs.COSTS`.
        """
        measure, strided, size_hw = find_measure(cost), self.prepared(space), self.counted_hw(space)
        table = measure.table(strided, size_hw, self)
        seed = self.whole(space.seed, cost)
        if cost == "memory":
            other = rest_peak(strided.seed, self.meta_head(space.seed), size_hw)
        else:
            other = seed - path_cost(table, strided.seed_path())
        return Costs(measure.unit, table, other, seed, measure.join)

    def whole(self, arch: Arch, cost: str) -> int:
        """Return what the whole network on `arch` costs, in the unit of ``COSTS[cost]``."""
        if cost == "memory":
            return network_peak(self.prepared(arch), self.meta_head(arch), self.counted_hw(arch))
        if cost != "latency":
            return int(getattr(self.cost(arch), cost))
        latencies, strided = self.latencies(), self.prepared(arch)
        return latencies.of(self.rest_name(arch)) + layers_ns(strided, self.counted_hw(arch), latencies)

    def peaks(self, strided: SuperArch) -> CostTable:
        """Return the bytes that are alive at most while each candidate of each layer of a space runs."""
        return peak_table(strided, self.counted_hw(strided))

    def latencies(self) -> LatencyTable:
        """Return the table that ``search.latency_table`` names.

        Raises:
            FnaError: none is given, or it cannot be read.
        """
        return named_latencies(self.config.search.latency_table)

    def rest_name(self, arch: Arch) -> str:
        """Name all of a network but its layers, stem and head, by what its latency depends on."""
        strided, task = self.prepared(arch), self.config.task
        features = [vars(feature) for feature in feature_info(strided)]
        about = [task.model_dump(mode="json"), len(self.labels.classes), asdict(strided.stem), features]
        digest = fingerprint(json_bytes([*about, strided.activation, strided.padding]))["sha256"]
        height, width = self.counted_hw(arch)
        return f"stem and {task.model} of {len(self.labels.classes)} classes {digest[:8]} at {height}x{width}"

    def meta_head(self, arch: Arch) -> nn.Module:
        """Build the task's head without memory, to count it or to see the shapes of its weights."""
        with torch.device("meta"):
            return self.build_head(arch)

    def build_head(self, arch: Arch) -> nn.Module:
        """Build the task's head with fresh weights."""
        return self._head(self.prepared(arch))

    def _head(self, strided: Arch) -> nn.Module:
        return self.task.head(strided, len(self.labels.classes), self.config.task)

    # --- records and predictions

    def view(self, image_3HW: Tensor, truth: Any) -> tuple[Tensor, Any]:
        """Return what the network sees of a record when it is scored, and the frame: how to get back to the image."""
        return self.task.view(image_3HW, truth, self.config)

    def predict(self, model: nn.Module, images_N3HW: Tensor, frames: Sequence[Any]) -> Sequence[Any]:
        """Return a prediction per normalised view, on the CPU, in image pixels."""
        return self.task.predict(model, images_N3HW, frames, self.config)

    def probabilities(self, model: nn.Module, images_N3HW: Tensor, frames: Sequence[Any]) -> Sequence[Any]:
        """Return the probability of each class at each pixel, per normalised view; of a task that has such a map."""
        assert self.task.probabilities is not None, "the task has such a map"
        return self.task.probabilities(model, images_N3HW, frames, self.config)

    def scores(self, data: Any) -> Scores:
        """Return an empty metric for a split."""
        return self.task.scores(data, self.config)

    def draw(self, picture_HW3: Picture, what: Any) -> Picture:
        """Return the picture with a prediction or truth drawn in."""
        return self.task.draw(picture_HW3, what, self.labels, self.config)

    # --- JSON

    def to_json(self) -> dict[str, Any]:
        """Return what a network in use needs to know; `from_json` is its inverse but for the settings of training."""
        dumped = self.config.model_dump(mode="json", by_alias=True, include=set(SETTINGS))
        dumped["data"] = {key: value for key, value in dumped["data"].items() if key not in HERE}
        return {
            "settings": dumped,
            "labels": self.labels.to_json(),
            "mean": list(self.mean),
            "std": list(self.std),
            "size_hw": list(self.size_hw),
        }

    @classmethod
    def from_json(cls, record: Any, config: Config | None = None) -> Problem:
        """Build the problem that `to_json` described.

        Args:
            record: of `to_json`.
            config: other settings than the record's.

        Raises:
            FnaError: it is no such record.
        """
        try:
            config = config or make_config(record["settings"], "the network's settings")
            labels = Labels.from_json(record["labels"])
            size, mean, std = (tuple(record[key]) for key in ("size_hw", "mean", "std"))
            return cls(config, load_task(config.task.name), labels, size, mean, std)
        except (KeyError, TypeError) as error:
            raise FnaError(f"not the record of a network of fna: {type(error).__name__} {error}") from error
