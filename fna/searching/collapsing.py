"""What is wrong with alphas that a search has ended with."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fna.arch import SuperArch
from fna.nets.supernet import entropy, expected_cost
from fna.searching.estimators import Vectors

UNDECIDED = 0.98  # relative entropy of a layer whose alphas are as good as equal


def collapse(arch: SuperArch, alphas: Vectors, costs: Sequence[Tensor], budget: float | None) -> list[str]:
    """Return warnings about alphas that ran away to skips or from the budget, or never left where they were born."""
    warnings = []
    winners = [candidates[int(a.argmax())] for a, (_, candidates) in zip(alphas, arch.layers(), strict=True)]
    skippable = [
        i for i, (_, candidates) in enumerate(arch.layers()) if len(candidates) > 1 and candidates[-1].kind == "skip"
    ]
    skipped = sum(winners[i].kind == "skip" for i in skippable)
    if skippable and skipped > 0.9 * len(skippable):
        remedy = "a larger search.budget" if budget else "a budget in place of a lambda"
        warnings.append(
            f"the search collapsed: {skipped} of {len(skippable)} layers prefer to be skipped. "
            f"Train weights longer first (search.alpha_start), lower search.alpha.lr, or use {remedy}."
        )
    undecided = sum(entropy(alphas)[i] > UNDECIDED for i in arch.searchable)
    if undecided > 0.5 * len(arch.searchable):
        warnings.append(
            f"undecided: in {undecided} of {len(arch.searchable)} layers the alphas are as good as equal (entropy over "
            f"{UNDECIDED:g} of its maximum): what is chosen there is chance. Train longer, raise search.alpha.lr, or "
            "score candidates: search.chooser measured, search.sampler anchored."
        )
    if budget:
        ratio = float(expected_cost(alphas, costs).detach()) / budget
        if not 0.8 <= ratio <= 1.25:
            warnings.append(
                f"the expected cost ended at {ratio:.2f} x the budget: raise search.budget_weight or search.budget_rate"
            )
    return warnings
