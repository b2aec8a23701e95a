"""Search algorithms, one file each."""

from fna.search.differentiable import ESTIMATORS, Searched, search

__all__ = ["ESTIMATORS", "Searched", "search"]
