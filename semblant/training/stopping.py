"""When a learner has learned enough: the deterministic variance criterion.

The loss of a step says little about progress, since picture, noise, timestep and prompt are drawn anew for it. On draws
that stay the same the loss is a curve, and a run may end where that curve no longer moves (Voronov et al. 2023, arXiv
2302.04841).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pvariance

import torch

from semblant.backbones.base import Base
from semblant.errors import SemblantError, out_of_memory
from semblant.training.learner import Learner
from semblant.training.step import Plain, denoised, draw, passes, score
from semblant.training.thrift import NotEnoughMemory

EVERY = 25
"""Steps between two looks at the fixed draws. The paper looks at every step, which costs a forward pass each time."""
ROWS = 8
"""Fixed draws of picture, noise, timestep and prompt that are looked at, at least."""
APART = 230204841
"""Keeps the fixed draws from being the first ones that a run of the same seed trains on."""


@dataclass(frozen=True)
class Settling:
    """The rule: stop at the first look where Var(looks of the last `window` steps) / Var(all looks) < `ratio`.

    Looks are at steps 0, `every`, 2 `every` ..., the first before anything is learned. It never stops before `window`
    steps. Raises SemblantError for a window of fewer than two looks, whose variance says nothing.
    """

    window: int
    """N in the paper: steps, 2 `every` or more."""
    ratio: float
    """Alpha in the paper; 0 never stops."""
    every: int = EVERY
    rows: int = ROWS

    def __post_init__(self) -> None:
        if self.window < 2 * self.every:
            raise SemblantError(
                f"stop_window is {2 * self.every} steps or more, since the loss is looked at every {self.every} steps; "
                f"got {self.window}"
            )
        if not self.ratio >= 0:
            raise SemblantError(f"stop_ratio is a share of the variance, 0 or more (0 never stops); got {self.ratio}")

    @property
    def earliest(self) -> int:
        """The first step at which it may stop: that of the first look from `window` on."""
        return -(-self.window // self.every) * self.every

    def generator(self, seed: int) -> torch.Generator:
        """What the fixed draws of a run of this seed come from: the same at every look."""
        return torch.Generator().manual_seed(seed ^ APART)

    def share(self, looks: Sequence[float]) -> float | None:
        """How much the loss still moves: the variance over the last `window` steps in units of that over all.

        None before so many steps, and while nothing has moved at all. Looks that are not finite do not count.
        """
        taken = (len(looks) - 1) * self.every
        if taken < self.window:
            return None
        # Steps taken - window + 1 .. taken.
        lately = [loss for k, loss in enumerate(looks) if k * self.every > taken - self.window and math.isfinite(loss)]
        ever = [loss for loss in looks if math.isfinite(loss)]
        if len(lately) < 2 or not (whole := pvariance(ever)):
            return None
        return pvariance(lately) / whole

    def settled(self, looks: Sequence[float]) -> bool:
        """Whether the run may stop at the last look."""
        share = self.share(looks)
        return share is not None and share < self.ratio

    def why(self, looks: Sequence[float]) -> str:
        """Why it stopped there."""
        return (
            f"the loss on {self.rows} fixed draws has settled, the last {self.window} steps holding "
            f"{self.share(looks) or 0:.2g} of its variance (below {self.ratio:g})"
        )


@torch.no_grad()
def look(
    base: Base,
    learner: Learner,
    generator: torch.Generator,
    *,
    rows: int = ROWS,
    most: int | None = None,
    plain: Plain | None = None,
) -> float:
    """A learner's loss on draws from `generator`, `rows` or a few more, without gradients.

    As in training a draw is the rows of one step, of which `most` go through the base at once. Raises NotEnoughMemory
    when a pass does not fit.
    """
    losses: list[float] = []
    seen, largest = 0, 1
    try:
        while seen < rows:
            drawn = draw(base, [learner], [generator], plain=plain)
            of = len(drawn.batches[0].x)
            largest = of if most is None else min(most, of)
            loss = 0.0
            for part in passes(drawn.whole, most):
                [given] = denoised(base, drawn, part)
                loss += float(score(learner, *given, of=of))
            losses.append(loss)
            seen += of
        return fmean(losses)
    except (MemoryError, RuntimeError) as problem:
        if not out_of_memory(problem):
            raise
    # Outside the block, where nothing holds what the failed pass had in memory.
    raise NotEnoughMemory(largest)
