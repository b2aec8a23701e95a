"""Searching an architecture: how paths are drawn, what alphas learn, how a target is chosen."""
