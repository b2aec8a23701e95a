"""Network expansion: from a seed to a super network, and from any network to the weights of another architecture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from fna.arch import A, Arch, SuperArch
from fna.arch.spaces import task_space
from fna.arch.target import Target
from fna.cost.madds import Cost
from fna.errors import FnaError
from fna.nets.slim import slices
from fna.nets.weights import Network, State, backbone_only, load_weights, put, take
from fna.progress import say
from fna.remapping import Row, Strategy, remap, summarise
from fna.seeds import Seed, backbone_weights
from fna.tasks.problem import Problem


@dataclass(frozen=True, eq=False)
class Expanded(Network[SuperArch]):
    """A super network (its space undilated) as the seed leaves it.

    Args:
        report: where its weights came from.
        warnings: what looks wrong with it.
    """

    report: Sequence[Row] = ()
    warnings: tuple[str, ...] = ()


def expand(seed: Seed, problem: Problem) -> Expanded:
    """Grow the seed into a super network and remap its weights (FNA++ section 3.2.1), or take ``seed.super_weights``.

    Raises:
        FnaError: the seed, or a file of weights, does not fit the space.
    """
    config = problem.config
    taps = problem.prepared(seed.arch).taps
    arch = task_space(seed.arch, problem.task.layers, taps, **config.space.blocks())
    if config.seed.super_weights is not None:
        state = backbone_weights(config.seed.super_weights, arch)
        rows = [Row(name, name, "pretrained", tensor.numel(), 0, 0) for name, tensor in state.items()]
        return Expanded(arch, with_head(state, seed, problem), report=rows)
    remapped = remap(seed.arch, seed_state(seed, problem), arch, strategy(problem), config.engine.rng_seed)
    warnings = dead_channels(remapped.report, config.engine.strict)
    for warning in warnings:
        say(f"expand: {warning}")
    return Expanded(arch, with_head(remapped.state, seed, problem), report=remapped.report, warnings=warnings)


def dead_channels(report: Sequence[Row], strict: bool) -> tuple[str, ...]:
    """Warn of new channels that never get a gradient because both sides of them are 0 (growth as the article has it).

    Raises:
        FnaError: there are some, and `strict` is on.
    """
    grown = summarise(report)["rules"].get("growth zero")
    if not grown:
        return ()
    warning = (
        f"remap.growth 'zero' leaves the new channels of {grown['layers']} layers ({grown['where']}) without gradient: "
        "they never learn; use --remap.growth preserve"
    )
    if strict:
        raise FnaError(warning)
    return (warning,)


def seed_state(seed: Seed, problem: Problem) -> dict[str, Tensor]:
    """Return the seed's weights, or fresh ones for a seed without any."""
    return seed.state if seed.state is not None else take(problem.build(seed.arch).state_dict(), "backbone")


def seed_network(seed: Seed, problem: Problem) -> Network[Arch]:
    """Return the seed's backbone, with fresh weights if it has none, and what it knows of the task's head."""
    return Network(seed.arch, with_head(seed_state(seed, problem), seed, problem))


def with_head(backbone: State, seed: Seed, problem: Problem) -> dict[str, Tensor]:
    """Return backbone weights below ``backbone.``, and what the seed knows of the task's head."""
    return {**put(backbone_only(backbone), "backbone"), **problem.head_start(seed.state)}


def strategy(problem: Problem) -> Strategy:
    """Return the remapping strategy of the settings."""
    return Strategy(**problem.config.remap.model_dump())


def remap_network(network: Network[A], target: Target | Arch, problem: Problem) -> Network[Arch]:
    """Give a target the weights of a network: the backbone's by the rules, the head's as they are.

    Args:
        network: where the weights come from. A super network gives each layer's operation (FNA++), the seed what the
            rules find (FNA).
        target: what to fill. A narrower head than the network's gets its first channels, a shallower one its first
            convolutions; a wider or deeper one starts fresh.
        problem: the rules of ``config.remap``, and the seed of new weights.

    Raises:
        FnaError: the architecture cannot be reached from the network's.
    """
    target = target if isinstance(target, Target) else Target(target)
    rng_seed = problem.config.engine.rng_seed
    backbone = remap(network.arch, take(network.state, "backbone"), target.arch, strategy(problem), rng_seed).state
    head = _head(network, target, problem)
    state = {**put(backbone_only(backbone), "backbone"), **put(head, "head")}
    return Network(target.arch, state, *target.form)


def _head(network: Network[A], target: Target, problem: Problem) -> dict[str, Tensor]:
    """Return a target's head as a slice of a network's; nothing where the network's is smaller."""
    head, own, wanted = take(network.state, "head"), problem.at(network), problem.at(target)
    depths = [other.config.task.depth or 0 for other in (own, wanted)]
    if not head or (target.head_width == network.head_width and depths[0] == depths[1]):
        return head
    if target.head_width > network.head_width or depths[1] > depths[0]:
        say("the head is wider or deeper than the trained one: it starts fresh")
        return {}
    large, small = (other.meta_head(target.arch) for other in (own, wanted))
    return {name: tensor.clone() for name, tensor in slices(head, large, small).items()}


def build(network: Network[Arch], problem: Problem) -> nn.Module:
    """Return a network as a module in evaluation mode on the CPU: normalised images to the task's output.

    Raises:
        FnaError: the weights are not all there, such as those of a head that has not learned the task.
    """
    model = problem.at(network).build(network.arch)
    load_weights(model, network.state, "the network's state")
    return model.eval()


def count(network: Network[Arch], problem: Problem) -> Cost:
    """Count a network with its head: parameters, and MAdds of what runs when an image is scored (paper rule)."""
    return problem.at(network).cost(network.arch)
