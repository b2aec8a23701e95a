"""Measured latency as a cost: what each block takes on a device, looked up by its shape and resolution. No torch here.

A table answers for a network as the sum of its blocks and of the rest: stem, head and what lies between the blocks. The
rest is what the seed's whole network took less its blocks, so the seed's own latency is met exactly. Times are whole
nanoseconds, so that sums of them are exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from fna.arch import Arch, Block, Candidates, SuperArch
from fna.config.budgets import NS_PER_MS
from fna.cost.madds import CostTable, SizeHW, backbone_rows
from fna.errors import FnaError, quoted
from fna.files import fingerprint, json_bytes, read_json, write_json

FORMAT = 1
MACHINE = ("device", "processor", "threads", "precision", "backend", "version")  # what is said of it
PRECISIONS = ("fp32", "bf16", "fp16")
TABLE = "latency.json"  # what a table is called unless told


@dataclass(frozen=True)
class LatencyTable:
    """What was measured on one machine, at batch size 1.

    Args:
        machine: what latencies depend on: device, threads, precision, backend ...
        ns: by the name of a block (`block_name`) or of a network's rest (`Problem.rest_name`).
        path: its file.
    """

    machine: Mapping[str, str]
    ns: dict[str, int] = field(default_factory=dict)
    path: str = TABLE

    def of(self, name: str) -> int:
        """Return what a block or a rest takes, in ns.

        Raises:
            FnaError: it was not measured.
        """
        if name not in self.ns:
            raise FnaError(
                f"the latency table {self.path} ({said(self.machine)}) has no '{name}'; measure what is missing on "
                f"that machine, with the settings of this network: fna latency RECIPE --table {quoted(self.path)} ..."
            )
        return self.ns[name]

    @property
    def digest(self) -> str:
        """Tells tables apart, whatever their files are called."""
        content = json_bytes({"machine": dict(self.machine), "ns": {name: self.ns[name] for name in sorted(self.ns)}})
        return str(fingerprint(content)["sha256"])

    def write(self, **about: Any) -> None:
        """Write the file, in ms; `about`: what else to say of the measurement, JSON-ready."""
        ms = {name: ns / NS_PER_MS for name, ns in self.ns.items()}
        write_json(Path(self.path), {"format": FORMAT, "machine": dict(self.machine), **about, "ms": ms})


def named_latencies(file: str | None) -> LatencyTable:
    """Return the table that ``search.latency_table`` names.

    Raises:
        FnaError: none is given, or it cannot be read.
    """
    if file is None:
        raise FnaError(
            "a cost in ms needs measured latencies; measure them on the device that counts: fna latency RECIPE, "
            f"then give --search.latency_table {TABLE}"
        )
    return read_latencies(file)


def read_latencies(path: str | Path) -> LatencyTable:
    """Read a table.

    Raises:
        FnaError: there is none, or the file holds something else.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FnaError(f"there is no latency table {file}; measure one: fna latency RECIPE --table {quoted(file)}")
    stat = file.stat()
    return _read(file, stat.st_mtime_ns, stat.st_size)


@lru_cache(8)
def _read(file: Path, mtime_ns: int, size: int) -> LatencyTable:
    """Read a table that is as it was at some time; costs of a space ask for it once for each of its forms."""
    record = read_json(file)
    try:
        if record["format"] != FORMAT:
            raise FnaError(f"{file} is a latency table of format {record['format']}, this fna reads format {FORMAT}")
        machine = {str(key): str(value) for key, value in record["machine"].items()}
        if missing := [key for key in MACHINE if key not in machine]:
            raise ValueError(f"its machine has no {missing[0]}")
        if not machine["threads"].isdecimal() or machine["precision"] not in PRECISIONS:
            raise ValueError(f"its machine is {said(machine)}")
        ns = {str(name): round(float(ms) * NS_PER_MS) for name, ms in record["ms"].items()}
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise FnaError(f"{file} is no latency table: {type(error).__name__} {error}") from error
    return LatencyTable(machine, ns, str(file))


def said(machine: Mapping[str, str]) -> str:
    """Name a machine in a line."""
    return ", ".join(f"{value} {key}" if value.isdigit() else value for key, value in machine.items())


def differences(wanted: Mapping[str, str], given: Mapping[str, str]) -> str:
    """Say in what machines differ; empty: they are alike for latencies."""
    keys = [key for key in {**wanted, **given} if wanted.get(key) != given.get(key)]
    return ", ".join(f"{key} {given.get(key)} in place of {wanted.get(key)}" for key in keys)


def block_name(block: Block, size_hw: SizeHW, arch: Arch) -> str:
    """Name a block by all that its latency depends on.

    Args:
        block: not a skip.
        size_hw: size of its input.
        arch: of its activation and padding.

    >>> from fna.arch import Stem
    >>> block = Block("mbconv", 16, 24, kernel=5, stride=2, expansion=6)
    >>> block_name(block, (60, 80), Arch(Stem(16), ((block,),)))
    'mbconv k5e6 16>24 stride 2 relu6 symmetric at 60x80'
    """
    shape = f"{block.kind} {block.label} {block.in_channels}>{block.out_channels} stride {block.stride}"
    dilation = f" dilation {block.dilation}" if block.dilation > 1 else ""
    return f"{shape}{dilation} {arch.activation} {arch.padding} at {size_hw[0]}x{size_hw[1]}"


def placed(space: Arch | SuperArch, size_hw: SizeHW) -> list[tuple[Candidates, SizeHW]]:
    """Return the candidates of every layer with the size of their input; a network has one at each.

    Args:
        space: at the output stride it runs with.
        size_hw: size of the image.
    """
    layers = [(block,) for _, block in space.layers()] if isinstance(space, Arch) else [c for _, c in space.layers()]
    first = space if isinstance(space, Arch) else space.path_arch([0] * len(layers))
    return list(zip(layers, (row.out_hw for row in backbone_rows(first, size_hw)), strict=False))


def latency_table(space: SuperArch, size_hw: SizeHW, latencies: LatencyTable) -> CostTable:
    """Return what every candidate of every layer takes, in ns, 0 for a skip: Eq. 9's cost_o; see `cost_table`."""
    return [[_block_ns(b, at_hw, space.seed, latencies) for b in blocks] for blocks, at_hw in placed(space, size_hw)]


def layers_ns(arch: Arch, size_hw: SizeHW, latencies: LatencyTable) -> int:
    """Return what the layers of a backbone take together, in ns."""
    return sum(_block_ns(block, at_hw, arch, latencies) for (block,), at_hw in placed(arch, size_hw))


def _block_ns(block: Block, size_hw: SizeHW, arch: Arch, latencies: LatencyTable) -> int:
    return 0 if block.kind == "skip" else latencies.of(block_name(block, size_hw, arch))
