"""Any timm network of the MBConv family without attention, and plain ResNets, as a seed; see `timm_reader`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from fna.errors import FnaError, nearest
from fna.seeds.timm_reader import UnsupportedError, read_arch
from fna.seeds.variant import Rgb, Variant, Weights, resnet_modules, timm_modules

PREFIX = "timm/"
FILES = ("efficientnet", "mobilenetv3", "resnet")  # timm's modules whose networks are looked at
SUPPORTED = (
    "supported are depthwise-separable and inverted residual blocks and ResNet's basic and bottleneck blocks, with "
    "batch normalisation and relu or relu6, without attention"
)
LICENCES = {"apache-2.0": "Apache-2.0", "mit": "MIT", "bsd-3-clause": "BSD-3-Clause", "cc-by-nc-4.0": "CC-BY-NC-4.0"}


def timm_variant(name: str, tables: Iterable[Variant]) -> Variant:
    """Read a timm model.

    Args:
        name: ``timm/NAME`` or ``timm/NAME.TAG``, such as ``timm/mnasnet_100.rmsp_in1k``.
        tables: our own variants; what they know of the same weights (by Hugging Face repository) is used first.

    Raises:
        FnaError: timm has no such model, or a part of it cannot be expressed.
    """
    import timm
    import torch
    from timm.models import get_deprecated_models, get_pretrained_cfg, is_model_in_modules

    model_name, _, tag = name.removeprefix(PREFIX).partition(".")
    if not timm.is_model(model_name):
        close = nearest(model_name, [known for file in FILES for known in timm.list_models(module=file)])
        raise FnaError(f"timm has no model '{model_name}'{close}; timm.list_models() has all their names")
    if model_name in (former := get_deprecated_models()):
        raise FnaError(f"'{name}' is a former name of timm's; use {PREFIX}{former[model_name]}")
    tags = [known.partition(".")[2] for known in timm.list_models(f"{model_name}.*", pretrained=True)]
    if tag and tag not in tags:
        raise FnaError(
            f"timm has no weights '{tag}' of '{model_name}'{nearest(tag, tags)}; known: {', '.join(tags) or 'none'}"
        )
    if not is_model_in_modules(model_name, FILES):
        raise FnaError(f"'{name}' is no network of the MBConv family and no plain ResNet; {SUPPORTED}")
    config = get_pretrained_cfg(f"{model_name}.{tag}" if tag else model_name)
    assert config is not None, "every model of timm has a configuration"
    with torch.device("meta"):
        model = timm.create_model(model_name, pretrained=False, num_classes=config.num_classes)
    try:
        arch = read_arch(model)
    except UnsupportedError as error:
        raise FnaError(f"'{name}' cannot be a seed: {error}; {SUPPORTED}") from None
    same = [(v, w) for v in tables for w in v.weights if w.hub and w.hub == config.hf_hub_id]
    namings = [resnet_modules if arch.stem.max_pool else timm_modules, *(n for v, _ in same[:1] for n in v.namings)]
    known_weights = [weights for _, weights in same]
    published = [w for w in _published(config) if w.file not in {weights.file for weights in known_weights}]
    return Variant(
        arch,
        _rgb(config.mean),
        _rgb(config.std),
        tuple(dict.fromkeys(namings)),
        (*known_weights, *published),
        hint="" if tags else "timm has never trained this network",
    )


def _published(config: Any) -> list[Weights]:
    """Describe the weights that timm's configuration of a model points to."""
    tagged = f"{config.architecture}.{config.tag}"
    file = (config.url or "").rpartition("/")[2] or f"{tagged}.safetensors"
    if not config.url and not config.hf_hub_id:
        return []
    get = f"""python -c "import timm; timm.create_model('{tagged}', pretrained=True)\""""
    return [
        Weights(file, get, "timm", LICENCES.get(config.license, config.license or ""), None, hub=config.hf_hub_id or "")
    ]


def _rgb(values: Sequence[float]) -> Rgb:
    red, green, blue = map(float, values)
    return red, green, blue
