"""Our side: the same task through `fit`, watched by the same code.

`python -m benchmarks.speed.ours JOB STARTED` is called by `benchmarks.speed`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.job import Job
from benchmarks.speed.recipe import CLASS_WORD, RECIPES, WORD
from benchmarks.speed.watch import Denoise, Watch, count_parts, load_bank, write
from semblant.backbones.base import Base
from semblant.backbones.moment import Moment
from semblant.data.subject import Subject
from semblant.methods.method import Method
from semblant.training.learner import Learner
from semblant.training.optimise import Progress
from semblant.verbs import fit, load, method

COMPUTE = {"float32": torch.float32, "bfloat16": torch.bfloat16, "auto": None}


def chosen(job: Job, **further: Any) -> Method:
    """The method with the recipe's settings, and `further` ones over them."""
    recipe = RECIPES[job.part]
    given: dict[str, Any] = {**recipe.settings, "steps": job.steps, "batch": job.batch, "views": job.views, **further}
    return method(recipe.method, **given)


def subject_of(job: Job) -> Subject:
    """The pictures, each as a whole."""
    return Subject.read(job.pictures, WORD, CLASS_WORD, face="none", crop=False)


def denoiser(base: Base, learner: Learner, prompt: str) -> Denoise:
    """How the base predicts noise under a prompt with what is learned by now, in float32."""
    # Rows are made at the beginning of a step; a generator of its own keeps this without effect.
    learner.begin(torch.Generator().manual_seed(0))
    view = base.computing(torch.float32).patched(*learner.patches())
    context = view.text(prompt)
    return lambda x, timestep: view.denoise(x, Moment.of(timestep), context)


@contextmanager
def learners(kind: type[Method], made: Callable[[Learner], None]) -> Iterator[None]:
    """Meanwhile, hear of every learner that a kind of method makes."""
    original = kind.learner

    def learner(self: Method, *given: Any) -> Learner:
        found = original(self, *given)
        made(found)
        return found

    kind.learner = learner  # type: ignore[method-assign]
    try:
        yield
    finally:
        kind.learner = original  # type: ignore[method-assign]


def run(job: Job, started: float) -> dict[str, Any]:
    """Fit and say how it went."""
    watch = Watch(started)
    torch.set_num_threads(job.threads)
    count_parts(watch)
    base, bank = load(job.checkpoint), load_bank(job.bank)
    settings, prompt = chosen(job), RECIPES[job.part].prompt.format(WORD)
    at_work: list[Learner] = []

    def look() -> None:
        with watch.apart(), torch.no_grad():
            watch.look(denoiser(base, at_work[-1], prompt), bank)

    def begun(learner: Learner) -> None:
        at_work.append(learner)
        look()

    def after(now: Progress) -> None:
        watch.step(now.loss)
        if now.step % job.look_every == 0 or now.step == job.steps:
            look()

    with learners(type(settings), begun):
        concept = fit(settings, base, subject_of(job), seed=job.seed, compute=COMPUTE[job.precision], progress=after)
    return {"job": job.key(), "precision": concept.figures["compute"], **watch.facts()}


def main() -> None:
    """Run the job in the file named first; the second argument is when the process was started."""
    job = Job.read(Path(sys.argv[1]))
    write(Path(job.result), run(job, float(sys.argv[2])))


if __name__ == "__main__":
    main()
