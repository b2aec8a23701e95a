"""Atomic writes, safe reading, and checkpoints that survive kills, full disks and flipped bytes."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fna import files
from fna.errors import FnaError
from fna.training.checkpoints import Checkpoints

STATE = {"stem.conv.weight": torch.arange(24.0).reshape(2, 3, 2, 2), "steps": torch.tensor(7)}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def failing(function: Callable[..., Any], at: int, number: int) -> Callable[..., Any]:
    """`function`, whose call number `at` (from 0) fails with the system error `number`."""
    calls = iter(range(1_000_000))

    def call(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == at:
            raise OSError(number, os.strerror(number))
        return function(*args, **kwargs)

    return call


# --- writing --------------------------------------------------------------------------------------------------------


def test_round_trips(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a" / "t.txt", "ü\n")
    files.write_json(tmp_path / "j.json", {"ü": [1, 0.1, None]})
    files.write_state(tmp_path / "s.safetensors", STATE)
    assert (tmp_path / "a" / "t.txt").read_text(encoding="utf-8") == "ü\n"
    assert files.read_json(tmp_path / "j.json") == {"ü": [1, 0.1, None]}
    assert same(files.read_state(tmp_path / "s.safetensors"), STATE)
    assert not list(tmp_path.rglob("*.tmp"))


def test_state_of_a_channels_last_model_with_tied_weights(tmp_path: Path) -> None:
    conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    state = {"a.weight": conv.weight, "b.weight": conv.weight}
    files.write_state(tmp_path / "s", state)
    assert same(files.read_state(tmp_path / "s"), state)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO])
@pytest.mark.parametrize(("function", "at"), [("fsync", 0), ("replace", 0), ("fsync", 1)])
def test_failed_write_keeps_a_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, at: int, number: int
) -> None:
    path = tmp_path / "f"
    files.write_bytes(path, b"old")
    monkeypatch.setattr(os, function, failing(getattr(os, function), at, number))
    with pytest.raises(FnaError, match=rf"cannot write {path}: {os.strerror(number)}"):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == (b"new" if at else b"old")  # the second fsync comes after the move
    assert list(tmp_path.iterdir()) == [path]


def test_write_over_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FnaError, match="cannot write"):
        files.write_bytes(tmp_path, b"")


# --- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "{", "[NaN]", "[1e999, Infinity]", "\udcff", "[" * 100_000, "9" * 5000])
def test_read_json_refuses(tmp_path: Path, text: str) -> None:
    (tmp_path / "f.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(FnaError, match=r"f\.json is no valid JSON"):
        files.read_json(tmp_path / "f.json")


@pytest.mark.parametrize("legacy", [False, True])
def test_read_state_of_torch_files_by_content(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "weights.safetensors"  # the ending is wrong on purpose
    torch.save(OrderedDict(STATE), path, _use_new_zipfile_serialization=not legacy)
    assert same(files.read_state(path), STATE)


class Bomb:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.canary),)


@pytest.mark.filterwarnings("ignore::UserWarning:torch")
def test_read_state_runs_nothing(tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "f.pt"
    for legacy in (False, True):
        torch.save({"w": Bomb(canary)}, path, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(FnaError, match=r"cannot read .*f\.pt"):
            files.read_state(path)
    path.write_bytes(pickle.dumps(Bomb(canary)))
    with pytest.raises(FnaError, match=r"cannot read .*f\.pt"):
        files.read_state(path)
    assert not canary.exists()
    pickle.loads(path.read_bytes())
    assert canary.exists()  # the bomb was live


def save_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", "not weights")


@pytest.mark.filterwarnings("ignore::UserWarning:torch")
@pytest.mark.parametrize(
    ("write", "match"),
    [
        (lambda p: p.touch(), "is empty"),
        (lambda p: p.mkdir(), "cannot read"),
        (lambda p: None, "No such file"),
        (lambda p: p.write_bytes(b"<!DOCTYPE html><html>"), "cannot read"),
        (save_zip, "cannot read"),
        (lambda p: torch.save(nn.Linear(1, 1), p), "cannot read"),
        (lambda p: torch.save(torch.ones(1), p), "holds a Tensor"),
        (lambda p: torch.save({}, p), "holds an empty dict"),
        (lambda p: torch.save({"w": 1.5}, p), "'w' is a float"),
        (lambda p: torch.save({3: torch.ones(1)}, p), "'3' is a Tensor, no named tensor"),
        (lambda p: torch.save({"w": torch.ones(2).to_sparse()}, p), "no ordinary dense tensor"),
        (lambda p: torch.save({"w": torch.ones(2, device="meta")}, p), "no ordinary dense tensor"),
        (lambda p: torch.save({"w": torch.ones(1).expand(10**15)}, p), "too little data"),
        (lambda p: files.write_state(p, {"w": torch.tensor([1.0, float("nan")])}), "'w' holds NaN"),
        (lambda p: torch.save({"w": torch.tensor(float("-inf"), dtype=torch.bfloat16)}, p), "'w' holds NaN or inf"),
        (lambda p: torch.save({"w": torch.tensor([float("nan")]).to(torch.float8_e5m2)}, p), "'w' holds NaN"),
    ],
)
def test_read_state_refuses(tmp_path: Path, write: Callable[[Path], Any], match: str) -> None:
    path = tmp_path / "f.pt"
    write(path)
    with pytest.raises(FnaError, match=match) as error:
        files.read_state(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_read_state_accepts_nan_when_told(tmp_path: Path) -> None:
    files.write_state(tmp_path / "f", {"w": torch.tensor([float("nan")])})
    assert files.read_state(tmp_path / "f", finite=False)["w"].isnan().all()


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_state_gives_our_error_or_tensors(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / f"damaged.{kind}"
    if kind == "safetensors":
        files.write_state(path, STATE)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=kind == "zip")
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            state = files.read_state(path)
        except FnaError as error:
            assert str(path) in str(error)  # noqa: PT017 (either outcome is right)
        else:
            assert all(isinstance(value, torch.Tensor) for value in state.values())


# --- checkpoints ----------------------------------------------------------------------------------------------------


def state_at(step: int) -> dict[str, Any]:
    """A state as training has it, with tensors that tell the step."""
    weight = nn.Parameter(torch.full((64,), float(step)))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    weight.sum().backward()
    optimizer.step()
    return {
        "model": nn.BatchNorm2d(2).state_dict(),
        "weight": weight.detach().clone(),
        "optimizer": optimizer.state_dict(),
        "path": [(1, 2), None, True],
        "note": f"step {step}",
    }


def is_state_of(step: int, state: dict[str, Any]) -> bool:
    return state["note"] == f"step {step}" and torch.equal(state["weight"], state_at(step)["weight"])


def test_save_load_and_keep(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints" / "search")
    assert checkpoints.load_latest() is None
    for step in (0, 5, 10, 1_000_000):
        checkpoints.save(step, state_at(step))
        latest = checkpoints.load_latest()
        assert latest is not None
        assert latest[0] == step
        assert is_state_of(step, latest[1])
    assert checkpoints.steps() == [10, 1_000_000]
    assert len(list(checkpoints.path.iterdir())) == 4
    checkpoints.clear()
    assert checkpoints.load_latest() is None
    assert not list(checkpoints.path.iterdir())


def test_state_that_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    for alien in (np.float64(1), tmp_path, {"a": [Bomb(tmp_path)]}):
        with pytest.raises(AssertionError, match="a checkpoint holds"):
            Checkpoints(tmp_path).save(1, {"x": alien})


@settings(max_examples=30, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255), record=st.booleans())
def test_flipped_byte_falls_back(
    tmp_path_factory: pytest.TempPathFactory, where: float, mask: int, record: bool
) -> None:
    checkpoints = Checkpoints(tmp_path_factory.mktemp("flip"))
    checkpoints.save(1, state_at(1))
    checkpoints.save(2, state_at(2))
    path = checkpoints.path / ("step-000002.json" if record else "step-000002.pt")
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= mask
    path.write_bytes(content)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        latest = checkpoints.load_latest()
    assert latest is not None
    if said:
        assert "step-000002" in str(said[0].message)
        assert latest[0] == 1
        assert is_state_of(1, latest[1])
    else:  # the flip changed a blank of the record, or a digit's notation: nothing it says
        assert record
        assert is_state_of(2, latest[1])


def test_after_a_fallback_the_damaged_one_is_replaced(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (10, 20, 30):
        checkpoints.save(step, state_at(step))
    (tmp_path / "step-000030.pt").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"step-000030\.pt is damaged.*going back"):
        assert checkpoints.load_latest()[0] == 20  # type: ignore[index]
    checkpoints.save(25, state_at(25))
    assert checkpoints.steps() == [20, 25]
    assert checkpoints.load_latest()[0] == 25  # type: ignore[index]


def test_a_checkpoint_that_is_not_finite_is_neither_saved_nor_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state_at(1))
    for bad in ({"alphas": [torch.zeros(3), torch.tensor([0.0, torch.nan])]}, {"alphas": [0, [1.0, float("inf")]]}):
        with pytest.raises(FnaError, match=r"the state after iteration 2 has NaN or infinity in alphas\.1"):
            checkpoints.save(2, bad)
        assert checkpoints.steps() == [1]
    with monkeypatch.context() as patch:  # as versions without the check did
        patch.setattr("fna.training.checkpoints.first_not_finite", lambda state: "")
        checkpoints.save(2, bad)
    with pytest.warns(UserWarning, match=r"step-000002\.pt holds NaN or infinity in alphas\.1\.1; going back"):
        assert checkpoints.load_latest()[0] == 1  # type: ignore[index]


def test_a_checkpoint_of_another_format_is_refused_with_its_number(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state_at(1))
    record = tmp_path / "step-000001.json"
    assert files.read_json(record)["format"] == 1
    plain = {key: value for key, value in files.read_json(record).items() if key != "format"}
    files.write_json(record, plain)  # as 0.1 wrote it
    assert checkpoints.load_latest() is not None
    files.write_json(record, {**plain, "format": 2})
    with (
        pytest.warns(UserWarning, match="format 2"),
        pytest.raises(
            FnaError, match=r"step-000001\.pt is of format 2, this fna reads format 1: use the version that wrote it"
        ),
    ):
        checkpoints.load_latest()


def test_all_damaged_is_an_error(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save(1, state_at(1))
    (tmp_path / "step-000001.pt").unlink()
    with pytest.warns(UserWarning, match="No such file"), pytest.raises(FnaError, match=r"no checkpoint .* is intact"):
        Checkpoints(tmp_path).load_latest()


def test_torn_save_is_ignored_and_swept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state_at(1))
    (tmp_path / "step-000002.pt").write_bytes(b"no record yet")
    (tmp_path / "step-000002.json.77.tmp").write_bytes(b"{")
    assert checkpoints.load_latest()[0] == 1  # type: ignore[index]
    checkpoints.save(3, state_at(3))
    assert {p.stem for p in tmp_path.iterdir()} == {"step-000001", "step-000003"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
@pytest.mark.parametrize(
    ("function", "at"), [("fsync", 0), ("replace", 0), ("fsync", 1), ("fsync", 2), ("replace", 1), ("fsync", 3)]
)
def test_failed_save_keeps_the_last_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, at: int, number: int
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, state_at(1))
    with monkeypatch.context() as patch:
        patch.setattr(os, function, failing(getattr(os, function), at, number))
        with pytest.raises(FnaError, match="cannot write"):
            checkpoints.save(2, state_at(2))
    latest = checkpoints.load_latest()
    assert latest is not None
    assert latest[0] == (2 if (function, at) == ("fsync", 3) else 1)  # by then the record was in place
    assert is_state_of(*latest)
    checkpoints.save(3, state_at(3))
    assert checkpoints.steps() == [3]


def test_failed_pruning_is_loud_and_harmless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, state_at(1))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", failing(Path.unlink, 2, errno.EACCES))  # 0, 1: the temporary files
        with pytest.raises(FnaError, match=r"cannot remove .*step-000001\.json"):
            checkpoints.save(2, state_at(2))
    assert checkpoints.load_latest()[0] == 2  # type: ignore[index]


KILLER = """
import os, random, signal, sys, time, warnings
from pathlib import Path
import torch
from fna.training.checkpoints import Checkpoints

torch.set_num_threads(1)
checkpoints, chance, last = Checkpoints(Path(sys.argv[1])), random.Random(0), 0
for kill in range(12):
    child = os.fork()
    if child == 0:
        for step in range(last + 1, 1_000_000):
            checkpoints.save(step, {"x": torch.full((20_000,), float(step))})
    deadline = time.monotonic() + 30
    while not any(step > last for step in checkpoints.steps()) and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(chance.uniform(0, 0.03))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    warnings.simplefilter("error")  # a fallback would be a damaged file
    step, state = checkpoints.load_latest()
    assert step > last and state["x"].eq(step).all(), (step, last)
    assert not list(checkpoints.path.glob("*.tmp"))
    last = step
print(last)
"""


def test_killed_at_any_moment_leaves_a_good_checkpoint(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLER, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 12
