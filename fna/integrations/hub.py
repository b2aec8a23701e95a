"""Files on the Hugging Face hub: where an address leads to, and what went wrong in a user's words. No torch here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fna.errors import FnaError

ADDRESS = re.compile(r"hf:/{1,2}(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?", re.ASCII)  # Path joins slashes
EXPECTED = "expected hf://OWNER/NAME, or hf://OWNER/NAME@REVISION"


def is_address(path: str | Path) -> bool:
    """Tell whether a path means the hub.

    >>> is_address("hf://me/leaves"), is_address(Path("hf://me/leaves")), is_address("runs/leaves")
    (True, True, False)
    """
    return _text(path).startswith("hf:/")


def fetch(address: str | Path, name: str) -> Path:
    """Return a file of a repository on the hub, fetched once and then found in the hub's cache.

    Args:
        address: ``hf://OWNER/NAME``, maybe with ``@REVISION``: a branch, tag or commit.
        name: of the file.

    Raises:
        FnaError: the address is none, or the file cannot be had.
    """
    match = ADDRESS.fullmatch(_text(address))
    if not match:
        raise FnaError(f"'{_text(address)}' is no address on the Hugging Face hub; {EXPECTED}")
    with hub_errors(match["repo"], name) as hub:
        return Path(hub.HfApi().hf_hub_download(match["repo"], name, revision=match["revision"]))


@contextmanager
def hub_errors(repo: str, name: str = "") -> Iterator[Any]:
    """Give the package huggingface_hub, and turn what it raises into an `FnaError`.

    Args:
        repo: ``OWNER/NAME``.
        name: of the file that is asked for.
    """
    try:
        import huggingface_hub as hub
        from huggingface_hub import errors
    except ImportError as error:
        raise FnaError(f"the Hugging Face hub needs a package more ({error}); type: pip install 'fna[hub]'") from error
    client: Any = errors.HfHubHTTPError.__bases__  # errors of the HTTP client it uses
    other: tuple[type[Exception], ...] = (errors.HFValidationError, OSError, *client)
    try:
        yield hub
    except errors.GatedRepoError as error:
        raise FnaError(f"{repo} asks for permission: get it at https://huggingface.co/{repo}, {_login()}") from error
    except errors.RepositoryNotFoundError as error:
        raise FnaError(f"the hub has no {repo}, or does not show it to you: look at the name, or {_login()}") from error
    except errors.RevisionNotFoundError as error:
        raise FnaError(f"{repo} has no such revision; leave what follows the @ out for the newest") from error
    except errors.LocalEntryNotFoundError as error:
        raise FnaError(
            f"{name} of {repo} is not in the cache, and the hub cannot be reached (HF_HUB_OFFLINE?)"
        ) from error
    except errors.EntryNotFoundError as error:
        raise FnaError(f"{repo} is no network of fna: it has no {name}; fna.push makes one that has") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        hint = f"; {_login()}" if status in (401, 403) else ""
        raise FnaError(
            f"the hub refused ({status}) what was asked of {repo}: {error.server_message or error}{hint}"
        ) from error
    except other as error:
        raise FnaError(f"cannot use {repo} on the hub: {error}") from error


def _login() -> str:
    return "log in with: hf auth login (or set HF_TOKEN)"


def _text(path: str | Path) -> str:
    return path.as_posix() if isinstance(path, Path) else path
