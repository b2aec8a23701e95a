"""What a choice has found so far: it comes back whole, or not at all and with a word."""

from __future__ import annotations

from pathlib import Path

import pytest

from fna.searching.kept import Kept


def test_what_was_kept_comes_back_with_its_minutes(tmp_path: Path) -> None:
    file = tmp_path / "search" / "scores.json"
    kept = Kept(file, True, "losses", "metrics")
    kept.tables["losses"]["1 1 0"] = [0.1, 1 / 3]
    kept.began -= 90
    kept.save()
    again = Kept(file, True, "losses", "metrics")
    assert again.tables == {"losses": {"1 1 0": [0.1, 1 / 3]}, "metrics": {}}
    assert 1.5 <= again.minutes < 1.6
    Kept(tmp_path / "other.json", False, "losses").save()
    Kept(None, True, "losses").save()
    assert [path.name for path in tmp_path.iterdir()] == ["search"], "another process writes nothing"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace("0.25", "0.26"),
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace("losses", "lasses"),
        lambda text: text.replace('"minutes": ', '"minutes": 1'),
    ],
)
def test_a_damaged_file_is_told_of_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: object
) -> None:
    file = tmp_path / "scores.json"
    kept = Kept(file, True, "losses")
    kept.tables["losses"]["a"] = [0.25]
    kept.save()
    file.write_text(spoil(file.read_text()))  # type: ignore[operator]
    assert Kept(file, True, "losses").tables == {"losses": {}}
    assert f"{file} is damaged" in capsys.readouterr().err
