"""The run folder: refusals, the lock, and stages that are finished only when the manifest says so."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fna import files
from fna.errors import FnaError
from fna.runs.folder import Folder


def test_a_stage_is_finished_once_committed(tmp_path: Path) -> None:
    with Folder.open(tmp_path / "runs" / "a") as folder:
        folder.write_json("target.json", {"a": 1})
        folder.write_state("target.safetensors", {"w": torch.ones(3)})
        assert not folder.finished("derive")
        folder.commit("derive", ["target.json", "target.safetensors"], {"minutes": 1.5})
    with Folder.open(tmp_path / "runs" / "a", create=False) as folder:
        assert folder.finished("derive")
        assert folder.info("derive") == {"minutes": 1.5}
        folder.write_text("config.yaml", "a: 1\n")
        folder.write_bytes("report.html", b"<html>")
        assert folder.finished("derive")
        folder.forget("derive")
        assert not folder.finished("derive")


def test_rewriting_a_result_unfinishes_its_stage(tmp_path: Path) -> None:
    with Folder.open(tmp_path) as folder:
        folder.write_json("target.json", 1)
        folder.commit("derive", ["target.json"])
        folder.write_json("target.json", 2)
        assert not folder.finished("derive")


def test_a_missing_result_means_do_it_again(tmp_path: Path) -> None:
    with Folder.open(tmp_path) as folder:
        folder.write_json("target.json", 1)
        folder.commit("derive", ["target.json"])
        (tmp_path / "target.json").unlink()
        assert not folder.finished("derive")


@settings(max_examples=30, deadline=None)
@given(where=st.integers(0, 999), mask=st.integers(1, 255))
def test_a_flipped_byte_is_named(tmp_path_factory: pytest.TempPathFactory, where: int, mask: int) -> None:
    path = tmp_path_factory.mktemp("run")
    with Folder.open(path) as folder:
        folder.write_bytes("target.safetensors", bytes(1000))
        folder.commit("derive", ["target.safetensors"])
        (path / "target.safetensors").write_bytes(bytes(where) + bytes([mask]) + bytes(999 - where))
        with pytest.raises(FnaError, match=r"target\.safetensors is not as the stage 'derive' left it.*delete it"):
            folder.finished("derive")


def test_info_of_an_unfinished_stage_says_what_to_type(tmp_path: Path) -> None:
    with Folder.open(tmp_path) as folder, pytest.raises(FnaError, match="type: fna search"):
        folder.info("search")


def test_refused_places(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").touch()
    for name, match in (
        ("file", "is a file"),
        ("file/run", "is a file|Not a dir"),
        ("foreign", "no run folder of fna"),
    ):
        with pytest.raises(FnaError, match=match):
            Folder.open(tmp_path / name)
    assert [p.name for p in (tmp_path / "foreign").iterdir()] == ["thesis.tex"]
    for options in ({"create": False}, {"writer": False}):
        with pytest.raises(FnaError, match="there is no run folder"):
            Folder.open(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "manifest",
    ["", "[]", "{}", '{"made_by": "else"}', '{"made_by": "fna", "format": 1, "stages": {"a": {"files": []}}}'],
)
def test_a_manifest_that_is_not_ours(tmp_path: Path, manifest: str) -> None:
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(FnaError, match=r"no run folder of fna|no valid JSON"):
        Folder.open(tmp_path)


def test_a_later_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"made_by": "fna", "format": 2, "stages": {}}')
    with pytest.raises(FnaError, match="written in format 2"):
        Folder.open(tmp_path)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_an_unwritable_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(FnaError, match=rf"cannot open {tmp_path}: {os.strerror(number)}; "):
        Folder.open(tmp_path)


def test_killed_before_the_first_manifest(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / "manifest.json.12.tmp").write_text("{")
    with Folder.open(tmp_path) as folder:
        assert not folder.finished("expand")
    assert not list(tmp_path.glob("*.tmp"))


def test_a_failed_commit_leaves_the_stage_unfinished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Folder.open(tmp_path) as folder:
        folder.write_json("a.json", 1)
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", full)
            with pytest.raises(FnaError, match="No space left"):
                folder.commit("expand", ["a.json"])
        assert not folder.finished("expand")
        assert files.read_json(tmp_path / "a.json") == 1


HOLDER = """
import os, sys
from pathlib import Path
from fna.runs.folder import Folder
folder = Folder.open(Path(sys.argv[1]))
if os.fork() == 0:  # a data worker, which outlives its killed parent for a while
    os.close(1)
    sys.stdin.read()
    os._exit(0)
print("open", flush=True)
sys.stdin.read()
"""


def test_one_writer_at_a_time_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(FnaError, match=rf"another fna process \(id {holder.pid}\) is using"):
            Folder.open(tmp_path)
        Folder.open(tmp_path, writer=False).close()
        holder.kill()
        holder.wait()
        with Folder.open(tmp_path) as folder:  # though the worker still lives
            folder.write_json("a.json", 1)
    assert holder.returncode != 0
