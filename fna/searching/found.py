"""What a search ends with: the trained super network, and the evidence by which a target is chosen from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fna.arch import LayerPath, SuperArch
from fna.arch.target import Form
from fna.errors import FnaError
from fna.nets.weights import Network
from fna.training.clock import NOTHING, Spent


@dataclass(frozen=True)
class Alphas:
    """A number per candidate of every layer, fixed layers included; more is better."""

    values: list[list[float]]

    def to_json(self, arch: SuperArch) -> dict[str, Any]:
        """Return the searchable layers by name, their candidates by label."""
        layers = {
            f"{s}.{n}": dict(zip((block.label for block in candidates), values, strict=True))
            for ((s, n), candidates), values in zip(arch.layers(), self.values, strict=True)
            if len(candidates) > 1
        }
        return {"evidence": "alphas", "layers": layers}


@dataclass(frozen=True)
class Candidate:
    """A network that was scored on held-out training images.

    Args:
        path: the candidate of every layer.
        cost: of the whole network.
        loss: there, with shared weights; less is better.
        score: the task's metric there, of those that had a trial, after it; more is better.
        head_width: channels of its head, x those of the settings.
        scale: side of its input, x that of the settings.
        output_stride: of its last feature map; None: that of the settings.
        tower_depth: of its head; None: that of the settings.
    """

    path: LayerPath
    cost: int
    loss: float
    score: float | None = None
    head_width: float = 1.0
    scale: float = 1.0
    output_stride: int | None = None
    tower_depth: int | None = None

    @property
    def form(self) -> Form:
        """All but its path."""
        return Form(self.head_width, self.scale, self.output_stride, self.tower_depth)


@dataclass(frozen=True)
class Pool:
    """Scored candidates; see `choose`."""

    candidates: tuple[Candidate, ...]

    def to_json(self, arch: SuperArch) -> dict[str, Any]:
        """Return the candidates, the best first."""
        rows = [{**vars(c), "path": list(c.path)} for c in sorted(self.candidates, key=lambda c: (c.loss, c.cost))]
        return {"evidence": "candidates", "candidates": rows}


def choose(candidates: Sequence[Candidate], limit: int | None) -> Candidate | None:
    """Return the best candidate within a limit, None if there is none.

    The metric decides among those that have one, if the least loss is among them; else there were no finals at this
    limit, and the loss decides. Ties go to the cheaper.
    """
    least = min((c for c in candidates if limit is None or c.cost <= limit), key=by_loss, default=None)
    return least if least is None or least.score is None else choose_finalist(candidates, limit)


def choose_finalist(candidates: Sequence[Candidate], limit: int | None) -> Candidate | None:
    """Return the best by the metric of the candidates within a limit that have one, the best by loss where none has."""
    within = [c for c in candidates if limit is None or c.cost <= limit]
    finals = [c for c in within if c.score is not None] or within
    return min(finals, key=lambda c: (-(c.score or 0.0), *by_loss(c)), default=None)


def by_loss(candidate: Candidate) -> tuple[Any, ...]:
    """Return what candidates are ordered by, the best first: the loss, then the cost."""
    width, scale, *rest = candidate.form.order
    return candidate.loss, candidate.cost, candidate.path, scale, width, *rest


Evidence = Alphas | Pool
ABOUT = ("unit", "budget", "sampler", "chooser")  # what found.json says besides


@dataclass(frozen=True, eq=False)
class Found:
    """What a search ends with.

    Args:
        network: the super network with its trained weights.
        evidence: what tells its architectures apart.
        unit: of the cost the search held.
        budget: what it held it at: ``text`` as it was given and ``cost`` of the whole network; None: a fixed lambda.
        spent: the time it took.
        sampler: how paths were drawn, a name of `sampling.SAMPLERS`.
        chooser: how a target is chosen, a name of `choosing.CHOOSERS`.
        warnings: what looks wrong with it, such as a collapse to skips.
    """

    network: Network[SuperArch]
    evidence: Evidence
    unit: str = "MAdds"
    budget: Mapping[str, Any] | None = None
    spent: Spent = NOTHING
    sampler: str = "uniform"
    chooser: str = "alphas"
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return all but the weights; `from_json` is its inverse."""
        about = {key: getattr(self, key) for key in ABOUT}
        more = {**about, **self.spent.to_json(), "warnings": list(self.warnings)}
        return {**self.evidence.to_json(self.network.arch), **more}

    @classmethod
    def from_json(cls, data: Any, network: Network[SuperArch]) -> Found:
        """Build what `to_json` described around its super network.

        Raises:
            FnaError: it is no such record, or of another search space.
        """
        try:
            evidence = _evidence(data, network.arch)
            about = {key: data[key] for key in ABOUT}
            return cls(network, evidence, **about, spent=Spent.from_json(data), warnings=tuple(data["warnings"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise FnaError(f"not what a search found in this space: {type(error).__name__} {error}") from error


def _evidence(data: Mapping[str, Any], arch: SuperArch) -> Evidence:
    if data["evidence"] == "candidates":
        rows: Sequence[Any] = data["candidates"]
        return Pool(tuple(Candidate(**{**row, "path": tuple(row["path"])}) for row in rows))
    values = [
        [float(data["layers"][f"{s}.{n}"][block.label]) for block in candidates] if len(candidates) > 1 else [0.0]
        for (s, n), candidates in arch.layers()
    ]
    if not all(math.isfinite(value) for row in values for value in row):
        raise ValueError("alphas are finite numbers")
    return Alphas(values)
