"""Budgets: how much a network may cost, as people write it: ``0.9x``, ``2.4 GMAdds``, ``30 ms``, ``40 MB``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from fna.errors import FnaError

UNITS = {  # unit -> what is counted, as `cost.costs.COSTS` has it
    "MAdds": "madds",
    "params": "params",
    "ns": "latency",
    "B": "memory",
}
NS_PER_MS = 1e6  # people write ms; costs are whole numbers
PREFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
BINARY = {"ki": 2.0**10, "mi": 2.0**20, "gi": 2.0**30, "ti": 2.0**40}  # of bytes
EXAMPLES = "0.9x (times the seed's MAdds), 0.8x params, 0.6x memory, 2.4 GMAdds, 3 Mparams, 30 ms or 40 MB"
FACTORS_BELOW = 10.0  # a bare number below it is a multiple of the seed's MAdds
MADDS_FROM = 1e4  # from here on it is a number of MAdds; in between it may be either
_WRITTEN = {unit.lower(): unit for unit in UNITS} | {"ms": "ns"}  # upper and lower case are one
_OF = {written: UNITS[unit] for written, unit in _WRITTEN.items()} | {cost: cost for cost in UNITS.values()}
_PATTERN = re.compile(
    r"(?P<number>[-+.\w]*?[\d.])\s*"
    rf"(?:(?P<times>x)\s*(?P<of>{'|'.join(_OF)})?|(?P<prefix>(?:[kmgt]i?)?)(?P<unit>{'|'.join(_WRITTEN)}))?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Budget:
    """The most that a network may cost.

    Args:
        amount: above 0, in `unit`.
        unit: ``MAdds``, ``params``, ``ns`` or ``B``; or ``x``, a multiple of what the seed's network costs.
        cost: what is counted: ``madds``, ``params``, ``latency`` or ``memory``.
    """

    amount: float
    unit: str
    cost: str

    @property
    def relative(self) -> bool:
        """Whether the amount is a multiple of the seed's cost."""
        return self.unit == "x"

    def __str__(self) -> str:
        """Return it as people write it.

        >>> [str(parse_budget(written)) for written in (0.9, "0.8x params", 2.4e9, "30ms", "40MB")]
        ['0.9x', '0.8x params', '2.4 GMAdds', '30 ms', '40 MB']
        """
        if self.relative:
            return f"{self.amount:g}x{'' if self.cost == 'madds' else f' {self.cost}'}"
        if self.unit == "ns":
            return f"{self.amount / NS_PER_MS:g} ms"
        prefix, size = next((p, s) for p, s in reversed(PREFIXES.items()) if self.amount >= s or s == 1)
        return f"{self.amount / size:g} {prefix.upper().replace('K', 'k')}{self.unit}"


def parse_budget(value: float | str) -> Budget:
    """Read a budget; a bare number is a multiple of the seed's MAdds below 10, and a number of MAdds from 1e4 on.

    >>> parse_budget("2.4 GMAdds")
    Budget(amount=2400000000.0, unit='MAdds', cost='madds')
    >>> parse_budget(0.9) == parse_budget("0.9x")
    True

    Raises:
        FnaError: the value may mean several things, or none.
    """
    found = None if isinstance(value, bool) else _PATTERN.fullmatch(str(value).strip())
    amount = _amount(found["number"]) if found else math.nan
    unit, prefix = ((found[part] or "").lower() if found else "" for part in ("unit", "prefix"))
    if not found or not 0 < amount < math.inf or (unit and not _can_have(prefix, unit)):
        raise FnaError(f"{value!r} is no budget; expected {EXAMPLES}")
    if found["times"]:
        return Budget(amount, "x", _OF[(found["of"] or "madds").lower()])
    if unit:
        amount *= NS_PER_MS if unit == "ms" else (PREFIXES | BINARY)[prefix]
        return Budget(amount, _WRITTEN[unit], UNITS[_WRITTEN[unit]])
    if FACTORS_BELOW <= amount < MADDS_FROM:
        raise FnaError(
            f"the budget {value} has no unit; write {amount:g}x (times the seed's MAdds) or {amount:g} MMAdds "
            "(millions)"
        )
    return Budget(amount, "x" if amount < FACTORS_BELOW else "MAdds", "madds")


def _can_have(prefix: str, unit: str) -> bool:
    """Tell whether a unit is written with a prefix: Mi is of bytes, and ms has its own."""
    return _WRITTEN[unit] == "B" if prefix in BINARY else prefix == "" or _WRITTEN[unit] != "ns"


def _amount(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
