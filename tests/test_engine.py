"""The training machinery: schedules, optimizers, batch norm statistics, global means, and the stop at bad numbers."""

from __future__ import annotations

import math
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import adapt_tiny, opened, search_tiny, tiny_config, write_images
from torch import Tensor, nn

from fna.arch import Arch, Block, Stem
from fna.config import EngineConfig, OptimizerConfig, TaskConfig
from fna.errors import FnaError
from fna.nets.network import Model
from fna.progress import quiet
from fna.training import compute as hardware
from fna.training.checkpoints import Checkpoints
from fna.training.compute import Compute, computing, find_workers
from fna.training.distributed import World
from fna.training.engine import WeightStep, fit, global_mean, learning_rate, make_optimizer
from fna.training.freezing import freeze_norms
from fna.training.norms import norms, recalibrate
from fna.training.readings import Readings
from fna.training.sinks import read_log

CPU = Compute(torch.device("cpu"), None, False, World())


def optimizer(**settings: Any) -> OptimizerConfig:
    return OptimizerConfig.model_validate({"name": "sgd", "weight_decay": 0.0, "warmup": 0, **settings})


def rates(config: OptimizerConfig, steps: int, steps_per_epoch: int = 10) -> list[float]:
    return [learning_rate(config, step, steps, steps_per_epoch) for step in range(steps)]


