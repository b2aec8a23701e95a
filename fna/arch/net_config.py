"""Architecture files: an Arch as JSON, or the net_config text of the article's authors. No torch here."""

from __future__ import annotations

import ast
import json
from pathlib import Path

from fna.arch import Arch, Block, Stem
from fna.errors import FnaError
from fna.runs.manifest import read_vouched

# What reading text as Python's literals, and numbers from them, can raise.
MISREAD = (ArithmeticError, AttributeError, MemoryError, RecursionError, SyntaxError, TypeError, ValueError)


def to_net_config(arch: Arch) -> str:
    """Write the authors' net_config text: a line ``[[in, out], [ops], stride]`` a stage, joined by ``|`` and newline.

    Dilation has no place in the format: write the undilated network.
    """
    lines = []
    for stage in arch.stages:
        ops = ["skip" if b.kind == "skip" else f"k{b.kernel}_e{b.expansion:g}" for b in stage]
        lines.append(f"[[{stage[0].in_channels}, {stage[0].out_channels}], {ops}, {stage[0].stride}]")
    return "|\n".join(lines)


def from_net_config(text: str) -> Arch:
    """Read the authors' net_config text (MBConv networks; the 3x3/2 stem is implied).

    Raises:
        FnaError: the text does not follow the format.
    """
    stages = []
    for number, line in enumerate(text.strip().split("|")):
        try:
            (in_channels, out_channels), ops, stride = ast.literal_eval(line.strip())
            blocks = []
            for n, op in enumerate(ops):
                if op == "skip":
                    blocks.append(Block("skip", out_channels, out_channels))
                else:
                    kernel, expansion = op.split("_")
                    blocks.append(
                        Block(
                            "mbconv",
                            in_channels if n == 0 else out_channels,
                            out_channels,
                            kernel=int(kernel.removeprefix("k")),
                            stride=stride if n == 0 else 1,
                            expansion=float(expansion.removeprefix("e")),
                        )
                    )
            stages.append(tuple(blocks))
        except MISREAD as error:
            raise FnaError(
                f"net_config stage {number} is '{line.strip()[:60]}'; expected [[in, out], ['k3_e6', 'skip'], stride]"
            ) from error
    return Arch(Stem(stages[0][0].in_channels), tuple(stages))


def load_arch(path: str | Path) -> Arch:
    """Read an architecture from a file: an Arch as JSON, also inside a run's target, or the authors' net_config text.

    Raises:
        FnaError: the file is missing or holds neither, or is a run's and not as the run left it.
    """
    path = Path(path)
    try:
        text = read_vouched(path).decode()
    except UnicodeDecodeError as error:
        raise FnaError(f"cannot read the architecture file {path}: {error}") from error
    try:
        data = json.loads(text)
    except ValueError:
        return from_net_config(text)
    except RecursionError as error:
        raise FnaError(f"cannot read the architecture file {path}: it is nested too deeply") from error
    if isinstance(data, dict) and isinstance(data.get("net_config"), str):
        return from_net_config(data["net_config"])
    if isinstance(data, dict) and "stages" not in data and isinstance(data.get("arch"), dict):
        data = data["arch"]  # of a run's seed.json, target or network
    return Arch.from_json(data)
