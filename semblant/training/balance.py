"""How hard two errors pull on the rows of a word, and the weight at which they pull alike.

A weight between two errors means little without knowing how each is summed; the ratio of their gradients does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from semblant.patches.words import Table
from semblant.training.step import forward
from semblant.training.words import WordLearner

logger = logging.getLogger(__name__)

WANTED = (1e-3, 100.0)
"""Outside these a ratio of pulls is warned about: one error drowns the other."""


def pull(error: Float[Tensor, " rows"], table: Table) -> float:
    """Norm of the gradient of an error on the rows that keys read; the graph stays for more."""
    return float(torch.autograd.grad(error.sum(), table, retain_graph=True)[0][:, :, 0].norm())


def balance(
    learner: WordLearner, errors: Callable[..., tuple[Tensor, Tensor]], draws: int, generator: Generator
) -> float:
    """The weight at which the second of two errors pulls as hard as the first.

    `errors(moment, prediction, batch)` gives both per row. The norms are summed over `draws` draws of picture, noise
    and timestep, with key rows one row length away from the class word, each draw in a random direction.
    """
    rows, sums = learner.rows, [0.0, 0.0]
    learner.rows = Displaced(learner.class_row, learner.table.shape)
    for _ in range(draws):
        [given] = forward(learner.base, [learner], [generator])
        sums = [before + pull(error, learner.table) for before, error in zip(sums, errors(*given), strict=True)]
    learner.rows = rows
    return sums[0] / max(sums[1], 1e-12)


def compare(errors: Mapping[str, Float[Tensor, " rows"]], weight: float, table: Table) -> dict[str, float]:
    """Figures of two errors by name: their means, and how hard the second, weighted, pulls in units of the first.

    Warns when that ratio is neither 0 nor within `WANTED`.
    """
    (first, one), (second, other) = errors.items()
    ratio = weight * pull(other, table) / max(pull(one, table), 1e-12)
    if ratio and not WANTED[0] <= ratio <= WANTED[1]:
        logger.warning("on key rows the %s pulls %.2g times as hard as the %s; change its weight", second, ratio, first)
    return {**{name: float(error.detach().mean()) for name, error in errors.items()}, "pull ratio": ratio}


class Displaced(nn.Module):
    """The class word's rows, with keys one row length away in a random direction."""

    def __init__(self, class_row: Float[Tensor, " dim"], shape: Sequence[int]) -> None:
        super().__init__()
        self.class_row, self.shape = class_row, shape

    def forward(self, generator: Generator) -> Table:
        """A table to differentiate by."""
        away = F.normalize(torch.randn(self.class_row.shape, generator=generator).to(self.class_row), dim=0)
        table = self.class_row.expand(self.shape).clone()
        table[:, :, 0] += self.class_row.norm() * away
        return table.requires_grad_()
