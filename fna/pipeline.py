"""The run folder wires the stages: each reads files there and leaves files there, and a finished stage is not redone."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fna import distributed, spaces
from fna import evaluate as scoring
from fna.adapt import adapt as adapt_weights
from fna.arch import Arch, SuperArch, load_arch
from fna.checkpoint import Checkpoints, read_json, read_state, write_bytes
from fna.config import AdaptConfig, Config, dump_yaml, load_config, make_config, merge, parse_yaml
from fna.cost import Cost, cost_table, model_cost, path_cost, space_cost
from fna.data.decoding import read_image
from fna.derive import derive as derive_arch
from fna.engine import Compute, computing
from fna.errors import FnaError, nearest
from fna.folder import Folder
from fna.progress import bar, say
from fna.remap import Strategy, remap, summarise
from fna.reporting import write_report
from fna.search import search as search_arch
from fna.seeds import Seed, load_seed
from fna.tasks import load_task
from fna.training import Setting, State, load_weights, put, take

# Keys that may differ from the folder's config.yaml: they do not change what a finished stage computed.
FREE = ("adapt.", "evaluate.", "baseline", "engine.device", "engine.threads", "engine.workers", "engine.strict")
BASELINE = "baseline"
PREDICTIONS = 6
IMAGE_ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


@dataclass
class Costs:
    """MAdds of a run: the table of the space, and the rest of the network (stem, head)."""

    size_hw: tuple[int, int]
    table: list[list[int]]
    other: int
    seed: Cost
    budget: int | None  # of the table's layers


class Run:
    """A run folder opened by one process of a job; see `open`."""

    def __init__(self, folder: Folder, config: Config, compute: Compute) -> None:
        self.folder, self.config, self.compute = folder, config, compute
        self.path = folder.path

    @classmethod
    @contextmanager
    def open(cls, path: str | Path, config: Config | None = None, overrides: Sequence[str] = ()) -> Iterator[Run]:
        """Open (or start) a run.

        Args:
            path: the folder.
            config: the configuration of a new run, or of the one to go on with; None: the folder's own.
            overrides: ``key=value`` changes to it.

        Raises:
            FnaError: the folder is foreign, in use or unwritable, or was made with another configuration.
        """
        path = Path(path)
        if config is None:
            if not (path / "config.yaml").exists():
                raise FnaError(f"{path} holds no config.yaml of a run; start one with: fna run RECIPE --run {path}")
            config = load_config(path / "config.yaml", overrides)
        elif overrides:
            config = make_config(merge(config.model_dump(mode="json", by_alias=True), overrides))
        with computing(config.engine) as compute:
            folder, error = None, None
            if compute.world.writes:
                try:
                    folder = Folder.open(path)
                    _settle_config(folder, config)
                except FnaError as problem:
                    error = str(problem)
            try:
                distributed.agree(error)
                folder = folder or Folder.open(path, writer=False)
                yield cls(folder, config, compute)
            finally:
                if folder:
                    folder.close()

    @cached_property
    def seed(self) -> Seed:
        """The pretrained network."""
        return load_seed(self.config.seed.name, self.config.seed.weights)

    @cached_property
    def setting(self) -> Setting:
        """What the stages share; opens and validates both splits."""
        task = load_task(self.config.task.name)
        train = task.open_data(self.config.data, self.config.data.train)
        val = task.open_data(self.config.data, self.config.data.val)
        for split, data in ((self.config.data.train, train), (self.config.data.val, val)):
            if data.skipped:
                say(f"data: left out {len(data.skipped)} of split '{split}': {'; '.join(data.skipped[:3])} ...")
        return Setting(self.config, self.compute, task, self.seed, train, val)

    @cached_property
    def super_arch(self) -> SuperArch:
        """The search space, undilated."""
        return SuperArch.from_json(self.read_json("super.json", "expand"))

    @cached_property
    def costs(self) -> Costs:
        """MAdds at the size images are scored at (paper rule)."""
        return count_costs(self.super_arch, self.setting)

    def read_json(self, name: str, stage: str) -> Any:
        """Read a file that `stage` wrote."""
        self.need(stage)
        return read_json(self.path / name)

    def read_state(self, name: str, stage: str) -> dict[str, Tensor]:
        """Read the weights that `stage` wrote."""
        self.need(stage)
        return read_state(self.path / name)

    def need(self, stage: str) -> None:
        """Refuse to go on without `stage`.

        Raises:
            FnaError: it is not finished.
        """
        if not self.folder.finished(stage):
            raise FnaError(f"the stage '{stage}' of {self.path} is not finished; type: fna {stage} {self.path}")

    def write(self, stage: str, files: Mapping[str, Any], info: Mapping[str, Any] | None = None) -> None:
        """Write a stage's files (state dicts, JSON, text, bytes by type and ending) and mark it finished, on rank 0."""
        if self.compute.world.writes:
            for name, content in files.items():
                if name.endswith(".safetensors"):
                    self.folder.write_state(name, content)
                elif isinstance(content, bytes):
                    (self.path / name).parent.mkdir(exist_ok=True)
                    self.folder.write_bytes(name, content)
                elif isinstance(content, str):
                    self.folder.write_text(name, content)
                else:
                    self.folder.write_json(name, content)
            self.folder.commit(stage, list(files), info)
        distributed.barrier()

    def checkpoints(self, phase: str) -> Checkpoints:
        """Return where a phase keeps the state to resume from."""
        return Checkpoints(self.path / "checkpoints" / phase)

    def logs(self, steps: str, epochs: str) -> tuple[Path, Path]:
        """Return the paths of two CSV logs."""
        return self.path / steps, self.path / epochs


