"""The README and the pages under docs are true: their tables, commands, links, outputs and code."""

from __future__ import annotations

import importlib.util
import json
import pkgutil
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image

import fna
from fna import cli
from fna.config import load_config, make_config, settings
from fna.config.strict_yaml import parse_yaml
from fna.data.synthetic import scene

ROOT = Path(__file__).resolve().parents[1]
README, REFERENCE, RESULTS_PAGE, TUTORIAL = (
    ROOT / name for name in ("README.md", "docs/reference.md", "docs/results.md", "docs/tutorial.md")
)
PAGES = [README, *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]
RESULTS = ROOT / "benchmarks" / "results"


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every `fna` command of the pages, and its words after `fna`."""
    for page in PAGES:
        for block in [*blocks(page, "sh"), *blocks(page, "console")]:
            for line in block.splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                if words[:1] == ["fna"]:
                    yield f"{page.name}: {line}", words[1:]
                elif words[:1] == ["torchrun"]:
                    yield f"{page.name}: {line}", words[words.index("fna") + 1 :]


COMMANDS = dict(commands())


def load_script(name: str) -> ModuleType:
    """Import a script of benchmarks/, which is no part of a package."""
    spec = importlib.util.spec_from_file_location(f"{name}_script", ROOT / "benchmarks" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def anchors(page: Path) -> set[str]:
    """What a link to a heading of a page can end with."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


# --- the first screen -------------------------------------------------------------------------------------------------


def test_the_readme_is_short_and_begins_with_what_counts() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 180
    first = "\n".join(lines[:40])
    (block,) = re.findall(r"^```sh\n(.*?)^```", first, re.MULTILINE | re.DOTALL)
    assert [line.split()[:2] for line in block.splitlines()] == [["make", "demo"], ["fna", "run"]]
    assert re.search(r"^!\[.+\]\(docs/\S+\.svg\)$", first, re.MULTILINE)
    assert first.count("<!-- results:") == first.count("<!-- /results -->") == 1
    for word in ("Expand", "Alphas", "Derive", "Adapt"):
        assert f"*{word}*" in first


def test_the_picture_is_of_the_table_beside_it() -> None:
    script = load_script("picture")
    drawn = (ROOT / "docs" / "found.svg").read_text(encoding="utf-8")
    result = json.loads(script.RESULT.read_text(encoding="utf-8"))
    assert f"<!-- results:{script.RESULT.stem} -->" in README.read_text(encoding="utf-8")
    assert len(drawn.encode()) < 60_000

    def texts(svg: str) -> list[str]:
        return re.findall(r"<text[^>]*>([^<]+)</text>", svg)

    assert texts(drawn) == texts(script.draw(result)), "type: python benchmarks/picture.py"


# --- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("page", "root"), [(README, ""), (RESULTS_PAGE, "../")], ids=["README", "results"])
def test_the_tables_are_those_of_the_results(page: Path, root: str) -> None:
    text = page.read_text(encoding="utf-8")
    assert load_script("pages").render(text, RESULTS, root) == text, "type: python benchmarks/pages.py"


def test_every_table_has_its_place() -> None:
    script = load_script("pages")
    text = RESULTS_PAGE.read_text(encoding="utf-8")
    names = [match[2] for match in script.MARKER.finditer(text)]
    own = [name for name in names if name in script.TABLES or not name.startswith(tuple(script.MANY))]
    assert sorted(own) == sorted(script.TABLES)
    assert text.count("<!-- results:") == text.count("<!-- /results -->") == len(names) == len(set(names))


def test_iterations_of_a_recipe_are_a_row() -> None:
    found = {"a: weight step": ("seconds", 0.25), "a: search": ("hours", 1.5), "b: adaptation step": ("bytes", 2**30)}
    rows = [{"row": name, "metric": metric, "score": score} for name, (metric, score) in found.items()]
    head, _, *lines = load_script("pages").iterations({"rows": rows}).splitlines()
    titles, *cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in (head, *lines))
    assert [{t: c for t, c in zip(titles, row, strict=True) if c} for row in cells] == [
        {"recipe": "`a`", "weight step, ms": "250", "search, GPU-hours": "1.5"},
        {"recipe": "`b`", "adaptation step, GiB": "1"},
    ]


