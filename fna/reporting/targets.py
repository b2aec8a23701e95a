"""The targets of a run in the report: read from their files, drawn under the seed, compared in a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import zip_longest
from pathlib import Path
from typing import Any

from fna.arch import Arch, with_output_stride
from fna.cost.shares import Parts
from fna.cost.units import with_unit
from fna.errors import quoted
from fna.reporting import figures
from fna.reporting.layouts import draw_archs
from fna.reporting.parts import DAMAGES, DASH, TIMES, Part, Table, read_config, read_json, task_settings, unusable
from fna.reporting.rows import NUMBERS, measured_text
from fna.reporting.shares import draw_shares, shares_table

DRAWN = 4  # targets under the seed; the table has all
TOGETHER = 12  # architectures of several runs in one drawing
FIRST = "derived"  # the target that a run derives by itself
LATER: dict[str, Any] = {  # keys that files of earlier versions have not
    **{"madds_parts": {}, "seed_madds_parts": {}},
    **dict.fromkeys(("latency", "memory", "output_stride", "tower_depth")),
}
CHANGES = ("blocks kept", "changed", "added", "dropped")


@dataclass(frozen=True)
class Derived:
    """What targets/NAME.json says: a target, what it costs and what it was allowed to.

    Args:
        arch: its backbone.
        head_width: channels of its head / those of the seed's.
        scale: side of its input / that of the seed's.
        output_stride: of its last feature map; None: that of the seed's.
        tower_depth: of its head; None: that of the seed's.
        path: the candidate of every layer.
        cost: of the whole network, in `unit`.
        unit: of all costs here.
        madds: multiply-adds, whatever the unit.
        params: learnable parameters.
        memory: bytes of its maps that are alive at once; None in files that do not say.
        budget: `text` as it was given and `cost` that it allows; None: no budget.
        seed_cost: of the seed's whole network.
        seed_madds: the same in multiply-adds.
        argmax_cost: of the choice without a budget; None where no alphas were chosen from.
        size_hw: height, width in pixels of the images that costs are counted for.
        counted_hw: the size they are padded to.
        disagreements: layers where the budget overrules the argmax.
        madds_parts: `madds` of stem, stages and head; empty in files that do not say.
        seed_madds_parts: the same of the seed.
        latency: predicted and measured, where that is what the budget limits.
    """

    arch: Arch
    head_width: float
    scale: float
    output_stride: int | None
    tower_depth: int | None
    path: Sequence[int]
    cost: float
    unit: str
    madds: int
    params: int
    memory: int | None
    budget: Mapping[str, Any] | None
    seed_cost: float
    seed_madds: int
    argmax_cost: float | None
    size_hw: Sequence[int]
    counted_hw: Sequence[int]
    disagreements: Sequence[Mapping[str, Any]]
    madds_parts: Parts
    seed_madds_parts: Parts
    latency: Mapping[str, Any] | None


def read_targets(folder: Path, part: Part) -> dict[str, Derived]:
    """Read all targets of a run, the one called 'derived' first; one that is damaged is left out, with a warning."""
    found = {}
    for path in sorted(folder.glob("targets/*.json"), key=lambda path: (path.stem != FIRST, path.name)):
        try:
            data = LATER | read_json(path)
            known = {field.name: data[field.name] for field in fields(Derived)}
            found[path.stem] = Derived(**{**known, "arch": Arch.from_json(data["arch"])})
        except DAMAGES as error:
            command = f"fna derive {quoted(folder)} --derive.name {path.stem}"
            part.warnings.append(unusable(f"targets/{path.name}", error, command))
    return found


def counted_at(targets: Mapping[str, Derived]) -> list[str]:
    """Say at which size each target's MAdds are counted, and at which they are where that is padded."""
    sizes: dict[str, list[str]] = {}
    for name, target in targets.items():
        size, counted = (f"{h} {TIMES} {w}" for h, w in (target.size_hw, target.counted_hw))
        padded = f", to which images of {size} are padded" if counted != size else ""
        sizes.setdefault(f"{counted} pixels (height {TIMES} width){padded}", []).append(name)
    if len(sizes) == 1:
        return [f"Counted at {size}." for size in sizes]
    return [f"{', '.join(names)}: counted at {size}." for size, names in sizes.items()]


def architecture(folder: Path) -> Part:
    """Draw the targets under the seed (article, Fig. 7), compare them, list where a budget overrules the argmax."""
    part, seed_json = Part(), read_json(folder / "seed.json")
    config = read_config(folder)
    stride = config.task.stride if config else 32
    targets = read_targets(folder, part)
    shown = dict(list(targets.items())[:DRAWN])
    seed = _dilated(Arch.from_json(seed_json["arch"]), stride)
    archs = {name: _dilated(target.arch, target.output_stride or stride) for name, target in shown.items()}
    cost = [with_unit(target.seed_cost, target.unit) for target in shown.values()][:1]
    titles = {" · ".join(["seed", seed_json["name"], _depth(seed), *cost]): seed}
    titles |= {_title(name, target, archs[name]): archs[name] for name, target in shown.items()}
    more = f" Of {len(targets)} targets the first {DRAWN} are drawn." if len(targets) > DRAWN else ""
    draw_networks(part, titles, more)
    if targets:
        part.tables.append(_table(targets, Arch.from_json(seed_json["arch"]), task_settings(folder)))
        _add_shares(part, shown)
        part.notes += [f"'{n}' {measured_text(t.latency)}." for n, t in targets.items() if t.latency]
    for name, target in shown.items():
        _add_disagreements(part, name, target)
    return part