def _settle_config(folder: Folder, config: Config) -> None:
    """Write config.yaml, or refuse a change that finished stages do not allow."""
    path = folder.path / "config.yaml"
    text = dump_yaml(config)
    if not path.exists():
        folder.write_text("config.yaml", text)
        return
    old, new = (flatten(parse_yaml(t, str(path))) for t in (path.read_text(encoding="utf-8"), text))
    changed = [k for k in new if new[k] != old.get(k, new[k]) and not k.startswith(FREE)]
    started = folder.finished("expand") or (folder.path / "checkpoints").exists()
    if changed and started:
        key = changed[0]
        raise FnaError(
            f"{folder.path} was started with {key} = {old[key]}, now it is {new[key]}"
            f"{f' (and {len(changed) - 1} more changes)' if len(changed) > 1 else ''}; "
            "give the same settings to go on, or another folder with --run"
        )
    if changed:
        folder.write_text("config.yaml", text)


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested sections as ``a.b.c`` keys.

    >>> flatten({"a": {"b": 1}, "c": 2})
    {'a.b': 1, 'c': 2}
    """
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return flat


def count_costs(arch: SuperArch, setting: Setting) -> Costs:
    """Count a search space and turn ``search.budget`` into MAdds of the table's layers.

    Raises:
        FnaError: no path of the space meets the budget, or it allows more than the largest path.
    """
    config = setting.config
    size_hw = config.search.cost_size or config.data.eval_size or tuple(setting.val.load(0)[0].shape[1:])
    strided = setting.task.prepare(arch, config.task)
    table = cost_table(strided, size_hw)
    seed = model_cost(strided.seed, setting.meta_head(arch.seed), size_hw)
    other = seed.madds - path_cost(table, strided.seed_path())
    budget = config.search.budget
    target = None
    if budget is not None:
        wanted = budget * seed.madds if budget <= 100 else budget
        low, high = (sum(map(pick, table)) + other for pick in (min, max))
        if not low <= wanted <= high:
            raise FnaError(
                f"search.budget {budget:g} means {wanted / 1e9:.4g} G MAdds at {size_hw[0]}x{size_hw[1]}, but this space "
                f"reaches from {low / 1e9:.4g} to {high / 1e9:.4g} G ({low / seed.madds:.2f} to "
                f"{high / seed.madds:.2f} x the seed); choose a budget in that range"
            )
        target = int(wanted) - other
    return Costs((size_hw[0], size_hw[1]), table, other, seed, target)


# --- stages -------------------------------------------------------------------------------------------------------------


def expand(run: Run) -> dict[str, Any]:
    """Grow the seed into a super network and remap its weights (FNA++ section 3.2.1)."""
    config, seed = run.config, run.seed
    layers = config.space.layers or spaces.default_layers(seed.arch, spaces.SEGMENTATION_LAYERS)
    arch = spaces.make_space(
        seed.arch,
        kernels=config.space.kernels,
        expansions=config.space.expansions,
        layers=layers,
        skip=config.space.skip,
    )
    costs = count_costs(arch, run.setting)
    start = seed.state if seed.state is not None else backbone_state(run.setting, seed.arch)
    remapped = remap(seed.arch, start, arch, Strategy(**config.remap.model_dump()), config.engine.rng_seed)
    report = summarise(remapped.report)
    about = {k: getattr(seed, k) for k in ("name", "mean", "std", "source", "licence", "top1")}
    searchable = space_cost(run.setting.task.prepare(arch, config.task), costs.table)
    info = {"size": str(arch.size), "searchable_layers": len(arch.searchable), "searchable_madds": asdict(searchable)}
    run.write(
        "expand",
        {
            "seed.json": {**about, "arch": seed.arch.to_json()},
            "seed.safetensors": start,
            "super.json": arch.to_json(),
            "super.safetensors": remapped.state,
            "remap.json": report,
        },
        info,
    )
    return info


def backbone_state(setting: Setting, arch: Arch) -> dict[str, Tensor]:
    """Return fresh backbone weights, for a seed without any."""
    return take(setting.build(arch).state_dict(), "backbone")


def search(run: Run) -> dict[str, Any]:
    """Adapt the architecture on the target task (FNA++ section 3.2.2)."""
    start = put(take_backbone(run.read_state("super.safetensors", "expand")), "backbone")
    costs = run.costs
    result = search_arch(
        run.super_arch,
        start,
        costs.table,
        costs.other,
        costs.budget,
        run.setting,
        checkpoints=run.checkpoints("search"),
        logs=run.logs("search.csv", "entropy.csv"),
    )
    named = {
        f"{s}.{n}": dict(zip((b.label for b in candidates), values, strict=True))
        for ((s, n), candidates), values in zip(run.super_arch.layers(), result.alphas, strict=True)
        if len(candidates) > 1
    }
    info = {"minutes": result.minutes, "warnings": result.warnings, "epochs": run.config.search.epochs}
    run.write("search", {"alphas.json": {"layers": named}, "searched.safetensors": result.state}, info)
    _clear(run, "search")
    return info


def take_backbone(state: State) -> dict[str, Tensor]:
    """Return the tensors of stem and stages, without a classifier's."""
    return {name: t for name, t in state.items() if name.startswith(("stem.", "stages."))}