def test_tables_are_filled_and_emptied(tmp_path: Path) -> None:
    script = load_script("pages")
    row = {"row": "seed", "metric": "mIoU", "score": 0.5871, "params": 2.5e6, "madds": 2.566e9, "minutes": 12.3}
    about = {"date": "2026-01-02", "machine": "a machine, 2 cores", "versions": {"torch": "2.14.1"}}
    (tmp_path / "bccd_retinanet_first.json").write_text(json.dumps({"rows": [row], "ratios": {}, **about}))
    (tmp_path / "steps.json").write_text(json.dumps({"rows": [], "ratios": {"vs_smp": 1.234567, "new": 3}, **about}))
    empty = (
        "a\n<!-- results:bccd_retinanet_first -->\n<!-- /results -->\nb\n<!-- results:steps -->\n<!-- /results -->\nc"
    )
    full = script.render(empty, tmp_path)
    assert "| seed | 58.7 % | 2.500 M | 2.566 G | 12.3 |" in full
    assert "| 1.23 | ≥ 1.3 |" in full
    assert "| new | 3 |  |" in full
    assert full.count("2026-01-02, a machine, 2 cores, torch 2.14.1.") == 2
    assert script.render(full, tmp_path) == full
    assert script.render(full, tmp_path / "nowhere") == empty


def test_a_gain_is_shown_with_its_spread_its_words_and_what_is_missing(tmp_path: Path) -> None:
    script = load_script("pages")
    more = {"metric": "mIoU", "params": 2.5e6, "madds": 2.566e9, "minutes": 12.3, "scale": 1.25}
    scores = {"(c) network": (0.50, 0.52), "(a) seed": (0.40, 0.44), "(b) longer": (0.55,)}
    result = {
        "rows": [{"row": title, "score": score, **more} for title, values in scores.items() for score in values],
        "ratios": {"c_minus_a_mean": 0.09, "c_minus_a_std": 0.0141, "c_minus_b_mean": -0.05, "search_share": 2.0},
        "words": ["(c) is not the best: (b) is ahead.", "Not there, RNG seed 1: (b); still to do."],
        **{"date": "2026-01-02", "machine": "a machine", "versions": {"torch": "2.14.1"}},
        "elsewhere": {"0": {"commit": "abc1234", "date": "2025-12-31", "machine": "another machine"}},
    }
    (tmp_path / "gain_leaves.json").write_text(json.dumps(result))
    full = script.render("<!-- results:gain_leaves -->\n<!-- /results -->", tmp_path)
    assert "| (a) seed | 42.0 ± 2.8 % | +9.0 ± 1.4 | 2 | 1.25 | 2.50 M | 2.566 G | 12.3 |" in full
    assert f"| (b) longer | 55.0 % | {script.MINUS}5.0 | 1 |" in full
    assert full.index("(a) seed") < full.index("(c) network")
    assert "\n- (c) is not the best: (b) is ahead.\n- Not there, RNG seed 1: (b); still to do.\n" in full
    assert "\n- RNG seed 0 was measured before, at commit abc1234: 2025-12-31, another machine.\n" in full