class Chain(Model):
    """A model whose backbone gives one map."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        backbone = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        backbone.arch = Arch(Stem(4), ((Block("mbconv", 4, 4),),))  # only its padding is read
        super().__init__(backbone, nn.Conv2d(4, 2, 1))

    def forward(self, images_N3HW: Tensor, choice: Any = None) -> Tensor:
        out: Tensor = self.head(self.backbone(images_N3HW))
        return out


# --- schedules --------------------------------------------------------------------------------------------------------


def test_schedules_at_known_steps() -> None:
    assert rates(optimizer(lr=0.3, schedule="constant"), 4) == [0.3] * 4
    poly = rates(optimizer(lr=0.1, schedule="poly", power=0.9), 100)
    assert poly[0] == 0.1
    assert poly[50] == pytest.approx(0.1 * 0.5**0.9)
    assert poly[99] == pytest.approx(0.1 * 0.01**0.9)
    cosine = rates(optimizer(lr=0.1, schedule="cosine"), 100)
    assert [cosine[i] for i in (0, 25, 50, 75)] == pytest.approx(
        [0.1, 0.05 * (1 + math.sqrt(0.5)), 0.05, 0.05 * (1 - math.sqrt(0.5))]
    )
    step = rates(optimizer(lr=1.0, schedule="step", steps=[2, 5], gamma=0.1), 100)
    assert step[19:21] == pytest.approx([1.0, 0.1])
    assert step[49:51] == pytest.approx([0.1, 0.01])
    assert step[99] == pytest.approx(0.01)


def test_warm_up_rises_from_a_third() -> None:
    plain = rates(optimizer(lr=0.1, schedule="poly"), 100)
    warm = rates(optimizer(lr=0.1, schedule="poly", warmup=10), 100)
    factors = [a / b for a, b in zip(warm, plain, strict=True)]
    assert factors[0] == pytest.approx(1 / 3)
    assert factors[5] == pytest.approx(2 / 3)
    assert factors[10:] == [1.0] * 90
    assert rates(optimizer(lr=0.1, schedule="constant", warmup=4, warmup_from=0.5), 5) == pytest.approx(
        [0.05, 0.0625, 0.075, 0.0875, 0.1]
    )


# --- optimizers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sgd", torch.optim.SGD),
        ("rmsprop", torch.optim.RMSprop),
        ("adam", torch.optim.Adam),
        ("adamw", torch.optim.AdamW),
    ],
)
def test_optimizers_take_their_settings_and_train(name: str, kind: type[torch.optim.Optimizer]) -> None:
    config = optimizer(
        name=name,
        lr=0.01,
        momentum=0.8,
        betas=[0.7, 0.99],
        eps=1e-6,
        weight_decay=0.02,
        head_lr=3.0,
        schedule="constant",
    )
    model = Chain()
    made = make_optimizer(model, config)
    assert type(made) is kind
    backbone, head = made.param_groups
    assert [g["lr"] for g in (backbone, head)] == pytest.approx([0.01, 0.03])
    assert all(g["weight_decay"] == 0.02 for g in made.param_groups)
    wanted = {"betas": (0.7, 0.99), "eps": 1e-6} if name.startswith("adam") else {"momentum": 0.8}
    assert {key: backbone[key] for key in wanted} == wanted
    assert {id(p) for p in backbone["params"]} == {id(p) for p in model.backbone.parameters()}
    assert {id(p) for p in head["params"]} == {id(p) for p in model.head.parameters()}
    step, batch, images = weight_step(model, config), batch_of(0), torch.randn(4, 3, 8, 8)
    losses = [step(i, batch, images)["loss"] for i in range(20)]
    assert losses[-1] < losses[0]
    assert [g["lr"] for g in step.optimizer.param_groups] == pytest.approx([0.01, 0.03])


def test_gradient_clip_bounds_the_update() -> None:
    images, steps = torch.randn(4, 3, 8, 8), {}
    for clip in (None, 1e-3):
        model = Chain()
        before = nn.utils.parameters_to_vector(model.parameters())
        config = optimizer(lr=1.0, momentum=0.0, schedule="constant", clip=clip)
        weight_step(model, config)(0, batch_of(0), images)
        steps[clip] = float((nn.utils.parameters_to_vector(model.parameters()) - before).norm().detach())
    assert steps[None] > 0.1
    assert steps[1e-3] == pytest.approx(1e-3, rel=1e-3)


def batch_of(label: int) -> dict[str, Any]:
    return {"mask": torch.full((4, 6, 6), label), "names": ["one.png", "two.png"]}


def cross_entropy(logits_NCHW: Tensor, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    total = nn.functional.cross_entropy(logits_NCHW, batch["mask"], reduction="sum")
    return total, torch.tensor(batch["mask"].numel())


def weight_step(model: Model, config: OptimizerConfig, loss: Any = cross_entropy) -> WeightStep:
    return WeightStep(model, make_optimizer(model, config), config, loss, CPU, 100, 10)


def weighted(logits_NCHW: Tensor, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """A loss whose number of terms differs from part to part."""
    total = nn.functional.cross_entropy(logits_NCHW, batch["mask"], reduction="sum", ignore_index=255)
    return total, (batch["mask"] != 255).sum()


@pytest.mark.parametrize("parts", [2, 3, 4, 9])
def test_a_batch_in_parts_has_the_gradients_of_the_whole(parts: int) -> None:
    draw = torch.Generator().manual_seed(0)
    images, mask = torch.randn(4, 3, 8, 8, generator=draw), torch.randint(0, 2, (4, 6, 6), generator=draw)
    mask[0], mask[1, :5] = 255, 255  # the first part may be without any term
    batch, config = {"mask": mask, "names": list("abcd")}, optimizer(lr=0.5, momentum=0.0, schedule="constant")
    ends = []
    for number in (1, parts):
        model = Chain()
        freeze_norms(model)
        step = replace(weight_step(model, config, weighted), parts=number)
        ends.append((float(step(0, batch, images)["loss"]), nn.utils.parameters_to_vector(model.parameters())))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-6)
    assert torch.allclose(ends[0][1], ends[1][1], atol=1e-6)
    assert not torch.allclose(ends[0][1], nn.utils.parameters_to_vector(Chain().parameters()), atol=1e-3)


# --- batch norms ------------------------------------------------------------------------------------------------------


def test_recalibrated_statistics_are_those_of_the_batches() -> None:
    model = Chain()
    norm = norms(model)[0]
    norm.running_mean.fill_(7.0)
    norm.momentum = 0.03
    before = {name: p.clone() for name, p in model.named_parameters()}
    batches = [3 + 2 * torch.randn(4, 3, 8, 8) for _ in range(5)]
    recalibrate(model, iter(batches), 3, CPU)
    with torch.no_grad():
        maps = [model.backbone[0](x).transpose(0, 1).flatten(1) for x in batches[:3]]
    torch.testing.assert_close(norm.running_mean, torch.stack([m.mean(1) for m in maps]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([m.var(1) for m in maps]).mean(0))
    assert norm.momentum == 0.03
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_frozen_norms_keep_affine_and_statistics() -> None:
    model = Chain()
    config = optimizer(lr=0.1, schedule="constant", weight_decay=0.1)
    model.train()
    freeze_norms(model)
    made = make_optimizer(model, config)
    norm = norms(model)[0]
    assert not {id(p) for g in made.param_groups for p in g["params"]} & {id(p) for p in norm.parameters()}
    before = {name: t.clone() for name, t in norm.state_dict().items()}
    conv = model.backbone[0].weight.clone()
    WeightStep(model, made, config, cross_entropy, CPU, 100, 10)(0, batch_of(0), torch.randn(4, 3, 8, 8))
    assert all(torch.equal(t, before[name]) for name, t in norm.state_dict().items())
    assert not torch.equal(model.backbone[0].weight, conv)


# --- the global mean --------------------------------------------------------------------------------------------------


def test_global_mean_is_the_sum_over_the_weight() -> None:
    total = torch.tensor(6.0, requires_grad=True)
    loss, value = global_mean(total, torch.tensor(4), CPU)
    loss.backward()
    assert (float(loss.detach()), float(value), float(total.grad)) == (1.5, 1.5, 0.25)
    loss, value = global_mean(torch.tensor(0.0, requires_grad=True), torch.tensor(0), CPU)
    assert (float(loss.detach()), float(value)) == (0.0, 0.0)  # a batch without a labelled pixel


# --- bad numbers ------------------------------------------------------------------------------------------------------


class BadGradient(torch.autograd.Function):
    """Passes a value on; its gradient is not a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * math.nan


