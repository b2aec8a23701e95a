"""Sections of the report about the search: architecture, curves, alphas, remapping, configuration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import zip_longest
from pathlib import Path

import numpy as np

from fna.arch import Arch, with_output_stride
from fna.files import read_json
from fna.reporting import figures
from fna.reporting.parts import Part, Table, giga, read_config, read_optional


def architecture(folder: Path) -> Part:
    """Draw the searched architecture under the seed (article, Fig. 7); list where the budget overrules the argmax."""
    seed_json, target_json = read_json(folder / "seed.json"), read_json(folder / "target.json")
    config = read_config(folder)
    stride = config.task.stride if config else 32
    seed, target = (_dilated(Arch.from_json(data["arch"]), stride) for data in (seed_json, target_json))
    part = Part()
    blocks = [block for arch in (seed, target) for _, block in arch.layers() if block.kind != "skip"]
    part.key = [
        (figures.KERNEL_COLORS.get(kernel, figures.OTHER_KERNEL), f"{kernel}x{kernel} kernel")
        for kernel in sorted({block.kernel for block in blocks})
    ]
    drawing = figures.draw_archs(
        {
            f"seed · {seed_json['name']} · {_depth(seed)} · {giga(target_json['seed_madds'])} MAdds": seed,
            f"target · {_depth(target)} · {giga(target_json['madds'])} MAdds": target,
        }
    )
    changes = Counter(_change(*labels) for labels in _layer_pairs(seed, target))
    caption = (
        "A column is a layer: the colour of its box is the kernel, the width the expansion; a bare line is a skip. "
        "Dashed frames are stages: channels above, stride (S) and dilation (D) below. Look for where the target spends "
        f"what it saves elsewhere. Against the seed: {', '.join(f'{changes[what]} {what}' for what in CHANGES)}."
    )
    part.draw(drawing, caption)
    rows = [
        (d["layer"], d["argmax"], d["chosen"], f"{d['argmax_probability']:.3f}", f"{d['chosen_probability']:.3f}")
        for d in target_json["disagreements"]
    ]
    if rows:
        head = ("layer", "argmax", "chosen", "softmax(alpha) of argmax", "of chosen")
        caption = (
            f"Layers where the budget of {giga(target_json['budget'])} MAdds overrules the argmax of the alphas, which "
            f"would take {giga(target_json['argmax_madds'])}. Look for close calls."
        )
        part.tables.append(Table(caption, head, rows, words=3))
    else:
        part.notes.append("The choice is the argmax of the alphas in every layer.")
    return part


CHANGES = ("blocks kept", "changed", "added", "dropped")


def _change(old: str, new: str) -> str:
    if old == new:
        return "skipped in both" if new == "skip" else "blocks kept"
    return "added" if old == "skip" else "dropped" if new == "skip" else "changed"


def _layer_pairs(seed: Arch, target: Arch) -> Iterable[tuple[str, str]]:
    """Yield each layer's labels in both networks; a layer that one of them does not have is a skip there."""
    for stages in zip_longest(seed.stages, target.stages, fillvalue=()):
        for old, new in zip_longest(*stages):
            yield old.label if old else "skip", new.label if new else "skip"


def _dilated(arch: Arch, output_stride: int) -> Arch:
    return with_output_stride(arch, output_stride) if arch.output_stride > output_stride else arch


def _depth(arch: Arch) -> str:
    return f"{sum(block.kind != 'skip' for _, block in arch.layers())} blocks"


def search(folder: Path) -> Part:
    """Draw the curves of the search (article, Fig. 9)."""
    part = Part()
    log = part.read_columns(folder / "search.csv")
    target = read_optional(folder / "target.json") or {}
    caption = (
        "Task loss, MAdds of the drawn paths and their expectation under the alphas, and the multiplier that holds it "
        "to the budget. Look for an expectation that settles at the dashed line."
    )
    part.draw(figures.draw_search(log, target.get("budget")), caption)
    return part


def alphas(folder: Path) -> Part:
    """Draw how decided the layers are, by epoch, and what the alphas say in the end."""
    part = Part()
    log = part.read_columns(folder / "entropy.csv")
    epochs = log.pop("epoch")
    log.pop("minutes", None)
    caption = (
        "Entropy of each layer's alphas: 1 undecided, 0 decided. Look for rows that stay bright: any choice served."
    )
    part.draw(figures.draw_entropy(list(log), epochs, np.array(list(log.values()))), caption)
    final, target = read_optional(folder / "alphas.json"), read_optional(folder / "target.json")
    if final is None:
        part.notes.append("The final alphas appear here once the search has ended.")
        return part
    arch = Arch.from_json(target["arch"]) if target else None
    chosen = {f"{s}.{n}": block.label for (s, n), block in arch.layers()} if arch else {}
    caption = "Softmax of the final alphas; a dot marks the choice. Look for dots off the brightest cell of their row."
    part.draw(figures.draw_alphas(final["layers"], chosen), caption)
    return part


def remapping(folder: Path) -> Part:
    """Say where the super network's weights came from."""
    report = read_json(folder / "remap.json")
    rows = [(rule, where["where"], str(where["layers"])) for rule, where in report["rules"].items()]
    caption = "Rules of the remapping and the layers they made. Look for anything that was not simply copied."
    shares = (
        f"Of the super network's weights {100 * report['copied']:.1f} % are copies from the seed and "
        f"{100 * report['new']:.1f} % new; {100 * report['dropped']:.1f} % of what was read from the seed was dropped."
    )
    return Part(tables=[Table(caption, ("rule", "layers", "number"), rows, words=2)], notes=[shares])


def configuration(folder: Path) -> Part:
    """Show the whole configuration."""
    return Part(text=(folder / "config.yaml").read_text(encoding="utf-8"))
