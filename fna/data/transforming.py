"""A user's own transform of training samples, by its import path."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

from fna.errors import FnaError, nearest
from fna.rng import generator

EXPECTED = "expected module:function, such as my_transforms:blur, importable from this folder"


@cache  # it is asked for at every sample
def load_transform(name: str) -> Callable[[Any, Any], Any]:
    """Import a function; modules of the current folder are found, too.

    Raises:
        FnaError: there is no such function.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise FnaError(f"data.transform is '{name}'; {EXPECTED}")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise FnaError(f"data.transform '{name}' cannot be imported: {error}; {EXPECTED}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        close = nearest(function_name, vars(module))
        raise FnaError(f"data.transform: {module_name} has no function '{function_name}'{close}")
    return function  # type: ignore[no-any-return]


def transformed(sample: Any, name: str, rng_seed: int, epoch: int) -> Any:
    """Return what a user's transform makes of a sample: the same keys, types and sizes.

    Args:
        sample: of a task's `train_view`.
        name: of the function. It is called with the sample, without ``index``, and a `torch.Generator` that depends on
            RNG seed, epoch and record only.
        rng_seed: of the run.
        epoch: of the sample.

    Raises:
        FnaError: it returns something else.
    """
    draws = generator(rng_seed, "data.transform", epoch, sample["index"])
    given = {key: value for key, value in sample.items() if key != "index"}
    made = load_transform(name)({key: value.clone() for key, value in given.items()}, draws)  # it may write in place
    if not isinstance(made, dict) or made.keys() != given.keys():
        got = f"a dict of {', '.join(map(str, made))}" if isinstance(made, dict) else f"a {type(made).__name__}"
        raise FnaError(f"data.transform '{name}' returned {got}; expected a dict of {', '.join(given)}")
    free = "labels" in given  # boxes may come and go
    for key, old in given.items():
        new, first = made[key], 1 if free and key in ("boxes", "labels") else 0
        if getattr(new, "dtype", None) != old.dtype or new.shape[first:] != old.shape[first:] or new.ndim != old.ndim:
            what = f"{new.dtype} {tuple(new.shape)}" if hasattr(new, "dtype") else type(new).__name__
            raise FnaError(
                f"data.transform '{name}' returned {key} as {what}; expected a tensor {old.dtype} {tuple(old.shape)}"
            )
    if free and len(made["boxes"]) != len(made["labels"]):
        raise FnaError(
            f"data.transform '{name}' returned {len(made['boxes'])} boxes and {len(made['labels'])} labels; "
            "expected as many"
        )
    return {**made, "index": sample["index"]}
