"""Every seed: is it converted right, is it a path of its super network, and what does the expansion cost.

    OMP_NUM_THREADS=1 python benchmarks/seeds.py

Needs the packages of the extras ``test``. A row per seed:

- ``score`` (`max_abs_error`): largest difference of a feature map between the seed and its path through the super
  network that `fna remap --to space:seg` makes, float32, on a random image. It must be at most 1e-5.
- ``conversion_error``: largest difference of the class scores between our network and the source's implementation
  (timm, torchvision; for ProxylessNAS, whose code is in no package, its published layout) on random weights, relative
  to the largest score. None: nobody has published such a network.
- ``expand_seconds``, ``expand_cpu_seconds``, ``expand_memory``: remapping into the super network, the first call of a
  fresh process: by the clock, by the processor, and the peak of the resident memory above that before, over the bytes
  of the super network's parameters. Of three processes the shortest times (neighbours only add) and the largest peak.

And what EfficientNet-Lite0, 1 and 2 make of a photo, through our own blocks.
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import record
import torch
from matplotlib.cbook import get_sample_data
from PIL import Image
from steps import resident
from torch import Tensor
from torchvision.models import MobileNet_V2_Weights
from torchvision.transforms.v2 import functional as F

from fna.arch import Arch, SuperArch
from fna.arch.spaces import SEGMENTATION_LAYERS, task_space
from fna.cost.madds import backbone_rows, classifier_rows, total_cost
from fna.nets.network import Backbone, Classifier
from fna.nets.supernet import SuperBackbone
from fna.remapping import remap
from fna.seeds import collect, load_seed

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from seed_oracles import random_network
from test_seed_sources import ORACLES

SIZE_HW = (96, 128)
PROCESSES = 3
PHOTO = "grace_hopper.jpg"  # of matplotlib's sample data
SIDES = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}  # pixels they are trained at


def weights_of(name: str) -> tuple[Arch, dict[str, Tensor], str]:
    """Return a seed, its pretrained weights where a package holds them and else random ones, and which these are."""
    if name in SIDES:
        seed = load_seed(name)
        assert seed.state is not None
        return seed.arch, seed.state, "pretrained"
    arch = collect()[name].arch
    return arch, dict(random_network(lambda: Classifier(arch)).state_dict()), "random"


def backbone_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of stem and stages."""
    return {name: tensor for name, tensor in state.items() if name.startswith(("stem.", "stages."))}


def conversion(name: str) -> dict[str, Any]:
    """Compare our network with each of its source implementations on random weights; return the worst."""
    images = torch.randn(2, 3, *SIZE_HW, generator=torch.Generator().manual_seed(0))
    errors = {}
    for source, (seed_name, build) in ORACLES.items():
        if seed_name != name:
            continue
        theirs = random_network(build)
        with tempfile.TemporaryDirectory() as folder:
            torch.save(theirs.state_dict(), Path(folder) / "weights.pth")
            seed = load_seed(name, Path(folder) / "weights.pth")
        ours = Classifier(seed.arch).eval()
        assert seed.state is not None
        ours.load_state_dict(seed.state)
        with torch.no_grad():
            expected = theirs(images)
            errors[source] = float((ours(images) - expected).abs().max() / expected.abs().max())
    return {"conversion_error": max(errors.values(), default=None), "sources": sorted(errors)}


def path_error(arch: Arch, state: Mapping[str, Tensor], space: SuperArch) -> float:
    """Return the largest difference between the seed's features and those of its path through the super network."""
    seed, network = Backbone(arch).eval(), SuperBackbone(space).eval()
    seed.load_state_dict(backbone_state(state))
    network.load_state_dict(remap(arch, backbone_state(state), space).state)
    images = torch.randn(2, 3, *SIZE_HW, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        pairs = list(zip(seed(images), network(images, space.seed_path()), strict=True))
    assert all(feature.std() > 0 for feature, _ in pairs), "the comparison would say nothing"
    return max(float((one - other).abs().max()) for one, other in pairs)


def measure_expansion(name: str) -> None:
    """Print seconds and memory of remapping a seed into its super network, once, in a fresh process."""
    arch, state, _ = weights_of(name)
    space = task_space(arch, SEGMENTATION_LAYERS)
    source = backbone_state(state)
    torch.ones(8, 8) @ torch.ones(8, 8)  # torch's own first-use costs
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what loading has freed would hide what remapping takes (glibc)
    rest = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    start, cpu = time.perf_counter(), time.process_time()
    remapped = remap(arch, source, space)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resident("VmHWM") - rest
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    params = sum(t.numel() for tensor, t in remapped.state.items() if not tensor.endswith(buffers))
    times = {"expand_seconds": seconds, "expand_cpu_seconds": cpu}
    print(json.dumps({**times, "expand_memory": peak / (4 * params), "super_params": params}))


def expansion(name: str) -> dict[str, float]:
    """Measure the expansion in processes of its own."""
    command = [sys.executable, __file__, "--expand", name]
    runs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(PROCESSES)]
    measured: list[dict[str, float]] = [json.loads(out.splitlines()[-1]) for out in runs]
    return {key: (min if key.endswith("seconds") else max)(run[key] for run in measured) for key in measured[0]}


def measure(name: str) -> dict[str, Any]:
    """Return the row of a seed."""
    arch, state, weights = weights_of(name)
    cost = total_cost([*backbone_rows(arch, (224, 224)), *classifier_rows(arch, (224, 224))])
    return {
        "row": name,
        "rng_seed": 0,
        "metric": "max_abs_error",
        "score": path_error(arch, state, task_space(arch, SEGMENTATION_LAYERS)),
        "params": cost.params,
        "madds": cost.madds,
        "minutes": None,
        "weights": weights,
        **conversion(name),
        **expansion(name),
    }


def classify(name: str) -> list[dict[str, Any]]:
    """Return the five likeliest classes of the photo, whole, squeezed to the size the network was trained at."""
    seed, side = load_seed(name), SIDES[name]
    model = Classifier(seed.arch).eval()
    assert seed.state is not None
    model.load_state_dict(seed.state)
    with Path(str(get_sample_data(PHOTO, asfileobj=False))).open("rb") as file:
        photo = Image.open(file).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    image = F.normalize(F.pil_to_tensor(photo) / 255, list(seed.mean), list(seed.std))
    with torch.no_grad():
        best = model(image[None]).softmax(1)[0].topk(5)
    names = MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"]
    answers = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [{"class": names[index], "probability": round(value, 4)} for index, value in answers]


def main() -> None:
    """Measure every seed and write ``results/seeds.json``."""
    rows = []
    for name in collect():
        rows.append(measure(name))
        print(json.dumps(rows[-1]), flush=True)
    ratios = {"expand_memory": max(row["expand_memory"] for row in rows)}
    photo = {"image": f"matplotlib's sample {PHOTO}", "top5": {name: classify(name) for name in SIDES}}
    wrong = [row["row"] for row in rows if row["score"] > 1e-5 or (row["conversion_error"] or 0) > 1e-5]
    print(json.dumps(photo, indent=1))
    if wrong:
        raise SystemExit(f"above 1e-5: {', '.join(wrong)}")
    record.write("seeds", rows, ratios, photo=photo)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--expand"]:
        measure_expansion(sys.argv[2])
    else:
        main()
