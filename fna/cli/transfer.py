"""Remapping between networks that are named or lie in files, for `fna remap`."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fna.arch import Arch, SuperArch
from fna.arch.target import Form, Target
from fna.errors import FnaError
from fna.files import read_state, write_json, write_state, write_text
from fna.runs.manifest import read_vouched

if TYPE_CHECKING:
    from torch import Tensor

    from fna.remapping import Row

RANDOM = ("random", "null")


def find_network(network: str) -> Arch | SuperArch:
    """Return the architecture of a seed, or the one a file holds.

    Args:
        network: a name or a file that `seeds.load_seed` knows; or a super network's JSON, such as a run's
            ``super.json``.

    Raises:
        FnaError: `network` is none of these.
    """
    from fna.seeds import load_seed

    path = Path(os.path.expanduser(network))
    if os.path.isdir(path):
        raise FnaError(f"{network} is a folder; name a file in it, such as {path / 'seed.json'}")
    if not os.path.isfile(path) and path.suffix in (".json", ".txt"):
        raise FnaError(f"there is no file {network}; give an architecture's file or a name of: fna list seeds")
    return _read_space(path) or load_seed(network, weights=None).arch


def find_form(network: str) -> Form:
    """Return the form of the target that a file holds; of all else that of the settings."""
    try:
        return Target.from_json(json.loads(Path(network).expanduser().read_text(encoding="utf-8"))).form
    except (OSError, ValueError, RecursionError, FnaError):
        return Form()


def find_weights(network: str, weights: str | None, rng_seed: int) -> tuple[Arch | SuperArch, dict[str, Tensor]]:
    """Return a network and its weights, by our names.

    Args:
        network: as for `find_network`.
        weights: a file (safetensors, or a state dict by torch), ``pretrained`` or ``random``; None: ``pretrained``,
            which for a file ``x.json`` is the ``x.safetensors`` beside it.
        rng_seed: of random weights.

    Raises:
        FnaError: there are none, or they do not fit.
    """
    from fna.nets.network import Backbone
    from fna.nets.supernet import SuperBackbone
    from fna.rng import seeded
    from fna.seeds import load_seed
    from fna.seeds.finding import PRETRAINED, existing

    arch = find_network(network)
    if weights in RANDOM:
        with seeded(rng_seed, "initial weights"):
            model = SuperBackbone(arch) if isinstance(arch, SuperArch) else Backbone(arch)
        return arch, dict(model.state_dict())
    if isinstance(arch, Arch):
        seed = load_seed(network, weights or PRETRAINED)
        assert seed.state is not None, "a seed with weights has a state"
        return seed.arch, seed.state
    beside = Path(os.path.expanduser(network)).with_suffix(".safetensors")
    state = read_state(beside if weights in (None, PRETRAINED) else existing(weights))
    backbone = {name.removeprefix("backbone."): t for name, t in state.items() if name.startswith("backbone.")}
    return arch, backbone or state  # of a task's network the head stays behind


def _read_space(path: Path) -> SuperArch | None:
    """Read a super network's JSON; None if the file holds something else."""
    if not os.path.isfile(path):
        return None
    try:
        data = json.loads(read_vouched(path))
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or not {"seed", "stages"} <= set(data):
        return None
    try:
        return SuperArch.from_json(data)
    except FnaError as error:
        raise FnaError(f"{path}: {error}") from error


def fit_to_source(dst: Arch | SuperArch, src: Arch | SuperArch, state: Mapping[str, Tensor]) -> Arch | SuperArch:
    """Return a destination that computes with the source's weights what the source does.

    Activation, batch-norm epsilon and padding are the source's (net_config text says nothing of them, another seed's
    may differ). Head and classifier are left out unless the weights hold such ones: they are copied or absent.

    Args:
        dst: the destination of a remapping.
        src: the source.
        state: the source's weights.
    """
    from fna.arch.weights import tail_shapes

    seed = src.seed if isinstance(src, SuperArch) else src
    if isinstance(dst, SuperArch):
        return replace(dst, seed=_computing_as(dst.seed, seed))
    fits = all(name in state and tuple(state[name].shape) == shape for name, shape in tail_shapes(dst).items())
    return _computing_as(dst if fits else replace(dst, head_channels=0, num_classes=0), seed)


def _computing_as(arch: Arch, seed: Arch) -> Arch:
    return replace(arch, activation=seed.activation, norm_eps=seed.norm_eps, padding=seed.padding)


def report_rows(report: Sequence[Row]) -> list[dict[str, Any]]:
    """Return a remapping's report ready for tables: shares of the tensor's elements, and of the source's dropped."""
    return [{"tensor": row.tensor, "source": row.source, "rule": row.rule, **row.shares} for row in report]


def report_csv(report: Sequence[Row]) -> str:
    """Return a remapping's report as CSV, shares to four digits; no source is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("tensor", "source", "rule", "copied", "new", "dropped"))
    for row in report_rows(report):
        writer.writerow(f"{value:.4g}" if isinstance(value, float) else value for value in row.values())
    return text.getvalue()


def write_remapped(
    folder: Path,
    arch: Arch | SuperArch,
    state: Mapping[str, Tensor],
    report: Sequence[Row],
    summary: Mapping[str, Any],
) -> dict[str, str]:
    """Write a remapped network, each file at once or not at all.

    Args:
        folder: where; made if it is missing.
        arch: the network that was filled.
        state: its weights.
        report: where they came from.
        summary: what `remap.summarise` says of it.

    Returns:
        The files by what they hold. ``fna remap --from FOLDER/arch.json`` reads architecture and weights back.
    """
    files = {"weights": folder / "arch.safetensors", "arch": folder / "arch.json"}
    files |= {"report": folder / "remap.csv", "summary": folder / "remap.json"}
    write_state(files["weights"], state)
    write_json(files["arch"], arch.to_json())
    write_text(files["report"], report_csv(report))
    write_json(files["summary"], summary)
    return {name: str(path) for name, path in files.items()}
