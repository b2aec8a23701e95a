"""The run folder: refusals, the lock, and stages that are finished only when the manifest says so."""

from __future__ import annotations

import errno
import hashlib
import os
import re
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
            folder.read_state("derive", "target.safetensors")


@pytest.mark.parametrize("size", [0, 999, 1001])
def test_a_cut_or_grown_file_is_named_before_it_is_read(tmp_path: Path, size: int) -> None:
    with Folder.open(tmp_path) as folder:
        folder.write_bytes("target.safetensors", bytes(1000))
        folder.commit("derive", ["target.safetensors"])
        (tmp_path / "target.safetensors").write_bytes(bytes(size))
        with pytest.raises(FnaError, match=r"target\.safetensors is not as the stage 'derive' left it \(its size"):
            folder.finished("derive")


def test_only_what_is_read_is_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []

    def counting(data: bytes) -> Any:
        hashed.append(len(data))
        return hashlib.new("sha256", data)

    state = {"w": torch.ones(1000)}
    with Folder.open(tmp_path) as folder:
        folder.write_json("target.json", {"a": 1})
        folder.write_state("target.safetensors", state)
        folder.write_bytes("super.safetensors", bytes(100_000))
        folder.commit("derive", ["target.json", "target.safetensors", "super.safetensors"])
        monkeypatch.setattr(hashlib, "sha256", counting)
        assert folder.finished("derive")
        assert folder.info("derive") == {}
        sizes = [(tmp_path / name).stat().st_size for name in ("target.json", "target.safetensors")]
        assert not {*sizes, 100_000}.intersection(hashed)
        assert folder.read_json("derive", "target.json") == {"a": 1}
        assert torch.equal(folder.read_state("derive", "target.safetensors")["w"], state["w"])
    assert [size for size in hashed if size in {*sizes, 100_000}] == sizes


def test_stages_of_several_names_keep_their_files_in_folders(tmp_path: Path) -> None:
    with Folder.open(tmp_path) as folder:
        for name in ("half", "derived"):
            folder.write_json(f"targets/{name}.json", {"name": name})
            folder.commit(f"derive:{name}", [f"targets/{name}.json"])
        folder.write_bytes("adapted/network.safetensors", b"w")
        folder.commit("adapt:adapted", ["adapted/network.safetensors"])
    with Folder.open(tmp_path) as folder:
        assert folder.read_json("derive:half", "targets/half.json") == {"name": "half"}
        assert folder.read_bytes("adapt:adapted", "adapted/network.safetensors") == b"w"
        folder.write_json("targets/half.json", {})
        assert [folder.finished(f"derive:{name}") for name in ("half", "derived")] == [False, True]


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("search", "the stage 'search' of .* is not finished; type: fna search .*"),
        ("derive:haf", r"the target 'haf' \(did you mean 'half'\?\) .*; type: fna derive .* --derive.name haf$"),
        (
            "adapt:adaptd",
            r"the adaptation 'adaptd' \(did you mean 'adapted'\?\) .*; type: fna adapt .* --adapt.name adaptd$",
        ),
        ("evaluate:test", "the evaluation 'test' of .*; type: fna evaluate .* --split test$"),
    ],
)
def test_what_is_not_finished_says_what_to_type(tmp_path: Path, stage: str, message: str) -> None:
    with Folder.open(tmp_path) as folder:
        folder.write_json("a.json", 1)
        for done in ("derive:half", "adapt:adapted"):
            folder.commit(done, ["a.json"])
        asked = (folder.info, folder.need, lambda stage: folder.read_json(stage, "a.json"))
        for ask in asked:
            with pytest.raises(FnaError, match=message):
                ask(stage)
        with pytest.raises(FnaError, match=r"'derive:half' left no b\.json; it left: a\.json"):
            folder.read_json("derive:half", "b.json")


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
    [
        "",
        "[]",
        "{}",
        '{"made_by": "else"}',
        '{"made_by": "fna", "format": 2, "stages": {"a": {"files": []}}}',
        '{"made_by": "fna", "format": 2, "stages": {"a": {"files": {"b": 1}, "info": {}}}}',
    ],
)
def test_a_manifest_that_is_not_ours(tmp_path: Path, manifest: str) -> None:
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(FnaError, match=r"no run folder of fna|no valid JSON|manifest\.json is damaged"):
        Folder.open(tmp_path)


@pytest.mark.parametrize(
    ("number", "advice"), [("1", "use fna 0.1"), ("3", "use the version that wrote it"), ("[]", "use the version")]
)
def test_another_format_is_refused(tmp_path: Path, number: str, advice: str) -> None:
    (tmp_path / "manifest.json").write_text(f'{{"made_by": "fna", "format": {number}, "stages": {{}}}}')
    for writer in (True, False):
        with pytest.raises(FnaError, match=rf"was written in format {re.escape(number)}, .* reads format 2; {advice}"):
            Folder.open(tmp_path, writer=writer)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_an_unwritable_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(FnaError, match=rf"cannot open {tmp_path}: {os.strerror(number)}; "):
        Folder.open(tmp_path)


def test_killed_before_the_first_manifest(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / "manifest.json.12.tmp").write_text("{")
    with Folder.open(tmp_path) as folder:
        assert not folder.finished("expand")
    assert not list(tmp_path.glob("*.tmp"))


