"""A seed of the user's own: an architecture from a file, weights under our names or those of the authors."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from seed_oracles import State, assert_same_function, random_network
from torch import Tensor, nn

from fna.arch import Arch, Block, Stem, with_output_stride
from fna.arch.net_config import from_net_config
from fna.errors import FnaError
from fna.nets.network import Backbone, Classifier
from fna.seeds import load_seed
from fna.seeds.variant import resnet_modules, timm_modules

NET_CONFIG = """[[8, 8], ['k3_e1'], 1]|
[[8, 16], ['k5_e3', 'skip', 'k3_e6'], 2]|
[[16, 24], ['k7_e6', 'skip'], 2]"""
TINY = from_net_config(NET_CONFIG)
TOPPED = replace(TINY, norm_eps=1e-3, head_channels=32, num_classes=5)


# --- the authors' network, written down from the layout of their checkpoints ----------------------------------------


class AuthorsBlock(nn.Module):
    """A layer of their networks: its tensors are ``op.K.*``."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        hidden, self.residual = block.hidden_channels, block.residual
        layers: list[nn.Module] = []
        if block.expansion != 1:
            layers += [nn.Conv2d(block.in_channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden, 1e-3), nn.ReLU6()]
        spatial = nn.Conv2d(hidden, hidden, block.kernel, block.stride, block.kernel // 2, groups=hidden, bias=False)
        layers += [spatial, nn.BatchNorm2d(hidden, 1e-3), nn.ReLU6()]
        layers += [nn.Conv2d(hidden, block.out_channels, 1, bias=False), nn.BatchNorm2d(block.out_channels, 1e-3)]
        self.op = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.op(x)
        return x + y if self.residual else y


class AuthorsStage(nn.Module):
    """A stage of their networks; their detection code moves the skips to its end."""

    def __init__(self, stage: tuple[Block, ...], skips_last: bool) -> None:
        super().__init__()
        blocks = sorted(stage, key=lambda block: block.kind == "skip") if skips_last else stage
        self.layers = nn.Sequential(*(nn.Identity() if b.kind == "skip" else AuthorsBlock(b) for b in blocks))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


class AuthorsHead(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        norm = nn.BatchNorm2d(out_channels, 1e-3)
        self.conv = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), norm, nn.ReLU6())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y


