"""Latency, measured: every distinct block of a space once, and whole networks, on the device that counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor, nn

from fna.arch import Arch, Block, SuperArch
from fna.arch.target import Form, Target
from fna.config.budgets import NS_PER_MS
from fna.cost.latency import LatencyTable, block_name, differences, layers_ns, placed, said
from fna.cost.madds import SizeHW
from fna.errors import FnaError, pick
from fna.exporting.onnx_files import make_onnx, need_onnx
from fna.nets.blocks import build_block
from fna.progress import bar
from fna.rng import generator
from fna.searching.knapsack import PathsBetween
from fna.tasks.problem import Problem
from fna.training import machine
from fna.training.compute import Compute, cpu_threads, find_device, find_precision
from fna.training.distributed import World
from fna.training.turns import ROUNDS, Call, time_in_turns


@dataclass(frozen=True)
class Bench:
    """Where and with what networks are timed.

    Args:
        compute: device and precision.
        backend: a name of `BACKENDS`.
        machine: all that latencies depend on.
    """

    compute: Compute
    backend: str
    machine: Mapping[str, str]

    def block(self, block: Block, arch: Arch, size_hw: SizeHW) -> Call:
        """Return what runs a block of `arch` on one map of a size."""
        module = build_block(block, arch.activation, arch.norm_eps, arch.padding)
        return self._call(module, torch.randn(1, block.in_channels, *size_hw, generator=generator(0, "latency")))

    def network(self, problem: Problem, target: Target) -> Call:
        """Return what runs a whole network, with fresh weights, on one normalised image."""
        own = problem.at(target)
        model = own.build(target.arch)
        own.tune(model.head)
        return self._call(model, torch.randn(1, 3, *own.counted_hw(target.arch), generator=generator(0, "latency")))

    def time(self, calls: Mapping[str, Call], rounds: int = ROUNDS) -> dict[str, int]:
        """Time things in turns; return the median of the rounds, ns a run each."""
        return time_in_turns(calls, self.machine["device"], rounds).ns

    def _call(self, module: nn.Module, x_1CHW: Tensor) -> Call:
        return BACKENDS[self.backend](module.eval(), x_1CHW, self.compute)


@contextmanager
def bench(
    device: str = "cpu", threads: int = 1, precision: str = "fp32", backend: str = "torch", **_: str
) -> Iterator[Bench]:
    """Settle where networks are timed; leaving restores the threads.

    Args:
        device: cpu, cuda, cuda:1 or auto.
        threads: of the CPU; 0: as many as torch chooses.
        precision: fp32, bf16, fp16 or auto.
        backend: a name of `BACKENDS`.

    Raises:
        FnaError: the device, precision or backend is not there.
    """
    pick(BACKENDS, backend, "backend")
    place = find_device(device)
    if backend == "onnxruntime":
        need_onnx()
        if (place.type, precision) != ("cpu", "fp32"):
            raise FnaError("the backend onnxruntime is timed on the CPU in fp32; give --device cpu, or --backend torch")
    dtype = find_precision(precision, place)
    with cpu_threads(threads):
        cuda = place.type == "cuda"
        about = {
            "device": place.type,
            "processor": torch.cuda.get_device_name(place) if cuda else machine.processor(),
            "threads": str(torch.get_num_threads()),
            "precision": {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype],
            "backend": backend,
            "version": _version(backend),
        }
        yield Bench(Compute(place, dtype, channels_last=True, world=World()), backend, about)


@contextmanager
def bench_like(machine: Mapping[str, str]) -> Iterator[Bench]:
    """Settle to time as a table's entries were.

    Raises:
        FnaError: this is another machine; the message says in what it differs.
    """
    with bench(**{**machine, "threads": int(machine["threads"])}) as ready:  # type: ignore[arg-type]
        if differs := differences(machine, ready.machine):
            raise FnaError(f"the latency table is of another machine ({said(machine)}): here it is {differs}")
        yield ready


def measure_space(
    problem: Problem, space: SuperArch, forms: Iterable[Form], table: LatencyTable, here: Bench, rounds: int = ROUNDS
) -> LatencyTable:
    """Measure what a table lacks of a space: each distinct block once, and the seed's whole network in every form.

    Args:
        problem: what the networks are for.
        space: undilated.
        forms: what a target may be like besides its architecture.
        table: what was measured before; it is written when the new entries are complete.
        here: where it is measured.
        rounds: how often each is timed.

    Returns:
        The table with all entries.

    Raises:
        FnaError: it is of another machine.
    """
    if differs := differences(table.machine, here.machine):
        raise FnaError(
            f"{table.path} was measured on {said(table.machine)}; here it is {differs}: give another file with --table"
        )
    owns = {problem.at(form).rest_name(space.seed): problem.at(form) for form in forms}
    wanted: dict[str, tuple[Block, SizeHW]] = {}
    for own in owns.values():
        for blocks, at_hw in placed(own.prepared(space), own.counted_hw(space)):
            for block in blocks:
                if block.kind != "skip" and (name := block_name(block, at_hw, space.seed)) not in table.ns:
                    wanted[name] = block, at_hw
    rests = {name: own for name, own in owns.items() if name not in table.ns}
    calls: dict[str, Call] = {}
    with bar(len(wanted) + len(rests), "build") as progress:
        for name, (block, at_hw) in wanted.items():
            calls[name] = here.block(block, space.seed, at_hw)
            progress.advance()
        for name, own in rests.items():
            calls[name] = here.network(own, Target(space.seed))
            progress.advance()
    timed = here.time(calls, rounds)
    full = replace(table, ns=table.ns | {name: timed[name] for name in wanted})
    for name, own in rests.items():
        full.ns[name] = timed[name] - layers_ns(own.prepared(space.seed), own.counted_hw(space.seed), full)
    full.write(**conditions(rounds))
    return full


def remeasure(problem: Problem, seed: Arch, target: Target, rounds: int = ROUNDS) -> dict[str, Any]:
    """Measure a target, and the seed beside it, on the machine of the problem's latency table.

    Returns:
        JSON-ready: ``predicted_ms``, ``measured_ms`` and ``seed_measured_ms`` (None on another machine, and ``why``),
        the table's ``machine`` and ``table``, its digest.
    """
    table = problem.latencies()
    own = problem.at(target)
    done: dict[str, Any] = {"machine": said(table.machine), "table": table.digest}
    done["predicted_ms"] = own.whole(target.arch, "latency") / NS_PER_MS
    try:
        with bench_like(table.machine) as here:
            calls = {"seed": here.network(problem, Target(seed)), "target": here.network(problem, target)}
            timed = here.time(calls, rounds)
    except FnaError as error:
        return done | {"measured_ms": None, "seed_measured_ms": None, "why": str(error)}
    measured = {"measured_ms": timed["target"] / NS_PER_MS, "seed_measured_ms": timed["seed"] / NS_PER_MS}
    return done | measured | conditions(rounds)


def conditions(rounds: int) -> dict[str, Any]:
    """Return what else a reader of a measurement wants to know."""
    return {"measured": f"{datetime.now(UTC):%Y-%m-%d %H:%M UTC}", "rounds": rounds, "load": machine.load()}


def check(
    problem: Problem, space: SuperArch, table: LatencyTable, here: Bench, number: int, rounds: int = ROUNDS
) -> dict[str, Any]:
    """Hold predictions against the measured latency of random networks.

    Args:
        problem: what the networks are for.
        space: undilated.
        table: what predicts.
        here: where they are measured.
        number: of architectures, drawn from as many bands of equal width between the fastest and the slowest.
        rounds: how often each is timed.

    Returns:
        JSON-ready: ``error_percent`` (mean absolute), ``error_percent_max``, ``r2``, ``kendall_tau``, and ``networks``
        with predicted and measured ms.
    """
    costs = problem.costs(space, "latency")
    draw = generator(0, "check")
    low, high = (end - costs.other for end in costs.range)
    paths = []
    for i in range(number):
        ends = (round(low + (high - low) * share / number) for share in (i, i + 1))
        paths.append(PathsBetween(costs.table, *ends).draw(lambda: float(torch.rand((), generator=draw))))
    known = [path for path in paths if path is not None]
    calls = {str(i): here.network(problem, Target(space.path_arch(path))) for i, path in enumerate(known)}
    timed = here.time(calls, rounds)
    predicted = torch.tensor([costs.whole(path) / NS_PER_MS for path in known], dtype=torch.float64)
    measured = torch.tensor([timed[name] / NS_PER_MS for name in calls], dtype=torch.float64)
    errors = ((predicted - measured) / measured).abs() * 100
    return {
        "error_percent": float(errors.mean()),
        "error_percent_max": float(errors.max()),
        "r2": _r2(predicted, measured),
        "kendall_tau": _kendall_tau(predicted, measured),
        "networks": [
            {"predicted_ms": p, "measured_ms": m} for p, m in zip(predicted.tolist(), measured.tolist(), strict=True)
        ],
        **conditions(rounds),
    }


def _r2(predicted_N: Tensor, measured_N: Tensor) -> float:
    """Return the share of the measured values' variance that predictions explain; 1 is all of it."""
    return float(1 - (measured_N - predicted_N).square().sum() / (measured_N - measured_N.mean()).square().sum())


