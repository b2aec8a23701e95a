"""What there is to choose from, for `fna list` and `fna count`. Each table is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from fna.errors import FnaError, nearest

if TYPE_CHECKING:
    from fna.arch import Arch

Row = dict[str, Any]


def seeds() -> list[Row]:
    """Pretrained networks: cost of the classifier at 224x224, ImageNet accuracy, published weights."""
    from fna.cost import backbone_rows, classifier_rows, total_cost
    from fna.seeds import collect

    rows = []
    for name, variant in collect().items():
        cost = total_cost([*backbone_rows(variant.arch, (224, 224)), *classifier_rows(variant.arch, (224, 224))])
        row: Row = {"name": name, "params": cost.params, "madds_224": cost.madds, "top1": None, "weights": None}
        for best in variant.weights[:1]:
            row |= {"top1": best.top1, "weights": best.file}
        rows.append(row)
    return rows


def formats() -> list[Row]:
    """What data sets look like on disk."""
    from fna.data import FORMATS

    return [{"name": name, "layout": reader.layout.rstrip()} for name, reader in FORMATS.items()]


def strategies() -> list[Row]:
    """How parameters move between networks."""
    from fna.remap import DEPTH, GROWTH, KERNEL, WIDTH

    tables: dict[str, Mapping[str, Any]] = {"depth": DEPTH, "width": WIDTH, "kernel": KERNEL, "growth": GROWTH}
    return [{"setting": f"remap.{level}", **row} for level, rules in tables.items() for row in _documented(rules)]


def spaces() -> list[Row]:
    """Layers per searchable stage."""
    from fna.spaces import DETECTION_LAYERS, SEGMENTATION_LAYERS

    named = {"segmentation": SEGMENTATION_LAYERS, "detection": DETECTION_LAYERS}
    return [{"name": name, "layers": list(layers), "source": "article, Table I"} for name, layers in named.items()]


def optimizers() -> list[Row]:
    """What trains the weights."""
    from fna.config import OptimizerConfig

    return _options(OptimizerConfig.model_fields["name"].annotation)


def models() -> list[Row]:
    """What a task puts on the backbone."""
    from fna.config import TaskConfig

    return _options(TaskConfig.model_fields["model"].annotation)


def estimators() -> list[Row]:
    """How the alphas get their gradient."""
    from fna.search import ESTIMATORS

    return _documented(ESTIMATORS)


def settings() -> list[Row]:
    """What a recipe can hold, each also an option: --search.epochs 20."""
    from fna import config

    return [{"name": key, "default": default, "meaning": text} for key, default, text in config.settings()]


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
    "estimators": estimators,
    "settings": settings,
}


def find_arch(network: str) -> Arch:
    """Return the architecture of a seed, or the one a file holds (Arch JSON or net_config text).

    Raises:
        FnaError: `network` is neither.
    """
    from fna.arch import load_arch
    from fna.seeds import collect

    variants = collect()
    if network in variants:
        return variants[network].arch
    if not Path(network).is_file():
        raise FnaError(f"'{network}' is no file and no seed{nearest(network, variants)}; type: fna list seeds")
    return load_arch(network)