class AuthorsNetwork(nn.Module):
    def __init__(self, arch: Arch, skips_last: bool) -> None:
        super().__init__()
        stem = nn.Conv2d(3, arch.stem.out_channels, 3, 2, 1, bias=False)
        self.blocks = nn.Sequential(
            nn.Sequential(stem, nn.BatchNorm2d(arch.stem.out_channels, 1e-3), nn.ReLU6()),
            *(AuthorsStage(stage, skips_last) for stage in arch.stages),
            AuthorsHead(arch.out_channels, arch.head_channels),
        )
        self.classifier = nn.Linear(arch.head_channels, arch.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.classifier(self.blocks(x).mean((2, 3)))
        return scores


@pytest.fixture(scope="module", params=[False, True], ids=["skips in place", "skips last"])
def authors(request: pytest.FixtureRequest) -> nn.Module:
    return random_network(lambda: AuthorsNetwork(TOPPED, request.param))


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "net_config.txt"
    path.write_text(NET_CONFIG)
    return str(path)


@pytest.fixture(scope="module")
def ours() -> Classifier:
    model = random_network(lambda: Classifier(TOPPED))
    assert isinstance(model, Classifier)
    return model


def write_json(path: Path, data: object) -> str:
    path.write_text(json.dumps(data))
    return str(path)


# --- what is read ---------------------------------------------------------------------------------------------------

WRAPPED: dict[str, Callable[[State], Any]] = {
    "bare": dict,
    "in a checkpoint": lambda state: {"meta": {"epoch": 3}, "state_dict": state},
    "of several processes": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
}


@pytest.mark.parametrize("form", WRAPPED)
def test_the_authors_networks_are_read(form: str, authors: nn.Module, text: str, tmp_path: Path) -> None:
    torch.save(WRAPPED[form](authors.state_dict()), tmp_path / "model.pth")
    seed = load_seed(text, tmp_path / "model.pth")
    assert (seed.name, seed.arch) == ("net_config", TOPPED)
    assert_same_function(seed, authors)


def test_the_authors_detector_gives_its_backbone(authors: nn.Module, text: str, tmp_path: Path) -> None:
    parts = {
        f"module.backbone.{k}": v for k, v in authors.state_dict().items() if k[:8] not in ("blocks.4", "classifi")
    }
    save_file({**parts, "module.bbox_head.weight": torch.ones(3)}, tmp_path / "detector.safetensors")
    seed = load_seed(text, tmp_path / "detector.safetensors")
    whole = {f"module.{name}": tensor for name, tensor in authors.state_dict().items()}
    save_file(whole, tmp_path / "whole.safetensors")
    state = load_seed(text, tmp_path / "whole.safetensors").state
    assert seed.state is not None
    assert state is not None
    assert (seed.arch.head_channels, seed.arch.num_classes) == (0, 0)
    assert seed.state.keys() == {name for name in state if name.startswith(("stem.", "stages."))}
    assert all(torch.equal(seed.state[name], state[name]) for name in seed.state)
    Backbone(seed.arch).load_state_dict(seed.state)


def test_an_arch_and_our_names_make_a_seed(ours: Classifier, tmp_path: Path) -> None:
    name = write_json(tmp_path / "mine.json", TOPPED.to_json())
    save_file(ours.state_dict(), tmp_path / "mine.safetensors")
    for weights in ("pretrained", str(tmp_path / "mine.safetensors")):
        seed = load_seed(name, weights)
        assert (seed.name, seed.arch, seed.mean, seed.licence) == ("mine", TOPPED, (0.485, 0.456, 0.406), "")
        assert seed.source == str(tmp_path / "mine.safetensors")
        assert_same_function(seed, ours)


def test_a_runs_record_makes_a_seed(ours: Classifier, tmp_path: Path) -> None:
    about = {"name": "lite", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.25, 0.5], "licence": "MIT", "top1": 70.0}
    name = write_json(tmp_path / "seed.json", {**about, "arch": TOPPED.to_json(), "source": "somewhere"})
    save_file(ours.state_dict(), tmp_path / "seed.safetensors")
    seed = load_seed(name)
    assert (seed.name, seed.mean, seed.std, seed.licence) == ("lite", (0.5, 0.5, 0.5), (0.5, 0.25, 0.5), "MIT")
    assert seed.top1 is None
    assert_same_function(seed, ours)
    assert load_seed(name, tmp_path / "seed.safetensors").licence == "", "another's weights may have another licence"


def test_a_task_network_gives_its_backbone(ours: Classifier, tmp_path: Path) -> None:
    name = write_json(tmp_path / "target.json", {"arch": TOPPED.to_json(), "seed_madds": 1})
    body = {f"backbone.{k}": v for k, v in ours.state_dict().items() if k.startswith(("stem.", "stages."))}
    save_file({**body, "head.weight": torch.ones(3)}, tmp_path / "target.safetensors")
    seed = load_seed(name)
    assert seed.state is not None
    assert (seed.arch.head_channels, seed.arch.num_classes) == (0, 0)
    assert torch.equal(seed.state["stages.2.0.expand.weight"], ours.state_dict()["stages.2.0.expand.weight"])