def bad_after(good: int, what: str, loss: Any = cross_entropy) -> Any:
    """Return `loss`, whose value or gradient is bad in the call after `good` calls."""
    calls = iter(range(1000))

    def injected(output: Tensor, batch: Mapping[str, Any], *config: TaskConfig) -> tuple[Tensor, Tensor]:
        total, weight = loss(output, batch, *config)
        if next(calls) != good:
            return total, weight
        return (BadGradient.apply(total) if what == "gradient" else total * math.inf), weight

    return injected


@pytest.mark.parametrize(
    ("what", "words"), [("loss", "the loss became inf"), ("gradient", "the gradient norm became nan")]
)
@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_bad_number_stops_the_step_before_it_harms(what: str, words: str, clip: float | None) -> None:
    model = Chain()
    step = weight_step(model, optimizer(lr=0.5, schedule="constant", clip=clip), bad_after(2, what))
    images = torch.randn(4, 3, 8, 8)
    for i in (0, 1):
        step(i, batch_of(0), images)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    momenta = [dict(s) for s in step.optimizer.state_dict()["state"].values()]
    kept = [s["momentum_buffer"].clone() for s in momenta]
    message = rf"{words} at iteration 2 \(learning rate 0\.5\); files of the batch: one\.png, two\.png"
    with pytest.raises(FnaError, match=message):
        step(2, batch_of(0), images)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(torch.equal(s["momentum_buffer"], k) for s, k in zip(momenta, kept, strict=True))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "images")


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_bad_number_in_adaptation_keeps_the_last_checkpoint(images: Path, tmp_path: Path, what: str) -> None:
    with opened(tiny_config(images)) as job:
        bad = job.with_loss(bad_after(5, what, job.problem.task.loss))
        with pytest.raises(FnaError, match=r"at iteration 5 \(learning rate 0\.0\d+\).*files of the batch: .*\.png"):
            adapt_tiny(bad, tmp_path)
    step, state = Checkpoints(tmp_path / "adapt").load_latest() or (None, {})
    assert step == 4
    assert all(bool(t.isfinite().all()) for t in state["loop"]["model"].values() if t.is_floating_point())
    assert [int(row["step"]) for row in read_log(tmp_path / "adapt.csv")] == [0, 1, 2, 3, 4]
    kept = torch.load(tmp_path / "adapt" / "failed-000005.pt", weights_only=True)
    assert kept["batch"]["image"].shape == (4, 3, 64, 64)
    assert len(kept["batch"]["names"]) == 4
    assert kept["state"].keys() == state["loop"].keys()