def derive(run: Run) -> dict[str, Any]:
    """Choose the target architecture and collect its weights from the super network (FNA++ section 3.2.3)."""
    named = run.read_json("alphas.json", "search")["layers"]
    arch, costs = run.super_arch, run.costs
    alphas = [
        [named[f"{s}.{n}"][b.label] for b in candidates] if len(candidates) > 1 else [0.0]
        for (s, n), candidates in arch.layers()
    ]
    derived = derive_arch(arch, alphas, costs.table, costs.budget)
    target = arch.path_arch(derived.path)
    cost = network_cost(target, run)
    info = {
        "madds": cost.madds,
        "params": cost.params,
        "budget": None if costs.budget is None else costs.budget + costs.other,
        "seed_madds": costs.seed.madds,
        "seed_params": costs.seed.params,
        "argmax_madds": derived.argmax_cost + costs.other,
        "size_hw": list(costs.size_hw),
        "disagreements": [asdict(row) for row in derived.disagreements],
    }
    weights = initial_state(run, target, "super")
    run.write(
        "derive",
        {"target.json": {"arch": target.to_json(), "path": list(derived.path), **info}, "target.safetensors": weights},
        info,
    )
    return info


def network_cost(arch: Arch, run: Run) -> Cost:
    """Count the task's network on `arch` at the run's size (paper rule)."""
    return model_cost(run.setting.task.prepare(arch, run.config.task), run.setting.meta_head(arch), run.costs.size_hw)


