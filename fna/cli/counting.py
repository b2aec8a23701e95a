"""What networks and search spaces cost with a task's head on them, for `fna count`. No torch at import."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from fna.arch import A, Arch, SuperArch, spaces, with_output_stride
from fna.arch.target import Form
from fna.cost.madds import (
    CostRow,
    CostTable,
    SizeHW,
    SpaceCost,
    backbone_rows,
    cost_table,
    model_rows,
    path_cost,
    space_cost,
    total_cost,
)
from fna.errors import FnaError, nearest

if TYPE_CHECKING:
    from torch import nn

    from fna.config import Config

BARE = "none"  # a backbone without head
BARE_SIZE: SizeHW = (224, 224)  # what classifiers are counted at
SPACES = {"seg": "segmentation", "det": "detection", "pose": "pose"}  # column of Table I -> task


@dataclass(frozen=True)
class Plan:
    """How to count.

    Args:
        model: what is on the backbone, a key of `config.MODELS`, or `BARE`.
        classes: foreground classes or joints.
        size_hw: size of the image.
        output_stride: of the last features; None: the task's, and for a bare backbone its own.
        rule: one of `cost.RULES`.
        config: its ``task`` builds the head, its ``space`` the search space.
    """

    model: str
    classes: int
    size_hw: SizeHW
    output_stride: int | None
    rule: str
    config: Config

    def prepare(self, arch: A) -> A:
        """Return `arch` with the output stride and the taps that the model needs."""
        if self.model == BARE:
            own = (arch.seed if isinstance(arch, SuperArch) else arch).output_stride
            return with_output_stride(arch, own if self.output_stride is None else self.output_stride)
        from fna.tasks import load_task

        prepared: A = load_task(self.config.task.name).prepare(arch, self.config.task)
        return prepared

    def at(self, form: Form) -> Plan:
        """Return how to count a target of a form, but for an output stride that was asked for."""
        from fna.config.scaling import COARSEST, at_form, times

        task = self.config.task
        if self.output_stride is not None or task.name != "segmentation":
            form = form._replace(output_stride=None)
        if task.depth is None:
            form = form._replace(tower_depth=None)
        multiple = COARSEST if task.name == "pose" and self.model != BARE else 1
        return replace(self, size_hw=times(self.size_hw, form.scale, multiple), config=at_form(self.config, form))


@dataclass(frozen=True)
class SpaceCount:
    """How large a search space is, and what it costs.

    Args:
        size: architectures that the article's table spans.
        paths: architectures in the space, the seed's own blocks that the table has not included.
        added: these blocks, ``STAGE.LAYER LABEL`` each.
        searchable: number of layers with a choice.
        cost: MAdds of these layers.
        other: MAdds of everything else, head included.
        rows: per searchable layer its candidates, the seed's, and their smallest and largest MAdds.
    """

    size: int
    paths: int
    added: tuple[str, ...]
    searchable: int
    cost: SpaceCost
    other: int
    rows: tuple[dict[str, Any], ...]


def make_plan(
    model: str | None = None,
    space: str | None = None,
    *,
    classes: int | None = None,
    size_hw: SizeHW | None = None,
    output_stride: int | None = None,
    rule: str = "paper",
    settings: Sequence[str] = (),
) -> Plan:
    """Complete what the user said by the article's figures.

    Args:
        model: see `Plan`; None: the first one of `space`, without that the first of all.
        space: a name that `column` knows.
        classes: see `Plan`; None: those of the article's tables.
        size_hw: see `Plan`; None: that of the article's tables.
        output_stride: see `Plan`.
        rule: see `Plan`.
        settings: further ``task.*=`` and ``space.*=`` settings.

    Raises:
        FnaError: a name is unknown, or the settings do not fit each other.
    """
    from fna.config import MODELS, make_config, merge

    if model == BARE:
        config = make_config(merge({}, settings), "fna count")
        return Plan(BARE, classes or 0, size_hw or BARE_SIZE, output_stride, rule, config)
    if model is not None and model not in MODELS:
        known = [*MODELS, BARE]
        raise FnaError(f"unknown model '{model}'{nearest(model, known)}; known: {', '.join(known)}")
    task: dict[str, Any] = {"name": SPACES[column(space)]} if space and not model else {"model": model}
    if output_stride is not None:
        task["output_stride"] = output_stride
    config = make_config(merge({"task": task}, settings), "fna count")
    head = config.task
    return Plan(
        head.model, classes or head.article_classes, size_hw or head.article_size_hw, output_stride, rule, config
    )


def column(space: str) -> str:
    """Return Table I's name of a space: ``seg``, ``det`` or ``pose``.

    >>> column("detection")
    'det'

    Raises:
        FnaError: the name is unknown.
    """
    names = {task: name for name, task in SPACES.items()} | {name: name for name in SPACES}
    if space not in names:
        known = [*SPACES, *(task for task in SPACES.values() if task not in SPACES)]
        raise FnaError(f"unknown space '{space}'{nearest(space, known)}; known: {', '.join(known)}")
    return names[space]


def named_space(seed: Arch, space: str, plan: Plan) -> SuperArch:
    """Grow `seed` into the article's search space of a task (see `spaces.task_space`), undilated.

    Args:
        seed: the seed's architecture.
        space: a name that `column` knows.
        plan: its model says what the head taps, its configuration what the candidates are.
    """
    deepest = spaces.SEGMENTATION_LAYERS if column(space) == "seg" else spaces.DETECTION_LAYERS
    chosen = plan.config.space
    return spaces.task_space(
        seed,
        deepest,
        plan.prepare(seed).taps,
        kernels=chosen.kernels,
        expansions=chosen.expansions,
        cells=chosen.cells,
        layers=chosen.layers,
        skip=chosen.skip,
    )


def count_network(arch: Arch, plan: Plan) -> list[CostRow]:
    """Count the backbone layer by layer, and the head, if there is one, as the last row."""
    strided = plan.prepare(arch)
    if plan.model == BARE:
        return backbone_rows(strided, plan.size_hw)
    *rows, last = model_rows(strided, _meta_head(strided, plan), plan.size_hw, plan.rule)
    return [*rows, replace(last, label=plan.model)]


def count_memory(arch: Arch, plan: Plan) -> int:
    """Return the bytes of maps that are alive at once while the network runs one image; see `nets.peaks`."""
    from fna.nets.peaks import network_peak

    strided = plan.prepare(arch)
    return network_peak(strided, None if plan.model == BARE else _meta_head(strided, plan), plan.size_hw)


def _meta_head(strided: Arch, plan: Plan) -> nn.Module:
    import torch

    from fna.tasks import load_task

    with torch.device("meta"):
        head: nn.Module = load_task(plan.config.task.name).head(strided, plan.classes, plan.config.task)
    return head


def count_space(space: SuperArch, plan: Plan) -> SpaceCount:
    """Measure a search space: its size, and the MAdds of its searchable layers (Eq. 9's cost)."""
    strided = plan.prepare(space)
    table = cost_table(strided, plan.size_hw)
    cost = space_cost(strided, table)
    chosen = plan.config.space
    added = spaces.added_blocks(space, chosen.kernels, chosen.expansions, chosen.cells)
    return SpaceCount(
        size=spaces.table_size(space, added),
        paths=space.size,
        added=tuple(f"{s}.{n} {block.label}" for (s, n), block in added.items()),
        searchable=len(space.searchable),
        cost=cost,
        other=total_cost(count_network(space.seed, plan)).madds - cost.seed,
        rows=tuple(_candidate_rows(strided, table)),
    )


def _candidate_rows(space: SuperArch, table: CostTable) -> Iterator[dict[str, Any]]:
    path = space.seed_path()
    for i, ((s, n), candidates) in enumerate(space.layers()):
        if len(candidates) > 1:
            yield {
                "layer": f"{s}.{n}",
                "candidates": [block.label for block in candidates],
                "seed": candidates[path[i]].label,
                "seed_madds": path_cost(table[i : i + 1], path[i : i + 1]),
                "min_madds": min(table[i]),
                "max_madds": max(table[i]),
            }


def layer_rows(rows: Sequence[CostRow]) -> list[dict[str, Any]]:
    """Return counted rows ready for tables and JSON; a head has no one output size."""
    return [
        {
            "layer": row.layer,
            "block": row.label,
            "out_hw": None if row.layer == "head" else list(row.out_hw),
            "params": row.cost.params,
            "madds": row.cost.madds,
        }
        for row in rows
    ]


def stage_rows(rows: Sequence[CostRow]) -> list[dict[str, Any]]:
    """Sum up counted rows by stage: the stem, the stages 0, 1 ..., the head."""
    summed = []
    for stage, group in groupby(rows, key=lambda row: row.layer.partition(".")[0]):
        members = list(group)
        layers = sum(row.label != "skip" for row in members)
        cost = total_cost(members)
        out_hw = None if stage == "head" else list(members[-1].out_hw)
        summed.append({"stage": stage, "layers": layers, "out_hw": out_hw, "params": cost.params, "madds": cost.madds})
    return summed