@pytest.mark.parametrize(
    (
        "call",
        "step",
        "what",
        "words",
    ),  # 6 iterations move weights only, then a call for the weights, one for the alphas
    [(7, 6, "loss", "loss of the alphas"), (9, 7, "gradient", "gradient norm of the alphas")],
)
def test_a_bad_number_in_an_alpha_step_stops_the_search(
    images: Path, tmp_path: Path, call: int, step: int, what: str, words: str
) -> None:
    with opened(tiny_config(images)) as job:
        bad = job.with_loss(bad_after(call, what, job.problem.task.loss))
        with pytest.raises(FnaError, match=rf"{words}.* at iteration {step} \(learning rate 0\.02\).*\.png"):
            search_tiny(bad, tmp_path)
    assert Checkpoints(tmp_path / "search").steps() == [4, 6]


# --- the loop ---------------------------------------------------------------------------------------------------------


class Counting:
    """A loop whose state is a list of its iterations."""

    steps_per_epoch, left_out = 3, 2

    def __init__(self, records: int = 12, total_steps: int = 7) -> None:
        self.records, self.total_steps = records, total_steps
        self.seen: list[int] = []
        self.epochs: list[int] = []
        self.started: list[int] = []
        self.readings = Readings(1)

    def step(self, step: int) -> Mapping[str, float | None]:
        self.seen.append(step)
        return {"loss": float(step)}

    def end_epoch(self, epoch: int) -> Mapping[str, Any]:
        self.epochs.append(epoch)
        return {"score": epoch}

    def state(self) -> dict[str, Any]:
        return {"seen": list(self.seen)}

    def load(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]

    def start(self, step: int) -> None:
        self.started.append(step)


def often(steps: int, seconds: float = 0.0) -> EngineConfig:
    return EngineConfig(checkpoint_steps=steps, checkpoint_seconds=seconds)


@pytest.mark.parametrize(("every", "saved"), [(0, [3, 6]), (1, [1, 2, 3, 4, 5, 6, 7]), (4, [3, 4, 6]), (100, [3, 6])])
def test_checkpoints_come_every_so_often_and_at_the_end_of_epochs(tmp_path: Path, every: int, saved: list[int]) -> None:
    loop = Counting()
    fit(loop, Checkpoints(tmp_path, keep=100), None, "count", often(every), CPU)
    assert Checkpoints(tmp_path).steps() == saved
    assert (loop.seen, loop.epochs, loop.started) == ([0, 1, 2, 3, 4, 5, 6], [1, 2], [0])


