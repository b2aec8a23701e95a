"""Budgets, written with their unit: `0.9x`, `2.4 GMAdds`, `3 Mparams`, `30 ms`. Placeholder of the lead; merged over."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fna.errors import FnaError


@dataclass(frozen=True)
class Budget:
    amount: float
    unit: str = "x"
    cost: str = "madds"

    @property
    def relative(self) -> bool:
        return self.unit == "x"

    def __str__(self) -> str:
        return f"{self.amount:g}{self.unit if self.relative else ' ' + self.unit}"


def parse_budget(value: float | str) -> Budget:
    if isinstance(value, int | float):
        return Budget(value) if value < 10 else Budget(value, "MAdds")
    match = re.fullmatch(r"([\d.e+]+) ?(x|[GM]?MAdds|[MK]?params)", value)
    if not match:
        raise FnaError(f"bad budget {value}")
    return Budget(float(match[1]), match[2])
