"""Runs: the same stages over a folder of plain files."""