def initial_state(run: Run, arch: Arch, init: str) -> dict[str, Tensor]:
    """Return the weights an adaptation of `arch` starts from; what is missing starts fresh.

    Args:
        run: the run.
        arch: the architecture.
        init: ``super`` (FNA++), ``seed`` (FNA) or ``random``.
    """
    strategy = Strategy(**run.config.remap.model_dump())
    if init == "random":
        return {}
    if init == "seed":
        state = run.read_state("seed.safetensors", "expand")
        return put(
            take_backbone(remap(run.seed.arch, state, arch, strategy, run.config.engine.rng_seed).state), "backbone"
        )
    searched = run.read_state("searched.safetensors", "search")
    backbone = remap(run.super_arch, take(searched, "backbone"), arch, strategy, run.config.engine.rng_seed).state
    return {**put(take_backbone(backbone), "backbone"), **put(take(searched, "head"), "head")}


def adapt(run: Run) -> dict[str, Any]:
    """Fine-tune the network that ``adapt.arch`` and ``adapt.init`` name (FNA++ section 3.2.3)."""
    return adapt_one(run, run.config.adapt)


def baseline(run: Run) -> dict[str, Any]:
    """Fine-tune the plain seed under the identical schedule."""
    changes = {"name": BASELINE, "arch": "seed", "init": "seed"}
    return adapt_one(run, run.config.adapt.model_copy(update=changes))


def adapt_one(run: Run, config: AdaptConfig) -> dict[str, Any]:
    """Fine-tune one network; its files are named after ``config.name``."""
    stage, wanted = f"adapt:{config.name}", config.model_dump(mode="json")
    known = run.path / "checkpoints" / config.name / "adapt.json"
    if run.folder.finished(stage):
        info = run.folder.info(stage)
        _same(info["config"], wanted, run.path)
        return info
    if known.exists():
        _same(read_json(known), wanted, run.path)
    elif run.compute.world.writes:
        known.parent.mkdir(parents=True, exist_ok=True)
        run.folder.write_json(str(known.relative_to(run.path)), wanted)
    arch = adapt_arch(run, config.arch)
    result = adapt_weights(
        arch,
        initial_state(run, arch, config.init),
        config,
        run.setting,
        checkpoints=run.checkpoints(config.name),
        logs=run.logs(f"{config.name}.csv", f"{config.name}_scores.csv"),
    )
    cost = network_cost(arch, run)
    labels = {"classes": list(run.setting.val.classes), "colors": [list(c) for c in run.setting.val.colors]}
    info = {"config": wanted, "minutes": result.minutes, "params": cost.params, "madds": cost.madds, **labels}
    files = {f"{config.name}.json": {"arch": arch.to_json(), **info}, f"{config.name}.safetensors": result.state}
    run.write(stage, files, info)
    _clear(run, config.name)
    return {**info, run.setting.task.metric: result.scores[run.setting.task.metric]}


def _same(old: Mapping[str, Any], new: Mapping[str, Any], path: Path) -> None:
    changed = [key for key in new if new[key] != old.get(key)]
    if changed:
        key = changed[0]
        raise FnaError(
            f"'{new['name']}' of {path} was adapted with adapt.{key} = {old.get(key)}, now it is {new[key]}; "
            "give the new one a name of its own, e.g. --adapt.name control"
        )


