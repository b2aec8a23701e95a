"""The report of a run: one self-contained HTML page made from the files of its folder. No torch at import.

A section of the page is a function from the folder to a `Part`; `SECTIONS` lists them in order.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from fna.errors import FnaError, quoted
from fna.reporting import controls, exported, headline, results, searched, targets
from fna.reporting.parts import DAMAGES, Part, Table, read_config, unusable
from fna.runs.manifest import seed_folders

PACKAGES = ("fna", "torch", "torchvision", "timm")
DATED = (  # names or patterns
    *("config.yaml", "super.json", "found.json", "targets/*.json", "*/network.safetensors"),
    *("metrics.json", "metrics_test.json"),
)


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Args:
        title: its heading.
        files: what it is made from: names or patterns in the run folder; of "A or B" one is enough.
        command: the `fna` command that writes them.
        fill: makes it.
    """

    title: str
    files: tuple[str, ...]
    command: str
    fill: Callable[[Path], Part]


def write_report(
    folder: Path,
    *,
    now: datetime | None = None,
    versions: Mapping[str, str] | None = None,
    machine: str | None = None,
) -> str:
    """Return the report of a run, or of runs of several RNG seeds, as one HTML page that refers to no other file.

    A file that is missing or unreadable costs its section only, which then says which command makes it.

    Args:
        folder: the run folder, finished or not.
        now: time of writing; None: the present.
        versions: package -> version; None: those installed.
        machine: what computed; None: this machine.

    Raises:
        FnaError: there is no such folder.
    """
    if not folder.is_dir():
        raise FnaError(f"there is no run folder {folder}; start one with: fna run RECIPE --run {quoted(folder)}")
    now = now or datetime.now(UTC)
    rows = [
        *(installed_versions() if versions is None else versions).items(),
        ("machine", describe_machine() if machine is None else machine),
        *((path.relative_to(folder).as_posix(), _date(path.stat().st_mtime)) for path in _dated(folder)),
        ("this page", f"{now:%Y-%m-%d %H:%M %Z}".rstrip()),
    ]
    caption = "Versions and machine are those this page was written with, dates those of the files."
    about = Table(caption, ("", ""), rows, words=2)
    shown = SECTIONS_OF_SEVERAL if seed_folders(folder) else SECTIONS
    sections = [(section.title, *_fill(section, folder)) for section in shown]
    if any(folder.glob(EXPORT.files[0])):
        sections.append((EXPORT.title, *_fill(EXPORT, folder)))
    sections.append(("Versions, machine, dates", Part(tables=[about]), ""))
    said = [section for section in sections if section[1:] != (Part(), "")]  # not every task has every section
    return render(_title(folder), folder, said)


def render(title: str, folder: Path, sections: Sequence[tuple[str, Part, str]]) -> str:
    """Return a page of sections: title, content, and the hint that stands in its place where there is none."""
    environment = Environment(
        loader=PackageLoader("fna.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(title=title, folder=folder, sections=sections)


def installed_versions() -> dict[str, str]:
    """Return the versions of python and of the packages that results depend on."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def describe_machine() -> str:
    """Return system, processor type, cores and device in one line."""
    import torch  # takes seconds: only where it is needed

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {device}"


def _fill(section: Section, folder: Path) -> tuple[Part, str]:
    """Return a section's content and, where there is none, the hint that stands in its place."""
    command = f"fna {section.command} {quoted(folder)}"
    missing = [name for name in section.files if not any(any(folder.glob(one)) for one in name.split(" or "))]
    if missing:
        return Part(), f"Not there yet: {' and '.join(missing)}. To make it, type: {command}"
    try:
        return section.fill(folder), ""
    except DAMAGES as error:
        return Part(), unusable(" or ".join(section.files), error, command)


def _dated(folder: Path) -> list[Path]:
    return [path for pattern in DATED for path in sorted(folder.glob(pattern))]


def _title(folder: Path) -> str:
    runs = seed_folders(folder)
    with suppress(FnaError):
        if (config := read_config(next(iter(runs.values()), folder))) is not None:
            data = Path(config.data.root or "").name or config.data.format
            title = f"{config.seed.name} → {config.task.model} on {data}"
            return f"{title}, {len(runs)} RNG seeds" if runs else title
    return folder.resolve().name


def _date(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M UTC}"


SECTIONS = (
    Section("Result", ("metrics.json",), "evaluate", headline.result),
    Section("Next", ("metrics.json",), "evaluate", headline.next_steps),
    Section("Controls", ("metrics.json", "controls.json"), "controls", controls.controls),
    Section("Architecture", ("seed.json", "targets/*.json"), "derive", targets.architecture),
    Section("Search", ("search.csv",), "search", searched.search),
    Section("Evidence", ("entropy.csv or found.json",), "search", searched.evidence),
    Section("Adaptation", ("*/scores.csv",), "adapt", results.scores),
    Section("Classes", ("metrics.json",), "evaluate", results.classes),
    Section("Curves", ("metrics.json",), "evaluate", results.curves),
    Section("Predictions", ("predictions/*_image.png",), "evaluate", results.predictions),
    Section("Remapping", ("remap.json",), "expand", searched.remapping),
    Section("Configuration", ("config.yaml",), "run", searched.configuration),
)
SECTIONS_OF_SEVERAL = (Section("Controls", ("seed_*/metrics.json",), "controls", controls.several),)  # RNG seeds
EXPORT = Section("Export", ("*/onnx/export.json",), "export", exported.exports)  # where there is one
