"""A run folder, opened: its configuration, hardware and data, and reading and writing the files of its stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from fna.arch import SuperArch
from fna.config import Config, dump_yaml, load_config, make_config, merge, parse_yaml
from fna.errors import FnaError
from fna.runs.folder import Folder
from fna.seeds import Seed, load_seed
from fna.stages.expand import Costs, count_costs
from fna.training import distributed
from fna.training.checkpoints import Checkpoints
from fna.training.engine import Compute, computing
from fna.training.setting import Setting, open_data

# Keys that may differ from the folder's config.yaml: they do not change what a finished stage computed.
FREE = ("adapt.", "evaluate.", "baseline", "engine.device", "engine.threads", "engine.workers", "engine.strict")


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
        return open_data(self.config, self.compute, self.seed)

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
        return self.folder.read_json(stage, name)

    def read_state(self, name: str, stage: str) -> dict[str, Tensor]:
        """Read the weights that `stage` wrote."""
        return self.folder.read_state(stage, name)

    def write(self, stage: str, files: Mapping[str, Any], info: Mapping[str, Any] | None = None) -> None:
        """Write a stage's files (state dicts, JSON, text, bytes by type and ending) and mark it finished, on rank 0."""
        if self.compute.world.writes:
            for name, content in files.items():
                if name.endswith(".safetensors"):
                    self.folder.write_state(name, content)
                elif isinstance(content, bytes):
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

    def clear(self, phase: str) -> None:
        """Remove the checkpoints of a finished phase."""
        if self.compute.world.writes:
            self.checkpoints(phase).clear()

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
