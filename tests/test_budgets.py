"""Budgets as people write them: every spelling has one meaning, and what may have two is refused."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fna.config import Budget, dump_yaml, load_config, parse_budget
from fna.errors import FnaError

MEANINGS = {
    0.9: (0.9, "x", "madds"),
    "0.9": (0.9, "x", "madds"),
    "0.9x": (0.9, "x", "madds"),
    "0.9 x": (0.9, "x", "madds"),
    "12x": (12.0, "x", "madds"),
    "0.8x params": (0.8, "x", "params"),
    "0.8x MAdds": (0.8, "x", "madds"),
    "1.1x ms": (1.1, "x", "latency"),
    2.4e9: (2.4e9, "MAdds", "madds"),
    10_000: (1e4, "MAdds", "madds"),
    "2.4 GMAdds": (2.4e9, "MAdds", "madds"),
    "300 MMAdds": (3e8, "MAdds", "madds"),
    "2400000000 MAdds": (2.4e9, "MAdds", "madds"),
    "2.4e9 madds": (2.4e9, "MAdds", "madds"),
    "3 Mparams": (3e6, "params", "params"),
    "3500 kparams": (3.5e6, "params", "params"),
    "30 ms": (3e7, "ns", "latency"),
    ".5ms": (5e5, "ns", "latency"),
    "0.5x latency": (0.5, "x", "latency"),
    "1500 ns": (1500.0, "ns", "latency"),
    "40 MB": (4e7, "B", "memory"),
    "0.5gb": (5e8, "B", "memory"),
    "40 MiB": (40 * 2.0**20, "B", "memory"),
    "2048 B": (2048.0, "B", "memory"),
    "0.6x memory": (0.6, "x", "memory"),
}


@pytest.mark.parametrize("value", MEANINGS)
def test_a_spelling_has_one_meaning(value: float | str) -> None:
    budget = parse_budget(value)
    assert budget == Budget(*MEANINGS[value])
    assert budget.relative == (budget.unit == "x")


NONE = [0, -1, "0x", "-2 GMAdds", True, "", "x", "fast", "0.9y", "3 Gms", "3 Miparams", "1 2x", "0x10", "1e999"]


@pytest.mark.parametrize("value", NONE)
def test_no_budget(value: float | str) -> None:
    with pytest.raises(FnaError, match=r"is no budget; expected 0\.9x"):
        parse_budget(value)


@pytest.mark.parametrize("value", [10, 100, "9999", 9999.5])
def test_a_number_that_may_mean_two_things_is_answered_with_both(value: float | str) -> None:
    with pytest.raises(FnaError, match=rf"write {float(value):g}x .* or {float(value):g} MMAdds"):
        parse_budget(value)


@given(st.floats() | st.integers() | st.text() | st.booleans())
def test_anything_is_a_budget_or_a_mistake(value: float | str) -> None:
    with suppress(FnaError):
        assert parse_budget(value).amount > 0


@pytest.mark.parametrize("text", ["0.9x", "2.4 GMAdds", "30 ms", "3 Mparams", "40 MB"])
def test_it_stays_as_it_was_written(text: str) -> None:
    config = load_config(None, [f"search.budget={text}", f"derive.budget={text}"])
    assert config.search.budget == config.derive.budget == text
    assert f"budget: {text}\n" in dump_yaml(config)
