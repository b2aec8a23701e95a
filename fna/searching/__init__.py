"""Search algorithms, one file each."""

from fna.searching.alphas import ESTIMATORS, Searched, search

__all__ = ["ESTIMATORS", "Searched", "search"]
