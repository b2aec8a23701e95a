from __future__ import annotations

import base64
import html.parser
import io
import json
import random
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from fna.arch import with_output_stride
from fna.arch.net_config import from_net_config
from fna.arch.spaces import make_space
from fna.config import dump_yaml, make_config
from fna.cost.units import shown_in, with_unit
from fna.errors import FnaError
from fna.reporting import figures
from fna.reporting.layouts import draw_archs
from fna.reporting.page import SECTIONS, write_report
from fna.reporting.parts import DASH, MINUS, TIMES
from fna.reporting.rows import charged_minutes
from fna.reporting.shares import draw_shares

MOBILENET_V2 = "|".join(
    f"[[{i}, {o}], {['k3_e1' if o == 16 else 'k3_e6'] * n}, {s}]"
    for i, o, n, s in (
        (32, 16, 1, 1), (16, 24, 2, 2), (24, 32, 3, 2), (32, 64, 4, 2), (64, 96, 3, 1), (96, 160, 3, 2),
        (160, 320, 1, 1),
    )
)  # fmt: skip
CLASSES = {"road": [128, 64, 128], "car": [64, 0, 128], "<b>sky</b> & $x_1$": [70, 130, 180], "train": [0, 80, 100]}
SEED_MADDS, SEED_PARAMS, BUDGET = 24_521_712_128, 2_567_507, 24_000_000_000
MADDS = shown_in("MAdds")
NETWORKS = ("baseline", "adapted", "control")


def fake_run(folder: Path) -> Path:
    """Write a run folder as the stages leave it, with invented numbers."""
    draw, epochs, steps = random.Random(0), 6, 40
    folder.mkdir(exist_ok=True)
    seed = from_net_config(MOBILENET_V2)
    space = make_space(seed)
    config = make_config({"seed": {"name": "mobilenet_v2"}, "data": {"root": "a & b", "classes": list(CLASSES)}})
    write(folder, "config.yaml", dump_yaml(config))
    write(folder, "seed.json", {"name": "mobilenet_v2", "arch": seed.to_json()})
    write(folder, "super.json", space.to_json())
    rules = {"copy": {"layers": 2, "where": "stem, 0.0"}, "depth last": {"layers": 2, "where": "1.2, 1.3"}}
    write(folder, "remap.json", {"copied": 0.81, "new": 0.19, "dropped": 0.0, "rules": rules})
    layers = {f"{s}.{n}": [b.label for b in blocks] for (s, n), blocks in space.layers() if len(blocks) > 1}
    write_search(folder, layers, epochs, steps, draw)
    alphas = {layer: {label: draw.gauss(0, 1.2) for label in labels} for layer, labels in layers.items()}
    found = {"evidence": "alphas", "layers": alphas, "unit": "MAdds", "sampler": "uniform", "chooser": "alphas"}
    write(folder, "found.json", {**found, "minutes": 25.4, "warnings": [], "budget": {"text": "24e9", "cost": BUDGET}})
    write(folder, "targets/derived.json", target_json(alphas))
    for k, name in enumerate(NETWORKS):
        curve = [0.6 + 0.02 * k - (0.3 - 0.1 * k) * 0.6**e + draw.gauss(0, 0.004) for e in range(epochs)]
        lines = [f"{e + 1},{score:.4f},{e * 0.7:.2f}" for e, score in enumerate(curve)]
        write(folder, f"{name}/scores.csv", "\n".join(["epoch,miou,minutes", *lines]) + "\n")
        falling = [f"{i},{i // 10 + 1},{2 * 0.98**i:.5f},0.001" for i in range(10 * epochs)]
        write(folder, f"{name}/steps.csv", "\n".join(["step,epoch,loss,lr", *falling]) + "\n")
        write(folder, f"{name}/network.json", {"format": 1, "task": "segmentation", "miou": curve[-1]})
    data = {"train": 367, "val": 101, "skipped": ["0001.png: truncated"], "changed": []}
    write(folder, "metrics.json", metrics_json(data))
    write(folder, "controls.json", {"left_out": {"control_cut": "there is nothing to cut"}})
    write_pictures(folder / "predictions", np.random.default_rng(0))
    return folder


def metrics_json(data: dict[str, object], *, split: str = "val", fewer: float = 0.0) -> dict[str, Any]:
    """What evaluate writes; all scores are less by `fewer`."""
    return {
        "split": split,
        "rows": {name: metrics_row(name, k, fewer) for k, name in enumerate(NETWORKS)},
        "metric": "miou",
        "titles": {"miou": "mIoU", "pixel_accuracy": "pixel accuracy", "iou": "IoU", "recall": "recall"},
        "search_minutes": 25.4, "search_compute_minutes": 25.4, "search_peak_memory": 2**31, "colors": CLASSES,
        "warnings": ["layer 2.1 collapsed to skip in epoch 3"],
        "data": data, "settings": {"evaluate.mode": "whole", "evaluate.window": None, "data.eval_size": None},
    }  # fmt: skip


