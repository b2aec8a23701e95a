"""Where published weights lie on this machine: an installed package or a cache. Nothing here asks the network."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from collections.abc import Mapping
from pathlib import Path

from fna.errors import FnaError, nearest
from fna.seeds.variant import Variant, Weights

PRETRAINED = "pretrained"


def find_weights(
    name: str, variant: Variant, weights: str | Path, seeds: Mapping[str, Variant]
) -> tuple[Path, Weights | None]:
    """Return the file of a seed's weights, and what is published about it.

    Args:
        name: the seed's name.
        variant: the seed.
        weights: ``"pretrained"``, or a file.
        seeds: all seeds: one's published file is refused for another.

    Raises:
        FnaError: there is no such file, or it is damaged or another seed's.
    """
    if str(weights) == PRETRAINED:
        return _find_pretrained(name, variant)
    path = existing(weights)
    return path, _recognise(path, name, variant, seeds)


def existing(weights: str | Path) -> Path:
    """Return the path of a user's file.

    Raises:
        FnaError: there is none.
    """
    path = Path(os.path.expanduser(weights))
    if not os.path.isfile(path):
        raise FnaError(f"cannot read the weights {path}: no such file{nearest(str(weights), [PRETRAINED])}")
    return path


def is_here(published: Weights) -> bool:
    """Tell whether this machine has the weights (their content is not looked at)."""
    return _locate(published) is not None


def _find_pretrained(name: str, variant: Variant) -> tuple[Path, Weights]:
    """Return the first published weights that this machine has."""
    for published in variant.weights:
        path = _locate(published)
        if path is not None:
            if path.name == published.file:
                _check_digest(path)
            return path, published
    get = f"to get them, type  {variant.weights[0].get}  ;" if variant.weights else "none are published that we know;"
    known = [published.file for published in variant.weights]
    known += [f"model.safetensors of https://huggingface.co/{p.hub}" for p in variant.weights[:1] if p.hub]
    raise FnaError(
        f"no pretrained weights of '{name}' on this machine; {get} a file goes in as  weights: PATH  "
        f"({', '.join(known) or 'a state dict of this network'}), and  weights: null  starts from random ones"
        f"{variant.hint and f'; {variant.hint}'}"
    )


def _locate(published: Weights) -> Path | None:
    """Look for published weights in their package and in the caches of torch.hub and Hugging Face."""
    spec = importlib.util.find_spec(published.package) if published.package else None
    packaged = [Path(folder) / "models" for folder in (spec.submodule_search_locations or () if spec else ())]
    for folder in (*packaged, _torch_checkpoints()):
        if published.file and os.path.isfile(folder / published.file):
            return folder / published.file
    if published.hub:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(published.hub, "model.safetensors")
        return Path(cached) if isinstance(cached, str) else None
    return None


def _torch_checkpoints() -> Path:
    """Return the folder where torch.hub keeps weights; asking torch itself would have to import it."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("TORCH_HOME") or f"{cache}/torch"
    return Path(os.path.expanduser(home)) / "hub" / "checkpoints"


def _recognise(path: Path, name: str, variant: Variant, seeds: Mapping[str, Variant]) -> Weights | None:
    """Tell whether the user's file is a published one, and refuse it if it is damaged or another seed's."""
    for published in variant.weights:
        if path.name == published.file:
            _check_digest(path)
            return published
    for owner, other in seeds.items():
        if any(path.name == published.file for published in other.weights):
            raise FnaError(f"{path} has the weights of '{owner}', not of '{name}'; use that seed")
    return None


def _check_digest(path: Path) -> None:
    """Compare a published file with the digest in its name, if there is one."""
    expected = re.search(r"-([0-9a-f]{8})$", path.stem)
    if not expected:
        return
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FnaError(f"cannot read the weights {path}: {error.strerror}") from error
    if not digest.startswith(expected[1]):
        raise FnaError(f"{path} is damaged: its SHA-256 begins with {digest[:8]}, not {expected[1]}; fetch it again")