def draw_networks(part: Part, networks: Mapping[str, Arch], more: str = "") -> None:
    """Draw networks above each other, the same layer in the same column, with the key of their kernels.

    Args:
        part: of the page.
        networks: title -> network, dilated as it runs.
        more: what else the caption says.
    """
    kernels = {block.kernel for arch in networks.values() for _, block in arch.layers() if block.kind != "skip"}
    part.key = [
        (figures.KERNEL_COLORS.get(kernel, figures.OTHER_KERNEL), f"{kernel}x{kernel} kernel")
        for kernel in sorted(kernels)
    ]
    caption = (
        "A column is a layer: the colour of its box is the kernel, the width the expansion; a bare line is a skip. "
        "Dashed frames are stages: channels above, stride (S) and dilation (D) below. Look for where a target spends "
        "what it saves elsewhere."
    )
    part.draw(draw_archs(networks), caption + more)


def side_by_side(seed_run: Path, networks: Mapping[str, Path]) -> Part:
    """Draw the backbones of fine-tuned networks under the seed's (article, Fig. 7 and 8); equal ones are one drawing.

    Args:
        seed_run: folder of a run that began with the seed.
        networks: title -> folder of a network; one that cannot be read is left out.
    """
    part = Part()
    titles: dict[Arch, str] = {}
    for title, folder in {"seed": seed_run, **networks}.items():
        try:
            record = read_json(folder / ("seed.json" if folder is seed_run else "network.json"))
            config = read_config(folder if folder is seed_run else folder.parent)
            stride = record.get("output_stride") or (config.task.stride if config else 32)
            arch = _dilated(Arch.from_json(record["arch"]), stride)
        except DAMAGES:
            continue
        titles[arch] = f"{titles[arch]}, {title}" if arch in titles else title
    shown = {title: arch for arch, title in list(titles.items())[:TOGETHER]}
    if shown:
        more = f" Of {len(titles)} architectures the first {TOGETHER} are drawn." if len(titles) > TOGETHER else ""
        draw_networks(part, shown, more)
    return part


def _add_shares(part: Part, targets: Mapping[str, Derived]) -> None:
    """Compare where seed and targets spend their MAdds; nothing to say where the files do not tell."""
    told = {name: target for name, target in targets.items() if target.madds_parts and target.seed_madds_parts}
    if told:
        networks = {"seed": next(iter(told.values())).seed_madds_parts}
        networks |= {" · ".join([name, *_factors(target)]): target.madds_parts for name, target in told.items()}
        part.draw(draw_shares(networks), "MAdds by part: a bar is a network, the numbers are shares of it in %.")
        part.tables.append(shares_table(networks))


def _title(name: str, target: Derived, arch: Arch) -> str:
    return " · ".join([name, _depth(arch), with_unit(target.cost, target.unit), *_factors(target)])


def _factors(target: Derived) -> list[str]:
    """Name what of a target's form is not the seed's."""
    head, size = target.head_width, target.scale
    factors = [f"head {head:g}{TIMES}"] * (head != 1) + [f"input {size:g}{TIMES}"] * (size != 1)
    return factors + [f"{word} {value}" for key, word in NUMBERS.items() if (value := getattr(target, key))]


def _table(targets: Mapping[str, Derived], seed: Arch, own: Mapping[str, Any]) -> Table:
    rows, varied = [], [key for key in NUMBERS if any(getattr(target, key) for target in targets.values())]
    for name, target in targets.items():
        changes = Counter(_change(*labels) for labels in _layer_pairs(seed, target.arch))
        rows.append(
            (
                name,
                ", ".join(f"{changes[what]} {what}" for what in CHANGES),
                budget_text(target),
                with_unit(target.cost, target.unit),
                f"{target.cost / target.seed_cost:.3f}",
                f"{target.params / 1e6:.3f}",
                DASH if target.memory is None else f"{target.memory / 1e6:.2f}",
                f"{target.head_width:g}",
                f"{target.scale:g}",
                *[str(getattr(target, key) or own.get(key, DASH)) for key in varied],
            )
        )
    head = (
        *("target", "against the seed", "budget", "cost", f"cost {TIMES} seed"),
        *("params (M)", "memory (MB)", f"head width {TIMES}", f"input scale {TIMES}"),
        *(NUMBERS[key] for key in varied),
    )
    caption = (
        "What was derived from the one search. Costs are those of the whole network. Look at how much of its budget a "
        "target spends."
    )
    return Table(caption, head, rows, words=3)


def budget_text(target: Derived) -> str:
    """Write a target's budget as it was given and, where that says less, as the cost it allows."""
    if target.budget is None:
        return "none"
    text, allowed = str(target.budget["text"]), with_unit(target.budget["cost"], target.unit)
    return allowed if text == allowed else f"{text} = {allowed}"


def _add_disagreements(part: Part, name: str, target: Derived) -> None:
    """List the layers where the budget overrules the argmax; nothing to say where no alphas were chosen from."""
    rows = [
        (d["layer"], d["argmax"], d["chosen"], f"{d['argmax_probability']:.3f}", f"{d['chosen_probability']:.3f}")
        for d in target.disagreements
    ]
    if rows:
        head = ("layer", "argmax", "chosen", "softmax(alpha) of argmax", "of chosen")
        without = DASH if target.argmax_cost is None else with_unit(target.argmax_cost, target.unit)
        caption = (
            f"Layers of '{name}' where its budget, {budget_text(target)}, overrules the argmax of the alphas, which "
            f"would take {without}. Look for close calls."
        )
        part.tables.append(Table(caption, head, rows, words=3))
    elif target.argmax_cost is not None:
        part.notes.append(f"The choice of '{name}' is the argmax of the alphas in every layer.")


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
