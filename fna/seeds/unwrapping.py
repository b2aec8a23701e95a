"""Which tensors of a file are a network's, whatever wrappers and prefixes its training put around them."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fna.errors import FnaError
from fna.files import parse_state, read_bytes

if TYPE_CHECKING:
    from torch import Tensor

Keys = tuple[str, ...]
EXPECTED = "expected named tensors: a safetensors file, or a state dict written by torch.save"
DEEPEST = 4  # dicts in dicts that are looked through
TRANSPARENT = re.compile(r"(^|(?<=\.))_(orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)\.")  # torch's wrappers
AVERAGED = {"ema", "swa", "averaged"}  # words in the keys of running averages of weights


@dataclass(frozen=True, eq=False)
class Part:
    """Tensors of a file that lie together.

    Args:
        path: the file.
        keys: of the dicts around them, outermost first; none: the file is a dict of tensors.
        prefix: what their names begin with there, with its dot.
        tensors: by name, without the prefix.
        beside: names of tensors of the same dict that have not the prefix.
        score: how much they share with the network they were looked up for.
        twins: keys and prefix of other parts that share as much.
    """

    path: Path
    keys: Keys
    prefix: str
    tensors: Mapping[str, Tensor]
    beside: Sequence[str] = ()
    score: int = 0
    twins: Sequence[tuple[Keys, str]] = ()

    def __str__(self) -> str:
        return _place(self.keys, self.prefix)

    def notes(self) -> list[str]:
        """Return what people are told of what was taken, and how they would get the other."""
        notes = [f"taken: {self}"] if self.keys or self.prefix else []
        if self.beside:
            notes.append(f"left out: {len(self.beside)} tensors beside, such as {self.beside[0]!r}")
        notes += [
            f"{_place(*twin)} fits as well; to have that: {_extract(self.path, *twin)}" for twin in self.twins[:1]
        ]
        return notes


def read_dicts(path: Path) -> dict[Keys, dict[str, Tensor]]:
    """Return every dict of tensors in a file, by the keys that lead to it; no code in the file is run.

    Raises:
        FnaError: there is none, or the file cannot be read so.
    """
    data = read_bytes(path)
    if not data:
        raise FnaError(f"{path} is empty; {EXPECTED}")
    content = parse_state(path, data, EXPECTED, f"; if you trust the file, this makes one of it: {_loadable(path)}")
    found = dict(_dicts(content, (), set()))
    if not found:
        raise FnaError(
            f"{path} holds {'an empty dict' if content == {} else f'a {type(content).__name__}'}; {EXPECTED}"
        )
    return found


def pick_part(path: Path, dicts: Mapping[Keys, Mapping[str, Tensor]], names: Mapping[str, tuple[int, ...]]) -> Part:
    """Return the tensors of a file that share most with a network: names and shapes first, then names.

    Args:
        path: the file.
        dicts: its tensors, of `read_dicts`.
        names: the network's tensors and their shapes.

    Returns:
        The part. Of several that fit alike the averaged one is taken, else the first.
    """
    counts: Counter[tuple[Keys, str]] = Counter()
    depths = sorted({name.count(".") + 1 for name in names})
    for keys, tensors in dicts.items():
        for name, tensor in tensors.items():
            for prefix, rest in _cuts(name, depths):
                if rest in names:
                    counts[keys, prefix] += 1 + len(names) * (tuple(tensor.shape) == names[rest])
    most = max(counts.values(), default=0)
    best = [place for place, count in counts.items() if count == most] or [(next(iter(dicts)), "")]
    keys, prefix = place = next(filter(_is_averaged, best), best[0])
    tensors = {name.removeprefix(prefix): t for name, t in dicts[keys].items() if name.startswith(prefix)}
    beside = [name for name in dicts[keys] if not name.startswith(prefix)]
    return Part(path, keys, prefix, tensors, beside, most, [twin for twin in best if twin != place])


def _dicts(value: Any, keys: Keys, seen: set[int]) -> Iterator[tuple[Keys, dict[str, Tensor]]]:
    """Yield the dicts in `value` that hold tensors by name."""
    import torch

    if not isinstance(value, dict) or len(keys) > DEEPEST or id(value) in seen:
        return
    seen.add(id(value))
    named = {key: entry for key, entry in value.items() if isinstance(key, str)}
    tensors = {TRANSPARENT.sub("", key): t.detach() for key, t in named.items() if isinstance(t, torch.Tensor)}
    if tensors:
        yield keys, tensors
    for key, entry in named.items():
        yield from _dicts(entry, (*keys, key), seen)


def _cuts(name: str, depths: Iterable[int]) -> Iterator[tuple[str, str]]:
    """Cut a name before its last words: into a prefix and a name of so many words."""
    words = name.split(".")
    for depth in depths:
        if depth <= len(words):
            rest = ".".join(words[-depth:])
            yield name[: len(name) - len(rest)], rest


def _is_averaged(place: tuple[Keys, str]) -> bool:
    keys, prefix = place
    return not AVERAGED.isdisjoint(re.split(r"[._]", ".".join((*keys, prefix)).lower()))


def _place(keys: Keys, prefix: str) -> str:
    inside = [repr(".".join(keys))] if keys else []
    return " ".join([*inside, *([f"without the prefix {prefix!r}"] if prefix else [])])


def _extract(path: Path, keys: Keys, prefix: str) -> str:
    """Return the command that writes a part of a file as a file of its own."""
    inside = "".join(f"[{key!r}]" for key in keys)
    named = f"{{k: v for k, v in state.items() if k.startswith({prefix!r})}}" if prefix else "state"
    load = f"torch.load({str(path)!r}, map_location='cpu'){inside}"
    if path.suffix == ".safetensors":
        load = f"safetensors.torch.load_file({str(path)!r})"
    return _python(f"import torch, safetensors.torch; state = {load}; torch.save({named}, 'other.pth')")


def _loadable(path: Path) -> str:
    """Return the command that runs what is in a file and keeps its tensors."""
    return _python(
        "import torch; keep = lambda x: x if torch.is_tensor(x) else {k: keep(v) for k, v in "
        "(x.state_dict() if hasattr(x, 'state_dict') else x if isinstance(x, dict) else {}).items()}; "
        f"torch.save(keep(torch.load({str(path)!r}, map_location='cpu', weights_only=False)), 'weights.pth')"
    )


def _python(code: str) -> str:
    return f"python -c {shlex.quote(code)}" if set(code) & set('"$`\\!') else f'python -c "{code}"'