class Slow(Counting):
    """A loop of four epochs whose iterations take ten seconds each by the clock of the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(total_steps=12)
        monkeypatch.setattr(time, "monotonic", lambda: 10.0 * len(self.seen))


@pytest.mark.parametrize(
    ("every", "seconds", "saved"),
    [(0, 30, [3, 6, 9, 12]), (0, 31, [6, 12]), (0, 61, [9]), (0, 121, []), (4, 35, [4, 8, 12]), (5, 40, [5, 9, 10])],
)
def test_checkpoints_at_the_ends_of_epochs_keep_a_distance_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int, seconds: float, saved: list[int]
) -> None:
    fit(Slow(monkeypatch), Checkpoints(tmp_path, keep=100), None, "count", often(every, seconds), CPU)
    assert Checkpoints(tmp_path).steps() == saved


def test_short_epochs_write_no_checkpoints_unless_asked(tmp_path: Path) -> None:
    fit(Counting(), Checkpoints(tmp_path), None, "count", EngineConfig(), CPU)
    assert not list(tmp_path.iterdir())


def test_a_loop_goes_on_where_its_last_checkpoint_is(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    spent = fit(Counting(), checkpoints, None, "count", often(4), CPU)
    again = Counting()
    assert fit(again, checkpoints, None, "count", often(4), CPU).minutes >= spent.minutes - 1e-3
    assert (again.seen, again.epochs, again.started) == ([0, 1, 2, 3, 4, 5, 6], [], [6])


def test_a_phase_goes_on_with_as_many_processes_as_it_began_with(tmp_path: Path) -> None:
    fit(Counting(), Checkpoints(tmp_path), None, "count", often(4), CPU)
    two = replace(CPU, world=World(0, 2))
    with pytest.raises(FnaError, match=r"'count' began with 1 process, now there are 2; .* without torchrun"):
        fit(Counting(), Checkpoints(tmp_path), None, "count", often(4), two)


def test_a_phase_goes_on_with_the_data_and_the_length_it_began_with(tmp_path: Path) -> None:
    fit(Counting(), Checkpoints(tmp_path), None, "count", often(4), CPU)
    changed = "'count' began with 12 records to train on, now there are 14; 7 iterations in all, now there are 9: go on"
    with pytest.raises(FnaError, match=changed):
        fit(Counting(records=14, total_steps=9), Checkpoints(tmp_path), None, "count", often(4), CPU)


# --- device and precision ---------------------------------------------------------------------------------------------


def compute(**settings: Any) -> Iterator[Compute]:
    with computing(EngineConfig.model_validate(settings)) as found:
        yield found


@pytest.mark.parametrize(("instructions", "dtype"), [(True, torch.bfloat16), (False, None)])
def test_bf16_is_chosen_where_the_cpu_has_instructions_for_it(
    instructions: bool, dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without them an x86 emulates it: a training step of the seed took 1.8 times as long as in float32."""
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert next(compute(device="cpu", precision="auto")).dtype is dtype


def test_device_and_precision_that_are_there() -> None:
    found = next(compute(device="cpu", precision="bf16", channels_last=False))
    assert (found.device.type, found.dtype, found.channels_last) == ("cpu", torch.bfloat16, False)
    assert next(compute(device="cpu", precision="fp32")).dtype is None


def test_a_gpu_gets_more_data_workers_than_a_cpu_and_processes_share_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {name: partial(find_workers, "auto", torch.device(name)) for name in ("cpu", "cuda")}
    for cpus, processes, beside_gpu in ((1, 1, 1), (4, 1, 3), (64, 1, 8), (16, 4, 3), (8, 8, 1)):
        monkeypatch.setattr(hardware, "cpus", lambda cpus=cpus: cpus)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert (own["cpu"](), own["cuda"]()) == (2, beside_gpu)
    assert find_workers(5, torch.device("cuda")) == 5


def test_threads_are_as_many_as_before_afterwards() -> None:
    before = torch.get_num_threads()
    try:
        for number in (1, 3):
            torch.set_num_threads(2)
            with computing(EngineConfig(device="cpu", threads=number)):
                assert torch.get_num_threads() == number
            assert torch.get_num_threads() == 2
        with suppress(ValueError), computing(EngineConfig(device="cpu", threads=1)):
            raise ValueError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


