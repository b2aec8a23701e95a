"""Weights of the right network are recognised whatever their training put around them, and what was taken is said."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from seed_oracles import State, random_network
from torch import nn

from fna.arch import Arch, Block, Stem
from fna.errors import FnaError
from fna.nets.network import Classifier
from fna.seeds import collect, load_seed
from fna.seeds.converting import read_weights
from fna.seeds.variant import timm_modules

BLOCKS = (Block("mbconv", 8, 8), Block("mbconv", 8, 16, stride=2, expansion=3.0))
TINY = Arch(Stem(8), (BLOCKS,), head_channels=32, num_classes=5)


@pytest.fixture(scope="module")
def ours() -> State:
    return dict(random_network(lambda: Classifier(TINY)).state_dict())


@pytest.fixture(scope="module")
def timms(ours: State) -> State:
    modules = timm_modules(TINY)
    return {f"{modules[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": t for name, t in ours.items()}


def read(content: Any, path: Path) -> tuple[Arch, State, str]:
    torch.save(content, path)
    arch, state, where = read_weights(path, TINY, (timm_modules,), collect())
    return arch, state, where


def same(state: State, other: State) -> bool:
    return state.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in state.items())


def shifted(state: State) -> State:
    """Other weights of the same network."""
    return {name: tensor + 1 for name, tensor in state.items()}


def below(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


# --- any nesting ------------------------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    ["module", "model", "net", "_orig_mod", "backbone", "encoder", "0", "student", "blocks", "stem"]
)
KEYS = st.sampled_from(["state_dict", "model", "net", "model_state_dict", "weights", "a.b", "é"])
BESIDE: list[Callable[[State], dict[str, Any]]] = [
    lambda s: {"epoch": 3, "arch": "tiny", "best": 0.5, "loop": [1, 2], "nothing": None},
    lambda s: {"optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}},
    lambda s: {"decode_head": {"conv.weight": torch.ones(2, 2), "bn1.weight": torch.ones(8)}},
    lambda s: {"half": dict(list(s.items())[:4])},
]


@given(data=st.data())
@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_nesting_is_seen_through(data: st.DataObject, ours: State, timms: State, tmp_path: Path) -> None:
    prefix = "".join(f"{word}." for word in data.draw(st.lists(WORDS, max_size=4)))
    state = below(prefix, data.draw(st.sampled_from([ours, timms])))
    if prefix and data.draw(st.booleans()):
        state = {"decode_head.conv.weight": torch.ones(2), "n_averaged": torch.tensor(3), **state}
    for key in data.draw(st.lists(KEYS, max_size=3)):
        others = data.draw(st.sampled_from(BESIDE))(state)
        state = {key: state, **others} if data.draw(st.booleans()) else {**others, key: state}
    arch, found, _ = read(state, tmp_path / "weights.pth")
    assert arch == TINY
    assert same(found, ours)


def test_modules_compiled_by_themselves_are_seen_through(timms: State, ours: State, tmp_path: Path) -> None:
    state = {name.replace("blocks.0.", "blocks.0._orig_mod."): tensor for name, tensor in timms.items()}
    assert same(read(state, tmp_path / "weights.pth")[1], ours)


def test_a_dict_that_contains_itself_ends(timms: State, ours: State, tmp_path: Path) -> None:
    loop: dict[str, Any] = {"state_dict": timms}
    loop["self"] = loop
    assert same(read(loop, tmp_path / "weights.pth")[1], ours)


def test_what_was_taken_is_said_in_one_line(timms: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {**below("module.backbone.", timms), "module.neck.weight": torch.ones(2)}
    _, _, where = read({"epoch": 3, "state_dict": state}, tmp_path / "weights.pth")
    assert where == "'state_dict' without the prefix 'module.backbone.'"
    said = capsys.readouterr().err
    assert (
        said
        == f"{tmp_path / 'weights.pth'}: taken: {where}; left out: 1 tensors beside, such as 'module.neck.weight'\n"
    )
    assert read(timms, tmp_path / "weights.pth")[2] == ""
    assert capsys.readouterr().err == ""


# --- two sets of weights ----------------------------------------------------------------------------------------------

AVERAGED: dict[str, Callable[[State, State], Any]] = {
    "timm": lambda plain, mean: {"epoch": 1, "state_dict": plain, "state_dict_ema": mean},
    "torchvision": lambda plain, mean: {
        "model": plain,
        "model_ema": {"n_averaged": torch.tensor(9), **below("module.", mean)},
    },
    "lightning": lambda plain, mean: {"state_dict": {**below("net.", plain), **below("ema.module.", mean)}},
    "ema": lambda plain, mean: {"net": plain, "ema": mean, "updates": 7},
    "averaged first": lambda plain, mean: {"model_ema": {"state_dict": mean}, "model": {"state_dict": plain}},
}


@pytest.mark.parametrize("form", AVERAGED)
def test_averaged_weights_are_taken_and_the_others_can_be_had(
    form: str,
    timms: State,
    ours: State,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    _, taken, where = read(AVERAGED[form](timms, shifted(timms)), tmp_path / "weights.pth")
    assert same(taken, shifted(ours))
    assert "ema" in where
    said = capsys.readouterr().err
    assert "fits as well; to have that: python -c " in said
    exec(shlex.split(said[said.index("python -c") :])[2], {})
    assert same(read_weights(Path("other.pth"), TINY, (timm_modules,), collect())[1], ours)


# --- what needs unpickling --------------------------------------------------------------------------------------------


class Lite(nn.Module):
    """A network saved as a whole, with its code."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Classifier(TINY)


