"""What holds for every data format of every task; the tests of a task's data have the contract of what is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from fna.cli.catalogue import formats
from fna.config import CONFIGS, TASKS, DataConfig
from fna.data.listing import Reader, data_root
from fna.data.recognising import find_package
from fna.errors import FnaError

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
FORMATS: dict[tuple[str, str], Reader] = {
    (task, name): reader for task in TASKS for name, reader in find_package(task).FORMATS.items()
}


@pytest.mark.parametrize("task", TASKS)
def test_a_wrong_name_is_answered_with_the_nearest_one(task: str) -> None:
    name = next(name for owner, name in FORMATS if owner == task)
    data = type(CONFIGS[TASKS[task][0]]().data)(format=name + "x", root=".", crop=(64, 64))
    with pytest.raises(FnaError, match=rf"data format of \w+ '{name}x' \(did you mean '{name}'\?\)"):
        find_package(task).open_data(data, "train")


@pytest.mark.parametrize(("task", "name"), FORMATS)
def test_the_layout_is_told(task: str, name: str) -> None:
    reader = FORMATS[task, name]
    lines = reader.layout.splitlines()
    assert callable(reader.read)
    assert lines
    assert all(line.startswith("  ") and line.strip() for line in lines), "error messages show it indented"
    assert any("ROOT/" in line for line in lines) == reader.on_disk
    assert {"task": task, "name": name, "layout": reader.layout.rstrip()} in formats()
    assert f"`{name}`" in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize(("task", "name"), [key for key, reader in FORMATS.items() if reader.on_disk])
def test_an_empty_folder_is_answered_with_the_layout(task: str, name: str, tmp_path: Path) -> None:
    kind = type(CONFIGS[TASKS[task][0]]().data)
    config = kind(format=name, root=str(tmp_path), classes=("a", "b"))
    with pytest.raises(FnaError) as error:
        FORMATS[task, name].read(data_root(config, FORMATS[task, name]), "train", config)
    assert FORMATS[task, name].layout in str(error.value)


@pytest.mark.parametrize("task", TASKS)
def test_another_tasks_format_is_refused(task: str) -> None:
    known = {name for owner, name in FORMATS if owner == task}
    other = next(name for _, name in FORMATS if name not in known)
    with pytest.raises(FnaError, match=other):
        find_package(task).open_data(DataConfig(format=other, root=".", crop=(64, 64)), "train")
