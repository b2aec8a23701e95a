"""A finished network on the Hugging Face hub: its two files, and a card made from its run's results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fna.cost.units import with_unit
from fna.errors import FnaError
from fna.files import decode_json, json_bytes
from fna.integrations.hub import ADDRESS, EXPECTED, hub_errors, is_address
from fna.reporting.rows import is_chosen, seed_first
from fna.runs.manifest import MANIFEST, read_vouched
from fna.runs.saved import TWIN, WEIGHTS, find_network, load
from fna.tasks import load_task

TAGS = {"segmentation": "image-segmentation", "detection": "object-detection", "pose": "keypoint-detection"}
LICENCES = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-nc-4.0")  # that have such an identifier on the hub


def push(path: str | Path, repo: str, *, private: bool = False) -> str:
    """Put a finished network on the Hugging Face hub, in a repository that is made if it is not there.

    Args:
        path: as for `fna.load`.
        repo: ``OWNER/NAME``.
        private: whether a new repository is one.

    Returns:
        Its URL.

    Raises:
        FnaError: there is no network, nobody is logged in, or the hub refuses.

    Example:
        >>> push("runs/leaves", "me/leaves")  # doctest: +SKIP
    """
    if is_address(path):
        raise FnaError(f"{path} is on the hub already; give a run's folder, or that of a network in it")
    if not ADDRESS.fullmatch(f"hf://{repo}") or "@" in repo:
        raise FnaError(f"'{repo}' is no repository of the hub; {EXPECTED.replace('hf://', '', 1).partition(',')[0]}")
    model, file = load(path), find_network(Path(path).expanduser())
    with hub_errors(repo) as hub:
        if not hub.get_token():
            raise FnaError("nobody is logged in to the Hugging Face hub; type: hf auth login (or set HF_TOKEN)")
        files = {
            WEIGHTS: read_vouched(file),
            TWIN: json_bytes(model.record),
            "README.md": write_card(model.record, repo, *_results(file)).encode(),
        }
        api = hub.HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        operations = [hub.CommitOperationAdd(name, content) for name, content in files.items()]
        api.create_commit(repo, operations, commit_message="A network of fna")
        return f"{api.endpoint}/{repo}"


def write_card(record: Mapping[str, Any], repo: str, metrics: Mapping[str, Any], seed: Mapping[str, Any]) -> str:
    """Write the model card of a network.

    Args:
        record: of `saved.describe`.
        repo: ``OWNER/NAME``.
        metrics: what metrics.json of its run says; empty: it has no run.
        seed: what seed.json says of where its weights began; empty: unknown.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    task, metric = TAGS[record["task"]], load_task(record["task"]).metric
    scores = (
        [EvalResult(task, "own", "own data", metric, record[metric], dataset_split="val")] if metric in record else []
    )
    licence = seed.get("licence", "")
    about = ModelCardData(
        library_name="fna",
        pipeline_tag=task,
        tags=["fna", "neural-architecture-search", record["model"]],
        license=licence.lower() if licence.lower() in LICENCES else "other",
        model_name=repo.partition("/")[2] if scores else None,
        eval_results=scores or None,
    )
    parts = ["---", about.to_yaml(), "---", "", *_body(record, repo, metrics, seed), ""]
    return str(ModelCard("\n".join(parts)))


def _body(record: Mapping[str, Any], repo: str, metrics: Mapping[str, Any], seed: Mapping[str, Any]) -> Sequence[str]:
    name = repo.partition("/")[2]
    height, width = record["size_hw"]
    cost = " and ".join(with_unit(record[unit.lower()], unit) for unit in ("params", "MAdds") if unit.lower() in record)
    weights = "unknown here"
    if seed:
        weights = f"{seed['name']}, {seed['source']}, licence {seed['licence'] or 'unknown'}"
    data = metrics.get("data", {})
    images = ", ".join(f"{data[split]} {split}" for split in ("train", metrics.get("split", "val")) if split in data)
    return [
        f"# {name}",
        "",
        f"A network for {record['task']} ({record['model']}), fine-tuned in architecture and weights by fna (FNA++, "
        "[arXiv:2006.12986](https://arxiv.org/abs/2006.12986)).",
        "",
        f"- {'Joints' if record['task'] == 'pose' else 'Classes'}: {', '.join(record['labels']['colors'])}",
        f"- Input: RGB, {height} x {width} pixels",
        *([f"- Cost: {cost}"] if cost else []),
        f"- Pretrained weights it began with: {weights}",
        *([f"- Data: {images} records"] if images else []),
        *_table(metrics),
        "",
        "```python",
        "import fna  # pip install 'fna[hub]'",
        "",
        f'model = fna.load("hf://{repo}")',
        'prediction = fna.predict(model, "photo.jpg")',
        "```",
    ]


def _table(metrics: Mapping[str, Any]) -> list[str]:
    """Write the scores of all networks of a run."""
    if not metrics.get("rows"):
        return []
    metric, rows = metrics["metric"], seed_first(metrics["rows"])
    cells = [
        (row["title"], f"{row[metric]:.2%}", with_unit(row["params"], "params"), with_unit(row["madds"], "MAdds"))
        for row in rows.values()
    ]
    chosen = any(map(is_chosen, rows.values())) and metrics["split"] == "val"
    return [
        "",
        f"| network | {metrics['split']} {metrics['titles'][metric]} | params | MAdds |",
        "| --- | --: | --: | --: |",
        *(f"| {' | '.join(row)} |" for row in cells),
        *(["", "The epoch that is kept was chosen on these images: the scores are optimistic."] if chosen else []),
    ]


def _results(file: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return what the run that a network lies in says of scores and seed; without a run, nothing."""
    run = file.parent.parent
    names = ("metrics.json", "seed.json") if (run / MANIFEST).is_file() else ()
    found = [decode_json(run / n, read_vouched(run / n)) if (run / n).is_file() else {} for n in names]
    metrics, seed = found or ({}, {})
    return metrics, seed
