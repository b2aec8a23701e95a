"""Other libraries take a finished network up: timm, segmentation_models_pytorch."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from tiny_networks import HW, write_network

import fna
import fna.integrations.timm
from fna.arch import Arch, Block, Stem
from fna.errors import FnaError

BASIC = (Block("basic", 8, 8), *(Block("basic", c, d, stride=2) for c, d in ((8, 12), (12, 20), (20, 24))))
RESNET = Arch(Stem(8, kernel=7, max_pool=True), tuple((block,) for block in BASIC))
CUT = Arch(  # widths and depths as cutting leaves them
    Stem(8),
    (
        (Block("mbconv", 8, 4),),
        (Block("mbconv", 4, 11, stride=2, expansion=3), Block("mbconv", 11, 11, expansion=1.5)),
        (Block("mbconv", 11, 13, stride=2, kernel=7),),
        (Block("mbconv", 13, 19, stride=2, expansion=2),),
        (Block("mbconv", 19, 23, stride=2, kernel=5, expansion=1.3),),
    ),
)


@pytest.mark.parametrize("arch", [RESNET, CUT], ids=["resnet", "cut"])
@pytest.mark.parametrize("model", ["deeplabv3", "ssdlite", "simple_baseline"])
def test_timm_gives_the_features_of_the_network_itself(model: str, arch: Arch, tmp_path: Path) -> None:
    fna.integrations.timm.register(write_network(tmp_path, model, arch=arch), "fna_tiny")
    own = fna.load(tmp_path).network.backbone
    images_N3HW = torch.rand(2, 3, *HW, generator=torch.Generator().manual_seed(0))
    stride = own.arch.output_stride
    theirs = timm.create_model("fna_tiny", features_only=True, pretrained=True, output_stride=stride).eval()
    infos = [info for info in own.feature_info if not info.tap]
    assert theirs.feature_info.channels() == [info.channels for info in infos]
    assert theirs.feature_info.reduction() == [info.stride for info in infos]
    with torch.no_grad():
        expected = [x for x, info in zip(own(images_N3HW), own.feature_info, strict=True) if not info.tap]
        for one, other in zip(theirs(images_N3HW), expected, strict=True):
            assert torch.equal(one, other)


def test_timm_knows_what_the_network_sees(tmp_path: Path) -> None:
    fna.integrations.timm.register(write_network(tmp_path, "deeplabv3"), "fna_tiny")
    assert timm.is_model("fna_tiny")
    assert "fna_tiny" in timm.list_models(pretrained=True)
    seen = timm.data.resolve_data_config(model=timm.create_model("fna_tiny"))
    model = fna.load(tmp_path)
    assert (seen["mean"], seen["std"], seen["input_size"]) == (model.mean, model.std, (3, *HW))


def test_timm_makes_classifiers_parts_and_other_channels_of_it(tmp_path: Path) -> None:
    fna.integrations.timm.register(write_network(tmp_path, "retinanet"), "fna_tiny")
    stem = fna.load(tmp_path).network.backbone.stem.conv.weight
    classifier = timm.create_model("fna_tiny", pretrained=True, num_classes=7, in_chans=4)
    assert tuple(classifier(torch.zeros(2, 4, 64, 64)).shape) == (2, 7)
    assert torch.allclose(classifier.backbone.stem.conv.weight[:, :3] * 4 / 3, stem), "timm's own rule"
    assert tuple(timm.create_model("fna_tiny")(torch.zeros(2, 3, 64, 64)).shape) == (2, 8)
    part = timm.create_model("fna_tiny", features_only=True, pretrained=True, out_indices=(0, -3))
    assert part.feature_info.reduction() == [2, 8]
    assert [tuple(x.shape[2:]) for x in part(torch.zeros(1, 3, 64, 64))] == [(32, 32), (8, 8)]
    assert len(part.model.backbone.stages) == 3, "what is not asked for is not carried"
    drawn = timm.create_model("fna_tiny").backbone.stem.conv.weight
    assert not torch.equal(drawn, stem)


def test_timm_gets_the_second_network_of_a_name(tmp_path: Path) -> None:
    for model, arch in (("deeplabv3", CUT), ("retinanet", RESNET)):
        (tmp_path / model).mkdir()
        fna.integrations.timm.register(write_network(tmp_path / model, model, arch=arch), "fna_tiny")
    features = timm.create_model("fna_tiny", features_only=True, pretrained=True)
    assert features.feature_info.channels() == [8, 12, 20, 24]


@pytest.mark.parametrize(("name", "what"), [("a.b", "no name"), ("resnet50", "of its own")])
def test_names_that_timm_cannot_take_are_refused(name: str, what: str, tmp_path: Path) -> None:
    write_network(tmp_path, "deeplabv3")
    with pytest.raises(FnaError, match=what):
        fna.integrations.timm.register(tmp_path, name)


def test_features_that_are_not_there_are_named(tmp_path: Path) -> None:
    fna.integrations.timm.register(write_network(tmp_path, "simple_baseline", arch=RESNET), "fna_tiny")
    with pytest.raises(FnaError, match="has 4, of strides 4, 8, 16, 32"):
        timm.create_model("fna_tiny", features_only=True, out_indices=(0, 4))


@pytest.mark.parametrize("arch", [RESNET, CUT], ids=["resnet", "cut"])
def test_segmentation_models_take_it_as_an_encoder(arch: Arch, tmp_path: Path) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    fna.integrations.timm.register(write_network(tmp_path, "deeplabv3", arch=arch), "fna_tiny")
    own = fna.load(tmp_path).network.backbone.state_dict()
    images_N3HW = torch.rand(2, 3, *HW, generator=torch.Generator().manual_seed(0))
    for kind, options in ((smp.Unet, {}), (smp.DeepLabV3Plus, {"encoder_output_stride": 16})):
        net = kind("tu-fna_tiny", encoder_weights=True, classes=5, **options)
        assert tuple(net(images_N3HW).shape) == (2, 5, *HW)
        net.load_state_dict(net.state_dict())
        stem = net.encoder.model.model.backbone.stem.conv.weight
        assert torch.equal(stem, own["stem.conv.weight"])