def write(folder: Path, name: str, content: object) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def copy_files(run: Path, folder: Path, *names: str) -> Path:
    for name in names:
        write(folder, name, (run / name).read_text(encoding="utf-8"))
    return folder


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def write_search(folder: Path, layers: dict[str, list[str]], epochs: int, steps: int, draw: random.Random) -> None:
    lines = ["step,epoch,task_loss,alpha_loss,expected_cost,sampled_cost,multiplier,lr"]
    entropy = [",".join(["epoch", *layers, "minutes"])]
    for epoch in range(epochs):
        for i in range(steps):
            t = (epoch * steps + i) / (epochs * steps)
            loss = 0.4 + 1.6 * 0.01**t + draw.gauss(0, 0.15 * (1.1 - t))
            moved = max(0.0, t - 0.35)
            expected = BUDGET * (1 + 0.13 * np.exp(-14 * moved))
            sampled = expected * draw.gauss(1, 0.16 * (1.05 - t))
            alpha = (
                f"{loss + 0.1:.4f},{expected:.0f},{sampled:.0f},{moved * (1 - moved):.4f}"
                if moved
                else f",{expected:.0f},{sampled:.0f},"
            )
            lines.append(f"{epoch * steps + i},{epoch},{loss:.4f},{alpha},0.01")
        values = [
            max(0.05, 1 - max(0, epoch / epochs - 0.35) * (0.3 + 1.1 * (k * 7 % 11) / 11)) for k in range(len(layers))
        ]
        entropy.append(",".join([str(epoch + 1), *(f"{v:.3f}" for v in values), "0.5"]))
    write(folder, "search.csv", "\n".join(lines) + "\n")
    write(folder, "entropy.csv", "\n".join(entropy) + "\n")


def target_json(alphas: dict[str, dict[str, float]], **changes: object) -> dict[str, Any]:
    """What derive writes: the argmax of the alphas in all layers but 5.1."""
    space = make_space(from_net_config(MOBILENET_V2))
    best = {layer: max(row, key=row.__getitem__) for layer, row in alphas.items()}
    best["5.1"] = "k3e3" if best["5.1"] != "k3e3" else "k5e3"
    path = [[b.label for b in blocks].index(best.get(f"{s}.{n}", blocks[0].label)) for (s, n), blocks in space.layers()]
    row = {
        "layer": "5.1", "argmax": "k7e6", "chosen": best["5.1"], "argmax_probability": 0.31, "chosen_probability": 0.27
    }  # fmt: skip
    return {
        "name": "derived", "arch": space.path_arch(path).to_json(), "head_width": 1.0, "scale": 1.0, "path": path,
        "cost": 23_900_000_000, "unit": "MAdds", "madds": 23_900_000_000, "params": 2_466_419,
        "budget": {"text": "24 GMAdds", "cost": BUDGET}, "seed_cost": SEED_MADDS, "seed_madds": SEED_MADDS,
        "seed_params": SEED_PARAMS, "argmax_cost": 26_100_000_000, "size_hw": [1024, 2048],
        "counted_hw": [1024, 2048], "disagreements": [row],
    } | changes  # fmt: skip


def metrics_row(name: str, k: int, fewer: float) -> dict[str, object]:
    titles = {"baseline": "fine-tuned seed", "adapted": "FNA++ network"}
    return {
        "title": titles.get(name, f"seed's architecture, weights: super ({name})"),
        "arch": "derived" if name == "adapted" else "seed", "init": "seed" if name == "baseline" else "super",
        "params": SEED_PARAMS - 100_000 * (k == 1), "madds": SEED_MADDS - 600_000_000 * (k == 1),
        "head_width": 1.0, "scale": 1.0, "miou": 0.587 + 0.021 * k - fewer,
        "iou": {c: None if c == "train" else 0.5 + 0.1 * i - 0.02 * i * k for i, c in enumerate(CLASSES)},
        "pixel_accuracy": 0.88 + 0.01 * k - fewer, "minutes": 17.25, "compute_minutes": 17.0, "peak_memory": 2**30,
        "latency": {"ms": 200.04, "runs": 50, "size_hw": [1024, 2048], "device": "cpu, 1 thread, fp32"},
        "recall": dict.fromkeys(CLASSES, 0.5), "counts": {"pixels": {c: 0 if c == "train" else 1234 for c in CLASSES}},
        "confusion": {"rows": [*CLASSES], "columns": [*CLASSES], "counts": np.eye(len(CLASSES)).tolist()},
        "epochs": 6, "rng_seed": 0,
    }  # fmt: skip


