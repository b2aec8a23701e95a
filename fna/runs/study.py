"""Studies: a grid of runs on one recipe, some of which share a super network, and the table they make."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import ValidationError

from fna.arch.target import Form
from fna.config import Config, make_config, merge
from fna.config.sections import FileName, Section, Several, note
from fna.config.strict_yaml import parse_yaml
from fna.errors import FnaError, nearest
from fna.files import TEMPORARY, os_errors, read_text, write_json, write_text
from fna.progress import first_rank, say
from fna.reporting.controls import spread
from fna.reporting.rows import charged_minutes
from fna.reporting.study import study_markdown, study_page
from fna.runs import pipeline
from fna.runs.folder import Folder
from fna.runs.jobs import alone, finish, share_network, share_of, with_settings
from fna.runs.manifest import SEED_FOLDER
from fna.runs.opening import flatten
from fna.runs.run import Run
from fna.runs.saved import ADAPTED

RESULTS = ("study.json", "study.md", "study.html")
OWN = (f"adapt.name={ADAPTED}", "baseline=false")
SETTINGS = dict[str, Any]


class Row(Section):
    """A row of a study."""

    name: FileName = note("row", "of its run folders")
    title: str = note("", "what the table calls it; empty: its name")
    share: str | None = note(None, "the row whose super network, and target, it takes; null: it searches")
    target: str | None = note(None, "the row whose target it takes; null: that of its super network")
    settings: SETTINGS = note({}, "what differs from the recipe; 2x is twice the recipe's number")
    article: str = note("", "what the article found")
    needs: Several[str] = note((), "settings without which it is left out; in the other rows they are null")


class Study(Section):
    """A study: a file of studies/, or one's own."""

    title: str = ""
    curves: bool = note(False, "whether loss and score are drawn against epochs")
    settings: SETTINGS = note({}, "of all rows, which may change them")
    rows: Several[Row] = ()


@dataclass(frozen=True)
class Job:
    """A row under an RNG seed.

    Args:
        row: of the study.
        folder: its run folder.
        config: its settings.
        share: the job whose super network it takes.
        target: the job whose target it takes.
    """

    row: Row
    folder: Path
    config: Config
    share: Job | None = None
    target: Job | None = None


def known_studies() -> dict[str, Path]:
    """Return the studies that come with fna, by name."""
    folder = Path(str(files("fna.runs"))) / "studies"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_study(name: str) -> Study:
    """Read a study.

    Args:
        name: of one that comes with fna, or a file.

    Raises:
        FnaError: there is none, or something in it is wrong.
    """
    known = known_studies()
    path = known.get(name, Path(name).expanduser())
    if not path.is_file():
        raise FnaError(f"unknown study '{name}'{nearest(name, known)}; known: {', '.join(known)}; or give a file")
    try:
        study = Study.model_validate(parse_yaml(read_text(path), str(path)))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise FnaError(f"{path}: {where}: {first['msg']}") from error
    rows = {row.name: row for row in study.rows}
    if not rows or len(rows) < len(study.rows):
        raise FnaError(f"{path}: a study has rows, each with a name of its own")
    for row in study.rows:
        for key, other in (("share", row.share), ("target", row.target)):
            if other is not None and (other not in rows or other == row.name or rows[other].share):
                free = [n for n, r in rows.items() if not r.share and n != row.name]
                raise FnaError(
                    f"{path}: {key} of row '{row.name}' is '{other}'{nearest(other, free)}; expected a row that "
                    f"searches: {', '.join(free) or 'there is none'}"
                )
    return study


def plan_study(study: Study, recipe: Config, folder: Path, rng_seeds: int) -> list[Job]:
    """Return the jobs of a study, all rows of an RNG seed before the next; without those that need what is not given.

    Raises:
        FnaError: a row's settings are wrong, or `folder` holds something else.
    """
    with os_errors("open", folder):
        names = [entry.name for entry in folder.iterdir()] if folder.exists() else []
    ours = (*RESULTS, ".summary.lock")
    if foreign := [n for n in names if n not in ours and not SEED_FOLDER.fullmatch(n) and not TEMPORARY.fullmatch(n)]:
        raise FnaError(f"{folder} is no folder of a study: it has {foreign[0]}; give a new or empty one with --run")
    jobs, given = [], flatten(recipe.model_dump(mode="json", by_alias=True))
    rows = [row for row in study.rows if all(given.get(key) is not None for key in row.needs)]
    for row in study.rows:
        if row not in rows:
            say(f"study: row '{row.name}' is left out, it needs {' '.join(f'--{key} FILE' for key in row.needs)}")
    for k in range(rng_seeds):
        made: dict[str, Job] = {}
        for row in sorted(rows, key=lambda row: row.share is not None):  # those that others need first
            config = _settings(study, row, recipe, k, made[row.target].config if row.target in made else None)
            others = {key: made[name] for key, name in (("share", row.share), ("target", row.target)) if name in made}
            made[row.name] = Job(row, folder / f"seed_{k}" / row.name, config, **others)
        jobs += [made[row.name] for row in rows]
    return jobs


def _settings(study: Study, row: Row, recipe: Config, rng_seed: int, target: Config | None) -> Config:
    """Return a row's settings; what it takes from other rows it says to have been made as it was."""
    whole = recipe.model_dump(mode="json", by_alias=True)
    source = next((other for other in study.rows if other.name == row.share), None)
    inherited = {k: v for k, v in (source.settings if source else {}).items() if not k.startswith("adapt.")}
    unneeded = {key: None for other in study.rows for key in other.needs if key not in row.needs}
    changes = with_settings(recipe, {**study.settings, **unneeded, **inherited, **row.settings})
    if target:
        budget = target.search.budget if target.derive.budget is None else target.derive.budget
        chooser = target.derive.chooser or target.search.chooser
        changes += [f"derive.budget={'null' if budget is None else budget}", f"derive.chooser={chooser}"]
    return make_config(merge(whole, [*changes, *OWN, f"engine.rng_seed={rng_seed}"]), f"row '{row.name}'")


def run_study(study: Study, jobs: Sequence[Job], folder: Path, array: str | None = None) -> dict[str, Any]:
    """Do a study, or go on with it.

    Args:
        study: of `read_study`.
        jobs: of `plan_study`.
        folder: of their folders, and of study.json, study.md and study.html.
        array: ``K/N``: do the K-th of N parts of it.

    Returns:
        What study.json says, as far as there is something; see `summarise`.
    """
    for job in share_of(jobs, array):
        say(f"study: {job.folder}")
        for needed in (job.share, job.target):
            if needed:
                _search(needed)
        with alone(job.folder):
            if job.share:
                share_network(job.share.folder, job.folder, job.config)
            if job.target:
                _take_target(job.folder, job.target.folder)
            with Run.open(job.folder, job.config) as run:
                finish(run)
        summarise(study, jobs, folder)
    return summarise(study, jobs, folder)


def _search(job: Job) -> None:
    """Let a row search that others wait for, unless it has."""
    with alone(job.folder), Run.open(job.folder, job.config) as run:
        for name in ("expand", "search", "derive"):
            pipeline.stage(run, name)


def _take_target(folder: Path, source: Path) -> None:
    """Give a run the target of another."""
    with Folder.open(folder) as taker:
        if not taker.finished("derive:derived"):
            taker.adopt("derive:derived", Folder.open(source, writer=False))


# --- the table --------------------------------------------------------------------------------------------------------


def summarise(study: Study, jobs: Sequence[Job], folder: Path) -> dict[str, Any]:
    """Write study.json, study.md and study.html from all that is finished.

    Returns:
        JSON-ready: ``title``, ``metric`` (its title), ``rng_seeds``, ``rows`` (title, what the article found,
        ``score``: see `controls.spread`, means of params, MAdds and minutes, ``entries`` by RNG seed) and ``missing``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".summary.lock"):
        entries: dict[str, list[dict[str, Any]]] = {row.name: [] for row in study.rows}
        missing, metric = [], ""
        for job in jobs:
            entry = _entry(job)
            if entry is None:
                missing.append(job.folder.relative_to(folder).as_posix())
            else:
                entries[job.row.name].append(entry)
                metric = entry.pop("metric")
        done = {
            "title": study.title,
            "metric": metric,
            "rng_seeds": sorted({job.config.engine.rng_seed for job in jobs}),
            "rows": [_row(row, entries[row.name]) for row in study.rows],
            "missing": missing,
        }
        if first_rank():
            write_json(folder / RESULTS[0], done)
            write_text(folder / RESULTS[1], study_markdown(done))
            first = [job for job in jobs if job.config.engine.rng_seed == jobs[0].config.engine.rng_seed]
            curves = {job.row.title or job.row.name: job.folder for job in first} if study.curves else {}
            write_text(folder / RESULTS[2], study_page(folder, done, curves))
    return done


def _entry(job: Job) -> dict[str, Any] | None:
    """Return what a job has come to; None: it is not finished."""
    if not (job.folder / "metrics.json").exists():
        return None
    run = Folder.open(job.folder, writer=False)
    if not run.finished("evaluate"):
        return None
    metrics = run.read_json("evaluate", "metrics.json")
    row = metrics["rows"][ADAPTED]
    minutes = row["minutes"] + charged_minutes(row, metrics["search_minutes"])
    known = {key: row.get(key) for key in ("params", "madds", "epochs", *Form._fields)}
    about = {"rng_seed": job.config.engine.rng_seed, "score": row[metrics["metric"]], "minutes": minutes}
    return {**about, **known, "metric": metrics["titles"][metrics["metric"]], "folder": job.folder.as_posix()}


def _row(row: Row, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    means = {
        key: statistics.mean(entry[key] for entry in entries) if entries else None
        for key in ("params", "madds", "minutes")
    }
    score = spread([entry["score"] for entry in entries])
    about = {"name": row.name, "title": row.title or row.name, "article": row.article}
    return {**about, "score": score, **means, "entries": list(entries)}