MEMORY = """
import os
from pathlib import Path
import torch
from fna.config import EngineConfig
from fna.training.compute import computing

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def rise():
    torch.ones(size // 4)
    return (resident() - before) / size

size, before = 2**28, resident()
with computing(EngineConfig(device="cpu")):
    with computing(EngineConfig(device="cpu")):
        pass
    print(rise())
print((resident() - before) / size)
print(rise())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_kept_while_computing_and_handed_back_afterwards() -> None:
    # in a process of its own: what other tests freed may lie in the heap
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    inside, left, outside = map(float, done.stdout.split())
    assert inside > 0.5
    assert left < 0.5
    assert outside < 0.5


def test_flags_that_torchs_older_names_cannot_read_are_left_alone() -> None:
    matmul = torch.backends.cuda.matmul
    if not hasattr(matmul, "fp32_precision"):
        pytest.skip("this torch has no newer names")
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "tf32"
        with computing(EngineConfig(device="cpu", tf32=False)):
            assert matmul.fp32_precision == "tf32"
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before


@pytest.mark.parametrize("wanted", [True, False])
def test_tf32_is_as_it_is_set_and_then_as_before(wanted: bool) -> None:
    def allowed() -> tuple[bool, bool]:
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    before = allowed()
    with computing(EngineConfig(device="cpu", tf32=wanted)):
        assert allowed() == (wanted, wanted)
    with suppress(ValueError), computing(EngineConfig(device="cpu", tf32=not wanted)):
        raise ValueError
    assert allowed() == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "cpu", "precision": "fp16"}, "engine.precision fp16 needs CUDA; use bf16 or fp32"),
        ({"device": "gpu"}, "engine.device is 'gpu'.*did you mean 'cpu'.*there is: auto, cpu"),
        ({"device": "meta"}, "engine.device is 'meta'; there is: auto, cpu"),
        ({"device": "mps"}, "engine.device is 'mps'"),
        ({"device": "cuda:99"}, "engine.device is 'cuda:99'"),
    ],
)
def test_device_and_precision_that_are_not_there(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(FnaError, match=message):
        next(compute(**settings))


def test_images_are_normalised_as_the_seed_expects() -> None:
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 4, 5)
    x = replace(CPU, channels_last=True).images(pixels, (0.5, 0.25, 0.0), (0.5, 1.0, 2.0))
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert x[:, :, 0, 0].tolist() == [[-1.0, -0.25, 0.0], [1.0, 0.75, 0.5]]


class Diverging(Counting):
    """A loop whose state, which its loss does not see, is bad from an iteration on; it has two checkpoints before."""

    def __init__(self, bad: int) -> None:
        super().__init__()
        self.bad = bad

    def state(self) -> dict[str, Any]:
        bad = len(self.seen) >= self.bad
        return {**super().state(), "norm": {"running_mean": torch.tensor([0.0, math.nan if bad else 1.0])}}


@pytest.mark.parametrize("bad", [5, 7])  # in the middle, and after the last iteration
def test_a_state_that_is_not_finite_is_not_saved_and_named(tmp_path: Path, bad: int) -> None:
    checkpoints = Checkpoints(tmp_path)
    message = rf"after iteration {bad} of 7 there is NaN or infinity in norm\.running_mean.*failed-00000{bad}\.pt"
    with pytest.raises(FnaError, match=message):
        fit(Diverging(bad), checkpoints, None, "count", often(1), CPU)
    assert checkpoints.steps() == [bad - 2, bad - 1]
    latest = checkpoints.load_latest()
    assert latest is not None
    assert latest[0] == bad - 1


def test_a_bad_last_iteration_without_checkpoints_is_named_too() -> None:
    with pytest.raises(FnaError, match=r"after iteration 7 of 7 there is NaN or infinity in norm\.running_mean"):
        fit(Diverging(7), None, None, "count", EngineConfig(), CPU)


@pytest.mark.parametrize("spoil", [lambda s: s.pop("plan"), lambda s: s.update(loop=[]), lambda s: s["loop"].clear()])
def test_a_checkpoint_of_another_structure_is_our_error(tmp_path: Path, spoil: Callable[[Any], Any]) -> None:
    checkpoints = Checkpoints(tmp_path)
    fit(Counting(), checkpoints, None, "count", often(1), CPU)
    step, state = checkpoints.load_latest() or (0, {})
    spoil(state)
    checkpoints.save(step, state)
    with pytest.raises(FnaError, match=r"is of another structure than this version of fna saves"):
        fit(Counting(), checkpoints, None, "count", often(1), CPU)


def test_every_epoch_is_told_where_no_bar_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with opened(tiny_config(write_images(tmp_path / "images"), "adapt.epochs=2")) as job:
        adapt_tiny(job, tmp_path / "run")
        lines = capsys.readouterr().err.splitlines()
        with quiet():
            adapt_tiny(job, tmp_path / "again")
    assert lines[0] == "adapted: 6 iterations in 2 epochs, 12 records"
    assert re.fullmatch(r"adapted: epoch 1 of 2, loss \d\.\d+, \d+ s, ETA \d+ s", lines[1])
    assert re.fullmatch(r"adapted: epoch 2 of 2, loss \d\.\d+, miou 0\.\d+, \d+ s, ETA 0 s", lines[2])
    assert capsys.readouterr().err == ""
