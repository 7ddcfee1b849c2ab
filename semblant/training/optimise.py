"""The one training loop: learners on a frozen base, many at once where they may share a batch."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from semblant.backbones.base import Base
from semblant.backbones.replacement import sweep
from semblant.backbones.rest import resting
from semblant.errors import SemblantError
from semblant.training.checkpoint import Store, require_same
from semblant.training.course import Course
from semblant.training.learner import Learner
from semblant.training.lock import held
from semblant.training.progress import Progress
from semblant.training.run import PATIENCE, Interrupted, Run, circumstances
from semblant.training.scale import Scale
from semblant.training.stopping import Settling
from semblant.training.thrift import Thrift

__all__ = ["PATIENCE", "History", "Interrupted", "Progress", "optimise", "peak_memory", "stored_compute"]

logger = logging.getLogger(__name__)


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
    stopped: str = ""
    """Why it stopped before all its steps; empty when it did not."""
    looks: list[float] = field(default_factory=list)
    """Loss on fixed draws, at step 0 and where a rule for stopping looked at it since."""


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
    settling: Settling | None = None,
) -> list[History]:
    """Train learners on a frozen base and say how it went, one history each.

    Those that may share a batch are slices of one batch, the others run in turn. Each has its own seed, generator,
    optimiser and clipping, so that what it learns does not depend on its company (up to rounding). `steps` replaces the
    learners' own counts. The base computes in `compute`, or as it is set.

    `checkpoint` is a folder: every `every` steps, when interrupted and at the end the whole state is written there.
    With `resume` a run goes on from it in the precision it began with, bit for bit on one CPU with a fixed number of
    threads. `fingerprint` (settings, hashes of pictures and base) has to be what it was then. Nobody else may run in
    that folder meanwhile, which .NAME.semblant-lock beside it says.

    An update whose loss or gradient is not finite is left out; after 10 in a row the learner goes back to what it had
    learned where that was last remembered, every `every` steps. When memory runs out, steps are taken in smaller
    pieces, to the same result.

    `settling` lets each learner stop early, by its own loss on draws that stay the same; looking at them changes
    nothing of what is learned. Whoever has stopped is no longer updated, the others go on.

    `stop` is asked before every step. Raises Interrupted when it answers yes or Ctrl-C is pressed; SemblantError when
    going back did not help, or one row does not fit into memory; FileProblem when a checkpoint cannot be written or
    another run holds the folder. What was learned until then is saved, as far as the disk lets it be.
    """
    if not learners or len(seeds) != len(learners):
        raise ValueError(f"every learner needs a seed: {len(learners)} learners, {len(seeds)} seeds")
    if every < 1:
        raise SemblantError(f"a checkpoint every {every} steps cannot be; give 1 or more")
    courses = [
        Course.start(index, learner, seed, steps, settling)
        for index, (learner, seed) in enumerate(zip(learners, seeds, strict=True))
    ]
    store = Store(Path(checkpoint)) if checkpoint is not None else None
    identity = {"given": dict(fingerprint or {}), "learner": {str(c.index): c.identity() for c in courses}}
    with ExitStack() as stack:
        if store is not None:
            stack.enter_context(held(store.lock, store.folder))
            sweep(store.folder)
        dtype = compute or base.compute
        stored = _resume(courses, store, identity) if resume and store is not None else {}
        if stored:
            dtype = getattr(torch, stored["compute"])
        thrift = Thrift.read(stored.get("thrift", {}))
        scale = (
            Scale.read(stored["scale"]) if "scale" in stored else Scale.of(dtype, next(base.unet.parameters()).dtype)
        )
        run = Run(base.computing(dtype), courses, store, identity, every, progress, stop, thrift, scale, bool(stored))
        stack.enter_context(base.learning())
        stack.enter_context(resting(base.autoencoder))
        stack.enter_context(torch.enable_grad())
        run.go()
    peak = peak_memory(base.device)
    return [History(c.losses, dict(c.learner.figures()), c.seconds, peak, c.skipped, c.why, c.looks) for c in courses]


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


def _resume(courses: Sequence[Course], store: Store, identity: Mapping[str, Any]) -> Mapping[str, Any]:
    """Put the courses where the newest checkpoint says; what else it says, nothing when there is none."""
    state = store.read()
    if state is None:
        logger.warning("there is no checkpoint in %s; the run starts at its beginning", store.folder)
        return {}
    require_same(state.fingerprint, identity, store.folder)
    for course in courses:
        course.restore(state.tensors, state.facts["learners"][course.index])
    for name, now in circumstances().items():
        if (then := state.facts["circumstances"].get(name)) != now:
            logger.warning("%s was %s and is %s: the run goes on, but not bit for bit", name, then, now)
    return state.facts