@pytest.mark.parametrize("top", ["head.", "classifier."])
def test_head_and_classifier_may_be_absent(top: str, ours: Classifier, tmp_path: Path) -> None:
    plain = write_json(tmp_path / "plain.json", replace(TOPPED, head_channels=0, num_classes=0).to_json())
    full = write_json(tmp_path / "full.json", TOPPED.to_json())
    classes = {"head.": 32, "classifier.": 0}[top]
    model = Classifier(replace(TOPPED, head_channels=0, num_classes=32)) if top == "head." else ours
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(top)}
    save_file(state, tmp_path / "weights.safetensors")
    seed = load_seed(plain, tmp_path / "weights.safetensors")
    assert (seed.arch.head_channels, seed.arch.num_classes) == (32 - classes, classes)
    assert seed.state is not None
    assert seed.state.keys() == state.keys()
    if top == "classifier.":
        assert load_seed(full, tmp_path / "weights.safetensors").arch == seed.arch


@pytest.mark.parametrize("kind", ["mbconv", "basic", "bottleneck"])
def test_names_of_libraries_are_known(kind: str, tmp_path: Path) -> None:
    blocks = (Block(kind, 16, 16, expansion=3.0), Block("skip", 16, 16), Block(kind, 16, 32, stride=2))
    arch = Arch(Stem(16), (blocks,), activation="relu", num_classes=4, head_channels=8 if kind == "mbconv" else 0)
    state = random_network(lambda: Classifier(arch)).state_dict()
    theirs = (timm_modules if kind == "mbconv" else resnet_modules)(arch)
    renamed = {".".join((theirs[name.rpartition(".")[0]], name.rpartition(".")[2])): v for name, v in state.items()}
    save_file(renamed, tmp_path / "arch.safetensors")
    seed = load_seed(write_json(tmp_path / "arch.json", arch.to_json()))
    assert seed.arch == arch
    assert seed.state is not None
    assert all(torch.equal(seed.state[name], state[name]) for name in state)


def test_weights_can_be_random(text: str) -> None:
    seed = load_seed(text, None)
    assert (seed.state, seed.source, seed.arch) == (None, "random weights", replace(TINY, norm_eps=1e-3))


def test_a_table_comes_before_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "mobilenet_v2", TOPPED.to_json())
    write_json(tmp_path / "mine", TOPPED.to_json())
    assert load_seed("mobilenet_v2", None).arch.out_channels == 320
    assert load_seed("mine", None).arch == TOPPED


# --- what is refused ------------------------------------------------------------------------------------------------

RECORD = {"arch": TOPPED.to_json()}
DILATED = {"arch": with_output_stride(load_seed("mobilenet_v2", None).arch, 16).to_json()}
BASIC = {"kind": "basic", "in_channels": 8, "out_channels": 8}


def of_block(**changes: object) -> dict[str, object]:
    """A record of a network of one block."""
    return {"arch": {"stem": {"out_channels": 8}, "stages": [[BASIC | changes]]}}


