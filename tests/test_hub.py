"""A finished network goes to the Hugging Face hub and comes back; the hub is a stand-in on this machine."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_stand_in import COMMIT, TOKEN, serve_hub
from huggingface_hub import ModelCard, constants
from safetensors.torch import save_file
from tiny_networks import HW, write_network

import fna
from fna.cli import main
from fna.errors import FnaError
from fna.files import write_json
from fna.integrations.pushing import write_card

METRICS = {
    "split": "val",
    "metric": "miou",
    "titles": {"miou": "mIoU"},
    "data": {"train": 12, "val": 3},
    "rows": {
        "adapted": {
            "title": "FNA++ network",
            "miou": 0.5512,
            "params": 2_500_000,
            "madds": 557_000_000,
            "keep": "last",
        },
        "baseline": {
            "title": "fine-tuned seed",
            "miou": 0.5,
            "params": 3_700_000,
            "madds": 580_000_000,
            "keep": "last",
        },
    },
}
SEED = {"name": "efficientnet_lite0", "source": "Google", "licence": "Apache-2.0"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that the stand-in serves."""
    (tmp_path / "hub").mkdir()
    with serve_hub(tmp_path / "hub") as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield tmp_path / "hub"


@pytest.fixture
def network(tmp_path: Path) -> Path:
    (tmp_path / "net").mkdir()
    return write_network(tmp_path / "net", "deeplabv3")


def test_what_is_pushed_is_what_is_loaded(hub: Path, network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fna.push(network, "me/leaves").endswith("/me/leaves")
    assert {file.name for file in (hub / "me/leaves").iterdir()} == {
        "README.md",
        "network.json",
        "network.safetensors",
    }, "weights go as safetensors only"
    images = torch.rand(1, 3, *HW, generator=torch.Generator().manual_seed(0))
    there, here = fna.load("hf://me/leaves"), fna.load(network)
    assert there.classes == here.classes
    with torch.no_grad():
        assert torch.equal(there(images), here(images))
    shutil.rmtree(hub / "me")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fna.load(Path("hf://me/leaves")).classes == here.classes, (
        "a Path has one slash, and no network is needed again"
    )
    assert fna.load(f"hf://me/leaves@{COMMIT}").classes == here.classes


def test_the_command_pushes_and_predicts(
    hub: Path, network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(network), "me/leaves", "--private"]) == 0
    assert "/me/leaves" in capsys.readouterr().out
    from PIL import Image

    Image.new("RGB", HW[::-1], (90, 120, 30)).save(tmp_path / "photo.png")
    words = [
        "predict",
        "hf://me/leaves",
        "--images",
        str(tmp_path / "photo.png"),
        "--out",
        str(tmp_path / "out"),
        "--quiet",
    ]
    assert main(words) == 0
    assert list((tmp_path / "out").glob("photo*"))


def test_the_card_says_what_the_run_knows(network: Path) -> None:
    record = json.loads((network / "network.json").read_text()) | {
        "params": 2_500_000,
        "madds": 557_000_000,
        "miou": 0.5512,
    }
    card = ModelCard(write_card(record, "me/leaves", METRICS, SEED))
    assert card.data.license == "apache-2.0"
    assert (card.data.library_name, card.data.pipeline_tag) == ("fna", "image-segmentation")
    assert card.data.eval_results[0].metric_value == 0.5512
    for said in (
        "55.12%",
        "0.557 GMAdds",
        "3.70 Mparams",
        "a, b, c",
        "12 train, 3 val",
        'fna.load("hf://me/leaves")',
        "Google",
    ):
        assert said in card.text, said
    unknown = ModelCard(write_card(record, "me/leaves", {}, {}))
    assert unknown.data.license == "other"
    assert "unknown here" in unknown.text


def test_what_is_not_there_is_said(hub: Path, network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (hub / "me/empty").mkdir(parents=True)
    (hub / "me/other").mkdir()
    save_file({"weight": torch.zeros(3)}, hub / "me/other/network.safetensors")
    cases = {
        "hf://me": "no address",
        "hf://me/none": "does not show it to you",
        "hf://me/empty": "has no network.safetensors",
        "hf://me/other": "no network of fna",
    }
    for address, what in cases.items():
        with pytest.raises(FnaError, match=what):
            fna.load(address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FnaError, match="not in the cache"):
        fna.load("hf://me/never")


def test_a_file_that_was_changed_there_is_refused(hub: Path, network: Path) -> None:
    fna.push(network, "me/leaves")
    file = hub / "me/leaves/network.safetensors"
    data = bytearray(file.read_bytes())
    data[-9] ^= 1
    file.write_bytes(data)
    with pytest.raises(FnaError, match=r"damaged|SHA-256"):
        fna.load("hf://me/leaves")


def test_a_push_needs_a_login_a_name_and_a_network(
    hub: Path, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for repo in ("leaves", "hf://me/leaves", "me/leaves@main"):
        with pytest.raises(FnaError, match="expected OWNER/NAME"):
            fna.push(network, repo)
    with pytest.raises(FnaError, match="there is no"):
        fna.push(tmp_path / "nothing", "me/leaves")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(FnaError, match=r"401.*hf auth login"):
        fna.push(network, "me/leaves")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(FnaError, match="hf auth login"):
        fna.push(network, "me/leaves")
    assert not (hub / "me").exists()


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FnaError, match=r"pip install 'fna\[hub\]'"):
        fna.load("hf://me/leaves")


def test_the_card_of_a_run_has_its_scores(hub: Path, network: Path, tmp_path: Path) -> None:
    from fna.runs.folder import Folder

    with Folder.open(tmp_path / "run") as folder:
        folder.write_json("metrics.json", METRICS)
        folder.write_json("seed.json", SEED)
        shutil.copytree(network, tmp_path / "run" / "adapted")
        folder.commit("evaluate", ["metrics.json"])
        folder.commit("expand", ["seed.json"])
    fna.push(tmp_path / "run", "me/run")
    text = (hub / "me/run/README.md").read_text()
    assert "FNA++ network | 55.12%" in text
    assert "license: apache-2.0" in text
    write_json(tmp_path / "run" / "metrics.json", {})
    with pytest.raises(FnaError, match="not as the stage 'evaluate' left it"):
        fna.push(tmp_path / "run", "me/run")
