"""Every seed computes the same as the network it comes from, and what timm has beyond that is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from seed_oracles import State, assert_same_function, random_network
from torch import Tensor, nn

from fna.arch.net_config import from_net_config
from fna.cost.madds import backbone_cost
from fna.errors import FnaError
from fna.seeds import collect, find_variant, load_seed


def timm_model(name: str) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name)


def named(*pairs: tuple[str, nn.Module | None]) -> nn.Sequential:
    model = nn.Sequential()
    for name, module in pairs:
        model.add_module(name, module)
    return model


# --- ProxylessNAS, written down from the published layout -----------------------------------------------------------

PROXYLESS = """
3,32,16,1,1  5,16,32,2,3 3,32,32,1,3 - -  7,32,40,2,3 3,40,40,1,3 5,40,40,1,3 5,40,40,1,3
7,40,80,2,6 5,80,80,1,3 5,80,80,1,3 5,80,80,1,3  5,80,96,1,6 5,96,96,1,3 5,96,96,1,3 5,96,96,1,3
7,96,192,2,6 7,192,192,1,6 7,192,192,1,3 7,192,192,1,3  7,192,320,1,6
"""


class ProxylessBlock(nn.Module):
    """A line of `PROXYLESS`: kernel, in, out, stride, expansion. A dash does nothing, but has a number."""

    def __init__(self, line: str, inside: str) -> None:
        super().__init__()
        self.inside, self.residual = inside, False
        if line != "-":
            kernel, in_channels, out_channels, stride, expansion = map(int, line.split(","))
            hidden = in_channels * expansion
            spatial = nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False)
            parts = [
                ("depth_conv", spatial, True),
                ("point_linear", nn.Conv2d(hidden, out_channels, 1, bias=False), False),
            ]
            if expansion > 1:
                parts.insert(0, ("inverted_bottleneck", nn.Conv2d(in_channels, hidden, 1, bias=False), True))
            self.add_module(inside, named(*((part, proxyless_conv(conv, acts)) for part, conv, acts in parts)))
            self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, self.inside):
            return x
        y: Tensor = self.get_submodule(self.inside)(x)
        return x + y if self.residual else y


def proxyless_conv(conv: nn.Conv2d, acts: bool) -> nn.Sequential:
    norm = nn.BatchNorm2d(conv.out_channels, eps=1e-3)
    return named(("conv", conv), ("bn", norm), ("act", nn.ReLU6() if acts else nn.Identity()))


def proxyless(inside: str = "mobile_inverted_conv", compact: bool = False) -> nn.Module:
    lines = [line for line in PROXYLESS.split() if not (compact and line == "-")]
    return named(
        ("first_conv", proxyless_conv(nn.Conv2d(3, 32, 3, 2, 1, bias=False), True)),
        ("blocks", nn.Sequential(*(ProxylessBlock(line, inside) for line in lines))),
        ("feature_mix_layer", proxyless_conv(nn.Conv2d(320, 1280, 1, bias=False), True)),
        ("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())),
        ("classifier", named(("linear", nn.Linear(1280, 1000)))),
    )


# --- the same function ----------------------------------------------------------------------------------------------

ORACLES: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "timm tf lite0": ("efficientnet_lite0", timm_model("tf_efficientnet_lite0")),
    "timm tf lite1": ("efficientnet_lite1", timm_model("tf_efficientnet_lite1")),
    "timm tf lite2": ("efficientnet_lite2", timm_model("tf_efficientnet_lite2")),
    "timm lite0": ("efficientnet_lite0_ra", timm_model("efficientnet_lite0")),
    "timm v2": ("mobilenet_v2", timm_model("mobilenetv2_100")),
    "timm v2 0.35": ("mobilenet_v2_035", timm_model("mobilenetv2_035")),
    "timm v2 0.5": ("mobilenet_v2_050", timm_model("mobilenetv2_050")),
    "timm v2 0.75": ("mobilenet_v2_075", timm_model("mobilenetv2_075")),
    "timm v2 1.4": ("mobilenet_v2_140", timm_model("mobilenetv2_140")),
    "timm fbnet": ("fbnetc_100", timm_model("fbnetc_100")),
    "timm resnet18": ("resnet18", timm_model("resnet18")),
    "timm resnet34": ("resnet34", timm_model("resnet34")),
    "timm resnet50": ("resnet50", timm_model("resnet50")),
    "timm resnet101": ("resnet101", timm_model("resnet101")),
    "torchvision v2": ("mobilenet_v2", torchvision.models.mobilenet_v2),
    "torchvision v2 0.35": ("mobilenet_v2_035", lambda: torchvision.models.mobilenet_v2(width_mult=0.35)),
    "torchvision v2 1.4": ("mobilenet_v2_140", lambda: torchvision.models.mobilenet_v2(width_mult=1.4)),
    "torchvision resnet18": ("resnet18", torchvision.models.resnet18),
    "torchvision resnet34": ("resnet34", torchvision.models.resnet34),
    "torchvision resnet50": ("resnet50", torchvision.models.resnet50),
    "torchvision resnet101": ("resnet101", torchvision.models.resnet101),
    "proxyless": ("proxyless_mobile", proxyless),
    "proxyless without gaps": ("proxyless_mobile", lambda: proxyless(compact=True)),
    "proxyless in once-for-all": ("proxyless_mobile", lambda: proxyless("conv")),
    **{
        name: (f"timm/{name}", timm_model(name.partition(".")[0]))
        for name in (
            *("mnasnet_050", "mnasnet_100.rmsp_in1k", "spnasnet_100", "mobilenetv2_110d", "mobilenetv2_120d.ra_in1k"),
            *("fbnetc_100.rmsp_in1k", "efficientnet_lite1", "tf_efficientnet_lite0", "resnet18.a1_in1k", "resnet26"),
        )
    },
}


SLOW = {  # what a quicker one of the same code stands for
    *(
        "timm resnet101",
        "torchvision resnet101",
        "torchvision resnet34",
        "timm v2 0.75",
        "torchvision v2 1.4",
        "resnet26",
    ),
    *("proxyless in once-for-all", "mobilenetv2_110d", "efficientnet_lite1", "tf_efficientnet_lite0", "mnasnet_050"),
}


@pytest.mark.parametrize("oracle", [pytest.param(o, marks=pytest.mark.slow if o in SLOW else ()) for o in ORACLES])
def test_converted_weights_compute_the_same(oracle: str, tmp_path: Path) -> None:
    name, build = ORACLES[oracle]
    model = random_network(build)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "model.pth")
    assert_same_function(load_seed(name, tmp_path / "model.pth"), model)


def test_every_seed_has_an_oracle() -> None:
    without = set(collect()) - {name for name, _ in ORACLES.values()}
    assert without == {"fbnet_c"}, "of which nobody has a network; see the test below"


def test_fbnet_of_the_article_is_timms_without_three_expansions() -> None:
    ours, theirs = collect()["fbnet_c"].arch, collect()["fbnetc_100"].arch
    pairs = [(a, b) for (_, a), (_, b) in zip(ours.layers(), theirs.layers(), strict=True) if a != b]
    assert [(a.expansion, a.hidden_channels, b.hidden_channels) for a, b in pairs] == [
        (1, 16, 16),
        (1, 24, 24),
        (1, 24, 24),
    ]
    assert (ours.stem, ours.activation, ours.head_channels) == (theirs.stem, theirs.activation, theirs.head_channels)


@pytest.mark.parametrize("name", ["mobilenet_v2", "fbnet_c", "proxyless_mobile"])
def test_backbones_cost_what_the_article_says(name: str, shared: Path) -> None:
    text = json.loads((shared / "golden" / "archs.json").read_text())[name]["net_config"]
    assert backbone_cost(collect()[name].arch, (800, 1088)) == backbone_cost(from_net_config(text), (800, 1088))


# --- the reader of timm's networks ----------------------------------------------------------------------------------

SAME = {
    "tf_efficientnet_lite0.in1k": "efficientnet_lite0",
    "tf_efficientnet_lite1": "efficientnet_lite1",
    "tf_efficientnet_lite2": "efficientnet_lite2",
    "efficientnet_lite0": "efficientnet_lite0_ra",
    "fbnetc_100": "fbnetc_100",
    "mobilenetv2_035": "mobilenet_v2_035",
    "mobilenetv2_100": "mobilenet_v2",
    "mobilenetv2_140": "mobilenet_v2_140",
    "resnet34.tv_in1k": "resnet34",
    "resnet101.tv_in1k": "resnet101",
}


@pytest.mark.parametrize("name", SAME)
def test_tables_agree_with_timm(name: str) -> None:
    read, ours = find_variant(f"timm/{name}"), collect()[SAME[name]]
    assert (read.arch, read.mean, read.std) == (ours.arch, ours.mean, ours.std)


def test_what_the_tables_know_of_timms_weights_comes_first() -> None:
    weights = find_variant("timm/tf_efficientnet_lite1").weights
    assert [w.file for w in weights] == ["efficientnet-lite1-77cc7160.pth", "tf_efficientnet_lite1-bde8b488.pth"]
    assert find_variant("timm/mobilenetv2_100").weights[0].top1 == 72.976
    assert [w.file for w in find_variant("timm/resnet50.a1_in1k").weights] == ["resnet50_a1_0-14fe96d1.pth"]
    assert find_variant("timm/mnasnet_140").weights == ()


def test_a_tag_can_lack_the_classifier() -> None:
    assert find_variant("timm/resnet50.bamboo").arch.num_classes == 0
    assert find_variant("timm/resnet50").arch.num_classes == 1000


REFUSED = {
    "semnasnet_100": "blocks.2.0.se is a SqueezeExcite; supported are",
    "efficientnet_b0": "blocks.0.0.se is a SqueezeExcite",
    "mobilenetv3_large_100": "blocks.2.0.se is a SqueezeExcite",
    "fbnetv3_b": "blocks.0.0.bn1 is followed by the activation Hardswish",
    "lcnet_050": "blocks.0.0.bn1 is followed by the activation Hardswish",
    "efficientnetv2_s": "blocks.0.0 is a ConvBnAct",
    "efficientnet_es": "blocks.0.0 is a EdgeResidual",
    "mixnet_s": "blocks.1.0.conv_pwl is a MixedConv2d",
    "mobilenetv1_100": "blocks.0.0.bn2 is followed by the activation ReLU6",
    "mobilenetv3_rw": "blocks.0.0 does not add its input as it is",
    "resnet50d": "layer1.0.downsample is Identity and Conv2d and BatchNorm2d",
    "resnet50c": "conv1 is a Sequential",
    "resnet50_gn": "layer1.0.bn1 is a GroupNorm",
    "resnetblur18": "layer2.0.aa is a BlurPool2d",
    "seresnet18": "layer1.0.se is a SEModule",
    "ecaresnet50t": "layer1.0.se is a EcaModule",
    "resnext50_32x4d": "layer1.0 is 128 channels wide, where 64 were expected",
    "vgg11": "is no network of the MBConv family and no plain ResNet; supported are",
    "mnasnet_10": "timm has no model 'mnasnet_10' (did you mean 'mnasnet_1",
    "mnasnet_100.ra_in1k": "timm has no weights 'ra_in1k' of 'mnasnet_100' (did you mean 'rmsp_in1k'?)",
    "": "timm has no model ''",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_an_arch_cannot_say_is_refused_by_name(name: str) -> None:
    with pytest.raises(FnaError) as error:
        load_seed(f"timm/{name}", weights=None)
    assert REFUSED[name] in str(error.value)


def spoiled(name: str, spoil: Callable[[Any], None]) -> Callable[..., nn.Module]:
    model = timm.create_model(name)
    spoil(model)
    return lambda *args, **kwargs: model


def set_all(model: nn.Module, kind: type[nn.Module], name: str, value: object, number: int) -> None:
    setattr([module for module in model.modules() if isinstance(module, kind)][number], name, value)


SPOILED: dict[str, tuple[str, Callable[[Any], None], str]] = {
    "one epsilon": ("mnasnet_050", lambda m: set_all(m, nn.BatchNorm2d, "eps", 1e-3, 5), "has the epsilon 0.001"),
    "one activation": ("mnasnet_050", lambda m: setattr(m.bn2, "act", nn.ReLU6()), "has the activation ReLU6"),
    "one padding": ("tf_efficientnet_lite0", lambda m: setattr(m, "conv_stem", plain_stem()), "has the padding"),
    "dilation": ("mnasnet_050", lambda m: setattr(m.blocks[5][1].conv_dw, "dilation", (2, 2)), "blocks.5.1.conv_dw is"),
    "groups": ("mnasnet_050", lambda m: setattr(m.blocks[2][1].conv_pwl, "groups", 2), "conv_pwl has 2 groups"),
    "kernel": ("mnasnet_050", lambda m: setattr(m, "conv_head", nn.Conv2d(160, 9, 3, 1, 1, bias=False)), "3x3 kernel"),
    "bias": ("mnasnet_050", lambda m: setattr(m.blocks[0][0], "conv_pw", nn.Conv2d(16, 8, 1)), "blocks.0.0.conv_pw is"),
    "late stride": (
        "mnasnet_050",
        lambda m: (setattr(m.blocks[1][1].conv_dw, "stride", (2, 2)), setattr(m.blocks[1][1], "has_skip", False)),
        "layer 1 of stage 1 has stride 2",
    ),
    "total stride": ("mnasnet_050", lambda m: setattr(m.blocks[5][0].conv_dw, "stride", (1, 1)), "have stride 16"),
    "residual": ("mnasnet_050", lambda m: setattr(m.blocks[2][1], "has_skip", False), "blocks.2.1 does not add"),
    "classifier": (
        "mnasnet_050",
        lambda m: setattr(m, "classifier", nn.Linear(1280, 9, False)),
        "classifier is Linear",
    ),
    "max pool": ("resnet18", lambda m: setattr(m, "maxpool", nn.Identity()), "maxpool is Identity()"),
    "basic kernel": ("resnet18", lambda m: setattr(m.layer2[1], "conv2", wide_kernel()), "layer2.1.conv2 has a 5x5"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_rare_parts_are_refused(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, spoil, message = SPOILED[case]
    with torch.device("meta"):
        monkeypatch.setattr("timm.create_model", spoiled(name, spoil))
    with pytest.raises(FnaError) as error:
        load_seed(f"timm/{name}", weights=None)
    assert message in str(error.value)


def wide_kernel() -> nn.Conv2d:
    return nn.Conv2d(128, 128, 5, 1, 2, bias=False)


def plain_stem() -> nn.Conv2d:
    return nn.Conv2d(3, 32, 3, 2, 1, bias=False)


def test_reading_timm_leaves_the_rng_alone() -> None:
    before = torch.get_rng_state()
    load_seed("timm/resnet18", weights=None)
    assert torch.equal(torch.get_rng_state(), before)


def test_prefix_of_parallel_training_is_ignored(tmp_path: Path) -> None:
    model = random_network(timm_model("mobilenetv2_035"))
    state: State = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    save_file(state, tmp_path / "parallel.safetensors")
    assert_same_function(load_seed("mobilenet_v2_035", tmp_path / "parallel.safetensors"), model)