def write_pictures(folder: Path, rng: np.random.Generator) -> None:
    folder.mkdir(exist_ok=True)
    colors = np.array(list(CLASSES.values()), np.uint8)
    for i in range(6):
        photo = rng.integers(0, 255, (30, 40, 3), np.uint8)
        Image.fromarray(photo).save(folder / f"{i:02d}_image.png")
        for kind in ("truth", "baseline", "adapted", "adapted_errors"):
            mask = colors[rng.integers(0, len(colors), (3, 4))].repeat(10, 0).repeat(10, 1)
            Image.fromarray(mask).save(folder / f"{i:02d}_{kind}.png")


def report(folder: Path) -> str:
    versions = {"python": "3.11", "torch": "2.14"}
    return write_report(folder, now=datetime(2025, 1, 2, tzinfo=UTC), versions=versions, machine="2 cores")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return report(run)


class Reader(html.parser.HTMLParser):
    """Collects tags, attributes that can load something, and the text outside of styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "srcset", "data", "poster")]

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


# --- the page -------------------------------------------------------------------------------------------------------


def test_a_finished_run_fills_every_section(page: str) -> None:
    text = Reader(page).text
    for section in SECTIONS:
        assert f"<h2>{section.title}</h2>" in page
    assert "To make it" not in text
    assert page.count("<svg") == 8
    assert page.count(">minutes<") == 1  # a column of the table; no layer of entropy.csv
    assert page.count("<figcaption>") == 8 + page.count("<table>")
    assert page.count("<img") == 6 * 5
    for words in (
        "mobilenet_v2 → deeplabv3 on a & b", "layer 2.1 collapsed", "multiply-accumulates", f"1024 {TIMES} 2048",
        "torch 2.14", "machine 2 cores", "this page 2025-01-02 00:00 UTC", "81.0 % are copies", "batch_size: 8",
    ):  # fmt: skip
        assert words in text


def test_headline_numbers(page: str) -> None:
    text = Reader(page).text
    assert f"fine-tuned seed seed seed 2.568 24.522 1.000 58.70 {DASH} 88.00 17.2 6 200" in text
    assert "The RNG seed of all is 0. Memory at most: 2.00 GiB in the search, 1.00 GiB in an adaptation." in text
    assert "FNA++ network derived super 2.468 23.922 0.976 60.80 +2.10 89.00 25.4 + 17.2 6 200" in text
    assert f"car 60.0 58.0 {MINUS}2.0 56.0" in text
    assert "Budget met 99.6 % of 24.000 GMAdds" in text
    changes = re.search(r"derived (\d+) blocks kept, (\d+) changed, (\d+) added, (\d+) dropped", text)
    assert changes
    kept, changed, added, dropped = map(int, changes.groups())
    assert kept + changed + dropped == 17
    assert f"derived · {kept + changed + added} blocks · 23.900 GMAdds" in text
    assert "seed · mobilenet_v2 · 17 blocks · 24.522 GMAdds" in text
    assert f"Counted at 1024 {TIMES} 2048 pixels (height {TIMES} width)." in text


def test_an_exceeded_budget_is_said(run: Path, tmp_path: Path) -> None:
    target = read(run, "targets/derived.json")
    copy_files(run, tmp_path, "metrics.json")
    write(tmp_path, "targets/derived.json", target | {"cost": BUDGET + 10**9})
    assert "Budget exceeded 104.2 % of 24.000 GMAdds" in Reader(report(tmp_path)).text
    write(tmp_path, "targets/derived.json", target | {"budget": None})
    assert "Budget none argmax of the alphas" in Reader(report(tmp_path)).text


def test_the_page_refers_to_nothing_outside(page: str) -> None:
    reader = Reader(page)
    assert all(link.startswith(("#", "data:image/")) for link in reader.links)
    assert not {"script", "link", "iframe", "object", "embed"} & set(reader.tags)
    assert set(re.findall(r"url\((.)", page)) <= {"#"}
    assert "@import" not in page
    namespaces = page.count('xmlns="http://') + page.count('xmlns:xlink="http://')
    assert page.count("http://") == namespaces
    assert "https://" not in page


def test_users_words_are_escaped(page: str) -> None:
    assert "<b>sky" not in page
    assert "&lt;b&gt;sky&lt;/b&gt; &amp; $x_1$" in page
    assert "root: a &amp; b" in page


def test_titles_in_figures_are_plain_text() -> None:
    values = np.array([0.0, 1.0])
    svg = figures.to_svg(figures.draw_scores({"a": (values, values)}, {"a": "<i>$x_1$ & co"}, "mIoU"))
    assert "&lt;i&gt;$x_1$ &amp; co: 100.0" in svg


def test_same_folder_same_page(run: Path, page: str) -> None:
    assert report(run) == page


def test_what_was_never_there_is_said(page: str) -> None:
    """A dash beside 100 % could be anything."""
    text = Reader(page).text
    assert "the validation split has no pixels of train: no score says anything about it, and means are over" in text
    assert re.search(r"\btrain absent absent absent 0\b", text)
    assert re.search(r"\bcar 60\.0 58\.0 .2\.0 56\.0 1,234\b", text)


def test_milliseconds_are_the_networks_own(page: str) -> None:
    said = (
        "Milliseconds are the network's own, for one image of its size: the median of 50 runs on cpu, 1 thread, fp32."
    )
    assert said in Reader(page).text


def test_it_says_what_to_type_next(run: Path, page: str) -> None:
    next_part = page.partition('<section id="next">')[2].partition("</section>")[0]
    for command in ("predict", "export", "derive", "adapt", "controls", "evaluate"):
        assert f"fna {command} {run}" in next_part


def test_settings_that_are_the_defaults_are_folded(page: str) -> None:
    shown, _, folded = page.partition('<section id="configuration">')[2].partition("<details>")
    assert "seed.name: &#34;mobilenet_v2&#34;" in shown
    assert "search.alpha_start" not in shown
    assert "batch_size: 8" in folded


def test_two_pictures_fit_beside_each_other_on_a_phone(page: str) -> None:
    style = page.partition("<style>")[2].partition("</style>")[0]
    narrow = re.search(r"@media screen and \(max-width: 40rem\) \{(.*?)\n\}", style, re.DOTALL)
    assert narrow is not None
    assert ".pictures { grid-template-columns: 1fr 1fr; }" in narrow[1]
    assert page.count('<div class="pictures" style="--columns: 5">') == 6, "each image begins a row"
    assert "errors of the FNA++ network" in Reader(page).text


def truths(page: str, kind: str) -> list[list[list[int]]]:
    """The pictures of the truth as rows of colours."""
    found = re.findall(rf'src="data:image/{kind};base64,([^"]+)" alt="truth', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).tolist() for data in found]


def test_masks_keep_their_colours(page: str) -> None:
    masks = truths(page, "png")
    assert len(masks) == 6
    assert all(color in CLASSES.values() for row in masks[0] for color in row)


@pytest.mark.parametrize(("color", "kind"), [(CLASSES["car"], "png"), ([255, 255, 255], "jpeg")])
def test_masks_are_reduced_exactly_others_smoothly(run: Path, tmp_path: Path, color: list[int], kind: str) -> None:
    shutil.copytree(run / "predictions", tmp_path / "predictions")
    write(tmp_path, "metrics.json", read(run, "metrics.json"))
    stripes = np.zeros((64, 1280, 3), np.uint8)
    stripes[:, ::2] = color
    Image.fromarray(stripes).save(tmp_path / "predictions" / "00_truth.png")
    picture = truths(report(tmp_path), kind)[0]
    assert len(picture[0]) == 640
    assert all(seen in ([0, 0, 0], color) for row in picture for seen in row) == (kind == "png")


# --- both splits, and how they were scored ---------------------------------------------------------------------------


def test_both_splits_are_shown_with_their_differences(run: Path, tmp_path: Path) -> None:
    copy = copy_files(run, tmp_path, "config.yaml", "metrics.json")
    tested = metrics_json({"test": 233, "skipped": ["9.png: empty"], "changed": []}, split="test", fewer=0.1)
    del tested["rows"]["control"]  # adapted since
    write(copy, "metrics_test.json", tested)
    text = Reader(report(copy)).text
    assert "val mIoU (%) difference test mIoU (%) difference val pixel accuracy (%) minutes" in text
    assert f"fine-tuned seed seed seed 2.568 24.522 1.000 58.70 {DASH} 48.70 {DASH} 88.00 17.2" in text
    assert "FNA++ network derived super 2.468 23.922 0.976 60.80 +2.10 50.80 +2.10 89.00 25.4 + 17.2" in text
    assert f"1.000 62.90 +4.20 {DASH} {DASH} 90.00 25.4 + 17.2" in text
    assert f"(control) 90.00 {DASH}" in text  # the table of all other scores
    assert "Records: 367 to train on, 101 to score on." in text
    assert "Records: 233 to test on. 9.png: empty" in text


@pytest.mark.parametrize("name", ["metrics.json", "metrics_test.json"])
def test_settings_of_the_scoring_are_said(run: Path, tmp_path: Path, name: str) -> None:
    copy_files(run, tmp_path, "config.yaml", "metrics.json")
    before = "On test scored" if name == "metrics_test.json" else "Scored"
    metrics = read(run, "metrics.json")
    sliding = {"evaluate.mode": "sliding", "evaluate.window": [64, 64], "evaluate.batch_size": 4}
    write(tmp_path, name, metrics | {"settings": sliding})
    said = f"{before} with evaluate.mode sliding (config.yaml: whole), evaluate.window [64, 64] (config.yaml: null)."
    assert said in Reader(report(tmp_path)).text
    write(tmp_path, "config.yaml", dump_yaml(make_config({"evaluate": {"mode": "sliding", "window": [64, 64]}})))
    assert f"{before} with evaluate.mode sliding, evaluate.window [64, 64]." in Reader(report(tmp_path)).text
    write(tmp_path, name, metrics | {"settings": {"evaluate.mode": "whole"}})
    assert f"{before} with evaluate.mode whole (config.yaml: sliding)." in Reader(report(tmp_path)).text


def test_usual_settings_are_not_said(page: str) -> None:
    assert "cored with" not in page


def test_allowed_changes_of_the_data_are_a_warning(run: Path, tmp_path: Path) -> None:
    metrics = read(run, "metrics.json")
    metrics["data"]["changed"] = [f"val/{i}.png: other content" for i in range(11)]
    write(tmp_path, "metrics.json", metrics)
    page = report(tmp_path)
    (warning,) = re.findall(r'<p class="warning">([^<]*data\.allow_change[^<]*)', page)
    assert "val/0.png: other content; val/1.png" in warning
    assert warning.endswith("... and 3 more lines of the kind in metrics.json.")


def test_what_a_network_is_like_has_columns_where_they_are_not_the_seeds(run: Path, tmp_path: Path) -> None:
    metrics = read(run, "metrics.json")
    write(tmp_path, "metrics.json", metrics)
    assert "head width" not in report(tmp_path)
    for row in metrics["rows"].values():
        row["output_stride"] = 16
    metrics["rows"]["adapted"] |= {"head_width": 0.5, "scale": 1.25, "output_stride": 8}
    write(tmp_path, "metrics.json", metrics)
    text = Reader(report(tmp_path)).text
    assert f"weights from head width {TIMES} input scale {TIMES} output stride params (M)" in text
    assert "FNA++ network derived super 0.5 1.25 8 2.468" in text


def test_a_network_without_scores_is_said(run: Path, tmp_path: Path) -> None:
    copy_files(run, tmp_path, "metrics.json")
    write(tmp_path, "half/network.json", {})
    assert f"Not scored yet: half. To score, type: fna evaluate {tmp_path}" in Reader(report(tmp_path)).text


@pytest.mark.parametrize(
    ("arch", "init", "minutes"),
    [
        *(("derived", "super", 9.0), ("half", "super", 9.0), ("half", "seed", 9.0), ("seed", "super", 9.0)),
        *(("seed", "seed", 0.0), ("mine.json", "seed", 0.0), ("nets/mine", "random", 0.0), ("mine.json", "super", 9.0)),
    ],
)
def test_what_needs_the_search_is_charged_for_it(arch: str, init: str, minutes: float) -> None:
    assert charged_minutes({"arch": arch, "init": init}, 9.0) == minutes
    assert charged_minutes({"arch": arch, "init": init}, None) == 0


# --- targets and what they are chosen by ------------------------------------------------------------------------------


def test_all_targets_are_listed_and_four_are_drawn(run: Path, tmp_path: Path) -> None:
    copy = copy_files(run, tmp_path, "seed.json", "metrics.json", "targets/derived.json")
    alphas = read(run, "found.json")["layers"]
    half = {"budget": {"text": "0.5x", "cost": SEED_MADDS // 2}, "cost": 12_000_000_000, "disagreements": []}
    half |= {"memory": 461_373_440}
    write(copy, "targets/a_half.json", target_json(alphas, **half))
    wide = {"head_width": 0.75, "scale": 1.25, "budget": None, "size_hw": [1280, 2560], "counted_hw": [1280, 2560]}
    write(copy, "targets/wide.json", target_json(alphas, **wide, output_stride=8))
    page = report(copy)
    text = Reader(page).text
    drawn = re.findall(r">([^<>]*\d blocks[^<>]*GMAdds[^<>]*)<", page)
    assert [title.split(" · ")[0] for title in drawn] == ["seed", "derived", "a_half", "wide"]
    assert drawn[3].endswith(f" · 23.900 GMAdds · head 0.75{TIMES} · input 1.25{TIMES} · output stride 8")
    changes = r"a_half \d+ blocks kept, \d+ changed, \d+ added, \d+ dropped "
    assert re.search(changes + "0.5x = 12.261 GMAdds 12.000 GMAdds 0.489 2.466 461.37 1 1", text)
    assert f"dropped none 23.900 GMAdds 0.975 2.466 {DASH} 0.75 1.25 8" in text
    assert "overrules the argmax of the alphas, which would take 26.100 GMAdds" in text
    assert "The choice of 'a_half' is the argmax of the alphas in every layer." in text
    assert f"derived, a_half: counted at 1024 {TIMES} 2048" in text
    assert f"wide: counted at 1280 {TIMES} 2560" in text
    for name in ("x", "y"):
        write(copy, f"targets/{name}.json", target_json(alphas))
    page = report(copy)
    assert "Of 5 targets the first 4 are drawn." in page
    assert '<td class="word">y</td>' in page


def test_the_split_of_the_compute_is_shown_side_by_side(run: Path, tmp_path: Path) -> None:
    copy_files(run, tmp_path, "seed.json")
    parts = {"stem": 10**9, "stage 0": 3 * 10**9, "stage 1": 10**9, "head": 5 * 10**9}
    told = {"seed_madds_parts": parts, "madds_parts": {**parts, "stage 0": 0, "head": 6 * 10**9}}
    wide = {"head_width": 1.2, "scale": 1.25}
    write(tmp_path, "targets/derived.json", read(run, "targets/derived.json") | told | wide)
    write(tmp_path, "targets/older.json", read(run, "targets/derived.json"))  # of a version that did not count parts
    page = report(tmp_path)
    text = Reader(page).text
    assert f"part seed (G) share derived · head 1.2{TIMES} · input 1.25{TIMES} (G) share stem 1.0000 10 %" in text
    assert "stage 0 3.0000 30 % 0.0000 0 %" in text
    assert "head 5.0000 50 % 6.0000 75 %" in text
    assert "whole network 10.0000 8.0000" in text
    assert page.count("<svg") == 2


def test_the_bars_of_the_split_add_up() -> None:
    networks = {"seed": {"stem": 10**9, "stage 0": 3 * 10**9, "head": 10**9}, "half": {"stage 0": 10**9, "head": 10**9}}
    axes = draw_shares(networks).axes[0]
    ends = [
        max(bar.get_x() + bar.get_width() for bar in axes.patches if round(bar.get_y() + 0.33) == y) for y in (0, 1)
    ]
    assert ends == pytest.approx([5, 2])
    assert [text.get_text() for text in axes.texts] == ["20", "60", "20", "50", "50"]


def test_the_padded_size_is_said(run: Path, tmp_path: Path) -> None:
    copy_files(run, tmp_path, "metrics.json")
    write(tmp_path, "targets/derived.json", read(run, "targets/derived.json") | {"size_hw": [1000, 2048]})
    said = (
        f"Counted at 1024 {TIMES} 2048 pixels (height {TIMES} width), to which images of 1000 {TIMES} 2048 are padded."
    )
    assert said in Reader(report(tmp_path)).text


def test_a_damaged_target_is_left_out(run: Path, tmp_path: Path) -> None:
    copy_files(run, tmp_path, "seed.json", "targets/derived.json")
    write(tmp_path, "targets/half.json", "{")
    text = Reader(report(tmp_path)).text
    assert "derived · " in text
    assert "targets/half.json cannot be used: " in text
    assert f"type: fna derive {tmp_path} --derive.name half" in text


def test_costs_are_shown_in_their_unit(run: Path, tmp_path: Path) -> None:
    copy = copy_files(run, tmp_path, "seed.json", "metrics.json", "search.csv", "targets/derived.json")
    params = {"cost": 2_466_419, "unit": "params", "seed_cost": SEED_PARAMS, "argmax_cost": 2_700_000}
    budget = {"text": "2.5 Mparams", "cost": 2_500_000}
    write(copy, "targets/derived.json", read(copy, "targets/derived.json") | params | {"budget": budget})
    write(copy, "found.json", read(run, "found.json") | {"unit": "params", "budget": budget})
    page = report(copy)
    text = Reader(page).text
    assert "Budget met 98.7 % of 2.50 Mparams" in text
    assert "seed · mobilenet_v2 · 17 blocks · 2.57 Mparams" in text
    assert "2.5 Mparams = 2.50 Mparams 2.47 Mparams 0.961" in text
    assert "which would take 2.70 Mparams" in text
    assert re.search(r"<text[^>]*>cost \(Mparams\)</text>", page)  # the axis of the search's curves
    assert "cost (GMAdds)" not in page
    (copy / "found.json").unlink()
    assert "cost (unit known at the end)" in report(copy)  # the search goes on
    assert [with_unit(cost, "ns") for cost in (12_340_000, 60_000)] == ["12.34 ms", "0.06 ms"]
    assert with_unit(5, "mJ") == "5.000 mJ"


def test_candidates_are_drawn_and_the_best_are_listed(run: Path, tmp_path: Path) -> None:
    path = read(run, "targets/derived.json")["path"]
    others = [
        {"path": [k], "cost": 1e9 * (20 + k), "loss": 0.5 - 0.01 * k, "head_width": 1.0, "scale": 1.0}
        for k in range(15)
    ]
    own = {"path": path, "cost": 23.9e9, "loss": 0.375, "head_width": 1.0, "scale": 1.0}
    fine = {**own, "loss": 0.9, "output_stride": 8}
    found = {"evidence": "candidates", "candidates": [*others, own], "unit": "MAdds", "minutes": 3.0, "warnings": []}
    write(tmp_path, "found.json", found)
    write(tmp_path, "targets/derived.json", read(run, "targets/derived.json"))
    page = report(tmp_path)
    text = Reader(page).text
    assert "1 0.3600 34.000 1 1 2 0.3700 33.000 1 1 3 derived 0.3750 23.900 1 1 4 0.3800" in text
    assert (
        "The best of 16 candidates by loss with shared weights, and the finalists, of which the task's metric decided"
        in text
    )
    write(tmp_path, "found.json", {**found, "candidates": [*others, {**own, "loss": 0.7}]})
    assert "10 0.4500 25.000 1 1 16 derived 0.7000 23.900 1 1 The best" in Reader(report(tmp_path)).text
    write(tmp_path, "found.json", {**found, "candidates": [{**others[0], "score": 0.5}, *others[1:], own]})
    assert "16 0.5000 50.0 20.000 1 1 The best" in Reader(report(tmp_path)).text
    assert page.count('<td class="word">10</td>') == 1
    assert '<td class="word">11</td>' not in page
    assert "output stride" not in page
    write(tmp_path, "found.json", {**found, "candidates": [fine, own]})
    write(tmp_path, "targets/derived.json", read(run, "targets/derived.json") | {"output_stride": 8})
    assert f"1 0.3750 23.900 1 1 {DASH} 2 derived 0.9000 23.900 1 1 8" in Reader(report(tmp_path)).text
    assert "found.json cannot be used" not in text
    axes = figures.draw_candidates(np.array([3e9, 1e9, 2e9]), np.array([1.0, 3.0, 4.0]), ["best", "", ""], MADDS).axes[
        0
    ]
    assert axes.lines[0].get_xydata().tolist() == [[1.0, 3.0], [2.0, 3.0], [3.0, 1.0]]  # the least loss for the cost
    assert [text.get_text() for text in axes.texts] == ["best"]


# --- unfinished and damaged runs ------------------------------------------------------------------------------------


def test_an_empty_folder_gives_only_hints(tmp_path: Path) -> None:
    page = report(tmp_path)
    assert page.count('class="hint"') == len(SECTIONS)
    for section in SECTIONS:
        assert f"fna {section.command} {tmp_path}" in page


@pytest.mark.parametrize(
    ("names", "hints"),
    [
        (["metrics.json"], 5),
        (["controls.json"], 1),
        (["targets/derived.json"], 1),
        (["config.yaml", "search.csv", "found.json"], 2),
    ],
)
def test_missing_files_cost_their_own_sections(run: Path, tmp_path: Path, names: list[str], hints: int) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    for name in names:
        (copy / name).unlink()
    page = report(copy)
    assert page.count('class="hint"') == hints
    assert page.count("Not there yet: ") == hints


@pytest.mark.parametrize("content", ["", "{", "[]", '{"rows": 1}', '{"rows": {"a": {}}, "warnings": []}', "\x00"])
@pytest.mark.parametrize(
    "name", ["metrics.json", "metrics_test.json", "targets/derived.json", "remap.json", "found.json"]
)
def test_a_damaged_file_costs_its_own_sections(tmp_path: Path, run: Path, name: str, content: str) -> None:
    copy_files(run, tmp_path, "seed.json", "targets/derived.json", "metrics.json")
    write(tmp_path, name, content)
    text = Reader(report(tmp_path)).text
    assert f"{name} cannot be used: " in text
    assert ("FNA++ network derived super" in text) == (name != "metrics.json")
    assert "Versions, machine, dates" in text


def test_torn_lines_are_left_out_and_said(run: Path, tmp_path: Path) -> None:
    text = (run / "search.csv").read_text()
    write(tmp_path, "search.csv", text + "240,6,0.4")
    write(tmp_path, "adapted/scores.csv", "epoch,miou,minutes\n1,0.5,1.0\n2,0.6\n3,0.7,1.5\n4,0.")
    write(tmp_path, "entropy.csv", "epoch,1.0\n0,")
    page = Reader(report(tmp_path)).text
    assert "1 torn line of search.csv left out" in page
    assert "2 torn lines of adapted/scores.csv left out" in page
    assert "FNA++ network: 70.0" in page
    assert "entropy.csv has no whole row yet" in page


def test_a_broken_picture_costs_its_own_section(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "predictions", tmp_path / "predictions")
    (tmp_path / "predictions" / "03_truth.png").unlink()
    assert report(tmp_path).count("<img") == 29
    (tmp_path / "predictions" / "02_truth.png").write_bytes(b"\x89PNG")
    assert "UnidentifiedImageError" in report(tmp_path)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(FnaError, match="fna run RECIPE --run"):
        report(tmp_path / "nothing")


# --- the drawings ---------------------------------------------------------------------------------------------------


def boxes(figure: Figure, label: str) -> list[Patch]:
    return [patch for patch in figure.axes[0].patches if patch.get_label() == label]


def test_every_block_is_a_box() -> None:
    seed = with_output_stride(from_net_config(MOBILENET_V2), 16)
    space = make_space(from_net_config(MOBILENET_V2))
    target = space.path_arch([len(blocks) - 1 for _, blocks in space.layers()])  # skips wherever it can be
    figure = draw_archs({"seed": seed, "target": target})
    assert len(boxes(figure, "block")) == 17 + 7
    assert len(boxes(figure, "stage")) == 7 + 7
    assert len(boxes(figure, "stem")) == 2
    words = [text.get_text() for text in figure.axes[0].texts]
    assert words.count("D=2") == 2
    assert "stage 1 · 24 ch" in words


def test_boxes_show_kernel_and_expansion_in_one_column() -> None:
    nets = {"a": "[[32, 16], ['k3_e6', 'k5_e3'], 1]", "b": "[[32, 16], ['k7_e3', 'skip'], 1]"}
    figure = draw_archs({name: from_net_config(text) for name, text in nets.items()})
    first, second, third = boxes(figure, "block")
    assert [to_hex(box.get_facecolor()) for box in (first, second, third)] == [
        figures.KERNEL_COLORS[k] for k in (3, 5, 7)
    ]
    extents = [box.get_path().get_extents() for box in (first, second, third)]
    assert extents[0].width > extents[1].width == pytest.approx(extents[2].width)
    assert (extents[0].x0 + extents[0].x1) / 2 == pytest.approx((extents[2].x0 + extents[2].x1) / 2)


def test_the_budget_is_drawn_where_there_is_one() -> None:
    steps = np.arange(4.0)
    nothing = np.full(4, np.nan)
    names = ("task_loss", "expected_cost", "sampled_cost")
    log = {"step": steps, "alpha_loss": nothing, "multiplier": nothing, **dict.fromkeys(names, steps)}
    lines = [len(figures.draw_search(log, MADDS, budget).axes[1].lines) for budget in (None, 2e9)]
    assert lines == [2, 3]
    assert len(figures.draw_search(log, MADDS).axes) == 2, "nothing of alphas where there are none"
    late = np.array([np.nan] * 3 + [1])  # one step before the end
    figure = figures.draw_search({**log, "alpha_loss": late, "multiplier": late}, MADDS, 2e9)
    figure.draw_without_rendering()
    loss, cost, multiplier = figure.axes
    assert all(axes.get_legend().get_window_extent().y0 >= axes.get_window_extent().y1 for axes in (loss, cost))
    assert loss.texts[0].get_window_extent().x1 <= loss.get_window_extent().x1
    assert multiplier.lines[0].get_marker() == "."


def test_heat_maps_have_a_row_per_layer() -> None:
    alphas = {"1.0": {"k3e3": 0.0, "k5e3": 0.0}, "1.1": {"k3e3": 0.0, "skip": 0.0, "k5e3": np.log(2)}}
    axes = figures.draw_alphas(alphas, {"1.1": "skip", "9.9": "k3e3"}).axes[0]
    share_LC = np.ma.filled(axes.images[0].get_array(), np.nan)
    np.testing.assert_allclose(share_LC, [[0.5, 0.5, np.nan], [0.25, 0.5, 0.25]])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["k3e3", "k5e3", "skip"]
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[2.0, 1.0]]]
    entropy = figures.draw_entropy(["1.0", "1.1"], np.arange(3.0), np.ones((2, 3))).axes[0]
    assert entropy.images[0].get_array().shape == (2, 3)


def test_figures_follow_the_page_and_leave_no_trace() -> None:
    before = dict(matplotlib.rcParams)
    svg = figures.to_svg(figures.draw_scores({"adapted": (np.ones(1), np.ones(1))}, {}, "mIoU"))
    assert dict(matplotlib.rcParams) == before
    assert "var(--ink)" in svg
    assert not any(color in svg for color in figures.VARIABLES)
    assert svg.startswith("<svg")


def test_no_torch_and_no_pyplot_at_import() -> None:
    code = "import sys, fna.reporting.page; print(*sys.modules.keys() & {'torch', 'matplotlib.pyplot'})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []
