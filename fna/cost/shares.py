"""Where in a network the multiply-adds are: in its stem, each of its stages, its head. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fna.cost.madds import CostRow
from fna.cost.units import shown_in

Parts = Mapping[str, int]  # MAdds by part, in forward order
NAMED = 4  # parts in a line of text


def part_madds(rows: Iterable[CostRow]) -> dict[str, int]:
    """Sum up the MAdds of counted layers by part: ``stem``, ``stage 0``, ``stage 1`` ..., ``head``."""
    parts: dict[str, int] = {}
    for row in rows:
        stage, dot, _ = row.layer.partition(".")
        part = f"stage {stage}" if dot else stage
        parts[part] = parts.get(part, 0) + row.cost.madds
    return parts


def percent(parts: Parts, part: str) -> int:
    """Return a part's share of the whole in %, rounded; 0 where the network does not have it."""
    return round(100 * parts.get(part, 0) / max(sum(parts.values()), 1))


def moved(before: Parts, after: Parts) -> str:
    """Say in one line where the compute went: the shares that changed most, in forward order, and the whole.

    Args:
        before: MAdds by part of the seed's network.
        after: of the target's, at its own head width and input scale.

    >>> moved({"stem": 10, "stage 0": 40, "head": 50}, {"stem": 10, "stage 0": 10, "head": 60})
    'stem 10 % -> 12 %, stage 0 40 % -> 12 %, head 50 % -> 75 %; 1e-07 -> 8e-08 GMAdds in all'
    >>> moved({"stem": 10}, {"stem": 10})
    'spread as in the seed; 1e-08 -> 1e-08 GMAdds in all'
    """
    parts = list(dict.fromkeys([*before, *after]))
    change = {part: abs(percent(after, part) - percent(before, part)) for part in parts}
    most = sorted((part for part in parts if change[part]), key=lambda part: -change[part])[:NAMED]
    said = ", ".join(f"{p} {percent(before, p)} % -> {percent(after, p)} %" for p in parts if p in most)
    unit = shown_in("MAdds")
    first, last = (f"{sum(parts.values()) / unit.per:.3g}" for parts in (before, after))
    return f"{said or 'spread as in the seed'}; {first} -> {last} {unit.word} in all"