BAD_FILES: dict[str, tuple[object, str]] = {
    "not an arch": ({"arch": 3}, "expected a Arch as a JSON object"),
    "unknown key": ({"arch": {"stemm": {}}}, "unknown key 'stemm'"),
    "plain unknown key": ({"stemm": {}}, "unknown key 'stemm'"),
    "a list": ([1, 2], "expected a Arch as a JSON object"),
    "dilated": (DILATED, "dilated or tapped for a task"),
    "name": ({**RECORD, "name": 3}, "'name' is 3, expected text"),
    "licence": ({**RECORD, "licence": None}, "'licence' is None, expected text"),
    "mean": ({**RECORD, "mean": [0.5, 0.5]}, "'mean' is [0.5, 0.5], expected three numbers"),
    "mean of text": ({**RECORD, "mean": "abc"}, "'mean' is 'abc', expected three numbers"),
    "std": ({**RECORD, "std": [0.5, 0.0, 0.5]}, "'std' is [0.5, 0.0, 0.5], expected numbers above 0"),
    "no groups": (of_block(groups=0), "impossible block"),
    "channels of text": ({"arch": {"stem": {"out_channels": "8"}, "stages": [[BASIC]]}}, "impossible stem"),
    "fractions of channels": (of_block(out_channels=8.5), "impossible block"),
    "no stages": ({"arch": {"stem": {"out_channels": 8}, "stages": []}}, "at least one stage"),
    "an empty stage": ({"arch": {"stem": {"out_channels": 8}, "stages": [[BASIC], []]}}, "each stage at least one"),
    "infinity": (of_block(kind="mbconv", expansion=float("inf")), "not a valid Block"),
    "std of nan": ({**RECORD, "std": [0.5, float("nan"), 0.5]}, "expected three numbers"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_refused(case: str, tmp_path: Path) -> None:
    data, message = BAD_FILES[case]
    path = write_json(tmp_path / "bad.json", data)
    with pytest.raises(FnaError) as error:
        load_seed(path, None)
    assert message in str(error.value)
    assert "bad.json" in str(error.value)


ALIEN = [b"", b"{", b"\xff\xfe", b"[[1, 2], 3]", b"k3_e6", b"\x89PNG\r\n", b"[[8, 8], ['k3_e1e999'], 1]"]
ALIEN += [b"[" * 100_000, b"-" * 100_000 + b"1"]  # nested too deeply


@pytest.mark.parametrize("content", ALIEN, ids=range(len(ALIEN)))
def test_alien_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "alien.json"
    path.write_bytes(content)
    with pytest.raises(FnaError, match=r"alien\.json"):
        load_seed(str(path), None)


BAD_WEIGHTS: dict[str, tuple[Callable[[State], State], str]] = {
    "missing": (lambda s: {k: v for k, v in s.items() if "stages.2.0" not in k}, "without 'stages.2.0.expand.weight'"),
    "extra": (lambda s: {**s, "stages.1.1.expand.weight": torch.ones(1)}, "with 'stages.1.1.expand.weight'"),
    "another head": (lambda s: {**s, "head.conv.weight": s["head.conv.weight"][:9]}, "'head.conv.weight' has shape"),
    "a number as head": (lambda s: {**s, "head.conv.weight": torch.tensor(1.0)}, "'head.conv.weight' has shape ()"),
    "half a head": (lambda s: {k: v for k, v in s.items() if k != "head.norm.bias"}, "without 'head.norm.bias'"),
    "another network": (
        lambda s: {"a": torch.ones(1)},
        "begins with 'a', expected one of 'stem.conv.weight', 'blo",
    ),
}


@pytest.mark.parametrize("case", BAD_WEIGHTS)
@pytest.mark.parametrize("plain", [False, True])
def test_bad_weights_are_refused(case: str, plain: bool, ours: Classifier, tmp_path: Path) -> None:
    spoil, message = BAD_WEIGHTS[case]
    if plain and "another head" in case:
        message = "'head.norm.weight' has shape"  # the file's own word counts where the architecture is silent
    arch = replace(TOPPED, head_channels=0, num_classes=0) if plain else TOPPED
    name = write_json(tmp_path / "mine.json", arch.to_json())
    save_file(spoil(dict(ours.state_dict())), tmp_path / "mine.safetensors")
    with pytest.raises(FnaError) as error:
        load_seed(name)
    assert message in str(error.value)
    assert "mine.safetensors" in str(error.value)


def test_absent_weights_say_where_they_would_be(text: str) -> None:
    with pytest.raises(FnaError, match=r"not beside it \(net_config\.safetensors\); give them as  weights: PATH"):
        load_seed(text)
    with pytest.raises(FnaError, match=r"cannot read the weights absent\.pth: no such file"):
        load_seed(text, "absent.pth")


@pytest.mark.parametrize("name", ["absent.json", "/absent/seed.json", "", ".", "a" * 9999, "\0"])
def test_absent_seeds_are_unknown(name: str) -> None:
    with pytest.raises(FnaError, match=r"unknown seed .* also timm/NAME, and a file with an architecture"):
        load_seed(name, None)
