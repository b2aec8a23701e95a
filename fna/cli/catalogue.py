"""What there is to choose from, for `fna list` and `fna count`. Each table is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_args

Row = dict[str, Any]


def seeds() -> list[Row]:
    """Pretrained networks at 224x224; also timm/NAME, and a file of your own."""
    from fna.cost.madds import backbone_rows, classifier_rows, total_cost
    from fna.seeds import collect
    from fna.seeds.finding import is_here

    rows = []
    for name, variant in collect().items():
        cost = total_cost([*backbone_rows(variant.arch, (224, 224)), *classifier_rows(variant.arch, (224, 224))])
        # What `weights: pretrained` would take: the first that is here; if none is, the first.
        published = sorted(variant.weights, key=lambda weights: not is_here(weights))[:1]
        row: Row = {"name": name, "params": cost.params, "madds_224": cost.madds}
        row |= {"top1": None, "source": None, "licence": None, "weights": None, "here": False}
        for w in published:
            row |= {"top1": w.top1, "source": w.source, "licence": w.licence, "weights": w.file, "here": is_here(w)}
        rows.append(row)
    return rows


def narrow(row: Row) -> Row:
    """Return what a terminal of 80 columns has room for of a seed; --json has all."""
    costs = {"Mparams": f"{row['params'] / 1e6:.2f}", "GMAdds": f"{row['madds_224'] / 1e9:.3f}"}
    return {"name": row["name"], **costs, **{key: row[key] for key in ("top1", "licence", "here")}}


def formats() -> list[Row]:
    """What data sets look like on disk."""
    from fna.config import TASKS
    from fna.data.recognising import find_package

    return [
        {"task": task, "name": name, "layout": reader.layout.rstrip()}
        for task in TASKS
        for name, reader in find_package(task).FORMATS.items()
    ]


def strategies() -> list[Row]:
    """How parameters move between networks."""
    from fna.remapping.rules import DEPTH, GROWTH, KERNEL, WIDTH, map_groups

    tables: dict[str, Mapping[str, Any]] = {"depth": DEPTH, "width": WIDTH, "kernel": KERNEL, "growth": GROWTH}
    rows = [{"setting": f"remap.{level}", **row} for level, rules in tables.items() for row in _documented(rules)]
    return [*rows, *({"setting": "(always)", **row} for row in _documented({"groups": map_groups}))]


def spaces() -> list[Row]:
    """What the search may choose from: layers per searchable stage, candidates of a layer. See fna count --space."""
    from fna.arch.spaces import CELLS, DETECTION_LAYERS, EXPANSIONS, KERNELS, SEGMENTATION_LAYERS

    mbconv = " ".join([*(f"k{k}e{e:g}" for k in KERNELS for e in EXPANSIONS), "skip"])
    return [
        {
            "name": "seg",
            "blocks": "mbconv",
            "layers": list(SEGMENTATION_LAYERS),
            "candidates": mbconv,
            "source": "Table I",
        },
        {
            "name": "det",
            "blocks": "mbconv",
            "layers": list(DETECTION_LAYERS),
            "candidates": mbconv,
            "source": "Tables I, IX",
        },
        {
            "name": "pose",
            "blocks": "mbconv",
            "layers": list(DETECTION_LAYERS),
            "candidates": mbconv,
            "source": "Table I",
        },
        {
            **{"name": "seg, det, pose", "blocks": "basic, bottleneck", "layers": "the seed's"},
            **{"candidates": " ".join(CELLS), "source": "Table VII"},
        },
    ]


def optimizers() -> list[Row]:
    """What trains the weights."""
    from fna.config import OptimizerConfig

    return _options(OptimizerConfig.model_fields["name"].annotation)


def models() -> list[Row]:
    """What a task puts on the backbone."""
    from fna.config import MODELS, TASKS

    return [{"task": task, **row} for task, own in TASKS.items() for row in _documented({m: MODELS[m] for m in own})]


def samplers() -> list[Row]:
    """How paths are drawn while the super network's weights learn."""
    from fna.searching.sampling import SAMPLERS

    return _documented(SAMPLERS)


def estimators() -> list[Row]:
    """How the alphas get their gradient."""
    from fna.searching.estimators import ESTIMATORS

    return _documented(ESTIMATORS)


def choosers() -> list[Row]:
    """How a target is chosen from what a search found."""
    from fna.searching.choosing import CHOOSERS

    return _documented(CHOOSERS)


def studies() -> list[Row]:
    """What `fna study NAME RECIPE` does: tables of the article, on data of your own."""
    from fna.runs.study import known_studies, read_study

    return [
        {"name": name, "rows": len(read_study(name).rows), "title": read_study(name).title} for name in known_studies()
    ]


def costs() -> list[Row]:
    """What a budget can limit, and the unit it is written in."""
    from fna.cost.costs import COSTS

    return [{"name": name, "unit": measure.unit} for name, measure in COSTS.items()]


def settings(model: str | None = None) -> list[Row]:
    """What a recipe can hold, each also an option: --search.epochs 20. See fna list settings MODEL."""
    from fna import config

    if model is not None:
        return [{"name": key, "default": default, "meaning": text} for key, default, text in config.settings(model)]
    return [
        {"name": key, "of": config.owner(models), "default": default, "meaning": text}
        for (key, default, text), models in config.owned_settings()
    ]


def _documented(table: Mapping[str, Any]) -> list[Row]:
    return [{"name": name, "meaning": (entry.__doc__ or "").partition("\n")[0]} for name, entry in table.items()]


def _options(literal: Any) -> list[Row]:
    return [{"name": name} for name in get_args(literal)]


CATALOGUE: dict[str, Callable[[], list[Row]]] = {
    "seeds": seeds,
    "formats": formats,
    "strategies": strategies,
    "spaces": spaces,
    "optimizers": optimizers,
    "models": models,
    "samplers": samplers,
    "estimators": estimators,
    "choosers": choosers,
    "costs": costs,
    "studies": studies,
    "settings": settings,
}