def test_a_gain_keeps_the_rows_of_rng_seeds_that_were_measured_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    script = load_script("gain")
    monkeypatch.setattr(script.record, "RESULTS", tmp_path / "results")
    row = dict.fromkeys(("params", "madds", "minutes", "compute_minutes", "epochs", "head_width", "scale"), 3)
    about = {"metric": "miou", "titles": {"miou": "mIoU"}, "search_minutes": 6.0, "search_compute_minutes": 6.0}

    def measure(place: Path, rng_seed: int, seed: float, found: float) -> dict[str, Any]:
        folders = {k: place / f"seed_{k}" for k in (0, 1)}
        rows = {
            "baseline": {**row, "arch": "seed", "init": "seed", "miou": seed},
            "adapted": {**row, "arch": "derived", "init": "super", "miou": found},
        }
        folder = folders[rng_seed]
        (folder / "targets").mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({**about, "rows": rows, "warnings": [f"of {rng_seed}"]}))
        (folder / "targets" / "derived.json").write_text(json.dumps({"arch": rng_seed, "disagreements": []}))
        path: Path = script.write("gain_leaves", folders)
        result: dict[str, Any] = json.loads(path.read_text())
        return result

    one = measure(tmp_path / "here", 0, 0.4, 0.5)
    assert [(row["rng_seed"], row["score"]) for row in one["rows"]] == [(0, 0.4), (0, 0.5)]
    assert sum(line.startswith("RNG seed 1, ") for line in one["missing"]) == 6
    both = measure(tmp_path / "there", 1, 0.5, 0.8)
    assert [(row["rng_seed"], row["score"]) for row in both["rows"]] == [(0, 0.4), (0, 0.5), (1, 0.5), (1, 0.8)]
    assert both["ratios"]["c_minus_a_mean"] == pytest.approx(0.2)
    assert both["search_shares"] == {"0": 2.0, "1": 2.0}
    assert both["warnings"] == ["RNG seed 0: of 0", "RNG seed 1: of 1"]
    assert {k: found["arch"] for k, found in both["found"].items()} == {"0": 0, "1": 1}
    assert [line for line in both["missing"] if "seed 0" in line] == [x for x in one["missing"] if "seed 0" in x]
    assert both["elsewhere"] == {"0": {key: one[key] for key in both["elsewhere"]["0"]}}
    again = measure(tmp_path / "third", 1, 0.5, 0.9)
    assert again["elsewhere"] == both["elsewhere"], "where it was measured first"