def test_what_killed_writes_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    Folder.open(tmp_path).close()
    ours = ("manifest.json.12.tmp", "targets/half.json.7.tmp", "adapted/deep/network.safetensors.123.tmp")
    theirs = ("notes.tmp", "targets/notes.tmp", "targets/half.json.tmp", "targets/12.tmp", "adapted/a.b.tmp")
    for name in (*ours, *theirs):
        files.write_text(tmp_path / name, "")
    with Folder.open(tmp_path, writer=False):
        assert all((tmp_path / name).exists() for name in (*ours, *theirs))
    with Folder.open(tmp_path):
        assert not any((tmp_path / name).exists() for name in ours)
        assert all((tmp_path / name).exists() for name in theirs)


def test_a_folder_that_holds_only_notes_is_foreign(tmp_path: Path) -> None:
    (tmp_path / "notes.tmp").write_text("mine")
    with pytest.raises(FnaError, match="no run folder of fna"):
        Folder.open(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.tmp"]


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
    folder.close()  # as at the end of its block: not its lock to free
    print("open", flush=True)
    os.close(1)
    sys.stdin.read()
    os._exit(0)
sys.stdin.read()
"""


def test_one_writer_at_a_time_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        for _ in range(2):  # the one refused leaves the owner's number alone
            with pytest.raises(FnaError, match=rf"another fna process \(id {holder.pid}\) is using"):
                Folder.open(tmp_path)
        Folder.open(tmp_path, writer=False).close()
        holder.kill()
        holder.wait()
        with Folder.open(tmp_path) as folder:  # though the worker still lives
            folder.write_json("a.json", 1)
    assert holder.returncode != 0


def is_free(path: Path) -> bool:
    """Ask another process."""
    code = "import sys; from pathlib import Path; from fna.runs.folder import Folder; Folder.open(Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "another fna process" in done.stderr
    return done.returncode == 0


def test_a_second_opening_in_one_process_is_refused_and_frees_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, link = tmp_path / "run", tmp_path / "link"
    monkeypatch.chdir(tmp_path)
    with Folder.open(path):
        link.symlink_to(path, target_is_directory=True)
        for spelling in (path, Path("run"), Path("run/../run"), link):
            with pytest.raises(FnaError, match=rf"this process has {spelling} open already"):
                Folder.open(spelling)
        with Folder.open(link, writer=False) as reader, pytest.raises(AssertionError, match="for reading only"):
            reader.write_text("a.txt", "")
        assert not is_free(path)
    assert is_free(path)
    Folder.open(link).close()


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "thesis.tex")
    with pytest.raises(FnaError, match="cannot open"):
        Folder.open(tmp_path / "run")
    assert (tmp_path / "thesis.tex").read_text() == "mine"


READER = """
import sys
from pathlib import Path
from fna.runs.folder import Folder

CHANGES = "mkdir remove rename rmdir chmod truncate link symlink utime".split()

def refuse(event, arguments):
    paths = [str(a) for a in arguments if isinstance(a, (str, bytes, Path))]
    if any(path.startswith(sys.argv[1]) for path in paths):
        opens = event == "open" and (set(arguments[1] or "") & set("wax+") or arguments[2] & 0o3103)
        if opens or event.removeprefix("os.") in CHANGES:
            raise SystemExit(f"{event} {arguments}")

sys.addaudithook(refuse)
for line in sys.stdin:
    with Folder.open(Path(sys.argv[1]), writer=False) as folder:
        assert folder.stages() == ["derive:half"] and folder.finished("derive:half")
        assert folder.read_json("derive:half", "targets/half.json") == 1
        assert list(folder.read_state("derive:half", "targets/half.safetensors")) == ["w"]
    print("read", flush=True)
"""


def test_a_reader_changes_nothing_beside_a_running_job(tmp_path: Path) -> None:
    with Folder.open(tmp_path) as folder:
        folder.write_json("targets/half.json", 1)
        folder.write_state("targets/half.safetensors", {"w": torch.ones(3)})
        folder.commit("derive:half", ["targets/half.json", "targets/half.safetensors"])
        (tmp_path / "targets" / "half.json.1.tmp").touch()
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", READER, str(tmp_path)]
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as reader:
            assert reader.stdin
            assert reader.stdout
            for mode in (0o755, 0o555):
                tmp_path.chmod(mode)
                reader.stdin.write("read\n")
                reader.stdin.flush()
                assert reader.stdout.readline() == "read\n", reader.communicate()[1]
            assert reader.communicate() == ("", "")
        tmp_path.chmod(0o755)
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("size", [1, 10_000])
def test_a_stage_done_again_while_it_is_read_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    with Folder.open(tmp_path) as folder, Folder.open(tmp_path, writer=False) as reader:
        folder.write_json("a.json", 0)
        folder.commit("derive", ["a.json"])
        stages = reader._stages()

        def outdated() -> Any:
            """The manifest as it was when the reader opened it; then the job writes."""
            monkeypatch.setattr(reader, "_stages", type(reader)._stages.__get__(reader))
            folder.write_json("a.json", "b" * size)
            folder.commit("derive", ["a.json"])
            return stages

        monkeypatch.setattr(reader, "_stages", outdated)
        assert reader.read_json("derive", "a.json") == "b" * size
