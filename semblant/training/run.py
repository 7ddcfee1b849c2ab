"""A run of the training loop: steps, checkpoints, and what happens when it is stopped, diverges or lacks memory."""

from __future__ import annotations

import gc
import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import Tensor

from semblant.backbones.base import Base
from semblant.errors import FileProblem, SemblantError
from semblant.training.checkpoint import State, Store
from semblant.training.course import Course
from semblant.training.precision import precision_name
from semblant.training.progress import WINDOW, Progress, standing
from semblant.training.scale import Scale
from semblant.training.step import Plain, gradients
from semblant.training.thrift import NotEnoughMemory, Thrift

logger = logging.getLogger(__name__)

PATIENCE = 10
"""How many steps in a row may have a loss or gradient that is not finite."""
T = TypeVar("T")


class Interrupted(SemblantError):
    """A run that was stopped from outside. Its message says how to go on. Exit code 130, as shells have it."""

    exit_code = 130


@dataclass
class Run:
    """Courses on their way to the end. `go` takes them there, or says why not and what was saved."""

    base: Base
    courses: Sequence[Course]
    store: Store | None
    identity: Mapping[str, Any]
    every: int
    progress: Callable[[Progress], None] | None
    stop: Callable[[], bool] | None
    thrift: Thrift
    scale: Scale
    resumed: bool
    whole: bool = True
    """False while parameters are being updated: then the state is of no step."""
    saved: int | None = None
    """Step of the newest checkpoint."""
    speed: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    plain: Plain = field(default_factory=dict)
    groups: list[list[Course]] = field(default_factory=list)
    views: tuple[Thrift, Base] | None = None

    def go(self) -> None:
        """Take every step that is left. Raises as `optimise` says."""
        self.groups = _groups(self.courses)
        self.saved = self.step if self.resumed else None
        for course in self.courses:
            if not course.good:
                course.remember()
        try:
            for group in self.groups:
                for course in group:
                    # The first look, or one that an interruption kept from being taken.
                    self._look(course)
                while active := [course for course in group if not course.done]:
                    if self.stop is not None and self.stop():
                        raise KeyboardInterrupt
                    self._one_step(active)
            if self.store is not None and self.saved != self.step:
                self._save()
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted at step {self.step} of {self.steps}: {self._rescue()}") from None
        except FileProblem as problem:
            raise FileProblem(f"{problem}; the run stopped at step {self.step}, and {self._rescue()}") from problem
        except SemblantError:
            raise
        except Exception:
            if self.store is not None and self.step > (self.saved or 0):
                logger.error("the run failed at step %d of %d: %s", self.step, self.steps, self._rescue())
            raise

    @property
    def step(self) -> int:
        """Steps done, learners that share a batch counted once."""
        return sum(max(course.taken for course in group) for group in self.groups)

    @property
    def steps(self) -> int:
        """Steps in all."""
        return sum(max(c.taken if c.done else c.steps for c in group) for group in self.groups)

    def _one_step(self, active: Sequence[Course]) -> None:
        began = time.perf_counter()
        for course in active:
            course.mark()
        losses, found = self._gradients(active)
        with undisturbed():
            self.whole = False
            for course, loss, own in zip(active, losses, found, strict=True):
                course.update(loss, own)
            for course in active:
                course.marked = None
            self.whole = True
        for course in active:
            self._recover(course)
            self._look(course)
        self.base.settle()
        seconds = time.perf_counter() - began
        self.speed.append(seconds)
        for course in active:
            course.seconds += seconds / len(active)
        if self.step % self.every == 0:
            for course in active:
                course.remember()
            if self.store is not None:
                self._save()
        if self.progress is not None:
            per_step = sum(self.speed) / len(self.speed)
            self.progress(standing(self.step, self.steps, per_step, active, several=len(self.courses) > 1))

    def _gradients(self, active: Sequence[Course]) -> tuple[list[float], list[list[Tensor | None]]]:
        """Losses and gradients of a step: in smaller pieces once memory has run out, less enlarged when too large."""
        while True:
            losses, found = self._within_memory(
                active,
                lambda: gradients(
                    self._view(),
                    [course.learner for course in active],
                    [course.generator for course in active],
                    labels=[course.index for course in active],
                    plain=self.plain,
                    most=self.thrift.most,
                    scale=self.scale.factor,
                ),
            )
            if self.scale.holds(losses, found):
                return losses, found
            for course in active:
                course.rewind()

    def _view(self) -> Base:
        """The base as a step uses it: one view as long as nothing changes, since a view keeps what it has cast."""
        if self.views is None or self.views[0] != self.thrift:
            self.views = self.thrift, self.thrift.view(self.base)
        return self.views[1]

    def _look(self, course: Course) -> None:
        """Look at its loss on fixed draws when it is time to. Nothing of its training is touched."""
        if not course.due:
            return
        course.mark()
        found = self._within_memory([course], lambda: course.look(self._view(), self.thrift.most, self.plain))
        course.rewind()
        course.marked = None
        with undisturbed():
            course.heed(found)

    def _within_memory(self, active: Sequence[Course], work: Callable[[], T]) -> T:
        """What some work on marked courses answers, done in smaller pieces once memory has run out."""
        before = self.thrift
        while True:
            try:
                found = work()
            except NotEnoughMemory as problem:
                rows = problem.rows
            else:
                if self.thrift != before:
                    logger.warning(
                        "there is not enough memory for a whole step at once: the run goes on with %s. What it learns "
                        "stays the same; it takes longer.",
                        self.thrift,
                    )
                return found
            # The step begins anew, with the draws it had.
            for course in active:
                course.rewind()
            gc.collect()
            if self.base.device.type == "cuda":
                torch.cuda.empty_cache()
            thrift = self.thrift.less(rows, self.base)
            if thrift is None:
                raise SemblantError(
                    f"there is not enough memory for a single picture on {self.base.name}, even with {self.thrift}: "
                    "hold its weights in half precision (`--weights float16`), on a GPU offload what waits "
                    "(`--offload`), use a smaller base or picture size, or close other programs; "
                    f"{self._rescue()}"
                )
            self.thrift = thrift

    def _recover(self, course: Course) -> None:
        """When many losses in a row, or a parameter, are not finite, go back to what was sound; then give up."""
        if course.skipped == course.skipped_in_a_row == 1:
            logger.warning("the loss or gradient of step %d is not finite; such updates are left out", course.taken)
        if course.skipped_in_a_row >= PATIENCE:
            trouble = f"the loss or gradient was not finite for {PATIENCE} steps in a row, up to step {course.taken}"
        elif not course.sound():
            trouble = f"what was learned is not finite after step {course.taken}"
        else:
            return
        hopeless = course.returned > 0 or not course.good
        if course.good:
            course.return_to_good()
        if not hopeless:
            logger.warning("%s: going back to what was learned by step %d, and on", trouble, course.good_at)
            return
        raise SemblantError(
            f"{trouble}, also after going back to what was learned by step {course.good_at}; {self._rescue()}. "
            f"A learning rate below {course.learner.optimiser.lr:g} or computing in float32 usually helps."
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
            "compute": precision_name(self.base.compute),
            "circumstances": circumstances(),
            "thrift": self.thrift.facts(),
            "scale": self.scale.facts(),
        }
        with undisturbed():
            self.store.write(State(tensors, facts, self.identity))
            self.saved = self.step

    def _rescue(self) -> str:
        """Save what there is, and say in half a sentence where it is and how to go on."""
        if self.store is None:
            return "nothing was saved, because no checkpoint folder was given"
        if self.whole:
            # The run is over: Ctrl-C has nothing left to stop, and what came of it would be lost.
            with undisturbed(heed=False):
                for course in self.courses:
                    course.rewind()
                if self.saved != self.step:
                    try:
                        self._save()
                    except FileProblem as problem:
                        logger.warning("%s", problem)
        if self.saved is None:
            return "nothing could be saved"
        kept = f"the state after step {self.saved} is in {self.store.folder}"
        return f"{kept}; the same command with `--resume` goes on from there"


def circumstances() -> dict[str, Any]:
    """What exact repetition depends on beside the state."""
    return {"torch": torch.__version__, "threads": torch.get_num_threads()}


@contextmanager
def undisturbed(heed: bool = True) -> Iterator[None]:
    """Ctrl-C waits until the block is done, so that no update or file is left half way; without `heed` it is forgotten.

    Only the main thread hears of Ctrl-C; in others there is nothing to hold back.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    heard: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: heard.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if heard and heed:
        before(*heard[-1])


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
