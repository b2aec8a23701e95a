"""A candidate that is trained for real, with weights of its own: nothing depends on how well shared weights rank it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fna.nets.weights import State, load_weights
from fna.progress import bar, tell
from fna.searching.scoring import Candidacy, Scorer
from fna.training import distributed
from fna.training.batches import Stream
from fna.training.checkpoints import Checkpoints
from fna.training.engine import WeightStep, make_optimizer
from fna.training.freezing import freeze_norms

if TYPE_CHECKING:
    from fna.searching.alphas import SearchLoop


def try_out(scorer: Scorer, wanted: Sequence[Candidacy]) -> None:
    """Train each of some networks for a while from its shared weights, then score it by the task's metric.

    Shared weights serve many networks, and some of them worse than others: a little training of its own shows what a
    network makes of them. Those that have been tried are not tried again. Without trials (``search.trial`` 0) the
    metric is that with shared weights.

    Args:
        scorer: of a trained super network; it keeps what is found.
        wanted: candidates.
    """
    loop = scorer.loop
    steps = loop.config.trial_steps(loop.total_steps)
    if not steps:
        scorer.measure(wanted)
        return
    for one in wanted:
        if not scorer.is_measured(one):
            scorer.keep(one, *Trial(loop, one, steps, "trial").run(scorer, scorer.shared(one), 0, steps))
            form, score = one[1], f"held-out {loop.problem.task.metric} {scorer.metric(*one):.4g}"
            tell(f"search: trial at input scale {form.scale:g}, head width {form.head_width:g}: {score}")
        scorer.tell(one)


@dataclass
class Trial:
    """A training of one candidate on the images that are not held out, by the search's optimizer and batch size.

    Args:
        loop: the search.
        one: the candidate.
        total: iterations of its schedule.
        purpose: what its batches are drawn by, the same for all candidates.
        checkpoints: where weights and momenta lie between parts of the training; None: it has one part.
    """

    loop: SearchLoop
    one: Candidacy
    total: int
    purpose: str
    checkpoints: Checkpoints | None = None

    def run(self, scorer: Scorer, start: State, first: int, last: int) -> tuple[list[float], float | None]:
        """Train from iteration `first` to `last`, all processes together.

        Args:
            scorer: whose held-out images it is scored on.
            start: weights to begin with.
            first: iterations before, of which there is a checkpoint.
            last: iterations after.

        Returns:
            The held-out loss of each batch, and the task's metric if the training is over.
        """
        (path, form), loop, config = self.one, self.loop, self.loop.config
        problem = loop.problem.at(form)
        model = problem.build(loop.arch.path_arch(path))
        load_weights(model, start, "the start of a candidate")
        if config.bn == "frozen":
            freeze_norms(model)
        network = loop.compute.parallel(model, partial=False)
        optimizer = make_optimizer(model, config.optimizer)
        step = WeightStep(
            *(network, optimizer, config.optimizer, problem.loss, loop.compute, self.total, loop.steps_per_epoch)
        )
        done, kept = (self.checkpoints.load_latest() if self.checkpoints and first else None) or (first, None)
        if kept:
            load_weights(model, kept["model"], "the checkpoint of a candidate")
            optimizer.load_state_dict(kept["optimizer"])
            step.scaler.load_state_dict(kept["scaler"])
        network.train()
        if config.bn == "frozen":
            freeze_norms(model)
        own, size = loop.parts[0], config.batch_size
        stream = Stream(loop.problem, loop.data, own, size, self.purpose, loop.compute, lambda step: form.scale)
        with bar(last - first, "train a candidate", done - first) as progress:
            for at, (batch, images) in enumerate(stream.batches(done, last), done):
                for _ in step.readings.take(at, step(at, batch, images), now=at + 1 == last):
                    pass  # nobody keeps the rows, but what is not finite stops here
                progress.advance()
        if self.checkpoints and loop.compute.world.writes:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            self.checkpoints.save(last, {**state, "scaler": step.scaler.state_dict()})
        distributed.barrier()
        losses = scorer.held_losses(network.eval(), problem, form.scale)
        return losses, scorer.held_metric(model, problem) if last == self.total else None
