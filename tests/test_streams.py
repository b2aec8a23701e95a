"""Output that is closed, full or of another encoding, and memory that is not there: a message and 2, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from fna.errors import out_of_memory

LIST = f"{sys.executable} -m fna list spaces"
FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")


def shell(line: str, **more: str) -> tuple[int, str]:
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env={**os.environ, **more}, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done.returncode, done.stderr


def test_closed_streams_are_no_matter() -> None:
    assert shell(f"{LIST} <&- >&- 2>&-") == (0, "")


@FULL
def test_a_full_disk_behind_the_output_is_said() -> None:
    code, said = shell(f"{LIST} > /dev/full")
    assert (code, said) == (2, "fna: error: cannot write to standard output: No space left on device\n")


@FULL
def test_a_full_disk_behind_the_messages_changes_nothing_else() -> None:
    assert shell(f"{LIST} absent 2> /dev/full") == (2, "")


def test_what_the_terminal_cannot_encode_is_escaped() -> None:
    code, said = shell(f"{LIST} 'l'$'\\xe4'", PYTHONIOENCODING="ascii")
    assert code == 2
    assert "l\\udce4" in said


def allocate_tensor() -> object:
    return torch.empty(2**50)


def allocate_array() -> object:
    return np.empty(2**60, np.uint8)


@pytest.mark.parametrize("allocate", [allocate_tensor, allocate_array])
def test_errors_of_memory_are_known(allocate: object) -> None:
    with pytest.raises((MemoryError, RuntimeError)) as error:
        allocate()  # type: ignore[operator]
    assert out_of_memory(error.value)
    assert not out_of_memory(RuntimeError("shapes differ"))