def adapt_arch(run: Run, name: str) -> Arch:
    """Return the architecture that ``adapt.arch`` names."""
    if name == "derived":
        return Arch.from_json(run.read_json("target.json", "derive")["arch"])
    if name == "seed":
        return run.seed.arch
    if not Path(name).exists():
        raise FnaError(
            f"adapt.arch is '{name}'{nearest(name, ('derived', 'seed'))}; expected 'derived', 'seed' or an architecture file"
        )
    arch = load_arch(name)
    return Arch(**{**vars(run.seed.arch), "stages": arch.stages}) if arch.stem == run.seed.arch.stem else arch


def _clear(run: Run, phase: str) -> None:
    """Remove the checkpoints of a finished phase."""
    if run.compute.world.writes:
        run.checkpoints(phase).clear()


def evaluate(run: Run) -> dict[str, Any]:
    """Score every adapted network from its saved weights and draw predictions of the first ones."""
    stages = run.folder.stages()
    names = [s.removeprefix("adapt:") for s in stages if s.startswith("adapt:")]
    if not names:
        raise FnaError(f"nothing is adapted in {run.path} yet; type: fna adapt {run.path}")
    setting, rows, pictures = run.setting, {}, {}
    shown = list(range(0, len(setting.val), setting.compute.world.size))
    shown = [shown[i] for i in np.linspace(0, len(shown) - 1, min(PREDICTIONS, len(shown))).round().astype(int)]
    for name in names:
        record = run.read_json(f"{name}.json", f"adapt:{name}")
        config, arch = record["config"], Arch.from_json(record["arch"])
        model = setting.build(arch)
        load_weights(model, run.read_state(f"{name}.safetensors", f"adapt:{name}"), f"{name}.safetensors")
        setting.compute.place(model)
        kept: dict[int, Any] = {}

        def keep(index: int, prediction: Any, kept: dict[int, Any] = kept) -> None:
            if index in shown:
                kept[index] = prediction

        scores = scoring.evaluate(
            model, setting.task, setting.val, run.seed, run.config, run.compute, label=f"score {name}", each=keep
        )
        rows[name] = {
            "title": title(name, config),
            **{k: config[k] for k in ("arch", "init", "epochs")},
            **{k: record[k] for k in ("params", "madds", "minutes")},
            **scores,
            "rng_seed": run.config.engine.rng_seed,
        }
        if name in (BASELINE, "adapted"):
            pictures.update({(i, name): setting.task.draw(kept[i], setting.val) for i in shown if i in kept})
    for i in shown:
        image, truth = setting.val.load(i)
        pictures[i, "image"] = image.permute(1, 2, 0).numpy()
        pictures[i, "truth"] = setting.task.draw(truth, setting.val)
    searched = run.folder.info("search") if "search" in stages else {}
    metrics = {
        "rows": rows,
        "metric": setting.task.metric,
        "search_minutes": searched.get("minutes"),
        "warnings": list(searched.get("warnings", [])),
        "colors": dict(zip(setting.val.classes, setting.val.colors, strict=True)),
        "data": {
            "train": len(setting.train),
            "val": len(setting.val),
            "skipped": setting.train.skipped + setting.val.skipped,
        },
    }
    files: dict[str, Any] = {"metrics.json": metrics}
    for (i, kind), picture in pictures.items():
        files[f"predictions/{shown.index(i):02d}_{kind}.png"] = png(picture)
    run.write("evaluate", files, {"names": names})
    return metrics


