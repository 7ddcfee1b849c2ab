"""The one training loop: learners on a frozen base, many at once where they may share a batch."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from semblant.backbones.base import Base
from semblant.errors import SemblantError
from semblant.training.checkpoint import State, Store, require_same
from semblant.training.course import Course
from semblant.training.learner import Learner
from semblant.training.step import Plain, gradients

logger = logging.getLogger(__name__)

PATIENCE = 10
"""How many steps in a row may have a loss or gradient that is not finite."""
WINDOW = 50
"""How many steps the running means of loss and speed look back."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a step."""

    step: int
    """Steps done, learners that share a batch counted once."""
    steps: int
    loss: float
    """Mean over the last 50 steps and the learners at work; NaN when none of them was finite."""
    seconds_per_step: float
    seconds_left: float
    figures: Mapping[str, float]
    """The learners' figures; with several learners each name begins with the learner's index."""
    learners: tuple[int, ...] = (0,)
    """Indices of the learners at work."""


@dataclass(frozen=True)
class History:
    """What training one learner was like."""

    losses: list[float]
    """One per step; NaN or infinite where the update was left out."""
    figures: dict[str, float]
    """The learner's figures at the end."""
    seconds: float
    """Its share of the time, that of a step being divided evenly among the learners of a batch."""
    peak_memory: int
    """Most bytes the process has held in memory so far."""
    skipped: int = 0
    """Updates left out because loss or gradient was not finite."""


class Interrupted(SemblantError):
    """A run that was stopped from outside. Its message says how to go on. Exit code 130, as shells have it."""

    exit_code = 130


def optimise(
    base: Base,
    learners: Sequence[Learner],
    *,
    seeds: Sequence[int],
    steps: int | None = None,
    checkpoint: Path | None = None,
    every: int = 100,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    compute: torch.dtype | None = None,
    fingerprint: Mapping[str, Any] | None = None,
) -> list[History]:
    """Train learners on a frozen base and say how it went, one history each.

    Those that may share a batch are slices of one batch, the others run in turn. Each has its own seed, generator,
    optimiser and clipping, so that what it learns does not depend on its company (up to rounding). `steps` replaces the
    learners' own counts. The base computes in `compute`, or as it is set.

    `checkpoint` is a folder: every `every` steps, when interrupted and at the end the whole state is written there.
    With `resume` a run goes on from it in the precision it began with, bit for bit on one CPU with a fixed number of
    threads. `fingerprint` (settings, hashes of pictures and base) has to be what it was then.

    `stop` is asked before every step. Raises Interrupted when it answers yes or Ctrl-C is pressed, and SemblantError
    when a learner's loss is not finite for 10 steps in a row; what was learned until then is saved.
    """
    if not learners or len(seeds) != len(learners):
        raise ValueError(f"every learner needs a seed: {len(learners)} learners, {len(seeds)} seeds")
    if every < 1:
        raise SemblantError(f"a checkpoint every {every} steps cannot be; give 1 or more")
    courses = [
        Course.start(index, learner, seed, steps)
        for index, (learner, seed) in enumerate(zip(learners, seeds, strict=True))
    ]
    store = Store(Path(checkpoint)) if checkpoint is not None else None
    identity = {"given": dict(fingerprint or {}), "learner": {str(c.index): c.identity() for c in courses}}
    dtype = compute or base.compute
    if resume and store is not None:
        dtype = _resume(courses, store, identity, dtype)
    run = _Run(base.computing(dtype), courses, store, identity, every, progress, stop)
    with torch.enable_grad():
        run.go()
    peak = peak_memory(base.device)
    return [History(c.losses, dict(c.learner.figures()), c.seconds, peak, c.skipped) for c in courses]


def stored_compute(checkpoint: Path) -> torch.dtype | None:
    """The precision that a checkpoint's run computes in, or None when there is no checkpoint."""
    state = Store(checkpoint).read()
    return None if state is None else getattr(torch, state.facts["compute"])


