"""The job from Python: each stage as a function of what the stage before returned, in memory, without a run folder.

A `Network` is an architecture with its weights. Seed, super network and target are all of that type, so that any of
them can be scored, adapted or remapped to another architecture.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic

from torch import nn

from fna.arch import A, Arch, SuperArch
from fna.config import AdaptConfig, Config
from fna.cost.madds import Cost
from fna.progress import say
from fna.searching import search as search_arch
from fna.seeds import Seed, load_seed
from fna.stages.adapt import adapt as adapt_weights
from fna.stages.derive import derive as derive_arch
from fna.stages.evaluate import evaluate as score
from fna.stages.expand import count_costs, image_size, network_cost, remap_model, seed_state
from fna.stages.expand import expand as expand_seed
from fna.tasks import Data, load_task
from fna.training.engine import computing
from fna.training.setting import Setting, State, backbone_only, load_weights, open_data, put


@dataclass(frozen=True, eq=False)
class Network(Generic[A]):
    """An architecture and its weights.

    Args:
        arch: an `Arch`, or of a super network its `SuperArch`; undilated.
        state: weights by name: ``backbone.*`` and, once the network has learned the task, ``head.*``.
    """

    arch: A
    state: State


@dataclass(frozen=True, eq=False)
class Found:
    """What a search ends with.

    Args:
        network: the super network with its trained weights.
        alphas: a number per candidate of every layer, fixed layers included; more is better.
        minutes: how long it took.
        warnings: what looks wrong with it, such as a collapse to skips.
    """

    network: Network[SuperArch]
    alphas: list[list[float]]
    minutes: float
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Tuned:
    """A fine-tuned network, its scores on the validation split, and the minutes it took."""

    network: Network[Arch]
    scores: dict[str, Any]
    minutes: float


@contextmanager
def open_setting(
    config: Config, *, seed: Seed | None = None, data: tuple[Data, Data] | None = None
) -> Iterator[Setting]:
    """Open what all stages share: hardware, task, seed and data.

    Args:
        config: settings, as `load_config` reads them.
        seed: a pretrained network of your own, in place of the one that ``config.seed`` names.
        data: training and validation data of your own, in place of what ``config.data`` names.

    Raises:
        FnaError: the seed, the data or the device is not there or not in order.
    """
    with computing(config.engine) as compute:
        start = seed or load_seed(config.seed.name, config.seed.weights)
        if data is None:
            yield open_data(config, compute, start)
        else:
            yield Setting(config, compute, load_task(config.task.name), start, *data)


def seed_network(setting: Setting) -> Network[Arch]:
    """Return the seed's backbone, with fresh weights if it has none, and what it knows of the task's head."""
    return Network(setting.seed.arch, {**put(backbone_only(seed_state(setting)), "backbone"), **setting.head_start()})


def expand(setting: Setting) -> Network[SuperArch]:
    """Grow the seed into a super network and remap its weights (FNA++ section 3.2.1).

    Raises:
        FnaError: the seed does not fit the space, or no architecture meets the budget.
    """
    expanded = expand_seed(setting)
    for warning in expanded.warnings:
        say(warning)
    return Network(expanded.arch, {**put(backbone_only(expanded.state), "backbone"), **setting.head_start()})


def search(network: Network[SuperArch], setting: Setting) -> Found:
    """Adapt the architecture to the data: train a super network and its alphas (FNA++ section 3.2.2).

    Raises:
        FnaError: bad numbers, too few images, or a collapse with ``engine.strict``.
    """
    arch = network.arch
    costs = count_costs(arch, setting)
    searched = search_arch(arch, network.state, costs.table, costs.other, costs.budget, setting)
    return Found(Network(arch, searched.state), searched.alphas, searched.minutes, tuple(searched.warnings))


def derive(found: Found, setting: Setting) -> Network[Arch]:
    """Choose the likeliest architecture within the budget, with the super network's weights (FNA++ section 3.2.3)."""
    costs = count_costs(found.network.arch, setting)
    derived = derive_arch(found.network.arch, found.alphas, costs.table, costs.budget)
    return remap_network(found.network, derived.arch, setting)


def remap_network(network: Network[Any], arch: Arch, setting: Setting) -> Network[Arch]:
    """Give `arch` the weights of `network`, by the rules of ``config.remap``; a head's are taken as they are.

    Args:
        network: where the weights come from. A super network gives each layer's operation (FNA++), the seed what the
            rules find (FNA).
        arch: the architecture to fill.
        setting: the rules, and the seed of new weights.

    Raises:
        FnaError: `arch` cannot be reached from `network`.
    """
    return Network(arch, remap_model(network.arch, network.state, arch, setting))


def adapt(network: Network[Arch], setting: Setting, config: AdaptConfig | None = None) -> Tuned:
    """Fine-tune a network on the training split; what has no weights starts fresh.

    Args:
        network: any architecture with any weights.
        setting: task, data and hardware.
        config: another schedule than the setting's.

    Raises:
        FnaError: bad numbers or too few images.
    """
    adapted = adapt_weights(network.arch, network.state, config or setting.config.adapt, setting)
    return Tuned(Network(network.arch, adapted.state), adapted.scores, adapted.minutes)


def evaluate(network: Network[Arch], setting: Setting) -> dict[str, Any]:
    """Score a network on the validation split; scores are shares of 1."""
    return score(build(network, setting), setting)


def count(network: Network[Arch], setting: Setting) -> Cost:
    """Count a network with its head: parameters, and MAdds at the size images are scored at (paper rule)."""
    return network_cost(network.arch, setting, image_size(setting))


def build(network: Network[Arch], setting: Setting) -> nn.Module:
    """Return a network as a module on the setting's device, in evaluation mode: normalised images to the task's output.

    Raises:
        FnaError: the weights are not all there, such as those of a head that has not learned the task.
    """
    model = setting.build(network.arch)
    load_weights(model, network.state, "the network's state")
    return setting.compute.place(model).eval()