def _kendall_tau(first_N: Tensor, second_N: Tensor) -> float:
    """Return Kendall's tau: pairs in the same order less those in the other, as a share of all."""
    signs_NN = [(values_N[:, None] - values_N[None]).sign() for values_N in (first_N, second_N)]
    return float((signs_NN[0] * signs_NN[1]).sum() / (len(first_N) * (len(first_N) - 1)))


# --- backends ---------------------------------------------------------------------------------------------------------


def run_torch(module: nn.Module, x_1CHW: Tensor, compute: Compute) -> Call:
    """Run as fna does: channels last, autocast where the precision asks for it."""
    compute.move(module)
    x = x_1CHW.to(compute.device, memory_format=torch.channels_last)

    def call(number: int) -> None:
        with torch.inference_mode(), compute.autocast():
            for _ in range(number):
                module(x)
        if compute.device.type == "cuda":
            torch.cuda.synchronize(compute.device)

    return call


def run_onnx(module: nn.Module, x_1CHW: Tensor, compute: Compute) -> Call:
    """Run in ONNX Runtime on the CPU, norms folded into convolutions."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # what it optimises is none of the user's concern
    exported = _Maps(module)
    program = torch.export.export(exported, (x_1CHW,), strict=False)
    outputs = [f"map{i}" for i in range(len(exported(x_1CHW)))]
    model = make_onnx(program, outputs, {})
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x_1CHW.numpy()}

    def call(number: int) -> None:
        for _ in range(number):
            session.run(None, feed)

    return call


class _Maps(nn.Module):
    """A block or network whose output is a tuple of tensors."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x_1CHW: Tensor) -> tuple[Tensor, ...]:
        """Return all that the module gives."""
        output: Any = self.module(x_1CHW)
        values: Sequence[Any] = list(output.values()) if isinstance(output, Mapping) else [output]
        return tuple(value for value in values if isinstance(value, Tensor))


BACKENDS: dict[str, Callable[[nn.Module, Tensor, Compute], Call]] = {"torch": run_torch, "onnxruntime": run_onnx}


def _version(backend: str) -> str:
    from importlib.metadata import version

    return version(backend)
