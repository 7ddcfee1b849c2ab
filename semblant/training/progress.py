"""Where a run of the training loop stands, as it tells whoever listens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from semblant.training.course import Course

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
    losses: tuple[float, ...] = ()
    """Of each of these the mean over its last 50 steps; NaN when none was finite."""
    several: bool = False
    """Whether the run has several learners, at work or not."""

    def figures_of(self, index: int) -> dict[str, float]:
        """The figures of one learner, by the names that it gives them."""
        prefix = _prefix(index, self.several)
        return {name.removeprefix(prefix): v for name, v in self.figures.items() if name.startswith(prefix)}


def standing(step: int, steps: int, seconds_per_step: float, active: Sequence[Course], *, several: bool) -> Progress:
    """What is to be told after a step that the learners `active` took, of a run with `several` or one."""
    recent = [[loss for loss in course.losses[-WINDOW:] if math.isfinite(loss)] for course in active]
    figures: dict[str, float] = {}
    for course in active:
        prefix = _prefix(course.index, several)
        figures |= {prefix + name: value for name, value in course.learner.figures().items()}
    return Progress(
        step,
        steps,
        _mean([loss for own in recent for loss in own]),
        seconds_per_step,
        seconds_per_step * (steps - step),
        figures,
        tuple(course.index for course in active),
        tuple(_mean(own) for own in recent),
        several,
    )


def _prefix(index: int, several: bool) -> str:
    return f"{index} " if several else ""


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
