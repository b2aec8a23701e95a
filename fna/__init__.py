"""Fine-tune the architecture of a pretrained backbone for your task, not only its weights (FNA++).

`run` does the whole job in a folder, as the command ``fna run`` does, and `load` takes the network out of it. Each
stage is a function, too:

    config = fna.load_config("recipe.yaml")
    seed, data = fna.load_seed(config.seed.name), fna.open_data(config)
    problem = fna.Problem.of(config, data.val, seed)
    with fna.computing(config.engine) as compute:
        found = fna.search(fna.expand(seed, problem), problem, data.train, compute)
        tuned = fna.adapt(fna.derive(found, problem, "0.9x"), problem, data, compute)

A name is imported when it is first asked for: ``import fna`` does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fna.arch import Arch as Arch
    from fna.arch import Block as Block
    from fna.arch import Stem as Stem
    from fna.arch import SuperArch as SuperArch
    from fna.arch.target import Target as Target
    from fna.config import Config as Config
    from fna.config import load_config as load_config
    from fna.data.splits import Splits as Splits
    from fna.data.splits import open_data as open_data
    from fna.errors import FnaError as FnaError
    from fna.exporting.export import export as export
    from fna.exporting.standalone import Exported as Exported
    from fna.integrations.pushing import push as push
    from fna.nets.network import Backbone as Backbone
    from fna.nets.weights import Network as Network
    from fna.remapping import Strategy as Strategy
    from fna.remapping import remap as remap
    from fna.runs.pipeline import run as run
    from fna.runs.saved import load as load
    from fna.runs.saved import predict_images as predict_images
    from fna.searching.alphas import search as search
    from fna.searching.found import Found as Found
    from fna.seeds import Seed as Seed
    from fna.seeds import load_seed as load_seed
    from fna.stages.adapt import adapt as adapt
    from fna.stages.derive import derive as derive
    from fna.stages.evaluate import evaluate as evaluate
    from fna.stages.expand import build as build
    from fna.stages.expand import count as count
    from fna.stages.expand import expand as expand
    from fna.stages.expand import remap_network as remap_network
    from fna.stages.expand import seed_network as seed_network
    from fna.stages.predict import predict as predict
    from fna.tasks.problem import Problem as Problem
    from fna.training.compute import Compute as Compute
    from fna.training.compute import computing as computing

    __version__: str

NAMES = {  # module: its public names
    "arch": "Arch Block Stem SuperArch",
    "arch.target": "Target",
    "config": "Config load_config",
    "data.splits": "Splits open_data",
    "errors": "FnaError",
    "exporting.export": "export",
    "exporting.standalone": "Exported",
    "integrations.pushing": "push",
    "nets.network": "Backbone",
    "nets.weights": "Network",
    "remapping": "Strategy remap",
    "runs.pipeline": "run",
    "runs.saved": "load predict_images",
    "searching.alphas": "search",
    "searching.found": "Found",
    "seeds": "Seed load_seed",
    "stages.adapt": "adapt",
    "stages.derive": "derive",
    "stages.evaluate": "evaluate",
    "stages.expand": "build count expand remap_network seed_network",
    "stages.predict": "predict",
    "tasks.problem": "Problem",
    "training.compute": "Compute computing",
}
HOMES = {name: module for module, names in NAMES.items() for name in names.split()}
__all__ = sorted(HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name == "__version__":
        from importlib.metadata import version

        return version(__name__)
    if name not in HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    value = getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
