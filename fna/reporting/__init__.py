"""The report of a run, and the rows of its table of scores."""