def peak_memory(device: torch.device) -> int:
    """Most bytes held so far: by this process, or on a GPU by its tensors. 0 where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _resume(courses: Sequence[Course], store: Store, identity: Mapping[str, Any], dtype: torch.dtype) -> torch.dtype:
    state = store.read()
    if state is None:
        logger.warning("there is no checkpoint in %s; the run starts at its beginning", store.folder)
        return dtype
    require_same(state.fingerprint, identity, store.folder)
    for course in courses:
        course.restore(state.tensors, state.facts["learners"][course.index])
    for name, now in _circumstances().items():
        if (then := state.facts["circumstances"].get(name)) != now:
            logger.warning("%s was %s and is %s: the run goes on, but not bit for bit", name, then, now)
    return getattr(torch, state.facts["compute"])


def _circumstances() -> dict[str, Any]:
    """What exact repetition depends on beside the state."""
    return {"torch": torch.__version__, "threads": torch.get_num_threads()}


@dataclass
class _Run:
    base: Base
    courses: Sequence[Course]
    store: Store | None
    identity: Mapping[str, Any]
    every: int
    progress: Callable[[Progress], None] | None
    stop: Callable[[], bool] | None
    whole: bool = True
    """False while parameters are being updated: then the state is of no step."""
    saved: int | None = None
    """Step of the checkpoint written last."""
    speed: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    plain: Plain = field(default_factory=dict)
    groups: list[list[Course]] = field(default_factory=list)

    def go(self) -> None:
        self.groups = _groups(self.courses)
        try:
            for group in self.groups:
                while active := [course for course in group if not course.done]:
                    if self.stop is not None and self.stop():
                        raise KeyboardInterrupt
                    self._one_step(active)
        except KeyboardInterrupt:
            raise Interrupted(self._interrupted()) from None
        if self.store is not None and self.saved != self.step:
            self._save()

    @property
    def step(self) -> int:
        return sum(max(course.taken for course in group) for group in self.groups)

    @property
    def steps(self) -> int:
        return sum(max(c.taken if c.done else c.steps for c in group) for group in self.groups)

    def _one_step(self, active: Sequence[Course]) -> None:
        began = time.perf_counter()
        for course in active:
            course.mark()
        losses, found = gradients(
            self.base,
            [course.learner for course in active],
            [course.generator for course in active],
            labels=[course.index for course in active],
            plain=self.plain,
        )
        self.whole = False
        for course, loss, own in zip(active, losses, found, strict=True):
            course.update(loss, own)
        for course in active:
            course.marked = None
        self.whole = True
        seconds = time.perf_counter() - began
        self.speed.append(seconds)
        for course in active:
            course.seconds += seconds / len(active)
            if course.skipped_in_a_row >= PATIENCE:
                raise SemblantError(self._diverged(course))
        if self.store is not None and self.step % self.every == 0:
            self._save()
        if self.progress is not None:
            self.progress(self._progress(active))

    def _progress(self, active: Sequence[Course]) -> Progress:
        recent = [loss for c in active for loss in c.losses[-WINDOW:] if math.isfinite(loss)]
        figures: dict[str, float] = {}
        for course in active:
            prefix = f"{course.index} " if len(self.courses) > 1 else ""
            figures |= {prefix + name: value for name, value in course.learner.figures().items()}
        per_step = sum(self.speed) / len(self.speed)
        step, steps = self.step, self.steps
        return Progress(
            step,
            steps,
            sum(recent) / len(recent) if recent else math.nan,
            per_step,
            per_step * (steps - step),
            figures,
            tuple(course.index for course in active),
        )

    def _save(self) -> None:
        """Write a checkpoint, unless a parameter is not finite: then the one before stays the newest."""
        assert self.store is not None
        if not all(course.sound() for course in self.courses):
            logger.warning("a parameter is not finite at step %d; no checkpoint is written", self.step)
            return
        tensors: dict[str, Tensor] = {}
        for course in self.courses:
            tensors |= course.tensors()
        facts = {
            "learners": [course.facts() for course in self.courses],
            "compute": str(self.base.compute).removeprefix("torch."),
            "circumstances": _circumstances(),
        }
        self.store.write(State(tensors, facts, self.identity))
        self.saved = self.step

    def _rescue(self) -> str:
        """Save what there is, and say in half a sentence where."""
        if self.store is None:
            return "nothing was saved, because no checkpoint folder was given"
        if self.whole:
            for course in self.courses:
                course.rewind()
            if self.saved != self.step:
                self._save()
        if self.saved is None:
            return "nothing could be saved"
        return f"the state after step {self.saved} is in {self.store.folder}"

    def _interrupted(self) -> str:
        kept = self._rescue()
        onward = "; the same command with `--resume` goes on from there" if self.saved is not None else ""
        return f"interrupted at step {self.step} of {self.steps}: {kept}{onward}"

    def _diverged(self, course: Course) -> str:
        return (
            f"the loss or gradient of {type(course.learner).__name__} was not finite for {PATIENCE} steps in a row, "
            f"up to step {course.taken}; {self._rescue()}. "
            f"A learning rate below {course.learner.optimiser.lr:g} or computing in float32 usually helps."
        )


def _groups(courses: Sequence[Course]) -> list[list[Course]]:
    """The courses that share a batch first, then each of the others alone."""
    sharing = []
    for course in courses:
        # Its patches may be known only after it began; a generator of its own keeps this without effect.
        course.mark()
        with torch.no_grad():
            course.learner.begin(torch.Generator().manual_seed(course.seed))
        if course.learner.shares_batch:
            sharing.append(course)
        course.rewind()
        course.marked = None
    return [*([sharing] if sharing else []), *([course] for course in courses if course not in sharing)]
