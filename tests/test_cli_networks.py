"""`fna count` and `fna remap`: what they print, write and refuse."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fna import cli
from fna.arch import Arch, SuperArch
from fna.arch.net_config import to_net_config
from fna.arch.spaces import DETECTION_LAYERS, task_space
from fna.arch.target import Target
from fna.cli.counting import count_network, make_plan
from fna.cli.transfer import find_network, find_weights, fit_to_source
from fna.cost.madds import total_cost
from fna.files import read_state, write_state
from fna.nets.network import Backbone
from fna.nets.supernet import SuperBackbone
from fna.remapping import remap, summarise
from fna.seeds import collect, load_seed

SMALL = "[[8, 8], ['k3_e1'], 1]|[[8, 16], ['k3_e3', 'k3_e3'], 2]|[[16, 24], ['k5_e3'], 2]"
LARGE = "[[8, 8], ['k3_e1'], 1]|[[8, 16], ['k5_e6', 'skip', 'k3_e3'], 2]|[[16, 24], ['k3_e3', 'k5_e3'], 2]"

RANDOM = "remap --from small.txt --to large.txt --weights random"


def answer(command: str, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command with --json; return what it printed."""
    assert cli.main([*command.split(), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two small networks."""
    monkeypatch.chdir(tmp_path)
    Path("small.txt").write_text(SMALL)
    Path("large.txt").write_text(LARGE)
    return tmp_path


# --- fna count --------------------------------------------------------------------------------------------------------


def test_count_meets_the_paper(capsys: pytest.CaptureFixture[str]) -> None:
    counted = answer("count mobilenet_v2 --model deeplabv3 --classes 19 --size 1024x2048 --rule paper", capsys)
    assert list(counted) == ["params", "madds", "memory"]
    assert counted == answer("count mobilenet_v2", capsys), "the article's size and classes are the defaults"
    assert counted["params"] == 2567507
    assert round(counted["madds"] / 1000) == 24521712


def test_count_reads_a_file(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archs = json.loads((shared / "golden" / "archs.json").read_text())
    Path("fna.txt").write_text(archs["fna_deeplabv3"]["net_config"])
    counted = answer("count fna.txt", capsys)
    assert counted["params"] == 2466419
    assert round(counted["madds"] / 1000) == 24174895


def test_count_takes_a_target_as_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    target = Target(load_seed("mobilenet_v2_035", weights=None).arch, 0.5, 1.25, 8)
    Path("target.json").write_text(json.dumps(target.to_json()))
    by_hand = "count mobilenet_v2_035 --model deeplabv3 --size 240x320 --task.channels 128 --output-stride 8"
    told = answer("count target.json --model deeplabv3 --size 192x256", capsys)
    assert told == answer(by_hand, capsys)
    told = answer("count target.json --model deeplabv3 --size 192x256 --output-stride 16", capsys)
    assert told == answer(by_hand[:-1] + "16", capsys)
    told = answer("count target.json --model none --size 192x256", capsys)
    assert told == answer("count mobilenet_v2_035 --model none --size 240x320", capsys)


def test_count_detail_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    counted = answer("count mobilenet_v2 --size 256x512 --detail", capsys)
    for part in ("rows", "stages"):
        for unit in ("params", "madds"):
            assert sum(row[unit] for row in counted[part]) == counted[unit]
    assert [row["layer"] for row in counted["rows"]][:3] == ["stem", "0.0", "1.0"]
    assert counted["rows"][-1]["layer"] == "head"
    assert counted["rows"][-2]["out_hw"] == [16, 32]
    assert [row["stage"] for row in counted["stages"]] == ["stem", *"0123456", "head"]
    assert [row["layers"] for row in counted["stages"]][1:8] == [1, 2, 3, 4, 3, 3, 1]


def test_count_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["count", "mobilenet_v2", "--model", "none", "--detail"]) == 0
    out = capsys.readouterr().out
    assert "k3e6" in out
    assert "by stage" in out
    assert "1,811,712 params, 0.279424 G MAdds at 224x224 (paper rule)" in out


def test_count_takes_settings_of_the_head(capsys: pytest.CaptureFixture[str]) -> None:
    narrow = answer("count mobilenet_v2 --model simple_baseline --task.channels 8", capsys)
    plan = make_plan("simple_baseline", settings=["task.channels=8"])
    assert narrow["params"] == total_cost(count_network(collect()["mobilenet_v2"].arch, plan)).params


def test_count_measures_a_space(capsys: pytest.CaptureFixture[str]) -> None:
    counted = answer("count mobilenet_v2 --space seg", capsys)
    assert (counted["size"], counted["paths"], counted["added"]) == (6**6 * 7**19, 6**6 * 7**19, [])
    assert counted["searchable_layers"] == 25
    assert [round(madds / 1e9, 2) for madds in counted["searchable_madds"].values()] == [18.17, 20.39, 3.91, 34.0]
    whole = answer("count mobilenet_v2", capsys)
    assert counted["other_madds"] + counted["searchable_madds"]["seed"] == whole["madds"]


def test_count_space_says_which_of_the_seeds_blocks_were_added(capsys: pytest.CaptureFixture[str]) -> None:
    command = "count small.txt --space seg --model none --space.kernels [7] --space.layers [2,2] --detail"
    counted = answer(command, capsys)
    assert (counted["size"], counted["paths"]) == (2 * 3 * 2 * 3, 3 * 4 * 3 * 3)
    assert counted["added"] == ["1.0 k3e3", "1.1 k3e3", "2.0 k5e3"]
    assert [row["candidates"] for row in counted["rows"]][:2] == [
        ["k7e3", "k7e6", "k3e3"],
        ["k7e3", "k7e6", "k3e3", "skip"],
    ]
    assert cli.main(command.split()) == 0
    out = capsys.readouterr().out
    assert "36 architectures (3.6e+01) by the article's table\n108 with the seed's own blocks" in out


def test_count_measures_a_super_networks_file(capsys: pytest.CaptureFixture[str]) -> None:
    space = task_space(find_network("small.txt"), (1, 3))  # type: ignore[arg-type]
    Path("super.json").write_text(json.dumps(space.to_json()))
    counted = answer("count super.json --model none", capsys)
    assert counted["paths"] == space.size == 6 * 7 * 6 * 7 * 7


# --- fna remap --------------------------------------------------------------------------------------------------------


def test_remap_writes_weights_architecture_and_report(capsys: pytest.CaptureFixture[str]) -> None:
    summary = answer("remap --from small.txt --to large.txt --weights random --rng-seed 3 --out out", capsys)
    dst = find_network("large.txt")
    expected = remap(*find_weights("small.txt", "random", 3), dst, rng_seed=3)
    written = read_state(Path(summary["files"]["weights"]))
    assert written.keys() == expected.state.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in expected.state.items())
    assert isinstance(dst, Arch)
    Backbone(dst).load_state_dict(written)
    assert {key: summary[key] for key in ("copied", "new", "dropped", "rules")} == summarise(expected.report)
    assert Arch.from_json(json.loads(Path("out/arch.json").read_text())) == dst
    with Path("out/remap.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["tensor"] for row in rows] == [row.tensor for row in expected.report]
    assert list(rows[0]) == ["tensor", "source", "rule", "copied", "new", "dropped"]
    assert all(abs(float(row["copied"]) + float(row["new"]) - 1) < 1e-3 for row in rows)


def test_remap_goes_on_from_what_it_wrote(capsys: pytest.CaptureFixture[str]) -> None:
    answer("remap --from small.txt --to space:det --space.layers [2,2] --weights random --out super", capsys)
    space = find_network("super/arch.json")
    assert isinstance(space, SuperArch)
    assert space.size == 6 * 7 * 6 * 7
    SuperBackbone(space).load_state_dict(read_state(Path("super/arch.safetensors")))
    back = answer("remap --from super/arch.json --to small.txt --out back", capsys)
    assert back["copied"] == 1
    _, first = find_weights("small.txt", "random", 0)
    assert all(torch.equal(tensor, first[name]) for name, tensor in read_state(Path("back/arch.safetensors")).items())


def test_remap_takes_the_backbone_of_a_tasks_network(capsys: pytest.CaptureFixture[str]) -> None:
    arch = find_network("small.txt")
    assert isinstance(arch, Arch)
    state = {f"backbone.{name}": tensor for name, tensor in Backbone(arch).state_dict().items()}
    write_state(Path("target.safetensors"), {**state, "head.weight": torch.ones(1)})
    Path("target.json").write_text(json.dumps({"arch": arch.to_json(), "minutes": 1}))
    assert answer("remap --from target.json --to small.txt", capsys)["copied"] == 1


def test_remap_copies_a_seeds_classifier(capsys: pytest.CaptureFixture[str]) -> None:
    arch = collect()["mobilenet_v2_035"].arch
    Path("same.json").write_text(json.dumps(arch.to_json()))
    state = load_state(arch)
    write_state(Path("mine.safetensors"), state)
    command = "remap --from mobilenet_v2_035 --weights mine.safetensors --to same.json --out out"
    assert answer(command, capsys)["copied"] == 1
    written = read_state(Path("out/arch.safetensors"))
    assert written.keys() == state.keys()
    assert torch.equal(written["classifier.weight"], state["classifier.weight"])


def load_state(arch: Arch) -> dict[str, torch.Tensor]:
    """Random weights of a classifier."""
    from fna.nets.network import Classifier

    return dict(Classifier(arch).state_dict())


def test_remap_leaves_out_a_classifier_that_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    write_state(Path("mine.safetensors"), load_state(collect()["mobilenet_v2_035"].arch))
    command = "remap --from mobilenet_v2_035 --weights mine.safetensors --to mobilenet_v2_140 --out out"
    assert answer(command, capsys)["tail_left_out"] is True
    arch = find_network("out/arch.json")
    assert isinstance(arch, Arch)
    assert (arch.head_channels, arch.num_classes) == (0, 0)
    assert read_state(Path("out/arch.safetensors")).keys() == Backbone(arch).state_dict().keys()
    assert answer("remap --from out/arch.json --to out/arch.json", capsys)["tail_left_out"] is False


def test_remap_keeps_what_the_source_computes_with(capsys: pytest.CaptureFixture[str]) -> None:
    source = collect()["efficientnet_lite0"].arch
    Path("lite.txt").write_text(to_net_config(source))
    assert answer("remap --from efficientnet_lite0 --weights random --to lite.txt --out out", capsys)["copied"] == 1
    assert find_network("out/arch.json") == replace(source, head_channels=0, num_classes=0)
    for network in (task_space(source, DETECTION_LAYERS), load_seed("mobilenet_v2", None).arch):
        fitted = fit_to_source(network, replace(source, activation="relu"), {})
        seed = fitted.seed if isinstance(fitted, SuperArch) else fitted
        assert (seed.activation, seed.norm_eps, seed.padding) == ("relu", source.norm_eps, source.padding)


def test_remap_takes_rules(capsys: pytest.CaptureFixture[str]) -> None:
    assert "growth preserve" in answer(RANDOM, capsys)["rules"]
    assert "growth zero" in answer(f"{RANDOM} --remap.growth zero", capsys)["rules"]


def test_remap_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*RANDOM.split(), "--detail", "--out", "out"]) == 0
    out = capsys.readouterr().out
    for text in ("stages.1.0.depthwise.weight", "by rule", "kernel centre", "% copied", "arch: out/arch.json"):
        assert text in out


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("count mobilnet_v2", "did you mean 'mobilenet_v2'?"),
        ("count absent.json", "there is no file absent.json"),
        ("count .", ". is a folder; name a file in it"),
        ("count list.json", "as a JSON object, got list"),
        ("count wrong.json", "wrong.json: unknown key 'stemm'"),
        ("count broken.json", "broken.json: "),
        ("count mobilenet_v2 --space sag", "unknown space 'sag' (did you mean 'seg'?)"),
        (
            "count mobilenet_v2 --model retinanet --output-stride 16",
            "a setting of deeplabv3 and deeplabv3plus; retinanet has",
        ),
        ("count small.txt --model retinanet", "strides 8, 16 and 32"),
        ("count mobilenet_v2 --search.epochs 5", "fna count takes no setting '--search.epochs', only those of task"),
        ("count mobilenet_v2 --space seg --space.layers [1]", "space.layers has 1 numbers"),
        ("count resnet18 --space det --space.cells [k4g1]", "expected a cell such as k5g2"),
        ("count mobilenet_v2 --size 999999x9", "expected HEIGHTxWIDTH in pixels, at most 99999"),
        ("count mobilenet_v2 --output-stride 0", "'task.output_stride' is 0"),
        ("count mobilenet_v2 --model none --output-stride 0", "output stride 0 is not possible"),
        ("count mobilenet_v2 --classes 99999999999999999999", "'--classes'"),
        ("count " + "a" * 5000, "unknown seed 'aaa"),
        ("count timm/mnasnet_b1", "a former name of timm's; use timm/mnasnet_100"),
        ("count deep.json", "deep.json: it is nested too deeply"),
        ("count huge.json", "huge.json: impossible stem"),
        ("remap --from small.txt", "'--to'"),
        ("remap --from small.txt --to large.txt --weights random --space.kernels [3]", "--space.kernels needs a"),
        ("remap --from space.json --to large.txt --weights ~nouser/x.pt", "cannot read the weights ~nouser/x.pt"),
        ("remap --from small.txt --to large.txt", "weights of the seed small.txt are not beside it"),
        ("remap --from small.txt --to large.txt --weights absent.pt", "cannot read the weights absent.pt"),
        ("remap --from small.txt --to large.txt --weights random --remap.width frist", "did you mean 'first'?"),
        ("remap --from small.txt --to mobilenet_v2 --weights random", "has 3 stages, the destination 7"),
        ("remap --from small.txt --to space:sag --weights random", "unknown space 'sag'"),
        ("remap --from mobilenet_v2_035 --to large.txt", "no pretrained weights of 'mobilenet_v2_035'"),
    ],
)
def test_one_message_for_a_mistake(command: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("list.json").write_text("[1, 2]")
    Path("wrong.json").write_text('{"stemm": {}}')
    Path("broken.json").write_text('{"seed": {}, "stages": 3}')
    Path("deep.json").write_text("[" * 100_000)
    Path("huge.json").write_text('{"stem": {"out_channels": 1e999}, "stages": []}')
    seed = load_seed("mobilenet_v2_035", None).arch
    Path("space.json").write_text(json.dumps(task_space(seed, DETECTION_LAYERS).to_json()))
    assert cli.main(command.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("fna: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not Path("out").exists()


def test_a_full_disk_leaves_no_part(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Path("out").write_text("a file, no folder")
    assert cli.main(["remap", "--from", "small.txt", "--to", "large.txt", "--weights", "random", "--out", "out"]) == 2
    assert "cannot write out/arch.safetensors" in capsys.readouterr().err
    assert Path("out").read_text() == "a file, no folder"


def test_pretrained_is_a_seeds_default() -> None:
    arch = collect()["efficientnet_lite0"].arch
    state = load_seed("efficientnet_lite0").state
    assert state is not None
    _, found = find_weights("efficientnet_lite0", None, 0)
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    assert task_space(arch, DETECTION_LAYERS).size == 6**6 * 7**15
