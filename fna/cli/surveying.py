"""The command `fna data`: what is in a data set, six samples of it, and settings that fit."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fna.cli.networks import AsJson, example
from fna.cli.tables import show_json, show_table, table
from fna.errors import FnaError, quoted
from fna.progress import quiet

if TYPE_CHECKING:
    from fna.config import Config
    from fna.data.suggesting import Suggestion
    from fna.data.surveying import Survey

SHOWN, MOST_LINES = 5, 12  # copies of each kind, and lines about a split
RECIPES, PICTURES = (".yaml", ".yml"), (".png", ".jpg", ".jpeg", ".webp")


def add_data(app: typer.Typer) -> None:
    """Give `app` the command."""
    app.command(
        epilog=example(
            "fna data photos/cells --out sheet.png",
            "fna data photos/cells --write-recipe cells.yaml",
            "fna data recipes/camvid_deeplabv3.yaml --data.root data/camvid --json",
        )
    )(data)


def data(
    ctx: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="RECIPE|FOLDER", show_default=False, help="What to look through.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw six samples with their truth.")] = None,
    recipe: Annotated[
        Path | None, typer.Option("--write-recipe", metavar="FILE", help="Write a recipe for the folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what is in a data set, what is wrong with it, and which settings fit; nothing is trained.

    Counts by class and split, sizes, absent and rare classes, copies within and across splits, flaws of all splits.
    Every setting can be changed by a dotted option.
    """
    from fna.config import make_config
    from fna.data.suggesting import suggest, why_no_recipe
    from fna.data.surveying import survey

    _check_names(recipe, out)
    with quiet(as_json):
        config, others, settings = _config(source, ctx.obj or ())
        if recipe is not None and settings is None:
            raise FnaError(f"{source} is a recipe already; give the data set's folder to have one written")
        seen = survey(config)
        config = seen.config if settings is None else _fit(seen, source, settings)
        advice = suggest(config, seen.found)
        sections = _sections(source, config, settings or (), advice)
        why_not = "" if settings is None else why_no_recipe(make_config(sections), seen.found)
    if recipe is not None and why_not:
        raise FnaError(f"{source}: {why_not}; no recipe is written")
    written = []
    if out is not None and seen.opened:
        from fna.cli.sheet import draw_sheet

        draw_sheet(config, seen.opened, out)
        written.append(out)
    if recipe is not None:
        _write_recipe(recipe, source, sections)
        written.append(recipe)
    sizes = _at_crop(config, settings, seen.found, advice)
    if as_json:
        suggestions = {row.key: row.value for row in advice}
        return show_json({**seen.found, "readable_as": others, "at_crop": sizes, "suggestions": suggestions})
    _show(seen.found, sizes)
    if out is not None and out not in written:
        print(f"not written: {out}, since no split can be opened")
    _advise(advice, source, others, written, why_not)


def _check_names(recipe: Path | None, out: Path | None) -> None:
    """Refuse names of files that cannot be written."""
    if recipe is not None and recipe.exists():
        raise FnaError(f"{recipe} is there already; give another name, or delete it")
    if out is not None and out.suffix.lower() not in PICTURES:
        raise FnaError(f"--out is {out}; expected a picture's name that ends in {' or '.join(PICTURES)}")
    if out is not None and not out.parent.is_dir():
        raise FnaError(f"there is no folder {out.parent} for {out.name}")


def _config(source: Path, settings: Sequence[str]) -> tuple[Config, list[str], Sequence[str] | None]:
    """Return the configuration, other tasks that a folder can be read for, and the settings if it is a folder."""
    from fna.config import load_config
    from fna.data.surveying import settle

    if source.is_dir():
        config, others = settle(source, settings)
        return config, others, settings
    if source.suffix.lower() not in RECIPES:
        what = "is no folder and no recipe" if source.exists() else "is not there"
        raise FnaError(f"{source} {what}; expected the folder of a data set, or a recipe (.yaml)")
    return load_config(source, settings), [], None


def _fit(seen: Survey, source: Path, settings: Sequence[str]) -> Config:
    """Return the configuration with the model that fits what was seen, if the settings name none."""
    from fna.config import make_config, merge
    from fna.data.suggesting import fitting_model

    model = fitting_model(seen.config.task.name, seen.found["things"])
    config = make_config(merge({"task": {"model": model}, "data": {"root": str(source)}}, settings))
    return config.model_copy(update={"data": seen.config.data})


def _at_crop(
    config: Config, settings: Sequence[str] | None, found: Mapping[str, Any], advice: Sequence[Suggestion]
) -> dict[str, Any] | None:
    """Return what is large and small at the crop, the suggested one of a folder, in pixels; None: it is not known.

    Of detection the sides of boxes and anchors, of segmentation the classes that are mostly in larger or smaller ones.
    """
    from fna.config import DeepLab, Detector

    crop = config.data.crop
    if settings is not None and not any(text.startswith("data.crop=") for text in settings):
        crop = next((tuple(row.value) for row in advice if row.key == "data.crop"), crop)
    if isinstance(config.task, DeepLab) and "regions" in found:
        stride, median = config.task.stride, {n: own["median"] for n, own in found["regions"]["classes"].items()}
        larger, smaller = (
            [n for n, px in median.items() if px > min(crop)],
            [n for n, px in median.items() if px < stride],
        )
        return {"crop": list(crop), "stride": stride, "larger": larger, "smaller": smaller}
    if not isinstance(config.task, Detector) or not found["things"]:
        return None
    side = math.sqrt(crop[0] * crop[1])
    small, large = config.task.anchor_sides(crop)
    boxes = {name: round(share * side, 1) for name, share in found["things"]["share"].items()}
    return {"crop": list(crop), "boxes": boxes, "anchors": [round(small, 1), round(large, 1)]}


def _sections(source: Path, config: Config, settings: Sequence[str], advice: Sequence[Suggestion]) -> dict[str, Any]:
    """Return a recipe for a folder: what was given, and what is suggested for the rest."""
    from fna.config import merge

    sections = merge({"task": {"model": config.task.model}, "data": {"root": str(source)}}, settings)
    for row in advice:
        section, _, key = row.key.partition(".")
        sections[section] = {**sections.get(section, {}), key: sections.get(section, {}).get(key, row.value)}
    return sections


def _write_recipe(path: Path, source: Path, sections: Mapping[str, Any]) -> None:
    from fna.config import load_config
    from fna.config.strict_yaml import write_yaml
    from fna.files import write_text

    head = f"# {sections['task']['model']} on {source}, as `fna data` suggests.\n#\n#   {_run(path)}\n\n"
    write_text(path, head + write_yaml(sections))
    load_config(path)  # what cannot be read is not handed on


def _run(recipe: Path) -> str:
    return f"fna run {quoted(recipe)} --run {quoted(f'runs/{recipe.stem}')}"


# --- for people -------------------------------------------------------------------------------------------------------


def _show(found: Mapping[str, Any], sizes: Mapping[str, Any] | None) -> None:
    """Print the tables and what is remarkable."""
    splits, unit = found["splits"], found["unit"]
    title = f"{found['root']}: {found['task']}, format {found['format']}"
    if splits:
        show_table(table(_rows(splits, unit), title))
    for note in found["notes"]:
        print(note)
    for split, own in splits.items():
        print(f"sizes of {split}: {_sizes(own['sizes'], own['images'])}")
    if found["things"]:
        things, what = found["things"], "people" if unit == "joints" else "boxes"
        spread = f"{things['smallest']:g} to {things['largest']:g} pixels, half below {things['median']:g}"
        print(f"{what}: {spread} (root of the area)")
    if "regions" in found:
        _show_regions(found["regions"], sizes or {})
    if sizes and "boxes" in sizes:
        (height, width), boxes, anchors = sizes["crop"], sizes["boxes"], sizes["anchors"]
        print(
            f"at the crop of {height} x {width}: boxes {boxes['smallest']:g} to {boxes['largest']:g}, 5 % below "
            f"{boxes['small']:g}; anchors {anchors[0]:g} to {anchors[1]:g}"
        )
    for split, names in found["absent"].items():
        print(f"nothing in {split} of: {_some(names, 20)}")
    if found["rare"]:
        print(f"rare: {_some(found['rare'], 20)}")
    for kind, text in (("exact", "byte for byte the same"), ("near", "nearly the same")):
        if pairs := found["copies"][kind]:
            across = [pair for pair in pairs if pair[0].partition(": ")[0] != pair[1].partition(": ")[0]]
            listed = [f"{one} = {other}" for one, other in [*across, *(pair for pair in pairs if pair not in across)]]
            print(f"{text}: {len(pairs)} pairs, {len(across)} across splits: {_some(listed, SHOWN)}")
    for split, lines in found["remarks"].items():
        more = [f"... and {len(lines) - MOST_LINES} more lines"] if len(lines) > MOST_LINES else []
        print("\n  ".join([f"remarks on {split}:", *lines[:MOST_LINES], *more]))


def _show_regions(found: Mapping[str, Any], sizes: Mapping[str, Any]) -> None:
    """Print how large the regions of each class are, and what is larger than the crop or smaller than the stride."""
    print(f"regions in {found['images']} masks (root of the area): 5 %, 50 % and 95 % of a class are in those up to")
    for name, own in found["classes"].items():
        print(f"  {name}: {own['small']:g}, {own['median']:g}, {own['large']:g} pixels")
    if sizes.get("larger"):
        height, width = sizes["crop"]
        print(f"mostly in regions larger than the crop of {height} x {width}: {_some(sizes['larger'], 20)}")
    if sizes.get("smaller"):
        print(f"mostly in regions smaller than the output stride of {sizes['stride']}: {_some(sizes['smaller'], 20)}")


def _rows(splits: Mapping[str, Any], unit: str) -> list[dict[str, Any]]:
    """Return the table of counts: a line for the images, then one a class."""
    total = {split: own["images"] for split, own in splits.items()}
    rows: list[dict[str, Any]] = [{"": "images", **{split: f"{n:,}" for split, n in total.items()}}]
    if unit == "joints":
        rows.append({"": "people", **{split: f"{own['records']:,}" for split, own in splits.items()}})
    names = dict.fromkeys(name for own in splits.values() for name in own["classes"])
    for name in names:
        cells = {split: own["classes"].get(name, {"count": 0, "images": 0}) for split, own in splits.items()}
        rows.append({"": name, **{split: _cell(cell, splits[split], unit) for split, cell in cells.items()}})
    if any(own["ignored"] for own in splits.values()):
        ignored = {split: {"count": own["ignored"], "images": 0} for split, own in splits.items()}
        rows.append({"": "(no class)", **{split: _cell(cell, splits[split], unit) for split, cell in ignored.items()}})
    return rows


def _cell(cell: Mapping[str, int], own: Mapping[str, Any], unit: str) -> str:
    """Return a class's count in a split: pixels as a share, and in how many images it is."""
    if not cell["count"]:
        return "none"
    if unit != "pixels":
        return f"{_some_of(cell['count'], unit)} in {_some_of(cell['images'], 'images')}"
    total = own["ignored"] + sum(other["count"] for other in own["classes"].values())
    where = f" in {_some_of(cell['images'], 'images')}" if cell["images"] else ""
    return f"{100 * cell['count'] / total:.3g} %{where}"


def _some_of(n: int, things: str) -> str:
    """Return a number of things, of which one loses its s; boxes, joints or images.

    >>> _some_of(1, "boxes"), _some_of(1, "images"), _some_of(1200, "joints")
    ('1 box', '1 image', '1,200 joints')
    """
    return f"{n:,} {things if n != 1 else {'boxes': 'box'}.get(things, things[:-1])}"


def _sizes(sizes: Mapping[str, Any], images: int) -> str:
    text = {name: "{} x {}".format(*sizes[name]) for name in ("smallest", "largest", "commonest")}
    if sizes["different"] == 1:
        return f"{text['commonest']}"
    return (
        f"{sizes['different']} from {text['smallest']} to {text['largest']}; {text['commonest']} is that of "
        f"{sizes['of']} of {images}"
    )


def _some(texts: Sequence[str], most: int) -> str:
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def _advise(
    advice: Sequence[Suggestion], source: Path, others: Sequence[str], written: Sequence[Path], why_not: str
) -> None:
    """Print settings to paste, what else the folder is, what was written, and what to type next."""
    print("suggested:")
    texts = [f"--{row.key} {quoted(_flow(row.value))}" for row in advice]
    for text, row in zip(texts, advice, strict=True):
        print(f"  {text:<{min(60, max(map(len, texts)))}}  # {row.why}")
    for other in others:
        print(f"it can be read for {other}, too: --task.name {other}")
    for path in written:
        print(f"written: {path}")
    recipes = [path for path in written if path.suffix.lower() in RECIPES]
    if recipes:
        print(f"next: {_run(recipes[0])}")
    elif why_not:
        print(f"no recipe can be written: {why_not}")
    elif source.is_dir():
        print(f"next: fna data {quoted(source)} --write-recipe {quoted(f'{source.resolve().name}.yaml')}")


def _flow(value: Any) -> str:
    """Return a value as a setting on the command line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(one)}" for key, one in value.items()) + "}"
    if isinstance(value, str):
        return value if value.replace("_", "").isalnum() and not value[0].isdigit() else json.dumps(value)
    return json.dumps(value)