# --- commands and outputs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line: str) -> None:
    words, given = cli.split_settings(COMMANDS[line])
    program: Any = typer.main.get_command(cli.app)
    with program.make_context("fna", list(words), obj=given) as outer:
        name, command, rest = program.resolve_command(outer, [*outer._protected_args, *outer.args])
        with command.make_context(name, rest, parent=outer) as context:
            recipe = context.params.get("recipe")
    assert not given or name in cli.TAKE_SETTINGS
    if recipe and (ROOT / recipe).parent == ROOT / "recipes":
        load_config(ROOT / recipe, given)
    else:
        load_config(None, given)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_outputs_are_what_commands_print(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for block in blocks(page, "console"):
        command, _, output = block.partition("\n")
        assert cli.main(shlex.split(command.removeprefix("$ fna "))) == 0
        assert capsys.readouterr().out == output


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not link.startswith("https://"):
            name, _, anchor = link.partition("#")
            there = page.parent / name if name else page
            assert there.exists(), link
            assert not anchor or anchor in anchors(there), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_named_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:fna|tests|benchmarks|recipes)/[\w/.]+)`", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`(test_\w+\.py)`", text):
        assert (ROOT / "tests" / "contracts" / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_named_in_tables_exist(page: Path) -> None:
    known = {key for key, _, _ in settings()}
    sections = {key.partition(".")[0] for key in known}
    for name in re.findall(r"`(?:--)?(\w+(?:\.\w+)+)(?:[ :=][^`]*)?`", page.read_text(encoding="utf-8")):
        if name.partition(".")[0] in sections and not name.endswith((".yaml", ".json", ".csv", ".safetensors", ".py")):
            assert name in known or any(key.startswith(name + ".") for key in known) or is_symbol(name), name


def is_symbol(name: str) -> bool:
    """Whether a dotted name is a module or symbol of fna: `search.differentiable.objective`."""
    try:
        pkgutil.resolve_name(f"fna.{name}")
    except (ImportError, AttributeError):
        return False
    return True


def test_the_table_of_settings_has_the_defaults() -> None:
    defaults = {key: default for key, default, _ in settings()}
    section = REFERENCE.read_text(encoding="utf-8").partition("## Settings people change")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+?`) \| (`.+?`) \|", section, re.MULTILINE)
    assert len(rows) > 10
    for names, values in rows:
        for name, value in zip(re.findall(r"`(.+?)`", names), re.findall(r"`(.+?)`", values), strict=True):
            default = defaults[name]
            wanted = parse_yaml(value, name)
            assert (list(default) if isinstance(default, tuple) else default) == wanted, name


# --- recipes and code -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_recipes_are_valid(page: Path) -> None:
    for block in blocks(page, "yaml"):
        make_config(parse_yaml(block, page.name))


def write_scenes(root: Path, train: int = 8, val: int = 2) -> None:
    """Write synthetic scenes as a data set of format `folder` with the classes of the README's recipe."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for split, n in (("train", train), ("val", val)):
        for i in range(n):
            drawn = scene(0, split, i, (64, 96))
            Image.fromarray(drawn.image).save(root / "images" / f"{split}{i}.png")
            Image.fromarray((drawn.mask % 3).astype(np.uint8)).save(root / "masks" / f"{split}{i}.png")
        (root / f"{split}.txt").write_text("".join(f"{split}{i}\n" for i in range(n)))


TINY = """
search:
  epochs: 2
  batch_size: 2
  candidates: 3
adapt:
  epochs: 1
  batch_size: 4
  recalibrate: 1
space:
  kernels: [3, 5]
  layers: [2, 2, 3, 3, 4, 1]
task:
  channels: 16
engine:
  threads: 1
  workers: 0
"""
RANDOM_SEED = "seed: {name: mobilenet_v2_035, weights: null}\nbaseline: false\n"


def write_leaves(folder: Path, more: str = "") -> None:
    """Write the README's recipe with a tiny schedule, and its data."""
    (recipe,) = blocks(README, "yaml")
    (folder / "leaves.yaml").write_text(recipe + "  crop: [64, 64]" + TINY + more)
    write_scenes(folder / "leaves")


def test_the_python_code_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it stands, on the README's recipe with a tiny schedule, 10 small images, and the real seed."""
    code = blocks(README, "python")[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 14
    write_leaves(tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Cost(")]
    assert len(lines) == 2
    seed, target = (int(re.findall(r"madds=(\d+)", line)[0]) for line in lines)
    assert target <= 0.9 * seed


def test_the_code_that_loads_a_network_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands, beside nothing but the network's folder."""
    write_leaves(tmp_path, RANDOM_SEED)
    monkeypatch.chdir(tmp_path)
    fna.run("runs/leaves", load_config("leaves.yaml"))
    shutil.copy("leaves/images/val0.png", "photo.jpg")
    shutil.rmtree("leaves")
    Path("leaves.yaml").unlink()
    for page in (README, TUTORIAL):
        names: dict[str, Any] = {}
        exec(compile(blocks(page, "python")[-1], page.name, "exec"), names)
        model, labels = names["model"], names["labels"]
        assert model.classes == ("soil", "leaf", "stem")
        assert tuple(labels.shape) == (64, 96)
        assert tuple(model(torch.zeros(1, 3, *model.input_size)).shape[:2]) == (1, 3)


def test_a_study_is_shown_by_data_set_and_what_is_missing(tmp_path: Path) -> None:
    script = load_script("pages")
    scores = (
        ("(1) remap", "camvid", 0, 0.5),
        ("(1) remap", "camvid", 1, 0.54),
        ("(1) remap", "bccd", 0, 0.3),
        ("(2) not", "bccd", 0, 0.1),
    )
    metrics = {"camvid": "mIoU", "bccd": "AP"}
    result = {
        "rows": [
            {
                **{"row": row, "article": "77.1 mIoU", "data": data, "metric": metrics[data]},
                **{"rng_seed": rng_seed, "score": score},
            }
            for row, data, rng_seed, score in scores
        ],
        "rng_seeds": {"camvid": [0, 1], "bccd": [0, 1]},
        "missing": ["camvid/seed_0/row2"],
        **{"date": "2026-01-02", "machine": "a machine", "versions": {"torch": "2.14.1"}},
    }
    (tmp_path / "study_table99.json").write_text(json.dumps(result))
    shown = script.render("<!-- results:study_table99 -->\n<!-- /results -->", tmp_path)
    assert "| row | the article's | camvid, mIoU, RNG seeds: 2 | bccd, AP, RNG seeds: 1 |" in shown
    assert "| (1) remap | 77.1 mIoU | 52.0 ± 2.8 % | 30.0 % |" in shown
    assert "| (2) not | 77.1 mIoU |  | 10.0 % |" in shown
    assert "Not done: camvid/seed_0/row2." in shown
