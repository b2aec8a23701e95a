"""What holds for every data format; `test_data.py` has the contract of what its reader returns."""

from __future__ import annotations

from pathlib import Path

import pytest

from fna.catalogue import formats
from fna.config import DataConfig
from fna.data import FORMATS, data_root
from fna.errors import FnaError

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.parametrize("name", FORMATS)
def test_the_layout_is_told(name: str) -> None:
    reader = FORMATS[name]
    lines = reader.layout.splitlines()
    assert callable(reader.read)
    assert lines
    assert all(line.startswith("  ") and line.strip() for line in lines), "error messages show it indented"
    assert all("ROOT/" in line for line in lines) == reader.on_disk
    assert {"name": name, "layout": reader.layout.rstrip()} in formats()
    assert f"`{name}`" in README.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name, reader in FORMATS.items() if reader.on_disk])
def test_an_empty_folder_is_answered_with_the_layout(name: str, tmp_path: Path) -> None:
    config = DataConfig(format=name, root=str(tmp_path), classes=("a", "b"))
    with pytest.raises(FnaError) as error:
        FORMATS[name].read(data_root(config, FORMATS[name]), "train", config)
    assert FORMATS[name].layout in str(error.value)