def title(name: str, config: Mapping[str, Any]) -> str:
    """Return what a row of the table is called."""
    known = {
        ("derived", "super"): "FNA++ network",
        ("derived", "seed"): "FNA network",
        ("seed", "seed"): "fine-tuned seed",
    }
    arch = {"derived": "searched architecture", "seed": "seed's architecture"}.get(config["arch"], config["arch"])
    text = known.get((config["arch"], config["init"]), f"{arch}, weights: {config['init']}")
    return text if name in (BASELINE, "adapted") else f"{text} ({name})"


def png(picture_HW3: np.ndarray[Any, Any]) -> bytes:
    """Encode a uint8 RGB picture."""
    buffer = io.BytesIO()
    Image.fromarray(picture_HW3).save(buffer, "PNG")
    return buffer.getvalue()


def report(run: Run) -> dict[str, Any]:
    """Write report.html."""
    if run.compute.world.writes:
        run.write("report", {"report.html": write_report(run.path)})
    return {"report": str(run.path / "report.html")}


STAGES: dict[str, Callable[[Run], dict[str, Any]]] = {
    "expand": expand,
    "search": search,
    "derive": derive,
    "adapt": adapt,
    "evaluate": evaluate,
    "report": report,
}


# --- what the command line calls ------------------------------------------------------------------------------------------


def stage(run: Run, name: str) -> dict[str, Any]:
    """Do one stage, or return what it left if it is finished (evaluate and report are always done anew)."""
    if name in ("expand", "search", "derive") and run.folder.finished(name):
        say(f"{name}: finished already")
        return run.folder.info(name)
    return STAGES[name](run)


def run(folder: str | Path, config: Config | None = None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Do the whole job in `folder`, or go on with it: expand, search, derive, adapt, baseline, evaluate, report.

    Returns:
        The metrics of all rows.
    """
    with Run.open(folder, config, overrides) as job:
        for name in ("expand", "search", "derive"):
            stage(job, name)
        if job.config.baseline:
            baseline(job)
        adapt(job)
        metrics = evaluate(job)
        report(job)
        return metrics


@torch.no_grad()
def predict(folder: str | Path, images: str | Path, out: str | Path, name: str = "adapted") -> dict[str, Any]:
    """Run an adapted network of a run folder on a folder of images; write a picture of each prediction.

    The data set of the run is not needed.

    Raises:
        FnaError: the network is not adapted yet, the folder has no image, or an image cannot be read.
    """
    source, target = Path(images), Path(out)
    paths = sorted(p for p in source.glob("*") if p.suffix.lower() in IMAGE_ENDINGS)
    if not paths:
        raise FnaError(f"no image ({' '.join(IMAGE_ENDINGS)}) in --images {source}")
    with Run.open(folder) as job:
        record = job.read_json(f"{name}.json", f"adapt:{name}")
        labels = Labels(tuple(record["classes"]), tuple(tuple(c) for c in record["colors"]))
        setting = Setting(job.config, job.compute, load_task(job.config.task.name), job.seed, labels, labels)
        model = setting.build(Arch.from_json(record["arch"]))
        load_weights(model, job.read_state(f"{name}.safetensors", f"adapt:{name}"), f"{name}.safetensors")
        job.compute.place(model).eval()
        target.mkdir(parents=True, exist_ok=True)
        written = []
        with bar(len(paths), "predict") as progress:
            for path in paths:
                image = torch.from_numpy(read_image(path)).permute(2, 0, 1)[None]
                x = job.compute.images(scoring.resize(image, job.config), job.seed.mean, job.seed.std)
                with job.compute.autocast():
                    prediction = setting.task.predict(model, x, [(image.shape[2], image.shape[3])], job.config)[0]
                write_bytes(target / f"{path.stem}.png", png(setting.task.draw(prediction, labels)))
                written.append(f"{path.stem}.png")
                progress.advance()
    return {"out": str(target), "files": written, "classes": dict(zip(labels.classes, labels.colors, strict=True))}


@dataclass(frozen=True)
class Labels:
    """Classes and colours, where there is no data set."""

    classes: tuple[str, ...]
    colors: tuple[tuple[int, ...], ...]
