"""Do super networks rank architectures as real trainings do? Kendall's tau of both, for three ways to train them.

    python benchmarks/ranking.py RECIPE DATA RUNS [--architectures N] [--search-epochs N] [--adapt-epochs N] [key=value]

N architectures of 0.6 to 1 x the seed's cost are drawn: the seed, the seed cut by hand at several input sizes, networks
near the seed and random ones. Each is fine-tuned from the *seed's* weights: its score on the validation split is the
truth. Each is scored with the weights of every super network on training images held out from it: by loss, and by the
task's metric. Writes ``results/ranking_NAME.json``, NAME the recipe's data. Called again it goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import record
from gain import arguments, configure, told
from scipy.stats import kendalltau

from fna.arch.target import Form
from fna.config import Config
from fna.rng import generator
from fna.runs import pipeline
from fna.runs.run import Run
from fna.searching.alphas import SearchLoop
from fna.searching.measured import hand_cuts
from fna.searching.rescoring import trained_loop
from fna.searching.sampling import Step, draw_path, sample_anchored
from fna.searching.scoring import Candidacy, Scorer, seed_of

WAYS = {  # how the super networks are trained
    "anchored": ["search.sampler=anchored", "search.tied=true"],
    "untied": ["search.sampler=anchored", "search.tied=false"],
    "uniform": ["search.sampler=uniform", "search.tied=false"],
}
LEAST = 0.6  # x the seed's cost
TRIES = 1000


def loop_of(job: Run) -> SearchLoop:
    """Return the trained search of a run."""
    found, problem = job.found(), job.problem
    costs = problem.costs(found.network.arch)
    return trained_loop(found, problem, job.data("train")[0], job.compute, costs, costs.seed)


def architectures(loop: SearchLoop, number: int) -> list[Candidacy]:
    """Return architectures of several kinds and forms, the seed first; the same for every super network of a space."""
    limit, draw = loop.costs.seed, generator(0, "ranking")
    config = loop.config.model_copy(update={"window": (LEAST, 1.0)})

    def near() -> Iterator[Candidacy]:
        for _ in range(TRIES):
            form = loop.forms.draw(limit, draw)
            yield sample_anchored(Step(loop.arch, loop.forms.costs[form], limit, config), None, draw), form

    def anyhow() -> Iterator[Candidacy]:
        for _ in range(TRIES):
            yield draw_path(loop.arch, None, draw), loop.forms.draw(limit, draw)

    third, cuts = (number - 1) // 3, hand_cuts(loop, limit, loop.forms.within(limit))
    chosen = [seed_of(loop)]
    for source, many in ((cuts, third), (anyhow(), third), (near(), number)):
        fitting = (
            one
            for one in source
            if one not in chosen and LEAST * limit <= loop.forms.costs[one[1]].whole(one[0]) <= limit
        )
        chosen += islice(fitting, min(many, number - len(chosen)))
    return chosen


def score(folder: Path, config: Config, number: int) -> tuple[list[Candidacy], list[float], list[float], list[int]]:
    """Train a super network, or take the one that is there; return architectures, losses, metrics and costs."""
    with Run.open(folder, config) as job:
        for stage in ("expand", "search"):
            pipeline.stage(job, stage)
        loop = loop_of(job)
        chosen = architectures(loop, number)
        scorer = Scorer(loop, folder / "ranking.tmp.json")
        scorer.score(chosen)
        scorer.measure(chosen)
        costs = [loop.forms.costs[form].whole(path) for path, form in chosen]
        return chosen, [scorer.loss(*one) for one in chosen], [scorer.metric(*one) for one in chosen], costs


def adapt(folder: Path, path: Sequence[int], form: Form, number: int, epochs: int) -> dict[str, Any]:
    """Fine-tune an architecture from the seed's weights; return its row."""
    file = folder / f"ranking_{number:02d}.json"
    with Run.open(folder) as job:
        file.write_text(json.dumps(job.space.path_arch(path).to_json()))
    own = {key: value for key, value in form._asdict().items() if value is not None}
    settings = {"name": f"ranking_{number:02d}", "arch": file, "init": "seed", "epochs": epochs, **own}
    with Run.open(folder, None, [f"adapt.{key}={value}" for key, value in settings.items()]) as job:
        done, metric = pipeline.adapt_one(job, job.config.adapt), job.problem.task.metric
    row = {"row": f"architecture {number}", "rng_seed": job.config.engine.rng_seed, "metric": metric}
    return row | {"score": done[metric]} | {key: done[key] for key in ("params", "madds", "minutes")}


def tau(ours: Sequence[float], truth: Sequence[float]) -> float:
    """Return Kendall's rank correlation."""
    return float(kendalltau(ours, truth).statistic)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--architectures", type=int, default=12)
    parser.add_argument("--search-epochs", type=int, default=12)
    parser.add_argument("--adapt-epochs", type=int, default=8)
    given = parser.parse_intermixed_args()
    with told(parser):
        plain = [f"search.epochs={given.search_epochs}", "search.chooser=measured", "search.candidates=2"]
        scored = {}
        for way, settings in WAYS.items():
            config = configure(given.recipe, given.data, [*plain, *settings, *given.settings])
            scored[way] = score(given.run / way, config, given.architectures)
        chosen, _, _, costs = scored["anchored"]
        assert all(other[0] == chosen for other in scored.values()), "one space, the same architectures"
        rows, truth = [], []
        for number, ((path, form), cost) in enumerate(zip(chosen, costs, strict=True)):
            row = adapt(given.run / "anchored", path, form, number, given.adapt_epochs)
            truth.append(row["score"])
            shared = {
                way: {"loss": losses[number], row["metric"]: metrics[number]}
                for way, (_, losses, metrics, _) in scored.items()
            }
            rows.append(row | {"shared": shared, "path": list(path), **form._asdict(), "cost": cost})
            ratios = {"architectures": float(len(rows))}
            for way, (_, losses, metrics, _) in scored.items():
                if len(rows) > 1:
                    ratios[f"tau_{way}"] = tau([-loss for loss in losses[: len(rows)]], truth)
                    ratios[f"tau_{way}_metric"] = tau(metrics[: len(rows)], truth)
            print(record.write(f"ranking_{config.data.format}", rows, ratios, epochs=vars(given)["adapt_epochs"]))


if __name__ == "__main__":
    main()
