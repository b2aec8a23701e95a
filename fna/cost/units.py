"""How a cost is written: every unit in the multiple that reads best. No torch at import."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    """How costs of a unit are shown.

    Args:
        word: what stands behind the number.
        per: what the number is divided by.
        digits: decimals.
    """

    word: str
    per: float
    digits: int


UNITS = {
    "MAdds": Unit("GMAdds", 1e9, 3),
    "params": Unit("Mparams", 1e6, 2),
    "ns": Unit("ms", 1e6, 2),
    "B": Unit("MB", 1e6, 2),
}


def shown_in(unit: str) -> Unit:
    """Return how costs in `unit` are shown; those of a unit that `UNITS` has not, as they are."""
    return UNITS.get(unit, Unit(unit, 1, 3))


def with_unit(cost: float, unit: str) -> str:
    """Write a cost with its unit.

    >>> with_unit(2_400_000_000, "MAdds"), with_unit(2_567_507, "params"), with_unit(12_340_000, "ns")
    ('2.400 GMAdds', '2.57 Mparams', '12.34 ms')
    """
    shown = shown_in(unit)
    value = cost / shown.per
    return f"{value:.{shown.digits}f} {shown.word}" if value >= 0.1 or not value else f"{value:.3g} {shown.word}"