OBJECTS: dict[str, Callable[[nn.Module], Any]] = {
    "arguments": lambda net: {"args": argparse.Namespace(lr=1), "model": net.state_dict(), "rng": [{3: 4}]},
    "a module": lambda net: net,
    "modules": lambda net: {"model": None, "ema": net, "date": argparse.Namespace()},
}


@pytest.mark.parametrize("form", OBJECTS)
@pytest.mark.parametrize("name", ["best.pt", "it's.pt"])
def test_the_command_that_makes_a_file_loadable_does(
    form: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    net = random_network(Lite)
    with pytest.raises(FnaError, match="holds Python objects") as error:
        read(OBJECTS[form](net), Path(name))
    message = str(error.value)
    assert "if you trust the file" in message
    exec(shlex.split(message[message.index("python -c") :])[2], {})
    state = read_weights(Path("weights.pth"), TINY, (), collect())[1]
    assert same(state, dict(net.backbone.state_dict()))  # type: ignore[union-attr]


# --- classifiers ------------------------------------------------------------------------------------------------------

CLASSIFIERS: dict[str, Callable[[State], State]] = {
    "of seven classes": lambda s: {"classifier.weight": torch.ones(7, 32), "classifier.bias": torch.ones(7)},
    "of another kind": lambda s: {"classifier.1.weight": torch.ones(7, 9), "classifier.4.bias": torch.ones(7)},
    "without bias": lambda s: {"classifier.weight": s["classifier.weight"]},
    "none": lambda s: {},
}


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_another_classifier_is_left_out(
    kind: str, timms: State, ours: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = {name: tensor for name, tensor in timms.items() if not name.startswith("classifier")}
    arch, state, _ = read({**body, **CLASSIFIERS[kind](timms)}, tmp_path / "weights.pth")
    assert arch == replace(TINY, num_classes=0)
    assert same(state, {name: tensor for name, tensor in ours.items() if not name.startswith("classifier")})
    assert ("left out: its classifier, 'classifier." in capsys.readouterr().err) == (kind != "none")


# --- another network --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    with torch.device("meta"):
        shapes = torchvision.models.resnet18().state_dict()
    save_file(below("module.", {name: torch.zeros(t.shape, dtype=t.dtype) for name, t in shapes.items()}), path)
    return path


@pytest.mark.parametrize(
    ("seed", "says"),
    [
        ("resnet34", "it is without 'layer1.2.conv1.weight', 'layer1.2.bn1.weight', 'layer1.2.bn1.bias' and 77 more"),
        ("resnet50", "'layer1.0.conv1.weight' has shape (64, 64, 3, 3), expected (64, 64, 1, 1)"),
        ("mobilenet_v2", "it is without 'conv_stem.weight'"),
    ],
)
def test_the_nearest_seed_is_named(seed: str, says: str, resnet18: Path) -> None:
    with pytest.raises(FnaError) as error:
        load_seed(seed, resnet18)
    assert says in str(error.value)
    assert "the nearest seed is 'resnet18', of whose 102 tensors fit 102: --seed.name resnet18" in str(error.value)
    assert load_seed("resnet18", resnet18).arch == collect()["resnet18"].arch


def test_what_is_near_nothing_counts_what_fits(timms: State, tmp_path: Path) -> None:
    with pytest.raises(FnaError) as error:
        read({**timms, "blocks.0.1.se.fc1.weight": torch.ones(4)}, tmp_path / "weights.pth")
    assert "it is with 'blocks.0.1.se.fc1.weight'" in str(error.value)
    assert "37 of the network's 37 tensors fit by name and shape, and of no other seed more" in str(error.value)
