"""Fine-tune the architecture of a pretrained backbone for your task, not only its weights (FNA++).

`run` does the whole job in a folder, as the command ``fna run`` does. From Python each stage is a function:

    with fna.open_setting(fna.load_config("recipe.yaml")) as setting:
        found = fna.search(fna.expand(setting), setting)
        tuned = fna.adapt(fna.derive(found, setting), setting)

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
    from fna.config import Config as Config
    from fna.config import load_config as load_config
    from fna.errors import FnaError as FnaError
    from fna.nets.network import Backbone as Backbone
    from fna.remapping import Strategy as Strategy
    from fna.remapping import remap as remap
    from fna.runs.api import Network as Network
    from fna.runs.api import adapt as adapt
    from fna.runs.api import build as build
    from fna.runs.api import count as count
    from fna.runs.api import derive as derive
    from fna.runs.api import evaluate as evaluate
    from fna.runs.api import expand as expand
    from fna.runs.api import open_setting as open_setting
    from fna.runs.api import remap_network as remap_network
    from fna.runs.api import search as search
    from fna.runs.api import seed_network as seed_network
    from fna.runs.pipeline import predict as predict
    from fna.runs.pipeline import run as run
    from fna.seeds import Seed as Seed
    from fna.seeds import load_seed as load_seed
    from fna.training.setting import Setting as Setting

    __version__: str

NAMES = {  # module: its public names
    "runs.api": "Network adapt build count derive evaluate expand open_setting remap_network search seed_network",
    "arch": "Arch Block Stem SuperArch",
    "config": "Config load_config",
    "errors": "FnaError",
    "nets.network": "Backbone",
    "runs.pipeline": "predict run",
    "remapping": "Strategy remap",
    "seeds": "Seed load_seed",
    "training.setting": "Setting",
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
